"""When a dialing node takes another local port, and when it keeps the one that it has."""

from itertools import pairwise

from cryprq.peers.stale_port import KEEP, KEEP_MAX, StalePort
from cryprq.protocol.clock import Boottime as at

DIAL = 3.0
"""Seconds until a dial is given up."""


def changes(port: StalePort, start: int, end: int, heard: float) -> list[int]:
    """When it changes, where a dial a second gets no answer."""
    return [now for now in range(start, end) if port.unanswered(at(now - DIAL), at(heard), at(float(now)))]


def test_first_dial_without_an_answer_is_enough() -> None:
    assert changes(StalePort(), 1000, 1002, heard=900)[0] == 1000


def test_peer_that_is_heard_by_it_keeps_the_port() -> None:
    port = StalePort()
    assert not any(port.unanswered(at(now - DIAL), at(now - 1.0), at(float(now))) for now in range(1000, 1100))


def test_dials_from_the_port_before_say_nothing_of_this_one() -> None:
    port = StalePort()
    assert port.unanswered(at(997.0), at(900.0), at(1000.0))
    assert not port.unanswered(at(999.0), at(900.0), at(1100.0))
    assert port.unanswered(at(1097.0), at(900.0), at(1100.0))


def test_ports_are_not_used_up_while_the_peer_is_gone() -> None:
    found = changes(StalePort(), 1000, 1000 + 3600, heard=900)
    gaps = [later - earlier for earlier, later in pairwise(found)]
    assert gaps[0] == KEEP
    assert gaps == sorted(gaps)
    assert gaps[-1] == KEEP_MAX
    assert len(found) < 70


def test_port_that_was_of_use_is_given_up_as_soon_as_the_first() -> None:
    port = StalePort()
    changes(port, 1000, 2000, heard=900)
    assert changes(port, 2010, 2020, heard=2005)[0] == 2010
