"""Connections that have ended, for as long as packets from their peers may still arrive (RFC 9000, 10.2).

A peer that missed the close, and goes on sending, is told again; its packets open no new connection meanwhile.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Final

from cryprq.address import Address, Local
from cryprq.protocol.clock import Monotonic

CLOSING_PERIOD: Final = 3.0
"""For so long a closed connection still answers late packets with its close (RFC 9000, 10.2.1)."""
CLOSING_MAX: Final = 1024
_TICK: Final = 0.001
"""A loop may call a timer so much too early."""

Transmit = Callable[[bytes, Address, Local], object]


class _Closed:
    """What is left of a connection that ended: its IDs, and the packets that say so to a peer that missed it."""

    def __init__(
        self, cids: Collection[bytes], remote: Address, local: Local, farewell: Sequence[bytes], until: Monotonic
    ) -> None:
        self.cids: Final = tuple(cids)
        self.until: Final = until
        self._remote = remote
        self._local = local
        self._farewell = farewell
        self._received = 0

    def receive(self, remote: Address, transmit: Transmit) -> None:
        """A late packet: repeats the close for the 1st, 2nd, 4th, 8th ... one, and only to where it went before."""
        self._received += 1
        if self._received & (self._received - 1) == 0 and remote == self._remote:
            for datagram in self._farewell:
                transmit(datagram, self._remote, self._local)


class ClosedTable:
    """The connections that ended lately, oldest first, at most ``CLOSING_MAX``."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Callable[[], Monotonic], transmit: Transmit) -> None:
        """``transmit(data, remote, local)`` sends a datagram."""
        self._loop = loop
        self._clock = clock
        self._transmit = transmit
        self._entries: deque[_Closed] = deque()
        self._by_cid: dict[bytes, _Closed] = {}
        self._timer: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._entries)

    def add(
        self, cids: Collection[bytes], remote: Address, local: Local, farewell: Sequence[bytes], now: Monotonic
    ) -> None:
        """Takes over the IDs of a connection that ended, with the addresses of both ends. ``farewell``: the datagrams
        of its close, none if its peer has closed it."""
        while self._entries and (self._entries[0].until <= now or len(self._entries) >= CLOSING_MAX):
            self._forget()
        if self._timer is None:
            self._timer = self._loop.call_later(CLOSING_PERIOD + _TICK, self._expire)
        entry = _Closed(cids, remote, local, farewell, Monotonic(now + CLOSING_PERIOD))
        self._entries.append(entry)
        for cid in entry.cids:
            self._by_cid[cid] = entry

    def receive(self, cid: bytes, remote: Address) -> bool:
        """A datagram with that destination connection ID came. False if it belongs to no connection in here."""
        entry = self._by_cid.get(cid)
        if entry is None:
            return False
        entry.receive(remote, self._transmit)
        return True

    def clear(self) -> None:
        """Forgets all."""
        while self._entries:
            self._forget()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _forget(self) -> None:
        entry = self._entries.popleft()
        for cid in entry.cids:
            if self._by_cid.get(cid) is entry:
                del self._by_cid[cid]

    def _expire(self) -> None:
        now = self._clock()
        while self._entries and self._entries[0].until <= now + _TICK:
            self._forget()
        more = bool(self._entries)
        self._timer = self._loop.call_later(self._entries[0].until - now + _TICK, self._expire) if more else None
