"""Nodes in this process: real control channels over loopback, machine and data plane in memory."""

import asyncio
import base64
import io
import json
import logging
import os
import signal
import socket
from collections.abc import Coroutine
from dataclasses import replace
from ipaddress import ip_interface, ip_network
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from cryprq.config.identity_file import create_identity, load_identity
from cryprq.config.node_config import NodeConfig
from cryprq.errors import ConfigError, MachineError
from cryprq.linux.interface_state import Part
from cryprq.linux.socket_groups import SocketGroups
from cryprq.linux.sockets import SocketGroup
from cryprq.linux.surroundings import Way
from cryprq.linux.systemd import Notifier
from cryprq.linux.udp import UdpSocket
from cryprq.multiaddr import Multiaddr
from cryprq.node import daemon
from cryprq.node import node as node_module
from cryprq.node.node import Node
from cryprq.node.reload import merge
from cryprq.peer_id import PeerId
from cryprq.protocol.constants import PROMOTE_TIMEOUT
from cryprq.quic.endpoint import Endpoint
from cryprq.registry.lease_file import lease_path
from cryprq.telemetry.admin_socket import AdminSocket
from cryprq.telemetry.http import HttpServer
from cryprq.telemetry.logs import Log
from tests.rigs.fakes import FakePlane, identity
from tests.unit.test_allowed_ips import FakeDevice

WAIT = 10.0


class EventPlane(FakePlane):
    """Wakes the loop as the compiled one does."""

    def __init__(self) -> None:
        super().__init__()
        self.event_fd = os.eventfd(0, os.EFD_NONBLOCK)
        self.dead: str | None = None

    def send_empty(self, rx_index: int) -> None:
        super().send_empty(rx_index)
        for other in self.others:
            if other.pending_events:
                os.eventfd_write(other.event_fd, 1)  # type: ignore[attr-defined]

    def events(self) -> Any:
        try:
            os.eventfd_read(self.event_fd)
        except BlockingIOError:
            pass
        return super().events()

    def quic_datagrams(self) -> list[Any]:
        return []

    def inject(self, data: bytes, remote: Any, local: Any) -> None:
        raise AssertionError("no record is sent here")

    def epoch_arrivals(self, rx_index: int) -> tuple[int, int]:
        return 99, 1

    def peer_mtu(self, peer: int) -> int:
        return self.mtus.get(peer, 1420)

    def answers(self) -> dict[tuple[str, str], int]:
        return {("no_route", "sent"): 4, ("no_route", "limited"): 0}

    def drops(self) -> dict[tuple[str, str], int]:
        return {("in", "replay"): 3, ("out", "no_key"): 0}

    def marks(self) -> dict[str, int]:
        return {"queue": 0, "path": 5}


class FakeInterface(FakeDevice):
    """A kernel that always has what is wanted, unless ``broken`` says why not."""

    index = 0
    lookup_uid = None

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.observer: Any = None
        self.release = False
        self.broken: str | None = None
        self.compared = 0
        self.settled = False

    @property
    def faults(self) -> dict[Part, str]:
        return {} if self.broken is None else {Part("route", "192.168.7.0/24"): self.broken}

    @property
    def routes_missing(self) -> int:
        return len(self.faults)

    def failure(self) -> str | None:
        return self.broken

    def settle(self) -> None:
        self.settled = True

    def spare(self, host: str, port: int) -> None:
        self.spared = (host, port)

    def compare(self) -> None:
        self.compared += 1


class FakeMachine:
    """A machine whose only real part is socket 0, on loopback. A ``Node`` asks no more of one, but ``arg-type`` knows
    only the real kind."""

    opened: ClassVar["list[FakeMachine]"] = []

    def __init__(self, config: NodeConfig) -> None:
        control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        control.bind(("127.0.0.1", 0))
        control.setblocking(False)
        self.plane: Any = EventPlane()
        self.interface = FakeInterface(config.tun_name)
        group = SocketGroup(control, [], socket.AF_INET, control.getsockname()[1], None, 0)
        self.sockets = SocketGroups([group], len(config.listen))
        self.udp = UdpSocket(control)
        self.started = self.closed = False
        FakeMachine.opened.append(self)
        for other in FakeMachine.opened:
            if other is not self:
                other.plane.others.append(self.plane)
                self.plane.others.append(other.plane)

    def start(self) -> None:
        self.started = True

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            os.close(self.plane.event_fd)
            self.sockets.close()

    def way_to(self, host: str, group: int) -> Way:
        return Way("192.0.2.9", 1500)

    def failure(self) -> str | None:
        dead: str | None = self.plane.dead
        return dead

    def offloads(self) -> dict[str, str]:
        return {"uso": "on", "tso4": "off"}


class Lab:
    """Nodes of one test; ``config`` makes configurations whose files are in the test's directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.logs: dict[int, io.StringIO] = {}

    def config(self, number: int, **settings: Any) -> NodeConfig:
        path = self.directory / f"identity-{number}"
        if not path.exists():
            create_identity(path)
        socket_path = self.directory / f"{number}.sock"
        return NodeConfig(identity=path, control_socket=socket_path, tun_name=f"tun{number}", **settings)

    def grant(self, **addresses: str) -> None:
        """Leases of the listener from earlier days, by the number of the peer: ``_1="10.9.0.2"``."""
        leases = {str(self.id_of(int(number[1:]))): [address] for number, address in addresses.items()}
        path = lease_path(self.directory / "identity-0", "tun0")
        path.write_text(json.dumps({"version": 1, "leases": leases}))

    def listener(self, **settings: Any) -> NodeConfig:
        settings.setdefault("tun_addresses", (ip_interface("10.9.0.1/24"),))
        return self.config(0, listen=Multiaddr.parse("/ip4/127.0.0.1/udp/0/quic-v1"), **settings)

    def node(self, config: NodeConfig, **options: Any) -> Node:
        stream = io.StringIO()
        node = Node(config, log=Log("debug", "json", stream), machine=FakeMachine, **options)  # type: ignore[arg-type]
        self.logs[id(node)] = stream
        return node

    def events(self, node: Node, name: str) -> list[dict[str, Any]]:
        entries = [json.loads(line) for line in self.logs[id(node)].getvalue().splitlines()]
        return [entry for entry in entries if entry["event"] == name]

    async def event(self, node: Node, name: str, count: int = 1) -> dict[str, Any]:
        for _ in range(round(WAIT / 0.01)):
            if len(found := self.events(node, name)) >= count:
                return found[count - 1]
            await asyncio.sleep(0.01)
        raise AssertionError(f"no {name} in\n{self.logs[id(node)].getvalue()}")

    def id_of(self, number: int) -> PeerId:
        return load_identity(self.config(number, peers=(dial_target(identity(3).peer_id, 1),)).identity).peer_id


def dial_target(peer_id: PeerId, port: int, host: str = "127.0.0.1") -> Multiaddr:
    return Multiaddr("ip4", host, port, peer_id)


@pytest.fixture
def lab(tmp_path: Path) -> Any:
    FakeMachine.opened = []
    yield Lab(tmp_path)
    assert all(machine.closed for machine in FakeMachine.opened)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 30))


def target_of(node: Node) -> Multiaddr:
    assert node.listen_addr is not None
    return node.listen_addr


def test_dialer_gets_address_routes_and_a_session(lab: Lab) -> None:
    async def scenario() -> None:
        config = lab.listener(allow_peers={lab.id_of(1): ()}, routes=(ip_network("192.168.7.0/24"),))
        lab.grant(_1="10.9.0.2")
        async with lab.node(config) as gateway, lab.node(lab.config(1, peers=(target_of(gateway),))) as dialer:
            await lab.event(dialer, "peer_connected")
            await lab.event(gateway, "peer_connected")
            status = dialer.status()
            (peer,) = status.peers
            assert status.addresses == ("10.9.0.2/24",)
            assert peer.connected
            assert peer.addresses == ("10.9.0.2",)
            assert peer.allowed_ips == ("10.9.0.0/24", "192.168.7.0/24")
            assert (peer.direction, peer.aead[:3], peer.epoch) == ("outbound", "aes", 0)
            (peer,) = gateway.status().peers
            assert peer.addresses == ("10.9.0.2",)
            assert peer.allowed_ips == ("10.9.0.2/32",)
            assert gateway.status().listen_addr == str(gateway.listen_addr)
            assert peer.mtu == gateway.status().mtu
            assert gateway.status().drops == {"in": {"replay": 3}, "out": {"no_key": 0}}
            assert gateway.status().answers == {"no_route": {"sent": 4, "limited": 0}}
            assert FakeMachine.opened[1].interface.routes == {ip_network("192.168.7.0/24")}
            rendered = gateway._metrics.render()[0].decode()
            assert "cryprq_current_peers 1.0" in rendered
            assert "cryprq_allowed_peers 1.0" in rendered
            assert "cryprq_config_last_reload_successful 1.0" in rendered
            assert 'cryprq_pool_addresses{network="10.9.0.0/24"} 253.0' in rendered
            assert 'cryprq_pool_addresses_used{network="10.9.0.0/24"} 1.0' in rendered
            assert 'cryprq_dropped_packets_total{direction="in",reason="replay"} 3.0' in rendered
            assert 'cryprq_icmp_answers_total{reason="no_route",result="sent"} 4.0' in rendered

    run(scenario())


def test_rotation_by_hand(lab: Lab) -> None:
    async def scenario() -> None:
        config = lab.listener(allow_peers={lab.id_of(1): ()})
        async with lab.node(config) as gateway, lab.node(lab.config(1, peers=(target_of(gateway),))) as dialer:
            await lab.event(gateway, "peer_connected")
            assert gateway.rotate() == (dialer.peer_id,)
            entry = await lab.event(dialer, "key_rotation")
            assert (entry["epoch"], entry["status"]) == (1, "success")
            await lab.event(gateway, "key_rotation")
            with pytest.raises(LookupError):
                gateway.rotate(identity(3).peer_id)

    run(scenario())


def test_node_that_stops_tells_its_peers_and_is_quick_about_it(lab: Lab) -> None:
    async def scenario() -> None:
        config = lab.listener(allow_peers={lab.id_of(1): ()})
        lab.grant(_1="10.9.0.2")
        gateway = lab.node(config)
        await gateway.__aenter__()
        async with lab.node(lab.config(1, peers=(target_of(gateway),))) as dialer:
            await lab.event(dialer, "peer_connected")
            before = asyncio.get_running_loop().time()
            await gateway.__aexit__(None, None, None)
            assert asyncio.get_running_loop().time() - before < 2
            assert (await lab.event(dialer, "peer_disconnected"))["reason"] == "peer_shutdown"
            assert FakeMachine.opened[0].closed
            assert not FakeMachine.opened[1].plane.epochs
            # routes and addresses stay: packets must not take another way while the tunnel is down
            assert FakeMachine.opened[1].interface.addresses == [ip_interface("10.9.0.2/24")]
            assert FakeMachine.opened[1].plane.routes
            assert lab.events(gateway, "node_stopped")
            assert gateway.health.reason() == "stopping"

    run(scenario())


def test_stranger_is_denied_and_counted(lab: Lab) -> None:
    async def scenario() -> None:
        async with (
            lab.node(lab.listener()) as gateway,
            lab.node(lab.config(1, peers=(target_of(gateway),))) as dialer,
        ):
            failed = await lab.event(dialer, "handshake_failed")
            assert failed["reason"] == "refused"
            assert str(dialer.peer_id) in failed["hint"]
            denied = await lab.event(gateway, "peer_denied")
            assert (denied["peer_id"], denied["reason"]) == (str(dialer.peer_id), "not_allowlisted")
            assert "cryprq_peers_denied_total 1.0" in gateway._metrics.render()[0].decode()
            assert not gateway.status().peers

    run(scenario())


def test_reload_cuts_off_a_removed_peer_and_admits_a_new_one(lab: Lab) -> None:
    async def scenario() -> None:
        one, two = lab.id_of(1), lab.id_of(2)
        wanted: list[Any] = []
        config = lab.listener(allow_peers={one: (ip_network("10.9.0.50/32"),)})
        gateway = lab.node(config, reload=lambda: wanted[-1])
        async with gateway:
            own = (ip_interface("10.9.0.50/24"),)
            first = lab.node(lab.config(1, peers=(target_of(gateway),), tun_addresses=own))
            second = lab.node(lab.config(2, peers=(target_of(gateway),), tun_addresses=own))
            async with first, second:
                await lab.event(first, "peer_connected")
                await lab.event(second, "handshake_failed")
                # the network moves from one peer to the other in a single reload
                wanted.append(replace(config, allow_peers={two: (ip_network("10.9.0.50/32"),)}, mtu=1400))
                gateway.reload()
                reloaded = await lab.event(gateway, "config_reloaded")
                assert (reloaded["added"], reloaded["removed"], reloaded["needs_restart"]) == (1, 1, "mtu")
                assert (await lab.event(first, "peer_disconnected"))["reason"] == "peer_not_allowlisted"
                await lab.event(second, "peer_connected")
                (peer,) = gateway.status().peers
                assert peer.peer_id == str(two)
                assert peer.allowed_ips == ("10.9.0.50/32",)
                assert gateway.status().mtu == 1420
                assert not lab.events(gateway, "network_refused")

    run(scenario())


def test_reload_names_who_was_added_removed_and_changed(lab: Lab) -> None:
    async def scenario() -> None:
        one, two, three = lab.id_of(1), lab.id_of(2), identity(3).peer_id
        config = lab.listener(allow_peers={one: (), two: (ip_network("10.9.0.9/32"),)})
        wanted = replace(config, allow_peers={two: (ip_network("10.9.0.8/32"), ip_network("10.8.0.0/16")), three: ()})
        gateway = lab.node(config, reload=lambda: wanted)
        async with gateway:
            gateway.reload()
            reloaded = await lab.event(gateway, "config_reloaded")
            assert (reloaded["added"], reloaded["removed"], reloaded["changed"]) == (1, 1, 1)
            (added,), (removed,), (changed,) = (
                lab.events(gateway, f"peer_{what}") for what in ("added", "removed", "changed")
            )
            assert (added["peer_id"], added["networks"]) == (str(three), None)
            assert removed["peer_id"] == str(one)
            assert (changed["peer_id"], changed["networks"]) == (str(two), "10.9.0.8/32,10.8.0.0/16")
            gateway.reload()
            reloaded = await lab.event(gateway, "config_reloaded", 2)
            assert (reloaded["added"], reloaded["removed"], reloaded["changed"]) == (0, 0, 0)
            assert len(lab.events(gateway, "peer_changed")) == 1

    run(scenario())


def test_routes_of_a_reload_reach_a_connected_dialer_while_its_keys_live_on(lab: Lab) -> None:
    async def scenario() -> None:
        config = lab.listener(allow_peers={lab.id_of(1): ()}, routes=(ip_network("192.168.7.0/24"),))
        wanted = replace(config, routes=(ip_network("192.168.8.0/24"),))
        gateway = lab.node(config, reload=lambda: wanted)
        async with gateway, lab.node(lab.config(1, peers=(target_of(gateway),))) as dialer:
            await lab.event(dialer, "peer_connected")
            await lab.event(gateway, "peer_connected")
            gateway.reload()
            await lab.event(dialer, "handshake_complete", 2)
            await lab.event(gateway, "handshake_complete", 2)
            (peer,) = dialer.status().peers
            assert peer.allowed_ips == ("10.9.0.0/24", "192.168.8.0/24")
            assert FakeMachine.opened[1].interface.routes == {ip_network("192.168.8.0/24")}
            assert lab.events(gateway, "control_lost")[0]["reason"] == "routes_changed"
            for node in (gateway, dialer):
                assert not lab.events(node, "peer_disconnected")
            gateway.reload()  # the same again: nobody notices
            await asyncio.sleep(0.2)
            assert len(lab.events(dialer, "handshake_complete")) == 2

    run(scenario())


def test_pre_shared_key_of_a_reload_makes_a_new_handshake_while_the_old_keys_live_on(lab: Lab, tmp_path: Path) -> None:
    """First the one end has the new key, and the handshakes fail; then the other has it, too."""
    here, there = tmp_path / "here.psk", tmp_path / "there.psk"
    for path in (here, there):
        path.write_text(base64.b64encode(bytes(range(32))).decode())
        path.chmod(0o600)

    async def scenario() -> None:
        config = lab.listener(allow_peers={lab.id_of(1): ()}, psk_files={lab.id_of(1): here})
        gateway = lab.node(config, reload=lambda: config)
        async with gateway:
            dials = lab.config(1, peers=(target_of(gateway),), psk_files={gateway.peer_id: there})
            async with lab.node(dials, reload=lambda: dials) as dialer:
                await lab.event(dialer, "peer_connected")
                await lab.event(gateway, "peer_connected")
                gateway.reload()  # the same again: nobody notices
                here.write_text(base64.b64encode(bytes(range(1, 33))).decode())
                gateway.reload()
                assert (await lab.event(gateway, "control_lost"))["reason"] == "psk_changed"
                for node in (gateway, dialer):
                    failed = await lab.event(node, "handshake_failed")
                    assert failed["reason"] == "psk"
                    assert failed["hint"].startswith("the pre-shared key differs")
                there.write_text(here.read_text())
                dialer.reload()
                await lab.event(dialer, "handshake_complete", 2)
                for node in (gateway, dialer):
                    assert not lab.events(node, "peer_disconnected")
                here.write_text("nonsense")
                gateway.reload()
                assert "is no pre-shared key" in (await lab.event(gateway, "config_rejected"))["error"]

    run(scenario())


def test_node_whose_pre_shared_key_is_bad_does_not_start(lab: Lab, tmp_path: Path) -> None:
    async def scenario() -> None:
        config = lab.listener(psk_files={lab.id_of(1): tmp_path / "none"})
        with pytest.raises(MachineError, match=r"no pre-shared key .*/none"):
            async with lab.node(config):
                raise AssertionError("it started")

    run(scenario())


def test_doubt_is_told_once_and_again_when_it_comes_back(lab: Lab) -> None:
    async def scenario() -> None:
        config = lab.listener()
        wanted = [config, replace(config, allow_peers={lab.id_of(1): ()}), config]
        gateway = lab.node(
            replace(config, doubts=("nobody reads the variable CRYPRQ_X",)), reload=lambda: wanted.pop(0)
        )
        async with gateway:
            told = [entry["doubt"] for entry in lab.events(gateway, "config_doubtful")]
            assert told == [
                "nobody reads the variable CRYPRQ_X",
                "nobody may connect: name the dialers with --allow-peer ID, or add them with cryprq peer add ID",
                "--listen /ip4/127.0.0.1/udp/0/quic-v1: only programs of this host can reach it; /ip4/0.0.0.0 is for"
                " others",
            ]
            for _ in range(3):
                gateway.reload()
            assert len(lab.events(gateway, "config_doubtful")) == 4
            assert not any(entry["needs_restart"] for entry in lab.events(gateway, "config_reloaded"))

    run(scenario())


def test_peer_whose_address_a_reload_gives_away_is_told_the_new_one(lab: Lab) -> None:
    async def scenario() -> None:
        one, two = lab.id_of(1), lab.id_of(2)
        config = lab.listener(allow_peers={one: (), two: ()})
        lab.grant(_1="10.9.0.2", _2="10.9.0.3")
        wanted = replace(config, allow_peers={one: (), two: (), identity(3).peer_id: (ip_network("10.9.0.2/32"),)})
        gateway = lab.node(config, reload=lambda: wanted)
        async with gateway, lab.node(lab.config(1, peers=(target_of(gateway),))) as first:
            await lab.event(first, "peer_connected")
            async with lab.node(lab.config(2, peers=(target_of(gateway),))) as second:
                await lab.event(second, "peer_connected")
                assert first.status().addresses == ("10.9.0.2/24",)
                gateway.reload()
                assert (await lab.event(first, "peer_disconnected"))["reason"] == "peer_address_changed"
                await lab.event(first, "peer_connected", 2)
                assert first.status().addresses not in (("10.9.0.2/24",), ("10.9.0.3/24",))
                assert not lab.events(second, "peer_disconnected")
                assert second.status().addresses == ("10.9.0.3/24",)

    run(scenario())


def test_wrong_configuration_on_reload_changes_nothing(lab: Lab) -> None:
    async def scenario() -> None:
        config = lab.listener(allow_peers={lab.id_of(1): ()})

        def broken() -> NodeConfig:
            raise ConfigError("--mtu 1 is out of range")

        gateway = lab.node(config, reload=broken)
        async with gateway, lab.node(lab.config(1, peers=(target_of(gateway),))) as dialer:
            await lab.event(dialer, "peer_connected")
            gateway.reload()
            assert (await lab.event(gateway, "config_rejected"))["error"] == "--mtu 1 is out of range"
            assert gateway.config is config
            assert "cryprq_config_last_reload_successful 0.0" in gateway._metrics.render()[0].decode()
            own = replace(config, allow_peers={gateway.peer_id: ()})
            gateway._read_config = lambda: own
            gateway.reload()
            await lab.event(gateway, "config_rejected", 2)
            assert gateway.status().peers[0].connected

    run(scenario())


def test_reload_starts_and_stops_dialling(lab: Lab) -> None:
    async def scenario() -> None:
        config = lab.listener(allow_peers={lab.id_of(1): ()})
        async with lab.node(config) as gateway:
            nobody = dial_target(identity(3).peer_id, 1)
            wanted = lab.config(1, peers=(target_of(gateway),))
            dialer = lab.node(lab.config(1, peers=(nobody,)), reload=lambda: wanted)
            async with dialer:
                dialer.reload()
                await lab.event(dialer, "peer_connected")
                assert [peer.peer_id for peer in dialer.status().peers] == [str(gateway.peer_id)]
                assert list(dialer._roster._dialers) == [gateway.peer_id]

    run(scenario())


def test_any_peer_is_let_in_with_allow_any_and_forgotten_when_gone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "TICK", 0.05)

    async def scenario() -> None:
        async with lab.node(lab.listener(allow_any=True)) as gateway:
            assert lab.events(gateway, "allow_any")
            async with lab.node(lab.config(1, peers=(target_of(gateway),))) as dialer:
                await lab.event(dialer, "peer_connected")
                assert len(gateway.status().peers) == 1
            await lab.event(gateway, "peer_disconnected")
            await asyncio.sleep(0.2)
            assert not gateway.status().peers
            assert FakeMachine.opened[0].plane.routes == []

    run(scenario())


def test_endpoint_inside_the_peers_own_network_is_not_dialled(lab: Lab) -> None:
    async def scenario() -> None:
        there = identity(3).peer_id
        # names are checked when they are resolved; the configuration cannot know them
        config = lab.config(
            1,
            peers=(Multiaddr("dns4", "127.0.0.1", 9, there),),
            tun_addresses=(ip_interface("10.9.0.2/24"),),
            allow_peers={there: (ip_network("127.0.0.0/8"),)},
        )
        async with lab.node(config) as dialer:
            error = (await lab.event(dialer, "transport_error"))["error"]
            assert error.startswith("Select(Failed)")
            assert "swallow itself" in error

    run(scenario())


def test_gateway_cannot_announce_the_network_of_another_gateway(lab: Lab) -> None:
    async def scenario() -> None:
        elsewhere = dial_target(identity(3).peer_id, 9, "198.51.100.9")
        config = lab.listener(allow_peers={lab.id_of(1): ()}, routes=(ip_network("198.51.100.0/24"),))
        async with lab.node(config) as gateway:
            async with lab.node(lab.config(1, peers=(target_of(gateway), elsewhere))) as dialer:
                failed = await lab.event(dialer, "handshake_failed")
                assert failed["reason"] == "parameters"
                assert "the address 198.51.100.9 of a dialled peer" in failed["hint"]
                assert not FakeMachine.opened[1].interface.routes

    run(scenario())


@pytest.mark.parametrize("part", ["machine", "start", "endpoint", "http", "control"])
def test_failure_while_starting_leaves_nothing_behind(lab: Lab, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise MachineError("not on this machine")

    where = {
        "machine": (FakeMachine, "__init__"),
        "start": (FakeMachine, "start"),
        "endpoint": (Endpoint, "start"),
        "http": (HttpServer, "start"),
        "control": (AdminSocket, "start"),
    }
    monkeypatch.setattr(*where[part], fail)

    async def scenario() -> None:
        before = asyncio.all_tasks()
        node = lab.node(lab.listener(metrics_addr=("127.0.0.1", 0)))
        with pytest.raises(MachineError, match="not on this machine"):
            await node.__aenter__()
        assert node.health.reason() == "stopping"
        assert asyncio.all_tasks() == before
        assert not (lab.directory / "0.sock").exists()

    run(scenario())


def test_fault_while_stopping_leaves_nothing_else_open(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with lab.node(lab.listener()) as node:
            monkeypatch.setattr(node._endpoint, "stop", lambda: 1 // 0)
        assert FakeMachine.opened[0].closed
        assert "division" in lab.events(node, "internal_error")[0]["error"]
        assert lab.events(node, "node_stopped")

    run(scenario())


def test_own_peer_id_is_a_configuration_error(lab: Lab) -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigError, match="own peer ID"):
            await lab.node(lab.listener(allow_peers={lab.id_of(0): ()})).__aenter__()

    run(scenario())


def test_health_follows_start_failure_and_stop(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_module, "TICK", 0.02)

    async def scenario() -> None:
        node = lab.node(lab.listener())
        assert node.health.reason() == "starting"
        async with node:
            assert node.health.reason() is None
            assert lab.events(node, "node_started")
            ready = lab.events(node, "listener_ready")[0]
            assert Multiaddr.parse(ready["listen_addr"]).peer_id == node.peer_id
            FakeMachine.opened[0].plane.dead = "rx worker: Bad file descriptor"
            assert (await lab.event(node, "node_failed"))["reason"] == "rx worker: Bad file descriptor"
            await asyncio.sleep(0.1)
            assert len(lab.events(node, "node_failed")) == 1
            assert not node.status().healthy
            assert not lab.events(node, "node_recovered")
            FakeMachine.opened[0].plane.dead = None
            await lab.event(node, "node_recovered")
            assert node.status().healthy

    run(scenario())


def test_what_the_kernel_does_not_take_is_told_but_no_reason_to_restart(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(node_module, "TICK", 0.02)

    class Manager(Notifier):
        fed = 0

        def alive(self, now: float) -> None:
            self.fed += 1

    async def scenario() -> None:
        manager = Manager()
        node = lab.node(lab.listener(), notifier=manager)
        async with node:
            interface = FakeMachine.opened[0].interface
            assert interface.settled and interface.compared and interface.observer is not None
            interface.broken = "File exists"
            assert (await lab.event(node, "node_failed"))["reason"] == "File exists"
            status = node.status()
            assert not status.healthy and status.routes_missing == 1
            assert status.faults == ("route 192.168.7.0/24: File exists",)
            assert b"cryprq_routes_missing 1.0" in node._metrics.render()[0]
            fed = manager.fed
            await asyncio.sleep(0.1)
            assert manager.fed > fed
            FakeMachine.opened[0].plane.dead = "rx worker: Bad file descriptor"
            await asyncio.sleep(0.05)
            fed = manager.fed
            await asyncio.sleep(0.1)
            assert manager.fed == fed

    run(scenario())


def test_down_stops_the_node_and_lifts_its_kill_switch(lab: Lab) -> None:
    async def scenario() -> None:
        node = lab.node(lab.listener())
        with pytest.raises(RuntimeError, match="not running"):
            node.down()
        async with node:
            interface = FakeMachine.opened[0].interface
            assert not interface.release
            node.down()
            await asyncio.wait_for(node.wait(), 1)
            assert interface.release

    run(scenario())


def test_session_that_is_never_proven_is_wiped_by_the_nodes_timer(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryprq.protocol.session.PROMOTE_TIMEOUT", 0.2)
    assert PROMOTE_TIMEOUT == 15

    async def scenario() -> None:
        config = lab.listener(allow_peers={lab.id_of(1): ()})
        async with lab.node(config) as gateway, lab.node(lab.config(1, peers=(target_of(gateway),))) as dialer:
            FakeMachine.opened[1].plane.cut = True
            await lab.event(dialer, "handshake_complete")
            await asyncio.sleep(0.5)
            assert not lab.events(gateway, "handshake_complete")
            assert not lab.events(gateway, "peer_connected")
            FakeMachine.opened[1].plane.cut = False
            await lab.event(dialer, "peer_connected")  # by a new dial

    run(scenario())


def test_node_outside_its_context_says_so(lab: Lab) -> None:
    async def scenario() -> None:
        node = lab.node(lab.listener(), reload=lab.listener)
        for _ in ("before", "after"):
            for ask in (node.status, node.rotate, node.reload):
                with pytest.raises(RuntimeError, match="not running"):
                    ask()
            if node.health.reason() == "starting":
                async with node:
                    assert (node.rotate(), node.status().peers) == ((), ())

    run(scenario())


def test_stop_that_was_asked_for_before_the_start_counts(lab: Lab) -> None:
    async def scenario() -> None:
        node = lab.node(lab.listener())
        node.request_stop()
        async with node:
            await asyncio.wait_for(node.wait(), WAIT)

    run(scenario())


def daemon_log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the daemon logs. It is the program that sets logging up, also that of libraries, which is left out here."""
    text = io.StringIO()
    monkeypatch.setattr(daemon, "setup", lambda level, log_format: Log(level, log_format, text))
    return text


def test_node_in_a_program_leaves_the_logging_of_that_program_alone(lab: Lab) -> None:
    root = logging.getLogger()
    before = list(root.handlers), root.level
    Node(lab.listener())
    assert (list(root.handlers), root.level) == before


def test_daemon_stops_on_sigterm_and_reloads_on_sighup(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    config = lab.listener()
    reloads: list[int] = []

    class Quick(Node):
        def __init__(self, config: NodeConfig, **options: Any) -> None:
            super().__init__(config, machine=FakeMachine, **options)  # type: ignore[arg-type]

        async def wait(self) -> None:
            loop = asyncio.get_running_loop()
            loop.call_later(0.05, os.kill, os.getpid(), signal.SIGHUP)
            loop.call_later(0.15, os.kill, os.getpid(), signal.SIGTERM)
            await super().wait()

    def again() -> NodeConfig:
        reloads.append(1)
        return config

    monkeypatch.setattr(daemon, "Node", Quick)
    text = daemon_log(monkeypatch)
    assert daemon.run(config, reload=again) == 0
    assert reloads == [1]
    assert "config_reloaded" in text.getvalue()


def test_sigterm_while_starting_stops_cleanly(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow(Node):
        def __init__(self, config: NodeConfig, **options: Any) -> None:
            super().__init__(config, machine=FakeMachine, **options)  # type: ignore[arg-type]

        async def _start(self) -> None:
            await super()._start()
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.sleep(30)

        async def _stop_talking(self) -> None:
            os.kill(os.getpid(), signal.SIGTERM)  # once more
            await asyncio.sleep(0.05)
            await super()._stop_talking()

    monkeypatch.setattr(daemon, "Node", Slow)
    daemon_log(monkeypatch)
    assert daemon.run(lab.listener()) == 0


def test_merge_takes_what_can_change_and_names_what_cannot(lab: Lab) -> None:
    running = lab.listener(mtu=1400, rotate_secs=300)
    wanted = replace(
        running,
        allow_peers={identity(3).peer_id: ()},
        rotate_secs=60,
        mtu=1380,
        workers=2,
        tun_addresses=(ip_interface("10.8.0.1/24"),),
        log_level="debug",
    )
    merged, kept = merge(running, wanted)
    assert (merged.mtu, merged.workers, merged.tun_addresses) == (1400, 1, running.tun_addresses)
    assert (merged.rotate_secs, merged.log_level) == (60, "debug")
    assert identity(3).peer_id in merged.allow_peers
    assert sorted(kept) == ["mtu", "tun-address", "workers"]


def test_new_identity_is_told_once(lab: Lab) -> None:
    config = lab.listener()
    config.identity.unlink()

    async def scenario() -> None:
        for told in (1, 0):
            node = lab.node(config)
            async with node:
                events = lab.events(node, "identity_created")
                assert [event["path"] for event in events] == [str(config.identity)] * told

    run(scenario())


def test_name_is_asked_on_the_links_where_packets_are_diverted_and_nobody_else_knows_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[str] = []
    found: list[tuple[Any, ...]] = [(2, 2, 0, "", ("198.51.100.1", 9999))]

    class Names:
        async def getaddrinfo(self, host: str, *_: object) -> Any:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    async def look_up(host: str, port: int, family: int, without: str) -> Any:
        asked.append(f"{host} but on {without}")
        return found

    monkeypatch.setattr(node_module.resolved, "look_up", look_up)  # type: ignore[attr-defined]
    interface = SimpleNamespace(lookup_uid=None, diverts=True, name="cryprq0")
    node: Any = SimpleNamespace(_machine=SimpleNamespace(interface=interface), _names=Names())

    def ask() -> Any:
        return asyncio.run(Node._getaddrinfo(node, "gateway.example", 9999, socket.AF_INET))

    assert ask() == found
    found = []
    with pytest.raises(socket.gaierror):
        ask()
    assert asked == ["gateway.example but on cryprq0"] * 2
    interface.diverts = False
    with pytest.raises(socket.gaierror):
        ask()
    assert len(asked) == 2
