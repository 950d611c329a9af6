"""A working tunnel whose port is shelled: garbage, replays and broken handshakes cost some time and change nothing.

``CRYPRQ_TEST_FLOOD_SECONDS`` is how long the flood lasts: 20 by default; with 45 and more, memory has to be flat over
the second half, too.
"""

import asyncio
import json
import os
import socket
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from cryprq.address import Address
from cryprq.peer_id import PeerId
from cryprq.telemetry.logs import LIMIT, TOTAL
from lab import ROOT
from lab.capture import Capture, Datagram
from lab.dialers import Dialers, identity_of
from lab.hostile import RECORD_KINDS
from lab.hosts import Lab, Namespace, Process
from lab.nodes import PORT, Node
from lab.tunnels import GATEWAY, OUTER, Tunnel, make_tunnel

FLOOD_SECONDS = float(os.environ.get("CRYPRQ_TEST_FLOOD_SECONDS", "20"))
WARM_UP_SECONDS = 4.0
FLOOD_RATE = 3000
"""Datagrams a second."""
STRANGER_RATE = 10
"""Handshakes a second that come to nothing."""
LEAST_SHARE = 0.05
"""Of the throughput before. How much is left is the machine's affair, which others share: this says that it goes on."""
GROWTH_MAX_KIB = 16 << 10
"""Resident memory after the warm-up: 64 pending connections, those that have just ended, and what malloc keeps."""
FLAT_KIB = 1 << 10
"""The same, over the second half of a long flood."""
FLAT_AFTER_SECONDS = 45
"""A pending connection lives ten seconds, a closed one three; then nothing is new any more."""
STRANGERS = [f"192.0.2.{host}" for host in range(100, 132)]
"""One host with many addresses, so that its backoff does not keep it out."""
NEWCOMER = identity_of(99, 0)
"""Somebody who is allowed, and dials while the flood is on."""
_IP_TRANSPARENT = 19


@dataclass
class Siege:
    """A tunnel with a stranger on its network, and what the tunnel's first seconds looked like on the wire."""

    tunnel: Tunnel
    stranger: Namespace
    captured: list[Datagram]
    """Everything on the dialer's cable until the tunnel was up and a few pings had gone through."""

    def hostile(self, command: str, *arguments: object, **options: object) -> Process:
        """Starts a command of ``hostile.py`` on the stranger's host; it runs when this returns."""
        words = [str(word) for word in (command, OUTER[4][0], PORT, *arguments)]
        for name, value in options.items():
            words += [f"--{name}", *(map(str, value) if isinstance(value, list) else [str(value)])]
        self.tunnel.lab.counter += 1
        process = self.stranger.start(
            f"{command}-{self.tunnel.lab.counter}", sys.executable, str(ROOT / "lab" / "hostile.py"), *words
        )
        process.wait_for("ready\n", timeout=30)
        return process

    def save(self, *, by_dialer: bool) -> Path:
        """What the dialer, or the listener, sent, as a file for ``hostile.py``."""
        path = self.tunnel.lab.directory / "captured.json"
        datagrams = [datagram for datagram in self.captured if datagram.outgoing is by_dialer]
        kinds = {"records": False, "quic": True}
        path.write_text(
            json.dumps(
                {kind: [one.payload.hex() for one in datagrams if one.is_quic is quic] for kind, quic in kinds.items()}
            )
        )
        return path

    def dialer_endpoint(self) -> str:
        """Where the listener sees the dialer."""
        return str(self.tunnel.listener.status()["peers"][0]["endpoint"])

    def replay(self, payloads: Sequence[bytes], source: str) -> None:
        """Sends the payloads to the listener, in order, from HOST:PORT, whoever that is."""
        host, _, port = source.rpartition(":")
        with self.stranger.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
            sock.bind((host, int(port)))
            for payload in payloads:
                sock.sendto(payload, (OUTER[4][0], PORT))
                time.sleep(0.001)


def settled_drops(tunnel: Tunnel) -> dict[tuple[str, str], int]:
    """The listener's drop counters, once they stand still."""
    before = None
    while before != (now := tunnel.drops(tunnel.listener)):
        before = now
        time.sleep(0.3)
    return now


@pytest.fixture
def siege(lab: Lab) -> Siege:
    stranger = lab.namespace("stranger")
    addresses = [f"{address}/24" for address in STRANGERS]
    newcomer = ("--allow-peer", str(NEWCOMER.peer_id))
    tunnel = make_tunnel(lab, listen=newcomer, strangers={stranger: addresses}, up=False)
    with Capture(tunnel.dialer.namespace) as capture:
        tunnel.start()
        tunnel.dialer.namespace.measure("ping", GATEWAY[4], count=50, interval=0.005)
    assert capture.lost == 0
    assert len({datagram.is_quic for datagram in capture.sent}) == 2
    return Siege(tunnel, stranger, capture.datagrams)


def unbroken(tunnel: Tunnel) -> None:
    """The first session is the only one, its connection stands, and both ends agree on its keys."""
    for node, other in ((tunnel.listener, tunnel.dialer), (tunnel.dialer, tunnel.listener)):
        for event in ("handshake_complete", "peer_connected"):
            assert len(node.events(event, peer_id=other.peer_id)) == 1
        for event in ("peer_disconnected", "control_lost", "endpoint_moved"):
            assert node.events(event, peer_id=other.peer_id) == []
        for event in ("internal_error", "library_message"):
            assert node.events(event) == []
        assert node.http("/healthz")[0] == 200
    assert tunnel.dialer.namespace.measure("ping", GATEWAY[4], count=5, interval=0.05)["received"] == 5
    epoch = tunnel.dialer.status()["peers"][0]["epoch"] + 1
    tunnel.dialer.tool("rotate")
    for node in (tunnel.listener, tunnel.dialer):
        node.wait_event("key_rotation", status="success", epoch=epoch)


def throughput(tunnel: Tunnel, seconds: float) -> float:
    """Bits per second of one TCP flow through the tunnel."""
    sink = tunnel.listener.namespace.traffic("tcp_sink", GATEWAY[4], 5005)
    tunnel.dialer.namespace.measure("tcp_blast", GATEWAY[4], 5005, seconds=seconds)
    return float(sink.result()["bits_per_second"])


def most_in_a_minute(node: Node, *about: str) -> Mapping[tuple[str, ...], int]:
    """For each event of the log, and what it says ``about`` whom, how often it was written in the busiest 60 seconds.
    A remote counts without its port."""
    times: dict[tuple[str, ...], list[float]] = {}
    for event in node.events():
        key = (event["event"], *(str(event.get(field)).rpartition(":")[0] for field in about))
        times.setdefault(key, []).append(datetime.fromisoformat(event["time"]).timestamp())
    return {key: max(sum(at <= other < at + 60 for other in all_) for at in all_) for key, all_ in times.items()}


async def newcomer_dials(tunnel: Tunnel) -> str:
    """An honest handshake from the dialer's host, whose address half of the flood claims to be from."""
    with Dialers(Address(OUTER[4][0], PORT), PeerId.parse(tunnel.listener.peer_id)) as dialers:
        return await dialers.dial(NEWCOMER).wait(5)


def test_tunnel_under_a_flood_holds_its_throughput_and_its_memory(siege: Siege) -> None:
    tunnel = siege.tunnel
    nodes = {"listener": tunnel.listener, "dialer": tunnel.dialer}
    endpoint = siege.dialer_endpoint()
    attack: dict[str, Any] = {"captured": siege.save(by_dialer=True), "rate": FLOOD_RATE, "sources": STRANGERS}
    attack["spoof"] = endpoint
    crowd: dict[str, Any] = {"rate": STRANGER_RATE, "sources": STRANGERS}
    warm_up = [
        siege.hostile("flood", seconds=WARM_UP_SECONDS, seed=1, initials=400, **attack),
        siege.hostile("strangers", tunnel.listener.peer_id, seconds=WARM_UP_SECONDS, seed=2, **crowd),
    ]
    for process in warm_up:
        process.result()
    before = [throughput(tunnel, 1.5) for _ in range(3)]
    rss_before = {name: node.rss_kib() for name, node in nodes.items()}
    drops_before = settled_drops(tunnel)

    flood = siege.hostile("flood", seconds=FLOOD_SECONDS, seed=3, **attack)
    strangers = siege.hostile("strangers", tunnel.listener.peer_id, seconds=FLOOD_SECONDS - 2, seed=4, **crowd)
    meanwhile: list[float] = []
    memory: list[dict[str, int]] = []
    newcomers: list[str] = []
    start = time.monotonic()
    for rotation in (1, 2):
        while time.monotonic() < start + (FLOOD_SECONDS - 4) * rotation / 2:
            meanwhile.append(throughput(tunnel, 1.5))
            memory.append({name: node.rss_kib() for name, node in nodes.items()})
        tunnel.dialer.tool("rotate")
        for node in nodes.values():
            node.wait_event("key_rotation", status="success", epoch=rotation)
        with tunnel.dialer.namespace.entered():
            newcomers.append(asyncio.run(newcomer_dials(tunnel)))
    assert flood.running, "the flood ended before the measurements"
    sent, outcomes = flood.result(), strangers.result()
    drops = {key: count - drops_before.get(key, 0) for key, count in settled_drops(tunnel).items()}
    failures = {
        dict(labels)["reason"]: int(value)
        for (name, labels), value in tunnel.listener.metrics().items()
        if name == "handshakes_failed_total" and value
    }
    logged = {name: {key[0]: count for key, count in most_in_a_minute(node).items()} for name, node in nodes.items()}
    report = {
        "gbit_before": [round(speed / 1e9, 2) for speed in before],
        "gbit_during": [round(speed / 1e9, 2) for speed in meanwhile],
        "flood": sent,
        "strangers": outcomes,
        "failures": failures,
        "drops": {" ".join(key): count for key, count in drops.items()},
        "rss_kib_before": rss_before,
        "rss_kib_during": {name: [each[name] for each in memory] for name in nodes},
        "logged_in_a_minute": logged,
    }
    print(json.dumps(report))  # shown with a failure, and by ``pytest -rP``

    assert statistics.median(meanwhile) >= LEAST_SHARE * statistics.median(before)
    assert sent["per_second"] >= FLOOD_RATE * 0.2, "hardly a flood"
    assert newcomers == ["done", "done"]
    for name in nodes:
        kib = [each[name] for each in memory]
        assert max(kib) - rss_before[name] <= GROWTH_MAX_KIB
        if FLOOD_SECONDS >= FLAT_AFTER_SECONDS:
            assert kib[-1] - kib[len(kib) // 2] <= FLAT_KIB
        assert all(count <= TOTAL for count in logged[name].values())
        assert all(count <= LIMIT for count in most_in_a_minute(nodes[name], "remote").values())
    dropped_for_the_right_reasons(sent["sent"], drops)
    assert failures.keys() >= {"knock", "not_allowlisted", "timeout"}
    assert tunnel.drops(tunnel.dialer) == {}
    assert siege.dialer_endpoint() == endpoint
    unbroken(tunnel)


def dropped_for_the_right_reasons(sent: Mapping[str, int], drops: Mapping[tuple[str, str], int]) -> None:
    """What the data plane counts is what was sent, kind by kind. After a rotation and its grace, records of the epoch
    before name an index that nobody has any more."""
    counts = {reason: drops.get(("rx", reason), 0) for reason in RECORD_KINDS}
    assert drops.keys() - {("rx", reason) for reason in RECORD_KINDS} == set(), "dropped for other reasons, too"
    total = sum(sent[kind] for kind in RECORD_KINDS)
    assert 0.5 * total <= sum(counts.values()) <= total  # sockets and cables lose some, too
    for kind in ("short", "bad_header", "replay", "auth"):
        assert 0 < counts[kind] <= sent[kind]
    assert counts["short"] >= 0.5 * sent["short"]
    assert counts["unknown_index"] >= 0.9 * sent["unknown_index"]


@pytest.mark.parametrize("spoofed", [False, True], ids=["from-a-stranger", "from-the-dialers-address"])
def test_replayed_records_are_counted_one_by_one_and_move_nothing(siege: Siege, spoofed: bool) -> None:
    tunnel = siege.tunnel
    endpoint = siege.dialer_endpoint()
    source = endpoint if spoofed else f"{STRANGERS[0]}:4000"
    received = tunnel.listener.status()["peers"][0]["rx_packets"]
    for by_dialer, reason in ((True, "replay"), (False, "unknown_index")):
        records = [one.payload for one in siege.captured if one.outgoing is by_dialer and not one.is_quic]
        assert len(records) >= 50
        siege.replay(records * 3, source)
        assert settled_drops(tunnel)["rx", reason] == 3 * len(records)
    assert tunnel.listener.status()["peers"][0]["rx_packets"] == received
    assert siege.dialer_endpoint() == endpoint
    unbroken(tunnel)


@pytest.mark.parametrize("spoofed", [False, True], ids=["from-a-stranger", "from-the-dialers-address"])
def test_replayed_handshake_does_nothing_to_the_session_that_came_of_it(siege: Siege, spoofed: bool) -> None:
    tunnel = siege.tunnel
    endpoint = siege.dialer_endpoint()
    quic = [one.payload for one in siege.captured if one.outgoing and one.is_quic]
    for _ in range(3):
        siege.replay(quic, endpoint if spoofed else f"{STRANGERS[0]}:4000")
    assert tunnel.listener.metric("handshakes_attempted_total") == 1
    assert siege.dialer_endpoint() == endpoint
    unbroken(tunnel)


def test_replayed_handshake_of_a_dialer_that_is_gone_gets_no_session(siege: Siege) -> None:
    """The listener knows nothing of the connection any more: its first packet begins another one, the next ones do not
    fit to it, and the records are of keys that are no more."""
    tunnel = siege.tunnel
    endpoint = siege.dialer_endpoint()
    assert tunnel.dialer.stop() == 0
    tunnel.listener.wait_event("peer_disconnected")
    time.sleep(3.5)  # what is left of a closed connection is forgotten after three seconds
    for source in (endpoint, f"{STRANGERS[0]}:4000"):
        siege.replay([one.payload for one in siege.captured if one.outgoing], source)
    records = sum(not one.is_quic for one in siege.captured if one.outgoing)
    assert settled_drops(tunnel) == {("rx", "unknown_index"): 2 * records}
    assert tunnel.listener.metric("handshakes_attempted_total") == 1
    assert not tunnel.listener.status()["peers"][0]["connected"]
    tunnel.dialer.start().wait_event("peer_connected")
