"""Connections that ended: what late packets get, how many are kept, and for how long. No socket, no loop."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from cryprq.address import Address, Local
from cryprq.protocol.clock import Monotonic
from cryprq.quic import closed
from cryprq.quic.closed import CLOSING_PERIOD, ClosedTable

HERE, ELSEWHERE = Address("192.0.2.1", 4000), Address("192.0.2.1", 4001)
LOCAL = Local("192.0.2.9")


class Rig:
    """A table on a loop that runs when the test says so."""

    def __init__(self) -> None:
        self.now = Monotonic(100.0)
        self.timers: list[tuple[float, Callable[[], None]]] = []
        self.sent: list[tuple[bytes, Address, Local]] = []
        loop: Any = SimpleNamespace(call_later=self._call_later)
        self.table = ClosedTable(loop, lambda: self.now, lambda *datagram: self.sent.append(datagram))

    def _call_later(self, delay: float, call: Callable[[], None]) -> Any:
        timer = (self.now + delay, call)
        self.timers.append(timer)
        return SimpleNamespace(cancel=lambda: self.timers.remove(timer))

    def close(self, *cids: bytes, farewell: tuple[bytes, ...] = (b"bye", b"bye!")) -> None:
        self.table.add(cids, HERE, LOCAL, farewell, self.now)

    def sleep(self, seconds: float) -> None:
        end = Monotonic(self.now + seconds)
        while due := [timer for timer in self.timers if timer[0] <= end]:
            timer = min(due, key=lambda each: each[0])
            self.timers.remove(timer)
            self.now = Monotonic(timer[0])
            timer[1]()
        self.now = end


def test_close_is_said_again_to_ever_fewer_late_packets() -> None:
    rig = Rig()
    rig.close(b"one", b"two")
    answered = []
    for number in range(1, 20):
        assert rig.table.receive((b"one", b"two")[number % 2], HERE)
        if rig.sent:
            answered.append(number)
            assert rig.sent == [(b"bye", HERE, LOCAL), (b"bye!", HERE, LOCAL)]
            rig.sent.clear()
    assert answered == [1, 2, 4, 8, 16]


def test_close_goes_nowhere_but_where_it_went_before() -> None:
    rig = Rig()
    rig.close(b"one")
    assert rig.table.receive(b"one", ELSEWHERE)
    assert not rig.sent


def test_packets_of_no_closed_connection_are_not_taken() -> None:
    rig = Rig()
    assert not rig.table.receive(b"one", HERE)
    rig.close(b"one")
    assert not rig.table.receive(b"two", HERE)
    assert not rig.sent


def test_peer_that_closed_is_not_answered_and_opens_nothing() -> None:
    rig = Rig()
    rig.close(b"one", farewell=())
    assert rig.table.receive(b"one", HERE)
    assert not rig.sent


def test_each_is_forgotten_when_its_time_is_over_and_then_nothing_is_left() -> None:
    rig = Rig()
    rig.close(b"one")
    rig.sleep(1.0)
    rig.close(b"two")
    rig.sleep(CLOSING_PERIOD - 1.5)
    assert len(rig.table) == 2
    rig.sleep(1.0)
    assert [rig.table.receive(cid, HERE) for cid in (b"one", b"two")] == [False, True]
    rig.sleep(1.0)
    assert not rig.table.receive(b"two", HERE)
    assert len(rig.table) == 0
    assert not rig.timers


def test_one_timer_serves_them_all() -> None:
    rig = Rig()
    for number in range(50):
        rig.close(bytes([number]))
        rig.sleep(CLOSING_PERIOD / 10)
        assert len(rig.timers) == 1
    assert len(rig.table) <= 11


def test_table_is_bounded_and_loses_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed, "CLOSING_MAX", 3)
    rig = Rig()
    for number in range(5):
        rig.close(bytes([number]))
    assert len(rig.table) == 3
    assert [rig.table.receive(bytes([number]), HERE) for number in range(5)] == [False, False, True, True, True]


def test_id_of_two_connections_stays_with_the_later_one() -> None:
    rig = Rig()
    rig.close(b"one", b"both")
    rig.sleep(1.0)
    rig.close(b"both", farewell=(b"later",))
    rig.sleep(CLOSING_PERIOD - 0.5)
    assert not rig.table.receive(b"one", HERE)
    assert rig.table.receive(b"both", HERE)
    assert rig.sent == [(b"later", HERE, LOCAL)]


def test_clear_leaves_neither_connections_nor_a_timer() -> None:
    rig = Rig()
    rig.close(b"one")
    rig.table.clear()
    assert len(rig.table) == 0
    assert not rig.table.receive(b"one", HERE)
    assert not rig.timers
    rig.close(b"two")
    assert len(rig.timers) == 1
