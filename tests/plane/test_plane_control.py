"""What the control thread may ask of the data plane: arguments, removal, failure, the end (see ``planes``)."""

import errno
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from ipaddress import ip_network
from typing import Any

import pytest

from cryprq._fastpath import Plane, PlaneError
from cryprq.address import Address, Local
from cryprq.linux.tun import Tun
from lab import hosts
from lab.oracle import RecordSealer
from tests.rigs.planes import ALL, MTU, RX_INDEX, Bench, ipv4, secret, wait


def test_routes_that_change_leave_the_others_alone(bench: Bench) -> None:
    plane, other = bench.plane, bench.plane.add_peer()
    stray = ipv4("10.0.0.7", "10.0.0.1", b"x")
    for changes, arrives in (
        ([("10.0.0.0/28", bench.peer)], True),
        ([("10.0.0.7/32", other), ("fd00::7/128", other)], False),
        ([("10.0.0.7/32", None), ("10.0.0.9/32", None)], True),
        ([("10.0.0.0/28", other)], False),
        ([("10.0.0.0/28", None), (ip_network("10.0.0.4/30"), bench.peer)], True),
    ):
        plane.change_routes(changes)
        for packet, expected in ((stray, arrives), (ipv4("10.0.0.2", "10.0.0.1", b"y"), True)):
            bench.udp.sendto(bench.sealer.seal(packet), bench.port.getsockname())
            if expected:
                assert bench.to_tun()[1] == packet
    plane.remove_peer(other)
    plane.change_routes([("10.0.0.4/30", None)])
    assert plane.drops()["rx", "source_not_allowed"] == 2


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
    for wrong, error in (
        ([("10.0.0.3/32", other), ("10.0.0.2/32", 77)], KeyError),
        ([("10.0.0.300/32", other)], ValueError),
    ):
        with pytest.raises(error):
            plane.change_routes(wrong)
    for method in (plane.activate, plane.promote, plane.remove, plane.send_empty, plane.send_ping, plane.epoch_records):
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
    arguments: dict[str, Any] = {
        "peer": bench.peer, "number": 1, "suite": 1, "rx_index": 7, "tx_index": 7, "lifetime": 60,
        "tx_secrets": bytearray(b"k" * 44), "rx_secrets": bytearray(b"k" * 44),
    }  # fmt: skip
    arguments |= wrong
    with pytest.raises((KeyError, TypeError, ValueError)):
        bench.plane.install(**arguments)
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
        bench.plane.set_endpoint(bench.peer, remote, Local(local))
    assert bench.plane.endpoint(bench.peer) == before


def test_mapped_address_is_the_ipv4_address(bench: Bench) -> None:
    bench.plane.set_endpoint(bench.peer, Address("::ffff:127.0.0.1", bench.udp.getsockname()[1]))
    assert bench.plane.endpoint(bench.peer) == (Address(*bench.udp.getsockname()), Local())
    bench.from_tun(ipv4("10.0.0.1", "10.0.0.2"))
    bench.udp.recv(2000)


def test_descriptors_are_checked() -> None:
    tun, udp = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    port, tcp = Bench.bind(), socket.socket()
    good = tun.fileno(), port.fileno()
    with pytest.raises(ValueError, match="non-blocking"):
        Plane([good[0]], [[good[1]]], mtu=MTU, offloads=ALL)
    tun.setblocking(False)
    for fds in ([good[0]], [udp.fileno()]), ([good[0]], [tcp.fileno()]), ([good[0]], [-1]), ([-1], [good[1]]):
        with pytest.raises(ValueError):
            Plane(fds[0], [fds[1]], mtu=MTU, offloads=ALL)
    for fds in ([2**40], [good[1]]), ([good[0]], [987654]), ([], []), ([good[0]], [good[1]] * 2):
        with pytest.raises((ValueError, OverflowError)):
            Plane(fds[0], [fds[1]], mtu=MTU, offloads=ALL)
    for mtu in (575, -1, 65_456, 2**70):
        with pytest.raises(ValueError, match="MTU"):
            Plane([good[0]], [[good[1]]], mtu=mtu, offloads=ALL)
    Plane([good[0]], [[good[1]]], mtu=MTU, offloads=iter(ALL)).stop()
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


def test_plane_reports_a_tun_that_went_away(bench: Bench) -> None:
    bench.tun.close()
    bench.inner.shutdown(socket.SHUT_RDWR)
    os.dup2(os.open("/dev/null", os.O_WRONLY), bench.inner.fileno())
    bench.plane.send_empty(RX_INDEX)
    assert wait(lambda: bench.plane.failure() is not None)
    assert "TUN" in str(bench.plane.failure())


def test_plane_reports_a_socket_that_went_away(bench: Bench) -> None:
    port = bench.port.getsockname()
    with open(os.devnull) as nothing:
        os.dup2(nothing.fileno(), bench.port.fileno())  # the waiting worker still holds the socket
    bench.udp.sendto(b"wake", port)
    assert wait(lambda: bench.plane.failure() is not None)
    assert bench.plane.failure() == f"receiving on the UDP socket: {os.strerror(errno.ENOTSOCK)}"


def test_stopped_plane_says_so(bench: Bench) -> None:
    bench.plane.stop()
    bench.plane.stop()
    assert bench.plane.failure() == "the data plane was stopped"
    here = Address("127.0.0.1", 1)
    calls: list[Callable[[], object]] = [
        bench.plane.start, bench.plane.add_peer, bench.plane.events, bench.plane.quic_datagrams, bench.plane.drops,
        bench.plane.segment_refused, bench.plane.live_epochs, lambda: bench.plane.event_fd,
        lambda: bench.plane.remove_peer(0), lambda: bench.plane.set_routes([]), lambda: bench.plane.has(RX_INDEX),
        lambda: bench.plane.set_endpoint(0, here), lambda: bench.plane.endpoint(0), lambda: bench.plane.peer_stats(0),
        lambda: bench.install(5, 5, 5), lambda: bench.plane.activate(5), lambda: bench.plane.promote(5),
        lambda: bench.plane.remove(5), lambda: bench.plane.send_empty(5), lambda: bench.plane.epoch_records(5),
        lambda: bench.plane.inject(b"", here, Local()),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(PlaneError, match="stopped"):
            call()


class TunBench:
    """A plane on a real TUN, 10.0.0.1, whose peer, 10.0.0.2, is the test itself."""

    def __init__(self, tun: Tun) -> None:
        self.udp = Bench.bind()
        self.ports = [Bench.bind() for _ in tun.fds]
        self.inner = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        descriptors = [port.fileno() for port in self.ports]
        self.plane = Plane(tun.fds, [descriptors], mtu=MTU, offloads=ALL & (tun.offloads | {"packing"}))
        self.peer = self.plane.add_peer()
        self.plane.set_routes([("10.0.0.0/24", self.peer)])
        self.plane.set_endpoint(self.peer, Address(*self.udp.getsockname()))
        tx, rx = bytearray(secret(1) * len(tun.fds)), bytearray(secret(2))
        self.sealer = RecordSealer(bytes(rx[:32]), bytes(rx[32:]), 0, RX_INDEX)
        self.plane.install(
            self.peer, number=0, suite=1, rx_index=RX_INDEX, tx_index=1, tx_secrets=tx, rx_secrets=rx, lifetime=60
        )
        self.plane.activate(RX_INDEX)
        self.plane.start()

    def __enter__(self) -> "TunBench":
        return self

    def __exit__(self, *_: object) -> None:
        self.plane.stop()
        for member in (self.udp, self.inner, *self.ports):
            member.close()

    def receives(self) -> None:
        """A packet comes that the kernel has no answer to, an ICMP message of no bytes."""
        packet = ipv4("10.0.0.2", "10.0.0.1", protocol=socket.IPPROTO_ICMP)
        self.udp.sendto(self.sealer.seal(packet), self.ports[0].getsockname())

    def received(self, count: int) -> bool:
        return wait(lambda: self.plane.peer_stats(self.peer).rx_packets == count)

    def refused_by_tun(self, count: int) -> bool:
        return wait(lambda: self.plane.drops()["rx", "tun_write"] == count)

    def sends(self) -> bool:
        """A datagram to the peer leaves."""
        before = self.plane.peer_stats(self.peer).tx_packets
        self.inner.sendto(b"hello", ("10.0.0.2", 9))
        return wait(lambda: self.plane.peer_stats(self.peer).tx_packets == before + 1)


@pytest.mark.parametrize("queues", [1, 2])
def test_tun_that_is_down_carries_nothing_until_it_is_up(lab: hosts.Lab, queues: int) -> None:
    host = lab.namespace("host")
    with host.entered(), Tun.open("tun-p", queues, ALL, MTU) as tun, TunBench(tun) as bench:
        host.ip("address add 10.0.0.1/24 dev tun-p")
        for refused in (1, 2, 3):  # it has never been up; it was, and is down again
            bench.receives()
            assert bench.refused_by_tun(refused)
            bench.plane.send_empty(RX_INDEX)  # the workers wait for whatever comes
            assert len(bench.udp.recv(2000)) == 32
            host.ip("link set tun-p up")
            assert bench.sends()
            assert len(bench.udp.recv(2000)) > 32
            bench.receives()
            assert bench.received(2 * refused)
            assert bench.refused_by_tun(refused)
            host.ip("link set tun-p down")
        assert bench.plane.failure() is None


@pytest.mark.parametrize("queues", [1, 2])
def test_tun_that_is_deleted_ends_its_workers_with_the_reason(lab: hosts.Lab, queues: int) -> None:
    host = lab.namespace("host")
    with host.entered(), Tun.open("tun-p", queues, ALL, MTU) as tun, TunBench(tun) as bench:
        host.ip("address add 10.0.0.1/24 dev tun-p")
        host.ip("link set tun-p up")
        assert bench.sends()
        host.ip("link delete tun-p")
        assert wait(lambda: bench.plane.failure() is not None)
        assert bench.plane.failure() == f"reading the TUN device: {os.strerror(errno.EBADFD)}"
        bench.receives()  # the other direction goes on, and counts
        assert bench.refused_by_tun(1)


def test_unknown_aead_back_end_is_an_error_at_the_start() -> None:
    code = "from tests.rigs.planes import Bench; Bench()"
    environment = {**os.environ, "CRYPRQ_AEAD_BACKEND": "rot13", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert "CRYPRQ_AEAD_BACKEND names no back end of this CPU; it has" in done.stderr
    assert done.returncode == 1
