"""Whom a word in the configuration means: names stand for IDs, and a slip of the finger is named."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from cryprq.config.nearest import nearest
from cryprq.config.options import Given
from cryprq.errors import ConfigError
from cryprq.peer_id import PeerId
from cryprq.peer_name import similar

_FIRST: Final = re.compile(r"\A[^=]*")
_SECOND: Final = re.compile(r"(?<==).*\Z", re.DOTALL)
_BOTH: Final = re.compile(r"[^=]+")
_LAST: Final = re.compile(r"(?<=/p2p/)[^/]*\Z")
_PLACES: Final[Mapping[str, re.Pattern[str]]] = {
    "peer-name": _SECOND,
    "peer": _LAST,
    "allow-peer": _FIRST,
    "psk-file": _FIRST,
    "successor": _BOTH,
    "peer-groups": _FIRST,
    "peer-expires": _FIRST,
    "disable-peer": _FIRST,
}
"""Where a peer stands in the text of an option."""
_SEGMENTS: Final = ((2, 17), (17, 32), (32, 46))
"""Of an ID behind its ``Qm``: two slips leave at least one of three as it was, two places from there at most."""
_SHIFTS: Final = range(-2, 3)


class Words:
    """The names and IDs that the sources have, of all of them together."""

    def __init__(self, sources: Iterable[Mapping[str, Sequence[Given]]]) -> None:
        """The strongest first."""
        self._names: dict[str, str] = {}
        self._known: set[PeerId] = set()
        for given in sources:
            for name, peer in _names(given.get("peer-name", ())):
                self._names.setdefault(name, peer)
            for about in given:
                parsed = map(_peer, _words(about, given[about]))
                self._known.update(peer_id for peer_id in parsed if peer_id is not None)

    def resolved(self, given: Mapping[str, Sequence[Given]]) -> dict[str, Sequence[Given]]:
        """The same with IDs in the place of names. ConfigError, with the source, for a word that is none of either and
        is much like one; what else is wrong the options find."""
        return {about: [self._resolved(about, each) for each in sources] for about, sources in given.items()}

    def _resolved(self, about: str, given: Given) -> Given:
        place = _PLACES.get(about)
        if place is None:
            return given

        names = {} if about == "peer-name" else self._names  # that is where they come from

        def meant(found: re.Match[str]) -> str:
            return self._meant(given.source, found[0].strip(), names)

        return replace(given, texts=tuple(place.sub(meant, text) for text in given.texts))

    def _meant(self, source: str, word: str, names: Mapping[str, str]) -> str:
        if not word or _peer(word) is not None:
            return word
        if (peer := names.get(word.lower())) is not None:
            return peer
        if (near := similar(word, sorted(self._known))) is not None:
            raise ConfigError(f"{source}: {word} is not a peer ID; did you mean {near}?")
        if names and len(word) < len(str(PeerId(bytes(32)))) - 2:
            like = nearest(word, names)
            hint = "" if like is None else f"; did you mean {like}?"
            raise ConfigError(f"{source}: no peer is called {word!r}{hint}")
        return word


def _words(about: str, sources: Sequence[Given]) -> Iterator[str]:
    if (place := _PLACES.get(about)) is not None:
        for text in (text for each in sources for text in each.texts):
            yield from (found[0].strip() for found in place.finditer(text))


def _peer(word: str) -> PeerId | None:
    try:
        return PeerId.parse(word)
    except ValueError:
        return None


def _names(sources: Sequence[Given]) -> Iterator[tuple[str, str]]:
    for text in (text for each in sources for text in each.texts):
        name, _, peer = text.partition("=")
        if _peer(peer.strip()) is not None:
            yield name.strip().lower(), peer.strip()


def look_alikes(peers: Iterable[PeerId]) -> Iterator[tuple[PeerId, PeerId]]:
    """Pairs of IDs that differ by a character or two, wrong, missing, doubled or swapped: one of them may be the other,
    mistyped. Quick for thousands."""
    seen: dict[tuple[int, str], list[PeerId]] = {}
    for peer in peers:
        text = str(peer)
        candidates = {
            other: None
            for start, end in _SEGMENTS
            for shift in _SHIFTS
            for other in seen.get((start, text[max(0, start + shift) : end + shift]), ())
        }
        if (other := similar(text, candidates)) is not None:
            yield other, peer
        for start, end in _SEGMENTS:
            seen.setdefault((start, text[start:end]), []).append(peer)
