"""Two peers with real sessions in memory: taking over, the duplicate rule, and what ends a session or does not."""

import itertools
import random
from typing import Any

import pytest

from cryprq._fastpath import (
    EVENT_ENDPOINT_MOVED,
    EVENT_FORGED,
    EVENT_KEY_EXPIRED,
    EVENT_ROTATE_DUE,
    PeerStats,
    PlaneError,
)
from cryprq.address import Address, Local
from cryprq.peers.indices import IndexPool, offset_of
from cryprq.peers.liveness import HURRIED
from cryprq.peers.peer import CANDIDATES_MAX, RETIRED_MAX
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import GRACE, MESSAGE_PING, MTU_SEALABLE_MAX
from cryprq.protocol.frames import CloseCode
from tests.rigs.fakes import INNER, SILENT, Side, World


@pytest.fixture
def world() -> World:
    return World()


def test_end_tells_what_went_through_since_the_tunnel_was_up(world: World) -> None:
    left = world.left
    for connected, received in ((1000, 1700), (5000, 5001)):
        left.plane.stats[left.peer.handle] = SILENT._replace(rx_bytes=connected, tx_bytes=connected + 7)
        world.connect(left, world.right)
        left.plane.stats[left.peer.handle] = SILENT._replace(rx_bytes=received, tx_bytes=connected + 19)
        left.peer.close(CloseCode.OK, "closed", Boottime(world.now))
        assert left.observer.fields("peer_disconnected") == {"rx_bytes": received - connected, "tx_bytes": 12}
        world.run()


def carrier(link: Any) -> Any:
    """The connection of a link, which the link itself forgets when it closes."""
    assert link.carrier is not None
    return link.carrier


def test_first_record_establishes_both_ends(world: World) -> None:
    left, right = world.left, world.right
    dialled, accepted = world.connect(left, right)
    assert left.peer.current is dialled
    assert right.peer.current is accepted
    assert left.observer.names == right.observer.names == ["peer_connected"]
    assert left.observer.last("peer_connected")[2] == "outbound"
    assert right.observer.last("peer_connected")[2:] == ("inbound", (INNER,))
    assert left.plane.epochs[left.active or 0].tx_index == right.active
    assert right.plane.epochs[right.active or 0].tx_index == left.active
    assert not left.peer.wants_dial()
    assert left.peer.up
    assert right.peer.up


def test_endpoints_are_those_of_the_quic_path(world: World) -> None:
    world.connect(world.left, world.right, dialer_at=Address("198.51.100.4", 1234), local=Local("192.0.2.9"))
    right = world.right
    assert right.plane.endpoint(right.peer.handle) == (Address("198.51.100.4", 1234), Local("192.0.2.9"))
    # A dialer does not pin its own address: it may change.
    assert world.left.plane.endpoint(world.left.peer.handle) == (Address("192.0.2.1", 9999), Local())


def test_listener_only_receives_until_the_first_record(world: World) -> None:
    world.left.plane.cut = True
    _, accepted = world.connect(world.left, world.right)
    assert world.right.peer.current is None
    assert world.right.active is None
    assert len(world.right.plane.epochs) == 1
    world.left.plane.cut = False
    world.pass_time(1.5)  # the dialer repeats its empty record every second
    assert world.right.peer.current is accepted


def test_session_that_nobody_proves_is_wiped_after_15_seconds(world: World) -> None:
    world.left.plane.cut = True
    world.connect(world.left, world.right)
    world.pass_time(14.5)
    assert world.right.plane.epochs
    assert not world.left.peer.wants_dial()
    world.pass_time(1.0)
    assert not world.right.plane.epochs
    assert not world.left.plane.epochs
    assert world.left.peer.idle
    assert world.left.peer.wants_dial()
    assert not len(world.left.pool)
    assert not len(world.right.pool)
    assert "peer_connected" not in world.left.observer.names + world.right.observer.names


def test_newer_session_replaces_the_older_one_without_a_gap(world: World) -> None:
    left, right = world.left, world.right
    old_dialled, old_accepted = world.connect(left, right)
    old = carrier(old_dialled), carrier(old_accepted)
    old_indices = left.active, right.active
    dialled, accepted = world.connect(left, right)
    assert (left.peer.current, right.peer.current) == (dialled, accepted)
    assert CloseCode.REPLACED in {each.closed_with for each in old}
    assert old_indices[0] in left.plane.epochs  # the grace
    assert old_indices[1] in right.plane.epochs
    world.pass_time(10.5)
    assert set(left.plane.epochs) == {left.active}
    assert set(right.plane.epochs) == {right.active}
    assert left.observer.names.count("peer_connected") == 1
    assert "peer_disconnected" not in left.observer.names + right.observer.names
    assert len(left.pool) == len(right.pool) == 1


def test_each_session_tells_anew_what_its_ends_take(world: World) -> None:
    left, right = world.left, world.right

    def limits() -> tuple[int, int]:
        return left.plane.mtus[left.peer.handle], right.plane.mtus[right.peer.handle]

    world.connect(left, right, mtus=(1300, 1420))
    assert limits() == (1420, 1300)
    world.left.plane.cut = True
    world.connect(left, right, mtus=(9000, 1380))
    assert limits() == (1380, 1300)  # the listener still sends on the old session
    world.left.plane.cut = False
    world.pass_time(1.5)
    assert limits() == (1380, 9000)
    world.connect(left, right, mtus=(65535, None))  # more than any record carries; an end that says nothing
    assert limits() == (MTU_SEALABLE_MAX, MTU_SEALABLE_MAX)


def test_takeover_moves_the_listeners_endpoint_on_promotion_only(world: World) -> None:
    right = world.right
    world.connect(world.left, right)
    before = right.plane.endpoint(right.peer.handle)
    world.left.plane.cut = True
    world.connect(world.left, right, dialer_at=Address("198.51.100.4", 1234))
    assert right.plane.endpoint(right.peer.handle) == before
    world.left.plane.cut = False
    world.pass_time(1.5)
    assert right.plane.endpoint(right.peer.handle) == (Address("198.51.100.4", 1234), Local("192.0.2.1"))


def test_two_hosts_with_one_identity_are_reported_with_both_endpoints(world: World) -> None:
    right, hosts = world.right, [Address("198.51.100.4", 1234), Address("203.0.113.4", 1234)]
    for turn in range(4):
        assert "identity_in_use_twice" not in right.observer.names
        world.connect(world.left, right, dialer_at=hosts[turn % 2])
    assert right.observer.last("identity_in_use_twice") == (world.left.identity.peer_id, hosts[1], hosts[0])


def test_dialer_that_moved_before_it_connected_again_is_no_second_host(world: World) -> None:
    """Its connection had moved along: the new session comes from where the one before it was at last."""
    right, hosts = world.right, [Address("198.51.100.4", 1234), Address("203.0.113.4", 1234)]
    for turn in range(6):
        _, accepted = world.connect(world.left, right, dialer_at=hosts[turn % 2])
        carrier(accepted).remote = hosts[(turn + 1) % 2]
    assert "identity_in_use_twice" not in right.observer.names


def test_dialer_that_lost_its_connection_before_it_connected_again_is_no_second_host(world: World) -> None:
    right, hosts = world.right, [Address("198.51.100.4", 1234), Address("203.0.113.4", 1234)]
    for turn in range(6):
        world.connect(world.left, right, dialer_at=hosts[turn % 2])
        world.cut_wires()
    assert "identity_in_use_twice" not in right.observer.names


def test_dialer_sends_on_the_old_session_again_when_the_new_one_dies(world: World) -> None:
    left = world.left
    old, _ = world.connect(left, world.right)
    index = left.active
    left.plane.cut = True
    world.connect(left, world.right)
    assert left.active != index
    world.pass_time(15.5)
    assert left.peer.current is old
    assert left.active == left.plane.promoted[left.peer.handle] == index
    assert "peer_disconnected" not in left.observer.names


def test_allowlist_is_checked_again_when_a_session_is_promoted(world: World) -> None:
    right = world.right
    world.left.plane.cut = True
    _, accepted = world.connect(world.left, right)
    connection = carrier(accepted)
    right.permitted = False
    world.left.plane.cut = False
    world.pass_time(1.5)
    assert right.peer.idle
    assert not right.plane.epochs
    assert right.active is None
    assert connection.closed_with is CloseCode.REFUSED
    assert right.observer.names == ["peer_denied"]


def test_duplicate_rule_lets_the_smaller_digest_win(world: World) -> None:
    left, right = world.left, world.right  # left has the smaller digest
    world.connect(left, right)
    assert left.peer.outranks_inbound()
    assert right.peer.outranks_outbound()
    assert not right.peer.outranks_inbound()
    assert not left.peer.outranks_outbound()
    world.cut_wires()  # a session without a connection does not keep the peer's dial out
    assert not left.peer.outranks_inbound()
    assert not right.peer.outranks_outbound()


def test_larger_digest_accepts_the_dial_that_outranks_its_own(world: World) -> None:
    left, right = world.left, world.right
    world.connect(right, left)
    assert not right.peer.outranks_inbound()
    dialled, accepted = world.connect(left, right)
    assert left.peer.current is dialled
    assert right.peer.current is accepted
    assert not right.peer.wants_dial()
    assert not left.peer.wants_dial()


@pytest.mark.parametrize("left_first", [True, False])
def test_nodes_that_dial_each_other_at_once_agree_on_the_session(world: World, left_first: bool) -> None:
    left, right = world.left, world.right
    pairs = [(left, right), (right, left)]
    for dialer, listener in pairs if left_first else pairs[::-1]:
        world.connect(dialer, listener, quiet=True)
    world.run()
    assert left.peer.current is not None
    assert right.peer.current is not None
    assert left.peer.current.dialled
    assert not right.peer.current.dialled
    assert left.plane.epochs[left.active or 0].tx_index == right.active
    assert right.plane.epochs[right.active or 0].tx_index == left.active
    world.pass_time(11)
    assert len(left.plane.epochs) == len(right.plane.epochs) == 1
    assert sum(link.carrier is not None for side in (left, right) for link in side.peer.links) == 2


def test_dialer_stays_with_its_newest_session_when_an_older_one_is_forgotten(world: World) -> None:
    """The listener has moved to it, which the dialer does not hear yet: sent on the one before, data would be lost."""
    left, right = world.left, world.right
    world.connect(left, right)
    world.connect(left, right)
    right.plane.cut = True
    _, newest = world.connect(left, right)
    sending = left.active
    assert len(left.peer.links) == 3
    world.pass_time(GRACE + 1)
    assert len(left.peer.links) == 2
    assert right.peer.links == [newest]
    assert left.active == sending


def test_older_session_that_is_proven_late_does_not_come_back(world: World) -> None:
    left, right = world.left, world.right
    left.plane.cut = True
    world.connect(left, right)
    left.plane.cut = False
    late = next(iter(right.plane.epochs))
    new, accepted = world.connect(left, right)
    index = right.active
    right.peer.event(late, 1, world.now)
    world.run()
    assert right.peer.current is accepted
    assert right.active == index
    assert left.peer.current is new


def test_lost_connection_leaves_the_keys_alone_and_asks_the_dialer_to_dial(world: World) -> None:
    left, right = world.left, world.right
    world.connect(left, right)
    indices = left.active, right.active
    world.cut_wires()
    assert (left.active, right.active) == indices
    assert left.peer.wants_dial()
    assert not right.peer.wants_dial()  # who dialled dials again
    assert not left.peer.up
    assert "control_lost" in left.observer.names
    assert "peer_disconnected" not in left.observer.names
    world.pass_time(440)
    assert (left.active, right.active) == indices
    world.pass_time(15)  # 450 seconds after the root was derived the keys are destroyed
    assert not left.plane.epochs
    assert not right.plane.epochs
    assert left.observer.last("peer_disconnected")[1] == "key_expired"
    assert right.peer.wants_dial()


def test_close_tells_the_peer_and_destroys_every_key(world: World) -> None:
    left, right = world.left, world.right
    _, accepted = world.connect(left, right)
    connection = carrier(accepted)
    right.peer.close(CloseCode.REFUSED, "not_allowlisted", world.now)
    assert not right.plane.epochs
    closed_at_once = connection.closed_with
    assert closed_at_once is None  # a close would overtake the sealed CLOSE
    assert right.observer.last("peer_disconnected")[1] == "not_allowlisted"
    world.run()
    assert not left.plane.epochs
    assert left.observer.last("peer_disconnected")[1] == "peer_not_allowlisted"
    for _, call in right.delayed:
        call()
    assert connection.closed_with is CloseCode.REFUSED
    assert not len(left.pool)
    assert not len(right.pool)


def test_rotation_reaches_both_ends_and_gives_indices_back(world: World) -> None:
    left, right = world.left, world.right
    world.connect(left, right, rotate_secs=5)
    before = left.active
    world.pass_time(21)
    assert [args[1] for name, args, _ in left.observer.calls if name == "rotated"] == [1, 2, 3, 4]
    assert [args[1] for name, args, _ in right.observer.calls if name == "rotated"] == [1, 2, 3, 4]
    assert left.active != before
    assert left.plane.epochs[left.active or 0].tx_index == right.active
    assert left.peer.rotations == right.peer.rotations == 4
    assert len(left.plane.epochs) <= 3
    assert set(left.plane.epochs) == {index for index in left.plane.epochs if index in left.pool}
    assert len(left.pool) == len(left.plane.epochs)


def test_rotation_can_be_asked_for_by_either_end_and_by_the_plane(world: World) -> None:
    left, right = world.left, world.right
    world.connect(left, right)
    world.now = Boottime(world.now + 2)
    assert left.peer.rotate(world.now)
    world.run()
    world.now = Boottime(world.now + 2)
    assert right.peer.rotate(world.now)
    world.run()
    world.now = Boottime(world.now + 2)
    left.peer.event(left.active or 0, EVENT_ROTATE_DUE, world.now)
    world.run()
    assert left.peer.rotations == right.peer.rotations == 3
    world.cut_wires()
    assert not left.peer.rotate(world.now)


def test_key_that_the_plane_found_expired_ends_the_session(world: World) -> None:
    left = world.left
    world.connect(left, world.right)
    left.peer.event(left.active or 0, EVENT_KEY_EXPIRED, world.now)
    assert left.peer.current is None
    assert left.peer.wants_dial()
    assert left.observer.last("peer_disconnected")[1] == "key_expired"


def test_event_of_an_epoch_that_is_gone_is_ignored(world: World) -> None:
    world.connect(world.left, world.right)
    world.left.peer.event(0xDEAD, 15 & ~EVENT_ENDPOINT_MOVED, world.now)
    assert world.left.peer.up


def test_peer_that_moved_gets_an_answer_and_is_reported(world: World) -> None:
    right = world.right
    world.connect(world.left, right)
    right.plane.set_endpoint(right.peer.handle, Address("203.0.113.9", 5))
    sent = len(right.plane.sent)
    right.peer.event(0, EVENT_ENDPOINT_MOVED, world.now)
    assert right.plane.sent[sent:] == [right.active]
    assert right.observer.last("endpoint_moved")[1] == Address("203.0.113.9", 5)


def test_rotations_keep_the_worker_of_a_session_until_one_of_the_ends_has_moved(world: World) -> None:
    """The offset of its receiver indices; of 64 workers, so that another is seen."""
    left, right = world.left, world.right
    left.pool = right.pool = IndexPool(64, random.Random(2).getrandbits)
    world.connect(left, right, rotate_secs=5)
    seen: list[list[int]] = [[], []]
    for turn in range(12):
        if turn == 4:
            right.peer.event(0, EVENT_ENDPOINT_MOVED, world.now)
        if turn == 8:
            left.peer.check(world.now)  # another way, with another address of its own
        world.pass_time(5.2)
        for offsets, side in zip(seen, (left, right), strict=True):
            offsets.append(offset_of(side.active or 0, 64))
    here, there = ([set(offsets[at : at + 4]) for at in (0, 4, 8)] for offsets in seen)
    assert here[0] == here[1] != here[2]
    assert there[0] != there[1] == there[2]
    assert all(len(each) == 1 for each in (*here, *there))
    assert left.peer.rotations == 12


def test_silent_peer_is_asked_and_then_dialled_beside_the_live_session(world: World) -> None:
    left = world.left
    world.connect(left, world.right)
    sent = len(left.plane.sent)

    def look(seconds: float, heard: float) -> None:
        stats = PeerStats(1, 1, 1, 1, int(heard * 1e9), int(world.now * 1e9), int(world.now * 1e9))
        left.plane.stats[left.peer.handle] = stats
        for _ in range(round(seconds)):
            world.now = Boottime(world.now + 1)
            left.peer.look(world.now)

    heard = world.now - 1
    look(3, heard)
    assert left.plane.pings == [left.active] * 2
    assert not left.peer.wants_dial()
    look(2, heard)
    assert left.plane.pings == [left.active] * 3
    assert left.plane.sent[sent:] == []
    assert left.peer.wants_dial()
    assert left.active is not None
    assert "peer_silent" in left.observer.names
    look(1, world.now)
    assert not left.peer.wants_dial()


def test_way_that_opens_makes_a_dialer_ask(world: World) -> None:
    world.connect(world.left, world.right)
    for side, pings in ((world.left, 1), (world.right, 0)):  # whom the right one has it has not dialled
        side.peer.check(world.now)
        assert len(side.plane.pings) == pings


def test_silence_is_looked_at_when_it_is_time(world: World) -> None:
    left = world.left
    world.connect(left, world.right)
    stats = PeerStats(1, 1, 1, 1, int((world.now - 1) * 1e9), int(world.now * 1e9), int(world.now * 1e9))
    left.plane.stats[left.peer.handle] = stats
    left.peer.look(world.now)
    began = world.now
    while not left.peer.wants_dial():
        due = left.peer.next_timer()
        assert due is not None and due > world.now
        world.now = due
        left.peer.handle_timers(world.now)
    assert world.now - began == pytest.approx(HURRIED.whole)


def fall_silent(side: Side, world: World) -> int:
    """The peer of that side does not answer any more. When it was last heard."""
    heard_ns = int((world.now - 1) * 1e9)
    for _ in range(12):
        world.now = Boottime(world.now + 1)
        stats = PeerStats(1, 1, 1, 1, heard_ns, int(world.now * 1e9), int(world.now * 1e9))
        side.plane.stats[side.peer.handle] = stats
        side.peer.look(world.now)
    assert side.peer.liveness.silent
    return heard_ns


def test_peer_that_is_silent_and_cannot_be_dialled_is_lost(world: World) -> None:
    left = world.left
    world.connect(left, world.right)
    left.peer.dial_failed()  # it is heard: that it cannot be dialled beside means nothing
    assert not left.plane.lost
    heard_ns = fall_silent(left, world)
    assert not left.plane.lost
    left.peer.dial_failed()
    assert left.plane.lost == {left.peer.handle: heard_ns}


def test_peer_that_could_not_be_dialled_before_it_was_missed_is_lost_as_soon_as_it_is_silent(world: World) -> None:
    left = world.left
    world.connect(left, world.right)
    heard_ns = int((world.now - 1) * 1e9)
    left.plane.stats[left.peer.handle] = SILENT._replace(last_rx_ns=heard_ns)
    left.peer.dial_failed()
    assert fall_silent(left, world) == heard_ns
    assert left.plane.lost == {left.peer.handle: heard_ns}


def test_peer_that_dials_is_lost_when_its_connection_is(world: World) -> None:
    right = world.right
    _, accepted = world.connect(world.left, right)
    heard_ns = fall_silent(right, world)
    assert not right.plane.lost
    right.peer.carrier_lost(accepted, "timeout", world.now)
    right.peer.look(world.now)
    assert right.plane.lost == {right.peer.handle: heard_ns}


def test_peer_whose_connection_is_lost_and_that_is_heard_is_not_lost(world: World) -> None:
    right = world.right
    _, accepted = world.connect(world.left, right)
    right.peer.carrier_lost(accepted, "timeout", world.now)
    now_ns = int(world.now * 1e9)
    right.plane.stats[right.peer.handle] = PeerStats(1, 1, 1, 1, now_ns, now_ns - 1, now_ns - 1)
    right.peer.look(Boottime(world.now + 1))
    assert not right.plane.lost


@pytest.mark.parametrize("messages", [(), (MESSAGE_PING,)])
def test_peer_that_dials_or_does_not_answer_pings_is_given_ten_seconds(world: World, messages: tuple[int, ...]) -> None:
    world.connect(world.left, world.right, messages=messages)
    side = world.right if messages else world.left
    heard = world.now - 1

    def look(seconds: int) -> None:
        for _ in range(seconds):
            world.now = Boottime(world.now + 1)
            stats = PeerStats(1, 1, 1, 1, int(heard * 1e9), int(world.now * 1e9), int(world.now * 1e9))
            side.plane.stats[side.peer.handle] = stats
            side.peer.look(world.now)

    look(6)
    assert side.plane.pings == [side.active]
    look(4)
    assert "peer_silent" not in side.observer.names
    look(2)
    assert "peer_silent" in side.observer.names
    # The connection of one that was restarted must not stand in the way of the one that it dials now.
    assert carrier(side.peer.current).probes == (1 if side is world.right else 0)


def test_peer_cannot_pile_up_sessions_that_it_never_proves(world: World) -> None:
    right = world.right
    world.left.plane.cut = True
    links = [world.connect(world.left, right, answer=False)[1] for _ in range(CANDIDATES_MAX + 2)]
    assert len(right.plane.epochs) == CANDIDATES_MAX
    assert [link.ended for link in links] == [True, True] + [False] * CANDIDATES_MAX
    assert len(right.pool) == CANDIDATES_MAX


def test_peer_cannot_pile_up_sessions_in_their_grace(world: World) -> None:
    right = world.right
    for _ in range(RETIRED_MAX + 4):
        world.connect(world.left, right)
    assert len(right.peer.links) == len(right.plane.epochs) == len(right.pool) == RETIRED_MAX + 1
    assert right.peer.up
    assert right.active in right.plane.epochs


def test_plane_that_refuses_keys_ends_the_session(world: World) -> None:
    right = world.right
    right.plane.install_error = PlaneError("no")
    _, link = world.connect(world.left, right, answer=False)
    assert link.ended
    assert right.peer.idle
    assert "internal_error" in right.observer.names
    assert not len(right.pool)


@pytest.mark.parametrize("first", [0, 1])
def test_both_ends_keep_the_same_of_two_sessions_whose_messages_cross(world: World, first: int) -> None:
    """The listener's order counts, whichever M4 the dialer opens first, and whichever session is proven first."""
    left, right = world.left, world.right
    accepted, opens = [], []
    for _ in range(2):
        accepted.append(world.connect(left, right, answer=False)[1])
        opens.append(world.open_m4)
    dialled = {turn: opens[turn]() for turn in (first, 1 - first)}
    world.run()
    assert left.peer.current is dialled[1]
    assert right.peer.current is accepted[1]
    world.pass_time(11)
    assert left.peer.links == [dialled[1]]
    assert right.peer.links == [accepted[1]]
    assert left.peer.up
    assert right.peer.up


def test_without_numbers_the_order_of_the_dialer_counts_for_it(world: World) -> None:
    """A listener of a version before gives none, and an earlier life of one has others."""
    left, right = world.left, world.right
    older, _ = world.connect(left, right)
    newer, _ = world.connect(left, right, numbered=False)
    assert left.peer.current is newer
    assert newer.is_later(older)
    right.peer.close(CloseCode.OK, "restarted", Boottime(world.now))
    world.right.peer._life = bytes(8)
    world.right.peer._numbers = itertools.count(0)
    world.run()
    after, _ = world.connect(left, right)
    assert after.is_later(newer)
    assert after.is_later(older)
    assert left.peer.current is after


def test_forged_records_are_told_and_renew_the_keys(world: World) -> None:
    left, right = world.left, world.right
    world.connect(left, right)
    before = left.active
    left.peer.event(before or 0, EVENT_FORGED | EVENT_ROTATE_DUE, world.now)
    world.run()
    assert left.observer.last("records_forged") == (right.identity.peer_id, 0)
    assert left.active != before


def test_forsaken_sessions_leave_no_key_and_say_nothing(world: World) -> None:
    """What a copy of this machine may do as well must not be done twice: nothing is sealed, not even a CLOSE."""
    left, right = world.left, world.right
    dialled, _ = world.connect(left, right)
    connection = carrier(dialled)
    sent = len(left.plane.sent)
    left.peer.forsake("vm_generation_changed")
    assert not left.plane.epochs
    assert not connection.sent
    assert connection.closed_with is None
    assert len(left.plane.sent) == sent
    assert left.peer.wants_dial()
    assert left.observer.last("peer_disconnected")[1] == "vm_generation_changed"
    world.connect(left, right)
    assert left.peer.up
    assert right.peer.up


@pytest.mark.parametrize("messages", [(), (MESSAGE_PING,)])
def test_dialer_whose_keepalives_are_pings_spares_those_of_quic(world: World, messages: tuple[int, ...]) -> None:
    world.connect(world.left, world.right, messages=messages, keepalive=10)
    assert carrier(world.left.peer.current).relaxed is bool(messages)
    assert not carrier(world.right.peer.current).relaxed


def test_connection_of_a_dialer_that_says_nothing_is_asked_now_and_then(world: World) -> None:
    world.connect(world.left, world.right, messages=(MESSAGE_PING,))
    began, heard = world.now, world.now
    asked = []
    for second in range(1, 70):
        world.now = Boottime(began + second)
        heard = world.now if second <= 10 else heard  # its last sign of life
        world.right.plane.stats[world.right.peer.handle] = PeerStats(1, 1, 0, 0, int(heard * 1e9), 0, 0)
        before = carrier(world.right.peer.current).probes
        world.right.peer.look(world.now)
        if carrier(world.right.peer.current).probes > before:
            asked.append(second)
    assert asked == [30, 50]
    assert carrier(world.left.peer.current).probes == 0


def test_dialer_that_may_have_moved_shows_it_on_its_connection_too(world: World) -> None:
    world.connect(world.left, world.right, messages=(MESSAGE_PING,))
    for side in (world.left, world.right):
        side.peer.check(world.now)
    assert carrier(world.left.peer.current).shown == 1
    assert carrier(world.right.peer.current).shown == 0


class Watched:
    """A peer that is looked at once a second, and how often that was a close look."""

    def __init__(self, world: World, keepalive: int | None = None) -> None:
        world.connect(world.left, world.right, messages=(MESSAGE_PING,), keepalive=keepalive)
        self.world, self.side = world, world.left
        self.closely = 0
        look = self.side.peer.path.look

        def counted(stats: PeerStats, now: Boottime) -> None:
            self.closely += 1
            look(stats, now)

        self.side.peer.path.look = counted  # type: ignore[method-assign]

    def looks(self, seconds: int, *, rx: float, tx: float, packets: int = 1, data: float = 0) -> int:
        before = self.closely
        for _ in range(seconds):
            self.world.now = Boottime(self.world.now + 1)
            stats = PeerStats(packets, 100 * packets, packets, 0, int(rx * 1e9), int(tx * 1e9), int(data * 1e9))
            self.side.plane.stats[self.side.peer.handle] = stats
            self.side.peer.look(self.world.now)
        return self.closely - before


def test_peer_at_rest_is_looked_at_closely_every_few_seconds(world: World) -> None:
    watched = Watched(world)
    start = world.now
    watched.looks(3, rx=start, tx=start)
    assert 3 <= watched.looks(20, rx=start, tx=start) <= 5


def test_keepalive_of_a_peer_at_rest_is_on_time(world: World) -> None:
    watched = Watched(world, keepalive=10)
    start = world.now
    watched.looks(9, rx=start, tx=start)
    assert watched.side.plane.pings == []
    watched.looks(1, rx=start, tx=start)
    assert len(watched.side.plane.pings) == 1


def test_peer_at_rest_that_gets_data_is_looked_at_at_once_and_its_rate_is_of_that_second(world: World) -> None:
    watched = Watched(world)
    start = world.now
    watched.looks(7, rx=start, tx=start)
    assert watched.looks(1, rx=world.now + 1, tx=start, packets=11) == 1
    assert watched.side.peer.meter.rx_rate == pytest.approx(1000 / 1.0, rel=0.01)
    assert watched.looks(1, rx=world.now, tx=start, packets=11) == 1
    assert watched.side.peer.meter.rx_rate == 0


def test_silence_of_a_peer_at_rest_is_noticed_as_soon_as_that_of_any(world: World) -> None:
    watched = Watched(world)
    start = world.now
    watched.looks(7, rx=start, tx=start)
    sent = world.now + 0.5
    watched.looks(1, rx=start, tx=sent, packets=2, data=sent)
    assert watched.side.peer.liveness.unheard_since == world.now
