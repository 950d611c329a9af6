"""The traffic class of records and of the packets inside: what goes out with which ECN field and DSCP, and what the
field of a record that comes in makes of its packets (RFC 6040)."""

import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from typing import Literal

import pytest

from cryprq.address import Address
from lab.oracle import packets_of
from tests.rigs.planes import ALL, MTU, Bench, checksum, ipv4, ipv6, wait

NOT_ECT, ECT_1, ECT_0, CE = range(4)
COMBINED = {
    NOT_ECT: (NOT_ECT, NOT_ECT, NOT_ECT, None),
    ECT_1: (ECT_1, ECT_1, ECT_1, CE),
    ECT_0: (ECT_0, ECT_1, ECT_0, CE),
    CE: (CE, CE, CE, CE),
}
"""RFC 6040, figure 4: by the field inside, then by that outside as a number; None is dropped."""
ACK, PSH, ECE, CWR = 0x10, 0x08, 0x40, 0x80
TCP, TCPV4, GSO_ECN = 6, 1, 0x80


@pytest.fixture(params=["127.0.0.1", "::1"], ids=["ipv4", "ipv6"])
def wires(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A plane whose records are over IPv4, or IPv6."""
    with closing(at(request.param)) as made:
        yield made


def at(host: str = "127.0.0.1", dscp: int | Literal["inherit"] = 0, offloads: frozenset[str] = ALL) -> Bench:
    bench = Bench(offloads, host=host, dscp=dscp)
    if host == "::1":
        bench.udp.close()
        bench.udp = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
        bench.udp.bind((host, 0))
        bench.udp.settimeout(5)
        bench.udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
        bench.plane.set_endpoint(bench.peer, Address(host, bench.udp.getsockname()[1]))
    else:
        bench.udp.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    return bench


def classed(packet: bytes, traffic_class: int) -> bytes:
    """The packet with this traffic class."""
    if packet[0] >> 4 == 6:
        return struct.pack(">H", 0x6000 | traffic_class << 4 | packet[1] & 0xF) + packet[2:]
    head = packet[:1] + bytes((traffic_class,)) + packet[2:10] + bytes(2) + packet[12:20]
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + packet[20:]


def class_of(packet: bytes) -> int:
    return packet[1] if packet[0] >> 4 == 4 else int.from_bytes(packet[:2]) >> 4 & 0xFF


def out(version: int, traffic_class: int, payload: bytes = b"out") -> bytes:
    ends = ("10.0.0.1", "10.0.0.2") if version == 4 else ("fd00::1", "fd00::2")
    return classed((ipv4 if version == 4 else ipv6)(*ends, payload), traffic_class)


def into(version: int, traffic_class: int, payload: bytes = b"in") -> bytes:
    ends = ("10.0.0.2", "10.0.0.1") if version == 4 else ("fd00::2", "fd00::1")
    return classed((ipv4 if version == 4 else ipv6)(*ends, payload), traffic_class)


def on_wire(bench: Bench) -> tuple[int, list[bytes]]:
    """The traffic class of the next record, and its packets."""
    record, ancillary, _, _ = bench.udp.recvmsg(2000, socket.CMSG_SPACE(4))
    ((_, _, value),) = ancillary
    return value[0], packets_of(bench.opener.open(record)[0])


def arrive(bench: Bench, traffic_class: int, payload: bytes) -> None:
    """A record comes in whose own header has this class."""
    level, kind = (
        (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
        if bench.udp.family == socket.AF_INET6
        else (socket.IPPROTO_IP, socket.IP_TOS)
    )
    ancillary = [(level, kind, struct.pack("=i", traffic_class))]
    bench.udp.sendmsg([bench.sealer.seal(payload)], ancillary, 0, bench.port.getsockname()[:2])


# ---- out ----


@pytest.mark.parametrize("version", [4, 6])
def test_record_has_the_field_of_its_packet_where_the_peer_minds_it(wires: Bench, version: int) -> None:
    for minds in (False, True, False):
        wires.plane.set_ecn(wires.peer, minds)
        for field in range(4):
            packet = out(version, 0xB8 | field)
            wires.from_tun(packet)
            assert on_wire(wires) == (field if minds else 0, [packet])


def test_packets_of_two_fields_share_no_record(bench: Bench) -> None:
    """One that was marked on the way is so for all that it carries."""
    bench.udp.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    bench.plane.set_ecn(bench.peer, True)
    packets = [out(4, field, bytes([n]) * 40) for n, field in enumerate((2, 2, 0, 0, 3, 1, 2, 2) * 16)]
    for packet in packets:
        bench.from_tun(packet)
    arrived: list[bytes] = []
    records = 0
    while len(arrived) < len(packets):
        field, carried = on_wire(bench)
        assert {class_of(packet) for packet in carried} == {field}
        arrived += carried
        records += 1
    assert arrived == packets
    assert records < len(packets)  # those of one field still do


def test_packets_of_two_fields_share_no_send() -> None:
    """A send has one header for all of its records, and order holds between those of two."""
    with closing(at()) as bench:
        bench.plane.set_ecn(bench.peer, True)
        packets = [out(4, n // 3 % 4, bytes([n]) * 1000) for n in range(60)]
        for packet in packets:
            bench.from_tun(packet)
        assert [on_wire(bench) for _ in packets] == [(class_of(packet), [packet]) for packet in packets]


def test_every_segment_has_the_field_and_the_first_one_says_cwr() -> None:
    with closing(at()) as bench:
        bench.plane.set_ecn(bench.peer, True)
        size = MTU - 40
        tcp = struct.pack(">HHIIBBHHH", 1000, 2000, 7, 9, 0x50, ACK | CWR, 500, 0, 0)
        packet = classed(ipv4("10.0.0.1", "10.0.0.2", tcp + bytes(10 * size), TCP), ECT_0)
        bench.from_tun(packet, (1, TCPV4 | GSO_ECN, 40, size, 20, 16))
        for number in range(10):
            field, (segment,) = on_wire(bench)
            assert field == ECT_0 == class_of(segment)
            assert segment[33] == (ACK | CWR if number == 0 else ACK)


def test_fragments_have_the_field_of_their_packet() -> None:
    with closing(at()) as bench:
        bench.plane.set_ecn(bench.peer, True)
        bench.plane.set_peer_mtu(bench.peer, 700)
        packet = bytearray(out(4, CE, bytes(1200)))
        packet[6] = 0  # may be cut
        bench.from_tun(classed(bytes(packet), CE))
        assert [(field, class_of(carried[0])) for field, carried in (on_wire(bench), on_wire(bench))] == [(CE, CE)] * 2


def test_what_a_session_says_itself_is_not_ect() -> None:
    with closing(at()) as bench:
        bench.plane.set_ecn(bench.peer, True)
        bench.from_tun(out(4, ECT_0))
        assert on_wire(bench)[0] == ECT_0
        bench.plane.send_empty(0x11223344)
        assert on_wire(bench) == (NOT_ECT, [])


@pytest.mark.parametrize("minds", [False, True])
def test_dscp_is_what_was_asked_for(minds: bool) -> None:
    fields = ECT_0 if minds else NOT_ECT
    for dscp, inside, outside in ((46, 0, 46 << 2), (8, 0x68, 8 << 2), ("inherit", 0x68, 0x68), ("inherit", 0, 0)):
        with closing(at(dscp=dscp)) as bench:  # type: ignore[arg-type]  # a tuple's members are no literals
            bench.plane.set_ecn(bench.peer, minds)
            packet = out(4, inside | ECT_0)
            bench.from_tun(packet)
            assert on_wire(bench) == (outside | fields, [packet])


def test_dscp_is_a_number_that_fits() -> None:
    with pytest.raises(ValueError, match=r"DSCP 64 is not in 0\.\.63"):
        at(dscp=64)


# ---- in ----


@pytest.mark.parametrize("version", [4, 6])
def test_both_fields_together_say_what_becomes_of_a_packet(wires: Bench, version: int) -> None:
    drops = marks = 0
    for inside, outcomes in COMBINED.items():
        for outside, wanted in enumerate(outcomes):
            arrive(wires, 0x48 | outside, into(version, 0xB8 | inside) + into(version, CE, b"next"))
            if wanted is None:
                drops += 1
                assert wires.dropped("rx", "congestion", drops)
            else:
                assert wires.to_tun()[1] == into(version, 0xB8 | wanted)
                marks += wanted == CE and inside != CE
            assert wires.to_tun()[1] == into(version, CE, b"next")
            assert wires.plane.marks() == {"queue": 0, "path": marks}
    assert (drops, marks) == (1, 2)
    assert wires.plane.peer_stats(wires.peer).rx_packets == 31


def test_what_is_dropped_for_congestion_is_still_heard(bench: Bench) -> None:
    """The record is authentic: its peer is there."""
    arrive(bench, CE, into(4, NOT_ECT))
    assert bench.dropped("rx", "congestion")
    assert wait(lambda: bench.plane.peer_stats(bench.peer).last_rx_ns)


def test_marked_segments_are_not_merged_with_others(bench: Bench) -> None:
    """One super-packet has one field, and its receiver counts how many came with which."""
    payloads = [bytes([n]) * 1000 for n in range(8)]
    segments = []
    for number, payload in enumerate(payloads):
        tcp = struct.pack(">HHIIBBHHH", 1, 2, 1000 * number, 9, 0x50, ACK | ECE, 500, 0, 0)
        segments.append(classed(ipv4("10.0.0.2", "10.0.0.1", tcp + payload, TCP, number), ECT_0))
    # One batch of two sends: three that were marked between those that were not.
    for group, outside in ((segments[:3], ECT_0), (segments[3:6], CE), (segments[6:], ECT_0)):
        records = b"".join(bench.sealer.seal(segment, flags=1) for segment in group)
        bench.udp.sendmsg(
            [records],
            [
                (socket.IPPROTO_IP, socket.IP_TOS, struct.pack("=i", outside)),
                (17, 103, struct.pack("=H", len(records) // len(group))),  # UDP_SEGMENT
            ],
            0,
            bench.port.getsockname()[:2],
        )
    arrived: list[tuple[int, bytes]] = []
    while sum(len(payload) for _, payload in arrived) < 8000:
        _, packet = bench.to_tun()
        assert packet[33] & ~PSH == ACK | ECE
        assert checksum(packet[:20]) == 0
        arrived.append((packet[1], packet[40:]))
    assert b"".join(payload for _, payload in arrived) == b"".join(payloads)
    fields = b"".join(bytes([field]) * (len(payload) // 1000) for field, payload in arrived)
    assert fields == bytes((2, 2, 2, 3, 3, 3, 2, 2))
    assert bench.plane.marks() == {"queue": 0, "path": 3}
