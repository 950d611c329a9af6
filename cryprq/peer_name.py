"""Names for peers: which are names, which peer a word means, and which ID somebody may have meant to type."""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from cryprq.peer_id import PeerId

NAME_MAX: Final = 63
"""Characters: that of a label of a host name (RFC 1035, 2.3.4)."""
PREFIX_MIN: Final = 6
"""Characters of an ID that may stand for it: ``Qm`` and four more, if only one known ID begins with them."""
_LABEL: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?", re.ASCII)
_LOOKS_LIKE_ID: Final = re.compile(r"Qm[1-9A-HJ-NP-Za-km-z]{38,50}", re.ASCII)


def peer_name(text: str) -> str:
    """The name that ``text`` spells, in lower case: letters, digits and hyphens, as a label of a host name (RFC 1123).
    ValueError with one line for anything else."""
    if not _LABEL.fullmatch(text):  # before it is in lower case, which some letters of other scripts have in ours
        shown = text if len(text) <= NAME_MAX else text[:NAME_MAX] + "..."
        raise ValueError(
            f"{shown!r} is no name for a peer: 1 to {NAME_MAX} letters, digits and hyphens, with no hyphen at its ends"
        )
    return text.lower()


def similar(text: str, known: Iterable[PeerId]) -> PeerId | None:
    """A known ID that ``text`` differs from by one or two characters, wrong, missing, doubled or swapped."""
    if not _LOOKS_LIKE_ID.fullmatch(text):
        return None
    return next((peer for peer in known if str(peer) != text and _within_two(text, str(peer))), None)


def resolve(text: str, names: Mapping[str, PeerId], known: Iterable[PeerId]) -> PeerId:
    """The peer that is meant by a name, by an ID, or by the beginning of one that nobody else's begins with.

    An ID need not be known. LookupError with one line for a word that means none, or several.
    """
    known = tuple(known)
    if (named := names.get(text.lower())) is not None:
        return named
    if PREFIX_MIN <= len(text) < 46 and text.startswith("Qm"):
        found = [peer for peer in known if str(peer).startswith(text)]
        if len(found) == 1:
            return found[0]
        if found:
            raise LookupError(f"{text} is the beginning of {len(found)} peer IDs; give more of it")
    try:
        return PeerId.parse(text)
    except ValueError as error:
        if (meant := similar(text, known)) is not None:
            raise LookupError(f"{text} is not a peer ID; did you mean {meant}?") from None
        if text.startswith("Qm") and len(text) > 40:
            raise LookupError(str(error)) from None
    shown = text if len(text) <= 64 else text[:61] + "..."
    raise LookupError(f"no peer is called {shown!r}; `cryprq peer list` shows those that there are")


def _within_two(one: str, other: str) -> bool:
    """Whether two changes make one the other: of a character, or of the order of two neighbours."""
    if abs(len(one) - len(other)) > 2:
        return False
    # Two changes touch four of five parts at most. It is quick to see that none is there, and there are many peers.
    size = -(-len(other) // 5)
    if not any(other[at : at + size] in one for at in range(0, len(other), size)):
        return False
    before: list[int] = []
    last = list(range(len(other) + 1))
    for row, ours in enumerate(one, 1):
        line = [row]
        for column, theirs in enumerate(other, 1):
            cost = min(last[column] + 1, line[column - 1] + 1, last[column - 1] + (ours != theirs))
            if row > 1 and column > 1 and ours == other[column - 2] and one[row - 2] == theirs:
                cost = min(cost, before[column - 2] + 1)
            line.append(cost)
        if min(line) > 2:
            return False
        before, last = last, line
    return last[-1] <= 2
