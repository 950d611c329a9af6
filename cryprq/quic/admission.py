"""Who may begin a connection: limits on pending connections, when to ask for Retry, and a token bucket."""

import socket
from enum import Enum, auto
from typing import Final

from cryprq.address import Address
from cryprq.protocol.constants import (
    PENDING_PER_SOURCE,
    RETRY_ABOVE_FRACTION,
    SOURCE_PREFIX_IPV6,
    UNVALIDATED_PER_SOURCE,
)

UNVALIDATED_RATE: Final = 100.0
"""Connections a second, of all sources together, that begin without Retry. Each costs up to 1 ms of TLS, and what
fails at once is never pending; a Retry costs 20 microseconds."""


def source_of(remote: Address) -> bytes:
    """What limits are counted by: the IPv4 address, or the first 64 bits of the IPv6 address (one subscriber)."""
    if remote.is_ipv6:
        return socket.inet_pton(socket.AF_INET6, remote.host)[: SOURCE_PREFIX_IPV6 // 8]
    return socket.inet_pton(socket.AF_INET, remote.host)


class Verdict(Enum):
    """What to do with the first datagram of a connection."""

    ACCEPT = auto()
    RETRY = auto()
    """Answer with a Retry packet and keep nothing (RFC 9000, 8.1.2)."""
    WAIT = auto()
    """Its address is proven, but there is no place now (``cryprq.quic.waiting_line``). No failure of the source."""


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

    def judge(self, source: bytes, *, validated: bool) -> Verdict:
        """For a new connection from a source; ``validated`` if its first datagram carries a good Retry token."""
        if validated:
            return Verdict.ACCEPT if self.has_place(source) else Verdict.WAIT
        unvalidated = self._unvalidated.get(source, 0)
        crowded = self.pending >= self._max_pending * RETRY_ABOVE_FRACTION
        if crowded or unvalidated >= UNVALIDATED_PER_SOURCE or not self.has_place(source):
            return Verdict.RETRY
        return Verdict.ACCEPT

    def has_place(self, source: bytes) -> bool:
        """Whether one more connection of a source may be pending."""
        mine = self._unvalidated.get(source, 0) + self._validated.get(source, 0)
        return self.pending < self._max_pending and mine < PENDING_PER_SOURCE

    def opened(self, source: bytes, *, validated: bool) -> None:
        """A connection that was judged ACCEPT exists now."""
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


class TokenBucket:
    """``rate`` tokens a second, up to ``burst`` saved up. Times are seconds of one monotonic clock."""

    def __init__(self, rate: float, burst: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._updated: float | None = None

    def take(self, now: float) -> bool:
        """Takes one token if there is one."""
        if self.saved(now) < 1:
            return False
        self._tokens -= 1
        return True

    def saved(self, now: float) -> float:
        """How many tokens there are."""
        if self._updated is not None and now > self._updated:
            self._tokens = min(self._burst, self._tokens + (now - self._updated) * self._rate)
        self._updated = now
        return self._tokens
