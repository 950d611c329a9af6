"""Records of two lanes that GRO merged into one batch: the kernel steers it by its first record, and any worker opens
any lane's records, each exactly once."""

import os
import select
import socket
import struct
import threading
from collections.abc import Iterator
from functools import partial

import pytest

from cryprq._fastpath import Plane
from cryprq.address import Address
from cryprq.linux.sockets import open_group
from lab.oracle import RecordSealer
from tests.rigs.planes import ALL, MTU, ipv4, secret, wait

RX_INDEX, TX_INDEX = 0x11223344, 0x55667788
SUITE = 2
"""ChaCha20-Poly1305, the slower one: workers that race are in the same code for longer."""
UDP_SEGMENT, UDP_GRO = 103, 104
VNET_SIZE = 10


class TwoLanes:
    """A plane with two workers on a group of sockets, and a peer that sends on two lanes from one socket."""

    def __init__(self) -> None:
        self.group = open_group(None, 2)
        # Where the TUN's queues would be. Which one a packet comes out of is which worker opened it.
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(2)]
        self.queues, self._inner = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        for inner in self._inner:
            inner.setblocking(False)
            inner.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        descriptors = [member.fileno() for member in self.group.data]
        self.plane = Plane([inner.fileno() for inner in self._inner], [descriptors], mtu=MTU, offloads=ALL)
        self.peer = self.plane.add_peer()
        self.plane.set_routes([("10.0.0.2/32", self.peer)])
        secrets = [secret(lane) for lane in range(2)]
        self.plane.install(
            self.peer, number=0, suite=SUITE, rx_index=RX_INDEX, tx_index=TX_INDEX, tx_secrets=bytearray(secret(9) * 2),
            rx_secrets=bytearray(b"".join(secrets)), lifetime=600,
        )  # fmt: skip
        self.sealers = [RecordSealer(key[:32], key[32:], lane, RX_INDEX, SUITE) for lane, key in enumerate(secrets)]
        self._peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.aim()
        self.plane.start()

    def aim(self) -> tuple[str, int]:
        """The peer sends to the port that the group has now. Returns its own address."""
        self._peer.connect(("127.0.0.1", self.group.port))
        host, port = self._peer.getsockname()
        return host, port

    def close(self) -> None:
        self.plane.stop()
        self.group.close()
        for member in (*self.queues, *self._inner, self._peer):
            member.close()

    def send(self, datagrams: list[bytes]) -> None:
        """One send of datagrams of equal size, which arrives as one batch."""
        assert len({len(datagram) for datagram in datagrams}) == 1
        size = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", len(datagrams[0])))]
        self._peer.sendmsg([b"".join(datagrams)], size)

    def received(self, count: int) -> list[tuple[int, bytes]]:
        """The next packets, with the worker that delivered each; fewer if nothing comes for 5 s."""
        found: list[tuple[int, bytes]] = []
        while len(found) < count:
            ready, _, _ = select.select(self.queues, [], [], 5)
            if not ready:
                break
            found += [(self.queues.index(queue), queue.recv(70000)[VNET_SIZE:]) for queue in ready]
        return found

    def has_replays(self, count: int) -> bool:
        return self.plane.drops()["rx", "replay"] == count

    def drops(self) -> dict[tuple[str, str], int]:
        return {key: count for key, count in self.plane.drops().items() if count}


@pytest.fixture
def lanes() -> Iterator[TwoLanes]:
    lanes = TwoLanes()
    if lanes.group.offloads != {"udp_segment": "on", "udp_gro": "on"}:
        pytest.skip(f"this kernel lacks the offloads: {lanes.group.offloads}")
    yield lanes
    lanes.close()


def packets(first: int, count: int, size: int = 40) -> list[bytes]:
    """Numbered, with so many bytes of payload."""
    return [ipv4("10.0.0.2", "10.0.0.1", number.to_bytes(4) * (size // 4)) for number in range(first, first + count)]


@pytest.mark.parametrize("leading", [0, 1])
def test_batch_of_both_lanes_is_opened_by_the_worker_that_gets_it(lanes: TwoLanes, leading: int) -> None:
    sent = packets(0, 40)
    records = [lanes.sealers[(leading + number) % 2].seal(packet) for number, packet in enumerate(sent)]
    quic = b"\x40" + bytes(len(records[0]) - 1)
    lanes.send([*records[:7], quic, *records[7:]])
    # In order, and all by one worker, although half of them are of the other one's lane.
    assert lanes.received(len(sent)) == [(leading, packet) for packet in sent]
    assert [datagram.data for datagram in lanes.plane.quic_datagrams()] == [quic]
    assert lanes.plane.epoch_records(RX_INDEX) == (0, len(sent))
    assert lanes.drops() == {}


def test_workers_that_race_for_the_same_records_open_each_once(lanes: TwoLanes) -> None:
    """Every batch comes twice, at the same time: led by lane 0 for the one worker, led by lane 1 for the other."""
    rounds, batches, size = 100, 3, 44
    openers = set()

    def send(ready: threading.Barrier, records: list[bytes], first: int) -> None:
        ready.wait()
        for start in range(0, len(records), size):
            batch = records[start : start + size]
            lanes.send(batch[first:] + batch[:first])

    for number in range(rounds):
        sent = packets(number * batches * size, batches * size, 1400)
        records = [lanes.sealers[place % 2].seal(packet) for place, packet in enumerate(sent)]
        ready = threading.Barrier(2)
        threads = [threading.Thread(target=send, args=(ready, records, first)) for first in (0, 1)]
        for thread in threads:
            thread.start()
        arrived = lanes.received(len(sent))
        for thread in threads:
            thread.join()
        assert sorted(packet for _, packet in arrived) == sent
        openers |= {worker for worker, _ in arrived}
        assert wait(partial(lanes.has_replays, len(sent) * (number + 1)))
    assert openers == {0, 1}
    assert lanes.plane.epoch_records(RX_INDEX) == (0, rounds * batches * size)
    assert lanes.drops() == {("rx", "replay"): rounds * batches * size}


def test_workers_go_over_to_the_sockets_of_another_port(lanes: TwoLanes) -> None:
    for number in range(1, 6):
        lanes.group.move()
        lanes.plane.sockets_replaced()
        lanes.aim()
        for lane, sealer in enumerate(lanes.sealers):
            packet = ipv4("10.0.0.2", "10.0.0.1", b"%d" % number)
            lanes.send([sealer.seal(packet)])  # both wait: nothing but this can wake them
            assert lanes.received(1) == [(lane, packet)]
    assert lanes.plane.failure() is None


def sockets_at(port: int) -> list[socket.socket]:
    """This process's UDP sockets at the port, each as a descriptor of its own."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            sock = socket.socket(fileno=os.dup(int(name)))
        except OSError:  # none, or the listing's own
            continue
        at_port = sock.family in (socket.AF_INET, socket.AF_INET6) and sock.getsockname()[1] == port
        if at_port and sock.type == socket.SOCK_DGRAM:
            found.append(sock)
        else:
            sock.close()
    return found


def test_socket_of_a_peer_takes_what_is_merged_as_the_others_do(lanes: TwoLanes) -> None:
    """The kernel merges only for a socket that takes it, and asks any of the port's: before it runs the program that
    says which."""
    before = len(lanes.group.data) + 1
    lanes.plane.set_endpoint(lanes.peer, Address(*lanes.aim()))
    lanes.plane.activate(RX_INDEX)
    lanes.plane.promote(RX_INDEX)
    lanes.queues[0].send(bytes(VNET_SIZE) + ipv4("10.0.0.1", "10.0.0.2", bytes(20)))
    assert wait(lambda: lanes.plane.peer_stats(lanes.peer).tx_packets == 1)
    found = sockets_at(lanes.group.port)
    assert len(found) == before + 1
    assert [sock.getsockopt(socket.IPPROTO_UDP, UDP_GRO) for sock in found] == [1] * len(found)
    for sock in found:
        sock.close()
