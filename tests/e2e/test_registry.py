"""Peers that are added, cut off and let in again by commands, while the node runs and while it does not."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from cryprq.cli.admin_client import request
from cryprq.errors import MachineError
from lab.hosts import CommandError, Lab
from lab.nodes import PROGRAMS, Node
from lab.tunnels import GATEWAY, LISTEN_FLAGS, OUTER, listen_address


@pytest.fixture
def nodes(lab: Lab) -> tuple[Node, Node]:
    """A gateway that lets nobody in, and a host that tries all the time."""
    here, there = lab.namespace("gateway"), lab.namespace("host")
    lab.veth(here, [f"{OUTER[4][0]}/24"], there, [f"{OUTER[4][1]}/24"])
    gateway = Node(here, "--listen", listen_address(4), *LISTEN_FLAGS, "--backoff-base-ms", "1")
    dialer = Node(there, "--peer", gateway.multiaddr(OUTER[4][0]), "--backoff-base-ms", "20", "--backoff-max-ms", "50")
    return gateway, dialer


def registry(node: Node) -> Path:
    return node.identity.with_name(f"{node.identity.name}.cryprq0.registry")


def by_hand(node: Node, *words: str) -> str:
    """``cryprq peer`` where no node answers: on the registry itself."""
    nobody = ("--control-socket", str(node.directory / "nobody.sock"), "--identity", str(node.identity))
    return node.namespace.run(str(PROGRAMS / "cryprq"), "peer", *words, *nobody)


def reaches(dialer: Node) -> bool:
    return bool(dialer.namespace.measure("ping", GATEWAY[4], count=2, interval=0.05, timeout=0.5)["received"])


def test_commands_count_at_once_and_last(nodes: tuple[Node, Node]) -> None:
    gateway, dialer = nodes
    gateway.start().wait_event("listener_ready")
    dialer.start()
    gateway.wait_event("peer_denied", peer_id=dialer.peer_id)
    told = gateway.tool("peer", "add", dialer.peer_id, "--name", "Alice", "--groups", "staff,it", "--expires", "30d")
    assert told == f"alice ({dialer.peer_id}) may connect\n"
    gateway.wait_event("peer_connected", timeout=30)
    gateway.wait_event("peer_added", peer_id=dialer.peer_id)
    assert reaches(dialer)
    (row,) = json.loads(gateway.tool("peer", "list", "--json"))
    assert (row["name"], row["groups"], row["permitted"], row["source"]) == ("alice", ["staff", "it"], True, "registry")
    addresses = [f"{address}/{bits}" for address, bits in zip(row["addresses"], (24, 64), strict=True)]
    assert addresses == dialer.status()["addresses"]
    for number, (do, undo) in enumerate(
        (
            (("disable", "alice"), ("enable", "alice")),
            (("expire", dialer.peer_id[:9], "now"), ("expire", "alice", "never")),
            (("remove", "alice"), ("add", dialer.peer_id, "--name", "alice")),
        ),
        start=1,
    ):
        gateway.tool("peer", *do)
        # When the command has its answer the peer is cut off.
        assert len(gateway.events("peer_disconnected", reason="not_allowlisted")) == number
        assert gateway.metric("current_peers") == 0
        assert not reaches(dialer)
        gateway.tool("peer", *undo)
        gateway.wait_event("peer_connected", count=number + 1, timeout=30)
        assert dialer.status()["addresses"] == addresses, "it has kept its address"
    gateway.tool("peer", "rename", "alice", "bob")
    assert gateway.stop() == 0
    gateway.start().wait_event("listener_ready")
    gateway.wait_event("peer_connected", timeout=30)
    assert not gateway.events("config_doubtful")
    assert "bob" in gateway.tool("peer", "list") and "added by" in gateway.tool("peer", "show", "bob")
    assert [line["did"].split()[0] for line in json.loads(gateway.tool("peer", "log", "--json"))] == [
        *("added", "disabled", "enabled", "changed", "changed", "removed", "added", "renamed"),
    ]
    assert json.loads(gateway.tool("peer", "log", "--json"))[0]["who"].endswith("(uid 0) by the control socket")


def test_key_that_a_peer_shares_is_asked_for_at_once_and_after_a_restart(nodes: tuple[Node, Node]) -> None:
    gateway, dialer = nodes
    key, copy = gateway.directory / "shared.psk", dialer.directory / "copy.psk"
    gateway.namespace.run(str(PROGRAMS / "cryprq"), "genpsk", "--out", str(key))
    shutil.copy(key, copy)
    dialer.arguments += ["--psk-file", f"{gateway.peer_id}={copy}"]
    gateway.start().wait_event("listener_ready")
    with pytest.raises(CommandError, match="no pre-shared key"):
        gateway.tool("peer", "add", dialer.peer_id, "--psk-file", f"{key}.no")
    gateway.tool("peer", "add", dialer.peer_id, "--name", "alice")
    dialer.start().wait_event("handshake_failed", reason="psk")
    gateway.tool("peer", "add", dialer.peer_id, "--psk-file", str(key), "--update")
    gateway.wait_event("peer_connected", timeout=30)
    assert f"shared, in {key}" in gateway.tool("peer", "show", "alice")
    key.rename(f"{key}.away")
    for node in (dialer, gateway):
        node.stop()
    gateway.start().wait_event("peer_key_unusable", peer_id=dialer.peer_id)
    dialer.start().wait_event("handshake_failed", reason="psk", timeout=30)
    Path(f"{key}.away").rename(key)
    gateway.reload()
    gateway.wait_event("peer_connected", timeout=30)
    assert reaches(dialer)


def test_successor_by_command(nodes: tuple[Node, Node]) -> None:
    gateway, old = nodes
    new = Node(old.namespace, *old.arguments, name="renamed")
    gateway.start().wait_event("listener_ready")
    gateway.tool("peer", "add", old.peer_id, "--name", "alice", "--successor", new.peer_id)
    old.start()
    gateway.wait_event("peer_connected", peer_id=old.peer_id, timeout=30)
    addresses = old.status()["addresses"]
    old.stop()
    new.start()
    gateway.wait_event("peer_connected", peer_id=new.peer_id, timeout=30)
    assert new.status()["addresses"] == addresses
    gateway.tool("peer", "add", new.peer_id)
    assert reaches(new)
    (row,) = json.loads(gateway.tool("peer", "list", "--json"))
    assert (row["peer_id"], row["name"]) == (new.peer_id, "alice")


def test_host_bits_are_told(nodes: tuple[Node, Node]) -> None:
    gateway, dialer = nodes
    done = subprocess.run(
        [
            PROGRAMS / "cryprq",
            "peer",
            "add",
            dialer.peer_id,
            "--networks",
            "10.5.0.9/16",
            "--identity",
            gateway.identity,
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "CRYPRQ_CONTROL_SOCKET": str(gateway.directory / "nobody.sock")},
    )
    assert done.stderr == "--networks: 10.5.0.9/16 is an address in 10.5.0.0/16, which is taken as a whole\n"
    assert "networks:  10.5.0.0/16" in by_hand(gateway, "show", dialer.peer_id)


def test_networks_of_a_peer_change_under_its_session(nodes: tuple[Node, Node]) -> None:
    gateway, dialer = nodes
    gateway.start().wait_event("listener_ready")
    dialer.start("--tun-address", "10.66.0.9/24")
    gateway.tool("peer", "add", dialer.peer_id, "--networks", "10.66.0.9/32,10.5.0.0/16")
    gateway.wait_event("peer_connected", timeout=30)
    assert reaches(dialer)
    assert "10.5.0.0/16 dev cryprq0" in gateway.namespace.ip("route show")
    gateway.tool("peer", "add", dialer.peer_id, "--networks", "10.66.0.9/32,10.6.0.0/16", "--update")
    routes = gateway.namespace.ip("route show")
    assert "10.6.0.0/16 dev cryprq0" in routes and "10.5.0.0/16" not in routes
    assert reaches(dialer)
    assert not gateway.events("peer_disconnected")


def test_node_that_is_down_and_one_behind_another_socket_take_what_was_written(nodes: tuple[Node, Node]) -> None:
    gateway, dialer = nodes
    assert by_hand(gateway, "add", dialer.peer_id, "--name", "alice").startswith("alice (")
    assert os.stat(registry(gateway)).st_mode & 0o777 == 0o600
    gateway.start().wait_event("listener_ready")
    dialer.start()
    gateway.wait_event("peer_connected", timeout=30)
    by_hand(gateway, "disable", "alice")
    gateway.wait_event("peer_disconnected", reason="not_allowlisted")
    by_hand(gateway, "enable", "alice")
    gateway.wait_event("peer_connected", count=2, timeout=30)


def test_configuration_is_listed_and_not_changed(nodes: tuple[Node, Node]) -> None:
    gateway, dialer = nodes
    gateway.start("--allow-peer", f"{dialer.peer_id}=10.5.0.0/16").wait_event("listener_ready")
    (row,) = json.loads(gateway.tool("peer", "list", "--json"))
    assert (row["source"], row["origin"], row["networks"]) == ("config", "--allow-peer", ["10.5.0.0/16"])
    with pytest.raises(CommandError, match="stands in the configuration"):
        gateway.tool("peer", "remove", dialer.peer_id)


def test_mistakes_are_one_line_that_says_what_to_do(nodes: tuple[Node, Node]) -> None:
    gateway, dialer = nodes
    gateway.start().wait_event("listener_ready")
    gateway.tool("peer", "add", dialer.peer_id, "--name", "alice")
    slip = dialer.peer_id[:-2] + dialer.peer_id[-1] + dialer.peer_id[-2]
    for words, status, told in (
        (("add",), 2, "ID"),
        (("add", dialer.peer_id[:-3]), 1, "is not a peer ID"),
        (("show", slip), 1, "alice"),
        (("add", gateway.peer_id), 1, "this node's own peer ID"),
        (("add", dialer.peer_id), 1, "--update"),
        (("add", dialer.peer_id, "--networks", "10.0.0.0/99"), 2, "10.0.0.0/99"),
        (("expire", "alice", "tomorrow"), 2, "30d"),
        (("rename", "alice", "a b"), 2, "letters, digits and hyphens"),
        (("remove", "bob"), 1, "cryprq peer list"),
    ):
        command = [str(PROGRAMS / "cryprq"), "peer", *words, "--control-socket", str(gateway.control)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        assert (done.returncode, len(done.stderr.splitlines())) == (status, 1), done
        assert told in done.stderr, done.stderr


def test_who_may_only_ask_changes_nothing(nodes: tuple[Node, Node]) -> None:
    """The socket is the owner's; where somebody has opened it to others, they may look."""
    gateway, dialer = nodes
    gateway.start().wait_event("listener_ready")
    gateway.control.chmod(0o666)
    for path in (gateway.control.parent, *gateway.control.parent.parents):
        if path.stat().st_uid == os.getuid():
            path.chmod(path.stat().st_mode | 0o011)
    code = f"""
import os
from pathlib import Path
from cryprq.cli.admin_client import request
from cryprq.errors import MachineError
try:
    os.setresgid(1, 1, 1)
    os.setresuid(1, 1, 1)
except OSError:
    raise SystemExit("skip")
print(request(Path({str(gateway.control)!r}), "peer", do="list"))
try:
    request(Path({str(gateway.control)!r}), "peer", do="add", peer={dialer.peer_id!r})
except MachineError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    if "skip" in done.stderr:
        pytest.skip("there is one user in this namespace")
    assert done.stdout.splitlines() == ["[]", "only root and the node's own user may change who its peers are"], done
    assert request(gateway.control, "peer", do="list") == []
    with pytest.raises(MachineError, match="unknown request"):
        request(gateway.control, "peer", do="dance")


def test_damaged_registry_and_one_of_a_newer_version_start_no_node(nodes: tuple[Node, Node]) -> None:
    gateway, dialer = nodes
    by_hand(gateway, "add", dialer.peer_id)
    path = registry(gateway)
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    assert fails(gateway).endswith("use that version, or restore a copy from before")
    path.write_bytes(path.read_bytes()[:5000])
    assert fails(gateway) == (
        f"cryprq-node: the registry {path} is damaged; restore a copy, or move it away with its -wal and -shm"
        " to begin anew"
    )
    with pytest.raises(CommandError, match="is damaged"):
        by_hand(gateway, "list")


def fails(node: Node) -> str:
    """The last line of a node that does not start."""
    assert node.start().running().wait() == 1
    return node.lines()[-1]
