"""What rules of access cost a flow of TCP: the same tunnel without any and with many, in turn, by reloads.

At the listener, who receives the flow, the last of the rules has it, and peers are held to all of them; at the dialer
what comes back passes as part of a flow that this side has begun. CPU is that of both nodes for a gigabyte, which says
more than the rate where the machine is busy.

    bench/access.py                                   1,000 rules, four rounds of A B
    bench/access.py --rules 10000 --rounds 8 --seconds 4
    bench/access.py --nftables                        and the same rules in a set of the kernel's instead, A B C

A table goes to stderr, JSON to stdout; medians of the rounds, with the least and the greatest.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.figures import environment, summary
from bench.loads import Cpu, build
from bench.options import count, positive
from bench.paths import LEFT, RIGHT, Cryprq
from lab import hosts, sandbox
from lab.hosts import Lab
from lab.nodes import Node

Figures = dict[str, float]
NONE, MANY, KERNEL = "no rules", "rules", "nftables"


def targets(number: int) -> list[tuple[str, str]]:
    """So many networks, each with ports of its own; the last one has the traffic."""
    others = ((f"10.{100 + at // 250}.{at % 250}.0/24", f"{1 + at % 10}-{20 + at % 10}") for at in range(number - 1))
    return [*others, ("10.66.0.0/24", "1024-65535")]


def rules(number: int) -> str:
    """A file with these, for everybody."""
    every = ", ".join(f'"{network}:{ports}/tcp"' for network, ports in targets(number))
    return f'[access]\n"*" = [{every}, "any:*/icmp"]\n'


def filter_of(number: int) -> str:
    """The same for nftables, of what comes out of the tunnel: answers by connection tracking, the rest by a set."""
    elements = ", ".join(f"{network} . {ports}" for network, ports in targets(number))
    return f"""table inet access {{
        set allowed {{ type ipv4_addr . inet_service; flags interval; elements = {{ {elements} }} }}
        chain input {{
            type filter hook input priority 0; policy accept;
            iifname != "cryprq0" accept
            ct state established,related accept
            ip protocol icmp accept
            ip daddr . tcp dport @allowed accept
            drop
        }}
    }}"""


class Scene:
    """A tunnel whose both ends have rules or none."""

    def __init__(self, lab: Lab, number: int) -> None:
        left, right = lab.namespace("left"), lab.namespace("right")
        lab.veth(left, [f"{LEFT}/24"], right, [f"{RIGHT}/24"])
        self.file = lab.directory / "access.toml"
        self.file.write_text("")
        self.contents = {NONE: "", KERNEL: "", MANY: rules(number)}
        self.filter = lab.directory / "access.nft"
        self.filter.write_text(filter_of(number))
        self.way = Cryprq("--config", str(self.file))
        self.ends = self.way.up(left, right)

    def measure(self, what: str, seconds: float) -> Figures:
        """One flow, after both nodes have gone over to that."""
        self.file.write_text(self.contents[what])
        nodes: tuple[Node, Node] = (self.way.listener, self.way.dialer)
        for node in nodes:
            node.reload()
            if what == KERNEL:
                node.namespace.run("nft", "-f", str(self.filter))
        cpu = Cpu(self.way.pids)
        result = self.ends.tcp(1, seconds)
        used = cpu.seconds()[1]
        for node in nodes if what == KERNEL else ():
            node.namespace.run("nft", "delete", "table", "inet", "access")
        if any(node.metric("dropped_packets_total", direction="rx", reason="access") for node in nodes):
            raise hosts.CommandError("the rules refuse what is measured")
        rate = float(result["bits_per_second"])
        return {"bits_per_second": rate, "cpu_per_gb": used / (rate * seconds / 8e9)}


def table(report: dict[str, dict[str, Any]]) -> str:
    """Medians with the least and the greatest, and what the rules make of them."""
    units = {"bits_per_second": ("Gbit/s", 1e9), "cpu_per_gb": ("CPU s/GB", 1.0)}
    lines = []
    for key, (unit, scale) in units.items():
        for what in report:
            found = report[what][key]
            low, high = found["min"] / scale, found["max"] / scale
            change = found["median"] / report[NONE][key]["median"] - 1
            lines.append(f"{what:<10}{found['median'] / scale:9.3f} ({low:.3f}..{high:.3f}) {unit}{change:+9.1%}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rules", type=count, default=1000)
    parser.add_argument("--rounds", type=count, default=4, help="of both")
    parser.add_argument("--seconds", type=positive, default=3.0, help="of each measurement")
    parser.add_argument("--nftables", action="store_true", help="as well")
    options = parser.parse_args()
    if (reason := sandbox.enter()) is not None:
        print(f"bench: no network namespaces: {reason}", file=sys.stderr)
        return 1
    found: dict[str, list[Figures]] = {what: [] for what in (NONE, MANY, *[KERNEL] * options.nftables)}
    try:
        build()
        with tempfile.TemporaryDirectory(prefix="cryprq-bench-") as directory, hosts.Lab(Path(directory)) as lab:
            scene = Scene(lab, options.rules)
            for number in range(options.rounds):
                for what in found:
                    found[what].append(scene.measure(what, options.seconds))
                print(f"round {number + 1} of {options.rounds} done", file=sys.stderr)
    except hosts.CommandError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    report = {what: {key: summary([each[key] for each in runs]) for key in runs[0]} for what, runs in found.items()}
    print(table(report), file=sys.stderr)
    settings = {key: getattr(options, key) for key in ("rules", "rounds", "seconds")}
    print(json.dumps({"environment": environment(), "settings": settings, "figures": report}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
