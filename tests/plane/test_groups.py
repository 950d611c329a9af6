"""Tests of a data plane with several socket groups: each peer is answered by the one that it was heard by last."""

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from cryprq import _fastpath
from cryprq.address import Address, Local
from tests.rigs.planes import RX_INDEX, Bench, ipv4, wait

IN, OUT = ipv4("10.0.0.2", "10.0.0.1"), ipv4("10.0.0.1", "10.0.0.2")


@pytest.fixture
def bench() -> Iterator[Bench]:
    with closing(Bench(host="0.0.0.0", others=["0.0.0.0", "::1"])) as made:
        yield made


def arrive(bench: Bench, source: socket.socket, group: int, record: bytes | None = None) -> None:
    """A record of the peer comes in by that group, and its packet out of the tunnel."""
    host = "::1" if source.family == socket.AF_INET6 else "127.0.0.1"
    source.sendto(record or bench.sealer.seal(IN), (host, bench.ports[group].getsockname()[1]))
    assert bench.to_tun()[1] == IN


def answered_from(bench: Bench, source: socket.socket) -> int:
    """By which group a packet to the peer leaves now."""
    bench.from_tun(OUT)
    record, sender = source.recvfrom(2000)
    assert bench.opener.open(record)[0] == OUT
    return [port.getsockname()[1] for port in bench.ports].index(sender[1])


def moves(bench: Bench) -> int:
    return sum(bool(event.flags & _fastpath.EVENT_ENDPOINT_MOVED) for event in bench.plane.events())


def test_peer_is_answered_by_the_group_of_its_newest_record(bench: Bench) -> None:
    here = Address(*bench.udp.getsockname())
    for group, moved in ((0, 0), (1, 1), (0, 1), (1, 1)):
        arrive(bench, bench.udp, group)
        assert bench.endpoint() == (here, Local(None, group))  # a dialled one: only the host is the kernel's choice
        assert answered_from(bench, bench.udp) == group
        assert moves(bench) == moved


def test_change_of_group_alone_is_told(bench: Bench) -> None:
    bench.plane.set_endpoint(bench.peer, Address(*bench.udp.getsockname()), Local("127.0.0.1", 0))
    arrive(bench, bench.udp, 0)
    assert moves(bench) == 0
    arrive(bench, bench.udp, 1)
    assert moves(bench) == 1
    assert bench.endpoint()[1] == Local("127.0.0.1", 1)


def test_older_record_by_another_group_moves_nothing(bench: Bench) -> None:
    older = bench.sealer.seal(IN)
    arrive(bench, bench.udp, 1)
    arrive(bench, bench.udp, 0, older)
    assert answered_from(bench, bench.udp) == 1


def test_unproven_epoch_keeps_its_group_until_it_is_promoted(bench: Bench) -> None:
    sealer, _ = bench.install(99, 100, 2)
    arrive(bench, bench.udp, 1, sealer.seal(IN))
    assert bench.endpoint()[1].group == 0
    bench.plane.promote(99)
    assert bench.endpoint()[1].group == 1


def test_peer_changes_the_ip_version_with_the_group(bench: Bench) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
        six.bind(("::1", 0))
        six.settimeout(5)
        bench.plane.set_endpoint(bench.peer, Address(*bench.udp.getsockname()), Local("127.0.0.1", 0))
        arrive(bench, six, 2)
        assert bench.endpoint() == (Address(*six.getsockname()[:2]), Local("::1", 2))
        assert answered_from(bench, six) == 2
        arrive(bench, bench.udp, 0)
        assert answered_from(bench, bench.udp) == 0
        assert bench.plane.drops()["tx", "send_error"] == 0


def test_two_peers_are_answered_each_by_its_own(bench: Bench) -> None:
    other = bench.plane.add_peer()
    bench.plane.set_routes([("10.0.0.2/32", bench.peer), ("10.0.0.3/32", other)])
    there = Bench.bind()
    with closing(there):
        first, bench.peer = bench.peer, other
        bench.install(77, 78, 3)
        bench.peer = first
        bench.plane.activate(77)
        bench.plane.set_endpoint(other, Address(*there.getsockname()), Local("127.0.0.1", 1))
        for _ in range(3):  # both in one burst
            bench.from_tun(OUT)
            bench.from_tun(ipv4("10.0.0.1", "10.0.0.3"))
        ports = [port.getsockname()[1] for port in bench.ports]
        assert {bench.udp.recvfrom(2000)[1][1]} == {ports[0]}
        assert {there.recvfrom(2000)[1][1]} == {ports[1]}


def test_quic_is_told_with_the_group_that_it_came_in_by(bench: Bench) -> None:
    for group in (0, 1):
        bench.udp.sendto(b"\xc0quic", ("127.0.0.1", bench.ports[group].getsockname()[1]))
        found: list[_fastpath.Datagram] = []
        assert wait(lambda found=found: found.extend(bench.plane.quic_datagrams()) or found)  # type: ignore[misc]
        assert (found[0].data, found[0].local) == (b"\xc0quic", Local("127.0.0.1", group))


def test_injected_record_is_answered_by_its_group(bench: Bench) -> None:
    bench.plane.inject(bench.sealer.seal(IN), Address(*bench.udp.getsockname()), Local("127.0.0.1", 1))
    assert bench.to_tun()[1] == IN
    assert answered_from(bench, bench.udp) == 1


def test_group_that_there_is_not_is_refused(bench: Bench) -> None:
    here = Address(*bench.udp.getsockname())
    for group in (3, 9, -1, 2**16):
        with pytest.raises(ValueError):
            bench.plane.set_endpoint(bench.peer, here, Local(None, group))
        with pytest.raises(ValueError):
            bench.plane.inject(b"", here, Local(None, group))
    assert bench.endpoint()[1].group == 0


def test_number_and_size_of_groups_are_checked() -> None:
    with closing(Bench(others=["127.0.0.1"] * 8)) as most:
        udp, tun = most.port.fileno(), most.inner.fileno()
        for groups in ([], [[udp]] * 10, [[udp], [udp, udp]], [[udp], []]):
            with pytest.raises(ValueError, match=r"groups of sockets|sockets in each group"):
                _fastpath.Plane([tun], groups, mtu=1420, offloads=())
        arrive(most, most.udp, 8)
        assert answered_from(most, most.udp) == 8
        assert most.plane.has(RX_INDEX) and most.plane.segment_refused() == ()
