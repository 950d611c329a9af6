"""Lanes with ports of their own: each is answered where it was heard, and the peer is where its lane 0 is."""

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from cryprq._fastpath import EVENT_ENDPOINT_MOVED, Plane
from cryprq.address import Address, Local
from cryprq.linux.sockets import open_group
from lab.oracle import RecordOpener, RecordSealer
from tests.rigs.planes import ALL, MTU, RX_INDEX, TX_INDEX, ipv4, secret, wait

IN, OUT = ipv4("10.0.0.2", "10.0.0.1"), ipv4("10.0.0.1", "10.0.0.2")
SUITE = 1
VNET = bytes(10)


class Node:
    """A plane with two workers, and the test as its peer, which has a socket for each lane."""

    def __init__(self, *, own_ports: bool = False) -> None:
        self.group = open_group(None, 2)
        if own_ports:
            self.group.open_lanes()
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        self.queues, self._inner = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        for queue, inner in pairs:
            queue.settimeout(5)
            inner.setblocking(False)
        self.plane = Plane(
            [inner.fileno() for inner in self._inner], [[member.fileno() for member in self.group.data]], mtu=MTU,
            offloads=ALL, lane_fds=[member.fileno() for member in self.group.lanes],
        )  # fmt: skip
        self.peer = self.plane.add_peer()
        self.plane.set_routes([("10.0.0.2/32", self.peer)])
        self.sealers = self.install(RX_INDEX, 1)
        self.openers = [RecordOpener(secret(90 + lane)[:32], secret(90 + lane)[32:], lane, SUITE) for lane in (0, 1)]
        self.plane.activate(RX_INDEX)
        self.plane.promote(RX_INDEX)
        self.lanes = [self.bind() for _ in range(2)]
        self.plane.set_endpoint(self.peer, address(self.lanes[0]))
        self.plane.start()

    def install(self, rx_index: int, label: int) -> list[RecordSealer]:
        keys = [secret(label + lane) for lane in range(2)]
        self.plane.install(
            self.peer, number=label, suite=SUITE, rx_index=rx_index, tx_index=TX_INDEX,
            tx_secrets=bytearray(secret(90) + secret(91)), rx_secrets=bytearray(b"".join(keys)), lifetime=600,
        )  # fmt: skip
        return [RecordSealer(key[:32], key[32:], lane, rx_index, SUITE) for lane, key in enumerate(keys)]

    @staticmethod
    def bind(host: str = "127.0.0.1") -> socket.socket:
        udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        udp.bind((host, 0))
        udp.settimeout(5)
        return udp

    def hear(self, lane: int, source: socket.socket | None = None, sealer: RecordSealer | None = None) -> None:
        """A record of a lane arrives, by the lane's socket or from elsewhere."""
        record = (sealer or self.sealers[lane]).seal(IN)
        (source or self.lanes[lane]).sendto(record, ("127.0.0.1", self.group.port))
        assert self.queues[lane].recv(2000)[10:] == IN

    def answered(self, lane: int, at: socket.socket) -> int:
        """What worker ``lane`` sends arrives there; the port that it comes from."""
        self.queues[lane].send(VNET + OUT)
        record, (_, port) = at.recvfrom(2000)
        assert self.openers[lane].open(record)[0] == OUT
        return int(port)

    def moves(self) -> int:
        return sum(bool(event.flags & EVENT_ENDPOINT_MOVED) for event in self.plane.events())

    def close(self) -> None:
        self.plane.stop()
        self.group.close()
        for member in (*self.queues, *self._inner, *self.lanes):
            member.close()


def address(udp: socket.socket) -> Address:
    return Address(*udp.getsockname())


@pytest.fixture
def node() -> Iterator[Node]:
    with closing(Node()) as made:
        made.plane.set_lanes(made.peer, apart=False, spread=True)
        yield made


@pytest.fixture
def dialer() -> Iterator[Node]:
    with closing(Node(own_ports=True)) as made:
        yield made


def test_lane_is_answered_where_it_was_heard(node: Node) -> None:
    assert node.answered(1, node.lanes[0])  # not heard yet
    node.hear(0)
    node.hear(1)
    assert node.answered(0, node.lanes[0]) == node.answered(1, node.lanes[1]) == node.group.port
    assert node.plane.lane_ports(node.peer) == {1: address(node.lanes[1]).port}
    assert node.plane.endpoint(node.peer) == (address(node.lanes[0]), Local(None, 0))
    assert node.moves() == 0


def test_without_it_a_record_from_another_port_is_a_move(node: Node) -> None:
    node.plane.set_lanes(node.peer, apart=False, spread=False)
    node.hear(1)
    assert node.answered(0, node.lanes[1])
    assert node.moves() == 1 and node.plane.lane_ports(node.peer) == {}


def test_new_mapping_of_a_lane_moves_the_peer_until_lane_0_is_heard(node: Node) -> None:
    """A NAT that has forgotten one mapping has forgotten the other."""
    node.hear(1)
    with closing(node.bind()) as mapped:
        node.hear(1, mapped)
        assert node.answered(0, mapped) and node.answered(1, mapped)
        assert node.moves() == 1
        node.hear(0)
        node.hear(1, mapped)
        assert node.answered(0, node.lanes[0]) and node.answered(1, mapped)
        assert node.moves() == 1


def test_lane_from_another_host_moves_the_peer_with_all_its_lanes(node: Node) -> None:
    node.hear(1)
    with closing(node.bind("127.0.0.2")) as elsewhere:
        node.hear(1, elsewhere)
        assert node.answered(0, elsewhere) and node.answered(1, elsewhere)
        assert node.moves() == 1


def test_older_record_of_a_lane_moves_nothing(node: Node) -> None:
    older = node.sealers[1].seal(IN)
    node.hear(1)
    with closing(node.bind()) as elsewhere:
        elsewhere.sendto(older, ("127.0.0.1", node.group.port))
        assert node.queues[1].recv(2000)[10:] == IN
    assert node.answered(1, node.lanes[1])
    assert node.moves() == 0


def test_new_epoch_is_where_the_peer_was_whatever_lane_is_heard_first(node: Node) -> None:
    node.hear(1)
    sealers = node.install(99, 40)
    node.hear(1, sealer=sealers[1])
    node.plane.promote(99)
    assert node.plane.endpoint(node.peer) == (address(node.lanes[0]), Local(None, 0))
    assert node.answered(1, node.lanes[1])


def test_each_worker_sends_from_its_port(dialer: Node) -> None:
    (other,) = dialer.group.lane_ports
    assert dialer.answered(1, dialer.lanes[0]) == dialer.group.port
    dialer.plane.set_lanes(dialer.peer, apart=True, spread=False)
    assert dialer.answered(0, dialer.lanes[0]) == dialer.group.port
    assert dialer.answered(1, dialer.lanes[0]) == other != dialer.group.port


def test_what_comes_to_the_port_of_a_lane_is_no_move(dialer: Node) -> None:
    dialer.plane.set_lanes(dialer.peer, apart=True, spread=False)
    (other,) = dialer.group.lane_ports
    dialer.answered(1, dialer.lanes[0])  # with the socket that the peer has at that port
    for lane in (1, 0, 1):  # any lane: the sender knows best
        dialer.lanes[0].sendto(dialer.sealers[lane].seal(IN), ("127.0.0.1", other))
        assert dialer.queues[1].recv(2000)[10:] == IN
    assert dialer.plane.endpoint(dialer.peer) == (address(dialer.lanes[0]), Local(None, 0))
    assert dialer.moves() == 0


def test_ports_of_lanes_move_with_the_port(dialer: Node) -> None:
    dialer.plane.set_lanes(dialer.peer, apart=True, spread=False)
    before = {dialer.answered(lane, dialer.lanes[0]) for lane in (0, 1)}
    dialer.group.move()
    dialer.plane.sockets_replaced()
    after = {dialer.answered(lane, dialer.lanes[0]) for lane in (0, 1)}
    assert len(before) == len(after) == 2 and not before & after
    assert after == {dialer.group.port, *dialer.group.lane_ports}
    dialer.lanes[0].sendto(dialer.sealers[1].seal(IN), ("127.0.0.1", dialer.group.lane_ports[0]))
    assert dialer.queues[1].recv(2000)[10:] == IN  # the worker that waited has been told


def test_sockets_of_lanes_are_checked(dialer: Node) -> None:
    queues = [queue.fileno() for queue in dialer._inner]
    data = [[member.fileno() for member in dialer.group.data]]
    lanes = [member.fileno() for member in dialer.group.lanes]
    for wrong in ({"lane_fds": lanes * 2}, {"lane_fds": queues[:1]}, {"lane_fds": lanes, "dial_group": 1}):
        with pytest.raises(ValueError):
            Plane(queues, data, mtu=MTU, offloads=ALL, **wrong)
    with pytest.raises(KeyError):
        dialer.plane.set_lanes(77, apart=True, spread=True)
    assert wait(lambda: dialer.plane.failure() is None)
