"""Probes of the path in the data plane: how they leave, how they are acknowledged, what a flood of them costs."""

import contextlib
import socket
import struct
import time

import pytest

from cryprq._fastpath import EVENT_PROBE_ACKED
from tests.rigs.planes import MTU, RX_INDEX, Bench, ipv4, wait

PROBE, ACK = 0x10, 0x11
TOKEN = 0x0123456789ABCDEE
OVERHEAD = 32
_IP_MTU_DISCOVER, _PMTUDISC_PROBE, _PMTUDISC_DONT = 10, 3, 0


def ack(token: int, size: int, more: bytes = b"") -> bytes:
    return struct.pack("!BHQH", ACK, 10 + len(more), token, size) + more


def probe(token: int, size: int) -> bytes:
    return struct.pack("!BHQ", PROBE, 8, token).ljust(size - OVERHEAD, b"\0")


def events(bench: Bench) -> int:
    flags = 0
    for event in bench.plane.events():
        flags |= event.flags
    return flags


def stays_whole(bench: Bench) -> int:
    return bench.port.getsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER)


@pytest.mark.parametrize("size", [43, 44, 1280, MTU + OVERHEAD])
def test_probe_is_a_record_of_its_size_and_leaves_whole(bench: Bench, size: int) -> None:
    bench.plane.send_probe(RX_INDEX, TOKEN, size)
    record = bench.udp.recv(2000)
    assert len(record) == size
    assert bench.opener.open(record) == (probe(TOKEN, size), True)
    assert stays_whole(bench) == _PMTUDISC_PROBE
    stats = bench.plane.peer_stats(bench.peer)
    assert (stats.tx_packets, stats.last_tx_data_ns, stats.last_tx_large_ns) == (0, 0, 0)


def test_probe_is_alone_beside_traffic(bench: Bench) -> None:
    packets = [ipv4("10.0.0.1", "10.0.0.2", bytes([n]) * 1200) for n in range(20)]
    for n, packet in enumerate(packets):
        bench.from_tun(packet)
        if n % 5 == 0:
            bench.plane.send_probe(RX_INDEX, TOKEN + 2 * n, 1000 + n)
    records = [bench.udp.recv(2000) for _ in range(24)]
    opened = [bench.opener.open(record)[0] for record in records]
    assert [payload for payload in opened if payload[0] >> 4 == 4] == packets
    assert sorted(len(record) for record in records)[:4] == [1000, 1005, 1010, 1015]


@pytest.mark.parametrize(
    ("token", "size"), [(0, 100), (3, 100), (2, 42), (2, MTU + OVERHEAD + 1), (2, -1), (1 << 64, 99)]
)
def test_probe_that_cannot_be(bench: Bench, token: int, size: int) -> None:
    with pytest.raises(ValueError, match=r"probe|token|size"):
        bench.plane.send_probe(RX_INDEX, token, size)
    with pytest.raises(KeyError):
        bench.plane.send_probe(RX_INDEX + 1, 2, 100)


@pytest.mark.parametrize("size", [43, 700, 1400])
def test_probe_is_acknowledged_with_its_token_and_size(bench: Bench, size: int) -> None:
    bench.send(bench.sealer.seal(probe(TOKEN, size)))
    assert bench.opener.open(bench.udp.recv(2000))[0] == ack(TOKEN, size)
    assert bench.plane.peer_stats(bench.peer).rx_packets == 0
    assert not any(bench.plane.drops().values())


def test_no_session_that_sends_no_acknowledgement(bench: Bench) -> None:
    sealer, _ = bench.install(99, 98, 2)
    bench.plane.remove(RX_INDEX)
    bench.send(sealer.seal(probe(TOKEN, 100)))
    assert wait(lambda: bench.plane.peer_stats(bench.peer).last_rx_ns > 0)
    bench.plane.activate(99)
    bench.plane.send_empty(99)
    assert len(bench.udp.recv(2000)) == OVERHEAD


def test_acknowledgement_counts_once_and_only_for_what_was_asked(bench: Bench) -> None:
    bench.plane.send_probe(RX_INDEX, TOKEN, 1000)
    bench.udp.recv(2000)
    for wrong in (ack(TOKEN, 999), ack(TOKEN + 2, 1000), ack(TOKEN + 1, 1000), ack(0, 0), ack(TOKEN, 1000)[:12],
                  struct.pack("!BHQ", ACK, 8, TOKEN)):  # fmt: skip
        bench.send(bench.sealer.seal(wrong))
    assert bench.quiet()
    assert not events(bench) & EVENT_PROBE_ACKED
    assert bench.plane.acknowledged(bench.peer) == []
    bench.send(bench.sealer.seal(ack(TOKEN, 1000, b"what later versions add")))
    assert wait(lambda: events(bench) & EVENT_PROBE_ACKED)
    assert bench.plane.acknowledged(bench.peer) == [TOKEN]
    bench.send(bench.sealer.seal(ack(TOKEN, 1000)))
    assert bench.quiet()
    assert not events(bench) & EVENT_PROBE_ACKED
    assert bench.plane.acknowledged(bench.peer) == []


def test_messages_stand_beside_packets_and_unknown_ones_are_skipped(bench: Bench) -> None:
    packet = ipv4("10.0.0.2", "10.0.0.1", b"inside")
    unknown = struct.pack("!BH", 0x1F, 5) + b"later"
    bench.send(bench.sealer.seal(probe(TOKEN, 43) + packet + unknown + struct.pack("!BHQ", PROBE, 8, 4) + packet))
    assert [bench.to_tun()[1], bench.to_tun()[1]] == [packet, packet]
    answers = [bench.opener.open(bench.udp.recv(2000))[0] for _ in range(2)]
    size = 43 + 2 * len(packet) + len(unknown) + 11
    assert answers == [ack(TOKEN, size), ack(4, size)]


def test_only_the_newest_probes_are_awaited(bench: Bench) -> None:
    for n in range(17):
        bench.plane.send_probe(RX_INDEX, TOKEN + 2 * n, 1000 + n)
        bench.udp.recv(2000)
    for n in range(17):
        bench.send(bench.sealer.seal(ack(TOKEN + 2 * n, 1000 + n)))
    assert bench.quiet()
    assert sorted(bench.plane.acknowledged(bench.peer)) == [TOKEN + 2 * n for n in range(1, 17)]


def test_flood_of_probes_is_answered_one_by_one_at_most_and_stops_nothing(bench: Bench) -> None:
    """One record with 120 probes, and 500 records: what there is no room for is not answered."""
    bench.udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    many = b"".join(struct.pack("!BHQ", PROBE, 8, n) for n in range(120))
    bench.send(bench.sealer.seal(many))
    for n in range(500):
        bench.send(bench.sealer.seal(struct.pack("!BHQ", PROBE, 8, n)))
    assert bench.quiet()
    bench.plane.send_empty(RX_INDEX)
    answers = [len(bench.udp.recv(2000)) for _ in range(8)]
    bench.udp.settimeout(0.2)
    with contextlib.suppress(TimeoutError):
        while True:
            answers.append(len(bench.udp.recv(2000)))
    assert len(answers) <= 120 + 500 + 1
    assert max(answers) <= OVERHEAD + 13
    assert bench.plane.failure() is None


def test_records_leave_whole_where_the_path_is_known_to_carry_them(bench: Bench) -> None:
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2", bytes(1000)))
    bench.udp.recv(2000)
    bench.plane.set_whole_max(bench.peer, 1020 + OVERHEAD)
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2", bytes(1000)))
    bench.udp.recv(2000)
    assert stays_whole(bench) == _PMTUDISC_PROBE
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2", bytes(1001)))
    bench.udp.recv(2000)
    assert stays_whole(bench) == _PMTUDISC_DONT


def test_time_of_the_last_large_record(bench: Bench) -> None:
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2", bytes(1148)))
    bench.udp.recv(2000)
    assert wait(lambda: bench.plane.peer_stats(bench.peer).last_tx_data_ns > 0)
    assert bench.plane.peer_stats(bench.peer).last_tx_large_ns == 0
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2", bytes(1149)))
    bench.udp.recv(2000)
    assert wait(lambda: bench.plane.peer_stats(bench.peer).last_tx_large_ns > 0)


def test_round_trip_is_that_of_the_newest_probe(bench: Bench) -> None:
    """To the peer and back, which here takes as long as the test makes it."""

    def measured(token: int, pause: float) -> tuple[int, int]:
        """The round trip as the plane has it, and no less than it was."""
        before = bench.plane.peer_stats(bench.peer).round_trip_ns
        began = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        bench.plane.send_probe(RX_INDEX, token, 43)
        bench.udp.recv(2000)
        time.sleep(pause)
        bench.send(bench.sealer.seal(ack(token, 43)))
        assert wait(lambda: bench.plane.peer_stats(bench.peer).round_trip_ns != before)
        return bench.plane.peer_stats(bench.peer).round_trip_ns, time.clock_gettime_ns(time.CLOCK_BOOTTIME) - began

    assert bench.plane.peer_stats(bench.peer).round_trip_ns == 0
    for token, pause in ((TOKEN, 0.05), (TOKEN + 2, 0.0)):
        found, most = measured(token, pause)
        assert pause * 1e9 <= found <= most


def test_what_did_not_arrive_is_counted_by_the_counters_of_what_did(bench: Bench) -> None:
    assert bench.plane.epoch_arrivals(RX_INDEX) == (0, 0)
    records = [bench.sealer.seal(ipv4("10.0.0.2", "10.0.0.1", bytes([n]))) for n in range(10)]
    for n in (0, 1, 5, 7, 7):
        bench.send(records[n])
    assert wait(lambda: bench.plane.epoch_arrivals(RX_INDEX) == (4, 4))
    bench.send(records[3])  # it was late
    assert wait(lambda: bench.plane.epoch_arrivals(RX_INDEX) == (5, 3))
    with pytest.raises(KeyError):
        bench.plane.epoch_arrivals(RX_INDEX + 1)
