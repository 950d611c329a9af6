"""docs/debugging.md keeps its word: its pair of hosts works, each drop that can be caused from outside is counted where
the page says, a packet's way moves the counters that it names, and what it names exists."""

import json
import os
import re
import signal
import socket
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from cryprq.config.command_line import parser
from cryprq.config.node_config import NodeConfig
from cryprq.telemetry.metrics import Metrics
from lab import ROOT
from lab.capture import Capture
from lab.hosts import Lab, Namespace
from lab.nodes import PORT, PROGRAMS, Node
from lab.oracle import OVERHEAD, RECORD_TYPE, RECORDS_HARD, Header
from lab.tunnels import DIALER, GATEWAY, OUTER, Tunnel, make_tunnel
from tests.rigs.planes import Bench, wait

TEXT = (ROOT / "docs" / "debugging.md").read_text()
TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text()
NOBODY = "10.66.0.99"
"""In the tunnel's network, and no peer's."""
NARROW = 1380
"""The dialer's MTU, which its listener keeps to."""
FOREIGN = "172.16.9.9"
"""An address of the dialer that the listener has not given it."""

Reason = tuple[str, str]


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    section = TEXT.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


# ---- the pair ----


@pytest.mark.netns
def test_the_pair_of_hosts() -> None:
    [setup] = blocks("sh")
    [clean_up] = re.findall(r"^`(kill [^`]+)` removes it", TEXT, re.MULTILINE)
    script = f"trap 'kill $(jobs -p) || :' EXIT\nset -eu\n{setup}\ncat $dir/a.log\nls $dir/qlog\n{clean_up}\nwait"
    script = script.replace(".venv/bin", str(PROGRAMS))
    done = subprocess.run(["timeout", "60", "bash", "-c", script], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 received" in done.stdout
    assert "dropped   nothing" in done.stdout
    assert done.stdout.count(".sqlog\n") == 2
    told = re.findall(r"^event=(\w+)(?: message=(\w+))?", done.stdout, re.MULTILINE)
    page = [re.findall(r"`(?:message=)?(\w+)(?:=\w+)?`", first) for first, _ in rows("A session in the log")]
    expected = [(words[0], words[1] if words[0] == "handshake_message" else "") for words in page[:-1]]
    assert told[-len(expected) :] == expected  # on a busy machine it may have dialled before there was a listener


# ---- drops ----


def send(source: Namespace, address: str, size: int = 10, *, own: str | None = None) -> None:
    """An inner datagram that the kernel routes as it does."""
    with source.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if own is not None:
            sock.bind((own, 0))
        sock.sendto(bytes(size), (address, 9))


def send_outside(tunnel: Tunnel, datagram: bytes) -> None:
    """To the listener's port, from the dialer's host."""
    with tunnel.dialer.namespace.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(datagram, (OUTER[4][0], PORT))


def record_of(tunnel: Tunnel) -> bytes:
    """The dialer's next record to the listener, which has arrived."""
    with Capture(tunnel.dialer.namespace) as capture:
        send(tunnel.dialer.namespace, GATEWAY[4])
        assert wait(lambda: any(not datagram.is_quic for datagram in capture.sent))
    return next(datagram.payload for datagram in capture.sent if not datagram.is_quic)


def forged(tunnel: Tunnel, counter: int) -> bytes:
    index = Header.decode(record_of(tunnel)).index
    return Header(RECORD_TYPE, 0, 0, index, counter).encode() + bytes(OVERHEAD)


def write_garbage(tunnel: Tunnel) -> None:
    with tunnel.dialer.namespace.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sock:
        sock.sendto(b"\x55" + bytes(40), ("cryprq0", 0x0800))


def use_another_address(tunnel: Tunnel) -> None:
    tunnel.dialer.namespace.ip(f"address add {FOREIGN}/32 dev cryprq0")
    send(tunnel.dialer.namespace, GATEWAY[4], own=FOREIGN)


def set_tun_down(tunnel: Tunnel) -> None:
    """Again and again: the node sets it up, with all that it had."""
    host = tunnel.listener.namespace

    def once() -> bool:
        host.ip("link set cryprq0 down")
        send(tunnel.dialer.namespace, GATEWAY[4])
        return ("rx", "tun_write") in tunnel.drops(tunnel.listener)

    assert wait(once)
    assert wait(lambda: GATEWAY[6] in host.ip("address show up dev cryprq0"))


def set_cable_down(tunnel: Tunnel) -> None:
    host = tunnel.dialer.namespace
    host.ip("link set eth0 down")
    before = tunnel.drops(tunnel.dialer)
    send(host, GATEWAY[4])
    assert wait(lambda: tunnel.drops(tunnel.dialer) != before)
    host.ip("link set eth0 up")


def send_to_nobody_there(tunnel: Tunnel) -> None:
    assert tunnel.dialer.stop() == 0
    tunnel.listener.wait_event("peer_disconnected")
    send(tunnel.listener.namespace, DIALER[4])


CAUSES: dict[Reason, tuple[str, Callable[[Tunnel], None]]] = {
    ("tx", "malformed"): ("dialer", write_garbage),
    ("tx", "no_route"): ("listener", lambda tunnel: send(tunnel.listener.namespace, NOBODY)),
    ("tx", "too_big"): ("listener", lambda tunnel: send(tunnel.listener.namespace, DIALER[4], NARROW)),
    ("rx", "short"): ("listener", lambda tunnel: send_outside(tunnel, bytes(31))),
    ("rx", "bad_header"): ("listener", lambda tunnel: send_outside(tunnel, bytes(32))),
    ("rx", "unknown_index"): ("listener", lambda tunnel: send_outside(tunnel, b"\x01" + bytes(31))),
    ("rx", "replay"): ("listener", lambda tunnel: send_outside(tunnel, record_of(tunnel))),
    ("rx", "auth"): ("listener", lambda tunnel: send_outside(tunnel, forged(tunnel, 1000))),
    ("rx", "no_key"): ("listener", lambda tunnel: send_outside(tunnel, forged(tunnel, RECORDS_HARD))),
    ("rx", "truncated"): ("listener", lambda tunnel: send_outside(tunnel, bytes(5000))),
    ("rx", "source_not_allowed"): ("listener", use_another_address),
    ("rx", "tun_write"): ("listener", set_tun_down),
    ("tx", "send_error"): ("dialer", set_cable_down),
    ("tx", "no_key"): ("listener", send_to_nobody_there),
}
"""At whom a reason is counted, and what causes it; in this order, since the last ones leave a tunnel that is worse."""
NOT_FROM_OUTSIDE: set[Reason] = {("tx", "no_endpoint"), ("tx", "crypto"), ("rx", "malformed"), ("rx", "control_queue")}
"""A fault of this node or of an authenticated peer, or a race: test_plane.py causes them in the data plane alone."""
OF_A_CROWD: set[Reason] = {("tx", "queue_late"), ("tx", "queue_full"), ("rx", "congestion")}
"""Takes more packets than can be counted, or a congested router: test_queues.py and test_ecn.py cause them."""


def test_the_table_has_every_drop_reason(bench: Bench) -> None:
    page = [(direction, reason.strip("`")) for direction, reason, *_ in rows("Drop reasons")]
    assert page == list(bench.plane.drops())
    assert set(page) == CAUSES.keys() | NOT_FROM_OUTSIDE | OF_A_CROWD
    assert not CAUSES.keys() & NOT_FROM_OUTSIDE


REPEATED = (("rx", "tun_write"),)
"""What is tried until the node was too slow to prevent it: once, or more often."""


def counts(tunnel: Tunnel, node: Node, reason: Reason) -> bool:
    """Whether the node has counted a drop for that reason."""
    return reason in tunnel.drops(node)


def test_each_cause_is_counted_under_its_name(lab: Lab) -> None:
    tunnel = make_tunnel(lab, listen=("--no-offload", "udp_gro"), dial=("--mtu", str(NARROW)))
    nodes = {"listener": tunnel.listener, "dialer": tunnel.dialer}
    for reason, (end, cause) in CAUSES.items():
        expected = {name: tunnel.drops(node) for name, node in nodes.items() if node.running().running}
        cause(tunnel)
        if reason in REPEATED:
            expected[end][reason] = tunnel.drops(nodes[end])[reason]
        else:
            expected[end][reason] = 1
        if not tunnel.dialer.running().running:
            del expected["dialer"]
        assert wait(partial(counts, tunnel, nodes[end], reason)), reason
        assert {name: tunnel.drops(nodes[name]) for name in expected} == expected, reason


# ---- a packet's way ----


def link(node: Node) -> dict[str, dict[str, int]]:
    """The TUN's counters: ``rx`` and ``tx``, each with ``packets`` and ``dropped``."""
    [found] = json.loads(node.namespace.run("ip", "-j", "-s", "link", "show", "cryprq0"))
    counters: dict[str, dict[str, int]] = found["stats64"]
    return counters


def stages(node: Node) -> dict[str, int]:
    [peer] = node.status()["peers"]
    return {
        **{f"tun {way}": link(node)[way]["packets"] for way in ("rx", "tx")},
        **{name: peer[name] for name in ("rx_packets", "tx_packets")},
    }


def test_five_pings_move_each_counter_by_five(lab: Lab) -> None:
    tunnel = make_tunnel(lab)
    ends = (tunnel.dialer, tunnel.listener)
    before = [stages(node) for node in ends]
    tunnel.dialer.namespace.run("ping", "-c", "5", "-i", "0.02", GATEWAY[4])
    assert wait(lambda: [stages(node) for node in ends] == [{k: v + 5 for k, v in one.items()} for one in before])


def stopped(state: Path) -> bool:
    """Whether the thread of that /proc/.../stat is."""
    return state.read_text().rpartition(")")[2].split()[0] == "T"


def hold(node: Node) -> None:
    """Stops all of its threads; they go on with SIGCONT."""
    pid = node.running().pid
    node.running().signal(signal.SIGSTOP)
    states = (Path(f"/proc/{pid}/task") / thread / "stat" for thread in os.listdir(f"/proc/{pid}/task"))
    for state in states:
        assert wait(partial(stopped, state))


def test_a_node_that_does_not_run_shows_in_the_kernels_counters(lab: Lab) -> None:
    """Of the sender's TUN, and of the receiver's sockets."""
    tunnel = make_tunnel(lab)
    sender, receiver = tunnel.dialer, tunnel.listener
    hold(sender)
    for _ in range(1500):
        send(sender.namespace, GATEWAY[4])
    assert 450 < link(sender)["tx"]["dropped"] < 550
    sender.running().signal(signal.SIGCONT)
    hold(receiver)
    sockets = receiver.namespace.run("ss", "-uanm")
    room = max(int(size) for size in re.findall(r",rb(\d+),", sockets))
    datagram = b"\x01" * 1400
    for _ in range(room // len(datagram)):
        send_outside(tunnel, datagram)
    errors = receiver.namespace.run("nstat", "-az", "UdpRcvbufErrors").splitlines()[-1].split()[1]
    assert int(errors) > 0
    assert f",d{errors})" in receiver.namespace.run("ss", "-uanm")
    receiver.running().signal(signal.SIGCONT)


# ---- names ----


def test_metrics_that_are_named_exist() -> None:
    exposed = Metrics(peers=lambda: (), drops=dict, offloads=dict).render()[0].decode()
    named = set(re.findall(r"\bcryprq_[a-z_]+\b", TEXT))
    assert len(named) == 5
    assert named <= set(re.findall(r"^# TYPE (\S+)", exposed, re.MULTILINE))


def test_events_that_are_named_exist() -> None:
    source = "".join(path.read_text() for path in (ROOT / "cryprq").rglob("*.py"))
    logged = {re.findall(r"`(\w+)`", first)[0] for first, _ in rows("A session in the log")}
    others = {"peer_silent", "control_lost", "endpoint_moved", "peer_disconnected", "qlog_off", "forwarding_off"}
    for event in logged | others:
        assert f"`{event}`" in TEXT + TROUBLE, event
        assert f'"{event}"' in source, event


def test_variables_that_are_named_exist() -> None:
    places = [*(ROOT / "cryprq").rglob("*.py"), *(ROOT / "csrc").glob("*.c")]
    source = "".join(path.read_text() for path in places)
    named = set(re.findall(r"\bCRYPRQ_[A-Z_]+\b", TEXT))
    assert len(named) == 3
    for variable in named:
        assert f'"{variable}"' in source, variable


def test_files_that_are_named_exist() -> None:
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", TEXT)
    assert len(targets) >= 3
    for target in targets:
        assert (ROOT / "docs" / target).exists(), target


def test_flags_that_are_named_exist(capsys: pytest.CaptureFixture[str]) -> None:
    others = {"--out", "--json", "--seq", "--no-children", "--sort", "--version"}
    with pytest.raises(SystemExit):
        parser(NodeConfig).parse_args(["--help"])
    assert set(re.findall(r"--[a-z][a-z-]+", TEXT)) <= others | set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
