"""What a complete handshake costs a listener in CPU time, as JSON on stdout.

A real listener in a network namespace; beside it a load generator whose dialers have an identity each. A handshake is
complete when the listener has answered the first record of the new session: QUIC, the KEM, both signatures of both
ends, key installation and promotion are all in it. The listener's user and system time, of all its threads, is read
from /proc before and after. Two runs of the same dialers: ``first``, when the listener has never seen them (each gets
a lease, which is written to the disk), and ``again``, when each has a session that the new one replaces.

    bench/handshakes.py                            400 dialers
    bench/handshakes.py --min-per-cpu-second 100   exit status 1 when a run is below that
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import uvloop

from bench.figures import environment
from bench.options import amount, count
from cryprq.address import Address
from cryprq.peer_id import PeerId
from lab import hosts, sandbox
from lab.dialers import Dialers, identity_of
from lab.nodes import PORT, Node
from lab.probe import cpu_seconds
from lab.progress import steps

HERE, THERE = "192.0.2.1", "192.0.2.2"
TRIES = 5
RUNS = ("first", "again")

Result = dict[str, Any]


# ---- the load generator, in a process of its own ----


async def generate(options: argparse.Namespace) -> None:
    """Prints one JSON line when all handshakes are done, and keeps the connections until its input ends."""
    identities = [identity_of(options.seed, number) for number in range(options.count)]
    outcomes: Counter[str] = Counter()
    times: list[float] = []
    with Dialers(Address(HERE, PORT), PeerId.parse(options.dial)) as dialers:

        async def work() -> None:
            while identities:
                identity = identities.pop()
                for attempt in range(TRIES):
                    dial = dialers.dial(identity)
                    outcome = await dial.wait(10)
                    outcomes[outcome] += 1
                    if outcome == "done":
                        times.append(dial.seconds)
                        break
                    await asyncio.sleep(0.2 * attempt)

        start, cpu = time.monotonic(), time.process_time()
        await asyncio.gather(*(work() for _ in range(options.concurrency)))
        result = {
            "complete": outcomes.pop("done", 0),
            "failed": dict(outcomes),
            "seconds": round(time.monotonic() - start, 3),
            "dialer_cpu_seconds": round(time.process_time() - cpu, 3),
            "p50_ms": round(statistics.median(times) * 1e3, 1) if times else None,
        }
        print(json.dumps(result), flush=True)
        await asyncio.Event().wait()  # until SIGTERM


# ---- the benchmark ----


def measure(listener: Node, there: hosts.Namespace, name: str, options: argparse.Namespace) -> Result:
    pid = listener.running().pid
    before = cpu_seconds(pid)
    generator = there.start(
        f"dialers-{name}",
        *(sys.executable, __file__, "--dial", listener.peer_id),
        *("--count", str(options.count), "--concurrency", str(options.concurrency), "--seed", str(options.seed)),
    )
    generator.wait_for("\n", timeout=60 + options.count)
    spent = cpu_seconds(pid) - before
    result: Result = json.loads(generator.output().splitlines()[0])
    generator.stop()
    done = result["complete"]
    return {
        **result,
        "listener_cpu_seconds": round(spent, 2),
        "cpu_ms_per_handshake": round(spent / done * 1e3, 3),
        "per_cpu_second": round(done / spent, 1),
    }


def run(lab: hosts.Lab, options: argparse.Namespace) -> Result:
    here, there = lab.namespace("listener"), lab.namespace("dialers")
    lab.veth(here, [f"{HERE}/24"], there, [f"{THERE}/24"])
    listener = Node(
        here, "--listen", f"/ip4/0.0.0.0/udp/{PORT}/quic-v1", "--tun-address", "10.64.0.1/16", "--allow-any"
    )
    listener.arguments += options.flag
    listener.start().wait_event("listener_ready")
    report = {name: measure(listener, there, name, options) for name in steps(RUNS, "bench", "runs")}
    report["listener"] = {
        "handshakes": listener.metric("handshakes_success_total"),
        "drops": listener.metric("dropped_packets_total"),
        "rss_kib": listener.rss_kib(),
        "flags": options.flag,
    }
    listener.stop()
    return report


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=count, default=400, help="dialers, one handshake each in either run")
    parser.add_argument("--concurrency", type=count, default=4, help="handshakes at a time")
    parser.add_argument("--seed", type=int, default=1, help="of the dialers' identities")
    parser.add_argument("--flag", action="append", default=[], help="for the listener, e.g. --flag=--workers=1")
    parser.add_argument("--min-per-cpu-second", type=amount, help="fail when either run is below that")
    parser.add_argument("--dial", metavar="PEER_ID", help="run only the load generator, against that listener")
    return parser.parse_args()


def main() -> int:
    options = parse()
    if options.dial:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(generate(options))
        return 0
    if (reason := sandbox.enter()) is not None:
        print(f"bench: no network namespaces: {reason}", file=sys.stderr)
        return 1
    try:
        with tempfile.TemporaryDirectory(prefix="cryprq-bench-") as directory, hosts.Lab(Path(directory)) as lab:
            report = run(lab, options)
    except hosts.CommandError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"environment": environment(), **report}, indent=2))
    least = min(report[name]["per_cpu_second"] for name in RUNS)
    complete = all(report[name]["complete"] == options.count for name in RUNS)
    slow = options.min_per_cpu_second is not None and least < options.min_per_cpu_second
    return int(slow or not complete)


if __name__ == "__main__":
    sys.exit(main())
