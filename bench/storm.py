"""N dialers at once: how long until all of them have a session, of this build and of others in turn, as JSON on stdout.

Gateway and crowd (``lab/crowd.py``) are of the same build and share the machine's CPUs, so what a handshake costs
either end counts. Two storms a round: ``new``, when the gateway has never seen any of the dialers, and ``again``, when
all take their sessions for lost at the same moment. Waits count from that moment.

    bench/storm.py                                   300 dialers, this build
    bench/storm.py --count 1000 --rounds 3
    bench/storm.py --build old=/tmp/old --rounds 5   beside the tree of another build, with its own .venv; A B B A
"""

import argparse
import json
import signal
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.figures import environment
from bench.options import count, positive
from lab import ROOT, hosts, sandbox
from lab.nodes import PORT, Node
from lab.probe import cpu_seconds
from lab.progress import Progress

HERE, CROWD = "192.0.2.1", "192.0.2.2"
NETWORK = "198.18.0.0/16"
STORMS = {"new": signal.SIGUSR1, "again": signal.SIGUSR2}

Result = dict[str, Any]
Build = tuple[str, Path]


class BuiltNode(Node):
    """A node of another build: its own program, and its own idea of an identity."""

    tree = ROOT

    def command(self) -> list[str]:
        return [str(self.tree / ".venv" / "bin" / "cryprq-node")]


def build(text: str) -> Build:
    """NAME=DIRECTORY of a tree that is built, with a .venv of its own."""
    name, _, directory = text.partition("=")
    if not name or not Path(directory, ".venv", "bin", "cryprq-node").exists():
        raise argparse.ArgumentTypeError(f"{text!r} is no NAME=DIRECTORY with .venv/bin/cryprq-node in it")
    return name, Path(directory).resolve()


def crowd_of(tree: Path) -> Path:
    """The crowd's program of a build; older ones have it among their tests."""
    return next(path for path in (tree / "lab" / "crowd.py", tree / "tests" / "crowd.py") if path.exists())


def storm_lines(process: hosts.Process) -> list[Result]:
    return [json.loads(line) for line in process.output().splitlines() if line.startswith('{"number"')]


def storms(
    lab: hosts.Lab, number: int, one: Build, options: argparse.Namespace, progress: Progress
) -> dict[str, Result]:
    """Both storms at a gateway that has just started."""
    name, tree = one
    here, there = lab.namespace(f"gateway{number}"), lab.namespace(f"crowd{number}")
    lab.veth(here, [f"{HERE}/24"], there, [f"{CROWD}/24"])
    here.ip(f"route add {NETWORK} via {CROWD}")
    there.ip(f"route add local {NETWORK} dev lo")
    listen = ("--listen", f"/ip4/0.0.0.0/udp/{PORT}/quic-v1", "--tun-address", "10.64.0.1/16", "--allow-any")
    gateway = BuiltNode(here, *listen, *options.flag)
    gateway.tree = tree
    ready = gateway.start().wait_event("listener_ready", timeout=30)
    crowd = there.start(
        f"crowd{number}",
        *(str(tree / ".venv" / "bin" / "python"), str(crowd_of(tree)), str(ready["peer_id"]), HERE, str(PORT)),
        *("--count", str(options.count), "--network", NETWORK),
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": str(tree)},
    )
    crowd.wait_for("ready\n", timeout=60)
    results = {}
    for turn, (storm, how) in enumerate(STORMS.items(), start=1):
        before = cpu_seconds(gateway.running().pid)
        crowd.signal(how)
        crowd.wait_for(f'"number": {turn},', timeout=options.timeout)
        spent = cpu_seconds(gateway.running().pid) - before
        results[storm] = summary(storm_lines(crowd)[turn - 1], spent)
        progress.done(f"{name} {storm}")
        progress.say(f"{name} {storm}: {json.dumps(results[storm])}")
        time.sleep(options.pause)
    crowd.stop()
    gateway.stop()
    return results


def summary(line: Result, gateway_cpu: float) -> Result:
    waits = sorted(at - line["began"] for at in line["up_at"])
    return {
        "all_up_seconds": round(waits[-1], 3),
        "wait_p50_seconds": round(statistics.median(waits), 3),
        "wait_p99_seconds": round(waits[len(waits) * 99 // 100], 3),
        "attempts": line["attempts"],
        "gateway_cpu_ms_per_session": round(gateway_cpu / len(waits) * 1e3, 2),
        "crowd_cpu_ms_per_session": round(line["cpu"] / len(waits) * 1e3, 2),
        "datagrams_per_session": [round(line[way] / len(waits), 1) for way in ("sent", "received")],
    }


def medians(rounds: list[Result]) -> Result:
    """Of each figure: median, least and greatest."""
    keys = [key for key, value in rounds[0].items() if not isinstance(value, list)]
    return {
        key: [statistics.median(values), min(values), max(values)]
        for key in keys
        for values in [[one[key] for one in rounds]]
    }


def run(lab: hosts.Lab, options: argparse.Namespace) -> Result:
    builds: list[Build] = [("this", ROOT), *options.build]
    found: dict[str, dict[str, list[Result]]] = {name: {storm: [] for storm in STORMS} for name, _ in builds}
    turns = [one for turn in range(options.rounds) for one in (builds if turn % 2 == 0 else reversed(builds))]
    with Progress("bench", len(turns) * len(STORMS), unit="storms") as progress:
        for number, one in enumerate(turns):
            for storm, result in storms(lab, number, one, options, progress).items():
                found[one[0]][storm].append(result)
    return {name: {storm: medians(rounds) for storm, rounds in of.items()} for name, of in found.items()}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=count, default=300, help="dialers of the crowd")
    parser.add_argument("--rounds", type=count, default=1)
    parser.add_argument("--build", type=build, action="append", default=[], metavar="NAME=DIRECTORY")
    parser.add_argument("--pause", type=positive, default=2.0, help="seconds after a storm")
    parser.add_argument("--timeout", type=positive, default=120.0, help="seconds that a storm may take")
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
    print(json.dumps({"environment": environment(), "dialers": options.count, **report}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
