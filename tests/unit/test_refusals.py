"""Identities that proved themselves and are not on the list: what they cost themselves, their port, their source."""

import random

from cryprq.address import Address
from cryprq.peers.dialer import DialSchedule
from cryprq.protocol.clock import Boottime
from cryprq.protocol.clock import Monotonic as at
from cryprq.quic.admission import source_of
from cryprq.quic.backoff import BACKOFF_FORGET, BACKOFF_TABLE_MAX
from cryprq.quic.refusals import IDENTITIES_PER_SOURCE, REFUSED_SOURCES_MAX, Refusals

NAT, ELSEWHERE = Address("192.0.2.1", 1), Address("192.0.2.2", 1)


def identity(number: int) -> bytes:
    return number.to_bytes(32, "big")


def test_dialers_that_wait_as_dialers_do_never_cost_their_source_anything() -> None:
    refusals, lots = Refusals(500, 30_000), random.Random(1)
    dialers = {number: DialSchedule(0.5, 30, lots.uniform) for number in range(8)}
    due = {number: 1000.0 + number / 10 for number in dialers}
    for _ in range(400):
        number = min(due, key=lambda each: due[each])
        now = due[number]
        assert refusals.refused(NAT._replace(port=number + 1), identity(number), at(now)) == 0.0
        due[number] = now + dialers[number].failed(Boottime(now), refused=True)
    assert now > 1000 + 400 * 30 / 8 / 2


def test_identity_that_comes_again_too_soon_is_not_listened_to_at_its_port() -> None:
    refusals = Refusals(500, 30_000)
    waits = [refusals.refused(NAT, identity(1), at(1000 + turn / 10)) for turn in range(5)]
    assert waits == [0.0, 0.0, 0.5, 1.0, 2.0]
    now = at(1000.4)
    assert refusals.remaining(source_of(NAT), NAT, now) == 2.0
    assert refusals.remaining(source_of(NAT), NAT._replace(port=2), now) == 0.0
    assert refusals.refused(NAT._replace(port=2), identity(2), now) == 0.0  # others there have their own
    assert refusals.refused(ELSEWHERE, identity(1), now) == 0.0
    assert refusals.remaining(source_of(ELSEWHERE), ELSEWHERE, now) == 0.0


def test_new_ports_are_no_way_around_the_limits_of_a_source() -> None:
    refusals = Refusals(500, 30_000)
    waits = [refusals.refused(NAT._replace(port=port), identity(1), at(1000.0)) for port in range(1, 40)]
    assert waits == [0.0, 0.0, *[0.5] * IDENTITIES_PER_SOURCE, *[None] * (37 - IDENTITIES_PER_SOURCE)]


def test_new_identities_are_no_way_around_the_limits_of_a_source() -> None:
    refusals = Refusals(500, 30_000)
    waits = [refusals.refused(NAT, identity(number), at(1000.0 + number)) for number in range(100)]
    assert waits == [0.0] * IDENTITIES_PER_SOURCE + [None] * (100 - IDENTITIES_PER_SOURCE)
    assert refusals.refused(ELSEWHERE, identity(0), at(1100.0)) == 0.0
    assert refusals.refused(NAT, identity(200), at(1016.0 + BACKOFF_FORGET)) == 0.0  # those before are forgotten


def test_memory_is_bounded() -> None:
    refusals = Refusals(500, 30_000)
    for source in range(REFUSED_SOURCES_MAX + 50):
        remote = Address(f"10.0.{source // 250}.{source % 250}", 1)
        for number in range(IDENTITIES_PER_SOURCE + 2):
            refusals.refused(remote, identity(number), at(1000.0))
    assert len(refusals) == BACKOFF_TABLE_MAX
