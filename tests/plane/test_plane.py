"""What the data plane makes of packets and records, keys and their limits (see ``planes``)."""

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest

from cryprq import _fastpath
from cryprq.address import Address, Local
from lab.oracle import Header, RecordSealer
from tests.rigs.planes import ALL, MTU, RX_INDEX, TX_INDEX, Bench, checksum, ipv4, ipv6, secret, wait


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
def test_damaged_record_is_dropped_and_counted(bench: Bench, damage: Callable[[bytes], bytes], reason: str) -> None:
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


def test_ping_is_answered_with_an_empty_record(bench: Bench) -> None:
    packet = ipv4("10.0.0.2", "10.0.0.1", b"after")
    bench.send(bench.sealer.seal(b"\x12\x00\x02ab" + packet))
    assert bench.to_tun()[1] == packet
    assert bench.opener.open(bench.udp.recv(2000)) == (b"", True)
    assert bench.plane.peer_stats(bench.peer).last_tx_data_ns == 0


def test_ping_that_is_not_authentic_or_repeated_is_not_answered(bench: Bench) -> None:
    ping = bench.sealer.seal(b"\x12\x00\x00")
    bench.send(ping[:-1] + bytes([ping[-1] ^ 1]))
    assert bench.dropped("rx", "auth")
    bench.send(ping)
    bench.udp.recv(2000)
    bench.send(ping)
    assert bench.dropped("rx", "replay")
    assert bench.quiet()
    bench.plane.send_empty(RX_INDEX)  # the next that leaves
    assert bench.opener.open(bench.udp.recv(2000)) == (b"", True)
    assert bench.plane.epoch_records(RX_INDEX)[0] == 2


def test_unroutable_and_broken_packets_from_tun(bench: Bench) -> None:
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.9"))
    assert bench.dropped("tx", "no_route")
    bench.from_tun(b"\x45\0")
    assert bench.dropped("tx", "malformed")
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2", b"x" * MTU))
    assert bench.dropped("tx", "too_big")


def test_records_obey_the_mtu_of_the_peer(bench: Bench) -> None:
    assert bench.plane.peer_mtu(bench.peer) == MTU
    packets = [ipv4("10.0.0.1", "10.0.0.2", bytes([n]) * 280) for n in range(1, 60)]
    for limit in (900, MTU):  # it shrinks and grows while packets flow
        bench.plane.set_peer_mtu(bench.peer, limit)
        assert bench.plane.peer_mtu(bench.peer) == limit
        bench.from_tun(ipv4("10.0.0.1", "10.0.0.2", bytes(limit - 20)))
        assert len(bench.opener.open(bench.udp.recv(2000))[0]) == limit
        for packet in packets:
            bench.from_tun(packet)
        left = list(packets)
        while left:
            payload, _ = bench.opener.open(bench.udp.recv(2000))
            assert len(payload) <= limit  # packed, and padded
            while payload.rstrip(b"\0"):
                assert payload.startswith(left[0])
                payload = payload.removeprefix(left.pop(0))
        bench.from_tun(ipv4("10.0.0.1", "10.0.0.2", bytes(limit - 19)))
        assert bench.dropped("tx", "too_big", 1 if limit == 900 else 2)


def test_more_than_the_tunnels_mtu_is_as_much_as_that(bench: Bench) -> None:
    bench.plane.set_peer_mtu(bench.peer, 65_455)
    assert bench.plane.peer_mtu(bench.peer) == MTU
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2", bytes(MTU - 19)))
    assert bench.dropped("tx", "too_big")
    for impossible in (575, 65_456):
        with pytest.raises(ValueError, match="MTU"):
            bench.plane.set_peer_mtu(bench.peer, impossible)
    with pytest.raises(KeyError):
        bench.plane.set_peer_mtu(99, 1300)


def test_super_packet_of_tcp_leaves_in_segments_for_the_peer(bench: Bench) -> None:
    payload = bytes(i % 251 for i in range(30_000))
    tcp = struct.pack(">HHIIBBHHH", 1000, 2000, 7, 9, 0x50, 0x18, 500, 0, 0)
    bench.plane.set_peer_mtu(bench.peer, 1000)
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2", tcp + payload, 6), (1, 1, 40, MTU - 40, 20, 16))
    got = b""
    while len(got) < len(payload):
        record = bench.udp.recv(2000)
        part, _ = bench.opener.open(record)
        assert Header.decode(record).flags == 1  # vouched
        assert len(part) <= 1000
        assert int.from_bytes(part[24:28]) == 7 + len(got)
        got += part[40:]
    assert got == payload
    assert not any(bench.plane.drops().values())


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


def forge(record: bytes) -> bytes:
    """The same with another tag."""
    return record[:-1] + bytes((record[-1] ^ 1,))


def told(bench: Bench, flags: int) -> bool:
    """Whether exactly these are told of the epoch, in the end: a worker raises one after another, and a look may come
    in between."""
    seen = 0

    def all_told() -> bool:
        nonlocal seen
        for peer, index, some in bench.plane.events():
            assert (peer, index) == (bench.peer, RX_INDEX)
            seen |= some
        return seen & flags == flags

    return wait(all_told) and seen == flags


@pytest.mark.parametrize("suite", [1, 2])
def test_forged_records_ask_for_a_rotation_and_then_end_the_key(suite: int) -> None:
    """At half of the limit and at the limit, which is all that they can do."""
    bench = Bench(suite=suite, forged_hard=6)
    for count in (1, 2):
        bench.send(forge(bench.sealer.seal(b"")))
        assert bench.dropped("rx", "auth", count)
    assert bench.quiet()
    assert [event.flags & ~_fastpath.EVENT_FIRST_RECORD for event in bench.plane.events()] == [0]
    bench.send(forge(bench.sealer.seal(b"")))
    assert bench.dropped("rx", "auth", 3)
    assert told(bench, _fastpath.EVENT_FORGED | _fastpath.EVENT_ROTATE_DUE)
    assert bench.quiet()
    for _ in range(3):
        bench.send(forge(bench.sealer.seal(b"")))
    assert bench.dropped("rx", "auth", 6)
    assert told(bench, _fastpath.EVENT_KEY_EXPIRED)
    bench.send(bench.sealer.seal(ipv4("10.0.0.2", "10.0.0.1")))
    assert bench.dropped("rx", "no_key")
    bench.close()


def test_lanes_share_the_limit_of_forged_records() -> None:
    """They are keys as well, and an attacker can try all of them."""
    bench = Bench(forged_hard=6, lanes=3)
    for count in (1, 2):
        bench.send(forge(bench.sealer.seal(b"")))
        assert bench.dropped("rx", "auth", count)
    assert wait(lambda: any(event.flags & _fastpath.EVENT_KEY_EXPIRED for event in bench.plane.events()))
    bench.close()


def test_replayed_records_are_no_forged_ones() -> None:
    bench = Bench(forged_hard=2)
    record = bench.sealer.seal(b"")
    for _ in range(9):
        bench.send(record)
    assert bench.dropped("rx", "replay", 8)
    assert [event.flags for event in bench.plane.events()] == [_fastpath.EVENT_FIRST_RECORD]
    assert bench.quiet()
    bench.close()


def test_send_ping(bench: Bench) -> None:
    bench.plane.send_ping(RX_INDEX)
    assert bench.opener.open(bench.udp.recv(2000)) == (b"\x12\0\0", True)
    assert wait(lambda: bench.plane.peer_stats(bench.peer).last_tx_ns > 0)
    assert bench.plane.peer_stats(bench.peer).last_tx_data_ns == 0


def test_send_empty(bench: Bench) -> None:
    bench.plane.send_empty(RX_INDEX)
    assert bench.opener.open(bench.udp.recv(2000)) == (b"", True)
    assert wait(lambda: bench.plane.peer_stats(bench.peer).last_tx_ns > 0)  # counted once it has left
    stats = bench.plane.peer_stats(bench.peer)
    assert stats.tx_packets == 0 and stats.last_tx_data_ns == 0


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

    def both_arrived() -> bool:
        found.extend(datagram.data for datagram in bench.plane.quic_datagrams())
        return len(found) == 2

    assert wait(both_arrived)
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
    bench.plane.inject(bench.sealer.seal(packet), Address(*bench.udp.getsockname()), Local("127.0.0.1"))
    assert bench.to_tun()[1] == packet
    bench.plane.inject(b"\x01short", Address("127.0.0.1", 1), Local())
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


def test_changes_under_load_lose_nothing(bench: Bench) -> None:
    """The table is swapped all the time while records are opened: each must find its key."""
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
