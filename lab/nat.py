"""A dialer behind a router that translates addresses and has two uplinks to the same gateway.

    dialer ── router ══ gateway

What comes by an uplink from an address that is not of that uplink is dropped, as providers do (BCP 38).
"""

from dataclasses import dataclass

from lab.hosts import Lab, Namespace
from lab.nodes import Node
from lab.tunnels import LISTEN_FLAGS, Tunnel, listen_address

OUTER = "203.0.113.1"
"""The gateway, by either uplink."""
UPLINKS = {"first": "192.0.2", "second": "198.51.100"}


@dataclass
class Natted(Tunnel):
    """A tunnel through the router; its nodes are not started yet."""

    router: Namespace

    def use(self, uplink: str) -> None:
        """The router changes to ``first`` or ``second``, and the other one is dead. What it translates, it goes on
        translating as before."""
        (dead,) = set(UPLINKS) - {uplink}
        self.router.ip(f"route replace default via {UPLINKS[uplink]}.1 dev {uplink}")
        gateway = self.listener.namespace
        gateway.run("nft", "flush ruleset")
        gateway.run("nft", "add table ip uplinks")
        for hook, device in (("input", "iifname"), ("output", "oifname")):
            gateway.run("nft", f"add chain ip uplinks {hook} {{ type filter hook {hook} priority 0; }}")
            gateway.run("nft", f"add rule ip uplinks {hook} {device} {dead} drop")
        gateway.run("nft", f"add rule ip uplinks input iifname {uplink} ip saddr != {UPLINKS[uplink]}.0/24 drop")


def make_natted(lab: Lab) -> Natted:
    """The hosts and their nodes; the first uplink is in use."""
    there, router, here = (lab.namespace(name) for name in ("dialer", "router", "gateway"))
    lab.veth(there, ["10.1.0.2/24"], router, ["10.1.0.1/24"], names=("eth0", "inside"))
    there.ip("route add default via 10.1.0.1")
    here.ip(f"address add {OUTER}/32 dev lo")
    for name, network in UPLINKS.items():
        lab.veth(router, [f"{network}.2/24"], here, [f"{network}.1/24"], names=(name, name))
    router.sysctl("net.ipv4.ip_forward", 1)
    router.run("nft", "add table ip nat")
    router.run("nft", "add chain ip nat postrouting { type nat hook postrouting priority srcnat; }")
    for name, network in UPLINKS.items():  # unlike `masquerade`, these entries outlive a change of the uplink
        router.run("nft", f"add rule ip nat postrouting oifname {name} snat to {network}.2")
    dialer = Node(there)
    listener = Node(here, "--listen", listen_address(4), *LISTEN_FLAGS, "--allow-peer", dialer.peer_id)
    dialer.arguments += ["--peer", listener.multiaddr(OUTER)]
    natted = Natted(lab, listener, dialer, 4, router)
    natted.use("first")
    return natted
