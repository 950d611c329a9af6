"""A path between the nodes that is too narrow for full records: they are fragmented, not lost."""

import pytest

from lab.hosts import Lab
from lab.lans import counters, every_size, transfer
from lab.nodes import Node
from lab.tunnels import GATEWAY, LISTEN_FLAGS, Tunnel, listen_address

NARROW = 1300
ENDS = {4: ("192.0.2.1/24", "198.51.100.1/24"), 6: ("2001:db8:1::1/64", "2001:db8:2::1/64")}
ROUTERS = {4: ("192.0.2.2/24", "198.51.100.2/24"), 6: ("2001:db8:1::2/64", "2001:db8:2::2/64")}
MIDDLE = {4: ("203.0.113.1/24", "203.0.113.2/24"), 6: ("2001:db8:3::1/64", "2001:db8:3::2/64")}


def host_of(interface: str) -> str:
    return interface.split("/")[0]


def narrow_tunnel(lab: Lab, outer: int) -> Tunnel:
    """Listener, router, router, dialer; the cable between the routers has the small MTU, which the nodes cannot see."""
    hosts = [lab.namespace(name) for name in ("listener", "dialer")]
    routers = [lab.namespace(name) for name in ("router0", "router1")]
    lab.veth(routers[0], MIDDLE[outer][:1], routers[1], MIDDLE[outer][1:], names=("middle", "middle"), mtu=NARROW)
    for end, (host, router) in enumerate(zip(hosts, routers, strict=True)):
        lab.veth(host, [ENDS[outer][end]], router, [ROUTERS[outer][end]])
        router.sysctl("net.ipv4.ip_forward", 1)
        router.sysctl("net.ipv6.conf.all.forwarding", 1)
        host.ip(f"-{outer} route add default via {host_of(ROUTERS[outer][end])}")
        router.ip(f"-{outer} route add default via {host_of(MIDDLE[outer][1 - end])}")
    dialer = Node(hosts[1])
    listener = Node(hosts[0], "--listen", listen_address(outer), *LISTEN_FLAGS, "--allow-peer", dialer.peer_id)
    dialer.arguments += ["--peer", listener.multiaddr(host_of(ENDS[outer][0]))]
    listener.start().wait_event("listener_ready")
    dialer.start()
    tunnel = Tunnel(lab, listener, dialer, outer)
    tunnel.wait_up()
    return tunnel


@pytest.mark.parametrize("outer", [4, 6])
def test_path_that_is_too_narrow_for_records(lab: Lab, outer: int) -> None:
    """IPv4: the router fragments. IPv6: it refuses, and from then on the sender fragments, record by record."""
    tunnel = narrow_tunnel(lab, outer)
    ends = (tunnel.listener.namespace, tunnel.dialer.namespace)
    transfer(*ends, GATEWAY[4])
    every_size(*ends, GATEWAY[4])
    for node in (tunnel.listener, tunnel.dialer):
        found = counters(node.namespace)
        whole, failed = ("Ip.ReasmOKs", "Ip.ReasmFails") if outer == 4 else ("Ip6ReasmOKs", "Ip6ReasmFails")
        assert found[whole] > 1000
        assert found[failed] == 0
        assert tunnel.drops(node) == {}
