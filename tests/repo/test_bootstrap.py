"""scripts/bootstrap.sh on machines that lack things: what root gets installed, and what others are told to install."""

import shutil
import subprocess
from pathlib import Path

import pytest

from lab import ROOT

FOR_BUILDING = "python3 python3-dev python3-venv gcc libc6-dev libssl-dev make iproute2 nftables iputils-ping"
FOR_TESTS = (
    "gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user systemd dbus tshark tmux spin valgrind clang groff-base"
    " mandoc zsh fish graphviz"
)
HIDE = 'for folder in /usr/sbin /usr/share/keyrings; do mount -t tmpfs tmpfs "$folder"; done; '
AS_ROOT = ("unshare", "--mount", "sh", "-c", HIDE + 'exec "$@"', "sh")
AS_USER = (*AS_ROOT, "unshare", "--user", "--map-user", "1000", "--")

pytestmark = pytest.mark.netns  # for the namespaces of mounts and users; in them, everybody is root


class Machine:
    """A PATH on which there is next to nothing, and an apt-get that only writes down how it was called."""

    def __init__(self, directory: Path) -> None:
        self.programs = directory / "bin"
        self.calls = directory / "calls"
        self.directory = directory
        self.programs.mkdir()
        self.calls.touch()
        for name in ("bash", "dirname", "mkdir", "xargs", "echo"):
            self.link(name)

    def link(self, name: str) -> None:
        """A program of this machine."""
        found = shutil.which(name)
        assert found is not None
        (self.programs / name).symlink_to(found)

    def write(self, name: str, script: str) -> None:
        path = self.programs / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def apt(self, status: int = 0, then: str = ":") -> None:
        """apt-get, with the exit status of all that it installs, and what it does then."""
        install = f'echo "E: no such package" >&2; {then}; exit {status}'
        self.write(
            "apt-get",
            f'echo "$DEBIAN_FRONTEND: $*" >>{self.calls}\ncase " $* " in *" install "*) {install};; esac',
        )

    def bootstrap(self, *arguments: str, wrapper: tuple[str, ...] = AS_ROOT) -> subprocess.CompletedProcess[str]:
        return self.run("scripts/bootstrap.sh", *arguments, wrapper=wrapper)

    def run(self, script: str, *arguments: str, wrapper: tuple[str, ...] = AS_ROOT) -> subprocess.CompletedProcess[str]:
        environ = {"PATH": str(self.programs), "PYTHON": "none", "VENV": str(self.directory / "venv")}
        settings = [f"{name}={value}" for name, value in environ.items()]
        command = [*wrapper, "env", *settings, str(ROOT / script), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=60)

    def installed(self) -> str:
        """The packages of the one call that installed some, without the options."""
        (call,) = (line for line in self.calls.read_text().splitlines() if " install " in line)
        assert call.startswith("noninteractive: ") and " -y " in call and "--no-install-recommends" in call
        return call.partition(" install ")[2]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    machine = Machine(tmp_path)
    machine.apt()
    return machine


def test_tests_get_what_they_would_be_skipped_without(machine: Machine) -> None:
    done = machine.bootstrap("--tests")
    assert done.returncode == 0, done.stderr
    assert machine.installed() == FOR_TESTS
    assert machine.calls.read_text().index(" update") < machine.calls.read_text().index(" install ")


def test_what_is_there_from_elsewhere_counts(machine: Machine) -> None:
    for name in (
        "aarch64-linux-gnu-gcc",
        "qemu-aarch64-static",
        "systemd-analyze",
        "spin",
        "valgrind",
        "clang",
        "groff",
        "mandoc",
        "zsh",
        "fish",
        "dot",
        "promtool",
        "prometheus",
    ):
        machine.write(name, "exit 0")
    machine.write("dbus-daemon", "exit 0")
    for name in ("systemd-resolved", "openresolv"):  # unpacked earlier
        (machine.directory / "venv" / name).mkdir(parents=True)
        (machine.directory / "venv" / name / ".unpacked").touch()
    assert machine.bootstrap("--tests").returncode == 0
    assert machine.installed() == "tshark tmux"
    machine.write("tshark", "exit 0")
    machine.write("tmux", "exit 0")
    machine.calls.write_text("")
    done = machine.bootstrap("--tests")
    assert (done.returncode, done.stdout, done.stderr, machine.calls.read_text()) == (0, "", "", "")


def test_fuzzing_gets_the_run_time_of_the_compiler_that_is_there(machine: Machine) -> None:
    machine.link("ln")
    machine.write("new-clang", "[ $1 = -dumpversion ] && echo 14.0.6")  # compiles nothing
    machine.apt(then=f"ln -sf {machine.programs}/new-clang {machine.programs}/clang")
    done = machine.bootstrap("--fuzz")
    assert done.returncode == 0, done.stderr
    calls = machine.calls.read_text().splitlines()
    assert [call.partition(" install ")[2] for call in calls if " install " in call] == ["clang", "libclang-rt-14-dev"]
    machine.write("new-clang", "exit 0")
    machine.calls.write_text("")
    assert machine.bootstrap("--fuzz").returncode == 0
    assert machine.calls.read_text() == ""


def test_compiler_without_its_library_does_not_count(machine: Machine) -> None:
    machine.write("aarch64-linux-gnu-gcc", "exit 1")
    machine.bootstrap("--tests")
    assert machine.installed() == FOR_TESTS


def test_packages_for_tests_that_cannot_be_had_stop_nothing(machine: Machine) -> None:
    machine.apt(status=100)
    done = machine.bootstrap("--tests")
    assert done.returncode == 0
    assert f"could not install {FOR_TESTS}: E: no such package" in done.stderr
    assert "tests that need it are skipped and say so" in done.stdout


def test_others_are_told_once_what_to_install_for_the_tests(machine: Machine) -> None:
    done = machine.bootstrap("--tests", wrapper=AS_USER)
    assert done.returncode == 0
    assert done.stderr == f"bootstrap: not root: please run  sudo apt-get install {FOR_TESTS}\n"
    assert " install " not in machine.calls.read_text()


def test_building_needs_no_package_that_only_tests_use(machine: Machine) -> None:
    done = machine.bootstrap("--system")
    assert done.returncode == 0, done.stderr
    assert machine.installed() == FOR_BUILDING


def test_others_cannot_build_before_they_have_installed_what_is_missing(machine: Machine) -> None:
    done = machine.bootstrap("--system", wrapper=AS_USER)
    assert done.returncode == 1
    assert done.stderr == f"bootstrap: not root: please run  sudo apt-get install {FOR_BUILDING}\n"


def test_packages_for_building_that_cannot_be_had_are_the_end(machine: Machine) -> None:
    machine.apt(status=100)
    done = machine.bootstrap("--system")
    assert done.returncode == 1
    assert "E: no such package" in done.stderr


def test_images_need_debootstrap_and_debians_keys(machine: Machine) -> None:
    assert machine.bootstrap("--images").returncode == 0
    assert machine.installed() == "debootstrap debian-archive-keyring"


def test_base_image_is_made_where_debootstrap_was_missing(machine: Machine) -> None:
    for name in ("date", "mktemp", "rm", "tail"):
        machine.link(name)
    for name in ("docker", "dpkg"):
        machine.write(name, "exit 0")
    machine.apt(then=f'echo "exit 9" >{machine.programs}/debootstrap; chmod +x {machine.programs}/debootstrap')
    machine.link("chmod")
    done = machine.run("release/make_base_image.sh")
    assert machine.installed() == "debootstrap debian-archive-keyring"
    assert (done.returncode, done.stderr.splitlines()[-1][:33]) == (2, "make_base_image: debootstrap fail")


def test_who_cannot_make_an_image_is_told_what_to_install(machine: Machine) -> None:
    machine.write("docker", "exit 0")
    for script in ("scripts/docker_vpn_test.sh", "release/make_base_image.sh"):
        done = machine.run(script, wrapper=AS_USER)
        said = "bootstrap: not root: please run  sudo apt-get install debootstrap debian-archive-keyring\n"
        assert (done.returncode, done.stderr) == (2, said)


def test_wrong_argument_is_one_line() -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "bootstrap.sh", "--everything"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "usage: " in done.stderr


def test_ci_installs_nothing_that_make_does_not() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "apt-get" not in script and "bootstrap" not in script
    assert [line.split()[1] for line in script.splitlines() if line.startswith("make ")] == [
        "lint", "asan", "tsan", "test",
    ]  # fmt: skip
