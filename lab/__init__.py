"""The lab: hosts, cables, nodes and traffic that tests, benchmarks, demo and QA share. Nothing here is installed."""

from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
"""The checkout."""
