"""Many peers with one lane each at a plane with several workers: all workers have their share, and no flow is
reordered or lost while the keys of its session rotate. ``make tsan`` runs these under ThreadSanitizer, too."""

import random
import select
import socket
from collections import Counter
from collections.abc import Iterator

import pytest

from cryprq._fastpath import Plane
from cryprq.linux.sockets import open_group
from cryprq.peers.indices import IndexLease, IndexPool, offset_of
from lab.oracle import RecordSealer
from tests.rigs.planes import ALL, MTU, VNET, ipv4, secret

PEERS = 24
AES = 1


class Peer:
    """One with a lane and a socket of its own, whose records the test seals."""

    def __init__(self, gateway: "Gateway", number: int, pool: IndexPool) -> None:
        self.gateway = gateway
        self.inner = f"10.0.1.{number}"
        self.handle = gateway.plane.add_peer()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sent = 0
        self.indices: list[int] = []
        self._lease = IndexLease(pool, lambda: True)
        self._sealer: RecordSealer | None = None

    def rotate(self) -> None:
        """An epoch that it sends under from now on; the gateway keeps the one before for what is under way."""
        index, key = self._lease(), secret(self.handle + 7 * len(self.indices))
        self.gateway.plane.install(
            self.handle, number=len(self.indices), suite=AES, rx_index=index, tx_index=1,
            tx_secrets=bytearray(secret(1)), rx_secrets=bytearray(key), lifetime=600,
        )  # fmt: skip
        self.gateway.plane.activate(index)
        self.gateway.plane.promote(index)
        self.indices.append(index)
        self._sealer = RecordSealer(key[:32], key[32:], 0, index, AES)
        for old in self.indices[-3:-2]:
            self._lease.release(old)
            self.gateway.plane.remove(old)

    def send(self) -> None:
        """The next packet of its flow."""
        assert self._sealer is not None
        packet = ipv4(self.inner, "10.0.0.1", self.sent.to_bytes(4))
        self.socket.sendto(self._sealer.seal(packet), ("127.0.0.1", self.gateway.group.port))
        self.sent += 1


class Gateway:
    """A plane with a socket where each queue of its TUN would be."""

    def __init__(self, workers: int) -> None:
        self.group = open_group(None, workers)
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(workers)]
        self.queues, self._inner = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
        for inner in self._inner:
            inner.setblocking(False)
            inner.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        data = [member.fileno() for member in self.group.data]
        self.plane = Plane([inner.fileno() for inner in self._inner], [data], mtu=MTU, offloads=ALL)
        chance = random.Random(workers)
        pool = IndexPool(workers, chance.getrandbits)
        self.peers = [Peer(self, number, pool) for number in range(PEERS)]
        self.plane.set_routes([(f"{peer.inner}/32", peer.handle) for peer in self.peers])
        self.plane.start()

    def receive(self, count: int) -> Iterator[tuple[int, str, int]]:
        """The next packets: by which worker, of whom, and which number; fewer if nothing comes for 5 s."""
        while count and (ready := select.select(self.queues, [], [], 5)[0]):
            for queue in ready:
                packet = queue.recv(2000)[VNET.size :]
                yield self.queues.index(queue), socket.inet_ntoa(packet[12:16]), int.from_bytes(packet[20:24])
                count -= 1

    def close(self) -> None:
        self.plane.stop()
        self.group.close()
        for member in (*self.queues, *self._inner, *(peer.socket for peer in self.peers)):
            member.close()


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_one_lane_peers_share_the_workers_and_keep_their_order_over_rotations(workers: int) -> None:
    gateway = Gateway(workers)
    try:
        arrived: dict[str, list[int]] = {peer.inner: [] for peer in gateway.peers}
        by: dict[str, set[int]] = {peer.inner: set() for peer in gateway.peers}
        for peer in gateway.peers:
            peer.rotate()
        for turn in range(8):  # what is under way at once is of two epochs of every session
            for step in range(6):
                for peer in gateway.peers:
                    peer.send()
                    if step == turn % 6:
                        peer.rotate()
            for worker, inner, number in gateway.receive(6 * PEERS):
                by[inner].add(worker)
                arrived[inner].append(number)
        assert arrived == {peer.inner: list(range(peer.sent)) for peer in gateway.peers}
        assert by == {peer.inner: {offset_of(peer.indices[0], workers)} for peer in gateway.peers}
        assert Counter(worker for each in by.values() for worker in each) == dict.fromkeys(
            range(workers), PEERS // workers
        )
        assert {key: count for key, count in gateway.plane.drops().items() if count} == {}
    finally:
        gateway.close()
