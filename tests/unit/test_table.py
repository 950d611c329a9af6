"""The table of peers and the roster: a fault with one peer is nobody else's, and who is removed keeps nothing."""

from dataclasses import replace
from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from cryprq._fastpath import EVENT_KEY_EXPIRED, Event
from cryprq.address import Address, Local
from cryprq.config.node_config import NodeConfig
from cryprq.errors import MachineError
from cryprq.inner.network import InnerNetwork
from cryprq.multiaddr import Multiaddr
from cryprq.node.roster import Changes, Roster, declaration_of
from cryprq.peer_id import PeerId
from cryprq.peers.peer import Peer
from cryprq.peers.resolver import Resolver
from cryprq.peers.table import PeerTable
from cryprq.protocol.clock import Boottime
from cryprq.protocol.frames import CloseCode
from cryprq.registry.entries import PeerEntry
from cryprq.registry.fleet import Fleet
from cryprq.registry.memory import MemoryStore
from tests.rigs.fakes import FakePlane, Recorder, World, identity
from tests.unit.test_allowed_ips import FakeDevice

ONE, TWO = (identity(number).peer_id for number in (1, 2))


class Plane(FakePlane):
    """Notes which peers are removed."""

    def __init__(self) -> None:
        super().__init__()
        self.removed: list[int] = []

    def remove_peer(self, peer: int) -> None:
        self.removed.append(peer)


class Rig:
    """A table of peers on stand-ins; ``now`` is the time."""

    def __init__(self) -> None:
        self.now = Boottime(1000.0)
        self.device, self.plane, self.observer = FakeDevice(), Plane(), Recorder()
        self.network = InnerNetwork(self.device, self.plane, self.observer, (), 1420)
        self.peers = PeerTable(
            own_id=identity(0).peer_id,
            plane=self.plane,
            network=self.network,
            observer=self.observer,
            permits=lambda _: True,
            records_soft=2**26,
            reauth_secs=lambda: 3600,
            way=lambda *_: ("192.0.2.9", 1500),
            changed=lambda: None,
            later=lambda delay, call: None,
        )

    def obtain(self, peer_id: PeerId, *networks: str) -> Peer:
        return self.peers.obtain(peer_id, tuple(ip_network(network) for network in networks))


def fail(*_: Any, **__: Any) -> Any:
    raise KeyError("a fault of ours")


def test_fault_with_one_peer_takes_no_event_and_no_timer_from_another(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    bad, good = rig.obtain(ONE), rig.obtain(TWO)
    heard: list[str] = []
    for name in ("event", "handle_timers", "look"):
        monkeypatch.setattr(bad, name, fail)
        monkeypatch.setattr(good, name, lambda *_, name=name: heard.append(name))
    for peer in (bad, good):
        monkeypatch.setattr(peer, "next_timer", lambda: 900.0)
    rig.peers.dispatch([Event(peer.handle, 7, EVENT_KEY_EXPIRED) for peer in (bad, good)], rig.now)
    for peer_id in (ONE, TWO):
        rig.peers._touch(peer_id)
    rig.peers.handle_timers(rig.now)
    rig.peers.look(rig.now)
    assert heard == ["event", "handle_timers", "look"]
    assert rig.observer.names == ["internal_error"] * 3
    assert rig.observer.fields("internal_error")["peer_id"] == ONE


def test_peer_with_a_fault_loses_its_sessions() -> None:
    world = World()
    world.connect(world.left, world.right)
    world.left.peer.fail()
    assert world.left.peer.idle
    assert not world.left.plane.epochs
    assert world.left.peer.wants_dial()
    assert world.left.observer.last("peer_disconnected")[1] == "internal_error"


@pytest.mark.parametrize("part", ["close", "release"])
def test_removed_peer_keeps_nothing_whatever_fails(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig()
    peer = rig.obtain(ONE, "192.168.7.0/24")
    monkeypatch.setattr(*{"close": (peer, "close"), "release": (rig.device, "change_routes")}[part], fail)
    rig.peers.remove(ONE, CloseCode.REFUSED, rig.now)
    assert rig.plane.removed == [peer.handle]
    assert rig.plane.routes == []
    assert rig.peers.get(ONE) is None
    assert rig.observer.names == ["internal_error"]


class Dialling(Rig):
    """A roster that dials two peers; ``dialled`` says whom."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        targets = tuple(Multiaddr("ip4", "192.0.2.1", 9999, peer_id) for peer_id in (ONE, TWO))
        self.config = NodeConfig(
            identity=directory / "identity",
            control_socket=directory / "sock",
            tun_addresses=(ip_interface("10.9.0.2/24"),),
            peers=targets,
        )
        self.dialled: list[PeerId] = []
        self.faulty: set[PeerId] = set()
        self.roster = Roster(
            self.config,
            identity(0).peer_id,
            Fleet(MemoryStore(), declaration_of(self.config), clock=lambda: 0.0),
            peers=self.peers,
            network=self.network,
            resolver=Resolver(fail, lambda: None, lambda: self.now),
            connect=self._connect,
            unanswered=lambda began: None,
            observer=self.observer,
        )
        self.roster.apply(self.now)

    def _connect(self, dialer: Any, peer: Peer, remote: Any, timeout: float) -> Any:
        if peer.peer_id in self.faulty:
            fail()
        self.dialled.append(peer.peer_id)
        raise OSError("not in this test")


def test_fault_with_one_peer_keeps_no_other_from_being_dialled(tmp_path: Path) -> None:
    rig = Dialling(tmp_path)
    rig.faulty.add(min(ONE, TWO))
    assert rig.roster.poll(rig.now) is not None
    assert rig.dialled == [max(ONE, TWO)]
    assert "internal_error" in rig.observer.names


def test_peer_that_finds_no_place_any_more_is_not_dialled_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its dialer would dial for a peer that is gone: without end, since that never gets a session."""
    rig = Dialling(tmp_path)
    obtain = rig.peers.obtain

    def no_place(peer_id: PeerId, networks: Any) -> Peer:
        if peer_id == ONE:
            raise MachineError("cannot remove route")
        return obtain(peer_id, networks)

    monkeypatch.setattr(rig.peers, "obtain", no_place)
    rig.roster.change(replace(rig.config, rotate_secs=60), rig.now)
    assert "peer_misplaced" in rig.observer.names
    assert rig.peers.get(ONE) is None
    rig.dialled.clear()
    rig.roster.poll(rig.now)
    assert rig.dialled == [TWO]
    monkeypatch.undo()
    rig.roster.change(rig.config, rig.now)  # the next reload tries again
    rig.dialled.clear()
    rig.now = Boottime(rig.now + 100)
    rig.roster.poll(rig.now)
    assert set(rig.dialled) == {ONE, TWO}


def test_peer_that_commands_change_is_changed_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else is looked at, as long as no other one's address is in the way."""
    rig = Dialling(tmp_path)
    fleet, (three, four) = rig.roster.fleet, (PeerId(bytes([number]) * 32) for number in (3, 4))
    declared = declaration_of(rig.config)

    def know(*entries: PeerEntry) -> Changes:
        changed = fleet.declare(replace(declared, peers={entry.peer_id: entry for entry in entries}))
        return rig.roster.revise(changed, rig.now)

    touched: list[PeerId] = []
    obtain = rig.peers.obtain

    def noted(peer_id: PeerId, networks: Any) -> Peer:
        touched.append(peer_id)
        return obtain(peer_id, networks)

    monkeypatch.setattr(rig.peers, "obtain", noted)
    first = PeerEntry(peer_id=three, networks=(ip_network("10.3.0.0/16"),))
    second = PeerEntry(peer_id=four, networks=(ip_network("10.4.0.0/16"),))
    assert know(first) == Changes(frozenset({three}), frozenset(), frozenset())
    assert know(first, second) == Changes(frozenset({four}), frozenset(), frozenset())
    assert touched == [three, four]
    moved = replace(first, networks=second.networks)
    assert know(moved, second).changed == {three}
    assert rig.network.claims(three) == moved.networks and rig.network.standing_by(three) == moved.networks
    assert know(replace(moved, disabled=True), second).removed == {three}
    assert rig.peers.get(three) is None and rig.network.claims(three) == ()
    assert rig.network.allowed(four) == second.networks
    assert ONE not in touched and TWO not in touched


def test_a_port_is_judged_by_the_peers_that_use_it() -> None:
    rig = Rig()
    assert rig.peers.heard_at(0) == Boottime(0.0)
    for peer_id, group, heard in ((ONE, 0, 5_000_000_000), (TWO, 1, 7_000_000_000)):
        peer = rig.peers.obtain(peer_id, ())
        rig.plane.set_endpoint(peer.handle, Address("192.0.2.1", 9999), Local(None, group))
        rig.plane.stats[peer.handle] = rig.plane.peer_stats(peer.handle)._replace(last_rx_ns=heard)
    assert [rig.peers.heard_at(group) for group in (0, 1, 2)] == [5.0, 7.0, 0.0]
