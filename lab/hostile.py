"""Hostile programs for the inside of a namespace; each prints ``ready``, and one JSON object when it ends.

    hostile.py flood ADDRESS PORT --captured FILE     datagrams of many kinds at a constant rate
    hostile.py strangers ADDRESS PORT PEER_ID         handshakes that stop at each message, or knock wrongly

``FILE`` is JSON with payloads that were captured on the wire: ``{"records": [hex, ...], "quic": [hex, ...]}``. Both
take ``--sources``, addresses of this host to send from in turn; a flood also takes ``--spoof HOST:PORT``, somebody
else's address.
"""

import argparse
import asyncio
import itertools
import json
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cryprq.address import Address
from cryprq.peer_id import PeerId
from cryprq.protocol.constants import LANES_MAX
from cryprq.quic.adapter import Quic, client_configuration
from lab.dialers import Dialers, Until, identity_of
from lab.oracle import HEADER_SIZE, OVERHEAD, Header

_IP_TRANSPARENT = 19
Result = dict[str, Any]

# ---- the kinds of a flood ----

RECORD_KINDS = ("short", "bad_header", "unknown_index", "replay", "auth")
"""Each is named after the reason for which the data plane is to drop it."""


class Kinds:
    """Makes datagrams of every kind, most of them out of what was captured."""

    def __init__(self, seed: int, records: list[bytes], quic: list[bytes], initials: int) -> None:
        """``initials``: of so many connections the first datagram is made ahead, since that takes longest."""
        self._random = random.Random(seed)
        self._records = records
        self._quic = quic
        configuration = client_configuration()
        self._initials = [_first_datagram(configuration) for _ in range(initials)]
        self.makers: dict[str, Callable[[], bytes]] = {
            "short": self.short,
            "bad_header": self.bad_header,
            "unknown_index": self.unknown_index,
            "replay": lambda: self._random.choice(self._records),
            "auth": self.auth,
            "empty": bytes,
            "noise": lambda: bytes((self._random.randrange(64, 256),)) + self._bytes(0, 1400),
            "quic_initial": lambda: self._random.choice(self._initials),
            "quic_mutated": lambda: self.mutated(self._random.choice(self._initials)),
            "quic_cut": self.cut,
            "quic_token": self.token,
            "quic_version": lambda: b"\xc3" + self._bytes(4, 5) + self._random.choice(self._initials)[5:],
            "quic_replay": lambda: self._random.choice(self._quic),
            "quic_flipped": lambda: self.mutated(self._random.choice(self._quic)),
        }

    def _bytes(self, least: int, end: int) -> bytes:
        return self._random.randbytes(self._random.randrange(least, end))

    def short(self) -> bytes:
        """A captured record that ends too early, or random bytes that a record might begin with."""
        if self._random.random() < 0.5:
            return self._random.choice(self._records)[: self._random.randrange(1, OVERHEAD)]
        return bytes((self._random.randrange(64),)) + self._bytes(0, OVERHEAD - 1)

    def bad_header(self) -> bytes:
        """Another type, unknown flags, or a lane that the sender did not announce."""
        record = bytearray(self._random.choice(self._records))
        place = self._random.choice(("type", "lane", "flags"))
        if place == "type":
            record[0] = self._random.choice([value for value in range(64) if value != 1])
        elif place == "lane":
            record[1] = self._random.randrange(1, 256)
        else:
            record[2:4] = self._random.randrange(2, 1 << 16).to_bytes(2)
        return bytes(record)

    def unknown_index(self) -> bytes:
        header = Header(1, self._random.randrange(LANES_MAX), 0, self._random.randrange(1, 1 << 32), 7)
        return header.encode() + self._bytes(16, 1400)

    def auth(self) -> bytes:
        """A captured record under a counter that is yet to come: if the window moved before the tag is checked, the
        tunnel would take nothing more."""
        record = bytearray(self._random.choice(self._records))
        record[8:HEADER_SIZE] = (self._random.randrange(1 << 26, 1 << 28)).to_bytes(8)
        return bytes(record)

    def mutated(self, datagram: bytes) -> bytes:
        """A few bytes changed, most of them in the header."""
        changed = bytearray(datagram)
        for _ in range(self._random.randrange(1, 5)):
            end = len(changed) if self._random.random() < 0.3 else min(40, len(changed))
            changed[self._random.randrange(end)] = self._random.randrange(256)
        changed[0] |= 0x40  # else it is a data record, and not of this kind
        return bytes(changed)

    def cut(self) -> bytes:
        """A first datagram that ends too early."""
        initial = self._random.choice(self._initials)
        return initial[: self._random.randrange(1, len(initial))]

    def token(self) -> bytes:
        """A first datagram with a Retry token that nobody gave: version, connection IDs, then the token's length."""
        initial = self._random.choice(self._initials)
        at = 6 + initial[5]
        at += 1 + initial[at]
        return initial[:at] + bytes((40,)) + self._random.randbytes(40) + initial[at + 1 :]


def _first_datagram(configuration: Any) -> bytes:
    quic = Quic(configuration)
    quic.connect(("192.0.2.1", 1), 0.0)
    return bytes(quic.datagrams_to_send(0.0)[0][0])


# ---- commands ----


def _sockets(address: str, sources: list[str], spoof: str) -> list[socket.socket]:
    made = []
    for source in sources or [""]:
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        sock.bind((source, 0))
        made.append(sock)
    if spoof:
        host, _, port = spoof.rpartition(":")
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        sock.bind((host, int(port)))
        made += [sock] * len(made)  # every other datagram
    return made


def flood(options: argparse.Namespace) -> Result:
    """Every kind in turn, or those of ``--kinds``; half of all from the spoofed address if there is one. How many of
    each were sent."""
    captured = json.loads(Path(options.captured).read_text())
    records, quic = ([bytes.fromhex(text) for text in captured[name]] for name in ("records", "quic"))
    kinds = Kinds(options.seed, records, quic, options.initials)
    chosen = {name: kinds.makers[name] for name in options.kinds or kinds.makers}
    # Made ahead, so that what is measured at the other end is not how fast this one can make them.
    pool = [(name, maker()) for _ in range(options.pool // len(chosen)) for name, maker in chosen.items()]
    random.Random(options.seed).shuffle(pool)
    sent: Counter[str] = Counter()
    sockets = _sockets(options.address, options.sources, options.spoof)
    target = (options.address, options.port)
    print("ready", flush=True)
    stream = zip(itertools.cycle(pool), itertools.cycle(sockets), strict=False)
    start, count = time.monotonic(), 0
    while (now := time.monotonic()) < start + options.seconds:
        while count <= (now - start) * options.rate:
            count += 1
            (name, datagram), sock = next(stream)
            try:
                sock.sendto(datagram, target)
                sent[name] += 1
            except OSError:  # a full queue, or an ICMP error about an earlier one
                pass
        time.sleep(0.001)
    seconds = time.monotonic() - start
    return {"sent": dict(sent), "total": sent.total(), "per_second": round(sent.total() / seconds)}


async def strangers(options: argparse.Namespace) -> Result:
    """Handshakes that go as far as each message and then stop, half of them without a word; wrong knocks; and whole
    ones of somebody who is not allowed. Outcomes by kind."""
    listener, peer_id = Address(options.address, options.port), PeerId.parse(options.peer_id)
    sources = itertools.cycle(options.sources or [None])
    outcomes: dict[str, Counter[str]] = {}
    steps = [("knock", Until.RECORD, True), *((until.name.lower(), until, False) for until in Until)]
    plans = itertools.cycle(itertools.product(steps, (True, False)))

    async def one(number: int) -> None:
        (name, until, wrong_knock), silently = next(plans)
        with Dialers(listener, peer_id, next(sources)) as dialers:
            dial = dialers.dial(identity_of(options.seed, number % 16), until, wrong_knock=wrong_knock)
            outcome = await dial.wait(4)
            outcomes.setdefault(name, Counter())[outcome] += 1
            if silently:
                dialers.vanish()

    print("ready", flush=True)
    start, tasks = time.monotonic(), set()
    for number in itertools.count():
        await asyncio.sleep(max(0.0, start + number / options.rate - time.monotonic()))
        if time.monotonic() > start + options.seconds:
            break
        task = asyncio.create_task(one(number))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
    await asyncio.gather(*tasks)
    return {name: dict(counts) for name, counts in outcomes.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True, dest="command")
    for name, rate in (("flood", 1000.0), ("strangers", 10.0)):
        sub = commands.add_parser(name)
        sub.add_argument("address")
        sub.add_argument("port", type=int)
        sub.add_argument("--seconds", type=float, default=5.0)
        sub.add_argument("--rate", type=float, default=rate, help="a second")
        sub.add_argument("--seed", type=int, default=1)
        sub.add_argument("--sources", nargs="*", default=[])
        if name == "flood":
            sub.add_argument("--captured", required=True)
            sub.add_argument("--kinds", nargs="*")
            sub.add_argument("--spoof", default="", help="HOST:PORT that every other datagram claims to be from")
            sub.add_argument("--initials", type=int, default=2000, help="different connections to begin")
            sub.add_argument("--pool", type=int, default=20_000, help="different datagrams")
        else:
            sub.add_argument("peer_id")
    options = parser.parse_args()
    result = asyncio.run(strangers(options)) if options.command == "strangers" else flood(options)
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
