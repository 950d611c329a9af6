"""The documentation site (``scripts/make_docs.py``): the pages of the repository, and a reference that is generated."""
