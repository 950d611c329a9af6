"""Two hosts with one identity are told from a dialer that roams, flaps or is restarted."""

from itertools import pairwise

import pytest

from cryprq.address import Address
from cryprq.peers.contest import CONTEST_WINDOW, Contest
from cryprq.protocol.clock import Boottime


def said(*hosts: Address, every: float = 1.0) -> list[bool]:
    """What is said of sessions from these addresses, one after the other."""
    contest = Contest()
    pairs = pairwise(hosts)
    return [contest.replaced(loser, winner, Boottime(1000 + at * every)) for at, (loser, winner) in enumerate(pairs)]


A, B, C = (Address("192.0.2.7", 9999), Address("198.51.100.7", 9999), Address("203.0.113.7", 9999))


@pytest.mark.parametrize("every", [0.01, 1.0, 37.5])
def test_two_hosts_that_take_turns(every: float) -> None:
    assert said(A, B, A, B, A, every=every) == [False, False, True, True]


def test_three_hosts_that_take_turns() -> None:
    assert said(A, B, C, A, B, C) == [False, False, False, True, True]


def test_two_hosts_behind_one_address() -> None:
    other = A._replace(port=40000)
    assert said(A, other, A, other)[-1]


def test_dialer_that_roams_and_comes_home() -> None:
    assert not any(said(A, B, C, B._replace(port=7), A))
    assert not any(said(A, B, A))


def test_dialer_that_changes_to_and_fro_seldom() -> None:
    assert not any(said(*[A, B] * 10, every=CONTEST_WINDOW + 1))


def test_dialer_that_is_restarted_without_end() -> None:
    assert not any(said(*[A] * 50))
    assert not any(said(*[A._replace(port=port) for port in range(40000, 40050)]))


def test_memory_is_bounded() -> None:
    contest = Contest()
    for port in range(1000):
        contest.replaced(A._replace(port=port), B, Boottime(1000.0))
    assert len(contest._lost_at) <= 8
