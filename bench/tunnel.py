"""The tunnel against the bare link and against other tunnels: throughput, packet rates, round trips, CPU and memory.

Two hosts (network namespaces) are joined by one veth cable. The bare cable and each tunnel over it are measured in
turn, A B C A B C, for several rounds, so that what else the machine does falls on all. A figure is the median of the
rounds, with the least and the greatest beside it; ratios to the bare link are taken within each round and then
summarised. A table goes to stderr, JSON to stdout.

    bench/tunnel.py                         five rounds of bare, cryprq, and each other tunnel on the PATH
    bench/tunnel.py --quick                 two short rounds, under two minutes
    bench/tunnel.py --no-peers --loads rtt tcp1 --rounds 9
    bench/tunnel.py --peer /opt/new/wireguard-go --peer openvpn
    bench/tunnel.py --no-peers --variant plain:--no-offload=uso,--no-offload=packing --variant c:CRYPRQ_AEAD_BACKEND=evp
    bench/tunnel.py --no-peers --min-share 0.25 --max-added-us 200    exit status 1 when the tunnel is slower

The other tunnels are wireguard-go, gotatun, boringtun-cli (all three with wg, of wireguard-tools), nebula (with
nebula-cert), and openvpn; bench/peers.sh brings them.
docs/performance.md says what each figure means; bench/report.py puts a run into that file.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

from bench.figures import Result, Round, environment, summarise, table
from bench.loads import CONGESTION, LOADS, Plan, build, measure, offered
from bench.options import amount, count, package, positive
from bench.paths import LEFT, RIGHT, Bare, Cryprq, Way, find_peers
from lab import hosts, sandbox
from lab.progress import steps

Variant = tuple[str, list[str], dict[str, str]]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="2 rounds of 0.4 s a run, a coarse search")
    parser.add_argument("--rounds", type=count, help="5 unless told")
    parser.add_argument("--seconds", type=positive, help="of each run, 3 unless told")
    parser.add_argument("--steps", type=count, help="of the search for the highest clean rate, 7 unless told")
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=LOADS, help="what to measure")
    parser.add_argument("--segments", type=int, default=0, help="of a UDP_SEGMENT send, and UDP_GRO; 0: neither")
    parser.add_argument("--peer", action="append", default=[], help="another tunnel's program instead of all found")
    parser.add_argument("--no-peers", action="store_true", help="the bare link and cryprq only")
    parser.add_argument("--package", type=package, help="a built tree of cryprq instead of this one")
    parser.add_argument(
        "--variant", action="append", default=[], type=variant, metavar="NAME:WORDS",
        help="one more cryprq: flags or settings of the environment, with commas between, for both nodes",
    )  # fmt: skip
    parser.add_argument("--mtu", type=count, default=1500, help="of the cable")
    parser.add_argument("--flag", action="append", default=[], help="for both nodes, e.g. --flag=--no-offload=uso")
    parser.add_argument("--min-share", type=amount, help="fail when one flow gets less of the bare link")
    parser.add_argument("--max-added-us", type=amount, help="fail when the p50 round trip is this much longer")
    options = parser.parse_args()
    try:
        options.peers = {} if options.no_peers else find_peers(options.peer)
    except hosts.CommandError as error:
        parser.error(str(error))
    for name, usual, quick in (("rounds", 5, 2), ("seconds", 3.0, 0.4), ("steps", 7, 4)):
        if getattr(options, name) is None:
            setattr(options, name, quick if options.quick else usual)
    return options


def variant(text: str) -> Variant:
    """The name before the colon; the flags (``--x=y``) and environment (``X=y``) after it."""
    name, _, rest = text.partition(":")
    words = [word for word in rest.split(",") if word]
    if wrong := [word for word in words if not word.startswith("-") and "=" not in word]:
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is neither a flag nor NAME=VALUE")
    flags = [word for word in words if word.startswith("-")]
    return name, flags, dict(word.split("=", 1) for word in words if word not in flags)


def run(options: argparse.Namespace, lab: hosts.Lab) -> tuple[list[Round], Result]:
    """The rounds, and the facts about each way. A peer that does not come up is said, and left out."""
    left, right = lab.namespace("left"), lab.namespace("right")
    lab.veth(left, [f"{LEFT}/24"], right, [f"{RIGHT}/24"], mtu=options.mtu)
    ways: dict[str, Way] = {"bare": Bare(), "cryprq": Cryprq(*options.flag, package=options.package)}
    ends = {name: way.up(left, right) for name, way in ways.items()}
    for name, way in options.peers.items():
        try:
            ends[name], ways[name] = way.up(left, right), way
        except hosts.CommandError as error:
            print(f"bench: {name} is left out: {error}", file=sys.stderr)
    # On a cable of its own: nodes of one host would collide.
    for number, (name, flags, env) in enumerate(options.variant):
        way = Cryprq(*flags, package=options.package, env=env)
        pair = lab.namespace(f"left{number}"), lab.namespace(f"right{number}")
        lab.veth(pair[0], [f"{LEFT}/24"], pair[1], [f"{RIGHT}/24"], mtu=options.mtu)
        ends[name], ways[name] = way.up(*pair), way
    plan = Plan(options.seconds, options.steps, offered(options.loads), options.segments)
    rounds: list[Round] = []
    for _ in steps(range(options.rounds), "bench", "rounds"):
        rounds.append({name: measure(ends[name], plan, way.pids) for name, way in ways.items()})
    return rounds, {name: way.facts() for name, way in ways.items()}


def main() -> int:
    options = parse()
    if (reason := sandbox.enter()) is not None:
        print(f"bench: no network namespaces: {reason}", file=sys.stderr)
        return 1
    try:
        build()
        with tempfile.TemporaryDirectory(prefix="cryprq-bench-") as directory, hosts.Lab(Path(directory)) as lab:
            rounds, facts = run(options, lab)
    except hosts.CommandError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    report = summarise(rounds)
    print(table(report), file=sys.stderr)
    settings = {key: getattr(options, key) for key in ("rounds", "seconds", "steps", "segments", "mtu")}
    settings["congestion"] = CONGESTION
    print(json.dumps({"environment": environment(), "settings": settings, "paths": report, "facts": facts}, indent=2))
    mine = report["cryprq"]
    slow = options.min_share is not None and mine["share"]["tcp_1_bits_per_second"]["median"] < options.min_share
    late = options.max_added_us is not None and mine["added"]["p50_us"]["median"] > options.max_added_us
    return int(slow or late)


if __name__ == "__main__":
    sys.exit(main())
