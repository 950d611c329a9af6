"""The tunnel against the bare link: throughput of a TCP flow and idle round-trip times, as JSON on stdout.

Two hosts (network namespaces) are joined by one veth cable. The bare cable and each tunnel over it are measured in
turn, A B A B, for several rounds, so that what else the machine does falls on both. A figure is the median of the
rounds, with the least and the greatest beside it; comparisons are made within each round and then summarised.

    bench/tunnel.py                         five rounds of bare and cryprq
    bench/tunnel.py --flows 1 4 --rounds 9  also with four flows at once
    bench/tunnel.py --min-share 0.25 --max-added-us 200    exit status 1 when the tunnel is slower than that

Another tunnel is one more ``Path`` in ``paths``.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path as File
from typing import Any, Protocol

ROOT = File(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import netns  # noqa: E402
from nodes import PORT, Node  # noqa: E402

LEFT, RIGHT = "192.0.2.1", "192.0.2.2"
TCP_PORT, ECHO_PORT = 5201, 5202

Result = dict[str, Any]


class Path(Protocol):
    """A way from the right host to the left one."""

    address: str
    """Where the left host is reached on this path."""

    def up(self, left: netns.Namespace, right: netns.Namespace) -> None:
        """Brings it up; called once, before the first round, and it stays up."""

    def facts(self) -> Result:
        """What to note beside the figures, asked after the last round."""


class Bare:
    """The cable itself."""

    address = LEFT

    def up(self, left: netns.Namespace, right: netns.Namespace) -> None:
        pass

    def facts(self) -> Result:
        return {}


class Cryprq:
    """A listener and a dialer, default settings but for the given flags."""

    address = "10.66.0.1"

    def __init__(self, *flags: str) -> None:
        self.flags = flags

    def up(self, left: netns.Namespace, right: netns.Namespace) -> None:
        self.dialer = Node(right, *self.flags)
        self.listener = Node(left, *self.flags, "--listen", f"/ip4/0.0.0.0/udp/{PORT}/quic-v1")
        self.listener.arguments += ["--tun-address", f"{self.address}/24", "--allow-peer", self.dialer.peer_id]
        self.dialer.arguments += ["--peer", self.listener.multiaddr(LEFT)]
        self.listener.start().wait_event("listener_ready")
        self.done = self.dialer.start().wait_event("handshake_complete", timeout=15)
        self.dialer.wait_event("peer_connected")

    def facts(self) -> Result:
        drops = [node.metric("dropped_packets_total") for node in (self.listener, self.dialer)]
        return {
            "flags": list(self.flags),
            "aead": self.done["aead"],
            "kem": self.done["kem"],
            "handshake_ms": self.done["duration_ms"],
            "dropped_packets": sum(drops),
            "rss_kib": [self.listener.rss_kib(), self.dialer.rss_kib()],
        }


def paths(flags: Sequence[str]) -> dict[str, Path]:
    return {"bare": Bare(), "cryprq": Cryprq(*flags)}


def measure(left: netns.Namespace, right: netns.Namespace, address: str, options: argparse.Namespace) -> Result:
    """One round on one path: idle round trips first, then each number of flows."""
    echo = left.traffic("udp_echo", address, ECHO_PORT)
    right.measure("udp_rtt", address, ECHO_PORT, count=20)  # warms caches, neighbours and clocks up
    rtt = right.measure("udp_rtt", address, ECHO_PORT, count=options.echoes, size=64, within=120)
    echo.stop()
    result: Result = {"rtt": rtt, "tcp": {}}
    for flows in options.flows:
        sink = left.traffic("tcp_sink", address, TCP_PORT, connections=flows)
        sent = right.measure("tcp_blast", address, TCP_PORT, seconds=options.seconds, flows=flows)
        result["tcp"][str(flows)] = {**sink.result(), "retransmits": sent["retransmits"]}
    return result


def summary(values: Sequence[float]) -> Result:
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": list(values)}


def summarise(rounds: list[dict[str, Result]], flows: Sequence[int]) -> Result:
    """Figures by path, and what each path but the bare one has and costs relative to it."""
    report: Result = {}
    for name in rounds[0]:
        mine, bare = [each[name] for each in rounds], [each["bare"] for each in rounds]
        figures: Result = {key: summary([each["rtt"][key] for each in mine]) for key in ("p50_us", "p99_us")}
        figures["lost_echoes"] = sum(each["rtt"]["lost"] for each in mine)
        for count in map(str, flows):
            speeds = [each["tcp"][count]["bits_per_second"] for each in mine]
            figures[f"tcp_{count}_bits_per_second"] = summary(speeds)
            figures[f"tcp_{count}_retransmits"] = summary([each["tcp"][count]["retransmits"] for each in mine])
            if name != "bare":
                base = [each["tcp"][count]["bits_per_second"] for each in bare]
                shares = [round(speed / of, 4) for speed, of in zip(speeds, base, strict=True)]
                figures[f"tcp_{count}_share_of_bare"] = summary(shares)
        if name != "bare":
            for key in ("p50_us", "p99_us"):
                added = [round(a["rtt"][key] - b["rtt"][key], 1) for a, b in zip(mine, bare, strict=True)]
                figures[f"{key.removesuffix('_us')}_added_us"] = summary(added)
        report[name] = figures
    return report


def environment() -> Result:
    model = "unknown"
    for line in File("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": model,
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }


def print_table(report: Result, flows: Sequence[int]) -> None:
    """The medians, for people, on stderr."""
    for name, figures in report.items():
        words = [f"{name:<10}"]
        for count in map(str, flows):
            speed = figures[f"tcp_{count}_bits_per_second"]
            words.append(f"TCP x{count} {speed['median'] / 1e9:6.2f} Gbit/s")
            words.append(f"({speed['min'] / 1e9:.2f}..{speed['max'] / 1e9:.2f})")
            if share := figures.get(f"tcp_{count}_share_of_bare"):
                words.append(f"= {share['median']:.3f} of bare")
        words.append(f"RTT p50 {figures['p50_us']['median']:.1f} us, p99 {figures['p99_us']['median']:.1f} us")
        if added := figures.get("p50_added_us"):
            words.append(f"(+{added['median']:.1f} us)")
        print("  ".join(words), file=sys.stderr)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each TCP run")
    parser.add_argument("--echoes", type=int, default=1000, help="round trips of a run, 64 bytes each")
    parser.add_argument("--flows", type=int, nargs="+", default=[1], help="numbers of TCP flows at once")
    parser.add_argument("--mtu", type=int, default=1500, help="of the cable")
    parser.add_argument("--flag", action="append", default=[], help="for both nodes, e.g. --flag=--no-offload=uso")
    parser.add_argument("--min-share", type=float, help="fail when one flow gets less of the bare link")
    parser.add_argument("--max-added-us", type=float, help="fail when the p50 round trip is this much longer")
    return parser.parse_args()


def main() -> int:
    options = parse()
    if (reason := netns.enter()) is not None:
        print(f"bench: no network namespaces: {reason}", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="cryprq-bench-") as directory, netns.Lab(File(directory)) as lab:
        left, right = lab.namespace("left"), lab.namespace("right")
        lab.veth(left, [f"{LEFT}/24"], right, [f"{RIGHT}/24"], mtu=options.mtu)
        ways = paths(options.flag)
        for way in ways.values():
            way.up(left, right)
        rounds = []
        for number in range(options.rounds):
            rounds.append({name: measure(left, right, way.address, options) for name, way in ways.items()})
            print(f"round {number + 1} of {options.rounds} done", file=sys.stderr)
        report = summarise(rounds, options.flows)
        facts = {name: way.facts() for name, way in ways.items()}
    print_table(report, options.flows)
    print(json.dumps({"environment": environment(), "paths": report, "facts": facts}, indent=2))
    tunnel = report["cryprq"]
    share, added = tunnel[f"tcp_{options.flows[0]}_share_of_bare"]["median"], tunnel["p50_added_us"]["median"]
    slow = options.min_share is not None and share < options.min_share
    late = options.max_added_us is not None and added > options.max_added_us
    return int(slow or late)


if __name__ == "__main__":
    sys.exit(main())
