"""Is this checkout slower than a commit? Both are measured in turn in one run, so that the machine doesn't decide.

The commit's tree is unpacked and built under build/compare/. Either build has two hosts and a cable of its
own; the rounds alternate, and every other round goes in reverse order. Each figure is compared within each round.
A regression is a median ratio that is worse than the threshold; since chance finds one now and then, what looks like
one is measured again, with twice as many rounds, and must be worse there, too.

    bench/compare.py origin/main                      about two minutes
    bench/compare.py HEAD~3 --threshold 10 --rounds 9 --loads tcp1
    bench/compare.py HEAD --change HEAD               nothing against itself: what the machine's noise looks like

Exit status 1 for a regression, 2 when it cannot measure. A table goes to stderr, JSON to stdout.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.figures import BY_KEY, Result, Round, environment, summarise, table
from bench.loads import LOADS, Ends, Plan, build, measure
from bench.options import amount, count, positive
from bench.paths import LEFT, RIGHT, Cryprq
from lab import ROOT, hosts, sandbox
from lab.progress import steps

BASE, CHANGE = "base", "change"
GATES = ("tcp_1_bits_per_second", "udp_64_per_second", "udp_1400_per_second", "p50_us", "cpu_seconds_per_gigabyte")
"""Figures that can fail a change: those that repeat well enough on a shared machine."""


GIT = ("git", "-c", "safe.directory=*", "-C", str(ROOT))


def commit(name: str) -> str:
    """The ID of the commit that is meant, as a kind of option."""
    if shutil.which("git") is None:
        raise argparse.ArgumentTypeError("there is no git that knows commits")
    ask = [*GIT, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"]
    done = subprocess.run(ask, capture_output=True, text=True)
    if done.returncode != 0:
        raise argparse.ArgumentTypeError(f"there is no commit {name}")
    return done.stdout.strip()


def check_out(sha: str) -> Path:
    """A built copy of the tree of a commit, kept for the next time; subprocess.CalledProcessError."""
    directory = ROOT / "build" / "compare" / sha[:12]
    if not (directory / ".built").exists():
        directory.mkdir(parents=True, exist_ok=True)
        tree = subprocess.run([*GIT, "archive", sha], check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", str(directory)], input=tree, check=True)
        command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
        environ = {**os.environ, "CRYPRQ_GIT_SHA": sha[:12]}
        subprocess.run(command, cwd=directory, check=True, stdout=sys.stderr, env=environ)
        (directory / ".built").touch()
    return directory


class Build:
    """One build: two hosts, a cable, two nodes."""

    def __init__(self, lab: hosts.Lab, name: str, package: Path) -> None:
        left, right = lab.namespace(f"{name}-left"), lab.namespace(f"{name}-right")
        lab.veth(left, [f"{LEFT}/24"], right, [f"{RIGHT}/24"])
        self.way = Cryprq(package=package)
        self.ends: Ends = self.way.up(left, right)

    def measure(self, plan: Plan) -> dict[str, float | None]:
        return measure(self.ends, plan, self.way.pids)


def play(builds: Mapping[str, Build], plan: Plan, count: int) -> list[Round]:
    rounds: list[Round] = []
    for number in steps(range(count), "compare", "rounds"):
        names = list(builds) if number % 2 == 0 else list(builds)[::-1]
        figures = {name: builds[name].measure(plan) for name in names}
        rounds.append({name: figures[name] for name in builds})
    return rounds


def regressions(report: Result, threshold: float) -> dict[str, float]:
    """The gates whose median ratio is worse than ``threshold`` percent, with that ratio."""
    found = {}
    for key in GATES:
        share = report[CHANGE]["share"].get(key)
        if share is None:
            continue
        ratio = share["median"]
        worse = 1 / ratio if BY_KEY[key].more_is_better else ratio
        if worse > 1 + threshold / 100:
            found[key] = ratio
    return found


def loads_of(keys: Sequence[str]) -> tuple[str, ...]:
    """What has to be measured again for these gates."""
    source = {"tcp_1": "tcp1", "cpu_s": "tcp1", "udp_6": "udp64", "udp_1": "udp1400", "p50_u": "rtt"}
    return tuple(sorted({source[key[:5]] for key in keys}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commit", type=commit, help="what to compare with")
    parser.add_argument("--change", type=commit, help="a commit to measure instead of this checkout, as it is built")
    parser.add_argument("--threshold", type=amount, default=15.0, help="percent; 15 unless told")
    parser.add_argument("--rounds", type=count, default=7)
    parser.add_argument("--seconds", type=positive, default=1.0, help="of each run")
    parser.add_argument("--loads", nargs="+", choices=LOADS, default=["rtt", "tcp1", "udp1400", "udp64"])
    options = parser.parse_args()
    if (reason := sandbox.enter()) is not None:
        print(f"compare: no network namespaces: {reason}", file=sys.stderr)
        return 2
    try:
        packages = {BASE: check_out(options.commit), CHANGE: check_out(options.change) if options.change else ROOT}
        build()
        return compare(options, packages)
    except (hosts.CommandError, subprocess.CalledProcessError) as error:
        print(f"compare: {error}\n{getattr(error, 'stderr', None) or ''}", file=sys.stderr)
        return 2


def compare(options: argparse.Namespace, packages: Mapping[str, Path]) -> int:
    """Measures, prints, and says whether it is a regression, as an exit status."""
    plan = Plan(options.seconds, 0, tuple(options.loads))
    with tempfile.TemporaryDirectory(prefix="cryprq-bench-") as directory, hosts.Lab(Path(directory)) as lab:
        builds = {name: Build(lab, name, package) for name, package in packages.items()}
        report = summarise(play(builds, plan, options.rounds), BASE)
        print(table(report), file=sys.stderr)
        failed = regressions(report, options.threshold)
        again: Result | None = None
        if failed:
            print(f"worse: {', '.join(failed)}; once more", file=sys.stderr)
            plan = Plan(options.seconds, 0, loads_of(list(failed)))
            again = summarise(play(builds, plan, 2 * options.rounds), BASE)
            print(table(again), file=sys.stderr)
            confirmed = regressions(again, options.threshold)
            failed = {key: confirmed[key] for key in failed if key in confirmed}
    print(json.dumps({"environment": environment(), "first": report, "again": again, "regressions": failed}, indent=2))
    for key, ratio in failed.items():
        print(f"regression: {BY_KEY[key].title} is {ratio:.2f} of {options.commit[:12]}'s", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
