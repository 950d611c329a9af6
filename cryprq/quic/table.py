"""The connections of an endpoint: whose a datagram is, who has something to send, and whose timer is due.

A fault in one of them, ours or aioquic's, ends that one only. Those that ended lately are in ``cryprq.quic.closed``.
"""

import asyncio
import heapq
import itertools
from collections.abc import Callable, Iterator
from typing import Final

from cryprq.address import Address, Local
from cryprq.protocol.clock import Monotonic
from cryprq.quic.closed import ClosedTable
from cryprq.quic.connection import Connection
from cryprq.quic.outlet import Outlet
from cryprq.quic.qlog import Qlog

_TICK: Final = 0.001
"""A loop may call a timer so much too early."""
_STALE_SHARE: Final = 2
"""Timers are sorted anew when no more than one entry in so many counts: a stale one keeps a connection in memory."""
_STALE_MIN: Final = 64


class ConnectionTable:
    """Live connections, and what is left of closed ones, on an event loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], Monotonic],
        outlet: Outlet,
        fault: Callable[[Exception, Connection | None], None],
        qlog: Qlog | None,
    ) -> None:
        """``fault`` is told of exceptions that should not have been."""
        self._loop = loop
        self._clock = clock
        self._outlet = outlet
        self._fault = fault
        self._qlog = qlog
        self._by_cid: dict[bytes, Connection] = {}
        self._live: dict[Connection, Monotonic | None] = {}
        """And for when each is armed."""
        self._timers: list[tuple[Monotonic, int, Connection]] = []
        """A heap; what does not say what ``_live`` says is stale."""
        self._order = itertools.count()
        self._alarm: tuple[Monotonic, asyncio.TimerHandle] | None = None
        self._closed = ClosedTable(loop, clock, outlet.transmit)
        self._touched: dict[Connection, None] = {}
        self._flush_handle: asyncio.Handle | None = None
        self._running = True

    def __len__(self) -> int:
        return len(self._live)

    def __iter__(self) -> Iterator[Connection]:
        return iter(tuple(self._live))

    def add(self, conn: Connection) -> None:
        """A connection begins."""
        self._live[conn] = None

    def stop(self) -> None:
        """Sends what is to be sent, and then nothing more. Who is still here is not told."""
        self.flush()
        self._running = False
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        if self._alarm is not None:
            self._alarm[1].cancel()
        self._timers.clear()
        self._closed.clear()
        self._by_cid.clear()

    def drop(self, conn: Connection) -> None:
        """Forgets a connection without a word to its peer: nothing sensible can be sent."""
        if conn not in self._live:
            return
        self._forget(conn)
        try:
            conn.vanish()
        except Exception as error:
            self._fault(error, conn)

    def _forget(self, conn: Connection) -> None:
        del self._live[conn]
        for cid in conn.cids:
            self._by_cid.pop(cid, None)

    # ---- datagrams in ----

    def add_cid(self, cid: bytes, conn: Connection) -> None:
        """Datagrams with that destination connection ID are for it."""
        self._by_cid[cid] = conn
        conn.cids.add(cid)

    def remove_cid(self, cid: bytes, conn: Connection) -> None:
        """They are not, any more."""
        if self._by_cid.get(cid) is conn:
            del self._by_cid[cid]
        conn.cids.discard(cid)

    def receive(self, cid: bytes, data: bytes, remote: Address, local: Local, now: Monotonic) -> bool:
        """A datagram with that destination connection ID came. False if it belongs to no connection in here."""
        conn = self._by_cid.get(cid)
        if conn is None:
            return self._closed.receive(cid, remote)
        try:
            conn.receive(data, remote, local, now)
        except Exception as error:
            self._fault(error, conn)
            self.drop(conn)
        return True

    # ---- datagrams out ----

    def touch(self, conn: Connection) -> None:
        """The connection has something to send, or a timer to arm: it is flushed soon."""
        self._touched[conn] = None
        self.flush_soon()

    def flush_soon(self) -> None:
        """Flushes before the loop waits for something."""
        if self._touched and self._flush_handle is None and self._running:
            self._flush_handle = self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_handle = None
        self.flush()

    def flush(self) -> None:
        """Sends what connections have to send, and lets those go that have ended."""
        while self._touched:
            touched, self._touched = self._touched, {}
            for conn in touched:
                if conn not in self._live:
                    continue
                try:
                    self._flush_one(conn)
                except Exception as error:
                    self._fault(error, conn)
                    self.drop(conn)
        if self._qlog is not None:
            self._qlog.flush()

    def _flush_one(self, conn: Connection) -> None:
        now = self._clock()
        datagrams = conn.quic.datagrams_to_send(now)
        self._outlet.transmit_all(datagrams, conn)
        conn.process_events(now)
        ending = conn.quic.ending
        if ending is None:
            self._arm(conn)
            return
        event, by_peer = ending
        self._forget(conn)
        farewell = [] if by_peer else [data for data, _ in datagrams]
        self._closed.add(conn.cids, conn.remote, conn.local, farewell, now)
        conn.finish(event, by_peer)

    # ---- timers: one of the loop's for all, since thousands of connections do nothing most of the time ----

    def _arm(self, conn: Connection) -> None:
        due = conn.timer_at()
        if due is None:
            return
        armed = self._live[conn]
        if armed is not None and armed <= due:
            return  # a timer that fires too early costs less than one that is set anew for every datagram
        self._live[conn] = due
        heapq.heappush(self._timers, (due, next(self._order), conn))
        if len(self._timers) > max(_STALE_MIN, _STALE_SHARE * len(self._live)):
            self._timers = [(at, next(self._order), conn) for conn, at in self._live.items() if at is not None]
            heapq.heapify(self._timers)
        self._set_alarm()

    def _set_alarm(self) -> None:
        if not self._timers or not self._running:
            return
        due = self._timers[0][0]
        if self._alarm is not None:
            if self._alarm[0] <= due:
                return
            self._alarm[1].cancel()
        self._alarm = due, self._loop.call_later(max(0.0, due - self._clock()), self._ring)

    def _ring(self) -> None:
        self._alarm = None
        until = self._clock() + _TICK
        rung = []
        while self._timers and self._timers[0][0] <= until:
            rung.append(heapq.heappop(self._timers))
        for due, _, conn in rung:  # one that is due again at once has to wait for the loop's next turn
            if self._live.get(conn) == due:
                self._timer(conn)
        self._set_alarm()

    def _timer(self, conn: Connection) -> None:
        self._live[conn] = None
        try:
            due = conn.timer_at()
            now = self._clock()
            if due is not None and due <= now + _TICK:
                conn.handle_timer(max(due, now))
                self.flush()
            else:
                self._arm(conn)
        except Exception as error:
            self._fault(error, conn)
            self.drop(conn)
