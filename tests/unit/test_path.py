"""A peer's path: what the data plane is told of what the probes found, and when a path is looked at anew."""

import pytest

from cryprq._fastpath import EVENT_ENDPOINT_MOVED, EVENT_RECORD_REFUSED, PeerStats
from cryprq.address import Address, Local
from cryprq.protocol.path_mtu import BASE
from tests.rigs.fakes import LISTENER, Side, World

AROUND = 28
"""IPv4 and UDP."""


@pytest.fixture
def world() -> World:
    """Two sides that take inner packets of 1420 bytes."""
    world = World()
    world.connect(world.left, world.right, mtus=(1420, 1420))
    return world


def sends(side: Side) -> tuple[int, int]:
    """The largest record that leaves whole, and the largest inner packet."""
    return side.plane.whole_max[side.peer.handle], side.plane.mtus[side.peer.handle]


def traffic(world: World, side: Side) -> None:
    """A large packet leaves now; then a second passes."""
    now = int(world.now * 1e9)
    side.plane.stats[side.peer.handle] = PeerStats(0, 0, 0, 0, now, now, now, now)
    side.peer.look(world.now)
    world.pass_time(1.0, step=0.1)


def test_both_ends_measure_their_own_direction(world: World) -> None:
    for side in (world.left, world.right):
        assert side.peer.path.mtu == 1480
        assert sends(side) == (1452, 1420)
        assert "path_mtu_changed" not in side.observer.names


def test_narrow_direction_is_told_and_limits_that_direction_only() -> None:
    world = World()
    left, right = world.left, world.right
    left.plane.carries = 1400 - AROUND
    world.connect(left, right, mtus=(1420, 1420))
    world.pass_time(10, step=0.1)
    assert left.observer.last("path_mtu_changed") == (right.identity.peer_id, 1480, 1400, "session")
    assert sends(left) == (1400 - AROUND, 1400 - AROUND - 32)
    assert sends(right) == (1452, 1420)


def test_senders_are_told_no_less_while_the_search_goes_on() -> None:
    world = World()
    left = world.left
    left.plane.carries = 1400 - AROUND
    world.connect(left, world.right, mtus=(1420, 1380))
    handle = left.peer.handle
    while left.plane.mtus[handle] == 1380:
        world.pass_time(0.1, step=0.1)
    assert (left.plane.mtus[handle] < 1400 - AROUND - 32, left.plane.told[handle]) == (True, 1380)
    world.pass_time(10, step=0.1)
    assert left.plane.mtus[handle] == left.plane.told[handle] == 1400 - AROUND - 32


def test_older_peer_is_sent_to_as_before() -> None:
    world = World()
    left, right = world.left, world.right
    left.plane.carries = 0
    world.connect(left, right, mtus=(1420, 1300))
    world.pass_time(10, step=0.1)
    assert left.peer.path.mtu is None
    assert sends(left) == (0, 1300)
    assert "path_mtu_changed" not in left.observer.names


def test_ipv6_has_larger_headers(world: World) -> None:
    left = world.left
    left.plane.endpoints[left.peer.handle] = (Address("2001:db8::1", 9999), Local())
    world.pass_time(2)
    left.peer.path.begin("moved", world.now)
    world.run()
    assert (left.peer.path.mtu, sends(left)) == (1500, (1452, 1420))


def test_traffic_that_nothing_comes_of_lowers_the_size(world: World) -> None:
    left = world.left
    left.plane.carries = 1350 - AROUND
    for _ in range(3):
        traffic(world, left)
    assert left.observer.last("path_mtu_changed")[1:] == (1480, BASE, "black_hole")
    world.pass_time(10, step=0.1)
    assert left.observer.last("path_mtu_changed")[1:3] == (BASE, left.peer.path.mtu)
    assert left.peer.path.mtu is not None
    assert 1340 < left.peer.path.mtu <= 1350


def test_record_that_the_own_link_refused_makes_it_look_at_once(world: World) -> None:
    left = world.left
    left.plane.carries = 1300 - AROUND
    changes = left.changes
    left.peer.event(0, EVENT_RECORD_REFUSED, world.now)
    assert left.changes > changes, "nobody would look at the timer"
    world.pass_time(10, step=0.1)
    assert left.peer.path.mtu == 1300


def test_peer_that_moved_and_a_way_that_changed_are_measured_anew(world: World) -> None:
    left, right = world.left, world.right
    world.pass_time(2)
    right.plane.probes.clear()
    right.plane.endpoints[right.peer.handle] = (Address("203.0.113.9", 5), Local())
    right.peer.event(0, EVENT_ENDPOINT_MOVED, world.now)
    assert {size for _, size in right.plane.probes} == {1452, BASE - AROUND, 43}
    traffic(world, left)
    traffic(world, left)
    left.plane.probes.clear()
    left.way = ("198.51.100.7", 1500)
    traffic(world, left)
    assert {size for _, size in left.plane.probes} == {1452, BASE - AROUND, 43}
    left.way = None  # no way at the moment: there is nothing to measure
    left.plane.probes.clear()
    traffic(world, left)
    assert {size for _, size in left.plane.probes} <= {1452}


def test_end_of_the_session_ends_the_probes(world: World) -> None:
    left = world.left
    left.peer.close(0, "shutdown", world.now)  # type: ignore[arg-type]
    left.plane.probes.clear()
    world.pass_time(700, step=50)
    assert left.plane.probes == []
    assert left.peer.next_timer() is None
    assert left.plane.endpoints[left.peer.handle][0] == LISTENER


def test_tunnel_mtu_that_changes_reaches_the_plane_within_a_second(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else happens to the peer meanwhile, and its search stands still."""
    monkeypatch.setattr(world.left.peer.path, "_mtu", lambda: 1300)
    world.left.peer.look(world.now)
    assert sends(world.left)[1] == 1300
