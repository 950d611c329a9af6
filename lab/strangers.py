"""Strangers at a listener's door, from hundreds of addresses: what may cost it time and places before M1.

    strangers.py ATTACK ADDRESS PORT PEER_ID --network 198.18.0.0/16

It prints ``ready``, and one JSON object when it ends. Every attack is bounded in time and number, and goes to private
addresses only, as a namespace has them: the machine that it runs on is the one that it is to try.

Single datagrams are made ahead and cost next to nothing. Handshakes are spoken by the package's own QUIC, which costs
this end more than the listener: the CPU time of both is told.
"""

import argparse
import itertools
import json
import os
import random
import socket
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any, Final

from aioquic.quic.events import HandshakeCompleted

from cryprq.address import Address
from cryprq.linux.clock import realtime
from cryprq.peer_id import PeerId
from cryprq.protocol.frames import CloseCode, FrameType, encode
from cryprq.quic.adapter import STREAM_ID, Quic, client_configuration, destination
from cryprq.quic.knocks import KNOCK_SIZE, make_knock
from lab.hosts import Namespace, Process
from lab.traffic import make_room

SECONDS_MAX: Final = 120.0
SOURCES_MAX: Final = 1000
DIALS_MAX: Final = 500.0
DATAGRAMS_MAX: Final = 20_000.0
"""A second, like the dials."""
_TURN: Final = 0.004
_INITIALS: Final = 1500
_IP_PKTINFO: Final = 8
_READ_MAX: Final = 200
_DIALS_OPEN: Final = 2000
_M1_SIZE: Final = 1320
_SPOOFED: Final = 50_000
"""Addresses that datagrams claim to be from, beyond the sources."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Attack:
    """What strangers do. Rates are a second, of all sources together."""

    says: str
    dials: float = 0.0
    """QUIC handshakes that are begun."""
    knows: bool = False
    """They know the listener's peer ID, and knock rightly."""
    knocks: bool = False
    """They knock, as if the listener were somebody else."""
    leaves: bool = False
    """They close what they have opened, at once; else they say nothing any more."""
    m1: bool = False
    """They send an M1 before, with a knock that is none."""
    datagrams: float = 0.0
    kind: str = ""
    """Of those: ``initial``, ``knock`` (rightly), ``wrong`` or ``garbage``."""
    spoofs: bool = False
    """The datagrams come from addresses of which nobody answers."""


ATTACKS: Final = {
    "nothing": Attack("nobody comes"),
    "silent": Attack("TLS, and silence", dials=150),
    "leave": Attack("TLS, and leave", dials=150, leaves=True, datagrams=4363, kind="initial"),
    "wrong": Attack("wrong knocks", dials=150, knocks=True, m1=True, datagrams=1500, kind="wrong"),
    "knocked-leave": Attack("right knocks, and leave", dials=150, knows=True, leaves=True),
    "knocked-silent": Attack("right knocks, and silence", dials=150, knows=True),
    "spoofed": Attack("spoofed first datagrams", datagrams=1500, kind="initial", spoofs=True),
    "spoofed-knocks": Attack("spoofed, with right knocks", knows=True, datagrams=1500, kind="knock", spoofs=True),
    "garbage": Attack("garbage", datagrams=4363, kind="garbage"),
}


class Strangers:
    """The process, seen by a test or a benchmark."""

    def __init__(
        self,
        namespace: Namespace,
        attack: str,
        peer_id: str,
        host: str,
        port: int,
        *,
        seconds: float,
        sources: int,
        network: str,
        scale: float = 1.0,
    ) -> None:
        """``network``: its addresses are the strangers'; all of them have to be routed to this host, and are made its
        own. It attacks from now on, for so many seconds."""
        if network not in namespace.ip("route show table local"):
            namespace.ip(f"route add local {network} dev lo")
        words = (attack, host, str(port), peer_id, "--network", network)
        numbers = ("--seconds", str(seconds), "--sources", str(sources), "--scale", str(scale))
        name = f"strangers-{attack}-{next(_numbers)}"
        self.process: Process = namespace.start(name, sys.executable, __file__, *words, *numbers)
        self.process.wait_for("ready\n", timeout=60)

    def result(self) -> Result:
        """What they did, when their time is over."""
        return self.process.result(SECONDS_MAX + 30)


_numbers = itertools.count(1)


# ---- inside the process ----


def first_datagram(destination: bytes) -> bytes:
    """The first datagram of a connection, as any dialer makes it."""
    quic = Quic(client_configuration(), first_destination=destination)
    quic.connect(("192.0.2.1", 1), 0.0)
    return bytes(quic.datagrams_to_send(0.0)[0][0])


def datagrams(attack: Attack, peer_id: PeerId, seed: int) -> Sequence[bytes]:
    """Different ones, of the attack's kind."""
    rng = random.Random(seed)
    match attack.kind:
        case "initial":
            return [first_datagram(rng.randbytes(8)) for _ in range(_INITIALS)]
        case "wrong":
            return [first_datagram(rng.randbytes(KNOCK_SIZE)) for _ in range(_INITIALS)]
        case "knock":
            return [first_datagram(make_knock(peer_id.digest, realtime())) for _ in range(_INITIALS)]
        case "garbage":
            initials = [first_datagram(rng.randbytes(8)) for _ in range(50)]
            return [garbage(rng, initials) for _ in range(_INITIALS)]
    return []


def garbage(rng: random.Random, initials: Sequence[bytes]) -> bytes:
    """What QUIC might begin with: a long or a short header and noise, or a first datagram with some bytes changed."""
    if rng.random() < 0.5:
        return bytes((rng.randrange(64, 256),)) + rng.randbytes(rng.randrange(1, 1400))
    changed = bytearray(rng.choice(initials))
    for _ in range(rng.randrange(1, 5)):
        changed[rng.randrange(1, 60)] = rng.randrange(256)
    return bytes(changed)


class Door:
    """One socket with many addresses."""

    def __init__(self, listener: Address, sources: Sequence[str]) -> None:
        self._to = (listener.host, listener.port)
        self._sources = itertools.cycle([socket.inet_aton(source) for source in sources])
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.setblocking(False)
        make_room(self._sock, 4 << 20)
        self._sock.bind(("0.0.0.0", 0))

    def source(self) -> bytes:
        """Another of its addresses."""
        return next(self._sources)

    def send(self, data: bytes, source: bytes) -> bool:
        """Sends from that address; False: the queue is full."""
        chosen = struct.pack("=I4s4s", 0, source, bytes(4))  # struct in_pktinfo (ip(7))
        try:
            self._sock.sendmsg([data], [(socket.IPPROTO_IP, _IP_PKTINFO, chosen)], 0, self._to)
        except OSError:
            return False
        return True

    def receive(self) -> Iterator[bytes]:
        """What has come to any of them, as much as one turn may take."""
        for _ in range(_READ_MAX):
            try:
                yield self._sock.recv(2048)
            except BlockingIOError:
                return


class Volleys:
    """Single datagrams from many addresses, of which nobody reads the answers."""

    def __init__(self, pool: Sequence[bytes], listener: Address, sources: Sequence[str]) -> None:
        self.sent = 0
        self._pool = itertools.cycle(pool)
        self._door = Door(listener, sources)

    def send(self, count: int) -> None:
        for _ in range(count):
            self.sent += self._door.send(next(self._pool), self._door.source())


class Throng:
    """Dialers with many addresses behind one socket, that do not mean it: what they do not get they do not ask for
    again, and none of them keeps time."""

    def __init__(self, attack: Attack, listener: Address, peer_id: PeerId, sources: Sequence[str]) -> None:
        self.outcomes: Counter[str] = Counter()
        self._attack = attack
        self._listener = listener
        self._whom = (peer_id if attack.knows else PeerId(bytes(32))).digest
        self._configuration = client_configuration()
        self._door = Door(listener, sources)
        self._dials: dict[bytes, tuple[Quic, bytes]] = {}

    def dial(self) -> None:
        """One of them begins a connection."""
        while len(self._dials) >= _DIALS_OPEN:
            del self._dials[next(iter(self._dials))]
        attack = self._attack
        knock = make_knock(self._whom, realtime()) if attack.knows or attack.knocks else b""
        quic = Quic(self._configuration, first_destination=knock)
        quic.connect(self._listener, time.monotonic())
        self._dials[quic.host_cid] = quic, self._door.source()
        self.outcomes["dials"] += 1
        self._flush(quic.host_cid)

    def read(self) -> None:
        """Takes what the listener has sent."""
        for data in self._door.receive():
            cid = destination(data)[1]
            if cid in self._dials:
                self._dials[cid][0].receive_datagram(data, self._listener, time.monotonic())
                self._flush(cid)

    def _flush(self, cid: bytes) -> None:
        quic, source = self._dials[cid]
        over = False
        while (event := quic.next_event()) is not None:
            if isinstance(event, HandshakeCompleted):
                self.outcomes["tls"] += 1
                over = True
                if self._attack.leaves:
                    quic.close(int(CloseCode.OK))
                elif self._attack.m1:
                    quic.send_stream_data(STREAM_ID, encode(FrameType.INIT, bytes(_M1_SIZE)))
        for data, _ in quic.datagrams_to_send(time.monotonic()):
            self._door.send(data, source)
        if over:
            del self._dials[cid]


def attack(options: argparse.Namespace) -> Result:
    """Until the time is over; what was done."""
    plan, peer_id = ATTACKS[options.attack], PeerId.parse(options.peer_id)
    hosts = list(map(str, itertools.islice(_hosts(options.network), options.sources + _SPOOFED)))
    sources, spoofed = hosts[: options.sources], hosts[options.sources :]
    pool = datagrams(plan, peer_id, options.seed)
    listener = Address(options.address, options.port)
    volleys = Volleys(pool, listener, spoofed if plan.spoofs else sources)
    throng = Throng(plan, listener, peer_id, sources)
    print("ready", flush=True)
    start, cpu = time.monotonic(), time.process_time()
    while (past := time.monotonic() - start) < options.seconds:
        volleys.send(int(past * plan.datagrams * options.scale) - volleys.sent if pool else 0)
        while throng.outcomes["dials"] < past * plan.dials * options.scale:
            throng.dial()
            throng.read()
        throng.read()
        time.sleep(_TURN)
    seconds = time.monotonic() - start
    return {
        "attack": options.attack,
        "dials_per_second": round(throng.outcomes["dials"] / seconds, 1),
        "tls_per_second": round(throng.outcomes["tls"] / seconds, 1),
        "datagrams_per_second": round(volleys.sent / seconds),
        "cpu_seconds": round(time.process_time() - cpu, 2),
    }


def _hosts(network: str) -> Iterator[object]:
    hosts = iter(ip_network(network).hosts())
    return itertools.islice(hosts, 256, None)  # beyond those that others may have


def main() -> int:
    os.setpriority(os.PRIO_PROCESS, 0, 0)  # whatever whoever started this has
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("attack", choices=ATTACKS)
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument("peer_id", help="the listener's")
    parser.add_argument("--network", required=True, help="whose addresses the strangers have")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--sources", type=int, default=300)
    parser.add_argument("--scale", type=float, default=1.0, help="of all rates")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    plan = ATTACKS[options.attack]
    if not ip_address(options.address).is_private:
        parser.error(f"{options.address} is not an address of a namespace, nor of this machine alone")
    if not (0 < options.seconds <= SECONDS_MAX and 0 < options.sources <= SOURCES_MAX):
        parser.error(f"at most {SECONDS_MAX:g} seconds and {SOURCES_MAX} sources")
    if plan.dials * options.scale > DIALS_MAX or plan.datagrams * options.scale > DATAGRAMS_MAX:
        parser.error(f"at most {DIALS_MAX:g} dials and {DATAGRAMS_MAX:g} datagrams a second")
    print(json.dumps(attack(options)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
