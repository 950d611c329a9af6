"""Two nodes that dial each other while nodes crash, connections die unnoticed and messages arrive in any order.

Whatever happened: soon after the last fault each can be heard by the other."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from cryprq._fastpath import EVENT_FIRST_RECORD, Event, PeerStats
from cryprq.peers.dialer import REDIAL_FAST_TIMEOUT, DialSchedule
from cryprq.peers.outbound import Outcome
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import (
    HANDSHAKE_TIMEOUT,
    PROBE_TIMEOUT,
    QUIC_ANSWER_WITHIN,
    QUIC_IDLE_TIMEOUT,
    QUIC_KEEPALIVE,
    QUIC_KEEPALIVE_SHARE,
)
from cryprq.protocol.frames import CloseCode
from tests.rigs.fakes import FakePlane
from tests.unit.test_inbound import End, Path

STEP = 0.5
NOTICED_MAX = QUIC_KEEPALIVE_SHARE * QUIC_IDLE_TIMEOUT + QUIC_ANSWER_WITHIN
"""Seconds until a dialer knows of a connection that is lost, while its peer is heard all the time."""
RECOVERY = PROBE_TIMEOUT + 4.0
"""Seconds after the last fault: for a connection in doubt, and the wait of a dialer that was turned down meanwhile."""


class TrafficPlane(FakePlane):
    """Also keeps the counters that tell whether the peer is heard."""

    def __init__(self, clock: Callable[[], Boottime]) -> None:
        super().__init__()
        self._clock = clock
        self._handles = 1
        self._received = self._rx_ns = self._tx_ns = self._data_ns = 0

    def send(self, rx_index: int, *, data: bool) -> None:
        epoch, now = self.epochs[rx_index], int(self._clock() * 1e9)
        self._tx_ns = now
        self._data_ns = now if data else self._data_ns
        for other in self.others:
            there = other.epochs.get(epoch.tx_index)
            if there is None or self.cut:
                continue
            assert isinstance(other, TrafficPlane)
            other._rx_ns = now
            other._received += data
            if not there.heard:
                there.heard = True
                other.pending_events.append(Event(there.peer, epoch.tx_index, EVENT_FIRST_RECORD))

    def send_empty(self, rx_index: int) -> None:
        self.send(rx_index, data=False)

    def send_ping(self, rx_index: int) -> None:
        there = self.epochs[rx_index].tx_index
        self.send_empty(rx_index)
        for other in self.others:
            if not self.cut and there in other.epochs:
                for active in tuple(other.active.values()):
                    other.send_empty(active)

    def peer_stats(self, peer: int) -> PeerStats:
        return PeerStats(self._received, 0, 0, 0, self._rx_ns, self._tx_ns, self._data_ns)


class DiallingEnd(End):
    """A side with a dialer, as simple as can be: one attempt at a time, when the peer wants one."""

    def __init__(self, number: int, clock: Callable[[], Boottime]) -> None:
        super().__init__(number, 1 - number, clock)
        self.traffic_plane = TrafficPlane(clock)
        self.plane = self.peer._plane = self.traffic_plane
        self.schedule = DialSchedule(0.5, 30, lambda low, high: 1.0)
        self.attempt: Path | None = None

    def due(self, now: float) -> bool:
        for outcome in self.outcomes:
            if outcome in (Outcome.FAILED, Outcome.DUPLICATE, Outcome.REFUSED):
                self.schedule.failed(Boottime(now), refused=outcome is Outcome.REFUSED)
            assert outcome is not Outcome.REPLACED, "both have but one host"
        self.outcomes.clear()
        if self.peer.up:
            self.schedule.tunnel_up(Boottime(now))
        busy = self.attempt is not None and not self.attempt.outbound.over
        return not busy and self.peer.wants_dial() and now >= self.schedule.due


class Storm:
    """The two nodes, the time, and what can go wrong."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = Boottime(1000.0)
        self.paths: list[Path] = []
        self.dead: set[Path] = set()
        self.later: list[tuple[float, Callable[[], None]]] = []
        self.began: dict[Path, float] = {}
        self.ends = [DiallingEnd(number, self.clock) for number in (0, 1)]
        self.traffic = [self.random.random() < 0.5 for _ in self.ends]
        self._join()

    def clock(self) -> Boottime:
        return self.now

    def _join(self) -> None:
        for end, other in (self.ends, self.ends[::-1]):
            end.plane.others = [other.plane]

    # ---- faults ----

    def crash(self) -> None:
        """A node is killed and is there again at once, without a memory."""
        number = self.random.randint(0, 1)
        gone = self.ends[number]
        for path in self.paths:
            self._die(path, (path.inbound,) if path.outbound._peer is gone.peer else (path.outbound,))
        self.ends[number] = DiallingEnd(number, self.clock)
        self._join()

    def lose_connections(self) -> None:
        """QUIC is gone; either side notices when it notices. The data plane is not concerned."""
        for path in self.paths:
            self._die(path, (path.inbound, path.outbound))

    def lose_records(self) -> None:
        self.random.choice(self.ends).plane.cut = True

    def _die(self, path: Path, noticed_by: tuple[Any, ...]) -> None:
        if path not in self.dead:
            self.dead.add(path)
            for _, connection, handler in path.ends:
                if handler in noticed_by:
                    wait = self.random.uniform(QUIC_KEEPALIVE, NOTICED_MAX)
                    self.later.append((self.now + wait, partial(_lose, connection, handler)))

    # ---- time ----

    def step(self, patience: int) -> None:
        """Half a second: timers, dials, traffic, and up to ``patience`` messages, each on a path chosen by lot."""
        self.now = Boottime(self.now + STEP)
        due, self.later = [x for x in self.later if x[0] <= self.now], [x for x in self.later if x[0] > self.now]
        for _, call in due:
            call()
        for path in self.paths:
            for _, connection, handler in path.ends:
                if path in self.dead and connection.probes:
                    self.later.append((self.now + PROBE_TIMEOUT, partial(_lose, connection, handler)))
                connection.probes = 0
            age = self.now - self.began[path]
            if not path.outbound.over and age > REDIAL_FAST_TIMEOUT:
                path.outbound._timed_out()
            if path.inbound._link is None and age > HANDSHAKE_TIMEOUT:
                _lose(path.there, path.inbound)
        for end in self.random.sample(self.ends, 2):
            end.peer.handle_timers(self.now)
            if end.due(self.now):
                end.schedule.started(self.now)
                end.attempt = Path(end, self.ends[1 - self.ends.index(end)])
                self.began[end.attempt] = self.now
                self.paths.append(end.attempt)
            if self.traffic[self.ends.index(end)] and (active := end.plane.active.get(end.peer.handle)) is not None:
                end.traffic_plane.send(active, data=True)
            if self.now.is_integer():
                end.peer.look(self.now)
        while patience > 0 and self._carry():
            patience -= 1
        self.paths = [p for p in self.paths if None in (p.here.closed_with, p.there.closed_with) or not p.outbound.over]

    def _carry(self) -> bool:
        things = [path.step for path in self.paths if path not in self.dead]
        things += [partial(_records, end, self.now) for end in self.ends]
        self.random.shuffle(things)
        return any(thing() for thing in things)

    def both_are_heard(self) -> bool:
        """Whether what either sends now would be opened by the other."""
        for end in self.ends:
            active = end.plane.active.get(end.peer.handle)
            if active is None or end.plane.epochs[active].tx_index not in end.plane.others[0].epochs:
                return False
        return True


def _records(end: End, now: float) -> bool:
    events = end.plane.events()
    for event in events:
        end.peer.event(event.rx_index, event.flags, Boottime(now))
    return bool(events)


def _lose(connection: Any, handler: Any) -> None:
    if connection.closed_with is None:
        connection.closed_with = CloseCode.TIMEOUT
        handler.closed(connection, -1, "idle timeout", False)


@pytest.mark.parametrize("seed", range(60))
def test_nodes_find_each_other_again_after_any_faults(seed: int) -> None:
    storm = Storm(seed)
    faults = [storm.crash, storm.crash, storm.lose_connections, storm.lose_records]
    for _ in range(storm.random.randint(1, 5)):
        for _ in range(storm.random.randint(0, 30)):
            storm.step(storm.random.randint(1, 6))
        storm.random.choice(faults)()
    for end in storm.ends:
        end.plane.cut = False
    quiet = storm.now
    while storm.now < quiet + NOTICED_MAX + 20:
        storm.step(1000)
        assert storm.both_are_heard() or storm.now < quiet + RECOVERY
    assert all(end.peer.up for end in storm.ends)
    for end in storm.ends:
        assert len(end.plane.epochs) == len(end.pool) == len(end.peer.links) == 1
