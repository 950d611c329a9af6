"""A path between the nodes that is narrower than the hosts can see: two routers, and between them a cable with an MTU.

    listener ── router0 ══ router1 ── dialer

What a network may do to those who look for its MTU: say nothing of packets that are too big, drop fragments, become
smaller or larger meanwhile.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lab.hosts import Lab, Namespace
from lab.lans import counters
from lab.nodes import Node
from lab.tunnels import DIALER, LISTEN_FLAGS, Tunnel, listen_address

ENDS = {4: ("192.0.2.1/24", "198.51.100.1/24"), 6: ("2001:db8:1::1/64", "2001:db8:2::1/64")}
ROUTERS = {4: ("192.0.2.2/24", "198.51.100.2/24"), 6: ("2001:db8:1::2/64", "2001:db8:2::2/64")}
MIDDLE = {4: ("203.0.113.1/24", "203.0.113.2/24"), 6: ("2001:db8:3::1/64", "2001:db8:3::2/64")}
_TOO_BIG = ("icmp type destination-unreachable icmp code frag-needed", "icmpv6 type packet-too-big")
_FRAGMENTS = ("ip frag-off & 0x3fff != 0", "exthdr frag exists")


@dataclass
class NarrowPath:
    """The tunnel over it, and the routers."""

    tunnel: Tunnel
    routers: tuple[Namespace, Namespace]

    @property
    def ends(self) -> tuple[Namespace, Namespace]:
        return self.tunnel.listener.namespace, self.tunnel.dialer.namespace

    @property
    def nodes(self) -> tuple[Node, Node]:
        return self.tunnel.listener, self.tunnel.dialer

    def set_mtu(self, mtu: int) -> None:
        """Of the cable in the middle."""
        for router in self.routers:
            router.ip(f"link set middle mtu {mtu}")

    def path_mtus(self) -> list[int | None]:
        """What either node has found."""
        return [node.status()["peers"][0]["path_mtu"] for node in self.nodes]

    def found(self, mtu: int, seconds: float = 60.0) -> bool:
        """Whether both nodes find this in time."""
        end = time.monotonic() + seconds
        while self.path_mtus() != [mtu, mtu]:
            if time.monotonic() > end:
                return False
            time.sleep(0.05)
        return True

    def fragments(self) -> int:
        """Outer fragments that the routers made, and that the hosts made or were sent."""
        total = 0
        for host in (*self.routers, *self.ends):
            found = counters(host)
            names = ("Ip.FragCreates", "Ip.ReasmReqds", "Ip6FragCreates", "Ip6ReasmReqds")
            total += sum(found[name] for name in names)
        return total

    @contextmanager
    def no_fragments(self) -> Iterator[None]:
        """Fails if there is one meanwhile."""
        before = self.fragments()
        yield
        assert self.fragments() == before


def narrow_path(
    lab: Lab, outer: int, mtu: int, *, silent: bool = False, drops_fragments: bool = False, wide: int = 1500,
    flags: tuple[str, ...] = (),
) -> NarrowPath:  # fmt: skip
    """The tunnel is up on return. ``silent`` routers tell nobody that a packet is too big; ``wide`` is the MTU of the
    other cables, ``flags`` are of both nodes."""
    hosts = (lab.namespace("listener"), lab.namespace("dialer"))
    routers = (lab.namespace("router0"), lab.namespace("router1"))
    lab.veth(routers[0], MIDDLE[outer][:1], routers[1], MIDDLE[outer][1:], names=("middle", "middle"), mtu=mtu)
    for end, (host, router) in enumerate(zip(hosts, routers, strict=True)):
        lab.veth(host, [ENDS[outer][end]], router, [ROUTERS[outer][end]], mtu=wide)
        router.sysctl("net.ipv4.ip_forward", 1)
        router.sysctl("net.ipv6.conf.all.forwarding", 1)
        host.ip(f"-{outer} route add default via {_host(ROUTERS[outer][end])}")
        router.ip(f"-{outer} route add default via {_host(MIDDLE[outer][1 - end])}")
        _filter(router, silent=silent, drops_fragments=drops_fragments)
    dialer = Node(hosts[1], *flags)
    listener = Node(hosts[0], "--listen", listen_address(outer), *LISTEN_FLAGS, "--allow-peer", dialer.peer_id, *flags)
    dialer.arguments += ["--peer", listener.multiaddr(_host(ENDS[outer][0]))]
    listener.grant(dialer.peer_id, *DIALER.values())
    tunnel = Tunnel(lab, listener, dialer, outer)
    tunnel.start()
    return NarrowPath(tunnel, routers)


def _filter(router: Namespace, *, silent: bool, drops_fragments: bool) -> None:
    router.run("nft", "add table inet path")
    router.run("nft", "add chain inet path out { type filter hook output priority 0; }")
    router.run("nft", "add chain inet path in { type filter hook prerouting priority -450; }")
    for chain, rules in (("out", _TOO_BIG if silent else ()), ("in", _FRAGMENTS if drops_fragments else ())):
        for rule in rules:
            router.run("nft", f"add rule inet path {chain} {rule} drop")


def _host(interface: str) -> str:
    return interface.partition("/")[0]
