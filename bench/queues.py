"""Where queues stand: round trips over a narrow link, beside a clogged neighbour, under a flow that a CPU limits.

Every way has hosts and a cable of its own; traffic goes from the right to the left. All flows run under one congestion
control, cubic unless told, and the token bucket (tbf) is on the sender's end of the cable, where a gateway's uplink is.

    narrow      the round trip under eight flows through a bucket of each rate, and what the flows carry together
    neighbour   a node has two peers, and the bucket to one of them hardly drains while datagrams for it keep coming:
                rate and round trip of the other one, and the same without that
    flat        a flow with no bucket in its way, and the round trip beside it

    bench/queues.py                               three rounds, bare and cryprq
    bench/queues.py --scenes narrow --rounds 5 --mbits 20 100
    bench/queues.py --build old:build/compare/fe0e2dc10d61    another built tree beside this one, A B A B

A table goes to stderr, JSON to stdout; medians of the rounds, with the least and the greatest.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from bench.figures import environment, summary
from bench.loads import TCP_PORT, UDP_PORT, Ends, build
from bench.options import count, package, positive
from bench.paths import LEFT, RIGHT, Bare, Cryprq, inner_address
from lab import hosts, sandbox
from lab.hosts import Lab, Namespace
from lab.nodes import PORT, Node
from lab.progress import steps

FLOWS = 8
LIMIT = 1 << 20
"""Bytes that a bucket lets stand: at 100 Mbit/s 84 ms, what many uplinks have."""
CLOG = "tbf rate 1mbit burst 64kb limit 64mb"
"""A link that takes next to nothing and throws nothing away: whoever waits for it waits for minutes."""
CLOG_RATE = 20_000
"""Datagrams of 1372 bytes a second for the clogged peer: 220 Mbit/s."""
WARM = 0.5
"""Seconds that flows run before anything is measured: twice what slow start takes."""

Result = dict[str, Any]
Scene = Callable[[], dict[str, float]]


def burst_of(mbits: int) -> int:
    """Bytes of a bucket: what it passes in 1 ms, and no less than a super-packet."""
    return max(mbits * 125, 65536)


@contextmanager
def shaped(host: Namespace, device: str, queue: str) -> Iterator[None]:
    """The queueing discipline at a host's end of a cable, for as long as the context lasts."""
    host.run("tc", "qdisc", "replace", "dev", device, "root", *queue.split())
    try:
        yield
    finally:
        host.run("tc", "qdisc", "delete", "dev", device, "root")


def under_flows(ends: Ends, flows: int, seconds: float, congestion: str) -> dict[str, float]:
    """Bits per second of the flows together, and round trips beside them."""
    sink = ends.sink("tcp-sink", TCP_PORT, "-c", flows)
    source = ends.source("tcp-blast", TCP_PORT, "-c", flows, "-t", seconds + WARM, "-a", congestion)
    time.sleep(WARM)
    trip = ends.rtt(seconds)
    source.result(60)
    return {
        "bits_per_second": sink.result(60)["bits_per_second"],
        "p50_us": trip["p50_us"],
        "p99_us": trip["p99_us"],
    }


class Pair:
    """Two hosts, a cable, and a way over it."""

    def __init__(self, lab: Lab, name: str, way: Bare | Cryprq, congestion: str) -> None:
        self.left, self.right = lab.namespace(f"{name}-left"), lab.namespace(f"{name}-right")
        lab.veth(self.left, [f"{LEFT}/24"], self.right, [f"{RIGHT}/24"])
        self.congestion = congestion
        self.ends = way.up(self.left, self.right)

    def narrow(self, mbits: int, seconds: float) -> dict[str, float]:
        with shaped(self.right, "eth0", f"tbf rate {mbits}mbit burst {burst_of(mbits)} limit {LIMIT}"):
            return under_flows(self.ends, FLOWS, seconds, self.congestion)

    def flat(self, seconds: float) -> dict[str, float]:
        return under_flows(self.ends, 1, seconds, self.congestion)


class Fork:
    """A node with two peers, each on a cable of its own; ``tree`` is a built package, None for this one."""

    def __init__(self, lab: Lab, name: str, tree: Path | None, congestion: str) -> None:
        self.middle = lab.namespace(f"{name}-middle")
        self.congestion = congestion
        make = Cryprq(package=tree).node
        dialers: list[Node] = []
        for number in range(2):
            host = lab.namespace(f"{name}-end{number}")
            lab.veth(
                host, [f"192.0.{number}.1/24"], self.middle, [f"192.0.{number}.2/24"], names=("eth0", f"to{number}")
            )
            dialers.append(make(host))
        listen = ("--listen", f"/ip4/0.0.0.0/udp/{PORT}/quic-v1", "--tun-address", "10.66.0.1/24")
        allowed = [word for node in dialers for word in ("--allow-peer", node.peer_id)]
        gateway = make(self.middle)
        gateway.arguments += [*listen, *allowed]
        gateway.start().wait_event("listener_ready")
        self.ends = []
        for number, node in enumerate(dialers):
            node.arguments += ["--peer", gateway.multiaddr(f"192.0.{number}.2")]
            node.start().wait_event("peer_connected", timeout=15)
            self.ends.append(Ends(node.namespace, self.middle, inner_address(node.namespace), "10.66.0.1"))

    def alone(self, seconds: float) -> dict[str, float]:
        """What the neighbour has when nobody is clogged."""
        return self._neighbour(seconds, contextlib.nullcontext())

    def clogged(self, seconds: float) -> dict[str, float]:
        """The same while datagrams for the other peer get nowhere."""
        return self._neighbour(seconds, self._clog())

    @contextmanager
    def _clog(self) -> Iterator[None]:
        with shaped(self.middle, "to0", CLOG):
            echo = self.ends[0].sink("udp-echo", UDP_PORT)
            flood = self.ends[0].source("udp-blast", UDP_PORT, "-s", 1372, "-r", CLOG_RATE, "-t", 3600)
            try:
                yield
            finally:
                flood.stop()
                echo.stop()

    def _neighbour(self, seconds: float, around: AbstractContextManager[None]) -> dict[str, float]:
        """The flow is up before the clog is: a connection that cannot even be made has no rate."""
        end = self.ends[1]
        sink = end.sink("tcp-sink", TCP_PORT)
        source = end.source("tcp-blast", TCP_PORT, "-t", 3600, "-a", self.congestion)
        time.sleep(WARM)
        with around:
            time.sleep(2 * WARM)
            before, start = _received(end.left), time.monotonic()
            time.sleep(seconds)
            rate = 8 * (_received(end.left) - before) / (time.monotonic() - start)
            for process in (source, sink):
                process.stop()
            try:
                trip = end.rtt(seconds)
            except hosts.CommandError:  # not one echo within two seconds
                trip = {"p50_us": 2e6, "p99_us": 2e6}
        return {"bits_per_second": rate, "p50_us": trip["p50_us"], "p99_us": trip["p99_us"]}


def _received(host: Namespace) -> int:
    """Bytes that have come out of the tunnel at a dialer."""
    (link,) = json.loads(host.ip("-j -s link show cryprq0"))
    return int(link["stats64"]["rx"]["bytes"])


def scenes(options: argparse.Namespace, lab: Lab) -> dict[str, dict[str, Scene]]:
    """By scene and way what measures it once."""
    trees: dict[str, Path | None] = {**dict(options.build), "cryprq": None}
    found: dict[str, dict[str, Scene]] = {}
    seconds = options.seconds
    if {"narrow", "flat"} & set(options.scenes):
        pairs = {"bare": Pair(lab, "bare", Bare(), options.congestion)}
        for name, tree in trees.items():
            pairs[name] = Pair(lab, name, Cryprq(*options.flag, package=tree), options.congestion)
        if "narrow" in options.scenes:
            for mbits in options.mbits:
                found[f"narrow, {mbits} Mbit/s"] = {
                    name: partial(pair.narrow, mbits, seconds) for name, pair in pairs.items()
                }
        if "flat" in options.scenes:
            found["flat"] = {name: partial(pair.flat, seconds) for name, pair in pairs.items()}
    if "neighbour" in options.scenes:
        forks = {name: Fork(lab, f"{name}-fork", tree, options.congestion) for name, tree in trees.items()}
        found["neighbour alone"] = {name: partial(fork.alone, seconds) for name, fork in forks.items()}
        found["neighbour of a clogged peer"] = {name: partial(fork.clogged, seconds) for name, fork in forks.items()}
    return found


def table(report: Result) -> str:
    """Medians with the least and the greatest, as fixed-width text."""
    units = (("bits_per_second", "Mbit/s", 1e6), ("p50_us", "ms p50", 1e3), ("p99_us", "ms p99", 1e3))
    lines = []
    for scene, ways in report.items():
        lines.append(scene)
        for way, figures in ways.items():
            cells = [
                f"{figures[key]['median'] / scale:9.2f} ({figures[key]['min'] / scale:.2f}"
                f"..{figures[key]['max'] / scale:.2f}) {unit}"
                for key, unit, scale in units
            ]
            lines.append(f"    {way:<10}" + "".join(f"{cell:>38}" for cell in cells))
    return "\n".join(lines)


def tree(text: str) -> tuple[str, Path]:
    """``NAME:DIRECTORY`` of another built tree."""
    name, _, directory = text.partition(":")
    return name, package(directory)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = ("narrow", "neighbour", "flat")
    parser.add_argument("--scenes", nargs="+", choices=every, default=every, help="what to measure")
    parser.add_argument("--rounds", type=count, default=3)
    parser.add_argument("--seconds", type=positive, default=3.0, help="of each measurement")
    parser.add_argument("--mbits", type=count, nargs="+", default=[100, 1000], help="rates of the narrow link")
    parser.add_argument("--congestion", default="cubic", help="control of all flows")
    parser.add_argument("--build", action="append", default=[], type=tree, metavar="NAME:DIRECTORY",
                        help="a built tree of another commit, beside this one")  # fmt: skip
    parser.add_argument("--flag", action="append", default=[], help="for both nodes")
    return parser.parse_args()


def main() -> int:
    options = parse()
    if (reason := sandbox.enter()) is not None:
        print(f"bench: no network namespaces: {reason}", file=sys.stderr)
        return 1
    rounds: dict[str, dict[str, list[dict[str, float]]]] = {}
    try:
        build()
        with tempfile.TemporaryDirectory(prefix="cryprq-bench-") as directory, hosts.Lab(Path(directory)) as lab:
            plan = scenes(options, lab)
            for number in steps(range(options.rounds), "bench", "rounds"):
                for scene, ways in plan.items():
                    order: Sequence[str] = list(ways) if number % 2 == 0 else list(ways)[::-1]
                    for name in order:
                        rounds.setdefault(scene, {}).setdefault(name, []).append(ways[name]())
    except hosts.CommandError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    report = {
        scene: {
            way: {key: summary([each[key] for each in runs]) for key in runs[0]}
            for way, runs in ((way, ways[way]) for way in plan[scene])
        }
        for scene, ways in rounds.items()
    }
    print(table(report), file=sys.stderr)
    settings = {key: getattr(options, key) for key in ("rounds", "seconds", "mbits", "congestion", "flag")}
    print(json.dumps({"environment": environment(), "settings": settings, "scenes": report}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
