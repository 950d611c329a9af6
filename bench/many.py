"""Many peers with one lane each at a gateway with several workers: packets a second, and how they share the work.

A plane with a real TUN, and records of 64 peers, in batches as dialers send them, that wait in its sockets when its
workers begin: so these have the CPUs for themselves. In turn with an offset for each session, and with one for all,
which is how records would be steered by their lanes alone. JSON on stdout.

    bench/many.py                       64 peers, 2 workers, 15 rounds
    bench/many.py --least-share 0.35    exit status 1 when a worker has less of the CPU time of all
"""

import argparse
import json
import socket
import statistics
import struct
import sys
import time
from pathlib import Path
from typing import Any

from bench.figures import environment
from bench.options import amount, count
from cryprq._fastpath import LANE_SECRET_SIZE, OFFLOADS, SUITE_AES_256_GCM, Plane
from cryprq.linux.rtnetlink import RtNetlink
from cryprq.linux.sockets import open_group
from cryprq.linux.tun import Tun
from cryprq.multiaddr import Multiaddr
from cryprq.peers.indices import IndexPool
from lab import sandbox
from lab.oracle import RecordSealer
from lab.progress import steps
from tests.rigs.planes import checksum, ipv4

BATCH = 32
"""Records in a send of one peer."""
PATIENCE = 10.0
MTU = 1420
_UDP_SEGMENT = struct.pack("=H", 32 + 20 + 8 + 64)

Result = dict[str, Any]


def datagram(source: str, target: str) -> bytes:
    """UDP with 64 bytes of payload and its checksum, so that receivers merge what follows each other."""
    ports, size = struct.pack(">HH", 5000, 5000), 8 + 64
    pseudo = socket.inet_aton(source) + socket.inet_aton(target) + struct.pack(">BBH", 0, 17, size)
    summed = checksum(pseudo + ports + struct.pack(">HH", size, 0) + bytes(64))
    return ports + struct.pack(">HH", size, summed) + bytes(64)


class Peer:
    """One lane, and its batches, sealed for a receiver index."""

    def __init__(self, number: int, index: int, batches: int) -> None:
        self.inner = f"10.1.{number // 256}.{number % 256}"
        self.index = index
        self.secret = number.to_bytes(2) * (LANE_SECRET_SIZE // 2)
        sealer = RecordSealer(self.secret[:32], self.secret[32:], 0, index)
        packet = ipv4(self.inner, "10.0.0.1", datagram(self.inner, "10.0.0.1"), protocol=17)
        self.batches = [b"".join(sealer.seal(packet) for _ in range(BATCH)) for _ in range(batches)]


def crowd(options: argparse.Namespace, workers: int) -> list[Peer]:
    """Peers whose offsets are those that a pool for so many workers gives them."""
    pool = IndexPool(workers)
    return [
        Peer(number, pool.take(pool.share()) if workers > 1 else pool.take() & 0xFFFF, options.batches)
        for number in range(options.peers)
    ]


def carry(peers: list[Peer], workers: int) -> Result:
    """All that the peers have sealed, through a new plane."""
    with (
        Tun.open("many0", workers, OFFLOADS, MTU) as tun,
        open_group(Multiaddr.parse("/ip4/127.0.0.1/udp/0/quic-v1"), workers) as group,
    ):
        with RtNetlink() as kernel:
            kernel.set_link(tun.index, up=True)
        data = [member.fileno() for member in group.data]
        plane = Plane(tun.fds, [data], mtu=MTU, offloads=frozenset(OFFLOADS) & (tun.offloads | {"udp_gro", "coalesce"}))
        handles = []
        for peer in peers:
            handles.append(plane.add_peer())
            plane.install(
                handles[-1], number=0, suite=SUITE_AES_256_GCM, rx_index=peer.index, tx_index=1, lifetime=600,
                tx_secrets=bytearray(LANE_SECRET_SIZE), rx_secrets=bytearray(peer.secret),
            )  # fmt: skip
        plane.set_routes([(f"{peer.inner}/32", handle) for peer, handle in zip(peers, handles, strict=True)])
        send(peers, group.port)
        try:
            seconds = drain(plane, handles, sum(len(peer.batches) for peer in peers) * BATCH)
            busy = [spent(f"cryprq-rx{worker}") for worker in range(workers)]
        finally:
            plane.stop()
    total = sum(len(peer.batches) for peer in peers) * BATCH
    return {
        "packets_per_second": round(total / seconds),
        "share": [round(each / sum(busy), 3) for each in busy],
    }


def send(peers: list[Peer], port: int) -> None:
    """All batches, those of the peers in turn."""
    senders = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in peers]
    for sender in senders:
        sender.connect(("127.0.0.1", port))
    for batches in zip(*(peer.batches for peer in peers), strict=True):
        for batch, sender in zip(batches, senders, strict=True):
            sender.sendmsg([batch], [(socket.IPPROTO_UDP, 103, _UDP_SEGMENT)])
    for sender in senders:
        sender.close()


def drain(plane: Plane, handles: list[int], packets: int) -> float:
    """Starts the workers; seconds until so many packets have arrived. RuntimeError if they do not."""
    start = time.monotonic()
    plane.start()
    while (arrived := sum(plane.peer_stats(handle).rx_packets for handle in handles)) < packets:
        if time.monotonic() > start + PATIENCE:
            raise RuntimeError(f"{packets - arrived} packets were lost")
        time.sleep(0.0005)
    return time.monotonic() - start


def spent(name: str) -> int:
    """Nanoseconds of CPU time of a thread of this process."""
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().strip() == name:
            return int((task / "schedstat").read_text().split()[0])
    raise RuntimeError(f"there is no thread {name}")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=count, default=64)
    parser.add_argument("--workers", type=count, default=2)
    parser.add_argument("--rounds", type=count, default=15)
    parser.add_argument("--batches", type=count, default=24, help=f"of {BATCH} packets, for each peer")
    parser.add_argument("--least-share", type=amount, help="fail when a worker has less of the CPU time of all")
    return parser.parse_args()


def main() -> int:
    options = parse()
    if (reason := sandbox.enter()) is not None:
        print(f"bench: no network namespaces: {reason}", file=sys.stderr)
        return 1
    ways = {"by lane": crowd(options, 1), "by lane and index": crowd(options, options.workers)}
    rounds = [
        {name: carry(peers, options.workers) for name, peers in ways.items()}
        for _ in steps(range(options.rounds), "bench", "rounds")
    ]
    report = {
        name: {
            "packets_per_second": statistics.median(each[name]["packets_per_second"] for each in rounds),
            "rounds": [each[name] for each in rounds],
        }
        for name in ways
    }
    print(json.dumps({"environment": environment(), **report}, indent=2))
    least = min(min(each["by lane and index"]["share"]) for each in rounds)
    return int(options.least_share is not None and least < options.least_share)


if __name__ == "__main__":
    sys.exit(main())
