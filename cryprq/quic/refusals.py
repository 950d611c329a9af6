"""Who was refused although it proved its identity, since it is not on the allowlist: whom that is charged to.

Many hosts may share one address, behind a NAT. That one of them is not listed, and says so over and over, must not keep
the listed ones out. So a refusal is charged to the source and the identity together: an identity that lets the waits
pass which a dialer keeps by itself costs nobody anything. One that does not is not listened to at the port that it
comes from, which a NAT gives to no other host meanwhile. Only what is more than a few identities, or a few ports, is a
failure of the source: both are cheap to have, and must not be a way around its limits.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from cryprq.address import Address
from cryprq.protocol.clock import Monotonic
from cryprq.quic.admission import source_of
from cryprq.quic.backoff import BACKOFF_TABLE_MAX, Backoff

IDENTITIES_PER_SOURCE: Final = 16
"""Refused identities of one source that may each keep waits of their own, and ports."""
REFUSED_SOURCES_MAX: Final = BACKOFF_TABLE_MAX // IDENTITIES_PER_SOURCE
"""Sources with refused identities that are remembered; the one that was refused least recently is forgotten first."""
_FREE_REFUSALS: Final = 1
_LENIENCE: Final = 2
"""The longest wait is this part of ``max_ms``: a dialer's own may be a quarter shorter than that."""


@dataclass(frozen=True, slots=True)
class _Source:
    identities: Backoff
    ports: Backoff


class Refusals:
    """Refusals by source (``admission.source_of``), identity (the digest of a peer ID whose signatures verified) and
    port."""

    def __init__(self, base_ms: int, max_ms: int) -> None:
        self._base_ms = base_ms
        self._max_ms = max_ms
        self._by_source: OrderedDict[bytes, _Source] = OrderedDict()  # least recent refusal first

    def __len__(self) -> int:
        return sum(len(mine.identities) for mine in self._by_source.values())

    def refused(self, remote: Address, identity: bytes, now: Monotonic) -> float | None:
        """Counts a refusal, and returns for how many seconds that address and port is not listened to: 0 unless the
        identity came too soon. None: it is a failure of the source, with one identity or one port too many."""
        mine = self._remember(source_of(remote))
        if not mine.identities.has_room_for(identity, now):
            return None
        patient = not mine.identities.remaining(identity, now)
        mine.identities.failed(identity, now)
        if patient:
            return 0.0
        port = _port(remote)
        return mine.ports.failed(port, now) if mine.ports.has_room_for(port, now) else None

    def remaining(self, source: bytes, remote: Address, now: Monotonic) -> float:
        """Seconds for which that address and port, of that source, is still not listened to."""
        mine = self._by_source.get(source)
        return 0.0 if mine is None else mine.ports.remaining(_port(remote), now)

    def _remember(self, source: bytes) -> _Source:
        mine = self._by_source.get(source)
        if mine is None:
            if len(self._by_source) >= REFUSED_SOURCES_MAX:
                self._by_source.popitem(last=False)
            size, lenient = IDENTITIES_PER_SOURCE, max(self._base_ms, self._max_ms // _LENIENCE)
            mine = self._by_source[source] = _Source(
                Backoff(self._base_ms, lenient, free_failures=_FREE_REFUSALS, size=size),
                Backoff(self._base_ms, self._max_ms, free_failures=0, size=size),
            )
        self._by_source.move_to_end(source)
        return mine


def _port(remote: Address) -> bytes:
    return f"{remote.host} {remote.port}".encode()
