"""Everything between a commit and a release folder."""
