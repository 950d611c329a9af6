"""The tests: see the folders."""
