"""Tests of cryprq.linux.socket_groups and cryprq.linux.udp_sockets: the ports of a node, and those of its event loop
as one, on loopback."""

import os
import select
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from cryprq.address import Address, Local
from cryprq.errors import MachineError
from cryprq.linux.socket_groups import SocketGroups, open_groups
from cryprq.linux.udp import UdpSocket
from cryprq.linux.udp_sockets import UdpSockets
from cryprq.multiaddr import Multiaddr


def opened(*addresses: str) -> SocketGroups:
    return open_groups([Multiaddr.parse(f"{address}/quic-v1") for address in addresses], 2)


@pytest.fixture
def groups() -> Iterator[SocketGroups]:
    with closing(opened("/ip4/127.0.0.1/udp/0", "/ip6/::1/udp/0")) as made:
        yield made


def test_several_addresses_have_a_group_each_and_one_to_dial_from(groups: SocketGroups) -> None:
    assert [group.host for group in groups] == ["127.0.0.1", "::1", None]
    assert len(set(groups.ports)) == 3 and all(len(group.data) == 2 for group in groups)
    assert groups.listening == (groups[0], groups[1])
    assert groups.dialling is groups[groups.dials_by] is groups[2]
    assert [group.movable for group in groups] == [False, False, True]
    assert groups.offloads == groups[1].offloads == groups[2].offloads
    assert groups.rcvbuf == min(group.rcvbuf for group in groups) > 0


def test_one_address_is_dialled_from_too_and_who_does_not_listen_has_one_port() -> None:
    with closing(opened("/ip4/127.0.0.1/udp/0")) as one:
        assert len(one) == 1 and one.listening == (one.dialling,) and not one.dialling.movable
    with closing(open_groups([], 1)) as none:
        assert len(none) == 1 and none.listening == () and none.dialling.movable


def test_one_port_at_two_addresses_is_split_by_address_and_lane(groups: SocketGroups) -> None:
    port = groups[0].port
    with (
        closing(opened(f"/ip4/127.0.0.2/udp/{port}", f"/ip4/127.0.0.3/udp/{port}")) as others,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        members = [(group, number) for group in (groups[0], *others.listening) for number in range(3)]
        for group, number in members:  # to QUIC and to both lanes
            data = bytes([0x40]) if number == 0 else bytes([1, number - 1]) + bytes(6)  # up to the receiver index
            sender.sendto(data, (group.host, port))
            member = group.control if number == 0 else group.data[number - 1]
            member.settimeout(5)
            assert member.recv(10) == data


def test_a_mark_is_for_all_of_them(groups: SocketGroups) -> None:
    groups.set_mark(0x77)
    assert groups.mark == 0x77
    for group in groups:
        for member in (group.control, *group.data):
            assert member.getsockopt(socket.SOL_SOCKET, socket.SO_MARK) == 0x77


def test_port_in_use_is_named_and_nothing_is_left_open(groups: SocketGroups) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(MachineError, match=rf"UDP port {groups[1].port} on ::1 is in use: .*--listen on another port"):
        opened("/ip4/127.0.0.1/udp/0", f"/ip6/::1/udp/{groups[1].port}")
    assert os.listdir("/proc/self/fd") == before


def test_sockets_of_the_loop_are_read_and_written_as_one(groups: SocketGroups) -> None:
    with (
        closing(UdpSockets([UdpSocket(group.control, number) for number, group in enumerate(groups)])) as udp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as four,
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six,
    ):
        assert udp.receive() is None and not udp.readable() and select.select([udp], [], [], 0)[0] == []
        six.sendto(b"six", ("::1", groups[1].port))
        for _ in range(3):
            four.sendto(b"four", ("127.0.0.1", groups[0].port))
        assert select.select([udp], [], [], 5)[0] == [udp] and udp.readable()
        received = [udp.receive() for _ in range(3)]
        at = [batch[2] for batch in received if batch is not None]
        assert at[:2] == [Local("127.0.0.1", 0), Local("::1", 1)]  # who sends more waits for its turn
        for batch in received[:2]:
            assert batch is not None
            assert udp.send(b"answer", batch[1], batch[2])
        four.settimeout(5)
        six.settimeout(5)
        assert four.recvfrom(10) == (b"answer", ("127.0.0.1", groups[0].port))
        assert six.recvfrom(10)[1][:2] == ("::1", groups[1].port)


def test_port_that_moved_is_still_read(groups: SocketGroups) -> None:
    with (
        closing(UdpSockets([UdpSocket(group.control, number) for number, group in enumerate(groups)])) as udp,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        before = groups.dialling.port
        groups.dialling.move()
        udp.replaced(groups.dials_by)
        assert groups.dialling.port != before
        sender.bind(("127.0.0.1", 0))
        sender.sendto(b"\x40", ("127.0.0.1", groups.dialling.port))
        assert select.select([udp], [], [], 5)[0] == [udp]
        assert udp.receive() == ([b"\x40"], Address(*sender.getsockname()), Local("127.0.0.1", 2))
