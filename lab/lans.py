"""Two networks behind a tunnel: host - gateway and listener - gateway and dialer - host, with forwarding.

    left      10.1.0.0/24 and fd01::/64, announced by the listener with ``--route``
    right     10.2.0.0/24 and fd02::/64, given to the dialer with ``--allow-peer ID=CIDR``

The gateways' ends of the LAN cables are ``lan0``, the hosts' and the underlay's are ``eth0``.
"""

import socket
import struct
import threading
from collections import Counter
from dataclasses import dataclass, field
from typing import Self

from lab.capture import ETHERNET, tap
from lab.hosts import Lab, Namespace
from lab.icmp import answers
from lab.nodes import Node
from lab.tunnels import DIALER, LISTEN_FLAGS, OUTER, Tunnel, listen_address

HOSTS = {"left": {4: "10.1.0.2", 6: "fd01::2"}, "right": {4: "10.2.0.2", 6: "fd02::2"}}
ROUTERS = {"left": {4: "10.1.0.1", 6: "fd01::1"}, "right": {4: "10.2.0.1", 6: "fd02::1"}}
NETWORKS = {"left": ("10.1.0.0/24", "fd01::/64"), "right": ("10.2.0.0/24", "fd02::/64")}
PREFIX = {4: 24, 6: 64}
MTU = 1420
UDP_OVERHEAD = {4: 28, 6: 48}
TUN = "cryprq0"

_VOUCHED = 1


@dataclass
class Lans:
    """The hosts, the gateways and their tunnel, which is up."""

    tunnel: Tunnel
    left: Namespace
    right: Namespace
    _known: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def hosts(self) -> tuple[Namespace, Namespace]:
        return self.left, self.right

    @property
    def gateways(self) -> tuple[Namespace, Namespace]:
        return self.tunnel.listener.namespace, self.tunnel.dialer.namespace

    def forget(self) -> None:
        """What was found damaged up to now does not count."""
        self._known = self._damages()

    def corrupted(self) -> dict[tuple[str, str], int]:
        """By namespace and counter, what any host or gateway found damaged: 0 is left out."""
        return {
            key: value - self._known.get(key, 0)
            for key, value in self._damages().items()
            if value != self._known.get(key)
        }

    def _damages(self) -> dict[tuple[str, str], int]:
        found = {}
        for namespace in (*self.hosts, *self.gateways):
            for name, value in counters(namespace).items():
                if value and name.endswith(("CsumErrors", "Tcp.InErrs", "ReasmFails", "InTruncatedPkts")):
                    found[namespace.name, name] = value
        return found

    def check(self) -> None:
        """Nothing was damaged anywhere, and no node dropped anything."""
        assert not self.corrupted(), self.corrupted()
        for node in (self.tunnel.listener, self.tunnel.dialer):
            drops = self.tunnel.drops(node)
            # A router reports its multicast groups on every interface, twice (RFC 3810, 9.1): no peer has that route.
            assert drops.pop(("tx", "no_route"), 0) <= 2 and drops == {}, (node.name, drops)


def make_lans(lab: Lab, *, listen: tuple[str, ...] = (), dial: tuple[str, ...] = ()) -> Lans:
    """All four machines, the nodes with these flags too; returns when the hosts reach each other with either IP
    version."""
    gateways = {"left": lab.namespace("listener"), "right": lab.namespace("dialer")}
    hosts = {"left": lab.namespace("left"), "right": lab.namespace("right")}
    outer = [tuple(f"{OUTER[version][end]}/{PREFIX[version]}" for version in (4, 6)) for end in (0, 1)]
    lab.veth(gateways["left"], outer[0], gateways["right"], outer[1])
    for side, gateway in gateways.items():
        inside, outside = (
            tuple(f"{addresses[side][version]}/{PREFIX[version]}" for version in (4, 6))
            for addresses in (ROUTERS, HOSTS)
        )
        lab.veth(gateway, inside, hosts[side], outside, names=("lan0", "eth0"))
        gateway.sysctl("net.ipv4.ip_forward", 1)
        gateway.sysctl("net.ipv6.conf.all.forwarding", 1)
        for version in (4, 6):
            hosts[side].ip(f"-{version} route add default via {ROUTERS[side][version]}")
    dialer = Node(gateways["right"], *dial)
    for version in (4, 6):
        dialer.arguments += ["--tun-address", f"{DIALER[version]}/{PREFIX[version]}"]
    behind = ",".join((f"{DIALER[4]}/32", f"{DIALER[6]}/128", *NETWORKS["right"]))
    listener = Node(gateways["left"], "--listen", listen_address(4), *LISTEN_FLAGS, *listen)
    listener.arguments += ["--allow-peer", f"{dialer.peer_id}={behind}"]
    for network in NETWORKS["left"]:
        listener.arguments += ["--route", network]
    dialer.arguments += ["--peer", listener.multiaddr(OUTER[4][0])]
    listener.start().wait_event("listener_ready")
    dialer.start()
    tunnel = Tunnel(lab, listener, dialer, 4)
    tunnel.wait_up()
    lans = Lans(tunnel, hosts["left"], hosts["right"])
    for version in (4, 6):
        assert answers(lans.left, HOSTS["right"][version]), f"the hosts do not reach each other with IPv{version}"
    return lans


# ---- what the kernel counts ----


def counters(namespace: Namespace) -> dict[str, int]:
    """The SNMP counters of a namespace: ``Tcp.InCsumErrors``, ``IpExt.InCsumErrors``, ``Udp6InCsumErrors``..."""
    found: dict[str, int] = {}
    with namespace.entered():
        for name in ("snmp", "netstat"):
            with open(f"/proc/thread-self/net/{name}") as file:
                lines = [line.split() for line in file]
            for (protocol, *names), (_, *values) in zip(lines[::2], lines[1::2], strict=True):
                found |= {f"{protocol[:-1]}.{key}": int(value) for key, value in zip(names, values, strict=True)}
        with open("/proc/thread-self/net/snmp6") as file:
            found |= {key: int(value) for key, value in (line.split() for line in file)}
    return found


# ---- what is on the wire ----


class Packets:
    """The beginnings of the packets that arrive at an interface while the context is open, Ethernet header left out."""

    def __init__(self, namespace: Namespace, device: str) -> None:
        self.starts: list[bytes] = []
        """Up to 128 bytes of each."""
        self.longest = 0
        """Bytes; above the MTU if GRO, TSO or UDP_SEGMENT made super-packets."""
        self._socket = tap(namespace, device)
        self._socket.settimeout(0.05)
        self._ended = threading.Event()
        self._reader = threading.Thread(target=self._read)

    def __enter__(self) -> Self:
        self._reader.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._reader.join()
        self._socket.close()

    def _read(self) -> None:
        start = bytearray(ETHERNET + 128)
        while True:
            ended = self._ended.is_set()
            try:
                length, address = self._socket.recvfrom_into(start, len(start), socket.MSG_TRUNC)
            except TimeoutError:
                if ended:
                    return
                continue
            if address[2] != socket.PACKET_OUTGOING:
                self.starts.append(bytes(start[ETHERNET:length]))
                self.longest = max(self.longest, length - ETHERNET)

    def vouched(self, at_least: int) -> set[bool]:
        """Of the records of so many bytes that arrived over IPv4: whether they bear the flag VOUCHED. The few that are
        probes of the path, which never do, do not count."""
        found = Counter[bool]()
        for packet in self.starts:
            length, udp = struct.unpack_from("!H", packet, 2)[0], packet[28:]
            if packet[0] == 0x45 and packet[9] == socket.IPPROTO_UDP and udp[:1] == b"\x01" and length >= at_least + 28:
                found[bool(struct.unpack_from("!H", udp, 2)[0] & _VOUCHED)] += 1
        return {flag for flag, count in found.items() if count > found.total() / 10}


# ---- traffic between any two namespaces ----


def transfer(server: Namespace, client: Namespace, address: str, size: int = 4 << 20) -> None:
    """The same number of bytes both ways at once over TCP; either end checks the SHA-256 that the other sends along."""
    serving = server.traffic("tcp_serve", address, 5001, size=size)
    result = client.measure("tcp_transfer", address, 5001, size=size)
    other = serving.result()["connections"][0]
    assert result["ok"] and other["ok"], (result, other)
    assert result["received"] == other["received"] == size


def every_size(server: Namespace, client: Namespace, address: str, mtu: int = MTU) -> None:
    """A UDP datagram of every size that fits into the MTU, there and back."""
    last = mtu - UDP_OVERHEAD[6 if ":" in address else 4]
    echo = server.traffic("udp_echo", address, 5002)
    result = client.measure("udp_sizes", address, 5002, first=0, last=last)
    assert not result["wrong"] and not result["refused"], result
    echo.stop()
