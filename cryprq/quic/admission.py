"""How many connections may be pending, of all sources and of one, and who has to prove its address first."""

import socket
from typing import Final

from cryprq.address import Address

PENDING_PER_SOURCE: Final = 8
"""Connections before M3 of one source (an IPv4 /32 or an IPv6 /64)."""
UNVALIDATED_PER_SOURCE: Final = 2
"""A source's next unvalidated connection beyond these is answered with Retry."""
RETRY_ABOVE_FRACTION: Final = 0.5
"""From this share of --max-inbound on every new connection is answered with Retry."""
SOURCE_PREFIX_IPV6: Final = 64
"""What one subscriber has: a source of IPv6 is a network of this length."""


def source_of(remote: Address) -> bytes:
    """What limits are counted by: the IPv4 address, or the first 64 bits of the IPv6 address (one subscriber)."""
    if remote.is_ipv6:
        return socket.inet_pton(socket.AF_INET6, remote.host)[: SOURCE_PREFIX_IPV6 // 8]
    return socket.inet_pton(socket.AF_INET, remote.host)


class Admission:
    """Counts pending connections: those whose dialer has not authenticated itself yet.

    A connection is unvalidated until its address is proven (a Retry token, or a completed QUIC handshake). Spoofed
    addresses can fill at most half of ``max_pending``; beyond that, everyone has to prove theirs first.
    """

    def __init__(self, max_pending: int) -> None:
        self._max_pending = max_pending
        self._unvalidated: dict[bytes, int] = {}
        self._validated: dict[bytes, int] = {}
        self.pending = 0
        """Pending connections, never more than ``max_pending``."""

    def asks_for_proof(self, source: bytes) -> bool:
        """Whether a connection of a source may begin only once its address is proven."""
        crowded = self.pending >= self._max_pending * RETRY_ABOVE_FRACTION
        unvalidated = self._unvalidated.get(source, 0)
        return crowded or unvalidated >= UNVALIDATED_PER_SOURCE or not self.has_place(source)

    def has_place(self, source: bytes) -> bool:
        """Whether one more connection of a source may be pending."""
        mine = self._unvalidated.get(source, 0) + self._validated.get(source, 0)
        return self.pending < self._max_pending and mine < PENDING_PER_SOURCE

    def opened(self, source: bytes, *, validated: bool) -> None:
        """A connection begins; there was a place for it."""
        self.pending += 1
        self._add(self._validated if validated else self._unvalidated, source, 1)

    def became_validated(self, source: bytes) -> None:
        """An unvalidated pending connection of the source completed its QUIC handshake."""
        self._add(self._unvalidated, source, -1)
        self._add(self._validated, source, 1)

    def ended(self, source: bytes, *, validated: bool) -> None:
        """A pending connection authenticated itself or closed."""
        self.pending -= 1
        self._add(self._validated if validated else self._unvalidated, source, -1)

    @property
    def sources(self) -> int:
        """Sources that are counted at present."""
        return len(self._unvalidated) + len(self._validated)

    @staticmethod
    def _add(counts: dict[bytes, int], source: bytes, difference: int) -> None:
        count = counts.get(source, 0) + difference
        if count:
            counts[source] = count
        else:
            del counts[source]
