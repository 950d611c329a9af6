"""The data plane in this process: real UDP on loopback, a socket pair where the TUN would be, and the oracle as peer.

A socket pair carries what a TUN with IFF_VNET_HDR does, a virtio_net_hdr and a packet per message, so these tests need
no privilege and run under sanitizers. The tunnel tests have the real device.
"""

import fcntl
import socket
import struct
import termios
import time
from collections.abc import Callable, Sequence
from typing import Literal

from cryprq import _fastpath
from cryprq._fastpath import Plane
from cryprq.address import Address, Local
from lab.oracle import RecordOpener, RecordSealer

VNET = struct.Struct("=BBHHHH")
RX_INDEX, TX_INDEX = 0x11223344, 0x55667788
ALL = frozenset(_fastpath.OFFLOADS)
MTU = 1420


def secret(label: int) -> bytes:
    return bytes((label * 7 + i) % 256 for i in range(_fastpath.LANE_SECRET_SIZE))


def ipv4(source: str, destination: str, payload: bytes = b"", protocol: int = 99, identification: int = 0) -> bytes:
    head = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), identification, 0x4000, 64, protocol, 0,
        socket.inet_aton(source), socket.inet_aton(destination),
    )  # fmt: skip
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + payload


def ipv6(source: str, destination: str, payload: bytes = b"") -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    return struct.pack(">IHBB", 6 << 28, len(payload), 99, 64) + addresses + payload


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f">{len(data) // 2}H", data)) if len(data) % 2 == 0 else checksum_odd(data)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def checksum_odd(data: bytes) -> int:
    return sum(struct.unpack(f">{len(data) // 2 + 1}H", data + b"\0"))


class Bench:
    """A plane with one peer, 10.0.0.2 and fd00::2, whose end of the tunnel is the test itself. ``others`` are the hosts
    of further socket groups beside that of ``host``."""

    def __init__(
        self,
        offloads: frozenset[str] = ALL,
        suite: int = 1,
        mtu: int = MTU,
        host: str = "127.0.0.1",
        others: Sequence[str] = (),
        dscp: int | Literal["inherit"] = 0,
        **install: int,
    ) -> None:
        self.tun, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.vnet = "vnet_hdr" in offloads
        self.inner = inner
        inner.setblocking(False)
        self.tun.settimeout(30)
        self.suite = suite
        self.udp = self.bind()
        self.ports = [self.bind_port(each) for each in (host, *others)]
        self.port = self.ports[0]
        groups = [[port.fileno()] for port in self.ports]
        self.plane = Plane([inner.fileno()], groups, mtu=mtu, offloads=offloads, dscp=dscp)
        self.peer = self.plane.add_peer()
        self.plane.set_routes([("10.0.0.2/32", self.peer), ("fd00::2/128", self.peer)])
        self.plane.set_endpoint(self.peer, Address(*self.udp.getsockname()))
        self.sealer, self.opener = self.install(RX_INDEX, TX_INDEX, 1, **install)
        self.plane.activate(RX_INDEX)
        self.plane.promote(RX_INDEX)
        self.plane.start()

    @staticmethod
    def bind() -> socket.socket:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind(("127.0.0.1", 0))
        udp.settimeout(30)
        return udp

    @staticmethod
    def bind_port(host: str) -> socket.socket:
        port = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        port.bind((host, 0))
        port.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
        port.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        if ":" in host:
            port.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
            port.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        return port

    def install(
        self, rx_index: int, tx_index: int, label: int, lifetime: float = 600, lanes: int = 1, **limits: int
    ) -> tuple[RecordSealer, RecordOpener]:
        tx = bytearray(secret(label))
        rx = bytearray(b"".join(secret(label + 50 + lane) for lane in range(lanes)))
        self.plane.install(
            self.peer, number=label, suite=self.suite, rx_index=rx_index, tx_index=tx_index, tx_secrets=tx,
            rx_secrets=rx, lifetime=lifetime, **limits,
        )  # fmt: skip
        assert not any(tx) and not any(rx)
        ours, theirs = secret(label), secret(label + 50)
        return (
            RecordSealer(theirs[:32], theirs[32:], 0, rx_index, self.suite),
            RecordOpener(ours[:32], ours[32:], 0, self.suite),
        )

    def close(self) -> None:
        self.plane.stop()
        for member in (self.tun, self.inner, self.udp, *self.ports):
            member.close()

    def from_tun(self, packet: bytes, vnet: tuple[int, ...] = (0, 0, 0, 0, 0, 0)) -> None:
        self.tun.send((VNET.pack(*vnet) if self.vnet else b"") + packet)

    def to_tun(self) -> tuple[tuple[int, ...], bytes]:
        data = self.tun.recv(70000)
        return (VNET.unpack(data[:10]), data[10:]) if self.vnet else ((), data)

    def send(self, record: bytes, source: socket.socket | None = None, to: str = "127.0.0.1") -> None:
        (source or self.udp).sendto(record, (to, self.port.getsockname()[1]))

    def endpoint(self) -> tuple[Address, Local]:
        """Where the plane sends to now, and by what of its own."""
        found = self.plane.endpoint(self.peer)
        assert found is not None
        return found

    def quiet(self) -> bool:
        """Nothing is on its way to the TUN: a later, valid packet is the first to come out."""
        assert wait(self._all_read), "else there may be no room for it"
        marker = ipv4("10.0.0.2", "10.0.0.1", b"marker")
        self.send(self.sealer.seal(marker))
        return self.to_tun()[1] == marker

    def _all_read(self) -> bool:
        """Whether no datagram waits for the plane."""
        return not any(struct.unpack("i", fcntl.ioctl(port, termios.FIONREAD, bytes(4)))[0] for port in self.ports)

    def dropped(self, direction: str, reason: str, count: int = 1) -> bool:
        return wait(lambda: self.plane.drops()[direction, reason] == count)


def wait(condition: Callable[[], object], seconds: float = 30.0) -> bool:
    """Whether the condition comes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
