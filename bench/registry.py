"""What the registry of peers costs, as JSON on stdout: commands, a node's start, a cut; and whether it loses anything.

    bench/registry.py                    1,000 peers
    bench/registry.py --peers 10000      more
    bench/registry.py --kills 1000       only this: a writer that is killed a thousand times

Of the first: ``list`` is `cryprq peer list` as typed, ``add`` the time from a request to its answer, when the peer may
connect, ``command`` `cryprq peer add` as typed, ``cut`` from a request to disable a peer that has a session until that
has ended, ``start`` from a node's start to its `node_started`, with no peer in the registry and with all of them, by
turns. Times are medians in milliseconds. Of the second: acknowledged changes that are not there after a kill, and
changes of which one half is there. Exit status 1 for any of these.
"""

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

from bench.figures import environment
from bench.options import count
from cryprq.cli.admin_client import request
from cryprq.peer_id import PeerId
from cryprq.registry.database import Database
from cryprq.registry.store import Expect, Note, Put
from lab import hosts, sandbox
from lab.nodes import PORT, PROGRAMS, Node
from lab.progress import steps

HERE, THERE = "192.0.2.1", "192.0.2.2"
LISTEN = ("--listen", f"/ip4/0.0.0.0/udp/{PORT}/quic-v1", "--tun-address", "10.64.0.1/16")

ANEW: Final = 50
"""Kills of one registry."""

Result = dict[str, Any]


def median(times: list[float]) -> float:
    """In milliseconds, of seconds."""
    return round(statistics.median(times) * 1e3, 2)


def timed(act: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    act()
    return time.perf_counter() - start


def some_ids(rng: random.Random) -> Iterator[PeerId]:
    while True:
        yield PeerId(rng.randbytes(32))


# ---- commands, start, cut ----


def commands(lab: hosts.Lab, options: argparse.Namespace) -> Result:
    """All about one gateway."""
    here, there = lab.namespace("gateway"), lab.namespace("dialer")
    lab.veth(here, [f"{HERE}/24"], there, [f"{THERE}/24"])
    ids = some_ids(random.Random(options.seed))
    empty, full = Node(here, *LISTEN, name="empty"), Node(here, *LISTEN, name="full")
    full.start().wait_event("node_started")
    adds = [timed(partial(add, full, str(next(ids)), f"peer-{number}")) for number in range(options.peers)]
    more = [timed(partial(add, full, str(next(ids)), None, f"10.65.{n}.0/24")) for n in range(options.rounds)]
    listing = [str(PROGRAMS / "cryprq"), "peer", "list", "--control-socket", str(full.control)]
    result: Result = {
        "peers": options.peers,
        "add": median(adds[-100:]),
        "add_p99": round(sorted(adds)[len(adds) * 99 // 100] * 1e3, 2),
        "add_networks": median(more),
        "command": median([timed(lambda: typed(full, "add", str(next(ids)))) for _ in range(options.rounds)]),
        "list": median([timed(lambda: output(listing)) for _ in range(options.rounds)]),
        "cut": median(list(cuts(full, Node(there, "--backoff-base-ms", "20", "--backoff-max-ms", "20"), options))),
    }
    full.stop()
    result["list_node_down"] = median(
        [timed(lambda: output([*listing, "--identity", str(full.identity)])) for _ in range(options.rounds)]
    )
    starts: dict[str, list[float]] = {"empty": [], "full": []}
    for _ in range(options.rounds):
        for name, node in (("empty", empty), ("full", full)):
            starts[name].append(start(node))
    return {**result, **{f"start_{name}": median(times) for name, times in starts.items()}}


def add(node: Node, peer: str, name: str | None, *networks: str) -> None:
    """By the admin socket."""
    request(node.control, "peer", do="add", peer=peer, name=name, networks=list(networks))


def typed(node: Node, *words: str) -> None:
    node.tool("peer", *words)


def output(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True)


def start(node: Node) -> float:
    """Seconds until it says that it has started; then it is stopped."""
    began = time.time()
    event = node.start().wait_event("node_started", timeout=30)
    node.stop()
    return stamp(event) - began


def stamp(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["time"]).timestamp()


def cuts(gateway: Node, dialer: Node, options: argparse.Namespace) -> Iterator[float]:
    """Seconds from a request to the end of the session, several times."""
    add(gateway, dialer.peer_id, "dialer")
    dialer.arguments += ["--peer", gateway.multiaddr(HERE)]
    dialer.start()
    for number in range(1, options.rounds + 1):
        gateway.wait_event("peer_connected", peer_id=dialer.peer_id, count=number, timeout=30)
        began = time.time()
        request(gateway.control, "peer", do="disable", peer="dialer")
        event = gateway.wait_event("peer_disconnected", reason="not_allowlisted", count=number)
        yield stamp(event) - began
        request(gateway.control, "peer", do="enable", peer="dialer")
    dialer.stop()


# ---- kills ----


def write(path: Path) -> None:
    """Commits pairs, each with the next number, and says so; without end."""
    database = Database(path)
    number = len(database.load().entries) // 2
    while True:
        ops = Expect(f"a/{number}", 0), Put(f"a/{number}", b"%d" % number), Put(f"b/{number}", b"%d" % number)
        database.commit(ops, Note(at=time.time(), who="bench", did=f"wrote {number}"))
        print(number, flush=True)
        number += 1


def kills(path: Path, options: argparse.Namespace) -> Result:
    """A writer is killed at some moment, again and again; each time all that it said is looked for."""
    rng = random.Random(options.seed)
    lost = halves = acknowledged = changes = 0
    for done in steps(range(options.kills), "registry", "kills", every=10):
        if done % ANEW == 0:  # or each look would take longer than the one before
            path, changes, acknowledged = path.with_name(f"registry{done}"), changes + acknowledged, 0
        command = [sys.executable, __file__, "--write", str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            said = [writer.stdout.readline()]
            time.sleep(rng.random() * 0.02)
            writer.kill()
            said += writer.stdout.read().splitlines(keepends=True)
        acknowledged = max(acknowledged, *(int(line) + 1 for line in said if line.endswith("\n")))
        database = Database(path)
        entries = database.load().entries
        database.close()
        lost += sum(f"a/{number}" not in entries for number in range(acknowledged))
        halves += sum((f"a/{key[2:]}" in entries) != (f"b/{key[2:]}" in entries) for key in entries)
    return {"kills": options.kills, "acknowledged": changes + acknowledged, "lost": lost, "halves": halves}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=count, default=1000)
    parser.add_argument("--rounds", type=count, default=11)
    parser.add_argument("--kills", type=count)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write is not None:
        write(options.write)
    with tempfile.TemporaryDirectory(prefix="cryprq-registry-") as directory:
        if options.kills is not None:
            result = kills(Path(directory) / "registry", options)
        else:
            sandbox.enter()
            with hosts.Lab(Path(directory)) as lab:
                result = commands(lab, options)
    print(json.dumps({"environment": environment(), "registry": result}, indent=2))
    return 1 if result.get("lost") or result.get("halves") else 0


if __name__ == "__main__":
    sys.exit(main())
