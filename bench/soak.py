"""Memory of two nodes over time: a tunnel that rotates its keys every five seconds under traffic, as JSON on stdout.

UDP flows both ways and a TCP transfer run the whole time. Resident memory of both nodes is sampled every ten seconds;
what comes after the warm-up is judged: its least-squares slope, and by how much the last quarter's median is above the
first quarter's. The exit status is 1 if either node grew, or if a rotation or a packet was lost.

    bench/soak.py                        ten minutes
    bench/soak.py --minutes 120 --tcp-rate 100e6
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.figures import environment
from bench.options import amount, count, positive
from lab import hosts, sandbox
from lab.nodes import Node
from lab.progress import Progress
from lab.tunnels import DIALER, GATEWAY, Tunnel, make_tunnel

Result = dict[str, Any]


def growth(samples: list[tuple[float, int]]) -> Result:
    """What (seconds, KiB) samples say about a process: slope in KiB per minute, and the growth between quarters."""
    values = [kib for _, kib in samples]
    quarter = max(1, len(values) // 4)
    slope = statistics.linear_regression([at / 60 for at, _ in samples], values).slope
    return {
        "slope_kib_per_minute": round(slope, 2),
        "growth_kib": statistics.median(values[-quarter:]) - statistics.median(values[:quarter]),
        "first_kib": values[0],
        "last_kib": values[-1],
        "max_kib": max(values),
    }


def start_traffic(tunnel: Tunnel, seconds: float, options: argparse.Namespace) -> dict[str, list[hosts.Process]]:
    """Everything that runs meanwhile, by what it is."""
    here, there = tunnel.listener.namespace, tunnel.dialer.namespace
    size = int(options.tcp_rate * seconds)
    within = seconds + 60
    return {
        "receivers": [here.traffic("udp_receive", GATEWAY[4], 5000), there.traffic("udp_receive", DIALER[4], 5000)],
        "senders": [
            there.traffic("udp_send", GATEWAY[4], 5000, rate=options.udp_rate, seconds=seconds),
            here.traffic("udp_send", DIALER[4], 5000, rate=options.udp_rate, seconds=seconds),
        ],
        "tcp": [
            here.traffic("tcp_serve", GATEWAY[4], 5001, size=size, rate=options.tcp_rate),
            there.traffic("tcp_transfer", GATEWAY[4], 5001, size=size, rate=options.tcp_rate, timeout=within),
        ],
    }


def sample(nodes: dict[str, Node], options: argparse.Namespace) -> dict[str, list[tuple[float, int]]]:
    """(seconds, KiB) of each node until the time is up, its first samples included."""
    series: dict[str, list[tuple[float, int]]] = {name: [] for name in nodes}
    start = time.monotonic()
    end = start + options.minutes * 60
    with Progress("soak", options.minutes, unit="minutes") as progress:
        while (now := time.monotonic()) < end:
            for name, node in nodes.items():
                series[name].append((round(now - start, 1), node.rss_kib()))
            memory = ", ".join(f"{name} {points[-1][1]} KiB" for name, points in series.items())
            progress.at((now - start) / 60, memory)
            time.sleep(max(0.0, min(options.every, end - time.monotonic())))
        progress.at(options.minutes, memory)
    return series


def run(lab: hosts.Lab, options: argparse.Namespace) -> Result:
    flags = ("--rotate-secs", str(options.rotate_secs))
    tunnel = make_tunnel(lab, listen=flags, dial=flags)
    nodes = {"listener": tunnel.listener, "dialer": tunnel.dialer}
    seconds = options.minutes * 60
    traffic = start_traffic(tunnel, seconds, options)
    series = sample(nodes, options)
    rotations = {name: len(node.events("key_rotation", status="success")) for name, node in nodes.items()}
    sent = [process.result(60)["sent"] for process in traffic["senders"]]
    received = [process.result(60)["received"] for process in traffic["receivers"]]
    transfer = traffic["tcp"][1].result(120)
    report: Result = {
        "minutes": options.minutes,
        "rotate_secs": options.rotate_secs,
        "warm_up_minutes": options.warm_up,
        "rotations": rotations,
        "udp": {"sent": sum(sent), "lost": sum(sent) - sum(received)},
        "tcp": {key: transfer[key] for key in ("ok", "received", "retransmits")},
        "drops": {name: {" ".join(key): n for key, n in tunnel.drops(node).items()} for name, node in nodes.items()},
        "memory": {},
    }
    for name, points in series.items():
        judged = [point for point in points if point[0] >= options.warm_up * 60]
        report["memory"][name] = {**growth(judged), "samples": points}
    flat = all(
        memory["slope_kib_per_minute"] <= options.max_slope and memory["growth_kib"] <= options.max_growth
        for memory in report["memory"].values()
    )
    due = seconds / options.rotate_secs
    report["verdict"] = {
        "memory_flat": flat,
        "nothing_lost": sent == received and transfer["ok"],
        "all_rotations": all(count >= due * 0.9 for count in rotations.values()),
    }
    return report


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=positive, default=10.0)
    parser.add_argument("--warm-up", type=amount, default=2.0, help="minutes that are not judged")
    parser.add_argument("--every", type=positive, default=10.0, help="seconds between samples")
    parser.add_argument("--rotate-secs", type=count, default=5)
    parser.add_argument("--udp-rate", type=positive, default=500.0, help="datagrams a second, each way")
    parser.add_argument("--tcp-rate", type=positive, default=5e6, help="bytes a second, each way")
    parser.add_argument("--max-slope", type=amount, default=16.0, help="KiB a minute that count as flat")
    parser.add_argument("--max-growth", type=amount, default=128.0, help="KiB between quarters that count as flat")
    options = parser.parse_args()
    if options.minutes * 60 < options.warm_up * 60 + 4 * options.every:
        parser.error("too short: at least four samples after the warm-up are needed")
    return options


def main() -> int:
    options = parse()
    if (reason := sandbox.enter()) is not None:
        print(f"bench: no network namespaces: {reason}", file=sys.stderr)
        return 1
    try:
        with tempfile.TemporaryDirectory(prefix="cryprq-soak-") as directory, hosts.Lab(Path(directory)) as lab:
            report = run(lab, options)
    except hosts.CommandError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"environment": environment(), **report}, indent=2))
    return int(not all(report["verdict"].values()))


if __name__ == "__main__":
    sys.exit(main())
