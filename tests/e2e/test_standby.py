"""Two peers for one network: one owns it, the other stands by, and takes over when the first is not there."""

import time

from lab.hosts import Lab, Namespace
from lab.nodes import Node
from lab.tunnels import listen_address
from lab.uplink import answers

LAN, HOST = "192.168.50.0/24", "192.168.50.1"
"""Behind both of the peers, each of which has the host's address itself."""
INNER = "10.66.0"
OUTER = "192.0.2"


def make_hosts(lab: Lab) -> tuple[Namespace, Namespace, Namespace]:
    """One and two, which have the network, and the third one: .1, .2 and .3 on a switch."""
    one, two, other = (lab.namespace(name) for name in ("one", "two", "other"))
    lab.switch("switch", {host: [f"{OUTER}.{number}/24"] for number, host in enumerate((one, two, other), 1)})
    for host in (one, two):
        host.ip("link add lan0 type bridge")
        host.ip(f"address add {HOST}/24 dev lan0")
        host.ip("link set lan0 up")
    return one, two, other


def owner(node: Node) -> tuple[str, list[str]]:
    """Whose the network is, and who stands by for it."""
    peers = node.status()["peers"]
    (active,) = [peer["peer_id"] for peer in peers if LAN in peer["allowed_ips"]]
    return active, [peer["peer_id"] for peer in peers if LAN in peer["standby_for"]]


def seconds_without(other: Namespace) -> float:
    """How long until the host behind the network answers, asked all the time."""
    start = time.monotonic()
    while not answers(other, HOST):
        assert time.monotonic() - start < 60
    return time.monotonic() - start


def take_over(node: Node, peers: dict[str, Node]) -> None:
    """The owner of the network is killed; it comes back, and stands by from then on."""
    for peer in peers.values():
        node.wait_event("peer_connected", peer_id=peer.peer_id)
    assert answers(node.namespace, HOST, 10)
    active, (waiting,) = owner(node)
    times = len(node.events("network_taken_over"))  # the one that is written first may have come last
    peers[active].kill()
    assert seconds_without(node.namespace) < 20  # less than QUIC takes to notice: 25 s
    event = node.wait_event("network_taken_over", peer_id=waiting, before=active)
    assert LAN in event["networks"].split(",")
    assert owner(node) == (waiting, [active])
    before = len(node.events("handshake_complete", peer_id=active))
    peers[active].start()
    node.wait_event("handshake_complete", peer_id=active, count=before + 1, timeout=20)
    assert answers(node.namespace, HOST, 10)
    assert owner(node) == (waiting, [active])  # what works is left alone
    assert len(node.events("network_taken_over")) == node.metric("network_takeovers_total") == times + 1


def test_dialer_goes_over_to_another_gateway_of_the_same_network(lab: Lab) -> None:
    """By an address of its own, which both let in."""
    one, two, there = make_hosts(lab)
    dialer = Node(there, "--tun-address", f"{INNER}.3/24")
    gateways = {}
    for number, host in enumerate((one, two), 1):
        gateway = Node(host, "--listen", listen_address(4), "--tun-address", f"{INNER}.{number}/24", "--route", LAN)
        gateway.arguments += ["--allow-peer", f"{dialer.peer_id}={INNER}.3/32"]
        gateway.start().wait_event("listener_ready")
        gateways[gateway.peer_id] = gateway
        dialer.arguments += ["--peer", gateway.multiaddr(f"{OUTER}.{number}")]
    take_over(dialer.start(), gateways)


def test_hub_goes_over_to_another_peer_of_the_same_network(lab: Lab) -> None:
    """Although it cannot dial either: where another one stands by, it does not take ten seconds to notice."""
    one, two, here = make_hosts(lab)
    hub = Node(here, "--listen", listen_address(4), "--tun-address", f"{INNER}.3/24")
    sites = {}
    for number, host in enumerate((one, two), 1):
        site = Node(host, "--tun-address", f"{INNER}.{number}/24", "--peer", hub.multiaddr(f"{OUTER}.3"))
        hub.arguments += ["--allow-peer", f"{site.peer_id}={INNER}.{number}/32,{LAN}"]
        sites[site.peer_id] = site
    hub.start().wait_event("listener_ready")
    for site in sites.values():
        site.start()
    take_over(hub, sites)
