"""Connections that have ended, for as long as packets from their peers may still arrive (RFC 9000, 10.2).

A peer that missed the close, and goes on sending, is told again; its packets open no new connection meanwhile.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence, Set
from typing import TYPE_CHECKING, Any, Final

from cryprq.address import Address
from cryprq.protocol.clock import Monotonic

if TYPE_CHECKING:
    from cryprq.quic.connection import Connection

CLOSING_PERIOD: Final = 3.0
"""For so long a closed connection still answers late packets with its close (RFC 9000, 10.2.1)."""
CLOSING_MAX: Final = 1024
_TICK: Final = 0.001
"""A loop may call a timer so much too early."""


class Closing:
    """What is left of a connection that ended: its IDs, and the packet that says so to a peer that missed it."""

    def __init__(
        self, conn: "Connection", farewell: Sequence[bytes], until: float, transmit: Callable[..., None]
    ) -> None:
        self.cids: Final[Set[bytes]] = conn.cids
        self.until: Final = until
        self._farewell = farewell
        self._remote = conn.remote
        self._local = conn.local
        self._transmit = transmit
        self._received = 0

    def receive(self, remote: Address) -> None:
        """A late packet: repeats the close for the 1st, 2nd, 4th, 8th ... one, and only to where it went before."""
        self._received += 1
        if self._received & (self._received - 1) == 0 and remote == self._remote:
            for datagram in self._farewell:
                self._transmit(datagram, self._remote, self._local)


class ClosingTable:
    """The connections that ended lately, oldest first, at most ``CLOSING_MAX``."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], Monotonic],
        by_cid: dict[bytes, Any],
        transmit: Callable[..., None],
    ) -> None:
        """``by_cid`` is where datagrams are looked up; ``transmit(data, remote, local)`` sends one."""
        self._loop = loop
        self._clock = clock
        self._by_cid = by_cid
        self._transmit = transmit
        self._entries: deque[Closing] = deque()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, conn: "Connection", farewell: Sequence[bytes], now: float) -> None:
        """Takes over the IDs of a connection that ended. ``farewell``: the datagrams of its close, none if its peer
        has closed it."""
        while self._entries and (self._entries[0].until <= now or len(self._entries) >= CLOSING_MAX):
            self._forget()
        if not self._entries:
            self._loop.call_later(CLOSING_PERIOD + _TICK, self._expire)
        entry = Closing(conn, farewell, now + CLOSING_PERIOD, self._transmit)
        self._entries.append(entry)
        for cid in entry.cids:
            self._by_cid[cid] = entry

    def clear(self) -> None:
        """Forgets all."""
        while self._entries:
            self._forget()

    def _forget(self) -> None:
        entry = self._entries.popleft()
        for cid in entry.cids:
            if self._by_cid.get(cid) is entry:
                del self._by_cid[cid]

    def _expire(self) -> None:
        now = self._clock()
        while self._entries and self._entries[0].until <= now + _TICK:
            self._forget()
        if self._entries:
            self._loop.call_later(self._entries[0].until - now + _TICK, self._expire)
