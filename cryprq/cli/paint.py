"""Colours, where there is somebody to see them: on a terminal, unless NO_COLOR is set (no-color.org)."""

from collections.abc import Callable, Mapping
from typing import Final, TextIO

Paint = Callable[[str, str], str]
"""Gets a kind (``good``, ``bad``, ``faint``) and a text."""

_CODES: Final = {"good": "32", "bad": "1;31", "faint": "2"}


def plain(_: str, text: str) -> str:
    """The text as it is."""
    return text


def coloured(kind: str, text: str) -> str:
    """The text with SGR codes around it (ECMA-48, 8.3.117)."""
    return f"\x1b[{_CODES[kind]}m{text}\x1b[0m"


def paint_for(stream: TextIO, environ: Mapping[str, str]) -> Paint:
    """What suits this stream."""
    wanted = stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
    return coloured if wanted else plain
