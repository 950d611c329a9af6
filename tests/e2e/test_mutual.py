"""Nodes that listen and dial at once: two that dial each other, one that dials two gateways, and peers behind names."""

import contextlib
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cryprq.peer_id import PeerId
from lab.hosts import Lab, Namespace
from lab.nodes import Event, Node
from lab.tunnels import DIALER, GATEWAY, OUTER, listen_address

INNER = (GATEWAY[4], DIALER[4])
RATE = 100


class Pair:
    """Two nodes that listen and dial each other. ``smaller`` has the smaller peer ID: what it dials goes first."""

    def __init__(self, lab: Lab) -> None:
        hosts = lab.namespace("left"), lab.namespace("right")
        lab.veth(hosts[0], [f"{OUTER[4][0]}/24"], hosts[1], [f"{OUTER[4][1]}/24"])
        self.nodes = tuple(
            Node(host, "--listen", listen_address(4), "--tun-address", f"{inner}/24")
            for host, inner in zip(hosts, INNER, strict=True)
        )
        for number, node in enumerate(self.nodes):
            node.arguments += ["--peer", self.nodes[1 - number].multiaddr(OUTER[4][1 - number])]
        self.smaller, self.larger = sorted(self.nodes, key=lambda node: PeerId.parse(node.peer_id))

    def start(self) -> None:
        for node in self.nodes:
            node.start()

    def other(self, node: Node) -> Node:
        return self.nodes[1 - self.nodes.index(node)]

    def wait_ping(self, source: Node, seconds: float) -> float:
        """How long until the other node answers through the tunnel."""
        inner = INNER[1 - self.nodes.index(source)]
        return wait_ping(source.namespace, inner, seconds)

    def assert_settled(self) -> None:
        """One session that nobody touches any more; pings go both ways without a loss."""
        before, end = None, time.monotonic() + 60
        while before != (now := [happened(node) for node in self.nodes]):  # a dial that was under way has ended
            before = now
            assert time.monotonic() < end, "there is no end to what happens"
            time.sleep(1.5)
        for node in self.nodes:
            ping = node.namespace.measure("ping", INNER[1 - self.nodes.index(node)], count=20, interval=0.05)
            assert ping["received"] == 20
        assert [happened(node) for node in self.nodes] == before
        peers = [node.status()["peers"] for node in self.nodes]
        assert [peer["connected"] for (peer,) in peers] == [True, True]
        assert {peer["direction"] for (peer,) in peers} == {"inbound", "outbound"}
        assert [node.metric("current_peers") for node in self.nodes] == [1, 1]


def happened(node: Node) -> list[Event]:
    """Its events but for those of a dial that the other end gave up, as it does when its own call is answered: the end
    that was called waits five seconds for a word, and then says so."""
    given_up = node.events("handshake_failed", reason="timeout")
    return [event for event in node.events() if event not in given_up]


def wait_ping(source: Namespace, inner: str, seconds: float) -> float:
    """How long until there is an answer through the tunnel; fails after ``seconds``."""
    took: float | None = source.measure("await_ping", inner, seconds=seconds)["seconds"]
    assert took is not None, f"no answer from {inner} within {seconds} s"
    return took


def test_two_nodes_that_dial_each_other_keep_one_session(lab: Lab) -> None:
    pair = Pair(lab)
    pair.start()
    for node in pair.nodes:
        node.wait_event("peer_connected")
        pair.wait_ping(node, 60)
    pair.assert_settled()
    for node in pair.nodes:
        assert len(node.events("peer_connected")) == 1
        assert not node.events("peer_disconnected")


def test_second_node_of_a_pair_starts_later(lab: Lab) -> None:
    """The one that dialled in vain for a while is dialled itself or gets through, whichever comes first."""
    pair = Pair(lab)
    for first in (pair.smaller, pair.larger):
        second = pair.other(first)
        first.start().wait_event("transport_error", timeout=15)
        second.start().wait_event("listener_ready")
        pair.wait_ping(first, 60)
        pair.wait_ping(second, 60)
        assert [node.stop() for node in pair.nodes] == [0, 0]


@pytest.mark.parametrize("signal", ["SIGTERM", "SIGKILL"])
@pytest.mark.parametrize("which", ["smaller", "larger"])
def test_node_of_a_pair_is_restarted(lab: Lab, which: str, signal: str) -> None:
    """It dials at once. The other one, if it was not told, must not take the old session for alive too long."""
    pair = Pair(lab)
    pair.start()
    for node in pair.nodes:
        node.wait_event("peer_connected")
    restarted: Node = getattr(pair, which)
    if signal == "SIGTERM":
        assert restarted.stop() == 0
        pair.other(restarted).wait_event("peer_disconnected")
    else:
        restarted.kill()
    restarted.start().wait_event("listener_ready")
    limit = 5 if signal == "SIGTERM" else 10
    assert pair.wait_ping(restarted, limit) < limit
    pair.wait_ping(pair.other(restarted), 60)
    restarted.wait_event("peer_connected")
    pair.assert_settled()


def test_node_dials_two_gateways_at_once(lab: Lab) -> None:
    """Each assigns an address and announces its network. That one goes away and comes back is nothing to the other."""
    dialer_host, switch = lab.namespace("dialer"), {}
    dialer = Node(dialer_host)
    gateways = []
    for number in (1, 2):
        host = lab.namespace(f"gateway{number}")
        flags = "--tun-address", f"10.{number}.0.1/24", "--tun-address", f"fd0{number}::1/64"
        gateway = Node(host, "--listen", listen_address(6), *flags, "--allow-peer", dialer.peer_id)
        gateway.grant(dialer.peer_id, f"10.{number}.0.2", f"fd0{number}::2")
        outer = f"192.0.2.{number}", f"2001:db8::{number}"
        switch[host] = [f"{outer[0]}/24", f"{outer[1]}/64"]
        dialer.arguments += ["--peer", gateway.multiaddr(outer[number - 1])]  # the second one over IPv6
        gateways.append(gateway)
    lab.switch("switch", {dialer_host: ["192.0.2.9/24", "2001:db8::9/64"], **switch})
    for gateway in gateways:
        gateway.start().wait_event("listener_ready")
    dialer.start()
    dialer.wait_event("peer_connected", count=2)
    for number in (1, 2):
        for inner in (f"10.{number}.0.1", f"fd0{number}::1"):
            wait_ping(dialer_host, inner, 60)
    status = dialer.status()
    assert sorted(status["addresses"]) == ["10.1.0.2/24", "10.2.0.2/24", "fd01::2/64", "fd02::2/64"]
    assert [peer["connected"] for peer in status["peers"]] == [True, True]
    assert dialer.metric("current_peers") == 2

    receiver = gateways[0].namespace.traffic("udp_receive", "10.1.0.1", 5000, timeout=20.0)
    sender = dialer_host.traffic("udp_send", "10.1.0.1", 5000, rate=RATE, seconds=4)
    assert gateways[1].stop() == 0
    dialer.wait_event("peer_disconnected", peer_id=gateways[1].peer_id)
    gateways[1].start().wait_event("listener_ready")
    wait_ping(dialer_host, "10.2.0.1", 60)
    sent, result = sender.result(), receiver.result()
    assert result["received"] == sent["sent"]
    assert result["lost"] == 0
    assert len(dialer.events("peer_disconnected")) == 1
    # the gateways' other addresses are theirs: nobody speaks for the other's network
    assert [peer["allowed_ips"] for peer in sorted(dialer.status()["peers"], key=lambda peer: peer["allowed_ips"])] == [
        ["10.1.0.0/24", "fd01::/64"],
        ["10.2.0.0/24", "fd02::/64"],
    ]


# ---- names ----


@contextlib.contextmanager
def names(directory: Path, **hosts: str) -> Iterator[Path]:
    """/etc/hosts of all hosts of the lab, for as long as this lasts: addresses by name, with blanks between several."""
    path = directory / "hosts"
    write_names(path, **hosts)
    subprocess.run(["mount", "--bind", path, "/etc/hosts"], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "/etc/hosts"], check=True)


def write_names(path: Path, **hosts: str) -> None:
    """Changes the file in place: it is the file that is mounted, not its name."""
    path.write_text("".join(f"{address} {name}.test\n" for name, all_ in hosts.items() for address in all_.split()))


def named(lab: Lab, protocol: str) -> tuple[Node, Node]:
    """A dual-stack listener, and a dialer that knows it as gateway.test; neither is started."""
    here, there = lab.namespace("listener"), lab.namespace("dialer")
    both = {end: (f"{OUTER[4][end]}/24", f"{OUTER[6][end]}/64") for end in (0, 1)}
    lab.veth(here, both[0], there, both[1])
    dialer = Node(there)
    listener = Node(
        here, "--listen", listen_address(6), "--tun-address", f"{GATEWAY[4]}/24", "--allow-peer", dialer.peer_id
    )
    target = listener.multiaddr("name").replace("/ip4/name/", f"/{protocol}/gateway.test/")
    dialer.arguments += ["--peer", target]
    return listener, dialer


@pytest.mark.parametrize(
    ("protocol", "addresses", "endpoint"),
    [
        ("dns4", "2001:db8::1 192.0.2.1", "192.0.2.1:9999"),
        ("dns6", "192.0.2.1 2001:db8::1", "[2001:db8::1]:9999"),
        # Nobody is at the one address: the other one is tried beside it, a moment later.
        ("dns", "2001:db8::99 192.0.2.1", "192.0.2.1:9999"),
        ("dns", "192.0.2.99 2001:db8::1", "[2001:db8::1]:9999"),
    ],
)
def test_gateway_behind_a_name(lab: Lab, protocol: str, addresses: str, endpoint: str) -> None:
    listener, dialer = named(lab, protocol)
    with names(lab.directory, gateway=addresses):
        listener.start().wait_event("listener_ready")
        dialer.start()
        assert dialer.wait_event("peer_connected")["remote"] == endpoint
        wait_ping(dialer.namespace, GATEWAY[4], 60)
        assert not dialer.events("transport_error")


def test_name_that_appears_later_is_found(lab: Lab) -> None:
    listener, dialer = named(lab, "dns")
    with names(lab.directory, elsewhere="192.0.2.77") as file:
        listener.start().wait_event("listener_ready")
        dialer.start()
        assert "cannot resolve gateway.test" in dialer.wait_event("transport_error")["error"]
        write_names(file, gateway=OUTER[4][0])
        dialer.wait_event("peer_connected", timeout=20)
        wait_ping(dialer.namespace, GATEWAY[4], 60)
