"""Where a link below takes less than the tunnel gives it: whoever has nothing to do with that does not wait, and the
wait of the others is short."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.hosts import Lab, Namespace
from lab.nodes import Node
from lab.tunnels import DIALER, GATEWAY, LISTEN_FLAGS, listen_address, make_tunnel
from tests.rigs.planes import wait

DEEP = "limit 64mb"
"""Of a bucket that throws nothing away: what stands in it is what its senders let stand."""


@contextmanager
def narrow(host: Namespace, device: str, mbits: int) -> Iterator[None]:
    host.run("tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", f"{mbits}mbit", "burst", "64kb", *DEEP.split())
    try:
        yield
    finally:
        host.run("tc", "qdisc", "delete", "dev", device, "root")


@contextmanager
def flood(host: Namespace, address: str, *, tos: int = 0) -> Iterator[None]:
    """Datagrams of 1,400 bytes to the address, as fast as they go, for as long as the context lasts."""
    over = threading.Event()
    with host.entered():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)

    def run() -> None:
        while not over.is_set():
            for _ in range(64):
                sock.sendto(bytes(1372), (address, 9))
            over.wait(0.002)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        sock.close()


@pytest.fixture
def fork(lab: Lab) -> tuple[Node, list[Node]]:
    """A gateway with two peers, each on a cable of its own (``to0``, ``to1``)."""
    middle = lab.namespace("middle")
    ends = [lab.namespace(f"end{number}") for number in range(2)]
    for number, end in enumerate(ends):
        lab.veth(end, [f"192.0.{number}.1/24"], middle, [f"192.0.{number}.2/24"], names=("eth0", f"to{number}"))
    dialers = [Node(end) for end in ends]
    allowed = [word for dialer in dialers for word in ("--allow-peer", dialer.peer_id)]
    gateway = Node(middle, "--listen", listen_address(4), *LISTEN_FLAGS, "--workers", "1", *allowed)
    for number, dialer in enumerate(dialers):
        gateway.grant(dialer.peer_id, inner(number), f"fd66::{2 + number}")
    gateway.start().wait_event("listener_ready")
    for number, dialer in enumerate(dialers):
        dialer.arguments += ["--peer", gateway.multiaddr(f"192.0.{number}.2")]
        dialer.start().wait_event("peer_connected")
        assert dialer.namespace.measure("ping", GATEWAY[4], count=1)["received"] == 1
    return gateway, dialers


def inner(number: int) -> str:
    return f"10.66.0.{2 + number}"


def dropped(node: Node, reason: str) -> float:
    return node.metric("dropped_packets_total", direction="tx", reason=reason)


def test_a_clogged_peer_holds_nobody_up(fork: tuple[Node, list[Node]]) -> None:
    gateway, (clogged, other) = fork
    with narrow(gateway.namespace, "to0", 10), flood(gateway.namespace, inner(0)):
        assert wait(lambda: dropped(gateway, "queue_full") and dropped(gateway, "queue_late"))
        # A ping that waited for the other peer's room would wait for most of a second.
        trip = gateway.namespace.measure("ping", inner(1), count=50, timeout=0.25)
        assert trip["received"] >= 45
        client = other.namespace.traffic("tcp_serve", inner(1), 5001, size=20_000_000)
        assert gateway.namespace.measure("tcp_transfer", inner(1), 5001, size=20_000_000)["ok"]
        assert client.result()["connections"][0]["ok"]
    assert clogged.namespace.measure("ping", GATEWAY[4], count=1, timeout=5.0)["received"] == 1
    assert dropped(gateway, "send_error") == 0


def test_a_clogged_peer_still_gets_its_keys(fork: tuple[Node, list[Node]]) -> None:
    """Signs of life and proofs of new keys go before what waits."""
    gateway, (clogged, _) = fork
    with narrow(gateway.namespace, "to0", 10), flood(gateway.namespace, inner(0)):
        assert wait(lambda: dropped(gateway, "queue_late"))
        for epoch in (1, 2):
            clogged.tool("rotate")
            for node, peer in ((gateway, clogged), (clogged, gateway)):
                node.wait_event("key_rotation", peer_id=peer.peer_id, epoch=epoch)
    assert clogged.namespace.measure("ping", GATEWAY[4], count=1, timeout=5.0)["received"] == 1


def test_a_flow_makes_no_other_wait(lab: Lab) -> None:
    """Beside what floods its own peer: 8 MiB of a socket's buffer are more than a second at this rate."""
    tunnel = make_tunnel(lab)
    host = tunnel.listener.namespace
    with narrow(host, "eth0", 50), flood(host, DIALER[4]):
        assert wait(lambda: dropped(tunnel.listener, "queue_late"))
        trips = host.measure("ping", DIALER[4], count=10, interval=0.05, timeout=2.0)
    assert trips["received"] == 10
    assert trips["p50_us"] < 400_000


def test_the_mark_is_that_of_every_socket(lab: Lab) -> None:
    """A peer's own socket has what policy routing knows the node's packets by."""
    tunnel = make_tunnel(lab, dial=("--fwmark", "77"))
    host = tunnel.dialer.namespace
    host.run("nft", "add table inet marks")
    host.run("nft", "add chain inet marks out { type filter hook output priority 0; }")
    host.run("nft", "add rule inet marks out udp dport 9999 meta mark != 77 counter drop")
    assert host.measure("ping", GATEWAY[4], count=3)["received"] == 3
    assert "packets 0 " in host.run("nft", "list table inet marks")
