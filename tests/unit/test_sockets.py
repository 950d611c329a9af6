"""The group of UDP sockets: who gets which datagram, real datagrams on loopback."""

import errno
import os
import random
import select
import socket
import struct
from collections.abc import Callable
from typing import Any

import pytest

from cryprq.errors import MachineError
from cryprq.linux import sockets
from cryprq.linux.sockets import SocketGroup, open_group, probe_offloads, steering_program
from cryprq.multiaddr import Multiaddr
from cryprq.peers.indices import offset_of

LISTEN = {4: "/ip4/127.0.0.1/udp/0/quic-v1", 6: "/ip6/::1/udp/0/quic-v1", 46: "/ip6/::/udp/0/quic-v1"}


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="no IPv6 on loopback")
FAMILIES = [
    pytest.param(4, "127.0.0.1", id="ipv4"),
    pytest.param(6, "::1", id="ipv6", marks=needs_ipv6),
    pytest.param(46, "127.0.0.1", id="dual-stack-ipv4", marks=needs_ipv6),
    pytest.param(46, "::1", id="dual-stack-ipv6", marks=needs_ipv6),
]


def group_on(kind: int, lanes: int = 2, **options: Any) -> SocketGroup:
    return open_group(Multiaddr.parse(LISTEN[kind]), lanes, **options)


def send_all(host: str, port: int, payloads: list[bytes], sources: int = 1) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    senders = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(sources)]
    for number, payload in enumerate(payloads):
        senders[number % sources].sendto(payload, (host, port))
    for sender in senders:
        sender.close()


def drain(sock: socket.socket) -> list[bytes]:
    got = []
    while select.select([sock], [], [], 0)[0]:  # loopback delivers within the send call
        got += sockets._receive_segments(sock)
    return got


def record(lane: int, index: int, first: int = 1) -> bytes:
    """The beginning of one, and something behind it."""
    return bytes([first, lane, 0, 0]) + index.to_bytes(4) + b"y" * 24


@pytest.mark.parametrize(("kind", "host"), FAMILIES)
def test_quic_goes_to_socket_0_and_records_by_lane_and_index(kind: int, host: str) -> None:
    chance = random.Random(4)
    quic = [bytes([first]) + b"x" * size for first in range(0x40, 0x100, 7) for size in (0, 1, 1199)]
    places: list[list[bytes]] = [[], [], []]
    for first in (0, 1, 0x3F):
        for lane in range(256):
            index = chance.getrandbits(32)
            places[(lane + offset_of(index, 3)) % 3].append(record(lane, index, first))
    mixed = quic + [one for place in places for one in place]
    chance.shuffle(mixed)
    with group_on(kind, lanes=3) as group:
        send_all(host, group.port, mixed, sources=5)
        assert sorted(drain(group.control)) == sorted(quic)
        for member, expected in zip(group.data, places, strict=True):
            assert sorted(drain(member)) == sorted(expected)


def test_datagrams_too_short_for_a_record_go_to_socket_0() -> None:
    short = [b"", b"\x01", b"\x40", b"\x01\x01", b"\x01\x01\x00\x00\xff"]
    with group_on(4) as group:
        send_all("127.0.0.1", group.port, short)
        assert drain(group.control) == short
        assert [drain(member) for member in group.data] == [[], []]


def run(program: list[tuple[int, int, int, int]], packet: bytes) -> int:
    """A slow, obvious interpreter of the instructions that the program uses."""
    accumulator = aside = position = 0
    while True:
        code, when_true, when_false, k = program[position]
        position += 1
        if code in (0x30, 0x28):
            size = 1 if code == 0x30 else 2
            if k + size > len(packet):
                return 0
            accumulator = int.from_bytes(packet[k : k + size])
        elif code == 0x35:
            position += when_true if accumulator >= k else when_false
        elif code == 0x07:
            aside = accumulator
        elif code == 0x0C:
            accumulator += aside
        elif code == 0x94:
            accumulator %= k
        elif code == 0x04:
            accumulator += k
        elif code == 0x16:
            return accumulator
        elif code == 0x06:
            return k
        else:
            raise AssertionError(f"unexpected instruction {code:#x}")


@pytest.mark.parametrize("lanes", [1, 2, 3, 64])
def test_steering_program_by_the_book(lanes: int) -> None:
    program = steering_program(lanes)
    for first in range(256):
        for lane in (0, 1, 63, 64, 255):
            for index in (1, 0xFFFF, 0x10000, 0x3FFFF, 0x12345678, 0xFFFFFFFF):
                place = 0 if first >= 0x40 else 1 + (lane + offset_of(index, lanes)) % lanes
                assert run(program, record(lane, index, first)) == place


@pytest.mark.parametrize(("kind", "host"), FAMILIES)
@pytest.mark.parametrize("gro", [True, False])
def test_options_of_every_member(kind: int, host: str, gro: bool) -> None:
    with group_on(kind, udp_gro=gro) as group:
        assert group.family == (socket.AF_INET if kind == 4 else socket.AF_INET6)
        assert group.offloads["udp_gro"] == ("on" if gro else "off")
        assert not group.control.getblocking()
        for member in (group.control, *group.data):
            assert member.getsockname()[1] == group.port
            assert member.getsockopt(17, 104) == int(gro)
            assert member.getsockopt(socket.IPPROTO_IP, 8) == 1  # IP_PKTINFO
            assert member.getsockopt(socket.IPPROTO_IP, 10) == 0  # IP_PMTUDISC_DONT
            if kind != 4:
                assert member.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO) == 1
                assert member.getsockopt(socket.IPPROTO_IPV6, 23) == 1  # IPV6_PMTUDISC_WANT
                assert member.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY) == int(kind == 6)
            assert member.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2 >= group.rcvbuf
        assert all(member.getblocking() for member in group.data)
        assert 200_000 < group.rcvbuf <= sockets.BUFFER_SIZE


@pytest.mark.parametrize(("kind", "host"), FAMILIES)
def test_receivers_learn_the_address_that_was_asked(kind: int, host: str) -> None:
    with group_on(kind) as group:
        send_all(host, group.port, [record(0, 1)])
        _data, ancillary, _flags, _sender = group.data[0].recvmsg(100, 256)
        found = {(level, what): value for level, what, value in ancillary}
        if host == "::1":
            assert found[socket.IPPROTO_IPV6, socket.IPV6_PKTINFO][:16] == socket.inet_pton(socket.AF_INET6, host)
        else:
            assert found[socket.IPPROTO_IP, 8][8:12] == socket.inet_aton(host)  # ipi_addr


def test_gro_batch_arrives_whole_on_the_data_socket() -> None:
    records = [b"\x01\x00" + bytes([number]) * 1398 for number in range(20)]
    with group_on(4) as group, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        if group.offloads != {"udp_segment": "on", "udp_gro": "on"}:
            pytest.skip(f"this kernel lacks the offloads: {group.offloads}")
        size = [(17, 103, struct.pack("=H", 1400))]
        sender.sendmsg([b"".join(records)], size, 0, ("127.0.0.1", group.port))
        data, ancillary, _flags, _sender = group.data[0].recvmsg(65535, 256)
        assert data == b"".join(records)
        assert (17, 104, struct.pack("=i", 1400)) in ancillary


@pytest.mark.parametrize("holder", ["0.0.0.0", "127.0.0.1"])
def test_port_in_use_is_one_clear_line(holder: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)  # even one that would share
        other.bind((holder, 0))
        port = other.getsockname()[1]
        with pytest.raises(MachineError, match=f"{port}.*in use.*--listen") as caught:
            open_group(Multiaddr.parse(f"/ip4/127.0.0.1/udp/{port}/quic-v1"), 1)
        assert "\n" not in str(caught.value)


def test_second_group_on_the_port_is_refused_and_changes_nothing() -> None:
    with group_on(4, lanes=1) as group:
        with pytest.raises(MachineError, match="in use"):
            open_group(Multiaddr.parse(f"/ip4/127.0.0.1/udp/{group.port}/quic-v1"), 1)
        send_all("127.0.0.1", group.port, [record(0, 1), b"\x80\x00"])
        assert drain(group.control) == [b"\x80\x00"]
        assert drain(group.data[0]) == [record(0, 1)]


def test_address_of_another_machine_is_one_clear_line() -> None:
    with pytest.raises(MachineError, match=r"192\.0\.2\.1.*does not have that address"):
        open_group(Multiaddr.parse("/ip4/192.0.2.1/udp/0/quic-v1"), 1)


def refuse_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket

    def without(family: int = -1, *arguments: Any, **options: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, *arguments, **options)

    monkeypatch.setattr(socket, "socket", without)


@needs_ipv6
def test_dialer_is_dual_stack() -> None:
    with open_group(None, 1) as group:
        assert group.family == socket.AF_INET6
        for host in ("127.0.0.1", "::1"):
            send_all(host, group.port, [b"\x80" + host.encode()])
            assert drain(group.control) == [b"\x80" + host.encode()]


def test_dialer_takes_ipv4_where_ipv6_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_ipv6(monkeypatch)
    with open_group(None, 1) as group:
        assert group.family == socket.AF_INET
        send_all("127.0.0.1", group.port, [record(0, 1)])
        assert drain(group.data[0]) == [record(0, 1)]


def test_dialer_moves_to_another_port_under_the_same_descriptors() -> None:
    with open_group(None, 2) as group:
        group.set_mark(7)
        group.data[1].setsockopt(socket.IPPROTO_IP, sockets._IP_MTU_DISCOVER, 3)
        before, descriptors = group.port, [member.fileno() for member in (group.control, *group.data)]
        group.move()
        assert group.port != before
        assert [member.fileno() for member in (group.control, *group.data)] == descriptors
        for member in (group.control, *group.data):
            assert member.getsockname()[1] == group.port
            assert member.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 7
            assert not os.get_inheritable(member.fileno())
        assert not os.get_blocking(group.control.fileno())
        assert [member.getsockopt(socket.IPPROTO_IP, sockets._IP_MTU_DISCOVER) for member in group.data] == [0, 3]
        send_all("127.0.0.1", group.port, [b"\x80q", record(0, 1), record(1, 1)])
        assert [drain(member) for member in (group.control, *group.data)] == [
            [b"\x80q"],
            [record(0, 1)],
            [record(1, 1)],
        ]
        with socket.socket(group.family, socket.SOCK_DGRAM) as other:
            other.bind(("", before))  # nobody has the old one any more


def test_port_that_was_chosen_is_kept() -> None:
    with group_on(4) as group, pytest.raises(RuntimeError):
        group.move()


def test_lanes_have_ports_of_their_own_which_move_with_the_group() -> None:
    with open_group(None, 3) as group:
        group.open_lanes()
        group.set_mark(7)
        before = {group.port, *group.lane_ports}
        descriptors = [member.fileno() for member in group.lanes]
        group.move()
        ports = {group.port, *group.lane_ports}
        assert len(before) == len(ports) == 3 and not before & ports
        assert [member.fileno() for member in group.lanes] == descriptors
        assert {member.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) for member in group.lanes} == {7}
        assert [member.getsockopt(socket.IPPROTO_IP, socket.IP_TTL) for member in group.lanes] == [66, 67]
    for port in ports:
        with socket.socket(group.family, socket.SOCK_DGRAM) as other:
            other.bind(("", port))


def test_socket_of_a_peer_at_the_port_of_a_lane_gets_nothing() -> None:
    with open_group(None, 2) as group:
        group.open_lanes()
        (lane,) = group.lanes
        with socket.socket(group.family, socket.SOCK_DGRAM) as twin:
            twin.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            twin.bind(("::", group.lane_ports[0]))
            for _ in range(16):  # from ports of the kernel's choice, whose hashes differ
                send_all("127.0.0.1", group.lane_ports[0], [record(1, 1)])
            assert drain(lane) == [record(1, 1)] * 16


@pytest.mark.parametrize("lanes", [False, True])
def test_move_that_fails_changes_nothing(monkeypatch: pytest.MonkeyPatch, lanes: bool) -> None:
    with open_group(None, 2) as group:
        if lanes:
            group.open_lanes()
        before = group.port
        open_before = set(os.listdir("/proc/self/fd"))

        def fails(*_: object) -> None:
            raise OSError(errno.ENOMEM, "Cannot allocate memory")

        monkeypatch.setattr(sockets, "_share_port" if lanes else "_attach", fails)
        with pytest.raises(MachineError, match="Cannot allocate memory"):
            group.move()
        assert set(os.listdir("/proc/self/fd")) == open_before
        send_all("127.0.0.1", before, [record(1, 1)])
        assert drain(group.data[1]) == [record(1, 1)]


def test_listener_on_ipv6_where_it_is_off_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_ipv6(monkeypatch)
    with pytest.raises(MachineError, match=r"IPv6 is off here; --listen on /ip4/0\.0\.0\.0"):
        group_on(46)


def test_failure_half_way_closes_every_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[socket.socket] = []
    real: Callable[..., None] = sockets._set_options

    def fail_third(sock: socket.socket, **options: bool) -> None:
        opened.append(sock)
        if len(opened) == 3:
            raise OSError(errno.ENOBUFS, "No buffer space available")
        real(sock, **options)

    monkeypatch.setattr(sockets, "_set_options", fail_third)
    with pytest.raises(MachineError, match="No buffer space"):
        group_on(4, lanes=4)
    assert [sock.fileno() for sock in opened] == [-1, -1, -1]


def test_probe_says_off_for_what_is_not_wanted() -> None:
    assert probe_offloads(udp_gro=False, udp_segment=False) == {"udp_segment": "off", "udp_gro": "off"}


def test_probe_finds_a_kernel_that_lacks_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_UDP_SEGMENT", 250)
    states = probe_offloads()
    assert states["udp_segment"].startswith("unavailable: ")
    assert states["udp_gro"] == "on"


@pytest.mark.parametrize("fault", ["changed", "lost"])
def test_probe_finds_a_broken_offload(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    real = sockets._receive_segments
    reads = []

    def broken(sock: socket.socket) -> list[bytes]:
        segments = real(sock)
        reads.append(len(segments))
        if sock.getsockopt(17, 104):
            if fault == "lost":
                raise TimeoutError
            segments[0] = segments[0][:-1] + bytes([segments[0][-1] ^ 1])
        return segments

    monkeypatch.setattr(sockets, "_receive_segments", broken)
    states = probe_offloads()
    assert states["udp_segment"] == "on"
    assert states["udp_gro"].startswith("unavailable: self-test: segments")
    assert fault in states["udp_gro"]
    assert reads


def test_probe_trusts_the_kernel_where_loopback_carries_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "_loopback_trial", lambda **_: "Network is unreachable")
    assert probe_offloads() == {"udp_segment": "on", "udp_gro": "on"}
