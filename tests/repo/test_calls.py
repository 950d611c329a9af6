"""Scripts judge how they are called before they look for tools: on a machine that has next to nothing a wrong call gets
one line about the call, and a right one a line about what is missing."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab import ROOT

SHELL = ("bash", "dirname", "sed", "grep", "uname", "realpath")
"""What every Debian has, and these scripts may use to judge a call."""


@pytest.fixture
def bare(tmp_path: Path) -> str:
    """A PATH with a shell and little more; whatever asks for Docker finds no engine."""
    for name in SHELL:
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    return str(tmp_path)


def call(bare: str, script: str, *arguments: str, **environ: str) -> tuple[int, list[str]]:
    """Exit status and the lines of standard error."""
    done = subprocess.run(
        [ROOT / script, *arguments], env={"PATH": bare, **environ}, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, timeout=60, cwd=bare,
    )  # fmt: skip
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


WHEEL = "cryprq-1-cp311-abi3-manylinux_2_28_sparc.whl"
WRONG = [
    ("bench/peers.sh", ("--dir",), {}, 2, "--dir needs a value"),
    ("bench/peers.sh", ("wireguard-go",), {}, 2, "usage: "),
    ("finish_qa_and_package.sh", ("now",), {}, 1, "takes no arguments"),
    ("finish_qa_and_package.sh", (), {"VERSION": "9.8.7"}, 1, "VERSION is 9.8.7, but pyproject.toml says"),
    ("finish_qa_and_package.sh", (), {"GRYPE_FAIL_LEVEL": "terrible"}, 1, "GRYPE_FAIL_LEVEL=terrible is no severity"),
    ("finish_qa_and_package.sh", (), {"QA_RUNTIME": "cloud"}, 1, "QA_RUNTIME=cloud is neither netns nor docker"),
    ("finish_qa_and_package.sh", (), {"QA_SCENARIOS": "soak cloud"}, 1, "there is no scenario cloud"),
    ("finish_qa_and_package.sh", (), {"SOAK_DURATION": "long"}, 1, "SOAK_DURATION=long is no whole number"),
    ("scripts/bare_machine_test.sh", ("--suite",), {}, 2, "--suite wants the name of a Debian"),
    ("scripts/bare_machine_test.sh", ("--quickly",), {}, 2, "usage: "),
    ("scripts/bare_machine_test.sh", (), {"CACHE": str(ROOT / "build" / "cache")}, 2, "is inside the checkout"),
    ("scripts/bootstrap.sh", ("--everything",), {}, 1, "usage: "),
    ("release/build_image.sh", ("one", "two"), {}, 2, "usage: "),
    ("release/build_image.sh", (), {"PLATFORM": "linux/sparc"}, 2, "PLATFORM=linux/sparc is neither"),
    ("release/build_openssl.sh", (), {}, 1, "usage: "),
    ("release/build_wheels.sh", ("sparc",), {}, 1, "unknown target sparc"),
    ("release/build_wheels.sh", (), {"JOBS": "all"}, 1, "JOBS=all is no whole number"),
    ("scripts/build_liboqs.sh", ("--help",), {}, 1, "usage: "),
    ("scripts/build_liboqs.sh", ("one", "two"), {}, 1, "usage: "),
    ("scripts/build_liboqs.sh", (), {"JOBS": "all"}, 1, "JOBS=all is no whole number from 1 on"),
    ("scripts/crate_source.sh", ("folder",), {}, 1, "usage: "),
    ("scripts/crate_source.sh", ("nothing", "crate", "cache"), {}, 1, "there is no nothing/Cargo.lock"),
    ("scripts/docker_vpn_test.sh", ("--runtime",), {}, 2, "usage: "),
    ("scripts/docker_vpn_test.sh", ("--runtime", "cloud"), {}, 2, "usage: "),
    ("scripts/docker_vpn_test.sh", ("now",), {}, 2, "usage: "),
    ("release/make_base_image.sh", ("one", "two"), {}, 2, "usage: "),
    ("release/checksums.sh", (), {}, 2, "usage: "),
    ("release/tools.sh", (), {}, 2, "usage: "),
    ("release/scan.sh", (".", "1.0"), {}, 2, "usage: "),
    ("release/scan.sh", ("release", "1.0"), {"GRYPE_FAIL_LEVEL": "bad"}, 2, "bad is none of negligible, low"),
    ("qa/systemd_test.sh", ("--suite",), {}, 2, "usage: "),
    ("release/test_image.sh", ("1.0",), {}, 2, "usage: "),
    ("release/test_wheel.sh", (), {}, 1, "usage: "),
    ("release/test_wheel.sh", ("nothing.whl",), {}, 1, "there is no nothing.whl"),
    ("scripts/verify_release.sh", (), {}, 1, "usage: "),
    ("scripts/verify_release.sh", ("nothing",), {}, 1, "there is no folder nothing"),
    ("release/with_emulator.sh", ("sparc", "true"), {}, 2, "unknown architecture sparc"),
]


@pytest.mark.parametrize(("script", "arguments", "environ", "status", "says"), WRONG)
def test_wrong_call_is_told_so_whatever_the_machine_lacks(
    bare: str, script: str, arguments: tuple[str, ...], environ: dict[str, str], status: int, says: str
) -> None:
    (Path(bare) / "release" / "security").mkdir(parents=True)
    found, said = call(bare, script, *arguments, **environ)
    assert (found, len(said)) == (status, 1), said
    assert says in said[0]


def test_wheel_for_another_machine_is_told_so(bare: str) -> None:
    (Path(bare) / WHEEL).touch()
    path = str(Path(bare) / WHEEL)
    assert call(bare, "release/test_wheel.sh", path) == (1, [f"test_wheel: no way to run {path} on this machine"])


LACKING = [
    ("scripts/bare_machine_test.sh", ("make", "demo"), {}, 2, "this machine lacks git"),
    ("finish_qa_and_package.sh", (), {}, 1, "this machine lacks python3, git, make, cargo, perl"),
    ("release/build_image.sh", (), {}, 2, "no Docker engine answers"),
    ("release/build_wheels.sh", (), {}, 1, "this machine lacks python3, git, make, perl, cargo"),
    ("scripts/build_liboqs.sh", (), {}, 1, "this machine lacks awk, cargo, cmake, gcc, make"),
    ("scripts/docker_vpn_test.sh", (), {}, 2, "no Docker engine answers"),
    ("release/make_base_image.sh", (), {}, 2, "no Docker engine answers"),
    ("release/tools.sh", ("folder",), {}, 1, "no python3"),
    ("scripts/sweep.sh", ("--all",), {"PYTHON": "/nowhere/python"}, 2, "no /nowhere/python: run  make build  first"),
    ("qa/systemd_test.sh", ("--suite", "trixie"), {}, 2, "no Docker engine answers"),
    ("release/test_image.sh", ("1.0", "image"), {}, 2, "no Docker engine answers"),
    ("qa/upgrade_test.sh", (), {"PYTHON": "/nowhere/python"}, 2, "no /nowhere/python: run  make build  first"),
    ("scripts/verify_release.sh", (".",), {}, 1, "this machine lacks sha256sum"),
]


@pytest.mark.parametrize(("script", "arguments", "environ", "status", "says"), LACKING)
def test_right_call_is_told_what_the_machine_lacks(
    bare: str, script: str, arguments: tuple[str, ...], environ: dict[str, str], status: int, says: str
) -> None:
    found, said = call(bare, script, *arguments, **environ)
    assert (found, len(said)) == (status, 1), said
    assert says in said[0]


BENCHES = [
    ("tunnel.py", ("--rounds", "0"), "'0' is no whole number from 1 on"),
    ("tunnel.py", ("--seconds", "0"), "'0' is not above 0"),
    ("tunnel.py", ("--peer", "cat"), "cat: not a tunnel that is known here, or not found"),
    ("tunnel.py", ("--variant", "name:word"), "'word' is neither a flag nor NAME=VALUE"),
    ("tunnel.py", ("--package", "."), ". has no cryprq that was built in place"),
    ("compare.py", (), "the following arguments are required: commit"),
    ("compare.py", ("--threshold", "-1", "HEAD"), "'-1' is no number from 0 on"),
    ("handshakes.py", ("--count", "few"), "'few' is no whole number from 1 on"),
    ("restart.py", ("--timeout", "inf"), "'inf' is no number from 0 on"),
    ("strangers.py", ("--newcomers", "0"), "'0' is no whole number from 1 on"),
    ("soak.py", ("--minutes", "1"), "too short: at least four samples"),
    ("report.py", ("nothing.json",), "there is no file nothing.json"),
]


@pytest.mark.parametrize(("script", "arguments", "says"), BENCHES)
def test_benchmark_that_is_called_wrongly_says_so_before_anything_else(
    bare: str, script: str, arguments: tuple[str, ...], says: str
) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / script, *arguments], env={"PATH": bare}, capture_output=True, text=True,
        timeout=60, cwd=bare,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr.splitlines()[-1]


def test_comparison_with_a_commit_that_is_none() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "bench" / "compare.py", "no-such-commit"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "there is no commit no-such-commit" in done.stderr.splitlines()[-1]
