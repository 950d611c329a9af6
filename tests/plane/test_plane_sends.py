"""Where the data plane sends to and from, and what it does when a send is refused (see ``planes``)."""

import os
import socket
import struct
from collections.abc import Iterator

import pytest

from cryprq import _fastpath
from cryprq.address import Address, Local
from lab import hosts
from tests.rigs.planes import ALL, MTU, RX_INDEX, Bench, ipv4, wait


def test_endpoint_follows_the_newest_authenticated_record(bench: Bench) -> None:
    other = bench.bind()
    old = bench.sealer.seal(ipv4("10.0.0.2", "10.0.0.1", b"old"))
    bench.send(bench.sealer.seal(ipv4("10.0.0.2", "10.0.0.1", b"new")))
    bench.to_tun()
    here = Address(*bench.udp.getsockname())
    bench.send(old, other)  # late, from elsewhere: opened, but it moves nothing
    bench.to_tun()
    bench.send(b"\x01" + os.urandom(60), other)
    assert bench.endpoint()[0] == here
    bench.send(bench.sealer.seal(ipv4("10.0.0.2", "10.0.0.1")), other)
    bench.to_tun()
    assert wait(lambda: bench.endpoint()[0] == Address(*other.getsockname()))
    assert any(e.flags & _fastpath.EVENT_ENDPOINT_MOVED for e in bench.plane.events())
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2"))
    other.recv(2000)
    other.close()


def test_promotion_adopts_the_address_of_the_pending_epoch(bench: Bench) -> None:
    other = bench.bind()
    sealer, _ = bench.install(99, 98, 2)
    bench.send(sealer.seal(b""), other)
    assert wait(lambda: any(e.rx_index == 99 for e in bench.plane.events()))
    assert bench.endpoint()[0] == Address(*bench.udp.getsockname())
    bench.plane.promote(99)
    assert bench.endpoint()[0] == Address(*other.getsockname())
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
    wildcard.plane.set_endpoint(wildcard.peer, here, Local("127.0.0.1"))
    wildcard.plane.events()
    wildcard.send(wildcard.sealer.seal(packet), to="127.0.0.5")  # the peer is where it was, and asks elsewhere
    wildcard.to_tun()
    assert wildcard.plane.endpoint(wildcard.peer) == (here, Local("127.0.0.5"))
    assert answer_from(wildcard, wildcard.udp) == "127.0.0.5"
    assert not any(e.flags & _fastpath.EVENT_ENDPOINT_MOVED for e in wildcard.plane.events())
    wildcard.send(wildcard.sealer.seal(packet), other, to="127.0.0.6")
    wildcard.to_tun()
    assert wildcard.plane.endpoint(wildcard.peer) == (Address(*other.getsockname()), Local("127.0.0.6"))
    assert answer_from(wildcard, other) == "127.0.0.6"
    other.close()


def test_dialer_does_not_pin_its_own_address(wildcard: Bench) -> None:
    other, third = wildcard.bind(), wildcard.bind()
    packet = ipv4("10.0.0.2", "10.0.0.1")
    wildcard.send(wildcard.sealer.seal(packet), other, to="127.0.0.5")
    wildcard.to_tun()
    assert wildcard.plane.endpoint(wildcard.peer) == (Address(*other.getsockname()), Local())
    assert answer_from(wildcard, other) == "127.0.0.1"
    sealer, _ = wildcard.install(99, 98, 2)
    wildcard.send(sealer.seal(packet), third, to="127.0.0.5")
    wildcard.to_tun()
    wildcard.plane.promote(99)
    assert wildcard.plane.endpoint(wildcard.peer) == (Address(*third.getsockname()), Local())
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
def test_dual_stack_socket(lab: hosts.Lab, family: int, home: str, asked: str, usual: str) -> None:
    host = lab.namespace("host")
    host.ip("address add fd00:77::5/128 dev lo nodad")
    with host.entered():
        bench = Bench(host="::")
        udp = socket.socket(family, socket.SOCK_DGRAM)
        udp.bind((home, 0))
        udp.settimeout(5)
        where = Address.from_sockaddr(udp.getsockname())
        for local, source in ((home, asked), (None, usual)):
            bench.plane.set_endpoint(bench.peer, where, Local(local))
            bench.send(bench.sealer.seal(ipv4("10.0.0.2", "10.0.0.1")), udp, to=asked)
            bench.to_tun()
            assert bench.plane.endpoint(bench.peer) == (where, Local(asked if local else None))
            assert answer_from(bench, udp) == source
            tcp = struct.pack(">HHIIBBHHH", 1, 2, 7, 9, 0x50, 0x18, 500, 0, 0)
            bench.from_tun(ipv4("10.0.0.1", "10.0.0.2", tcp + bytes(60_000), 6), (1, 1, 40, MTU - 40, 20, 16))
            assert {udp.recvfrom(2000)[1][0] for _ in range(44)} == {source}
        assert bench.plane.segment_refused() == ()
        assert not any(bench.plane.drops().values())
        bench.close()
        udp.close()


def test_promotion_pins_the_address_that_was_asked(wildcard: Bench) -> None:
    here = Address(*wildcard.udp.getsockname())
    wildcard.plane.set_endpoint(wildcard.peer, here, Local("127.0.0.1"))
    sealer, _ = wildcard.install(99, 98, 2)
    wildcard.send(sealer.seal(ipv4("10.0.0.2", "10.0.0.1")), to="127.0.0.7")
    wildcard.to_tun()
    assert wildcard.plane.endpoint(wildcard.peer) == (here, Local("127.0.0.1"))
    wildcard.plane.promote(99)
    assert wildcard.plane.endpoint(wildcard.peer) == (here, Local("127.0.0.7"))


def test_promoting_again_keeps_the_newer_address(bench: Bench) -> None:
    other = bench.bind()
    sealer, _ = bench.install(99, 98, 2)
    packet = ipv4("10.0.0.2", "10.0.0.1")
    bench.send(sealer.seal(packet))
    bench.to_tun()
    bench.plane.promote(99)
    bench.send(sealer.seal(packet), other)  # roams afterwards
    bench.to_tun()
    there = Address(*other.getsockname()), Local()
    assert bench.plane.endpoint(bench.peer) == there
    bench.plane.promote(RX_INDEX)
    bench.plane.promote(99)
    assert bench.plane.endpoint(bench.peer) == there
    other.close()


def test_refused_source_is_not_pinned_again_by_the_same_path(wildcard: Bench) -> None:
    here = Address(*wildcard.udp.getsockname())
    wildcard.plane.set_endpoint(wildcard.peer, here, Local("10.99.99.99"))  # no such local address
    assert answer_from(wildcard, wildcard.udp) == "127.0.0.1"
    assert wait(lambda: wildcard.plane.endpoint(wildcard.peer) == (here, Local()))
    packet = ipv4("10.0.0.2", "10.0.0.1")
    wildcard.plane.inject(wildcard.sealer.seal(packet), here, Local("10.99.99.99"))
    wildcard.to_tun()
    assert wildcard.plane.endpoint(wildcard.peer) == (here, Local())
    wildcard.send(wildcard.sealer.seal(packet), to="127.0.0.5")
    wildcard.to_tun()
    assert wildcard.plane.endpoint(wildcard.peer) == (here, Local("127.0.0.5"))


def test_unreachable_endpoint_is_counted_and_forgiven(bench: Bench) -> None:
    bench.plane.set_endpoint(bench.peer, Address("fd00::1", 9))  # an IPv4 socket cannot
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2"))
    assert bench.dropped("tx", "send_error")
    absent = Local("10.99.99.99")  # no such local address
    bench.plane.set_endpoint(bench.peer, Address(*bench.udp.getsockname()), absent)
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2"))
    bench.udp.recv(2000)
    assert wait(lambda: bench.endpoint()[1] == Local())
    assert bench.plane.failure() is None


def test_packets_that_cannot_leave_are_counted_each(bench: Bench) -> None:
    bench.plane.set_endpoint(bench.peer, Address("fd00::1", 9))
    tcp = struct.pack(">HHIIBBHHH", 1, 2, 7, 9, 0x50, 0x18, 500, 0, 0)
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2", tcp + bytes(3000), 6), (1, 1, 40, 1000, 20, 16))
    assert bench.dropped("tx", "send_error", 3)
    stats = bench.plane.peer_stats(bench.peer)
    assert (stats.tx_packets, stats.tx_bytes) == (0, 0)
    assert stats.last_tx_data_ns > 0  # it was tried: silence is to be noticed


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


TCP_ACK = 0x10


def tcp_super(segments: int, size: int) -> tuple[bytes, tuple[int, ...]]:
    """A TCP super-packet of so many segments of ``size`` bytes, and the virtio_net_hdr that comes before it."""
    header = struct.pack(">HHIIBBHHH", 1, 2, 7, 9, 0x50, TCP_ACK, 500, 0, 0)
    payload = os.urandom(segments * size)
    return ipv4("10.0.0.1", "10.0.0.2", header + payload, 6), (1, 1, 40, size, 20, 16)


def arrived(bench: Bench, count: int) -> list[bytes]:
    """That many packets for the peer, in the order in which their records come."""
    packets: list[bytes] = []
    while len(packets) < count:
        payload, _newest = bench.opener.open(bench.udp.recv(2000))
        while payload and payload[0] >> 4 == 4:
            (length,) = struct.unpack_from(">H", payload, 2)
            packets.append(payload[:length])
            payload = payload[length:]
    return packets


@pytest.mark.parametrize(
    ("segments", "size"),
    [(45, MTU - 40), (46, MTU - 40), (47, MTU - 40), (64, 960), (128, 460), (129, 460), (1000, 64), (2000, 8)],
)
def test_super_packet_of_more_than_one_send_takes_all_of_it(bench: Bench, segments: int, size: int) -> None:
    packet, vnet = tcp_super(segments, size)
    for _ in range(2):  # what the first leaves behind in a run goes before the second
        bench.from_tun(packet, vnet)
        packets = arrived(bench, segments)
        assert len(packets) == segments
        assert b"".join(each[40:] for each in packets) == packet[40:]
        assert [struct.unpack_from(">I", each, 24)[0] for each in packets] == [7 + i * size for i in range(segments)]
    assert bench.plane.segment_refused() == ()
    assert not any(bench.plane.drops().values())
