"""What a change costs a gateway that has many peers already: it should not be more than with a few."""

import hashlib
import itertools
import socket
from collections.abc import Iterator
from ipaddress import ip_interface, ip_network
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from cryprq._fastpath import LANE_SECRET_SIZE, OFFLOADS, SUITE_AES_256_GCM, Plane
from cryprq.inner.network import InnerNetwork
from cryprq.peer_id import PeerId
from cryprq.peers.indices import IndexPool
from tests.rigs.fakes import World

ROUNDS = 300


class Nobody:
    """A TUN and an observer that cost nothing."""

    def __getattr__(self, _: str) -> Any:
        return lambda *_, **__: None


class Gateway:
    """A plane without workers, and the inner network on it, with so many peers that have an address and an epoch."""

    def __init__(self, peers: int) -> None:
        self.inner, self.outer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.inner.setblocking(False)
        self.plane = Plane([self.inner.fileno()], [[self.udp.fileno()]], mtu=1420, offloads=frozenset(OFFLOADS))
        own = (ip_interface("10.64.0.1/12"), ip_interface("fd66::1/64"))
        nobody: Any = Nobody()
        self.network = InnerNetwork(nobody, self.plane, nobody, own, 1420)
        self.pool = IndexPool()
        self.numbers = itertools.count()
        for _ in range(peers):
            handle = self.plane.add_peer()
            self.claim(handle)
            self.install(handle)

    def claim(self, handle: int) -> PeerId:
        """The networks of a new peer, as a gateway assigns them."""
        number = next(self.numbers)
        peer_id = PeerId(hashlib.sha256(number.to_bytes(4)).digest())
        networks = (ip_network((0x0A41 << 16) + number), ip_network((0xFD66 << 112) + 2 + number))
        self.network.claim(peer_id, handle, networks)
        return peer_id

    def install(self, handle: int) -> int:
        """An epoch of a peer, which is promoted and sends."""
        index = self.pool.take()
        self.plane.install(
            handle, number=0, suite=SUITE_AES_256_GCM, rx_index=index, tx_index=1, lifetime=600,
            tx_secrets=bytearray(LANE_SECRET_SIZE), rx_secrets=bytearray(LANE_SECRET_SIZE),
        )  # fmt: skip
        self.plane.activate(index)
        self.plane.promote(index)
        return index

    def close(self) -> None:
        self.plane.stop()
        for member in (self.inner, self.outer, self.udp):
            member.close()


@pytest.fixture(params=[100, 10_000])
def gateway(request: pytest.FixtureRequest) -> Iterator[Gateway]:
    made = Gateway(request.param)
    yield made
    made.close()


def test_claim(benchmark: BenchmarkFixture, gateway: Gateway) -> None:
    """A new peer's networks, from the table of allowed IPs to the plane."""
    handle = gateway.plane.add_peer()
    benchmark.pedantic(gateway.claim, args=(handle,), rounds=ROUNDS, warmup_rounds=10)  # type: ignore[no-untyped-call]


def test_epoch(benchmark: BenchmarkFixture, gateway: Gateway) -> None:
    """An epoch comes, is promoted and sends, and goes."""
    handle = gateway.plane.add_peer()

    def epoch() -> None:
        gateway.plane.remove(gateway.install(handle))

    benchmark.pedantic(epoch, rounds=ROUNDS, warmup_rounds=10)  # type: ignore[no-untyped-call]


def test_look(benchmark: BenchmarkFixture) -> None:
    """The second's look at a peer that is idle: a node with 1,000 peers does it so often a second."""
    world = World()
    world.connect(world.left, world.right)
    peer = world.left.peer
    assert peer.current is not None
    benchmark(peer.look, peer.current.created)
