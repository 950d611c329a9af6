"""The line of those who may begin a connection as soon as there is a place for it.

Without it, whoever comes while every place is taken would try again when its retransmission timer says so, by which
time places have been empty for long: hundreds of dialers, after a restart of their gateway, would spend most of the
time waiting for each other's timers. Only dialers whose address is proven get in line.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from aioquic.quic.packet import QuicHeader

from cryprq.address import Address, Local
from cryprq.protocol.clock import Monotonic
from cryprq.quic.admission import Rank, source_of
from cryprq.quic.peer_tokens import PeerToken

WAITING_MAX: Final = 1024
"""Of all sources together; a first datagram each, so a little more than 1 MiB."""
WAITING_LIFETIME: Final = 2.0
"""Seconds since the dialer last sent something for it; it has given up if it lets more pass (RFC 9002, 6.2: its timer
doubles from 0.2 s, and it dials for 3 or 5 s)."""
_OLDER_MAX: Final = 8


@dataclass(frozen=True)
class Beginning:
    """A first datagram that was judged good."""

    data: bytes
    header: QuicHeader
    original: bytes
    """The connection ID that the dialer chose first, before it was asked to prove its address."""
    remote: Address
    local: Local
    at: Monotonic
    """When it came."""
    rank: Rank
    validated: bool
    """Its dialer has proven its address with a Retry token."""
    token: PeerToken | None = None
    """By which it is KNOWN."""

    @property
    def source(self) -> bytes:
        """What the limits count it by."""
        return source_of(self.remote)


class _Place:
    """What one dialer, that is one address and port, waits with: the newest of its attempts."""

    def __init__(self, beginning: Beginning) -> None:
        self.newest = beginning
        self._older: set[bytes] = set()

    def update(self, beginning: Beginning) -> None:
        """The dialer sent more. A node whose attempt is not answered soon begins another one beside it; what it still
        sends for those before is of no use to either side."""
        cid, newest = beginning.header.destination_cid, self.newest.header.destination_cid
        if cid in self._older:
            return
        if cid != newest:
            if len(self._older) >= _OLDER_MAX:
                self._older.clear()
            self._older.add(newest)
        # Of the same attempt also the last: it may say that the dialer gave up, which costs far less than a TLS
        # handshake that nobody waits for.
        self.newest = beginning


class WaitingLine:
    """Beginnings by source (``admission.source_of``), which are served in turn, one of each.

    When the line is full, the source with the most in it loses its last: however many a few sources send, the others
    get in.
    """

    def __init__(self, size: int = WAITING_MAX, lifetime: float = WAITING_LIFETIME) -> None:
        self._size = size
        self._lifetime = lifetime
        self._by_source: OrderedDict[bytes, OrderedDict[Address, _Place]] = OrderedDict()  # whose turn it is, first
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, source: bytes, beginning: Beginning) -> bool:
        """Puts it last among those of its source, or in the place that its dialer has. False if somebody had to
        leave."""
        mine = self._by_source.setdefault(source, OrderedDict())
        place = mine.get(beginning.remote)
        if place is not None:
            place.update(beginning)
            return True
        mine[beginning.remote] = _Place(beginning)
        self._length += 1
        if self._length <= self._size:
            return True
        fullest = max(self._by_source, key=lambda other: len(self._by_source[other]))
        self._by_source[fullest].popitem()
        self._left(fullest)
        return False

    def take(self, now: Monotonic, admissible: Callable[[bytes], bool]) -> Beginning | None:
        """Removes and returns the next one whose source is admissible; None if there is none."""
        for source in tuple(self._by_source):
            if not admissible(source):
                continue
            while mine := self._by_source.get(source):
                _, place = mine.popitem(last=False)
                self._left(source)
                if now - place.newest.at <= self._lifetime:
                    if source in self._by_source:
                        self._by_source.move_to_end(source)
                    return place.newest
        return None

    def has(self, source: bytes) -> bool:
        """Whether one of the source is in line."""
        return source in self._by_source

    def clear(self) -> None:
        """Everybody leaves."""
        self._by_source.clear()
        self._length = 0

    def _left(self, source: bytes) -> None:
        """One of the source is gone."""
        self._length -= 1
        if not self._by_source[source]:
            del self._by_source[source]
