"""The contracts of imports in pyproject.toml: the tree keeps them, and each one sees what it forbids."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab import ROOT

PACKAGES = ("bench", "cryprq", "lab", "qa", "tests")
LINTER = Path(sys.executable).with_name("lint-imports")

pytestmark = pytest.mark.skipif(not LINTER.exists(), reason="no import-linter (the extra dev)")


def broken(folder: Path) -> list[str]:
    """The names of the contracts that a copy of the tree breaks."""
    done = subprocess.run(
        [LINTER, "--no-cache", "--no-logo"], cwd=folder, env=os.environ | {"COLUMNS": "200", "PYTHONPATH": str(folder)},
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    names = [line.removesuffix(" BROKEN") for line in done.stdout.splitlines() if line.endswith(" BROKEN")]
    assert done.returncode == (1 if names else 0), done.stdout + done.stderr
    return names


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__", "*.c", "*.so")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=ignored)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_room_without_a_place_is_seen(tree: Path) -> None:
    room = tree / "cryprq" / "attic"
    room.mkdir()
    for name in ("__init__.py", "trunk.py"):
        (room / name).write_text("")
    assert [name[:21] for name in broken(tree)] == ["A room of the package"]


def test_tree_keeps_every_contract(tree: Path) -> None:
    assert broken(tree) == []


@pytest.mark.parametrize(
    ("where", "what", "contract"),
    [
        ("cryprq/protocol/frames.py", "cryprq.quic.backoff", "A room of the package"),
        ("cryprq/errors.py", "cryprq.protocol.constants", "A room of the package"),
        ("cryprq/registry/fleet.py", "cryprq.telemetry.logs", "A room of the package"),
        ("cryprq/peers/dialer.py", "cryprq.linux.udp", "Peers know"),
        ("cryprq/node/roster.py", "lab.oracle", "The package knows nothing"),
        ("lab/hosts.py", "tests.rigs.planes", "The package knows nothing"),
        ("cryprq/quic/connection.py", "cryprq.quic.endpoint", "No circles"),
    ],
)
def test_planted_import_is_seen(tree: Path, where: str, what: str, contract: str) -> None:
    path = tree / where
    path.write_text(f"{path.read_text()}\nimport {what}\n")
    assert any(name.startswith(contract) for name in broken(tree))
