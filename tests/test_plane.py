"""The data plane in this process: real UDP on loopback, a socket pair where the TUN would be, and the oracle as peer.

A socket pair carries what a TUN with IFF_VNET_HDR does, a virtio_net_hdr and a packet per message, so these tests need
no privilege and run under sanitizers. The tunnel tests have the real device.
"""

import os
import select
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator

import netns
import pytest
from oracle import Header, RecordOpener, RecordSealer

from cryprq import _fastpath
from cryprq._fastpath import Plane, PlaneError
from cryprq.address import Address
from cryprq.tun import Tun

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
    """A plane with one peer, 10.0.0.2 and fd00::2, whose end of the tunnel is the test itself."""

    def __init__(
        self, offloads: frozenset[str] = ALL, suite: int = 1, mtu: int = MTU, host: str = "127.0.0.1", **install: int
    ) -> None:
        self.tun, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.vnet = "vnet_hdr" in offloads
        self.inner = inner
        inner.setblocking(False)
        self.tun.settimeout(5)
        self.suite = suite
        self.udp = self.bind()
        self.port = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.port.bind((host, 0))
        self.port.setsockopt(socket.IPPROTO_IP, 8, 1)  # IP_PKTINFO
        if ":" in host:
            self.port.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        self.plane = Plane([inner.fileno()], [self.port.fileno()], mtu=mtu, offloads=offloads)
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
        udp.settimeout(5)
        return udp

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
        for member in (self.tun, self.inner, self.udp, self.port):
            member.close()

    def from_tun(self, packet: bytes, vnet: tuple[int, ...] = (0, 0, 0, 0, 0, 0)) -> None:
        self.tun.send((VNET.pack(*vnet) if self.vnet else b"") + packet)

    def to_tun(self) -> tuple[tuple[int, ...], bytes]:
        data = self.tun.recv(70000)
        return (VNET.unpack(data[:10]), data[10:]) if self.vnet else ((), data)

    def send(self, record: bytes, source: socket.socket | None = None, to: str = "127.0.0.1") -> None:
        (source or self.udp).sendto(record, (to, self.port.getsockname()[1]))

    def quiet(self) -> bool:
        """Nothing is on its way to the TUN: a later, valid packet is the first to come out."""
        marker = ipv4("10.0.0.2", "10.0.0.1", b"marker")
        self.send(self.sealer.seal(marker))
        return self.to_tun()[1] == marker

    def dropped(self, direction: str, reason: str, count: int = 1) -> bool:
        return wait(lambda: self.plane.drops()[direction, reason] == count)


def wait(condition, seconds: float = 5.0) -> bool:  # type: ignore[no-untyped-def]
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


@pytest.fixture(params=[1, 2], ids=["aes-256-gcm", "chacha20-poly1305"])
def suites(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(suite=request.param)
    yield bench
    bench.close()


def test_packet_from_tun_becomes_a_record(suites: Bench) -> None:
    packet = ipv4("10.0.0.1", "10.0.0.2", b"hello")
    suites.from_tun(packet)
    record = suites.udp.recv(2000)
    assert Header.decode(record) == Header(1, 0, 0, TX_INDEX, 0)
    assert suites.opener.open(record) == (packet, True)


def test_record_becomes_a_packet(suites: Bench) -> None:
    for packet in (ipv4("10.0.0.2", "10.0.0.1", b"hello"), ipv6("fd00::2", "fd00::1", b"six")):
        suites.send(suites.sealer.seal(packet))
        assert suites.to_tun() == ((0, 0, 0, 0, 0, 0), packet)


def test_several_packets_in_a_record_with_padding(bench: Bench) -> None:
    packets = [ipv4("10.0.0.2", "10.0.0.1", b"x" * n) for n in (0, 1, 100)] + [ipv6("fd00::2", "fd00::1")]
    bench.send(bench.sealer.seal(b"".join(packets) + b"\0" * 9))
    assert [bench.to_tun()[1] for _ in packets] == packets
    assert all(count == 0 for count in bench.plane.drops().values())


def test_small_packets_share_records_in_order(bench: Bench) -> None:
    packets = [ipv4("10.0.0.1", "10.0.0.2", bytes([n]) * 44) for n in range(100)]
    for packet in packets:
        bench.from_tun(packet)
    payload = b""
    records = 0
    while len(payload.rstrip(b"\0")) < sum(map(len, packets)) - 44:
        part, _ = bench.opener.open(bench.udp.recv(2000))
        assert len(part) <= MTU
        while part and part[0]:
            size = int.from_bytes(part[2:4])
            payload += part[:size]
            part = part[size:]
        assert not any(part)
        records += 1
    assert payload == b"".join(packets)
    assert records < len(packets)


def test_without_packing_each_packet_has_its_record() -> None:
    bench = Bench(ALL - {"packing"})
    packets = [ipv4("10.0.0.1", "10.0.0.2", bytes([n]) * 44) for n in range(50)]
    for packet in packets:
        bench.from_tun(packet)
    assert [bench.opener.open(bench.udp.recv(2000))[0] for _ in packets] == packets
    bench.close()


@pytest.mark.parametrize("segment", [True, False], ids=["udp_segment", "single"])
def test_super_packet_leaves_as_full_vouched_records(segment: bool) -> None:
    bench = Bench(ALL if segment else ALL - {"udp_segment"})
    payload = bytes(i % 251 for i in range(30_000))
    size = MTU - 40
    tcp = struct.pack(">HHIIBBHHH", 1000, 2000, 7, 9, 0x50, 0x18, 500, 0xABCD, 0)
    packet = ipv4("10.0.0.1", "10.0.0.2", tcp + payload, 6)
    bench.from_tun(packet, (1, 1, 40, size, 20, 16))
    out = b""
    while len(out) < len(payload):
        record = bench.udp.recv(2000)
        assert Header.decode(record).flags == 1
        inner, _ = bench.opener.open(record)
        assert len(inner) <= MTU and int.from_bytes(inner[2:4]) == len(inner)
        assert int.from_bytes(inner[24:28]) == 7 + len(out)
        assert checksum(inner[:20]) == 0
        out += inner[40:]
    assert out == payload
    bench.close()


def test_vouched_segments_arrive_as_one_super_packet(bench: Bench) -> None:
    size, records = 1000, []
    for n in range(20):
        tcp = struct.pack(">HHIIBBHHH", 1000, 2000, n * size, 9, 0x50, 0x10, 500, 0xDEAD, 0)
        records.append(bench.sealer.seal(ipv4("10.0.0.2", "10.0.0.1", tcp + bytes([n]) * size, 6, n), flags=1))
    bench.udp.setsockopt(socket.SOL_UDP, 103, len(records[0]))  # UDP_SEGMENT: one batch, so that one read gets it all
    bench.send(b"".join(records))
    payload, writes = b"", 0
    while len(payload) < 20 * size:
        vnet, packet = bench.to_tun()
        assert vnet[0] == 1 and vnet[4:] == (20, 16)
        payload += packet[40:]
        writes += 1
    assert payload == b"".join(bytes([n]) * size for n in range(20))
    assert writes < 20


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda r: r[:31], "short"),
        (lambda r: b"\x02" + r[1:], "bad_header"),
        (lambda r: r[:1] + b"\x01" + r[2:], "bad_header"),
        (lambda r: r[:2] + b"\x80" + r[3:], "bad_header"),
        (lambda r: r[:3] + b"\x01" + r[4:], "auth"),
        (lambda r: r[:4] + b"\0\0\0\0" + r[8:], "unknown_index"),
        (lambda r: r[:15] + bytes([r[15] ^ 1]) + r[16:], "auth"),
        (lambda r: r[:-1] + bytes([r[-1] ^ 1]), "auth"),
        (lambda r: r[:-1], "auth"),
        (lambda r: r[:8] + b"\xff" * 8 + r[16:], "no_key"),
    ],
)
def test_damaged_record_is_dropped_and_counted(bench: Bench, damage, reason: str) -> None:  # type: ignore[no-untyped-def]
    bench.send(damage(bench.sealer.seal(ipv4("10.0.0.2", "10.0.0.1"))))
    assert bench.dropped("rx", reason)
    assert bench.quiet()


def test_empty_datagram_is_dropped(bench: Bench) -> None:
    bench.send(b"")
    assert bench.dropped("rx", "short")
    assert bench.quiet()


def test_replayed_record_is_dropped(bench: Bench) -> None:
    record = bench.sealer.seal(ipv4("10.0.0.2", "10.0.0.1"))
    for _ in range(3):
        bench.send(record)
    bench.to_tun()
    assert bench.dropped("rx", "replay", 2)
    assert bench.quiet()


@pytest.mark.parametrize(
    "packet", [ipv4("10.0.0.3", "10.0.0.1"), ipv4("10.0.0.1", "10.0.0.1"), ipv6("fd00::3", "fd00::1")]
)
def test_spoofed_inner_source_is_dropped(bench: Bench, packet: bytes) -> None:
    bench.send(bench.sealer.seal(packet))
    assert bench.dropped("rx", "source_not_allowed")
    assert bench.quiet()


@pytest.mark.parametrize(
    "payload",
    [
        b"\x45",
        b"\x44" + ipv4("10.0.0.2", "10.0.0.1")[1:],
        ipv4("10.0.0.2", "10.0.0.1", b"cut")[:-1],
        ipv6("fd00::2", "fd00::1", b"cut")[:-1],
        b"\x70" * 60,
        b"\x10\xff\xff",
    ],
)
def test_malformed_payload_is_dropped(bench: Bench, payload: bytes) -> None:
    bench.send(bench.sealer.seal(payload))
    assert bench.dropped("rx", "malformed")
    assert bench.quiet()


def test_unknown_in_band_message_is_skipped(bench: Bench) -> None:
    packet = ipv4("10.0.0.2", "10.0.0.1", b"after")
    bench.send(bench.sealer.seal(b"\x1f\x00\x04abcd" + packet))
    assert bench.to_tun()[1] == packet


def test_unroutable_and_broken_packets_from_tun(bench: Bench) -> None:
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.9"))
    assert bench.dropped("tx", "no_route")
    bench.from_tun(b"\x45\0")
    assert bench.dropped("tx", "malformed")
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2", b"x" * MTU))
    assert bench.dropped("tx", "too_big")


def test_first_record_of_an_epoch_is_reported_once(bench: Bench) -> None:
    for _ in range(3):
        bench.send(bench.sealer.seal(ipv4("10.0.0.2", "10.0.0.1")))
        bench.to_tun()
    readable, _, _ = select.select([bench.plane.event_fd], [], [], 5)
    assert readable
    assert bench.plane.events() == [(bench.peer, RX_INDEX, _fastpath.EVENT_FIRST_RECORD)]
    assert bench.plane.events() == []


def test_switching_epochs(bench: Bench) -> None:
    sealer, opener = bench.install(99, 98, 2)
    bench.send(sealer.seal(b""))  # receive-only until it is activated
    assert wait(lambda: (bench.peer, 99, 1) in bench.plane.events())
    packet = ipv4("10.0.0.1", "10.0.0.2")
    bench.from_tun(packet)
    assert bench.opener.open(bench.udp.recv(2000))[0] == packet
    bench.plane.activate(99)
    bench.from_tun(packet)
    record = bench.udp.recv(2000)
    assert Header.decode(record).index == 98
    assert opener.open(record)[0] == packet
    bench.send(bench.sealer.seal(ipv4("10.0.0.2", "10.0.0.1", b"late")))  # the old one still opens
    assert bench.to_tun()[1].endswith(b"late")
    assert bench.plane.live_epochs() == 2
    bench.plane.remove(RX_INDEX)
    assert wait(lambda: bench.plane.live_epochs() == 1)
    bench.send(bench.sealer.seal(ipv4("10.0.0.2", "10.0.0.1")))
    assert bench.dropped("rx", "unknown_index")


def test_without_an_active_key_nothing_leaves(bench: Bench) -> None:
    bench.plane.remove(RX_INDEX)
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2"))
    assert bench.dropped("tx", "no_key")


def test_expired_key_seals_and_opens_nothing(bench: Bench) -> None:
    sealer, _ = bench.install(99, 98, 2, lifetime=0.05)
    bench.plane.activate(99)
    time.sleep(0.06)
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2"))
    assert bench.dropped("tx", "no_key")
    bench.send(sealer.seal(b""))
    assert bench.dropped("rx", "no_key")
    assert (bench.peer, 99, _fastpath.EVENT_KEY_EXPIRED) in bench.plane.events()


def test_soft_limit_asks_for_rotation_once() -> None:
    bench = Bench(records_soft=3)
    for _ in range(6):
        bench.from_tun(ipv4("10.0.0.1", "10.0.0.2", b"x" * 1000))
        bench.udp.recv(2000)
    events = bench.plane.events()
    assert events == [(bench.peer, RX_INDEX, _fastpath.EVENT_ROTATE_DUE)]
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2", b"x" * 1000))
    bench.udp.recv(2000)
    assert bench.plane.events() == []
    bench.close()


def test_send_empty(bench: Bench) -> None:
    bench.plane.send_empty(RX_INDEX)
    assert bench.opener.open(bench.udp.recv(2000)) == (b"", True)
    assert wait(lambda: bench.plane.peer_stats(bench.peer).last_tx_ns > 0)  # counted once it has left
    stats = bench.plane.peer_stats(bench.peer)
    assert stats.tx_packets == 0 and stats.last_tx_data_ns == 0


def test_endpoint_follows_the_newest_authenticated_record(bench: Bench) -> None:
    other = bench.bind()
    old = bench.sealer.seal(ipv4("10.0.0.2", "10.0.0.1", b"old"))
    bench.send(bench.sealer.seal(ipv4("10.0.0.2", "10.0.0.1", b"new")))
    bench.to_tun()
    here = Address(*bench.udp.getsockname())
    bench.send(old, other)  # late, from elsewhere: opened, but it moves nothing
    bench.to_tun()
    bench.send(b"\x01" + os.urandom(60), other)
    assert bench.plane.endpoint(bench.peer)[0] == here
    bench.send(bench.sealer.seal(ipv4("10.0.0.2", "10.0.0.1")), other)
    bench.to_tun()
    assert wait(lambda: bench.plane.endpoint(bench.peer)[0] == Address(*other.getsockname()))
    assert any(e.flags & _fastpath.EVENT_ENDPOINT_MOVED for e in bench.plane.events())
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2"))
    other.recv(2000)
    other.close()


def test_promotion_adopts_the_address_of_the_pending_epoch(bench: Bench) -> None:
    other = bench.bind()
    sealer, _ = bench.install(99, 98, 2)
    bench.send(sealer.seal(b""), other)
    assert wait(lambda: any(e.rx_index == 99 for e in bench.plane.events()))
    assert bench.plane.endpoint(bench.peer)[0] == Address(*bench.udp.getsockname())
    bench.plane.promote(99)
    assert bench.plane.endpoint(bench.peer)[0] == Address(*other.getsockname())
    other.close()


@pytest.fixture
def wildcard() -> Iterator[Bench]:
    """A plane that can be asked at any address of 127.0.0.0/8."""
    bench = Bench(host="0.0.0.0")
    yield bench
    bench.close()


def answer_from(bench: Bench, udp: socket.socket) -> str:
    """The address that a record for the peer leaves from."""
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2"))
    return str(udp.recvfrom(2000)[1][0])


def test_listener_answers_from_the_address_that_was_asked(wildcard: Bench) -> None:
    here, other = Address(*wildcard.udp.getsockname()), wildcard.bind()
    packet = ipv4("10.0.0.2", "10.0.0.1")
    wildcard.plane.set_endpoint(wildcard.peer, here, "127.0.0.1")
    wildcard.plane.events()
    wildcard.send(wildcard.sealer.seal(packet), to="127.0.0.5")  # the peer is where it was, and asks elsewhere
    wildcard.to_tun()
    assert wildcard.plane.endpoint(wildcard.peer) == (here, "127.0.0.5")
    assert answer_from(wildcard, wildcard.udp) == "127.0.0.5"
    assert not any(e.flags & _fastpath.EVENT_ENDPOINT_MOVED for e in wildcard.plane.events())
    wildcard.send(wildcard.sealer.seal(packet), other, to="127.0.0.6")
    wildcard.to_tun()
    assert wildcard.plane.endpoint(wildcard.peer) == (Address(*other.getsockname()), "127.0.0.6")
    assert answer_from(wildcard, other) == "127.0.0.6"
    other.close()


def test_dialer_does_not_pin_its_own_address(wildcard: Bench) -> None:
    other, third = wildcard.bind(), wildcard.bind()
    packet = ipv4("10.0.0.2", "10.0.0.1")
    wildcard.send(wildcard.sealer.seal(packet), other, to="127.0.0.5")
    wildcard.to_tun()
    assert wildcard.plane.endpoint(wildcard.peer) == (Address(*other.getsockname()), None)
    assert answer_from(wildcard, other) == "127.0.0.1"
    sealer, _ = wildcard.install(99, 98, 2)
    wildcard.send(sealer.seal(packet), third, to="127.0.0.5")
    wildcard.to_tun()
    wildcard.plane.promote(99)
    assert wildcard.plane.endpoint(wildcard.peer) == (Address(*third.getsockname()), None)
    other.close()
    third.close()


@pytest.mark.parametrize(
    ("family", "home", "asked", "usual"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.5", "127.0.0.1"),
        (socket.AF_INET6, "::1", "fd00:77::5", "::1"),
    ],
    ids=["IPv4", "IPv6"],
)
def test_dual_stack_socket(lab: netns.Lab, family: int, home: str, asked: str, usual: str) -> None:
    host = lab.namespace("host")
    host.ip("address add fd00:77::5/128 dev lo nodad")
    with host.entered():
        bench = Bench(host="::")
        udp = socket.socket(family, socket.SOCK_DGRAM)
        udp.bind((home, 0))
        udp.settimeout(5)
        where = Address.from_sockaddr(udp.getsockname())
        for local, source in ((home, asked), (None, usual)):
            bench.plane.set_endpoint(bench.peer, where, local)
            bench.send(bench.sealer.seal(ipv4("10.0.0.2", "10.0.0.1")), udp, to=asked)
            bench.to_tun()
            assert bench.plane.endpoint(bench.peer) == (where, asked if local else None)
            assert answer_from(bench, udp) == source
            tcp = struct.pack(">HHIIBBHHH", 1, 2, 7, 9, 0x50, 0x18, 500, 0, 0)
            bench.from_tun(ipv4("10.0.0.1", "10.0.0.2", tcp + bytes(60_000), 6), (1, 1, 40, MTU - 40, 20, 16))
            assert {udp.recvfrom(2000)[1][0] for _ in range(44)} == {source}
        assert bench.plane.udp_segment_active()
        assert not any(bench.plane.drops().values())
        bench.close()
        udp.close()


def test_promotion_pins_the_address_that_was_asked(wildcard: Bench) -> None:
    here = Address(*wildcard.udp.getsockname())
    wildcard.plane.set_endpoint(wildcard.peer, here, "127.0.0.1")
    sealer, _ = wildcard.install(99, 98, 2)
    wildcard.send(sealer.seal(ipv4("10.0.0.2", "10.0.0.1")), to="127.0.0.7")
    wildcard.to_tun()
    assert wildcard.plane.endpoint(wildcard.peer) == (here, "127.0.0.1")
    wildcard.plane.promote(99)
    assert wildcard.plane.endpoint(wildcard.peer) == (here, "127.0.0.7")


def test_promoting_again_keeps_the_newer_address(bench: Bench) -> None:
    other = bench.bind()
    sealer, _ = bench.install(99, 98, 2)
    packet = ipv4("10.0.0.2", "10.0.0.1")
    bench.send(sealer.seal(packet))
    bench.to_tun()
    bench.plane.promote(99)
    bench.send(sealer.seal(packet), other)  # roams afterwards
    bench.to_tun()
    there = Address(*other.getsockname()), None
    assert bench.plane.endpoint(bench.peer) == there
    bench.plane.promote(RX_INDEX)
    bench.plane.promote(99)
    assert bench.plane.endpoint(bench.peer) == there
    other.close()


def test_refused_source_is_not_pinned_again_by_the_same_path(wildcard: Bench) -> None:
    here = Address(*wildcard.udp.getsockname())
    wildcard.plane.set_endpoint(wildcard.peer, here, "10.99.99.99")  # no such local address
    assert answer_from(wildcard, wildcard.udp) == "127.0.0.1"
    assert wait(lambda: wildcard.plane.endpoint(wildcard.peer) == (here, None))
    packet = ipv4("10.0.0.2", "10.0.0.1")
    wildcard.plane.inject(wildcard.sealer.seal(packet), here, "10.99.99.99")
    wildcard.to_tun()
    assert wildcard.plane.endpoint(wildcard.peer) == (here, None)
    wildcard.send(wildcard.sealer.seal(packet), to="127.0.0.5")
    wildcard.to_tun()
    assert wildcard.plane.endpoint(wildcard.peer) == (here, "127.0.0.5")


def test_quic_datagram_among_records_reaches_python(bench: Bench) -> None:
    """What GRO does with short QUIC packets among records of the same size, made here by one UDP_SEGMENT send."""
    bench.port.setsockopt(socket.SOL_UDP, 104, 1)  # UDP_GRO
    packets = [ipv4("10.0.0.2", "10.0.0.1", bytes([n]) * 20) for n in range(6)]
    records = [bench.sealer.seal(packet) for packet in packets]
    quic = b"\x40" + b"q" * (len(records[0]) - 1)
    batch = [*records[:2], quic, *records[2:4], quic, *records[4:]]
    bench.udp.setsockopt(socket.SOL_UDP, 103, len(quic))
    bench.send(b"".join(batch))
    assert [bench.to_tun()[1] for _ in packets] == packets
    found: list[bytes] = []
    assert wait(lambda: found.extend(d.data for d in bench.plane.quic_datagrams()) or len(found) == 2)
    assert found == [quic, quic]


def test_control_queue_is_bounded(bench: Bench) -> None:
    for _ in range(12):
        for _ in range(50):
            bench.send(b"\x40" + b"q" * 30)
        assert bench.quiet()  # so that the socket's buffer is not what bounds it
    assert bench.dropped("rx", "control_queue", 600 - 256)
    bench.plane.events()
    assert not select.select([bench.plane.event_fd], [], [], 0)[0]
    assert len(bench.plane.quic_datagrams()) == 256
    assert select.select([bench.plane.event_fd], [], [], 0)[0]  # there could be more, and one call has its bound
    assert bench.plane.quic_datagrams() == []
    assert bench.quiet()


def test_record_that_arrived_on_the_control_socket(bench: Bench) -> None:
    packet = ipv4("10.0.0.2", "10.0.0.1", b"stray")
    bench.plane.inject(bench.sealer.seal(packet), Address(*bench.udp.getsockname()), "127.0.0.1")
    assert bench.to_tun()[1] == packet
    bench.plane.inject(b"\x01short", Address("127.0.0.1", 1), None)
    assert bench.dropped("rx", "short")


def test_any_announced_lane_opens_and_no_other(bench: Bench) -> None:
    bench.install(99, 98, 2, lanes=3)
    theirs = secret(54)
    sealer = RecordSealer(theirs[:32], theirs[32:], 2, 99)
    packet = ipv4("10.0.0.2", "10.0.0.1", b"lane 2")
    bench.send(sealer.seal(packet))
    assert bench.to_tun()[1] == packet
    bench.send(RecordSealer(theirs[:32], theirs[32:], 3, 99).seal(packet))
    assert bench.dropped("rx", "bad_header")


def test_unreachable_endpoint_is_counted_and_forgiven(bench: Bench) -> None:
    bench.plane.set_endpoint(bench.peer, Address("fd00::1", 9))  # an IPv4 socket cannot
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2"))
    assert bench.dropped("tx", "send_error")
    bench.plane.set_endpoint(bench.peer, Address(*bench.udp.getsockname()), "10.99.99.99")  # no such local address
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2"))
    bench.udp.recv(2000)
    assert wait(lambda: bench.plane.endpoint(bench.peer)[1] is None)
    assert bench.plane.failure() is None


def test_packets_that_cannot_leave_are_counted_each(bench: Bench) -> None:
    bench.plane.set_endpoint(bench.peer, Address("fd00::1", 9))
    tcp = struct.pack(">HHIIBBHHH", 1, 2, 7, 9, 0x50, 0x18, 500, 0, 0)
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2", tcp + bytes(3000), 6), (1, 1, 40, 1000, 20, 16))
    assert bench.dropped("tx", "send_error", 3)
    stats = bench.plane.peer_stats(bench.peer)
    assert (stats.tx_packets, stats.tx_bytes) == (0, 0)
    assert stats.last_tx_data_ns > 0  # it was tried: silence is to be noticed


def test_what_the_tun_cannot_describe_is_dropped(bench: Bench) -> None:
    packet = ipv4("10.0.0.1", "10.0.0.2")
    for rubbish in (b"", b"short", bytes(10)):
        bench.tun.send(rubbish)
    bench.from_tun(packet)
    assert bench.opener.open(bench.udp.recv(2000))[0] == packet
    assert bench.plane.drops()["tx", "malformed"] == 3
    for _ in range(100):
        bench.tun.send(b"")
    assert wait(lambda: bench.plane.failure() is not None)  # rather than a busy loop


def test_vouched_and_other_transport_packets_never_share_a_record(bench: Bench) -> None:
    tcp = struct.pack(">HHIIBBHHH", 1, 2, 7, 9, 0x50, 0x10, 500, 0, 0)
    for n in range(90):
        if n % 3 == 2:
            bench.from_tun(ipv4("10.0.0.1", "10.0.0.2", b"other", 99))
        else:
            bench.from_tun(
                ipv4("10.0.0.1", "10.0.0.2", tcp + (b"vouched" if n % 3 else b"whole"), 6),
                (1, 0, 0, 0, 20, 16) if n % 3 else (0, 0, 0, 0, 0, 0),
            )
    kinds: list[str] = []
    while len(kinds) < 90:
        record = bench.udp.recv(2000)
        payload, _ = bench.opener.open(record)
        inside = []
        while payload and payload[0]:
            packet, payload = payload[: int.from_bytes(payload[2:4])], payload[int.from_bytes(payload[2:4]) :]
            inside.append("other" if packet[9] == 99 else packet[40:].decode())
        assert set(inside) <= {"other", "vouched" if Header.decode(record).flags else "whole"}
        kinds += inside
    assert kinds == ["whole", "vouched", "other"] * 30


def test_last_record_of_a_batch_is_not_padded(bench: Bench) -> None:
    packets = [ipv4("10.0.0.1", "10.0.0.2", bytes([n]) * 80) for n in range(14)]  # 1400 bytes
    for packet in packets:
        bench.from_tun(packet)
    payload = b""
    while len(payload) < 1400:
        payload += bench.opener.open(bench.udp.recv(2000))[0]
    assert payload == b"".join(packets)


def test_batch_larger_than_the_path_is_sent_singly() -> None:
    """65,536 is loopback's MTU: records of 40 kB make the kernel refuse UDP_SEGMENT, and none may be lost."""
    bench = Bench(ALL - {"packing"}, mtu=40_000)
    bench.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    bench.inner.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
    packets = [ipv4("10.0.0.1", "10.0.0.2", bytes([n]) * 30_000) for n in range(4)]
    for packet in packets:
        bench.from_tun(packet)
    assert [bench.opener.open(bench.udp.recv(70_000))[0] for _ in packets] == packets
    assert bench.plane.drops()["tx", "send_error"] == 0
    bench.close()


def test_bad_arguments_change_nothing(bench: Bench) -> None:
    plane = bench.plane
    with pytest.raises(ValueError, match="in use"):
        bench.install(RX_INDEX, 5, 3)
    with pytest.raises(ValueError):
        bench.install(0, 5, 3)
    with pytest.raises(KeyError):
        plane.set_routes([("10.0.0.0/8", 77)])
    other = plane.add_peer()
    with pytest.raises(ValueError, match="two peers"):
        plane.set_routes([("10.0.0.2/32", bench.peer), ("10.0.0.2/32", other)])
    with pytest.raises(ValueError):
        plane.set_routes([("10.0.0.300/32", other)])
    for method in (plane.activate, plane.promote, plane.remove, plane.send_empty, plane.epoch_records):
        with pytest.raises(KeyError):
            method(424242)
    secrets = bytearray(b"k" * 43), bytearray(b"k" * 44)
    with pytest.raises(ValueError):
        plane.install(
            other, number=0, suite=1, rx_index=7, tx_index=7, tx_secrets=secrets[0], rx_secrets=secrets[1], lifetime=1
        )
    assert not any(secrets[0]) and not any(secrets[1])  # wiped whatever happens
    assert bench.quiet()


@pytest.mark.parametrize(
    "wrong",
    [
        {"peer": -1},
        {"peer": 2**40},
        {"peer": "x"},
        {"number": -1},
        {"number": 2**32},
        {"suite": 3},
        {"suite": 257},
        {"rx_index": 0},
        {"rx_index": 2**32},
        {"tx_index": 0},
        {"tx_index": -(2**70)},
        {"tx_secrets": b"k" * 44},
        {"rx_secrets": None},
        {"tx_secrets": bytearray(b"k" * 44 * 65)},
        {"rx_secrets": bytearray()},
        {"lifetime": 0},
        {"lifetime": float("nan")},
        {"lifetime": "long"},
        {"records_soft": -1},
        {"blocks_soft": 1.5},
    ],
    ids=repr,
)
def test_secrets_are_wiped_whatever_is_wrong(bench: Bench, wrong: dict[str, object]) -> None:
    arguments: dict[str, object] = {
        "peer": bench.peer, "number": 1, "suite": 1, "rx_index": 7, "tx_index": 7, "lifetime": 60,
        "tx_secrets": bytearray(b"k" * 44), "rx_secrets": bytearray(b"k" * 44),
    }  # fmt: skip
    arguments |= wrong
    with pytest.raises((KeyError, TypeError, ValueError)):
        bench.plane.install(**arguments)  # type: ignore[arg-type]
    for name in ("tx_secrets", "rx_secrets"):
        secrets = arguments[name]
        assert not isinstance(secrets, bytearray) or not any(secrets)
    assert bench.plane.live_epochs() == 1
    assert not bench.plane.has(7)


def test_what_cannot_be_an_index_is_unknown(bench: Bench) -> None:
    for value in (-1, 2**32, 2**70):
        assert not bench.plane.has(value)
        for method in (bench.plane.activate, bench.plane.remove, bench.plane.peer_stats, bench.plane.remove_peer):
            with pytest.raises(KeyError):
                method(value)
    bench.install(2**32 - 1, 2**32 - 1, 3)
    bench.plane.activate(2**32 - 1)


@pytest.mark.parametrize(
    ("remote", "local"),
    [
        (Address("example.org", 1), None),
        (Address("127.0.0.1%lo", 1), None),
        (Address("", 1), None),
        (Address("127.0.0.1", 0), None),
        (Address("127.0.0.1", 65536), None),
        (Address("127.0.0.1", -1), None),
        (Address("fe80::1", 1, -1), None),
        (Address("fe80::1", 1, 2**32), None),
        (Address("127.0.0.1", 1), "fd00::1"),
        (Address("fd00::1", 1), "127.0.0.1"),
        (Address("127.0.0.1", 1), "here"),
    ],
)
def test_bad_address_is_refused(bench: Bench, remote: Address, local: str | None) -> None:
    before = bench.plane.endpoint(bench.peer)
    with pytest.raises(ValueError):
        bench.plane.set_endpoint(bench.peer, remote, local)
    assert bench.plane.endpoint(bench.peer) == before


def test_mapped_address_is_the_ipv4_address(bench: Bench) -> None:
    bench.plane.set_endpoint(bench.peer, Address("::ffff:127.0.0.1", bench.udp.getsockname()[1]))
    assert bench.plane.endpoint(bench.peer) == (Address(*bench.udp.getsockname()), None)
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2"))
    bench.udp.recv(2000)


def test_descriptors_are_checked() -> None:
    tun, udp = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    port, tcp = Bench.bind(), socket.socket()
    good = tun.fileno(), port.fileno()
    with pytest.raises(ValueError, match="non-blocking"):
        Plane([good[0]], [good[1]], mtu=MTU, offloads=ALL)
    tun.setblocking(False)
    for fds in ([good[0]], [udp.fileno()]), ([good[0]], [tcp.fileno()]), ([good[0]], [-1]), ([-1], [good[1]]):
        with pytest.raises(ValueError):
            Plane(*fds, mtu=MTU, offloads=ALL)
    for fds in ([2**40], [good[1]]), ([good[0]], [987654]), ([], []), ([good[0]], [good[1]] * 2):
        with pytest.raises((ValueError, OverflowError)):
            Plane(*fds, mtu=MTU, offloads=ALL)
    for mtu in (575, -1, 65_456, 2**70):
        with pytest.raises(ValueError, match="MTU"):
            Plane([good[0]], [good[1]], mtu=mtu, offloads=ALL)
    Plane([good[0]], [good[1]], mtu=MTU, offloads=iter(ALL)).stop()  # type: ignore[arg-type]
    for member in (tun, udp, port, tcp):
        assert member.fileno() >= 0
        member.close()


def test_removing_a_peer_wipes_its_keys_and_routes(bench: Bench) -> None:
    bench.install(99, 98, 2)
    bench.plane.remove_peer(bench.peer)
    assert wait(lambda: bench.plane.live_epochs() == 0)
    assert not bench.plane.has(RX_INDEX)
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2"))
    assert bench.dropped("tx", "no_route")
    with pytest.raises(KeyError):
        bench.plane.peer_stats(bench.peer)
    assert bench.plane.add_peer() == bench.peer  # the handle is free again, and owns nothing
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2"))
    assert bench.dropped("tx", "no_route", 2)


def test_changes_under_load_lose_nothing(bench: Bench) -> None:
    """The snapshot is swapped all the time while records are opened: each must find its key."""
    for round_number in range(200):
        index = 1000 + round_number
        sealer, _ = bench.install(index, index, 3)
        packet = ipv4("10.0.0.2", "10.0.0.1", round_number.to_bytes(2))
        bench.send(sealer.seal(packet))
        assert bench.to_tun()[1] == packet
        bench.plane.remove(index)
    assert wait(lambda: bench.plane.live_epochs() == 1)
    assert all(count == 0 for count in bench.plane.drops().values())


def test_empty_record_of_a_new_epoch_is_not_forgotten(bench: Bench) -> None:
    """The worker is busy with other packets, and may hold a table that does not have the epoch yet."""
    for round_number in range(5000):
        bench.from_tun(ipv4("10.0.0.9", "10.0.0.9"))
        bench.install(1000 + round_number, 1000 + round_number, 3)
        bench.plane.send_empty(1000 + round_number)
        assert Header.decode(bench.udp.recv(2000)).index == 1000 + round_number
        bench.plane.remove(1000 + round_number)


def test_counters_per_peer(bench: Bench) -> None:
    packet = ipv4("10.0.0.2", "10.0.0.1", b"x" * 80)
    bench.send(bench.sealer.seal(packet * 2))
    bench.to_tun()
    bench.to_tun()
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2"))
    bench.udp.recv(2000)
    assert wait(lambda: bench.plane.peer_stats(bench.peer)[:4] == (2, 200, 1, 20))
    assert bench.plane.epoch_records(RX_INDEX) == (1, 1)


def test_plane_reports_a_tun_that_went_away(bench: Bench) -> None:
    bench.tun.close()
    bench.inner.shutdown(socket.SHUT_RDWR)
    os.dup2(os.open("/dev/null", os.O_WRONLY), bench.inner.fileno())
    bench.plane.send_empty(RX_INDEX)
    assert wait(lambda: bench.plane.failure() is not None)
    assert "TUN" in bench.plane.failure()


def test_stopped_plane_says_so(bench: Bench) -> None:
    bench.plane.stop()
    bench.plane.stop()
    assert bench.plane.failure() == "the data plane was stopped"
    here = Address("127.0.0.1", 1)
    calls = [
        bench.plane.start, bench.plane.add_peer, bench.plane.events, bench.plane.quic_datagrams, bench.plane.drops,
        bench.plane.udp_segment_active, bench.plane.live_epochs, lambda: bench.plane.event_fd,
        lambda: bench.plane.remove_peer(0), lambda: bench.plane.set_routes([]), lambda: bench.plane.has(RX_INDEX),
        lambda: bench.plane.set_endpoint(0, here), lambda: bench.plane.endpoint(0), lambda: bench.plane.peer_stats(0),
        lambda: bench.install(5, 5, 5), lambda: bench.plane.activate(5), lambda: bench.plane.promote(5),
        lambda: bench.plane.remove(5), lambda: bench.plane.send_empty(5), lambda: bench.plane.epoch_records(5),
        lambda: bench.plane.inject(b"", here, None),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(PlaneError, match="stopped"):
            call()


def test_tun_that_is_down_and_gone(lab: netns.Lab) -> None:
    host = lab.namespace("host")
    with host.entered(), Tun.open("tun-p", 1, ALL, MTU) as tun:
        port, udp = Bench.bind(), Bench.bind()
        plane = Plane(tun.fds, [port.fileno()], mtu=MTU, offloads=ALL & (tun.offloads | {"packing"}))
        peer = plane.add_peer()
        plane.set_routes([("10.0.0.0/24", peer)])
        plane.set_endpoint(peer, Address(*udp.getsockname()))
        tx, rx = bytearray(secret(1)), bytearray(secret(2))
        sealer = RecordSealer(bytes(rx[:32]), bytes(rx[32:]), 0, RX_INDEX)
        plane.install(peer, number=0, suite=1, rx_index=RX_INDEX, tx_index=1, tx_secrets=tx, rx_secrets=rx, lifetime=60)
        plane.activate(RX_INDEX)
        plane.start()
        plane.send_empty(RX_INDEX)  # also without an interface that is up
        udp.recv(2000)
        udp.sendto(sealer.seal(ipv4("10.0.0.2", "10.0.0.1")), port.getsockname())
        assert wait(lambda: plane.drops()["rx", "tun_write"] == 1)
        host.ip("address add 10.0.0.1/24 dev tun-p")
        for state in ("up", "down", "up"):
            host.ip(f"link set tun-p {state}")
        inner = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        inner.sendto(b"hello", ("10.0.0.2", 9))
        assert wait(lambda: plane.peer_stats(peer).tx_packets >= 1)
        assert plane.failure() is None
        host.ip("link delete tun-p")
        assert wait(lambda: plane.failure() is not None)
        assert "TUN" in plane.failure()
        plane.stop()
        for member in (port, udp, inner):
            member.close()


def test_unknown_aead_back_end_is_an_error_at_the_start() -> None:
    code = "from test_plane import Bench; Bench()"
    environment = {**os.environ, "CRYPRQ_AEAD_BACKEND": "rot13", "PYTHONPATH": os.path.dirname(__file__)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert "CRYPRQ_AEAD_BACKEND names no back end of this CPU; it has" in done.stderr
    assert done.returncode == 1
