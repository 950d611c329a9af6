"""Tunnels where they mostly are, between two gateways: host - gateway - gateway - host, each pair on a veth cable.

Every way has four network namespaces of its own. The ways are measured in turn, A B C A B C, for several rounds; a
figure is the median of the rounds, with the least and the greatest. The row ``cryprq, nodes`` is of the same gateways
as the row ``cryprq``, but between their own tunnel addresses: what forwarding costs is the ratio of the two. Ratios are
to the way that ``--base`` names, taken within each round.

    tcp_cubic, tcp_bbr      one TCP flow, by its congestion control
    udp_segment             datagrams of 64 bytes, 64 in a send (UDP_SEGMENT), as QUIC stacks send them
    rtt                     round trips of 64-byte datagrams on the idle path

    bench/forwarding.py                                          bare, cryprq, and each WireGuard on the PATH
    bench/forwarding.py --build old:build/compare/fe0e2dc94664 --base old      another built tree beside this one
    bench/forwarding.py --peer /opt/new/wireguard-go --rounds 9 --loads tcp_cubic

A table goes to stderr, JSON to stdout.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench.figures import Result, Round, environment, summarise
from bench.loads import Ends, build
from bench.options import count, package, positive
from bench.paths import LEFT, RIGHT, Bare, Cryprq, WireGuard, find_peers
from lab import hosts, sandbox
from lab.hosts import Lab, Namespace
from lab.progress import steps

NETWORKS = ("10.1.0.0/24", "10.2.0.0/24")
ROUTERS = ("10.1.0.1", "10.2.0.1")
HOSTS = ("10.1.0.2", "10.2.0.2")
UDP_SIZE, UDP_SEGMENTS = 64, 64


def tcp(ends: Ends, seconds: float, congestion: str) -> float:
    """Bits per second of one flow."""
    return float(ends.tcp(1, seconds, congestion)["bits_per_second"])


@dataclass(frozen=True)
class Column:
    title: str
    scale: float
    """The number of the stored unit in one of what is shown."""
    measure: Callable[[Ends, float], float]


COLUMNS = {
    "tcp_cubic": Column("TCP cubic, Gbit/s", 1e9, partial(tcp, congestion="cubic")),
    "tcp_bbr": Column("TCP bbr, Gbit/s", 1e9, partial(tcp, congestion="bbr")),
    "udp_segment": Column(
        "UDP 64 x 64 B, kpps", 1e3, lambda ends, s: float(ends.udp(UDP_SIZE, s, segments=UDP_SEGMENTS)["per_second"])
    ),
    "rtt": Column("round trip p50, us", 1, lambda ends, s: float(ends.rtt(s)["p50_us"])),
}


class Routed(Bare):
    """No tunnel: the gateways route over the cable between them."""

    def up(self, left: Namespace, right: Namespace) -> Ends:
        left.ip(f"route add {NETWORKS[1]} via {RIGHT}")
        right.ip(f"route add {NETWORKS[0]} via {LEFT}")
        return super().up(left, right)


Tunnel = Routed | Cryprq | WireGuard


class Site:
    """The four machines of one way, the way brought up."""

    def __init__(self, lab: Lab, name: str, way: Tunnel) -> None:
        gateways = [lab.namespace(f"{name}-{side}-gateway") for side in ("left", "right")]
        members = [lab.namespace(f"{name}-{side}") for side in ("left", "right")]
        lab.veth(gateways[0], [f"{LEFT}/24"], gateways[1], [f"{RIGHT}/24"])
        for gateway, member, router, host in zip(gateways, members, ROUTERS, HOSTS, strict=True):
            lab.veth(gateway, [f"{router}/24"], member, [f"{host}/24"], names=("lan0", "eth0"))
            gateway.sysctl("net.ipv4.ip_forward", 1)
            member.ip(f"route add default via {router}")
        self.way = way
        self.nodes = way.up(gateways[0], gateways[1])
        self.hosts = Ends(members[0], members[1], *HOSTS)
        members[1].measure("ping", HOSTS[0], count=3)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=count, default=5)
    parser.add_argument("--seconds", type=positive, default=2.0, help="of each run")
    parser.add_argument("--loads", nargs="+", choices=COLUMNS, default=list(COLUMNS), help="what to measure")
    parser.add_argument("--peer", action="append", default=[], help="another WireGuard's program instead of all found")
    parser.add_argument("--no-peers", action="store_true", help="the bare link and cryprq only")
    parser.add_argument(
        "--build", action="append", default=[], type=named, metavar="NAME:DIRECTORY", help="one more built cryprq"
    )
    parser.add_argument("--base", default="bare", help="the way that ratios are to")
    options = parser.parse_args()
    try:
        options.ways = ways(options)
    except hosts.CommandError as error:
        parser.error(str(error))
    if options.base not in options.ways:
        parser.error(f"--base {options.base} is none of {', '.join(options.ways)}")
    return options


def named(text: str) -> tuple[str, Path]:
    """The name before the colon, the built tree after it."""
    name, _, directory = text.partition(":")
    return name, package(directory)


def ways(options: argparse.Namespace) -> dict[str, Tunnel]:
    """All that is measured, not up yet; CommandError for a peer that is none here."""
    found: dict[str, Tunnel] = {"bare": Routed(), "cryprq": Cryprq(networks=NETWORKS)}
    found |= {name: Cryprq(package=tree, networks=NETWORKS) for name, tree in options.build}
    for name, peer in ({} if options.no_peers else find_peers(options.peer)).items():
        if isinstance(peer, WireGuard):
            peer.networks = NETWORKS
            found[name] = peer
        elif options.peer:
            raise hosts.CommandError(f"{name}: only those of WireGuard are known between gateways")
    return found


def run(options: argparse.Namespace, lab: Lab) -> list[Round]:
    rows: dict[str, Ends] = {}
    for name, way in options.ways.items():
        site = Site(lab, name, way)
        rows[name] = site.hosts
        if isinstance(way, Cryprq):
            rows[f"{name}, nodes"] = site.nodes
    rounds: list[Round] = []
    for _ in steps(range(options.rounds), "forwarding", "rounds"):
        rounds.append({
            row: {load: COLUMNS[load].measure(ends, options.seconds) for load in options.loads}
            for row, ends in rows.items()
        })  # fmt: skip
    return rounds


def table(report: Result, loads: list[str]) -> str:
    """Ways as rows, loads as columns."""
    lines = [f"{'':<24}" + "".join(f"{COLUMNS[load].title:>36}" for load in loads)]
    for row, found in report.items():
        cells = []
        for load in loads:
            values, share = found["figures"][load], found["share"].get(load)
            median, low, high = (f"{values[key] / COLUMNS[load].scale:.2f}" for key in ("median", "min", "max"))
            cells.append(f"{median} ({low}..{high})" + (f" {share['median']:.2f}x" if share else ""))
        lines.append(f"{row:<24}" + "".join(f"{cell:>36}" for cell in cells))
    return "\n".join(lines)


def main() -> int:
    options = parse()
    if (reason := sandbox.enter()) is not None:
        print(f"forwarding: no network namespaces: {reason}", file=sys.stderr)
        return 1
    try:
        build()
        with tempfile.TemporaryDirectory(prefix="cryprq-bench-") as directory, Lab(Path(directory)) as lab:
            rounds = run(options, lab)
            facts = {name: way.facts() for name, way in options.ways.items()}
    except hosts.CommandError as error:
        print(f"forwarding: {error}", file=sys.stderr)
        return 1
    report = summarise(rounds, options.base)
    print(table(report, options.loads), file=sys.stderr)
    settings = {key: getattr(options, key) for key in ("rounds", "seconds", "base")}
    print(json.dumps({"environment": environment(), "settings": settings, "paths": report, "facts": facts}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
