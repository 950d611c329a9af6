"""What is shown of a peer: rates, the round trip, since when it is there or away."""

import pytest

from cryprq._fastpath import EVENT_PROBE_ACKED, PeerStats
from cryprq.peers.meter import ANSWER_WITHIN, Meter
from cryprq.protocol.clock import Boottime
from tests.rigs.fakes import World


def stats(received: int, sent: int) -> PeerStats:
    return PeerStats(0, received, 0, sent, 0, 0, 0)


def test_rates_are_those_of_the_last_interval() -> None:
    meter = Meter()
    meter.look(stats(1000, 50), Boottime(10))
    assert (meter.rx_rate, meter.tx_rate) == (0, 0)
    meter.look(stats(3000, 50), Boottime(12))
    assert (meter.rx_rate, meter.tx_rate) == (1000, 0)
    meter.look(stats(9000, 50), Boottime(12.1))  # too soon: the next look has it
    assert meter.rx_rate == 1000
    meter.look(stats(9000, 150), Boottime(13))
    assert (meter.rx_rate, meter.tx_rate) == (6000, 100)
    meter.end()
    assert (meter.rx_rate, meter.tx_rate) == (0, 0)


def test_round_trip_is_smoothed_and_belongs_to_one_path() -> None:
    meter = Meter()
    meter.sample(0)
    assert meter.round_trip is None
    meter.sample(80_000_000)
    assert meter.round_trip == pytest.approx(0.08)
    meter.sample(0)
    meter.sample(160_000_000)
    assert meter.round_trip == pytest.approx(0.09)
    meter.new_path()
    assert [meter.round_trip, meter.asked] == [None, None]


def test_since_is_when_the_tunnel_came_up_or_was_seen_to_be_down() -> None:
    meter = Meter()
    seen: list[float | None] = []
    for act in (meter.away, meter.begin, lambda _: meter.end(), meter.away, meter.away):
        act(Boottime(10.0 * len(seen)))
        seen.append(meter.since)
    assert seen == [None, 10, 10, 30, 30], "it has never been there, is, and is away"


def test_peer_is_asked_once_until_it_answers() -> None:
    world = World()
    left = world.left
    assert not left.peer.measure(world.now)
    world.connect(left, world.right)
    assert left.peer.meter.since is not None
    probes = len(left.plane.probes)
    left.plane.cut = True
    assert left.peer.measure(world.now) and left.peer.measure(world.now)
    assert left.plane.probes[probes:] == [(left.active, 43)]
    world.now = Boottime(world.now + ANSWER_WITHIN)  # it was lost
    assert left.peer.measure(world.now)
    assert left.plane.probes[probes:] == [(left.active, 43)] * 2
    taken = 30_000_000
    left.plane.stats[left.peer.handle] = PeerStats(0, 0, 0, 0, 0, 0, 0, 0, taken)
    left.peer.event(0, EVENT_PROBE_ACKED, world.now)
    assert not left.peer.meter.waits(world.now)
    assert left.peer.meter.round_trip == pytest.approx(0.03)
    left.plane.cut = False
    assert left.peer.measure(world.now)
    left.peer.fail()
    assert not left.peer.measure(world.now) and left.peer.meter.round_trip is None
