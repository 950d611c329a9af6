"""What a node costs that does nothing: to start, alone, and for each peer that is connected; of this build and of
others in turn, as JSON on stdout.

READY is counted from the start of the process to ``listener_ready``; resident memory is VmRSS. The peers are dialers of
``lab/crowd.py``, which keep their connections as nodes do and send nothing else.

    bench/idle.py                                    1,000 peers, this build
    bench/idle.py --count 0 --rounds 7               start and memory of a node alone
    bench/idle.py --build old=/tmp/old --rounds 2    beside the tree of another build, with its own .venv; A B B A
"""

import argparse
import compileall
import json
import re
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench.figures import environment
from bench.options import amount, positive
from bench.storm import CROWD, HERE, NETWORK, Build, BuiltNode, Result, build, crowd_of, medians
from lab import ROOT, hosts, sandbox
from lab.nodes import PORT
from lab.probe import cpu_seconds


def rss_kib(pid: int) -> int:
    """VmRSS of a process."""
    return int(re.findall(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[0])


def start(here: hosts.Namespace, tree: Path, options: argparse.Namespace) -> tuple[BuiltNode, Result]:
    """A gateway that is ready, and what that took."""
    listen = ("--listen", f"/ip4/0.0.0.0/udp/{PORT}/quic-v1", "--tun-address", "10.64.0.1/16", "--allow-any")
    gateway = BuiltNode(here, *listen, *options.flag)
    gateway.tree = tree
    began = time.monotonic()
    gateway.start().wait_event("listener_ready", timeout=30)
    ready = time.monotonic() - began
    time.sleep(options.settle)
    pid = gateway.running().pid
    return gateway, {"ready_seconds": round(ready, 3), "alone_mib": round(rss_kib(pid) / 1024, 2)}


def with_peers(there: hosts.Namespace, gateway: BuiltNode, tree: Path, options: argparse.Namespace) -> Result:
    """What they cost when all are connected and their handshakes are over."""
    pid = gateway.running().pid
    before = rss_kib(pid)
    crowd = there.start(
        f"crowd-{there.name}",
        *(str(tree / ".venv" / "bin" / "python"), str(crowd_of(tree)), gateway.peer_id, HERE, str(PORT)),
        *("--count", str(options.count), "--network", NETWORK),
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tree)},
    )
    crowd.wait_for("ready\n", timeout=60)
    crowd.signal(signal.SIGUSR1)
    crowd.wait_for('"number": 1,', timeout=options.timeout)
    time.sleep(options.rest)
    spent, began = cpu_seconds(pid), time.monotonic()
    time.sleep(options.seconds)
    spent, seconds = cpu_seconds(pid) - spent, time.monotonic() - began
    grown = rss_kib(pid) - before
    crowd.stop()
    return {
        "kib_per_peer": round(grown / options.count, 1),
        "core_percent_per_1000": round(100 * spent / seconds * 1000 / options.count, 2),
    }


def measure(lab: hosts.Lab, number: int, one: Build, options: argparse.Namespace) -> Result:
    """A round of one build."""
    name, tree = one
    here, there = lab.namespace(f"gateway{number}"), lab.namespace(f"crowd{number}")
    lab.veth(here, [f"{HERE}/24"], there, [f"{CROWD}/24"])
    here.ip(f"route add {NETWORK} via {CROWD}")
    there.ip(f"route add local {NETWORK} dev lo")
    gateway, result = start(here, tree, options)
    if options.count:
        result |= with_peers(there, gateway, tree, options)
    gateway.stop()
    print(f"{name}: {json.dumps(result)}", file=sys.stderr, flush=True)
    return result


def run(lab: hosts.Lab, options: argparse.Namespace) -> Result:
    builds: list[Build] = [("this", ROOT), *options.build]
    for _, tree in builds:
        compileall.compile_dir(tree / "cryprq", quiet=1)  # as an installed package is
    found: dict[str, list[Result]] = {name: [] for name, _ in builds}
    number = 0
    for turn in range(options.rounds):
        for one in builds if turn % 2 == 0 else reversed(builds):
            found[one[0]].append(measure(lab, number, one, options))
            number += 1
    return {name: medians(rounds) for name, rounds in found.items()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1000, help="peers; 0: the node alone")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--seconds", type=positive, default=20.0, help="for which CPU time is counted")
    parser.add_argument("--rest", type=amount, default=15.0, help="seconds after the last handshake, before that")
    parser.add_argument("--settle", type=amount, default=1.0, help="seconds after READY, before memory is read")
    parser.add_argument("--build", type=build, action="append", default=[], metavar="NAME=DIRECTORY")
    parser.add_argument("--timeout", type=positive, default=120.0, help="seconds until all have to be connected")
    parser.add_argument("--flag", action="append", default=[], help="for the gateway, e.g. --flag=--workers=1")
    return parser.parse_args()


def main() -> int:
    options = parse()
    if (reason := sandbox.enter()) is not None:
        print(f"bench: no network namespaces: {reason}", file=sys.stderr)
        return 1
    try:
        with tempfile.TemporaryDirectory(prefix="cryprq-bench-") as directory, hosts.Lab(Path(directory)) as lab:
            report = run(lab, options)
    except hosts.CommandError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"environment": environment(), "peers": options.count, **report}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
