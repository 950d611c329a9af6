"""``cryprq bench``: what this machine can do, without root: cipher back ends, and a tunnel between two data planes.

The tunnel is the real data plane, both ends of it in this process: sealed records go over UDP on loopback, and socket
pairs stand where the TUN devices would be. What is missing is the kernel's TCP and its TUN driver, so the figure is
what CrypRQ itself leaves possible, not what a transfer will reach.
"""

import os
import socket
import statistics
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from cryprq._fastpath import LANE_SECRET_SIZE, OFFLOADS, Plane, aead_backends, measure
from cryprq.address import Address
from cryprq.linux.sockets import probe_offloads
from cryprq.protocol.constants import AEAD_NAMES

RECORD: Final = 1420
"""Bytes of a record's payload: the default MTU."""
ROUNDS: Final = 5
CALIBRATE: Final = 2000
ROUND_NS: Final = 20e6
"""Nanoseconds that a round of one cipher takes, about."""
TUNNEL_SECS: Final = 1.0
SEGMENTS: Final = 44
"""Packets of one super-packet, as many as one UDP_SEGMENT send carries."""

_VNET = struct.Struct("=BBHHHH")
_NEEDS_CSUM, _GSO_TCPV4 = 1, 1
_HEADERS = 40  # IPv4 and TCP
_BUFFER = 8 << 20


@dataclass(frozen=True, slots=True)
class CipherResult:
    """One back end: median nanoseconds for a record of ``RECORD`` bytes, and gigabytes a second."""

    backend: str
    seal_ns: float
    open_ns: float

    @property
    def seal_gbytes(self) -> float:
        return RECORD / self.seal_ns

    @property
    def open_gbytes(self) -> float:
        return RECORD / self.open_ns


@dataclass(frozen=True, slots=True)
class TunnelResult:
    """One cipher suite through two data planes: payload received, in gigabits a second, and records lost on the way."""

    aead: str
    gigabits: float
    lost_share: float


def ciphers() -> list[CipherResult]:
    """Every AEAD back end of this CPU, measured in turn, A B A B."""
    names = [name for suite in AEAD_NAMES for name in aead_backends(suite)]
    counts = {
        name: max(100, int(ROUND_NS / measure("seal", size=RECORD, count=CALIBRATE, backend=name))) for name in names
    }
    times: dict[tuple[str, str], list[float]] = {(name, op): [] for name in names for op in ("seal", "open")}
    for _ in range(ROUNDS):
        for (name, op), found in times.items():
            found.append(measure(op, size=RECORD, count=counts[name], backend=name))
    return [
        CipherResult(name, statistics.median(times[name, "seal"]), statistics.median(times[name, "open"]))
        for name in names
    ]


def tunnel(suite: int, seconds: float = TUNNEL_SECS) -> TunnelResult:
    """TCP super-packets from one data plane to the other for so long. PlaneError or OSError if it cannot be set up."""
    with _pair(suite) as (source, sink, planes):
        frame = _super_packet()
        received = [0]
        done = threading.Event()
        reader = threading.Thread(target=_drain, args=(sink, received, done))
        reader.start()
        sent = 0
        start = time.monotonic()
        while time.monotonic() < start + seconds:
            source.send(frame)
            sent += len(frame) - _VNET.size
        elapsed = time.monotonic() - start
        done.set()
        reader.join()
        lost = sum(planes[1].drops().values()) + sum(planes[0].drops().values())
        records = max(1, planes[0].peer_stats(0).tx_packets)
        arrived = planes[1].peer_stats(0).rx_packets
        share = max(0.0, 1 - arrived / records) if not lost else max(lost / records, 1 - arrived / records)
        return TunnelResult(AEAD_NAMES[suite], received[0] * 8 / elapsed / 1e9, share)


@contextmanager
def _pair(suite: int) -> Iterator[tuple[socket.socket, socket.socket, tuple[Plane, Plane]]]:
    """Two planes with one peer each: a socket that feeds the first one's TUN, and one that the second one's fills."""
    states = probe_offloads()
    offloads = frozenset(OFFLOADS) - {name for name, state in states.items() if state != "on"}
    secrets = [os.urandom(LANE_SECRET_SIZE) for _ in range(2)]
    with ExitStack() as stack:
        planes, outer, ports = [], [], []
        for _ in range(2):
            end, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            port = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            for member in (end, inner, port):
                stack.callback(member.close)
                for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
                    member.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
            inner.setblocking(False)
            port.bind(("127.0.0.1", 0))
            if "udp_gro" in offloads:
                port.setsockopt(socket.SOL_UDP, 104, 1)  # UDP_GRO
            plane = Plane([inner.fileno()], [[port.fileno()]], mtu=RECORD, offloads=offloads)
            stack.callback(plane.stop)
            planes.append(plane)
            outer.append(end)
            ports.append(port)
        for own, (plane, index) in enumerate(zip(planes, (1, 2), strict=True)):
            peer = plane.add_peer()
            plane.set_routes([(f"10.0.0.{2 - own}/32", peer)])
            plane.set_endpoint(peer, Address(*ports[1 - own].getsockname()))
            plane.install(
                peer,
                number=0,
                suite=suite,
                rx_index=index,
                tx_index=3 - index,
                tx_secrets=bytearray(secrets[own]),
                rx_secrets=bytearray(secrets[1 - own]),
                lifetime=3600,
            )
            plane.activate(index)
            plane.start()
        yield outer[0], outer[1], (planes[0], planes[1])


def _super_packet() -> bytes:
    """What a TUN hands over for a TCP flow from 10.0.0.1 to 10.0.0.2: the vnet header and SEGMENTS segments."""
    payload = RECORD - _HEADERS
    length = _HEADERS + SEGMENTS * payload
    addresses = socket.inet_aton("10.0.0.1") + socket.inet_aton("10.0.0.2")
    ip = struct.pack("!BBHHHBBH", 0x45, 0, length, 0, 0x4000, 64, socket.IPPROTO_TCP, 0) + addresses
    tcp = struct.pack("!HHIIBBHHH", 1000, 2000, 0, 0, 0x50, 0x10, 65535, 1, 0)
    vnet = _VNET.pack(_NEEDS_CSUM, _GSO_TCPV4, _HEADERS, payload, 20, 16)
    return vnet + ip + tcp + bytes(length - _HEADERS)


def _drain(sink: socket.socket, received: list[int], done: threading.Event) -> None:
    """Counts the bytes of packets until nothing has come for a moment after ``done``."""
    sink.settimeout(0.2)
    buffer = bytearray(1 << 17)
    while True:
        try:
            received[0] += sink.recv_into(buffer) - _VNET.size
        except TimeoutError:
            if done.is_set():
                return


def run() -> dict[str, Any]:
    """Everything, as plain values."""
    return {
        "record_bytes": RECORD,
        "ciphers": [
            asdict(each) | {"seal_gbytes": each.seal_gbytes, "open_gbytes": each.open_gbytes} for each in ciphers()
        ],
        "tunnel": [asdict(tunnel(suite)) for suite in AEAD_NAMES],
    }


def render(results: dict[str, Any]) -> str:
    """The results as a table for a terminal."""
    lines = [f"records of {results['record_bytes']} bytes     seal              open"]
    for each in results["ciphers"]:
        seal, opened = (f"{each[f'{op}_ns']:5.0f} ns {each[f'{op}_gbytes']:5.2f} GB/s" for op in ("seal", "open"))
        lines.append(f"  {each['backend']:<24} {seal}  {opened}")
    lines.append("")
    lines.append(
        "both ends of a tunnel in this process, one worker pair each; nothing slows the sender down, so what the"
    )
    lines.append("receiver's socket buffer has no room for is lost")
    for each in results["tunnel"]:
        lines.append(f"  {each['aead']:<24} {each['gigabits']:5.2f} Gbit/s, {each['lost_share']:.2%} lost")
    return "\n".join(lines)
