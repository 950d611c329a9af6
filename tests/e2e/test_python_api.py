"""docs/python-api.md keeps its word: its programs run against each other, and it names what there is."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

import cryprq
from cryprq import NodeConfig
from cryprq.config.options import table
from lab import ROOT
from lab.hosts import Lab, Process

PAGE = (ROOT / "docs" / "python-api.md").read_text()
MYPY = Path(sys.executable).with_name("mypy")


# With it each part of a line is a write of its own, and the log comes in between.
WHOLE_LINES = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, Path]:
    """The programs of the page, by name, in files of their own."""
    found = {}
    for text in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        name = re.match(r'"""(\w+\.py): ', text)
        assert name is not None
        found[name[1]] = tmp_path / name[1]
        found[name[1]].write_text(text)
    assert set(found) == {"gateway.py", "dialer.py"}
    return found


def test_programs_make_a_tunnel(lab: Lab, programs: dict[str, Path]) -> None:
    here, there = lab.namespace("here"), lab.namespace("there")
    lab.veth(here, ["192.0.2.1/24"], there, ["192.0.2.2/24"])
    dialer = [sys.executable, str(programs["dialer.py"]), str(lab.directory / "dialer")]
    name = there.run(*dialer).strip()
    command = [sys.executable, str(programs["gateway.py"]), str(lab.directory / "gateway"), name]
    gateway = here.start("gateway", *command, env=WHOLE_LINES)
    gateway.wait_for("listening ")
    address = said(gateway, "listening")[0]

    dialling = there.start("dialer", *dialer, address, env=WHOLE_LINES)
    gateway_id = address.rpartition("/")[2]
    dialling.wait_for(f"{gateway_id} at ")
    assert re.fullmatch(
        rf"{gateway_id} at 192\.0\.2\.1:9999: [a-z0-9-]+, epoch 1, we are 10\.77\.0\.\d+\n", dialling.output()
    )
    gateway.wait_for(f"up {name}")
    assert there.measure("ping", "10.77.0.1", count=3, interval=0.01)["received"] == 3
    assert dialling.stop() == 0, dialling.output()
    gateway.wait_for(f"down {name}")
    assert said(gateway, "up") == said(gateway, "down") == [name]

    assert gateway.stop() == 0, gateway.output()
    assert said(gateway, "event=node_stopped")
    for host in (here, there):
        assert "cryprq0" not in host.ip("-brief link")


def said(process: Process, word: str) -> list[str]:
    """What follows the word, in each line that begins with it."""
    return [line.split(" ", 1)[1] for line in process.output().splitlines() if line.startswith(f"{word} ")]


@pytest.mark.parametrize(
    ("program", "arguments", "says"),
    [
        ("gateway.py", ["x"], "gateway.py: 'x' is not a peer ID: "),
        ("dialer.py", ["/ip4/192.0.2.1/udp/9999"], "dialer.py: '/ip4/192.0.2.1/udp/9999' is not a multiaddr "),
        (
            "dialer.py",
            ["/ip4/192.0.2.1/udp/9999/quic-v1"],
            "dialer.py: --peer /ip4/192.0.2.1/udp/9999/quic-v1 does not",
        ),
    ],
)
def test_mistake_is_one_line(
    programs: dict[str, Path], tmp_path: Path, program: str, arguments: list[str], says: str
) -> None:
    done = subprocess.run(
        [sys.executable, programs[program], tmp_path / "files", *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr.startswith(says)
    assert done.stderr.count("\n") == 1


def test_dialer_gives_up(lab: Lab, programs: dict[str, Path]) -> None:
    """Nobody is there: a program has to notice by itself, since a node never gives up."""
    host = lab.namespace("alone")
    quick = programs["dialer.py"]
    quick.write_text(quick.read_text().replace("timeout(20)", "timeout(1)"))
    address = f"/ip4/127.0.0.1/udp/9/quic-v1/p2p/{cryprq.Identity.generate().peer_id}"
    command = [sys.executable, str(quick), str(lab.directory / "files"), address]
    dialer = host.start("dialer", *command, env=WHOLE_LINES)
    assert dialer.wait() == 1
    assert dialer.output().splitlines()[-1] == "dialer.py: no tunnel within 20 seconds"


def test_signal_while_a_program_waits_leaves_nothing(lab: Lab, programs: dict[str, Path]) -> None:
    host = lab.namespace("here")
    command = [sys.executable, str(programs["gateway.py"]), str(lab.directory / "files")]
    gateway = host.start("gateway", *command, env=WHOLE_LINES)
    gateway.wait_for("listening ")
    assert "cryprq0" in host.ip("-brief link")
    gateway.signal(signal.SIGINT)  # asyncio.run turns it into a cancellation
    assert gateway.wait() != 0
    assert "cryprq0" not in host.ip("-brief link")
    assert not (lab.directory / "files" / "socket").exists()


@pytest.mark.skipif(not MYPY.exists(), reason="no mypy (the extra dev)")
def test_programs_have_the_types_that_the_package_has(programs: dict[str, Path]) -> None:
    command = [str(MYPY), "--strict", "--cache-dir", str(ROOT / ".mypy_cache"), *map(str, programs.values())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


# ---- what the page says there is ----


def first_cells(before: str) -> set[str]:
    """What is named at the beginning of each row of the table that stands before a text."""
    table_text = PAGE[: PAGE.index(before)].rpartition("\n|---|")[2]
    return set(re.findall(r"^\| `(\w+)", table_text, re.MULTILINE))


def test_page_names_what_the_package_exports() -> None:
    assert first_cells("\n## A gateway") == set(cryprq.__all__)
    for name in cryprq.__all__:
        assert getattr(cryprq, name).__doc__, name


def test_page_has_every_field_whose_name_or_type_is_not_the_flags() -> None:
    explained = first_cells("\nA field may be left out")
    rows = table(NodeConfig)
    assert explained <= {field.name for field in fields(NodeConfig)}
    plain = {field.name: field.type for field in fields(NodeConfig) if field.name not in explained}
    assert plain
    for name, kind in plain.items():
        assert rows[name].name == name.replace("_", "-")
        assert kind in (str, int, bool, Path), name
