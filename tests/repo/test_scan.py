"""release/scan.sh with stand-ins for Grype and Syft, which insist on the arguments that the real ones take and
answer in their formats: what is found, what fails, and what is no answer at all."""

import contextlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from lab import ROOT

SCRIPT = ROOT / "release" / "scan.sh"
VERSION = "1.2.3"
BILL = f"sbom-{VERSION}.spdx.json"

GRYPE = """#!/bin/sh
[ "$1" = "sbom:{bill}" ] && [ "$2 $3" = "--output json" ] && [ "$4" = --fail-on ] && [ $# -eq 5 ] || {{
    echo "ERROR unknown arguments: $*" >&2
    exit 1
}}
[ -s "{bill}" ] || {{ echo "ERROR unable to open {bill}" >&2; exit 1; }}
echo "$5" >"{level}"
cat <<'END'
{output}
END
echo "{said}" >&2
exit {status}
"""
SYFT = """#!/bin/sh
[ "$*" = "scan --quiet --output spdx-json --source-name cryprq --source-version 1.2.3 dir:." ] || exit 1
[ -d wheels ] || exit 1
cat <<'END'
{output}
END
exit {status}
"""
ABOVE = "[0001] ERROR discovered vulnerabilities at or above the severity threshold"
NO_DATABASE = "ERROR failed to load vulnerability db: database does not exist"


def match(package: str, severity: str, fix: str = "") -> dict[str, object]:
    versions = [fix] if fix else []
    state = "fixed" if fix else "not-fixed"
    return {
        "vulnerability": {
            "id": f"CVE-{package}",
            "severity": severity,
            "fix": {"versions": versions, "state": state},
        },
        "artifact": {"name": package, "version": "1", "purl": f"pkg:pypi/{package}@1"},
    }


def answer(*matches: dict[str, object]) -> str:
    """Grype's JSON, as far as anybody reads it."""
    database = {"status": {"schemaVersion": "v6.1.0", "built": "2026-11-20T06:00:00Z", "valid": True}}
    return json.dumps(
        {"matches": matches, "descriptor": {"name": "grype", "version": "0.104.0", "db": database}, "distro": {}}
    )


NOTHING = answer()
SOME = answer(match("low", "Low"), match("high", "High", "2"), match("odd", "Unknown"))
WORST = answer(match("high", "High"), match("worst", "Critical", "3"))


@pytest.fixture
def release(tmp_path: Path) -> Path:
    """A release folder, as far as the scan reads it."""
    folder = tmp_path / "release-1.2.3"
    (folder / "security").mkdir(parents=True)
    (folder / "wheels").mkdir()
    (folder / "security" / BILL).write_text(json.dumps({"spdxVersion": "SPDX-2.3", "packages": []}))
    return folder


def install(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


class Scan:
    """Runs the script on a release folder, with the tools that were put in place."""

    def __init__(self, release: Path, tools: Path) -> None:
        self.release = release
        self.tools = tools
        self.level = tools.parent / "level"

    def grype(self, output: str, status: int = 0, said: str = "") -> None:
        bill = self.release / "security" / BILL
        text = GRYPE.format(bill=bill, level=self.level, output=output, said=said, status=status)
        install(self.tools, "grype", text)

    def syft(self, output: str, status: int = 0) -> None:
        install(self.tools, "syft", SYFT.format(output=output, status=status))

    def run(self, **environ: str) -> tuple[int, str]:
        """The exit status and what was said."""
        # A grype or syft of this machine is out of reach, and so is every image.
        base = {key: value for key, value in os.environ.items() if not key.startswith(("GRYPE_", "SYFT_"))}
        path = os.pathsep.join([str(self.tools), "/usr/bin", "/bin"])
        done = subprocess.run(
            [SCRIPT, self.release, VERSION], capture_output=True, text=True, timeout=60,
            env=base | {"PYTHON": sys.executable, "PATH": path} | environ,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr

    def report(self) -> list[str]:
        return (self.release / "security" / f"grype-{VERSION}.txt").read_text().splitlines()


@pytest.fixture
def scan(release: Path, tmp_path: Path) -> Scan:
    (tmp_path / "tools").mkdir()
    return Scan(release, tmp_path / "tools")


# ---- Grype ----


def test_nothing_found_is_clear(scan: Scan) -> None:
    scan.grype(NOTHING)
    assert scan.run()[0] == 0
    title = "scanned by Grype 0.104.0 with the data of 2026-11-20T06:00:00Z: 0 findings, 0 of them critical or above"
    assert scan.report() == [title]
    assert scan.level.read_text() == "critical\n"


def test_findings_below_the_level_are_reported_and_pass(scan: Scan) -> None:
    scan.grype(SOME, said="[0000]  WARN something that a reader should know")
    status, said = scan.run()
    assert status == 0
    assert said == scan.report()[0] + "\n"
    assert scan.report()[0].endswith("3 findings, 0 of them critical or above")
    assert scan.report()[1:] == [
        "high       high 1: CVE-high, fixed in 2",
        "low        low 1: CVE-low, not-fixed",
        "unknown    odd 1: CVE-odd, not-fixed",
        "grype: [0000]  WARN something that a reader should know",
    ]


@pytest.mark.parametrize("status", [2, 1])  # of now, and of older versions, where 1 is any failure, too
def test_findings_at_the_level_fail(scan: Scan, status: int) -> None:
    scan.grype(WORST, status, ABOVE)
    assert scan.run()[0] == 1
    assert scan.report()[0].endswith("2 findings, 1 of them critical or above")
    assert scan.report()[1] == "critical   worst 1: CVE-worst, fixed in 3"


def test_level_is_the_one_that_was_given(scan: Scan) -> None:
    scan.grype(SOME, 2, ABOVE)
    assert scan.run(GRYPE_FAIL_LEVEL="high")[0] == 1
    assert scan.level.read_text() == "high\n"
    assert scan.report()[0].endswith("3 findings, 1 of them high or above")


def test_level_that_is_none_is_a_wrong_call(scan: Scan) -> None:
    scan.grype(NOTHING)
    status, said = scan.run(GRYPE_FAIL_LEVEL="terrible")
    assert (status, "terrible is none of negligible, low" in said) == (2, True)


def test_findings_fail_whatever_grype_itself_says_of_them(scan: Scan) -> None:
    scan.grype(WORST, 0)
    assert scan.run()[0] == 1


def test_threshold_that_only_grype_sees_fails(scan: Scan) -> None:
    scan.grype(SOME, 2, ABOVE)
    assert scan.run()[0] == 1


@pytest.mark.parametrize(
    ("output", "status", "said", "why"),
    [
        ("", 1, NO_DATABASE, "not scanned: Grype ended with status 1"),
        (NOTHING, 1, "ERROR something at the end", "not scanned: Grype ended with status 1"),
        ("", 0, "", "not scanned: Grype's answer is no report"),
        ("No vulnerabilities found", 0, "", "not scanned: Grype's answer is no report"),
        (WORST[: len(WORST) // 2], 0, "", "not scanned: Grype's answer is no report"),
        ('{"matches": []}', 0, "", "not scanned: Grype's answer is no report"),
        (NOTHING.replace("[]", "null"), 0, "", "not scanned: Grype's answer is no report"),
    ],
    ids=["no database", "failed late", "silence", "prose", "cut off", "no descriptor", "no list"],
)
def test_no_answer_is_not_a_clear_one(scan: Scan, output: str, status: int, said: str, why: str) -> None:
    scan.grype(output, status, said)
    assert scan.run()[0] == 3
    assert scan.report()[0].startswith(why)
    assert not said or scan.report()[-1] == f"grype: {said}"


def test_without_grype_the_report_says_that_nothing_was_scanned(scan: Scan) -> None:
    status, said = scan.run()
    assert status == 3
    assert scan.report()[0].startswith("not scanned: Grype was not at hand")
    assert said == scan.report()[0] + "\n"


def test_release_without_a_bill_is_a_wrong_call(scan: Scan) -> None:
    (scan.release / "security" / BILL).unlink()
    assert scan.run() == (2, f"scan: there is no security/{BILL}\n")


# ---- Syft ----


def test_bill_of_syft_lies_beside_ours(scan: Scan) -> None:
    scan.grype(NOTHING)
    scan.syft('{"spdxVersion": "SPDX-2.3"}')
    assert scan.run()[0] == 0
    assert json.loads((scan.release / "security" / f"syft-{VERSION}.spdx.json").read_text())["spdxVersion"]


@pytest.mark.parametrize(("output", "status"), [("", 1), ("{}", 0), ("no JSON", 0), ("", 0)])
def test_syft_that_fails_or_answers_nonsense_is_an_error(scan: Scan, output: str, status: int) -> None:
    scan.grype(NOTHING)
    scan.syft(output, status)
    result, said = scan.run()
    assert result == 2
    assert said.splitlines()[-1].startswith("scan: Syft")


# ---- both as images ----


def engine() -> Path:
    """The engine's socket. This run has a /run of its own (sandbox.enter): it is where some ancestor sees it."""
    pid = os.getpid()
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        path = Path("/proc", str(pid), "root", "run", "docker.sock")
        if os.access(path, os.W_OK):
            return path
    return Path("/run/docker.sock")


ENGINE = engine()


def docker(*arguments: str, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ["docker", *arguments], input=data, capture_output=True, timeout=60,
        env=os.environ | {"DOCKER_HOST": f"unix://{ENGINE}"},
    )  # fmt: skip


def obstacle() -> str | None:
    """Why no image can be made and run here, or None."""
    if shutil.which("docker") is None:
        return "no docker program"
    done = docker("info", "--format", "{{.ServerVersion}}")
    return None if done.returncode == 0 else f"no Docker engine answers at {ENGINE}"


@contextlib.contextmanager
def image(name: str, program: str) -> Iterator[str]:
    """An image whose entry point is a shell script, with the shell of this machine."""
    libraries = {
        word
        for line in subprocess.run(["ldd", "/bin/sh", "/bin/cat"], capture_output=True, text=True).stdout.splitlines()
        for word in line.split()
        if word.startswith("/") and not word.endswith(":")
    }
    packed = BytesIO()
    with tarfile.open(fileobj=packed, mode="w", dereference=True) as archive:
        for path in ("/bin/sh", "/bin/cat", *sorted(libraries)):
            archive.add(path)
        info = tarfile.TarInfo("tool")
        info.size, info.mode = len(program.encode()), 0o755
        archive.addfile(info, BytesIO(program.encode()))
    made = docker("import", "--change", 'ENTRYPOINT ["/tool"]', "--change", "ENV PATH=/bin", "-", name,
                  data=packed.getvalue())  # fmt: skip
    assert made.returncode == 0, made.stderr
    try:
        yield name
    finally:
        docker("image", "rm", name)


@pytest.fixture
def docker_scan(scan: Scan) -> Scan:
    """With the docker program among the tools, and nothing else."""
    if reason := obstacle():
        pytest.skip(f"images of Grype and Syft cannot be stood in for: {reason}")
    install(scan.tools, "docker", f'#!/bin/sh\nDOCKER_HOST=unix://{ENGINE} exec {shutil.which("docker")} "$@"\n')
    return scan


def test_images_see_the_release_and_their_findings_count(docker_scan: Scan) -> None:
    grype = GRYPE.format(bill=f"/security/{BILL}", level="/dev/null", output=WORST, said=ABOVE, status=2)
    named = [f"cryprq-test-{tool}:{os.getpid()}" for tool in ("grype", "syft")]
    with image(named[0], grype), image(named[1], SYFT.format(output='{"spdxVersion": "SPDX-2.3"}', status=0)):
        status, said = docker_scan.run(GRYPE_IMAGE=named[0], SYFT_IMAGE=named[1])
    assert status == 1, said
    assert docker_scan.report()[0].endswith("2 findings, 1 of them critical or above")
    assert (docker_scan.release / "security" / f"syft-{VERSION}.spdx.json").stat().st_size > 10


def test_image_that_is_not_there_is_no_answer(docker_scan: Scan) -> None:
    assert docker_scan.run(GRYPE_IMAGE="cryprq-test-nothing:none")[0] == 3
    assert docker_scan.report()[0] == "not scanned: Grype ended with status 125"


def test_tool_that_is_installed_comes_before_its_image(scan: Scan) -> None:
    scan.grype(NOTHING)
    assert scan.run(GRYPE_IMAGE="cryprq-test-nothing:none")[0] == 0


# ---- the release script: what it refuses before it builds anything ----


@pytest.mark.parametrize(
    ("environ", "why"),
    [
        ({"VERSION": "9.8.7"}, "VERSION is 9.8.7, but pyproject.toml says"),
        ({"GRYPE_FAIL_LEVEL": "terrible"}, "GRYPE_FAIL_LEVEL=terrible is no severity"),
        ({"QA_RUNTIME": "cloud"}, "QA_RUNTIME=cloud is neither netns nor docker"),
    ],
)
def test_release_script_refuses_at_once(environ: dict[str, str], why: str) -> None:
    script = SCRIPT.parent.parent / "finish_qa_and_package.sh"
    done = subprocess.run(
        ["/bin/bash", script], capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYTHON": sys.executable} | environ,
    )  # fmt: skip
    assert done.returncode == 1
    assert why in done.stderr.splitlines()[-1], done.stderr


def test_release_script_names_the_programs_that_are_missing(tmp_path: Path) -> None:
    for name in ("dirname", "sed", "uname", "git"):
        found = shutil.which(name)
        assert found is not None
        (tmp_path / name).symlink_to(found)
    script = SCRIPT.parent.parent / "finish_qa_and_package.sh"
    done = subprocess.run(
        ["/bin/bash", script], capture_output=True, text=True, timeout=60,
        env=os.environ | {"PYTHON": sys.executable, "PATH": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("finish_qa_and_package: this machine lacks make, cargo, perl")
    assert len(done.stderr.splitlines()) == 1
