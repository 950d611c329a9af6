"""The usual tunnel of a test: two hosts on a cable, a listener on the one and a dialer on the other, both running."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lab.hosts import Lab, Namespace
from lab.nodes import PORT, Node

OUTER = {4: ("192.0.2.1", "192.0.2.2"), 6: ("2001:db8::1", "2001:db8::2")}
GATEWAY = {4: "10.66.0.1", 6: "fd66::1"}
DIALER = {4: "10.66.0.2", 6: "fd66::2"}
"""What the listener of ``make_tunnel`` assigns to the dialer."""
LISTEN_FLAGS = ("--tun-address", f"{GATEWAY[4]}/24", "--tun-address", f"{GATEWAY[6]}/64")


@dataclass
class Tunnel:
    """A listener and a dialer whose tunnel is up."""

    lab: Lab
    listener: Node
    dialer: Node
    outer: int
    """The IP version underneath."""

    def start(self, *, ping: bool = True) -> None:
        """Starts both nodes; returns when the tunnel carries traffic, as a ping shows."""
        self.listener.start().wait_event("listener_ready")
        self.dialer.start()
        self.wait_up(ping=ping)

    def wait_up(self, timeout: float = 15.0, *, ping: bool = True) -> None:
        """Both ends have a session and a ping has gone through."""
        self.dialer.wait_event("peer_connected", timeout=timeout)
        self.listener.wait_event("peer_connected", timeout=timeout)
        if not ping:
            return
        assert self.dialer.namespace.measure("ping", GATEWAY[4], count=1, timeout=5.0)["received"] == 1

    def drops(self, node: Node) -> dict[tuple[str, str], int]:
        """Drop counters of a node that are not 0."""
        found = {}
        for (name, labels), value in node.metrics().items():
            fields = dict(labels)
            if name == "dropped_packets_total" and value:
                found[fields["direction"], fields["reason"]] = int(value)
        return found


def listen_address(outer: int, host: str | None = None) -> str:
    """The ``--listen`` of a listener on a wildcard address, or on one host."""
    return f"/ip{outer}/{host or ('0.0.0.0' if outer == 4 else '::')}/udp/{PORT}/quic-v1"


def make_tunnel(
    lab: Lab,
    outer: int = 4,
    *,
    listen: tuple[str, ...] = (),
    dial: tuple[str, ...] = (),
    strangers: Mapping[Namespace, Sequence[str]] | None = None,
    up: bool = True,
) -> Tunnel:
    """Both hosts with nodes that run with the extra flags; returns when the tunnel carries traffic.

    With ``strangers`` (hosts and their addresses) the hosts are on a switch with them, else on a cable. Not ``up``:
    the nodes are not started yet.
    """
    here, there = lab.namespace("listener"), lab.namespace("dialer")
    both = {end: (f"{OUTER[4][end]}/24", f"{OUTER[6][end]}/64") for end in (0, 1)}
    if strangers:
        lab.switch("switch", {here: both[0], there: both[1], **strangers})
    else:
        lab.veth(here, both[0], there, both[1])
    dialer = Node(there, *dial)
    listener = Node(here, "--listen", listen_address(outer), *LISTEN_FLAGS, "--allow-peer", dialer.peer_id, *listen)
    dialer.arguments += ["--peer", listener.multiaddr(OUTER[outer][0])]
    listener.grant(dialer.peer_id, *DIALER.values())
    tunnel = Tunnel(lab, listener, dialer, outer)
    if up:
        tunnel.start()
    return tunnel
