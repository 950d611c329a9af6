"""``scripts/sweep.sh``: runs scenarios and writes down what came of them. Exit status 0 only if all of them passed."""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lab import sandbox
from lab.progress import Progress
from qa.report import Report
from qa.scenarios import SCENARIOS, setting
from qa.site import FAULTS, Site

SETTINGS = ("ROTATION_INTERVAL", "PARALLEL_COUNT", "SOAK_DURATION", "SOAK_DIALERS", "ROTATE_SOAK")
CANNOT = 2
"""Exit status for a wrong call, and for a machine that lacks what the runtime needs: nothing was run."""
INTERRUPTED = 130
"""Exit status after SIGINT or SIGTERM, as shells have it. What was made is removed, and the evidence kept."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="sweep.sh", description="Runs QA scenarios with real nodes and real traffic.",
        epilog="Environment: ROTATION_INTERVAL, PARALLEL_COUNT, SOAK_DURATION, SOAK_DIALERS, ROTATE_SOAK, and for "
               "docker IMAGE. See docs/operations.md.",
    )  # fmt: skip
    parser.add_argument("--scenario", action="append", default=[], metavar="NAME", help="run this one; repeatable")
    parser.add_argument("--all", action="store_true", help="run all that the runtime has")
    parser.add_argument("--list", action="store_true", help="list the scenarios and the faults")
    parser.add_argument("--output", type=Path, metavar="DIR", help="evidence goes here [build/qa/TIME]")
    parser.add_argument("--runtime", choices=("netns", "docker"), help="[what the scenarios' names say, else netns]")
    parser.add_argument("--fault", choices=FAULTS, help="break something on purpose")
    parser.add_argument(
        "--self-test", action="store_true", help="put in each scenario's own fault; it passes if the scenario fails"
    )
    return parser.parse_args(argv)


def choose(arguments: argparse.Namespace) -> tuple[str, list[str]]:
    """The runtime and the scenarios. ValueError, one line, if they do not fit."""
    if unknown := [name for name in arguments.scenario if name not in SCENARIOS]:
        raise ValueError(f"no scenario {', '.join(unknown)}; see --list")
    named = [SCENARIOS[name].runtimes[0] for name in arguments.scenario if len(SCENARIOS[name].runtimes) == 1]
    runtime = arguments.runtime or (named[0] if named else "netns")
    if arguments.all:
        return runtime, [name for name, scenario in SCENARIOS.items() if runtime in scenario.runtimes]
    if not arguments.scenario:
        raise ValueError("nothing to do: give --scenario NAME, --all or --list")
    if wrong := [name for name in arguments.scenario if runtime not in SCENARIOS[name].runtimes]:
        raise ValueError(f"{', '.join(wrong)} does not run with --runtime {runtime}")
    return runtime, arguments.scenario


def make_site(runtime: str, directory: Path, fault: str | None) -> Site:
    if runtime == "netns":
        return Site(directory, fault)
    from qa.containers import DockerSite

    return DockerSite(directory, fault)


def obstacle(runtime: str) -> str | None:
    """Why the runtime cannot be used here, or None."""
    if runtime == "netns":
        reason = sandbox.enter()
        return None if reason is None else f"no network namespaces: {reason}"
    from qa.containers import obstacle

    return obstacle()


def run(name: str, runtime: str, fault: str | None, output: Path) -> Report:
    """Runs one scenario; its evidence is in ``output`` afterwards, whatever happens."""
    output.mkdir(parents=True)
    report = Report(name, runtime, fault)
    with tempfile.TemporaryDirectory(prefix="cryprq-qa-") as directory:
        site = None
        try:
            with make_site(runtime, Path(directory), fault) as site:
                SCENARIOS[name].run(site, report)
                site.check_logs(report)
        except Exception as error:  # a scenario that breaks has failed; the others are still worth running
            report.error = f"{type(error).__name__}: {error}"
        except KeyboardInterrupt:
            report.error = "interrupted"
            raise
        finally:
            if site is not None:
                site.keep_evidence(output)
                report.builds = site.builds
            report.write(output / "verdict.json")
    return report


def main(argv: Sequence[str]) -> int:
    arguments = parse(argv)
    if arguments.list:
        for name, scenario in SCENARIOS.items():
            print(f"{name:28} {' '.join(scenario.runtimes):14} {scenario.summary}")
        print("\nfaults, for --fault:")
        for name, meaning in FAULTS.items():
            print(f"{name:28} {'':14} {meaning}")
        return 0
    output = arguments.output or Path("build", "qa", time.strftime("%Y%m%dT%H%M%SZ", time.gmtime()))
    try:
        runtime, names = choose(arguments)
        for variable in SETTINGS:
            setting(variable, 1)
        if clash := [name for name in (*names, "summary.json") if (output / name).exists()]:
            raise ValueError(f"{output / clash[0]} exists: the evidence of another run is not overwritten")
    except ValueError as error:
        print(f"sweep: {error}", file=sys.stderr)
        return CANNOT
    if (reason := obstacle(runtime)) is not None:
        print(f"sweep: {reason}", file=sys.stderr)
        return CANNOT
    results: list[dict[str, Any]] = []
    well = False
    try:
        with Progress("sweep", len(names), unit="scenarios", stream=sys.stdout) as progress:
            for name in names:
                results.append(run_and_tell(name, runtime, arguments, output, progress))
        well = all(result["as_it_should"] for result in results)
    except KeyboardInterrupt:
        print("interrupted")
    summary = {
        "passed": well,
        "runtime": runtime,
        "self_test": arguments.self_test,
        "settings": {name: os.environ[name] for name in (*SETTINGS, "IMAGE") if name in os.environ},
        "scenarios": results,
    }
    (output / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
    print(f"{'all as it should be' if well else 'NOT as it should be'}; evidence in {output}")
    return 0 if well else 1 if len(results) == len(names) else INTERRUPTED


def run_and_tell(
    name: str, runtime: str, arguments: argparse.Namespace, output: Path, progress: Progress
) -> dict[str, Any]:
    """Runs one scenario, prints what came of it, and returns it for the summary."""
    fault = SCENARIOS[name].fault if arguments.self_test else arguments.fault
    title = f"{name}{f' with {fault}' if fault else ''}"
    if progress.live:
        progress.begin(title)
    else:
        progress.say(f"{title} ...")
    report = run(name, runtime, fault, output / name)
    good = report.passed is not arguments.self_test
    seconds = report.verdict()["seconds"]
    word = "passed" if report.passed else "failed"
    word += ", as it should" if arguments.self_test and good else "" if good else ", AND SHOULD NOT"
    if progress.live:
        progress.say(f"{title} {word}, {seconds} s")
    progress.done(f"{title} {word}")
    for line in report.failures():
        progress.say(f"    {line}")
    return {
        "scenario": name,
        "fault": fault,
        "passed": report.passed,
        "as_it_should": good,
        "seconds": seconds,
        "failures": report.failures(),
    }


if __name__ == "__main__":
    # Nodes of another build (CRYPRQ_PROGRAMS) must see what is installed there, not this checkout.
    os.environ.pop("PYTHONPATH", None)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    sys.exit(main(sys.argv[1:]))
