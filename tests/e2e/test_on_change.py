"""The program of ``--on-change``: what it is told, in which order, and that nothing it does harms the node."""

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.hosts import Lab
from lab.nodes import Node
from lab.tunnels import DIALER, GATEWAY, Tunnel, make_tunnel
from lab.uplink import soon
from tests.rigs.resolvers import ResolvingNode, nothing

# Appends what it is told to a file; what the file "mode" says comes first.
PROGRAM = """#!/bin/sh
mode=$(cat {directory}/mode)
cat >> {directory}/told
case $mode in
    fail) echo "no such table: vpn" >&2; exit 7 ;;
    hang) sleep 60 & echo "$$ $!" >> {directory}/pids; trap '' TERM; wait ;;
    slow) while test -e {directory}/gate; do sleep 0.02; done ;;
esac
"""


class Program:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()
        self.path = directory / "program"
        self.path.write_text(PROGRAM.format(directory=directory))
        self.path.chmod(0o755)
        self.set("note")

    def set(self, mode: str) -> None:
        (self.directory / "mode").write_text(mode)

    @property
    def gate(self) -> Path:
        return self.directory / "gate"

    def told(self) -> list[dict[str, Any]]:
        file = self.directory / "told"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def events(self) -> list[str]:
        return [each["event"] for each in self.told()]

    def forget(self) -> None:
        (self.directory / "told").unlink(missing_ok=True)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("hook")) as lab:
        yield lab


@pytest.fixture(scope="module")
def tunnel(lab: Lab) -> Tunnel:
    """With a listener that announces a route and a name server."""
    config = lab.directory / "listener.toml"
    config.write_text('route = "192.168.7.0/24"\n')
    listen = ("--config", str(config), "--dns", GATEWAY[4])
    tunnel = make_tunnel(lab, listen=listen, up=False)
    dialer = ResolvingNode(tunnel.dialer.namespace)  # of the same name, so with the same identity
    dialer.arguments, dialer.resolvers = tunnel.dialer.arguments, nothing(dialer.namespace, "192.0.2.1")
    tunnel.dialer = dialer
    tunnel.listener.start().wait_event("listener_ready")
    return tunnel


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path / "hook")


def start(tunnel: Tunnel, program: Program, *flags: str) -> Node:
    node = tunnel.dialer.start("--on-change", str(program.path), *flags)
    node.wait_event("peer_connected", timeout=15)
    return node


def outcomes(node: Node) -> dict[str, int]:
    return {
        name: int(node.metric("on_change_calls_total", outcome=name)) for name in ("ok", "failed", "killed", "dropped")
    }


def test_every_change_is_told_in_order(tunnel: Tunnel, program: Program) -> None:
    flags = ("--accept-dns", "all", "--allow-peer", f"{tunnel.listener.peer_id}=10.66.0.0/24,192.168.8.0/24,0.0.0.0/0")
    node = start(tunnel, program, *flags)
    assert soon(lambda: "tunnel_dns" in program.events())
    assert node.stop() == 0
    told = program.told()
    assert {each["version"] for each in told} == {1}
    assert {each["node"] for each in told} == {node.peer_id}
    assert {each["tun"] for each in told} == {"cryprq0"}
    assert [each["time"] for each in told] == sorted(each["time"] for each in told)
    by_event: dict[str, dict[str, Any]] = {}
    for each in told:  # of an event that came twice the last one counts: a slow machine may have spared the first call
        by_event.pop(each["event"], None)
        by_event[each["event"]] = each
    assert [(each["change"], each["event"]) for each in by_event.values()] == [
        ("up", "node_started"),
        ("address", "tunnel_addresses"),
        ("route", "tunnel_routes"),
        ("peer", "peer_connected"),
        ("dns", "tunnel_dns"),
        ("peer", "peer_disconnected"),
        ("down", "node_stopped"),
    ]
    assert by_event["tunnel_addresses"]["addresses"] == [f"{DIALER[4]}/24", "fd66::2/64"]
    assert by_event["tunnel_routes"]["networks"] == ["0.0.0.0/0", "192.168.8.0/24"]
    assert by_event["peer_connected"]["peer_id"] == tunnel.listener.peer_id
    assert by_event["peer_connected"]["remote"] == "192.0.2.1:9999"
    dns = by_event["tunnel_dns"]
    assert (dns["servers"], dns["search"], dns["everything"], dns["by"]) == ([GATEWAY[4]], [], True, "on-change")
    assert by_event["peer_disconnected"]["reason"] == "shutdown"


def announce(tunnel: Tunnel, node: Node, number: int) -> None:
    """The listener has another network behind it, and the dialer knows."""
    before = len(node.events("tunnel_routes"))
    (tunnel.lab.directory / "listener.toml").write_text(f'route = "192.168.{number}.0/24"\n')
    tunnel.listener.reload()
    node.wait_event("tunnel_routes", count=before + 1)


def test_program_that_fails_is_one_line_each_time(tunnel: Tunnel, program: Program) -> None:
    program.set("fail")
    node = start(tunnel, program)
    node.wait_event(
        "on_change_failed", change="peer", about="peer_connected", error="exit status 7: no such table: vpn"
    )
    assert outcomes(node)["failed"] == len(program.told()) == len(node.events("on_change_failed"))
    assert node.http("/healthz") == (200, "ok\n")
    program.path.unlink()
    announce(tunnel, node, 20)
    node.wait_event("on_change_failed", about="tunnel_routes", error="No such file or directory")
    assert node.stop() == 0


def test_flood_of_changes_is_counted_and_a_slow_program_hears_where_it_led(tunnel: Tunnel, program: Program) -> None:
    program.gate.touch()
    program.set("slow")
    node = start(tunnel, program)
    for number in range(30, 38):  # the first call has not ended
        announce(tunnel, node, number)
    assert program.events() == ["node_started"]
    assert node.events("on_change_behind", about="tunnel_routes")
    program.gate.unlink()
    assert soon(lambda: "tunnel_routes" in program.events())
    assert program.events() == ["node_started", "tunnel_addresses", "peer_connected", "tunnel_routes"]
    assert program.told()[-1]["networks"] == ["192.168.37.0/24"]
    assert soon(lambda: outcomes(node)["ok"] == 4)
    assert outcomes(node)["dropped"] >= 7
    node.stop()
    assert program.events()[-1] == "node_stopped"


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_program_that_hangs_costs_the_node_nothing_but_a_bounded_end(tunnel: Tunnel, program: Program) -> None:
    program.set("hang")
    node = start(tunnel, program)
    assert node.namespace.measure("ping", GATEWAY[4], count=20, interval=0.01)["received"] == 20
    assert soon(lambda: (program.directory / "pids").exists())
    start_of_end = time.monotonic()
    node.running().signal(signal.SIGTERM)
    assert node.running().wait(50) == 0
    assert 4.5 < time.monotonic() - start_of_end < 50  # not those 60 s
    pids = [int(pid) for pid in (program.directory / "pids").read_text().split()]
    assert len(pids) >= 4 and soon(lambda: all(map(gone, pids)))
    assert program.events()[-1] == "node_stopped"
    assert node.events("on_change_failed", about="node_stopped")[0]["error"].startswith("killed after ")


def test_program_that_others_can_change_is_refused_at_the_start(tunnel: Tunnel, program: Program) -> None:
    program.path.chmod(0o775)
    node = tunnel.dialer.start("--on-change", str(program.path))
    assert node.running().wait() == 1
    path = program.path
    says = f"cryprq-node: --on-change {path}: {path} can be written by others (mode 0775); chmod go-w {path}"
    assert node.lines() == [says]
