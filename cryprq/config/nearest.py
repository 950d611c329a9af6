"""Which of the known words somebody may have meant. Better none than one that only looks a little like it."""

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Final

_CUTOFF: Final = 0.75
"""Of difflib's ratio: a slip in a word of five letters has 0.8, ``start`` and ``status`` 0.73."""
_PREFIX_MIN: Final = 2
_OTHER_WORDS: Final[Mapping[str, tuple[str, ...]]] = {
    "start": ("up",),
    "connect": ("up", "join"),
    "stop": ("down",),
    "disconnect": ("down",),
    "delete": ("remove",),
    "rm": ("remove",),
    "del": ("remove",),
    "ls": ("list",),
    "peers": ("peer",),
    "check": ("doctor",),
    "diagnose": ("doctor",),
    "log": ("events",),
    "logs": ("events",),
}
"""What other programs call it."""


def nearest(word: str, known: Iterable[str]) -> str | None:
    """The one that is meant, in all likelihood; None: none is near."""
    names = list(known)
    told = next((name for name in _OTHER_WORDS.get(word.lower(), ()) if name in names), None)
    if told is not None:
        return told
    plain = {name.lower().replace("_", "-"): name for name in names}
    given = word.lower().replace("_", "-")
    begun = [name for form, name in plain.items() if form.startswith(given) or given.startswith(form)]
    if len(begun) == 1 and min(len(given), len(begun[0])) >= _PREFIX_MIN:
        return begun[0]
    found = get_close_matches(given, plain, n=1, cutoff=_CUTOFF)
    return plain[found[0]] if found else None
