"""Which CrypRQ this is: the package's version and the commit that it was built from."""

from importlib import import_module
from typing import Final


def _built(name: str) -> str | None:
    try:
        # Written by the build and not by hand, so an unbuilt tree has none.
        return str(getattr(import_module("cryprq._build"), name))
    except (ImportError, AttributeError):
        return None


def _installed() -> str:
    # Costs 1.5 MiB and 20 ms to import, for one line of a file.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("cryprq")
    except PackageNotFoundError:
        return "unknown"


VERSION: Final = _built("VERSION") or _installed()
"""The version of the build, else that of the installed package, or ``unknown``."""
REVISION: Final = _built("GIT_SHA") or "unknown"
"""The git commit of the build, or ``unknown``."""


def describe(program: str) -> str:
    """One line for ``--version``."""
    return f"{program} {VERSION} (build {REVISION})"
