"""What crosses a cable: UDP datagrams with their IP headers, captured with AF_PACKET (packet(7)) as they pass.

A veth passes batches on that a network card would cut up (UDP_SEGMENT); the capture cuts them up as the card would, by
the segment size that PACKET_VNET_HDR tells.
"""

import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from cryprq.protocol.constants import QUIC_FIRST_BYTE
from lab.hosts import Namespace
from lab.traffic import make_room

_ETH_P_ALL, _ETH_P_IP, _ETH_P_IPV6 = 0x0003, 0x0800, 0x86DD
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_VNET_HDR = 263, 6, 15
_VNET_HDR = struct.Struct("=BBHHHH")  # <linux/virtio_net.h>: flags, gso_type, hdr_len, gso_size, csum_start and _offset
ETHERNET = 14
"""Bytes of an Ethernet header."""
_UDP = 17


def tap(namespace: Namespace, device: str, *, room: int = 4 << 20, vnet: bool = False) -> socket.socket:
    """A packet socket that receives what crosses an interface, both ways, from the Ethernet header on; with ``vnet``
    a ``struct virtio_net_hdr`` comes first.

    The protocol is named in ``bind`` alone: a socket that is opened with one receives from every interface of the
    namespace, the TUN too, until it is bound to its own.
    """
    with namespace.entered():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        make_room(sock, room)
        sock.setsockopt(_SOL_PACKET, _PACKET_VNET_HDR, vnet)
        sock.bind((device, _ETH_P_ALL))
    return sock


@dataclass(frozen=True)
class Datagram:
    """One UDP datagram as it was on the wire."""

    outgoing: bool
    """Sent by the host whose interface was tapped."""
    version: int
    traffic_class: int
    """TOS byte of IPv4, traffic class of IPv6: DSCP and ECN."""
    flow_label: int
    """0 for IPv4."""
    dont_fragment: bool
    """The DF bit (False for IPv6)."""
    fragment: bool
    """Part of a fragmented IPv4 packet."""
    source: str
    source_port: int
    destination: str
    destination_port: int
    payload: bytes

    @property
    def is_quic(self) -> bool:
        return bool(self.payload) and self.payload[0] >= QUIC_FIRST_BYTE


def parse(packet: bytes, segment: int, outgoing: bool) -> Iterator[Datagram]:
    """The datagrams of an IP packet that may stand for many of ``segment`` payload bytes (0: it does not). Nothing for
    what is no UDP; IPv6 extension headers are nothing that UDP has here."""
    if packet[0] >> 4 == 4:
        header = (packet[0] & 15) * 4
        flags = int.from_bytes(packet[6:8])
        protocol, family, addresses = packet[9], socket.AF_INET, (packet[12:16], packet[16:20])
        length = int.from_bytes(packet[2:4])
        traffic_class, label, dont, fragment = packet[1], 0, bool(flags & 0x4000), bool(flags & 0x3FFF)
    else:
        header = 40
        first = int.from_bytes(packet[:4])
        protocol, family, addresses = packet[6], socket.AF_INET6, (packet[8:24], packet[24:40])
        length = 40 + int.from_bytes(packet[4:6])
        traffic_class, label, dont, fragment = first >> 20 & 0xFF, first & 0xFFFFF, False, False
    if protocol != _UDP or len(packet) < header + 8:
        return
    source, destination = (socket.inet_ntop(family, address) for address in addresses)
    source_port, destination_port = struct.unpack_from("!HH", packet, header)
    payload = packet[header + 8 : length]
    for start in range(0, max(1, len(payload)), segment or max(1, len(payload))):
        yield Datagram(
            outgoing, packet[0] >> 4, traffic_class, label, dont, fragment, source, source_port, destination,
            destination_port, payload[start : start + segment] if segment else payload,
        )  # fmt: skip


class Capture:
    """Captures on an interface of a namespace while the context lasts. ``datagrams`` grows meanwhile."""

    def __init__(self, namespace: Namespace, device: str = "eth0") -> None:
        self.datagrams: list[Datagram] = []
        self.lost = 0
        """Packets that the kernel could not hand over, known at the end: 0, or the capture proves nothing."""
        self._sock = tap(namespace, device, room=64 << 20, vnet=True)
        self._sock.settimeout(0.05)
        self._stop = False
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop = True
        self._thread.join()
        _, self.lost = struct.unpack("=II", self._sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))
        self._sock.close()

    @property
    def sent(self) -> list[Datagram]:
        """What the host itself sent, in order. (What it received may have changed places on its way up.)"""
        return [datagram for datagram in self.datagrams if datagram.outgoing]

    def _run(self) -> None:
        while True:
            stopped = self._stop
            try:
                frame, (_, protocol, kind, *_) = self._sock.recvfrom(1 << 17)
            except TimeoutError:
                if stopped:
                    return
                continue
            _, gso, _, segment, _, _ = _VNET_HDR.unpack_from(frame)
            packet = frame[_VNET_HDR.size + ETHERNET :]
            if protocol in (_ETH_P_IP, _ETH_P_IPV6) and packet:
                self.datagrams += parse(packet, segment if gso else 0, kind == socket.PACKET_OUTGOING)
