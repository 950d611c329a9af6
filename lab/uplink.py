"""A laptop and its gateway, a router between them, and a server on the other side: who sees what the laptop sends?

    dialer ── router ── gateway (with 192.168.50.1 and fd50::1 behind it)
                 └───── server

Each has a default route to the router, and nobody but the gateway knows the networks behind it.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from lab.capture import Capture
from lab.hosts import Lab, Namespace
from lab.nodes import Node
from lab.traffic import ping
from lab.tunnels import LISTEN_FLAGS, listen_address

NETWORK = {4: "192.168.50.0/24", 6: "fd50::/64"}
BEHIND = {4: "192.168.50.1", 6: "fd50::1"}
"""What is behind the gateway."""
OUTER = {4: "198.51.100.1", 6: "2001:db8:1::1"}
"""The gateway."""
SERVER = {4: "203.0.113.9", 6: "2001:db8:3::9"}
_CABLES = {
    "dialer": (("192.0.2.2/24", "2001:db8:2::2/64"), ("192.0.2.1/24", "2001:db8:2::1/64")),
    "gateway": (("198.51.100.1/24", "2001:db8:1::1/64"), ("198.51.100.254/24", "2001:db8:1::fe/64")),
    "server": (("203.0.113.9/24", "2001:db8:3::9/64"), ("203.0.113.1/24", "2001:db8:3::1/64")),
}


@dataclass
class Uplink:
    """The hosts and a gateway that runs; dialers are the test's."""

    lab: Lab
    dialer: Namespace
    gateway: Namespace
    router: Namespace
    server: Namespace
    listener: Node

    def node(self, name: str, *arguments: str, outer: int = 4) -> Node:
        """A node on the dialer's host that may connect; not started."""
        node = Node(self.dialer, *arguments, name=name)
        self.allow(node)
        node.arguments += ["--peer", self.listener.multiaddr(OUTER[outer])]
        return node

    def allow(self, node: Node) -> None:
        """Puts it on the gateway's list, while that runs."""
        config = self.lab.directory / "gateway.toml"
        config.write_text(config.read_text() + f"{node.peer_id} = []\n")
        before = len(self.listener.events("config_reloaded"))
        self.listener.reload()
        self.listener.wait_event("config_reloaded", count=before + 1)

    def in_clear(self, capture: Capture) -> list[str]:
        """Where the dialer's host sent datagrams that are neither the tunnel's nor part of it."""
        return [sent.destination for sent in capture.sent if sent.destination not in OUTER.values()]


def make_uplink(lab: Lab) -> Uplink:
    """All hosts, and the gateway running."""
    router = lab.namespace("router")
    hosts = {name: lab.namespace(name) for name in _CABLES}
    for name, (here, there) in _CABLES.items():
        lab.veth(hosts[name], here, router, there, names=("eth0", name))
        for version, address in zip((4, 6), there, strict=True):
            hosts[name].ip(f"-{version} route add default via {address.partition('/')[0]}")
    for host in (router, hosts["gateway"]):
        host.sysctl("net.ipv4.ip_forward", 1)
        host.sysctl("net.ipv6.conf.all.forwarding", 1)
    gateway = hosts["gateway"]
    gateway.ip("link add lan0 type bridge")
    for version in (4, 6):
        gateway.ip(f"address add {BEHIND[version]}/{NETWORK[version].partition('/')[2]} dev lan0")
    gateway.ip("link set lan0 up")
    config = lab.directory / "gateway.toml"
    config.write_text("[allow-peer]\n")
    listener = Node(gateway, "--config", str(config), "--listen", listen_address(6), *LISTEN_FLAGS)
    for version in (4, 6):
        listener.arguments += ["--route", NETWORK[version]]
    listener.start().wait_event("listener_ready")
    return Uplink(lab, hosts["dialer"], gateway, router, hosts["server"], listener)


def answers(host: Namespace, address: str, patience: float = 0.3) -> bool:
    """Whether a ping from a host comes back: one, which is lost after so many seconds. Who asks only once has more."""
    try:
        with host.entered():
            return bool(ping(address, count=1, interval=0, timeout=patience, size=56)["received"])
    except OSError:
        return False  # there is no way at the moment


def soon(check: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Whether it comes true in time."""
    end = time.monotonic() + seconds
    while not check():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True
