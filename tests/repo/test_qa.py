"""The QA scripts: what they run passes, each kind of fault is noticed, and the exit status is the truth.

The runs are made side by side, since they mostly wait. The other scenarios take longer and are the scripts' own
business: ``scripts/sweep.sh --all``, and ``--all --self-test`` for the faults.
"""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from lab import ROOT

SWEEP = str(ROOT / "scripts" / "sweep.sh")
RUNS = {
    "baseline": (SWEEP, "--scenario", "baseline-netns-handshake"),
    "peer-drops": (SWEEP, "--scenario", "baseline-netns-handshake", "--fault", "peer-drops"),
    "allowlist-ignored": (SWEEP, "--scenario", "peer-denied", "--fault", "allowlist-ignored"),
    "rotation-off": (SWEEP, "--scenario", "rotation-60s", "--fault", "rotation-off"),
    "stays-cut": (SWEEP, "--scenario", "roaming", "--fault", "stays-cut"),
    "upgrade": (str(ROOT / "qa" / "upgrade_test.sh"),),
}
NOTICED = {
    "peer-drops": "flow: every datagram to the listener arrived, once",
    "allowlist-ignored": "peers_denied_total",
    "rotation-off": "rotations of node-dialer",
    "stays-cut": "dialer to listener: pings answered",
}
"""A check that each fault must make fail."""

pytestmark = pytest.mark.netns


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, Path]]:
    """Of every run: exit status, output, evidence."""
    directory = tmp_path_factory.mktemp("qa")
    environ = os.environ | {"ROTATION_INTERVAL": "5"}
    running = {
        name: subprocess.Popen(
            [*command, "--output", str(directory / name)],
            env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for name, command in RUNS.items()
    }  # fmt: skip
    try:
        found = {name: (process.communicate(timeout=180)[0], process.returncode) for name, process in running.items()}
    finally:
        for process in running.values():
            process.kill()
    return {name: (status, text, directory / name) for name, (text, status) in found.items()}


def verdict(path: Path) -> Any:
    return json.loads((path / "verdict.json").read_text())


def test_baseline_passes_and_leaves_its_evidence(outputs: dict[str, tuple[int, str, Path]]) -> None:
    status, text, evidence = outputs["baseline"]
    assert status == 0, text
    folder = evidence / "baseline-netns-handshake"
    found = verdict(folder)
    assert found["passed"] and len(found["checks"]) >= 20 and found["error"] is None
    assert json.loads((evidence / "summary.json").read_text())["passed"]
    for end in ("listener", "dialer"):
        assert found["builds"][f"node-{end}"]["version"]
        log = (folder / f"node-{end}.log").read_text()
        assert '"event": "handshake_complete"' in log and '"event": "node_stopped"' in log
        for moment in ("before", "after"):
            metrics = (folder / f"metrics-{moment}-node-{end}.prom").read_text()
            assert "cryprq_handshakes_success_total 1.0" in metrics
    assert not [path for path in folder.iterdir() if "identity" in path.name]  # nothing secret is evidence


@pytest.mark.parametrize("fault", NOTICED)
def test_fault_is_noticed(outputs: dict[str, tuple[int, str, Path]], fault: str) -> None:
    status, text, evidence = outputs[fault]
    assert status == 1, text
    (folder,) = (path for path in evidence.iterdir() if path.is_dir())
    found = verdict(folder)
    assert not found["passed"] and found["fault"] == fault
    assert NOTICED[fault] in {check["check"] for check in found["checks"] if not check["ok"]}
    summary = json.loads((evidence / "summary.json").read_text())
    assert not summary["passed"] and summary["scenarios"][0]["failures"] == found["failures"] != []


def test_upgrade_and_rollback_under_traffic(outputs: dict[str, tuple[int, str, Path]]) -> None:
    status, text, evidence = outputs["upgrade"]
    assert status == 0, text
    assert verdict(evidence)["passed"]


def test_interrupted_run_has_not_passed(tmp_path: Path) -> None:
    evidence = tmp_path / "evidence"
    process = subprocess.Popen([SWEEP, "--scenario", "rotation-60s", "--output", str(evidence)])
    folder = evidence / "rotation-60s"
    try:
        end = time.monotonic() + 30
        while not folder.exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(1)
        process.terminate()
        assert process.wait(30) == 130
    finally:
        process.kill()
    assert verdict(folder)["failures"] == ["interrupted"]
    assert not json.loads((evidence / "summary.json").read_text())["passed"]


def run(*arguments: str, path: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    variables = os.environ | environ | ({"PATH": path} if path is not None else {})
    return subprocess.run(arguments, env=variables, capture_output=True, text=True, timeout=60)


def test_list_names_every_scenario() -> None:
    done = run(SWEEP, "--list")
    assert done.returncode == 0
    for name in (
        "baseline-docker-handshake",
        "baseline-netns-handshake",
        "rotation-60s",
        "parallel-dialers",
        "peer-denied",
        "soak",
        "reconnect",
        "rolling-restart",
        "roaming",
    ):
        assert f"\n{name} " in f"\n{done.stdout}"


@pytest.mark.parametrize(
    ("arguments", "environ", "says"),
    [
        ((), {}, "nothing to do"),
        (("--scenario", "nonsense"), {}, "no scenario nonsense"),
        (("--scenario", "baseline-docker-handshake", "--runtime", "netns"), {}, "does not run with --runtime netns"),
        (("--all",), {"SOAK_DURATION": "long"}, "SOAK_DURATION=long"),
        (("--all",), {"PARALLEL_COUNT": "0"}, "PARALLEL_COUNT=0"),
    ],
)
def test_wrong_call_runs_nothing(arguments: tuple[str, ...], environ: dict[str, str], says: str) -> None:
    done = run(SWEEP, *arguments, **environ)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1 and says in done.stderr


@pytest.mark.parametrize("name", ["roaming", "summary.json"])
def test_evidence_of_another_run_is_not_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    done = run(SWEEP, "--scenario", "roaming", "--output", str(tmp_path))
    assert done.returncode == 2 and "exists" in done.stderr


def test_without_a_docker_engine_it_says_so(tmp_path: Path) -> None:
    engine = tmp_path / "docker"
    engine.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    engine.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    for command in ((str(ROOT / "scripts" / "docker_vpn_test.sh"),), (SWEEP, "--all", "--runtime", "docker")):
        done = run(*command, path=path)
        assert done.returncode == 2
        assert "no Docker engine answers" in done.stderr and "--runtime netns" in done.stderr
