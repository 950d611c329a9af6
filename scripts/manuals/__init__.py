"""Man pages and shell completions, out of the parsers of both programs (``scripts/make_manuals.py``)."""
