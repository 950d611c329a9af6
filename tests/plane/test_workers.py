"""Planes with several workers against each other: every lane carries its flows in order, at equal and at different
numbers of workers, while the control thread changes all that it can and when one end stops and starts again.

``make tsan`` runs these under ThreadSanitizer, too.
"""

import itertools
import random
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import pytest

from cryprq._fastpath import Plane
from cryprq.address import Address, Local
from cryprq.linux.sockets import open_group
from cryprq.multiaddr import Multiaddr
from lab.oracle import RecordSealer
from tests.rigs.planes import ALL, MTU, VNET, ipv4, secret, wait

HOSTS = ("10.0.0.1", "10.0.0.2")
"""Inner address of either end."""
OFFSETS = (1, 6)
"""Of the receiver indices of either end: how many workers beyond its lane a record goes."""
GUEST, GUEST_INDEX = "10.0.0.9", 0x7FFF0001
"""A peer of the first end that is not a plane: the test seals its records."""
AES = 1
FLOWS = 2
"""Per worker and direction."""
WINDOW = 16
"""Packets of a flow that may be under way: those of all flows together fit into any one queue."""
SIZES = (8, 1400, 40, 700, 8, 300, 1392, 100)
"""Of payloads, in turn: some packets share a record, others have their own."""
PATIENCE = 0.02
"""Seconds without news of a flow with a full window, until one more packet goes out: what was under way may be lost."""
UDP_SEGMENT = 103
_MARK = struct.Struct(">HHI")  # end, flow, number


def rx_index(number: int, own: int) -> int:
    """That of an epoch, at one end."""
    return OFFSETS[own] << 16 | 2 * number + own + 2


class Flow(NamedTuple):
    """Numbered packets from one queue of one end."""

    end: int
    queue: int
    number: int


class End:
    """A plane with a socket where each queue of its TUN would be, on its own group of UDP sockets."""

    def __init__(self, stack: ExitStack, workers: int) -> None:
        self.workers = workers
        self.group = stack.enter_context(open_group(Multiaddr.parse("/ip4/0.0.0.0/udp/0/quic-v1"), workers))
        self.queues: list[socket.socket] = []
        self._inner: list[socket.socket] = []
        for _ in range(workers):
            for member, members in zip(
                socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET), (self.queues, self._inner), strict=True
            ):
                stack.callback(member.close)
                member.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
                members.append(member)
        for inner in self._inner:
            inner.setblocking(False)
        self.open()
        stack.callback(lambda: self.plane.stop())

    def open(self) -> None:
        """A new plane on the same queues and sockets, with the other end as its only peer."""
        offloads = ALL - {name for name, state in self.group.offloads.items() if state != "on"}
        data = [member.fileno() for member in self.group.data]
        self.plane = Plane(
            [inner.fileno() for inner in self._inner], [data], mtu=MTU, offloads=offloads, busy_poll_us=20
        )
        self.peer = self.plane.add_peer()

    def install(self, number: int, own: int, tx_lanes: int, rx_lanes: int) -> None:
        """An epoch that both ends derive from the same secrets."""
        keys = [
            bytearray(b"".join(secret(2 * number + end + 5 * lane) for lane in range(lanes)))
            for end, lanes in ((own, tx_lanes), (1 - own, rx_lanes))
        ]
        self.plane.install(
            self.peer, number=number, suite=AES, rx_index=rx_index(number, own), tx_index=rx_index(number, 1 - own),
            tx_secrets=keys[0], rx_secrets=keys[1], lifetime=600,
        )  # fmt: skip

    def drops(self) -> dict[tuple[str, str], int]:
        return {key: count for key, count in self.plane.drops().items() if count}

    def has_one_epoch(self) -> bool:
        return self.plane.live_epochs() == 1


class Pair:
    """Two ends that are each other's peer."""

    def __init__(self, stack: ExitStack, workers: tuple[int, int], lanes: int) -> None:
        self.lanes = lanes
        self.ends = [End(stack, count) for count in workers]
        for own in (0, 1):
            self.connect(own)
        self.install(0)
        self.switch(0)
        for end in self.ends:
            end.plane.start()

    def connect(self, own: int) -> None:
        end, other = self.ends[own], self.ends[1 - own]
        end.plane.set_routes([(f"{HOSTS[1 - own]}/32", end.peer)])
        end.plane.set_endpoint(end.peer, Address("127.0.0.1", other.group.port))

    def install(self, number: int) -> None:
        for own, end in enumerate(self.ends):
            end.install(number, own, min(self.lanes, end.workers), min(self.lanes, self.ends[1 - own].workers))

    def switch(self, number: int) -> None:
        """Sends under an epoch that both have."""
        for own, end in enumerate(self.ends):
            end.plane.activate(rx_index(number, own))
            end.plane.promote(rx_index(number, own))

    def remove(self, number: int) -> None:
        for own, end in enumerate(self.ends):
            end.plane.remove(rx_index(number, own))

    def drops(self) -> list[dict[tuple[str, str], int]]:
        return [end.drops() for end in self.ends]


@contextmanager
def paired(*workers: int, lanes: int = 64) -> Iterator[Pair]:
    """Ends with so many workers each, which send on as many lanes, but at most ``lanes``."""
    first, second = workers
    with ExitStack() as stack:
        yield Pair(stack, (first, second), lanes)


class Traffic:
    """Both ways on every queue while the context lasts; on the way out it waits for what is still under way."""

    def __init__(self, ends: list[End]) -> None:
        self.ends = ends
        self.flows = [Flow(e, q, n) for e, end in enumerate(ends) for q in range(end.workers) for n in range(FLOWS)]
        self.sent = dict.fromkeys(self.flows, 0)
        self.last = dict.fromkeys(self.flows, -1)
        self.arrived = dict.fromkeys(self.flows, 0)
        self.gaps = 0
        """Packets that others of their flow have overtaken or survived."""
        self.disordered: list[tuple[Flow, int, int]] = []
        self.outlets: dict[Flow, set[int]] = {flow: set() for flow in self.flows}
        """The queues of the other end that a flow came out of."""
        self.guests: list[bytes] = []
        self._ended = threading.Event()
        self._finished = threading.Event()
        self._senders = [
            threading.Thread(target=self._send, args=(e, q)) for e, end in enumerate(ends) for q in range(end.workers)
        ]
        self._receivers = [threading.Thread(target=self._receive, args=(e,)) for e in range(len(ends))]

    def __enter__(self) -> "Traffic":
        for thread in self._senders + self._receivers:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._senders:
            thread.join()
        wait(lambda: all(self.last[flow] == self.sent[flow] - 1 for flow in self.flows))
        self._finished.set()
        for thread in self._receivers:
            thread.join()

    def lost(self) -> int:
        return sum(self.sent.values()) - sum(self.arrived.values())

    def pass_on(self, packets: int = WINDOW + 1) -> bool:
        """Waits until every flow has carried so many more: all that was under way before has arrived or is lost."""
        goal = {flow: self.sent[flow] + packets for flow in self.flows}
        return wait(lambda: all(self.last[flow] >= goal[flow] for flow in self.flows), 20)

    def _send(self, end: int, queue: int) -> None:
        flows = [flow for flow in self.flows if (flow.end, flow.queue) == (end, queue)]
        news = {flow: (-1, time.monotonic()) for flow in flows}
        while not self._ended.is_set():
            idle = True
            for flow in flows:
                number, last, now = self.sent[flow], self.last[flow], time.monotonic()
                if news[flow][0] != last:
                    news[flow] = last, now
                if number - last > WINDOW:
                    if now - news[flow][1] < PATIENCE:
                        continue
                    news[flow] = last, now
                idle = False
                payload = _MARK.pack(end, self.flows.index(flow), number) + bytes(SIZES[number % len(SIZES)] - 8)
                self.ends[end].queues[queue].send(bytes(VNET.size) + ipv4(HOSTS[end], HOSTS[1 - end], payload))
                self.sent[flow] = number + 1
            if idle:
                time.sleep(0.001)

    def _receive(self, end: int) -> None:
        queues = self.ends[end].queues
        while not self._finished.is_set():
            for queue in select.select(queues, [], [], 0.05)[0]:
                packet = queue.recv(70000)[VNET.size :]
                if packet[12:16] == socket.inet_aton(GUEST):
                    self.guests.append(packet[20:])
                    continue
                source, index, number = _MARK.unpack_from(packet, 20)
                flow = self.flows[index]
                assert flow.end == source == 1 - end
                if number <= self.last[flow]:
                    self.disordered.append((flow, self.last[flow], number))
                self.gaps += max(0, number - self.last[flow] - 1)
                self.last[flow] = number
                self.arrived[flow] += 1
                self.outlets[flow].add(queues.index(queue))


# ---- lanes ----


@pytest.mark.parametrize("workers", [(2, 2), (1, 4), (4, 1), (3, 2), (4, 4)])
def test_every_lane_carries_its_flows_in_order(workers: tuple[int, int]) -> None:
    with paired(*workers) as pair:
        with Traffic(pair.ends) as traffic:
            assert traffic.pass_on(300)
        assert traffic.disordered == []
        assert traffic.lost() == 0
        # Lane and offset together, modulo the number of workers; no flow is spread over two.
        for flow, outlets in traffic.outlets.items():
            assert outlets == {(flow.queue + OFFSETS[1 - flow.end]) % workers[1 - flow.end]}
        assert pair.drops() == [{}, {}]


@pytest.mark.parametrize(("workers", "lanes"), [((4, 1), 2), ((4, 4), 1), ((3, 2), 2)])
def test_workers_share_the_lanes_that_the_peer_takes(workers: tuple[int, int], lanes: int) -> None:
    """Where that is fewer of them: no counter is used twice, which the receiver would take for a replay."""
    with paired(*workers, lanes=lanes) as pair:
        with Traffic(pair.ends) as traffic:
            assert traffic.pass_on(300)
        assert traffic.disordered == []
        assert traffic.lost() == 0
        assert all(len(queues) == 1 for queues in traffic.outlets.values())
        assert pair.drops() == [{}, {}]


@pytest.mark.parametrize("lane", [2, 63])
def test_record_of_a_lane_that_the_peer_does_not_have_is_no_record(lane: int) -> None:
    """Whichever worker the lane is steered to."""
    with paired(4, 2) as pair, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        end = pair.ends[0]
        key = secret(1)  # lane 0 of the other one's; there is none for this lane, so it cannot be the right one
        record = RecordSealer(key[:32], key[32:], lane, rx_index(0, 0), AES).seal(ipv4(HOSTS[1], HOSTS[0], b"astray"))
        stranger.sendto(record, ("127.0.0.1", end.group.port))
        assert wait(lambda: end.drops() == {("rx", "bad_header"): 1})
        with Traffic(pair.ends) as traffic:
            assert traffic.pass_on(20)
        assert traffic.lost() == 0


# ---- changes under load ----


def odd_datagrams(port: int) -> None:
    """A batch that begins with a record for nobody: a worker gets the QUIC packets behind it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        record = b"\x01\x00\x00\x00" + bytes(40)
        batch = record + 7 * (b"\x40" + bytes(len(record) - 1))
        size = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", len(record)))]
        stranger.sendmsg([batch], size, 0, ("127.0.0.1", port))


def read_everything(end: End, number: int, own: int) -> int:
    """All that the control thread may ask; returns how many QUIC packets came by."""
    plane = end.plane
    plane.events()
    plane.drops()
    plane.endpoint(end.peer)
    plane.peer_stats(end.peer)
    plane.epoch_records(rx_index(number, own))
    assert plane.failure() is None
    assert plane.live_epochs() >= 1
    return len(plane.quic_datagrams())


def change_everything(pair: Pair, number: int) -> None:
    """Routes to the same peers in other words, endpoints at other addresses of the same hosts, peers that come and go,
    records that nobody asked for; none of it costs a packet."""
    for own, end in enumerate(pair.ends):
        other = pair.ends[1 - own]
        host = HOSTS[1 - own]
        stranger = end.plane.add_peer()
        end.plane.set_routes([(f"{host}/32", end.peer), (f"10.{number % 9 + 1}.0.0/16", stranger)])
        for address in ("127.0.0.2", "127.0.0.3", "127.0.0.1"):
            end.plane.set_endpoint(end.peer, Address(address, other.group.port), Local("127.0.0.1"))
        end.plane.send_empty(rx_index(number, own))
        end.plane.remove_peer(stranger)
        end.plane.set_routes([(f"{host}/31", end.peer), (f"{GUEST}/32", pair.ends[own].peer)])


@pytest.mark.parametrize("workers", [(1, 1), (2, 2), (4, 4), (1, 4)])
def test_nothing_is_lost_while_the_control_thread_changes_everything(workers: tuple[int, int]) -> None:
    rounds = 12
    guest = secret(200)
    with paired(*workers) as pair:
        sealer = RecordSealer(guest[:32], guest[32:], 0, GUEST_INDEX, AES)
        first = pair.ends[0]
        quic = 0
        with Traffic(pair.ends) as traffic:
            for number in range(1, rounds + 1):
                pair.install(number)
                change_everything(pair, number)
                pair.switch(number)
                if number == 1:  # a second epoch of the same peer, whose records come by socket 0, too
                    first.plane.install(
                        first.peer, number=99, suite=AES, rx_index=GUEST_INDEX, tx_index=1,
                        tx_secrets=bytearray(secret(201) * workers[0]), rx_secrets=bytearray(guest), lifetime=600,
                    )  # fmt: skip
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
                    for _ in range(10):
                        record = sealer.seal(ipv4(GUEST, HOSTS[0], b"from the guest"))
                        stranger.sendto(record, ("127.0.0.1", first.group.port))
                        first.plane.inject(record, Address("127.0.0.1", 9), Local())
                odd_datagrams(first.group.port)
                for own, end in enumerate(pair.ends):
                    quic += read_everything(end, number, own)
                assert traffic.pass_on()
                pair.remove(number - 1)
            assert wait(lambda: len(traffic.guests) == 10 * rounds)
        quic += len(first.plane.quic_datagrams())
        assert traffic.disordered == []
        assert traffic.lost() == 0
        assert traffic.guests == [b"from the guest"] * 10 * rounds
        assert quic == 7 * rounds
        assert pair.drops() == [{("rx", "unknown_index"): rounds, ("rx", "replay"): 10 * rounds}, {}]
        # What the last epoch and the guest's hold is all that is left.
        assert wait(lambda: [end.plane.live_epochs() for end in pair.ends] == [2, 1])


def test_epochs_that_end_under_load_are_wiped_at_once() -> None:
    """Without any warning to the other end, which goes on sending."""
    with paired(2, 2) as pair, Traffic(pair.ends) as traffic:
        for number in range(1, 20):
            pair.install(number)
            pair.remove(number - 1)
            assert all(wait(end.has_one_epoch) for end in pair.ends)
            pair.switch(number)
            assert traffic.pass_on(2)
        assert traffic.disordered == []
        assert set(pair.ends[0].drops()) | set(pair.ends[1].drops()) <= {("tx", "no_key"), ("rx", "unknown_index")}


# ---- stop and start ----


@pytest.mark.parametrize("workers", [(2, 2), (4, 1), (1, 4)])
def test_plane_that_stops_and_starts_again_under_load(workers: tuple[int, int]) -> None:
    """On the queues and sockets that are full of what came meanwhile; no key and no counter lives on."""
    chance = random.Random(1)
    with paired(*workers) as pair, Traffic(pair.ends) as traffic:
        for number, own in zip(range(1, 7), itertools.cycle((0, 1)), strict=False):
            end = pair.ends[own]
            assert traffic.pass_on(chance.randrange(1, 50))
            end.plane.stop()
            assert end.plane.failure() == "the data plane was stopped"
            end.open()
            pair.connect(own)
            pair.install(number)
            pair.switch(number)
            end.plane.start()
            pair.ends[1 - own].plane.remove(rx_index(number - 1, 1 - own))
        assert traffic.pass_on()
        settled = traffic.gaps
        assert traffic.pass_on(300)
        assert traffic.gaps == settled
        assert traffic.disordered == []
        assert all(end.plane.failure() is None for end in pair.ends)
        assert {key for drops in pair.drops() for key in drops} <= {
            ("rx", "unknown_index"), ("tx", "no_key"), ("rx", "tun_write"),
        }  # fmt: skip
