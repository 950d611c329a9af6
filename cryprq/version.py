"""Which CrypRQ this is: the package's version and the commit that it was built from."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as _metadata_version
from typing import Final


def _revision() -> str:
    try:
        # Written by the build and not by hand, so an unbuilt tree has none.
        revision = import_module("cryprq._build").GIT_SHA
    except (ImportError, AttributeError):
        return "unknown"
    return str(revision)


def _version() -> str:
    try:
        return _metadata_version("cryprq")
    except PackageNotFoundError:
        return "unknown"


VERSION: Final = _version()
"""The version in the installed package's metadata, or ``unknown`` where the package is not installed."""
REVISION: Final = _revision()
"""The git commit of the build, or ``unknown``."""


def describe(program: str) -> str:
    """One line for ``--version``."""
    return f"{program} {VERSION} (build {REVISION})"
