"""Both ends of a handshake as the node runs it: Inbound and Outbound on a connection in memory.

The stand-ins for connection, fleet and reporter have what these two ask of them, which is all that ``arg-type`` is
ignored for here.
"""

import random
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from ipaddress import ip_interface, ip_network
from typing import Any

import pytest

from cryprq._fastpath import PeerStats
from cryprq.address import Address, Local
from cryprq.errors import MachineError
from cryprq.peer_id import PeerId
from cryprq.peers.inbound import Admittance, Announcement, Inbound
from cryprq.peers.outbound import HandshakeSettings, Outbound, Outcome
from cryprq.peers.peer import HANDSHAKE_BURST, HANDSHAKE_RATE
from cryprq.protocol.clock import Boottime
from cryprq.protocol.frames import CloseCode, FrameType
from cryprq.protocol.parameters import Parameters
from tests.rigs.fakes import DIALER, FakeConnection, Side, identity
from tests.rigs.fakes import LISTENER as GATEWAY


class FakeFleet:
    """Permits, and assigns, what the test says."""

    def __init__(self, *permitted: PeerId) -> None:
        self.permitted = set(permitted)
        self.given: tuple[Any, ...] = (ip_network("10.9.0.2/32"),)
        self.waiting: list[Callable[[], None]] | None = None
        """Who waits until the address is written down; None: it is."""

    def permits(self, peer_id: PeerId) -> bool:
        return peer_id in self.permitted

    def invitation_key(self, _: bytes) -> None:
        return None

    def networks(self, _: PeerId) -> tuple[Any, ...]:
        return self.given

    def lease(self, _: PeerId) -> tuple[Any, ...]:
        return (ip_interface("10.9.0.2/24"),)

    def prepare(self, _: PeerId, ready: Callable[[], None]) -> bool:
        if self.waiting is None:
            return True
        self.waiting.append(ready)
        return False


class Timer:
    def __init__(self, call: Callable[[], None]) -> None:
        self.call = call
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class End(Side):
    """A side that can listen and dial."""

    def __init__(self, number: int, other: int, clock: Callable[[], Boottime]) -> None:
        super().__init__(number, other)
        self.clock = clock
        self.settings = HandshakeSettings(
            identity=self.identity, lanes=1, aeads=(1, 2), rotate_secs=300, mtu=1420, indices=self.pool
        )
        self.fleet = FakeFleet(identity(other).peer_id)
        self.obtain_error: MachineError | None = None
        self.spared: set[Any] = set()
        self.taken: list[Parameters] = []
        self.refusal: str | None = None
        self.outcomes: list[Outcome] = []
        self.timers: list[Timer] = []
        self.tokens = 100
        self.admittance = Admittance(
            settings=self.settings,
            fleet=self.fleet,  # type: ignore[arg-type]
            announced=Announcement((ip_network("10.9.0.0/24"), ip_network("192.168.7.0/24"))),
            obtain=self._obtain,
            allowed=self.fleet.networks,
            spares_endpoint=lambda network: network in self.spared,
            allow_m2=self._allow_m2,
            token_for=lambda peer: b"token for " + peer,
            reporter=self.observer,  # type: ignore[arg-type]
            clock=clock,
        )

    def _obtain(self, _: PeerId) -> Any:
        if self.obtain_error is not None:
            raise self.obtain_error
        return self.peer

    def _allow_m2(self, _: Any) -> bool:
        self.tokens -= 1
        return self.tokens >= 0

    def _take(self, _: Any, parameters: Parameters, __: Address) -> str | None:
        self.taken.append(parameters)
        return self.refusal

    def _later(self, _: float, call: Callable[[], None]) -> Timer:
        self.timers.append(Timer(call))
        return self.timers[-1]

    def dial(self) -> Outbound:
        return Outbound(
            self.peer,
            GATEWAY,
            self.settings,
            timeout=3.0,
            take=self._take,
            ended=self.outcomes.append,
            reporter=self.observer,  # type: ignore[arg-type]
            clock=self.clock,
            call_later=self._later,
        )


class Path:
    """A connection between two ends, message by message. ``step`` does one thing and says whether there was one."""

    def __init__(self, dialer: End, listener: End) -> None:
        self.here, self.there = FakeConnection(GATEWAY), FakeConnection(DIALER, Local("192.0.2.1"))
        self.outbound, self.inbound = dialer.dial(), listener.admittance.accept(self.there)  # type: ignore[arg-type]
        self.outbound.begin(self.here)  # type: ignore[arg-type]
        self.ends: list[tuple[Any, Any, Outbound | Inbound]] = [
            (self.here, self.there, self.inbound),
            (self.there, self.here, self.outbound),
        ]
        self.queues: list[deque[tuple[FrameType, bytes, bytes]]] = [deque(), deque()]
        self.gone = [False, False]
        self.inbound.connected(self.there)  # type: ignore[arg-type]
        self.outbound.connected(self.here)  # type: ignore[arg-type]

    def step(self) -> bool:
        for which, (sender, receiver, handler) in enumerate(self.ends):
            self.queues[which].extend(sender.frames())
            if self.queues[which]:
                frame = self.queues[which].popleft()
                if receiver.closed_with is None:
                    handler.frame(receiver, *frame)
                return True
        for which, (sender, receiver, handler) in enumerate(self.ends):
            if sender.closed_with is not None and not self.gone[which]:
                self.gone[which] = True
                if receiver.closed_with is None:
                    handler.closed(receiver, int(sender.closed_with), "", True)
                    return True
        return False

    def run(self) -> None:
        while self.step():
            pass


class Net:
    """Two ends; ``run`` carries everything on all paths, in the order that ``choose`` picks."""

    def __init__(self) -> None:
        self.now = Boottime(1000.0)
        self.left, self.right = End(0, 1, self.clock), End(1, 0, self.clock)
        self.left.plane.others, self.right.plane.others = [self.right.plane], [self.left.plane]
        self.paths: list[Path] = []

    def clock(self) -> Boottime:
        return self.now

    def path(self, dialer: End, listener: End) -> Path:
        self.paths.append(Path(dialer, listener))
        return self.paths[-1]

    def records(self, end: End) -> bool:
        events = end.plane.events()
        for event in events:
            end.peer.event(event.rx_index, event.flags, self.now)
        return bool(events)

    def run(self, choose: random.Random | None = None) -> None:
        """Until nothing is left to do."""
        while True:
            things: list[Callable[[], bool]] = [path.step for path in self.paths]
            things += [partial(self.records, end) for end in (self.left, self.right)]
            if choose is not None:
                choose.shuffle(things)
            if not any(thing() for thing in things):
                return

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.now = Boottime(self.now + 1)
            for end in (self.left, self.right):
                end.peer.handle_timers(self.now)
            self.run()


@pytest.fixture
def net() -> Net:
    return Net()


def test_handshake_gives_both_ends_a_session(net: Net) -> None:
    path = net.path(net.left, net.right)
    net.run()
    assert net.left.peer.up
    assert net.right.peer.up
    assert net.left.outcomes == [Outcome.SESSION]
    assert path.outbound.answered
    assert path.outbound.over
    assert path.here.is_authenticated
    assert path.there.is_authenticated
    assert all(timer.cancelled for timer in net.left.timers)
    complete = net.right.observer.last("handshake_complete")
    assert complete[0] == net.left.identity.peer_id
    assert complete[2] == "inbound"


def with_settings(end: End, **changes: Any) -> None:
    end.settings = replace(end.settings, **changes)
    end.admittance.settings = end.settings


@pytest.mark.parametrize(
    ("workers", "asks", "listener_asks", "agreed"),
    [(4, True, False, True), (4, False, False, False), (4, False, True, False), (9, True, False, False)],
    ids=["asked", "not asked", "a listener's own wish", "more workers than lanes"],
)
def test_lanes_have_ports_if_the_dialer_asks(
    net: Net, workers: int, asks: bool, listener_asks: bool, agreed: bool
) -> None:
    with_settings(net.left, lanes=workers, lane_ports=asks)
    with_settings(net.right, lanes=2, lane_ports=listener_asks)
    net.path(net.left, net.right)
    net.run()
    assert net.left.peer.up and net.right.peer.up
    assert net.left.plane.lanes[net.left.peer.handle] == (agreed, False)
    # Of workers that share lanes the listener cannot know: what it hears then is all from one port.
    assert net.right.plane.lanes[net.right.peer.handle] == (False, asks)


def test_later_session_without_ports_of_lanes_ends_them(net: Net) -> None:
    with_settings(net.left, lanes=4, lane_ports=True)
    net.path(net.left, net.right)
    net.run()
    with_settings(net.left, lane_ports=False)
    net.path(net.left, net.right)
    net.run()
    assert net.left.plane.lanes[net.left.peer.handle] == net.right.plane.lanes[net.right.peer.handle] == (False, False)


@pytest.mark.parametrize("ecn", [True, False])
def test_ecn_is_offered_unless_it_is_off(net: Net, ecn: bool) -> None:
    with_settings(net.left, ecn=ecn)
    net.path(net.left, net.right)
    net.run()
    assert net.right.peer.current is not None and net.right.peer.current.minds_ecn == ecn
    assert net.left.taken[0].ecn


def test_session_given_up_for_another_hosts_is_told_to_the_dialers_schedule(net: Net) -> None:
    path = net.path(net.left, net.right)
    net.run()
    path.outbound.closed(path.here, CloseCode.REPLACED, "replaced", True)  # type: ignore[arg-type]
    assert net.left.outcomes == [Outcome.SESSION, Outcome.REPLACED]
    assert net.left.peer.wants_dial()


def test_session_given_up_for_one_of_the_dialers_own_is_not(net: Net) -> None:
    old = net.path(net.left, net.right)
    net.run()
    net.path(net.left, net.right)
    net.run()
    assert old.there.closed_with is CloseCode.REPLACED
    assert net.left.outcomes == [Outcome.SESSION, Outcome.SESSION]
    assert net.left.peer.up


def test_m4_tells_addresses_routes_mtu_and_rotation(net: Net) -> None:
    announced = Announcement((ip_network("10.9.0.0/24"),))
    net.right.admittance.reconfigure(announced, 60, 5, {})
    net.path(net.left, net.right)
    net.run()
    (told,) = net.left.taken
    assert told.token == net.left.peer.token == b"token for " + net.left.identity.peer_id.digest
    assert told.addresses == (ip_interface("10.9.0.2/24"),)
    assert told.routes == (ip_network("10.9.0.0/24"),)
    assert told.mtu == 1420
    assert told.rotate_secs == 60
    assert net.left.peer.current is not None
    assert net.left.peer.current.session.rotate_secs == 60


# ---- the pre-shared key, and the key agreement ----

PSK, OTHER_PSK = bytes(range(32)), bytes(range(1, 33))


def share(net: Net, ours: bytes | None, theirs: bytes | None) -> None:
    """Gives the dialer and the listener a key for each other."""
    for end, psk in ((net.left, ours), (net.right, theirs)):
        psks = {} if psk is None else {end.peer.peer_id: psk, identity(2).peer_id: bytes(32)}
        end.settings = end.admittance.settings = replace(end.settings, psks=psks)


def test_same_pre_shared_key_at_both_ends(net: Net) -> None:
    share(net, PSK, PSK)
    net.path(net.left, net.right)
    net.run()
    assert net.left.outcomes == [Outcome.SESSION]
    assert net.left.peer.up
    assert net.right.peer.up


@pytest.mark.parametrize(("ours", "theirs"), [(PSK, OTHER_PSK), (PSK, None), (None, PSK)])
def test_different_pre_shared_keys_are_told_at_both_ends_and_leave_nothing(
    net: Net, ours: bytes | None, theirs: bytes | None
) -> None:
    share(net, ours, theirs)
    path = net.path(net.left, net.right)
    net.run()
    assert path.here.closed_with is CloseCode.PSK
    for end in (net.left, net.right):
        (reason, _), fields = end.observer.last("handshake_failed"), end.observer.fields("handshake_failed")
        assert (reason, fields["peer_id"]) == ("psk", end.peer.peer_id)
        assert fields["hint"].startswith("the pre-shared key differs")
        assert end.peer.idle
        assert not len(end.pool)
    assert net.left.outcomes == [Outcome.REFUSED]


def test_session_in_use_outlives_a_handshake_with_a_wrong_pre_shared_key(net: Net) -> None:
    share(net, PSK, PSK)
    net.path(net.left, net.right)
    net.run()
    used = net.left.peer.current, net.right.peer.current
    share(net, PSK, OTHER_PSK)
    net.path(net.left, net.right)
    net.run()
    assert (net.left.peer.current, net.right.peer.current) == used
    assert net.right.observer.last("handshake_failed")[0] == "psk"
    for end in (net.left, net.right):
        assert end.peer.up
        assert len(end.peer.links) == 1


def test_close_with_that_code_by_a_peer_that_is_established_ends_no_session(net: Net) -> None:
    """Its records have shown that it has the keys."""
    path = net.path(net.left, net.right)
    net.run()
    path.inbound.closed(path.there, CloseCode.PSK, "", True)  # type: ignore[arg-type]
    assert net.right.peer.current is not None
    assert "peer_disconnected" not in net.right.observer.names
    assert "handshake_failed" not in net.right.observer.names


def test_key_agreement_that_the_listener_does_not_accept_is_named_at_both_ends(net: Net) -> None:
    net.left.settings = replace(net.left.settings, kems=(2, 1))
    net.right.admittance.settings = replace(net.right.settings, kems=(1,))
    path = net.path(net.left, net.right)
    net.run()
    assert path.there.closed_with is CloseCode.REFUSED
    assert net.right.observer.last("handshake_failed")[0] == "kem"
    assert net.right.observer.fields("handshake_failed")["hint"] == (
        "the dialer wants --kem x25519-mlkem1024, this node accepts x25519-mlkem768"
    )
    assert "--kem x25519-mlkem1024" in net.left.observer.fields("handshake_failed")["hint"]


@pytest.mark.parametrize("kem", [1, 2])
def test_listener_takes_whichever_it_accepts(net: Net, kem: int) -> None:
    net.left.settings = replace(net.left.settings, kems=(kem,))
    net.right.admittance.settings = replace(net.right.settings, kems=(2, 1))
    net.path(net.left, net.right)
    net.run()
    assert net.left.peer.current is not None
    assert net.left.peer.current.session.kem == kem


def test_peer_outside_the_allowlist_is_denied_and_the_dialer_told_what_to_check(net: Net) -> None:
    net.right.fleet.permitted.clear()
    path = net.path(net.left, net.right)
    net.run()
    assert net.right.observer.last("peer_denied")[0] == net.left.identity.peer_id
    assert net.right.observer.fields("handshake_failed")["quiet"]
    assert path.there.closed_with is CloseCode.REFUSED
    assert path.there.refused_identities == [net.left.identity.peer_id.digest]
    assert path.there.failures == 0
    assert net.right.peer.idle
    assert net.left.outcomes == [Outcome.REFUSED]
    assert net.left.observer.last("handshake_failed")[0] == "refused"
    assert f"--allow-peer {net.left.identity.peer_id}" in net.left.observer.fields("handshake_failed")["hint"]
    assert not len(net.left.pool)
    assert not len(net.right.pool)


def test_wrong_peer_id_gets_no_answer_that_tells_anything(net: Net) -> None:
    net.right.admittance.settings = replace(net.right.settings, identity=identity(2))
    path = net.path(net.left, net.right)
    net.run()
    assert net.right.observer.last("handshake_failed")[0] == "knock"
    assert path.there.closed_with is CloseCode.REFUSED
    assert "check --peer" in net.left.observer.fields("handshake_failed")["hint"]


def test_frame_out_of_order_is_refused_like_anything_else(net: Net) -> None:
    path = net.path(net.left, net.right)
    path.inbound.frame(path.there, FrameType.REKEY, b"", b"")  # type: ignore[arg-type]
    assert path.there.closed_with is CloseCode.REFUSED
    assert path.there.failures == 1
    assert not len(net.right.pool)


def test_no_token_for_m2_is_no_failure_of_the_source(net: Net) -> None:
    net.right.tokens = 0
    path = net.path(net.left, net.right)
    net.run()
    assert path.there.closed_with is CloseCode.REFUSED
    assert path.there.failures == 0
    assert net.right.observer.last("handshake_failed")[0] == "busy"


def test_full_tunnel_network_refuses_without_a_session(net: Net) -> None:
    net.right.obtain_error = MachineError("no free address")
    path = net.path(net.left, net.right)
    net.run()
    assert net.right.observer.last("handshake_failed")[0] == "no_address"
    assert path.there.closed_with is CloseCode.REFUSED
    assert net.right.peer.idle
    assert path.there.failures == 0


def test_peer_that_does_nothing_but_connect_is_refused(net: Net) -> None:
    for _ in range(HANDSHAKE_BURST):
        assert net.right.peer.may_begin(net.now)
    path = net.path(net.left, net.right)
    net.run()
    assert net.right.observer.last("handshake_failed")[0] == "too_often"
    assert path.there.closed_with is CloseCode.REFUSED
    assert path.there.refused_identities == [net.left.identity.peer_id.digest]
    assert net.right.peer.idle
    net.pass_time(round(1 / HANDSHAKE_RATE))
    net.path(net.left, net.right)
    net.run()
    assert net.right.peer.current is not None


def test_peer_whose_networks_cover_its_own_endpoint_is_refused(net: Net) -> None:
    net.right.fleet.given = (ip_network("192.0.2.0/24"),)
    net.path(net.left, net.right)
    net.run()
    assert net.right.observer.last("handshake_failed")[0] == "endpoint_covered"
    assert net.right.peer.idle


def test_dialer_inside_its_own_network_comes_in_where_routing_spares_it(net: Net) -> None:
    net.right.fleet.given = (ip_network("0.0.0.0/0"),)
    net.right.spared = {ip_network("0.0.0.0/0")}
    net.path(net.left, net.right)
    net.run()
    assert "handshake_complete" in net.right.observer.names


def test_peer_is_not_told_of_what_it_owns(net: Net) -> None:
    net.right.fleet.given = (ip_network("10.9.0.2/32"), ip_network("192.168.0.0/16"))
    net.path(net.left, net.right)
    net.run()
    assert net.left.taken[0].routes == (ip_network("10.9.0.0/24"),)


def test_parameters_that_the_dialer_refuses_end_the_handshake(net: Net) -> None:
    net.left.refusal = "the gateway announces 192.0.2.0/24, which contains its own address"
    path = net.path(net.left, net.right)
    net.run()
    assert net.left.observer.fields("handshake_failed")["hint"] == net.left.refusal
    assert net.left.peer.idle
    assert path.here.closed_with is CloseCode.REFUSED
    assert not net.left.plane.epochs
    net.pass_time(16)
    assert not net.right.plane.epochs
    assert not len(net.left.pool)
    assert not len(net.right.pool)


def test_stopping_listener_admits_nobody(net: Net) -> None:
    net.right.admittance.stopping = True
    path = net.path(net.left, net.right)
    net.run()
    assert path.there.closed_with is CloseCode.SHUTDOWN
    assert net.left.outcomes == [Outcome.FAILED]
    assert net.left.observer.last("handshake_failed")[0] == "shutdown"


def test_handshake_that_is_under_way_when_the_listener_stops_ends_without_a_session(net: Net) -> None:
    path = net.path(net.left, net.right)
    path.step()  # M1
    path.step()  # M2: M3 is on its way
    net.right.admittance.stopping = True
    net.run()
    assert path.there.closed_with is CloseCode.SHUTDOWN
    assert net.right.peer.idle
    assert not len(net.right.pool)


@pytest.mark.parametrize("steps", [0, 1])
def test_dialer_that_goes_before_m3_has_failed_and_that_is_told(net: Net, steps: int) -> None:
    """TLS costs a signature, an M2 more of them and an encapsulation."""
    path = net.path(net.left, net.right)
    for _ in range(steps):
        path.step()
    path.inbound.closed(path.there, 3, "", True)  # type: ignore[arg-type]
    assert path.there.failures == 1
    assert net.right.observer.last("handshake_failed")[0] == "left"


def test_dialer_that_gets_its_session_has_not_failed(net: Net) -> None:
    path = net.path(net.left, net.right)
    net.run()
    path.inbound.closed(path.there, 0, "", True)  # type: ignore[arg-type]
    assert path.there.failures == 0


def test_handshake_that_stalls_is_given_up(net: Net) -> None:
    path = net.path(net.left, net.right)
    net.left.timers[0].call()
    assert path.here.closed_with is CloseCode.TIMEOUT
    assert net.left.outcomes == [Outcome.FAILED]
    assert net.left.observer.last("handshake_failed")[0] == "timeout"


def test_abandoned_attempt_says_nothing(net: Net) -> None:
    attempt = net.left.dial()
    connection = FakeConnection(GATEWAY)
    attempt.begin(connection)  # type: ignore[arg-type]
    attempt.abandon()
    attempt.connected(connection)  # type: ignore[arg-type]
    attempt.closed(connection, 3, "", False)  # type: ignore[arg-type]
    assert connection.closed_with is CloseCode.TIMEOUT
    assert not connection.sent
    assert net.left.outcomes == [Outcome.UNANSWERED]
    assert not net.left.observer.calls


def test_unanswered_attempt_keeps_the_reason(net: Net) -> None:
    attempt = net.left.dial()
    attempt.closed(FakeConnection(GATEWAY), -1, "no answer (Network is unreachable)", False)  # type: ignore[arg-type]
    assert attempt.over
    assert not attempt.answered
    assert attempt.detail == "no answer (Network is unreachable)"
    assert net.left.outcomes == [Outcome.UNANSWERED]


def test_connection_lost_later_is_the_peers_affair(net: Net) -> None:
    path = net.path(net.left, net.right)
    net.run()
    path.outbound.closed(path.here, -1, "idle timeout", False)  # type: ignore[arg-type]
    path.inbound.closed(path.there, -1, "idle timeout", False)  # type: ignore[arg-type]
    assert net.left.peer.wants_dial()
    assert net.right.peer.current is not None
    assert net.left.observer.last("control_lost")[2] == "idle timeout"


def test_second_dial_of_the_larger_digest_is_a_duplicate(net: Net) -> None:
    net.path(net.left, net.right)
    net.run()
    path = net.path(net.right, net.left)
    net.run()
    assert net.right.outcomes == [Outcome.DUPLICATE]
    assert path.here.closed_with is CloseCode.DUPLICATE
    assert not path.there.is_authenticated  # whoever does not close now has no connection for ever
    assert path.there.failures == 0
    assert len(net.left.plane.epochs) == len(net.right.plane.epochs) == 1
    assert net.left.peer.current is not None
    assert net.left.peer.current.dialled


def test_session_that_outranks_a_dial_is_asked_whether_the_peer_still_has_it(net: Net) -> None:
    """A peer that was killed and started again dials, while this side still takes the old connection for alive."""
    first = net.path(net.left, net.right)
    net.run()
    assert first.here.probes == 0
    net.path(net.right, net.left)
    net.run()
    assert first.here.probes == 1
    first.outbound.closed(first.here, -1, "idle timeout", False)  # type: ignore[arg-type]
    first.inbound.closed(first.there, -1, "idle timeout", False)  # type: ignore[arg-type]
    assert net.left.peer.wants_dial()
    net.path(net.right, net.left)
    net.run()
    assert net.right.outcomes[-1] is Outcome.SESSION


@pytest.mark.parametrize("steps", range(14))
def test_peer_removed_at_any_moment_has_no_session(net: Net, steps: int) -> None:
    """During the handshake, before the first record, during a rotation, with another session about to take over."""
    left, right = net.left, net.right
    if steps >= 6:
        net.path(left, right)
        net.run()
        assert left.peer.rotate(Boottime(net.now + 2))  # and beside it a second handshake
    path = net.path(left, right)
    for _ in range(steps % 6 if steps < 12 else 20):
        any(each.step() for each in net.paths)
    if steps == 13:
        net.records(right)
    right.fleet.permitted.clear()
    right.permitted = False
    right.peer.close(CloseCode.REFUSED, "not_allowlisted", net.now)
    net.run()
    assert right.peer.idle
    assert not right.plane.epochs
    for end in (left, right):
        for timer in end.timers:
            if not timer.cancelled and not path.outbound.over:
                timer.call()
        for _, call in end.delayed:
            call()
    net.run()
    net.pass_time(16)
    assert right.peer.idle
    assert left.peer.current is None or left.peer.current.carrier is None
    for end in (left, right):
        assert len(end.pool) == len(end.plane.epochs)
    assert "peer_connected" not in right.observer.names or right.observer.names.count("peer_disconnected") == 1


@pytest.mark.parametrize("seed", range(40))
def test_nodes_that_dial_each_other_agree_in_whatever_order_things_happen(net: Net, seed: int) -> None:
    choose = random.Random(seed)
    ends = [(net.left, net.right), (net.right, net.left)]
    for dialer, listener in ends if seed % 2 else ends[::-1]:
        net.path(dialer, listener)
    net.run(choose)
    net.pass_time(16)
    left, right = net.left, net.right
    assert left.peer.current is not None
    assert right.peer.current is not None
    assert left.peer.current.dialled  # the smaller digest
    assert not right.peer.current.dialled
    assert left.plane.epochs[left.active or 0].tx_index == right.active
    assert right.plane.epochs[right.active or 0].tx_index == left.active
    assert len(left.plane.epochs) == len(right.plane.epochs) == len(left.pool) == len(right.pool) == 1
    assert not left.peer.wants_dial()
    assert not right.peer.wants_dial()
    for end in (left, right):
        assert "peer_disconnected" not in end.observer.names


def test_dialer_keeps_the_path_open_as_the_listener_asks(net: Net) -> None:
    net.path(net.left, net.right)
    net.run()
    assert [link.keepalive for link in net.left.peer.links] == [10]
    assert [link.keepalive for link in net.right.peer.links] == [None]
    for side, empties in ((net.left, 1), (net.right, 0)):
        side.plane.stats[side.peer.handle] = PeerStats(0, 0, 0, 0, 0, int((net.now - 10) * 1e9), 0)
        before = len(side.plane.sent)
        side.peer.look(net.now)
        assert len(side.plane.sent) == before + empties


# ---- an address that has yet to be written down ----


def waiting(net: Net) -> tuple[Path, Callable[[], None]]:
    """A handshake whose listener has M3, and what it is to be told."""
    net.right.fleet.waiting = []
    path = net.path(net.left, net.right)
    net.run()
    assert net.right.peer.idle and net.left.peer.current is None
    (ready,) = net.right.fleet.waiting
    return path, ready


def test_dialer_is_answered_when_its_address_is_written_down(net: Net) -> None:
    _, ready = waiting(net)
    ready()
    net.run()
    assert net.left.peer.current is not None
    assert net.left.taken[-1].addresses == (ip_interface("10.9.0.2/24"),)


def test_dialer_whose_address_cannot_be_written_down_is_told_to_go(net: Net) -> None:
    path, ready = waiting(net)
    net.right.obtain_error = MachineError("the disk is full")
    ready()
    net.run()
    assert path.there.closed_with is CloseCode.REFUSED
    assert net.right.observer.fields("handshake_failed")["hint"] == "the disk is full"
    assert len(net.right.pool) == 0


def test_dialer_that_is_removed_meanwhile_is_denied(net: Net) -> None:
    path, ready = waiting(net)
    net.right.fleet.permitted.clear()
    ready()
    net.run()
    assert path.there.closed_with is CloseCode.REFUSED
    assert "peer_denied" in net.right.observer.names
    assert len(net.right.pool) == 0


def test_node_that_stops_meanwhile_gives_no_session(net: Net) -> None:
    path, ready = waiting(net)
    net.right.admittance.stopping = True
    ready()
    assert path.there.closed_with is CloseCode.SHUTDOWN
    assert len(net.right.pool) == 0


def test_dialer_that_leaves_meanwhile_leaves_nothing(net: Net) -> None:
    path, ready = waiting(net)
    path.inbound.closed(path.there, 0, "left", True)  # type: ignore[arg-type]
    ready()
    assert net.right.peer.idle and len(net.right.pool) == 0


def test_dialer_that_speaks_meanwhile_is_refused(net: Net) -> None:
    path, ready = waiting(net)
    path.inbound.frame(path.there, FrameType.AUTH, b"", bytes(64))  # type: ignore[arg-type]
    assert path.there.closed_with is CloseCode.REFUSED
    ready()
    assert net.right.peer.idle and len(net.right.pool) == 0
