"""Identities that proved themselves and are not on the list: what they cost themselves, and when their source."""

import random

from cryprq.peers.dialer import DialSchedule
from cryprq.protocol.clock import Boottime
from cryprq.protocol.clock import Monotonic as at
from cryprq.quic.backoff import BACKOFF_FORGET, BACKOFF_TABLE_MAX
from cryprq.quic.refusals import IDENTITIES_PER_SOURCE, REFUSED_SOURCES_MAX, Refusals


def identity(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_dialers_that_wait_as_dialers_do_never_cost_their_source_anything() -> None:
    refusals, lots = Refusals(500, 30_000), random.Random(1)
    dialers = {number: DialSchedule(0.5, 30, lots.uniform) for number in range(8)}
    due = {number: 1000.0 + number / 10 for number in dialers}
    for _ in range(400):
        number = min(due, key=lambda each: due[each])
        now = due[number]
        assert refusals.refused(b"nat", identity(number), at(now))
        due[number] = now + dialers[number].failed(Boottime(now), refused=True)
    assert now > 1000 + 400 * 30 / 8 / 2


def test_identity_that_comes_again_too_soon_is_a_failure_of_its_source() -> None:
    refusals = Refusals(500, 30_000)
    verdicts = [refusals.refused(b"nat", identity(1), at(1000 + turn / 10)) for turn in range(20)]
    assert verdicts == [True, True, *[False] * 18]
    assert refusals.refused(b"nat", identity(2), at(1001.0))  # others there have their own
    assert refusals.refused(b"elsewhere", identity(1), at(1001.0))


def test_new_identities_are_no_way_around_the_limits_of_a_source() -> None:
    refusals = Refusals(500, 30_000)
    verdicts = [refusals.refused(b"mill", identity(number), at(1000.0 + number)) for number in range(100)]
    assert verdicts == [True] * IDENTITIES_PER_SOURCE + [False] * (100 - IDENTITIES_PER_SOURCE)
    assert refusals.refused(b"nat", identity(0), at(1100.0))
    assert refusals.refused(b"mill", identity(200), at(1016.0 + BACKOFF_FORGET))  # those before are forgotten


def test_memory_is_bounded() -> None:
    refusals = Refusals(500, 30_000)
    for source in range(REFUSED_SOURCES_MAX + 50):
        for number in range(IDENTITIES_PER_SOURCE + 2):
            refusals.refused(identity(source), identity(number), at(1000.0))
    assert len(refusals) == BACKOFF_TABLE_MAX
