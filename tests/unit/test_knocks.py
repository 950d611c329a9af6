"""The knock in a first datagram: who has one, for how long, and how often it is good."""

import random

import pytest

from cryprq.protocol.clock import Realtime
from cryprq.protocol.constants import KNOCK_STEP
from cryprq.quic import knocks
from cryprq.quic.knocks import KNOCK_SIZE, Knocks, make_knock

LISTENER = b"p" * 32
NOW = Realtime(60_000_000 * KNOCK_STEP + 7.0)


def test_knock_is_good_in_its_step_and_its_neighbours() -> None:
    listener = Knocks(LISTENER)
    for steps in range(-4, 5):
        made = make_knock(LISTENER, Realtime(NOW + steps * KNOCK_STEP))
        assert len(made) == KNOCK_SIZE == 20
        assert listener.is_good(made, NOW) is (abs(steps) <= 1)


def test_knock_is_for_one_listener() -> None:
    assert not Knocks(LISTENER).is_good(make_knock(b"q" * 32, NOW), NOW)


def test_no_two_are_alike() -> None:
    assert len({make_knock(LISTENER, NOW) for _ in range(100)}) == 100


def test_every_changed_or_cut_knock_is_none() -> None:
    listener, good = Knocks(LISTENER), make_knock(LISTENER, NOW)
    for bit in range(8 * KNOCK_SIZE):
        changed = bytearray(good)
        changed[bit // 8] ^= 1 << bit % 8
        assert not listener.is_good(bytes(changed), NOW)
    for size in range(KNOCK_SIZE):
        assert not listener.is_good(good[:size], NOW)
    assert not listener.is_good(good + b"\0", NOW)
    assert listener.is_good(good, NOW)


def test_knock_is_spent_once() -> None:
    listener, good = Knocks(LISTENER), make_knock(LISTENER, NOW)
    assert not listener.is_spent(good)
    listener.spend(good, NOW)
    assert listener.is_spent(good)
    assert not listener.is_good(good, NOW)
    assert listener.is_good(make_knock(LISTENER, NOW), NOW)


def test_spent_knocks_are_remembered_while_they_would_be_good_and_not_much_longer() -> None:
    listener = Knocks(LISTENER)
    ahead = make_knock(LISTENER, Realtime(NOW + KNOCK_STEP))
    listener.spend(ahead, NOW)
    for steps in range(1, 8):
        later = Realtime(NOW + steps * KNOCK_STEP)
        listener.spend(make_knock(LISTENER, later), later)
        assert not listener.is_good(ahead, later)
    assert not listener.is_spent(ahead)
    assert len(listener) <= 5


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(knocks, "SPENT_MAX", 10)
    listener, spent = Knocks(LISTENER), [make_knock(LISTENER, NOW) for _ in range(25)]
    for each in spent:
        listener.spend(each, NOW)
        assert len(listener) <= 10
    assert [listener.is_spent(each) for each in spent] == [False] * 15 + [True] * 10


@pytest.mark.parametrize("now", [-1e9, 0.0, 1.0, 4e9, 1e17])
def test_clock_may_be_anywhere(now: float) -> None:
    listener = Knocks(LISTENER)
    made = make_knock(LISTENER, Realtime(now))
    assert listener.is_good(made, Realtime(now))
    listener.spend(made, Realtime(now))
    assert not listener.is_good(random.Random(1).randbytes(KNOCK_SIZE), Realtime(now))
