"""End to end: a hub that listens at several addresses, on two uplinks, by either IP version, and at another port."""

import socket
from contextlib import ExitStack
from dataclasses import dataclass, field

import pytest

from lab.hosts import Lab, Namespace
from lab.nodes import PROGRAMS, Node
from lab.tunnels import GATEWAY, LISTEN_FLAGS

PORT, OTHER_PORT = 9999, 4433
FIRST, SECOND, SIX = "192.0.2.1", "198.51.100.1", "2001:db8::1"
LISTEN = (f"/ip4/{FIRST}/udp/{PORT}", f"/ip4/{SECOND}/udp/{PORT}", f"/ip6/{SIX}/udp/{OTHER_PORT}")
FLAGS = tuple(word for address in LISTEN for word in ("--listen", f"{address}/quic-v1"))


@dataclass
class Site:
    """The hub, which listens but is not started yet, and whoever dials it."""

    lab: Lab
    hub: Node
    uplinks: dict[str, Namespace]
    dialers: list[Node] = field(default_factory=list)

    def dialer(self, name: str, *where: tuple[str, int]) -> Node:
        """On both uplinks, as host 2, 3, ...; dials the hub there."""
        number = len(self.dialers) + 2
        host = self.lab.namespace(name)
        for uplink, addresses in (
            ("first", [f"192.0.2.{number}/24", f"2001:db8::{number}/64"]),
            ("second", [f"198.51.100.{number}/24"]),
        ):
            switch = self.uplinks[uplink]
            port = f"{uplink}{number}"
            self.lab.veth(switch, [], host, addresses, names=(port, uplink))
            switch.ip(f"link set {port} master br0")
        node = Node(host)
        for address, udp in where:
            node.arguments += ["--peer", self.hub.multiaddr(address, udp)]
        self.hub.arguments += ["--allow-peer", node.peer_id]
        self.dialers.append(node)
        return node

    def start(self) -> None:
        self.hub.start().wait_event("listener_ready", count=3)
        for dialer in self.dialers:
            dialer.start()
        for dialer in self.dialers:
            dialer.wait_event("peer_connected")
            self.hub.wait_event("peer_connected", peer_id=dialer.peer_id)

    def seen(self, dialer: Node) -> tuple[str, str]:
        """Where the hub sees a dialer, and by which of its own addresses."""
        (peer,) = [peer for peer in self.hub.status()["peers"] if peer["peer_id"] == dialer.peer_id]
        return peer["endpoint"].rpartition(":")[0], peer["local_endpoint"]


@pytest.fixture
def site(lab: Lab) -> Site:
    here = lab.namespace("hub")
    uplinks = {
        "first": lab.switch("one", {here: [f"{FIRST}/24", f"{SIX}/64"]}, device="first"),
        "second": lab.switch("two", {here: [f"{SECOND}/24"]}, device="second"),
    }
    return Site(lab, Node(here, *FLAGS, *LISTEN_FLAGS), uplinks)


def both_ways(hub: Node, dialer: Node) -> bool:
    (peer,) = [peer for peer in hub.status()["peers"] if peer["peer_id"] == dialer.peer_id]
    there = dialer.namespace.traffic("ping", GATEWAY[4], count=3, interval=0.01, timeout=5.0)
    back = hub.namespace.traffic("ping", peer["addresses"][0], count=3, interval=0.01, timeout=5.0)
    return [ping.result()["received"] for ping in (there, back)] == [3, 3]


def test_each_dialer_is_answered_by_the_address_that_it_dialled(site: Site) -> None:
    hub = site.hub
    wanted = {site.dialer("left", (FIRST, PORT)): f"{FIRST}:{PORT}"}
    wanted[site.dialer("right", (SECOND, PORT))] = f"{SECOND}:{PORT}"
    wanted[site.dialer("six", (SIX, OTHER_PORT))] = f"[{SIX}]:{OTHER_PORT}"
    site.start()
    ready = [f"{address}/quic-v1/p2p/{hub.peer_id}" for address in LISTEN]
    assert [event["listen_addr"] for event in hub.events("listener_ready")] == ready
    status = hub.status()
    assert status["listen_addrs"] == ready and status["listen_addr"] == ready[0]
    assert [line for line in hub.tool("status").splitlines() if line.startswith("listening")] == [
        f"listening {address}" for address in ready
    ]
    hub.tool("rotate")  # by QUIC, on the same way
    for dialer, address in wanted.items():
        hub.wait_event("key_rotation", peer_id=dialer.peer_id, status="success")
        assert both_ways(hub, dialer)
        assert site.seen(dialer)[1] == address
    assert hub.stop() == 0
    for dialer in wanted:
        dialer.wait_event("peer_disconnected")


def test_dialer_roams_from_one_uplink_to_the_other_within_its_session(site: Site) -> None:
    hub, dialer = site.hub, site.dialer("roamer", (FIRST, PORT))
    site.start()
    assert site.seen(dialer) == ("192.0.2.2", f"{FIRST}:{PORT}") and both_ways(hub, dialer)
    # What goes to the first address goes to the second from now on, from where the dialer is there.
    nft = dialer.namespace.run
    nft("nft", "add table ip roam")
    nft("nft", "add chain ip roam out { type nat hook output priority -100; }")
    nft("nft", "add chain ip roam post { type nat hook postrouting priority 100; }")
    nft("nft", "add rule ip roam post oifname second masquerade")
    nft("nft", f"add rule ip roam out ip daddr {FIRST} udp dport {PORT} dnat to {SECOND}:{PORT}")
    site.uplinks["first"].ip("link set first2 down")  # this way, nothing comes any more
    # The hub cannot know before it has heard the dialer there.
    assert dialer.namespace.measure("ping", GATEWAY[4], count=3, interval=0.01, timeout=5.0)["received"] == 3
    assert both_ways(hub, dialer)
    assert site.seen(dialer) == ("198.51.100.2", f"{SECOND}:{PORT}")
    hub.wait_event("endpoint_moved", peer_id=dialer.peer_id)
    dialer.tool("rotate")
    dialer.wait_event("key_rotation", status="success")
    assert both_ways(hub, dialer)
    for node in (hub, dialer):
        assert node.metric("handshakes_success_total") == 1
        assert not node.events("peer_disconnected") and not node.events("control_lost")


def test_dialer_goes_over_to_the_other_uplink_when_one_is_gone(site: Site) -> None:
    hub, dialer = site.hub, site.dialer("roamer", (FIRST, PORT), (SECOND, PORT))
    site.start()
    assert site.seen(dialer)[1] == f"{FIRST}:{PORT}"
    dialer.namespace.ip("link set first down")
    assert dialer.namespace.measure("await_ping", GATEWAY[4], seconds=20)["seconds"] is not None
    assert site.seen(dialer) == ("198.51.100.2", f"{SECOND}:{PORT}")
    assert both_ways(hub, dialer)


def test_hub_dials_from_a_port_of_its_own_by_either_ip_version(lab: Lab) -> None:
    hub, there = lab.namespace("hub"), lab.namespace("peer")
    lab.veth(hub, [f"{FIRST}/24", f"{SIX}/64"], there, ["192.0.2.2/24", "2001:db8::2/64"])
    peer = Node(there, "--listen", f"/ip6/2001:db8::2/udp/{PORT}/quic-v1", "--tun-address", "10.66.0.9/24")
    flags = [word for port in (1, 2) for word in ("--listen", f"/ip4/{FIRST}/udp/{port}/quic-v1")]
    node = Node(hub, *flags, *LISTEN_FLAGS, "--peer", peer.multiaddr("2001:db8::2"))
    peer.arguments += ["--allow-peer", f"{node.peer_id}=10.66.0.1/32"]
    node.start().wait_event("port_changed", timeout=20)  # nobody was there yet
    peer.start()
    node.wait_event("peer_connected", timeout=20)
    assert node.namespace.measure("await_ping", "10.66.0.9", seconds=10)["seconds"] is not None
    (seen,) = node.status()["peers"]
    port = int(seen["local_endpoint"].removeprefix("*:"))
    assert port not in (1, 2) and peer.status()["peers"][0]["endpoint"] == f"[{SIX}]:{port}"


def test_second_address_in_use_is_named(lab: Lab) -> None:
    host = lab.namespace("hub")
    host.ip(f"address add {FIRST}/32 dev lo")
    command = [str(PROGRAMS / "cryprq-node"), *LISTEN_FLAGS, "--identity", str(host.directory / "identity")]
    command += ["--listen", f"/ip4/{FIRST}/udp/1/quic-v1", "--listen", f"/ip4/127.0.0.1/udp/{PORT}/quic-v1"]
    with ExitStack() as stack, host.entered():
        taken = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        taken.bind(("127.0.0.1", PORT))
        refused = host.start("refused", *command)
        assert refused.wait() == 1
    (line,) = refused.output().splitlines()
    assert f"UDP port {PORT} on 127.0.0.1 is in use" in line
    twice = host.start("twice", *command, *command[-2:])
    assert twice.wait() == 2
    assert twice.output().splitlines()[-1].endswith(f"--listen: /ip4/127.0.0.1/udp/{PORT}/quic-v1 is given twice")
