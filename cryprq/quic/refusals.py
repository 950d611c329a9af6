"""Who was refused although it proved its identity, since it is not on the allowlist: whom that is charged to.

Many hosts may share one address, behind a NAT. That one of them is not listed, and says so over and over, must not keep
the listed ones out. So a refusal is charged to the source and the identity together: an identity that lets the waits
pass which a dialer keeps by itself costs its source nothing. One that does not is a failure of the source, and so is
each new identity beyond a few: they are cheap to make, and must not be a way around the source's limits.
"""

from collections import OrderedDict
from typing import Final

from cryprq.protocol.clock import Monotonic
from cryprq.quic.backoff import BACKOFF_TABLE_MAX, Backoff

IDENTITIES_PER_SOURCE: Final = 16
"""Refused identities of one source that may each keep waits of their own."""
REFUSED_SOURCES_MAX: Final = BACKOFF_TABLE_MAX // IDENTITIES_PER_SOURCE
"""Sources with refused identities that are remembered; the one that was refused least recently is forgotten first."""
_FREE_REFUSALS: Final = 1
_LENIENCE: Final = 2
"""The longest wait is this part of ``max_ms``: a dialer's own may be a quarter shorter than that."""


class Refusals:
    """Refusals by source (``admission.source_of``) and identity (the digest of a peer ID whose signatures verified)."""

    def __init__(self, base_ms: int, max_ms: int) -> None:
        self._base_ms = base_ms
        self._max_ms = max(base_ms, max_ms // _LENIENCE)
        self._by_source: OrderedDict[bytes, Backoff] = OrderedDict()  # least recent refusal first

    def __len__(self) -> int:
        return sum(map(len, self._by_source.values()))

    def refused(self, source: bytes, identity: bytes, now: Monotonic) -> bool:
        """Counts a refusal. False: it is a failure of the source, since it came too soon or from one too many."""
        mine = self._by_source.get(source)
        if mine is None:
            if len(self._by_source) >= REFUSED_SOURCES_MAX:
                self._by_source.popitem(last=False)
            mine = self._by_source[source] = Backoff(
                self._base_ms, self._max_ms, free_failures=_FREE_REFUSALS, size=IDENTITIES_PER_SOURCE
            )
        self._by_source.move_to_end(source)
        if not mine.has_room_for(identity, now):
            return False
        patient = not mine.remaining(identity, now)
        mine.failed(identity, now)
        return patient
