"""When the waiting line is served. No socket, no loop that runs by itself."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from cryprq.protocol.clock import Monotonic
from cryprq.quic.doorman import WAITING_PATIENCE, WAITING_POLL, Doorman


class Rig:
    """A doorman, and the loop that calls him when the test says so."""

    def __init__(self) -> None:
        self.now = Monotonic(100.0)
        self.waiting = 0
        self.readable = False
        self.may_begin = True
        self.served: list[float] = []
        self.timers: list[tuple[float, Callable[[], None]]] = []
        loop: Any = SimpleNamespace(call_later=self._call_later)
        self.doorman = Doorman(
            loop,
            lambda: self.now,
            waiting=lambda: self.waiting,
            busy=lambda: self.readable,
            serve=self._serve,
        )

    def _call_later(self, delay: float, call: Callable[[], None]) -> Any:
        timer = (delay, call)
        self.timers.append(timer)
        return SimpleNamespace(cancel=lambda: self.timers.remove(timer) if timer in self.timers else None)

    def _serve(self, now: Monotonic) -> bool:
        if self.may_begin:
            self.waiting -= 1
            self.served.append(now)
        return self.may_begin

    def turn(self) -> float:
        """The loop calls; returns the delay with which it was asked to."""
        ((delay, call),) = self.timers
        self.timers.clear()
        self.now = Monotonic(self.now + delay)
        call()
        return delay


def test_line_is_served_one_a_turn_until_it_is_empty() -> None:
    rig = Rig()
    rig.waiting = 3
    rig.doorman.wake()
    assert [rig.turn() for _ in range(3)] == [0.0, 0.0, 0.0]
    assert len(rig.served) == 3
    assert not rig.timers


def test_nobody_waits_and_nothing_is_asked_of_the_loop() -> None:
    rig = Rig()
    rig.doorman.wake()
    assert not rig.timers


def test_while_nobody_may_begin_it_looks_again_now_and_then() -> None:
    rig = Rig()
    rig.waiting, rig.may_begin = 1, False
    rig.doorman.wake()
    assert [rig.turn() for _ in range(3)] == [0.0, WAITING_POLL, WAITING_POLL]
    rig.may_begin = True
    rig.turn()
    assert rig.waiting == 0


def test_place_that_becomes_free_is_not_waited_for() -> None:
    rig = Rig()
    rig.waiting, rig.may_begin = 1, False
    rig.doorman.wake()
    rig.turn()
    rig.may_begin = True
    rig.doorman.wake()
    assert rig.turn() == 0.0
    assert rig.waiting == 0


def test_what_is_to_be_read_comes_first_but_not_for_long() -> None:
    rig = Rig()
    rig.waiting, rig.readable = 2, True
    rig.doorman.wake()
    rig.turn()
    assert len(rig.served) == 1, "the last one was served long ago"
    rig.turn()
    rig.turn()
    assert len(rig.served) == 1
    rig.readable = False
    rig.turn()
    assert len(rig.served) == 2
    rig.waiting, rig.readable = 1, True
    rig.doorman.wake()
    rig.turn()
    assert len(rig.served) == 2
    rig.now = Monotonic(rig.now + WAITING_PATIENCE + 0.001)
    rig.turn()
    assert len(rig.served) == 3


def test_place_that_becomes_free_while_one_is_let_in_makes_no_second_timer() -> None:
    rig = Rig()
    rig.waiting = 3
    serve = rig._serve

    def serve_and_wake(now: Monotonic) -> bool:
        served = serve(now)
        rig.doorman.wake()
        return served

    rig.doorman._serve = serve_and_wake
    rig.doorman.wake()
    for left in (2, 1, 0):
        rig.turn()  # asserts that there is one
        assert rig.waiting == left
    assert not rig.timers


def test_stopped_it_lets_nobody_in() -> None:
    rig = Rig()
    rig.waiting = 1
    rig.doorman.wake()
    rig.doorman.stop()
    assert not rig.timers
    rig.doorman.stop()


@pytest.mark.parametrize("times", [1, 2, 5])
def test_however_often_it_is_woken_there_is_one_timer(times: int) -> None:
    rig = Rig()
    rig.waiting = 1
    for _ in range(times):
        rig.doorman.wake()
    rig.turn()
    assert len(rig.served) == 1
