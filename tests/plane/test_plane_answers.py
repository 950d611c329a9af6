"""What the data plane does with packets that do not fit or have no way, and with the MSS of those that open connections
(see ``planes``). Every answer and every checksum is made here once more, by the RFCs alone."""

import socket
import struct
import time
from collections.abc import Iterator

import pytest

from lab.oracle import Header
from tests.rigs.planes import ALL, MTU, RX_INDEX, TX_INDEX, Bench, checksum, ipv4, ipv6, wait

HERE = {4: "10.0.0.1", 6: "fd00::1"}
PEER = {4: "10.0.0.2", 6: "fd00::2"}
NOBODY = {4: "10.0.0.9", 6: "fd00::9"}
DF = 0x40
LIMIT = 1300
STAGE_PACKETS = 64
"""CQ_STAGE_PACKETS."""


@pytest.fixture(params=[True, False], ids=["vnet_hdr", "plain"])
def narrow(request: pytest.FixtureRequest) -> Iterator[Bench]:
    """A peer that takes less than the tunnel."""
    bench = Bench(ALL if request.param else ALL - {"vnet_hdr"})
    bench.plane.set_peer_mtu(bench.peer, LIMIT)
    yield bench
    bench.close()


def packet_of(version: int, destination: str, size: int, protocol: int = 99) -> bytes:
    if version == 4:
        return ipv4(HERE[4], destination, bytes(size - 20), protocol)
    packet = bytearray(ipv6(HERE[6], destination, bytes(size - 40)))
    packet[6] = protocol
    return bytes(packet)


def may_be_cut(packet: bytes) -> bytes:
    """An IPv4 packet without its DF."""
    head = bytearray(packet[:20])
    head[6] &= ~DF
    head[10:12] = bytes(2)
    head[10:12] = struct.pack(">H", checksum(bytes(head)))
    return bytes(head) + packet[20:]


def transport_checksum(packet: bytes, protocol: int) -> int:
    """0 if the checksum of a packet without options or extension headers is right."""
    addresses, payload = (packet[12:20], packet[20:]) if packet[0] >> 4 == 4 else (packet[8:40], packet[40:])
    return checksum(addresses + struct.pack(">II", len(payload), protocol) + payload)


def error(kind: tuple[int, int], number: int, about: bytes) -> bytes:
    """The ICMP error about a packet, from its own destination."""
    version = about[0] >> 4
    quoted = about[: {4: 576 - 28, 6: 1280 - 48}[version]]
    body = bytearray(struct.pack(">BBHI", *kind, 0, number) + quoted)
    if version == 4:
        body[2:4] = struct.pack(">H", checksum(bytes(body)))
        head = struct.pack(">BBHHHBBH", 0x45, 0xC0, 20 + len(body), 0, DF << 8, 64, 1, 0) + about[16:20] + about[12:16]
        return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + bytes(body)
    addresses = about[24:40] + about[8:24]
    body[2:4] = struct.pack(">H", checksum(addresses + struct.pack(">II", len(body), 58) + bytes(body)))
    return struct.pack(">IHBB", 6 << 28, len(body), 58, 64) + addresses + bytes(body)


def answered(bench: Bench, reason: str, result: str, count: int) -> bool:
    """Whether so many are counted in time: an answer is, when it has been written."""
    return wait(lambda: bench.plane.answers()[reason, result] == count)


def opened(bench: Bench) -> tuple[bytes, bool]:
    """The next record's payload, and whether it is vouched for."""
    record = bench.udp.recv(2000)
    return bench.opener.open(record)[0], bool(Header.decode(record).flags & 1)


def records(bench: Bench, total: int) -> list[bytes]:
    """Packets that arrive at the peer, each in a record of its own, until they have so many bytes."""
    found: list[bytes] = []
    while sum(map(len, found)) < total:
        found.append(opened(bench)[0])
    return found


# ---- too big ----


@pytest.mark.parametrize("version", [4, 6])
def test_sender_of_what_does_not_fit_is_told_the_mtu(narrow: Bench, version: int) -> None:
    packet = packet_of(version, PEER[version], LIMIT + 1)
    narrow.from_tun(packet)
    kind = {4: (3, 4), 6: (2, 0)}[version]
    assert narrow.to_tun()[1] == error(kind, LIMIT, packet)
    assert answered(narrow, "too_big", "sent", 1)
    assert narrow.dropped("tx", "too_big")
    fits = packet_of(version, PEER[version], LIMIT)
    narrow.from_tun(fits)
    assert records(narrow, LIMIT) == [fits]


def test_every_packet_that_is_too_big_is_answered_but_none_beyond_the_rate(narrow: Bench) -> None:
    for _ in range(60):
        narrow.from_tun(packet_of(4, PEER[4], LIMIT + 1))
    assert narrow.dropped("tx", "too_big", 60)
    counts = narrow.plane.answers()
    assert counts["too_big", "sent"] + counts["too_big", "limited"] == 60
    assert counts["too_big", "sent"] >= 50


@pytest.mark.parametrize("size", [LIMIT + 1, MTU, 9000])
def test_packet_that_may_be_cut_goes_in_fragments(narrow: Bench, size: int) -> None:
    packet = may_be_cut(packet_of(4, PEER[4], size))
    narrow.from_tun(packet)
    payload = b""
    while len(payload) < size - 20:
        for fragment in packets_in(opened(narrow)[0]):
            assert len(fragment) <= LIMIT
            assert checksum(fragment[:20]) == 0
            place = int.from_bytes(fragment[6:8])
            assert place & 0x1FFF == len(payload) // 8
            payload += fragment[20:]
            assert place >> 13 == (len(payload) < size - 20)
    assert payload == packet[20:]
    assert not any(narrow.plane.drops().values())
    assert not any(narrow.plane.answers().values())


def packets_in(payload: bytes) -> Iterator[bytes]:
    while payload.rstrip(b"\0"):
        size = int.from_bytes(payload[2:4])
        yield payload[:size]
        payload = payload[size:]


@pytest.mark.parametrize("whole", [True, False], ids=["segments", "datagram"])
def test_fragments_have_the_checksum_that_the_kernel_left_out(bench: Bench, whole: bool) -> None:
    bench.plane.set_peer_mtu(bench.peer, LIMIT)
    size = 1372
    data = bytes(i % 251 for i in range(3 * size if whole else size))
    udp = struct.pack(">HHHH", 1000, 2000, 8 + len(data), 0)
    packet = may_be_cut(ipv4(HERE[4], PEER[4], udp + data, 17))
    pseudo = ~checksum(packet[12:20] + struct.pack(">II", 8 + len(data), 17)) & 0xFFFF
    packet = packet[:26] + struct.pack(">H", pseudo) + packet[28:]
    bench.from_tun(packet, (1, 5, 28, size, 20, 6) if whole else (1, 0, 0, 0, 20, 6))
    got, datagram = b"", b""
    while len(got) < len(data):
        payload, vouched = opened(bench)
        assert not vouched
        for fragment in packets_in(payload):
            datagram += fragment[20:]
            if not fragment[6] & 0x20:
                assert transport_checksum(bytes(fragment[:20]) + datagram, 17) == 0
                got += datagram[8:]
                datagram = b""
    assert got == data


def test_fragment_that_ends_where_no_packet_can_is_malformed(narrow: Bench) -> None:
    packet = bytearray(may_be_cut(packet_of(4, PEER[4], MTU)))
    packet[6:8] = struct.pack(">H", 0x1FFF)
    narrow.from_tun(bytes(packet))
    assert narrow.dropped("tx", "malformed")


@pytest.mark.parametrize("size", [20_000, 47 * (MTU - 40)])  # the second is what a gateway forwards: two sends
def test_super_packet_of_tcp_is_answered_once_and_nothing_is_lost(bench: Bench, size: int) -> None:
    bench.plane.set_peer_mtu(bench.peer, LIMIT)
    data = bytes(i % 251 for i in range(size))
    segments = -(-size // (LIMIT - 40))
    tcp = struct.pack(">HHIIBBHHH", 1000, 2000, 7, 9, 0x50, 0x18, 500, 0, 0)
    packet = ipv4(HERE[4], PEER[4], tcp + data, 6)
    bench.from_tun(packet, (1, 1, 40, MTU - 40, 20, 16))
    assert b"".join(part[40:] for part in records(bench, size + segments * 40)) == data
    assert bench.to_tun()[1] == error((3, 4), LIMIT, packet)
    assert bench.plane.answers()["too_big", "sent"] == 1
    assert not any(bench.plane.drops().values())


def tcp_packet(version: int, size: int, *, partial: bool) -> bytes:
    """A TCP segment in a packet of that size; ``partial``: the kernel leaves its checksum to others."""
    head = struct.pack(">HHIIBBHHH", 1000, 2000, 7, 9, 0x50, 0x18, 500, 0, 0)
    data = bytes(i % 251 for i in range(size - {4: 40, 6: 60}[version]))
    if version == 4:
        packet = bytearray(ipv4(HERE[4], PEER[4], head + data, 6))
    else:
        packet = bytearray(ipv6(HERE[6], PEER[6], head + data))
        packet[6] = 6
    at, addresses = (36, packet[12:20]) if version == 4 else (56, packet[8:40])
    pseudo = bytes(addresses) + struct.pack(">II", len(head + data), 6)
    packet[at : at + 2] = struct.pack(">H", ~checksum(pseudo) & 0xFFFF if partial else checksum(pseudo + head + data))
    return bytes(packet)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("partial", [True, False], ids=["partial", "complete"])
def test_single_segment_of_tcp_is_answered_and_nothing_is_lost(bench: Bench, version: int, partial: bool) -> None:
    """As after a time-out, when TCP sends no more than one: who does not hear ICMP would send it for ever."""
    bench.plane.set_peer_mtu(bench.peer, LIMIT)
    packet, headers = tcp_packet(version, MTU, partial=partial), {4: 40, 6: 60}[version]
    ip = headers - 20
    bench.from_tun(packet, (1, 0, 0, 0, ip, 16) if partial else (0,) * 6)
    parts = [opened(bench) for _ in range(2)]
    assert b"".join(part[headers:] for part, _ in parts) == packet[headers:]
    assert [len(part) <= LIMIT for part, _ in parts] == [True, True]
    for (part, vouched), sequence in zip(parts, (7, 7 + LIMIT - headers), strict=True):
        assert int.from_bytes(part[ip + 4 : ip + 8]) == sequence
        assert vouched == partial
        assert partial or transport_checksum(part, 6) == 0
    assert bench.to_tun()[1] == error({4: (3, 4), 6: (2, 0)}[version], LIMIT, packet)
    assert not any(bench.plane.drops().values())


@pytest.mark.parametrize("version", [4, 6])
def test_while_it_is_being_found_out_what_fits_nobody_is_told_less(bench: Bench, version: int) -> None:
    bench.plane.set_peer_mtu(bench.peer, LIMIT, 1400)
    packet = packet_of(version, PEER[version], 1400)
    bench.from_tun(packet)
    assert records(bench, 1400) == [packet]
    segment, headers = tcp_packet(version, 1400, partial=False), {4: 40, 6: 60}[version]
    bench.from_tun(segment)
    assert b"".join(part[headers:] for part in records(bench, 1400 + headers)) == segment[headers:]
    assert not any(bench.plane.answers().values())
    assert not any(bench.plane.drops().values())
    too_big = packet_of(version, PEER[version], 1401)
    bench.from_tun(too_big)
    assert bench.to_tun()[1] == error({4: (3, 4), 6: (2, 0)}[version], 1400, too_big)
    assert bench.dropped("tx", "too_big")


def test_tcp_is_cut_below_the_least_mtu_of_ipv6(bench: Bench) -> None:
    """Nobody may be told so little, and who drops fragments drops those of the record."""
    bench.plane.set_peer_mtu(bench.peer, 1220)
    segment = tcp_packet(6, 1280, partial=False)
    bench.from_tun(segment)
    parts = records(bench, 1280 + 60)
    assert [len(part) for part in parts] == [1220, 120]
    assert b"".join(part[60:] for part in parts) == segment[60:]
    whole = packet_of(6, PEER[6], 1280)
    bench.from_tun(whole)
    assert records(bench, 1280) == [whole]
    assert not any(bench.plane.answers().values())


def test_datagrams_of_a_super_packet_stay_whole(bench: Bench) -> None:
    bench.plane.set_peer_mtu(bench.peer, LIMIT)
    packet = bytearray(ipv6(HERE[6], PEER[6], struct.pack(">HHHH", 1000, 2000, 8 + 4000, 0) + bytes(4000)))
    packet[6] = 17
    bench.from_tun(bytes(packet), (1, 5, 48, 1350, 40, 6))
    assert bench.to_tun()[1] == error((2, 0), LIMIT, bytes(packet))
    assert bench.dropped("tx", "too_big", 3)


# ---- no way ----


@pytest.mark.parametrize("version", [4, 6])
def test_no_peer_is_no_route(bench: Bench, version: int) -> None:
    packet = packet_of(version, NOBODY[version], 700)
    bench.from_tun(packet)
    assert bench.to_tun()[1] == error({4: (3, 0), 6: (1, 0)}[version], 0, packet)
    assert answered(bench, "no_route", "sent", 1)
    for _ in range(20):
        bench.from_tun(packet)
    assert answered(bench, "no_route", "limited", 15)
    assert bench.plane.answers()["no_route", "sent"] == 6
    assert bench.plane.drops()["tx", "no_route"] == 21


@pytest.mark.parametrize("version", [4, 6])
def test_peer_that_has_had_no_key_for_a_second_is_unreachable(bench: Bench, version: int) -> None:
    packet = packet_of(version, PEER[version], 100)
    bench.plane.remove(RX_INDEX)
    began = time.monotonic()

    def sent() -> int:
        bench.from_tun(packet)
        return bench.plane.answers()["unreachable", "sent"]

    assert wait(sent)
    assert 0.9 < time.monotonic() - began < 3
    assert bench.to_tun()[1] == error({4: (3, 1), 6: (1, 3)}[version], 0, packet)


def test_what_is_for_a_peer_that_is_about_to_connect_waits_until_it_has(bench: Bench) -> None:
    packets = [packet_of(4, PEER[4], size) for size in (100, 1300, 200)]
    bench.plane.remove(RX_INDEX)
    for packet in packets:
        bench.from_tun(packet)
    bench.from_tun(packet_of(4, NOBODY[4], 100))
    assert bench.dropped("tx", "no_route"), "by when all have been read"
    _, bench.opener = bench.install(RX_INDEX + 1, TX_INDEX, 2)
    bench.plane.activate(RX_INDEX + 1)
    last = packet_of(4, PEER[4], 300)
    bench.from_tun(last)
    found = b""
    while len(found) < 1900:
        found += opened(bench)[0]
    assert found == b"".join([*packets, last])
    assert bench.plane.drops()["tx", "no_key"] == 0
    assert bench.plane.answers()["unreachable", "sent"] == 0


def test_no_more_waits_for_a_peer_than_there_is_room_for(bench: Bench) -> None:
    bench.plane.remove(RX_INDEX)
    for _ in range(STAGE_PACKETS + 3):
        bench.from_tun(packet_of(4, PEER[4], 100))
    assert bench.dropped("tx", "no_key", 3)
    assert answered(bench, "unreachable", "limited", 3)


def test_what_waits_for_a_peer_that_does_not_connect_is_lost_and_its_sender_told(bench: Bench) -> None:
    packet = packet_of(4, NOBODY[4], 100)
    peer = bench.plane.add_peer()
    bench.plane.set_routes([(f"{NOBODY[4]}/32", peer)])
    began = time.monotonic()
    bench.from_tun(packet)
    assert bench.to_tun()[1] == error((3, 1), 0, packet)
    assert time.monotonic() - began > 2.9
    assert bench.dropped("tx", "no_key")


def test_what_waits_for_a_peer_that_is_removed_is_lost_with_it(bench: Bench) -> None:
    peer = bench.plane.add_peer()
    bench.plane.set_routes([(f"{NOBODY[4]}/32", peer), (f"{PEER[4]}/32", bench.peer)])
    bench.from_tun(packet_of(4, NOBODY[4], 100))
    bench.from_tun(packet_of(4, PEER[4], 100))
    assert records(bench, 100), "both have been read"
    bench.plane.set_routes([])
    bench.plane.remove_peer(peer)
    assert bench.dropped("tx", "no_key")


@pytest.mark.parametrize("version", [4, 6])
def test_peer_that_is_lost_is_unreachable_until_it_is_heard(bench: Bench, version: int) -> None:
    """What is for it leaves all the same: the answer may be the first that is heard of it."""
    packet = packet_of(version, PEER[version], 700)
    bench.send(bench.sealer.seal(b""))
    assert wait(lambda: bench.plane.peer_stats(bench.peer).last_rx_ns)
    heard_ns = bench.plane.peer_stats(bench.peer).last_rx_ns
    bench.plane.set_lost(bench.peer, heard_ns - 1)  # it has been heard after that
    bench.from_tun(packet)
    assert records(bench, 700) == [packet]
    assert not any(bench.plane.answers().values())
    bench.plane.set_lost(bench.peer, heard_ns)
    bench.from_tun(packet)
    assert bench.to_tun()[1] == error({4: (3, 1), 6: (1, 3)}[version], 0, packet)
    assert records(bench, 700) == [packet]
    assert answered(bench, "unreachable", "sent", 1)
    bench.send(bench.sealer.seal(b""))
    assert wait(lambda: bench.plane.peer_stats(bench.peer).last_rx_ns > heard_ns)
    bench.from_tun(packet)
    assert records(bench, 700) == [packet]
    assert answered(bench, "unreachable", "sent", 1)
    assert not any(bench.plane.drops().values())


def test_peer_can_be_lost_at_no_time_that_is_none(bench: Bench) -> None:
    for impossible in (-1, 1 << 64):
        with pytest.raises(ValueError, match="last_rx_ns"):
            bench.plane.set_lost(bench.peer, impossible)
    with pytest.raises(KeyError):
        bench.plane.set_lost(99, 1)


def test_nobody_is_told_about_an_error_or_a_group(bench: Bench) -> None:
    about_error = bytearray(packet_of(4, NOBODY[4], 100, 1))
    about_error[20] = 3
    echo = packet_of(4, NOBODY[4], 100, 1)[:20] + b"\x08" + bytes(79)
    for barred in (bytes(about_error), packet_of(4, "224.0.0.5", 100), packet_of(6, "ff02::1", 100)):
        bench.from_tun(barred)
    bench.from_tun(echo)
    assert bench.to_tun()[1] == error((3, 0), 0, echo)
    assert bench.plane.answers()["no_route", "barred"] == 3


# ---- MSS ----


def syn(source: str, destination: str, mss: int, *, partial: bool) -> bytes:
    """A TCP SYN; ``partial``: with the sum of the pseudo-header in its checksum field, as a kernel leaves it."""
    tcp = struct.pack(">HHIIBBHHHBBHI", 1000, 2000, 7, 0, 0x70, 0x02, 500, 0, 0, 2, 4, mss, 0x01010402)
    if ":" in source:
        packet = bytearray(ipv6(source, destination, tcp))
        packet[6] = 6
        at, addresses = 40, bytes(packet[8:40])
    else:
        packet = bytearray(ipv4(source, destination, tcp, 6))
        at, addresses = 20, bytes(packet[12:20])
    pseudo = addresses + struct.pack(">II", len(tcp), 6)
    value = ~checksum(pseudo) & 0xFFFF if partial else checksum(pseudo + tcp)
    packet[at + 16 : at + 18] = struct.pack(">H", value)
    return bytes(packet)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("partial", [True, False], ids=["partial", "complete"])
def test_mss_that_goes_out_fits(bench: Bench, version: int, partial: bool) -> None:
    bench.plane.set_peer_mtu(bench.peer, LIMIT)
    ip, most = {4: (20, LIMIT - 40), 6: (40, LIMIT - 60)}[version]
    for mss in (1460, most, 536):
        packet = syn(HERE[version], PEER[version], mss, partial=partial)
        bench.from_tun(packet, (1, 0, 0, 0, ip, 16) if partial else (0,) * 6)
        payload, vouched = opened(bench)
        assert vouched == partial
        assert int.from_bytes(payload[ip + 22 : ip + 24]) == min(mss, most)
        if partial:  # who completes it sums up what is there
            assert payload[ip + 16 : ip + 18] == packet[ip + 16 : ip + 18]
        else:
            assert transport_checksum(payload, 6) == 0


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("vouched", [True, False], ids=["vouched", "complete"])
def test_mss_that_comes_in_fits_the_way_back(bench: Bench, version: int, vouched: bool) -> None:
    bench.plane.set_peer_mtu(bench.peer, LIMIT)
    ip, most = {4: (20, LIMIT - 40), 6: (40, LIMIT - 60)}[version]
    for mss in (1460, most, 536):
        bench.send(bench.sealer.seal(syn(PEER[version], HERE[version], mss, partial=vouched), int(vouched)))
        vnet, packet = bench.to_tun()
        assert int.from_bytes(packet[ip + 22 : ip + 24]) == min(mss, most)
        if vouched:  # the kernel completes it
            assert (vnet[0], vnet[4], vnet[5]) == (1, ip, 16)
            start = packet[12:20] if version == 4 else packet[8:40]
            pseudo = ~checksum(start + struct.pack(">II", len(packet) - ip, 6)) & 0xFFFF
            assert int.from_bytes(packet[ip + 16 : ip + 18]) == pseudo
        else:
            assert transport_checksum(packet, 6) == 0


def test_mss_behind_an_extension_header(bench: Bench) -> None:
    bench.plane.set_peer_mtu(bench.peer, LIMIT)
    plain = syn(PEER[6], HERE[6], 1460, partial=False)
    options = b"\x06\0\x01\x04\0\0\0\0"  # hop-by-hop: nothing but padding, and TCP is next
    packet = plain[:4] + struct.pack(">HB", len(plain) - 40 + 8, 0) + plain[7:40] + options + plain[40:]
    bench.send(bench.sealer.seal(packet))
    got = bench.to_tun()[1]
    assert int.from_bytes(got[70:72]) == LIMIT - 60
    assert transport_checksum(got[:40] + got[48:], 6) == 0
    assert socket.inet_ntop(socket.AF_INET6, got[8:24]) == PEER[6]
