"""How many connections may be pending, of all sources and of one, and who has to prove its address first."""

import socket
from collections import Counter
from enum import IntEnum
from typing import Final

from cryprq.address import Address

PENDING_PER_SOURCE: Final = 8
"""Connections before M3 of one source (an IPv4 /32 or an IPv6 /64)."""
PENDING_PER_SITE: Final = 16
"""Likewise of one site (an IPv6 /48): two sources' worth, since many subscribers may share one."""
UNVALIDATED_PER_SOURCE: Final = 2
"""A source's next unvalidated connection beyond these is answered with Retry."""
RETRY_ABOVE_FRACTION: Final = 0.5
"""From this share of --max-inbound on every new connection is answered with Retry."""
SHARE_DIVISOR: Final = 8
"""One in so many places is for strangers, who get no others, and as many are kept for peers that this node knows."""
SOURCE_PREFIX_IPV6: Final = 64
"""What one subscriber has: a source of IPv6 is a network of this length."""
SITE_PREFIX_IPV6: Final = 48
"""What one subscriber may have at most (RFC 6177), so that another source costs it nothing."""


class Rank(IntEnum):
    """What the first datagram of a connection says of its dialer, without having cost anything."""

    STRANGER = 0
    """No knock, or none that is good: an older node, one whose clock is wrong, or nobody who has business here."""
    KNOCKED = 1
    """It knows this listener's peer ID."""
    KNOWN = 2
    """It has a token that this listener gave to a peer."""


def source_of(remote: Address) -> bytes:
    """What limits are counted by: the IPv4 address, or the first 64 bits of the IPv6 address (one subscriber)."""
    if remote.is_ipv6:
        return socket.inet_pton(socket.AF_INET6, remote.host)[: SOURCE_PREFIX_IPV6 // 8]
    return socket.inet_pton(socket.AF_INET, remote.host)


def site_of(source: bytes) -> bytes | None:
    """What sources of IPv6 are counted by together: their first 48 bits. None for one of IPv4."""
    return source[: SITE_PREFIX_IPV6 // 8] if len(source) == SOURCE_PREFIX_IPV6 // 8 else None


class Admission:
    """Counts pending connections: those whose dialer has not authenticated itself yet.

    A connection is unvalidated until its address is proven (a Retry token, or a completed QUIC handshake). Spoofed
    addresses can fill at most half of ``max_pending``; beyond that, everyone has to prove theirs first. Strangers have
    an eighth of the places, and an eighth is kept for peers that are known, who are counted by no source: what others
    do at theirs is not to keep them out.
    """

    def __init__(self, max_pending: int) -> None:
        self._max_pending = max_pending
        self._share = max_pending // SHARE_DIVISOR
        self._by_rank: Counter[Rank] = Counter()
        self._unvalidated: Counter[bytes] = Counter()
        self._validated: Counter[bytes] = Counter()
        self._sites: Counter[bytes] = Counter()

    @property
    def pending(self) -> int:
        """Pending connections, never more than ``max_pending``."""
        return self._by_rank.total()

    def is_full(self, rank: Rank) -> bool:
        """Whether every place for that rank is taken, whoever asks."""
        pending = self.pending
        if rank is Rank.KNOWN or pending >= self._max_pending:
            return pending >= self._max_pending
        if rank is Rank.STRANGER and self._by_rank[rank] >= max(1, self._share):
            return True
        return pending - self._by_rank[Rank.KNOWN] >= self._max_pending - self._share

    def asks_for_proof(self, source: bytes) -> bool:
        """Whether a connection of a source that has knocked may begin only once its address is proven."""
        crowded = self.pending >= self._max_pending * RETRY_ABOVE_FRACTION
        unvalidated = self._unvalidated[source]
        return crowded or unvalidated >= UNVALIDATED_PER_SOURCE or not self.has_place(source, Rank.KNOCKED)

    def has_place(self, source: bytes, rank: Rank) -> bool:
        """Whether one more connection of a source may be pending."""
        if self.is_full(rank):
            return False
        if rank is Rank.KNOWN:
            return True
        site = site_of(source)
        mine = self._unvalidated[source] + self._validated[source]
        return mine < PENDING_PER_SOURCE and (site is None or self._sites[site] < PENDING_PER_SITE)

    def opened(self, source: bytes, rank: Rank, *, validated: bool) -> None:
        """A connection begins; there was a place for it."""
        self._count(source, rank, validated, 1)

    def became_validated(self, source: bytes, rank: Rank) -> None:
        """An unvalidated pending connection of the source completed its QUIC handshake."""
        self._count(source, rank, False, -1)
        self._count(source, rank, True, 1)

    def ended(self, source: bytes, rank: Rank, *, validated: bool) -> None:
        """A pending connection authenticated itself or closed."""
        self._count(source, rank, validated, -1)

    @property
    def sources(self) -> int:
        """Sources that are counted at present."""
        return len(self._unvalidated) + len(self._validated)

    def _count(self, source: bytes, rank: Rank, validated: bool, difference: int) -> None:
        self._by_rank[rank] += difference
        if rank is Rank.KNOWN:
            return
        _add(self._validated if validated else self._unvalidated, source, difference)
        if (site := site_of(source)) is not None:
            _add(self._sites, site, difference)


def _add(counts: Counter[bytes], source: bytes, difference: int) -> None:
    counts[source] += difference
    if not counts[source]:
        del counts[source]
