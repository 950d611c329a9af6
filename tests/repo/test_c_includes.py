"""The check that csrc/ points one way: it passes, and finds what is planted."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab import ROOT

SCRIPT = ROOT / "scripts" / "c_includes.py"


def check(directory: Path) -> list[str]:
    """What the script prints, without the directory; its exit status says whether that is anything."""
    done = subprocess.run([sys.executable, SCRIPT, directory], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert done.returncode == (1 if lines else 0)
    return [line.removeprefix(f"{directory}/") for line in lines]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return shutil.copytree(ROOT / "csrc", tmp_path / "csrc")


def test_csrc_points_one_way() -> None:
    assert check(ROOT / "csrc") == []


@pytest.mark.parametrize(
    ("name", "line", "fault"),
    [
        ("cq_tx.c", '#include "cq_plane.h"', "includes cq_plane.h, which stands above it"),
        ("cq_tx.c", '#include "cq_rx.h"', "includes cq_rx.h, which stands beside it"),
        (
            "cq_wire.h",
            '  #  include  "cq_checksum.h"',
            "includes cq_checksum.h, which stands above it, and closes a circle: "
            "cq_wire.h -> cq_checksum.h -> cq_wire.h",
        ),
        (
            "cq_wire.h",
            '#include "cq_epoch.h"',
            "includes cq_epoch.h, which stands above it, and closes a circle: "
            "cq_wire.h -> cq_epoch.h -> cq_aead.h -> cq_wire.h",
        ),
        ("cq_wire.h", '#include "cq_wire.h"', "includes itself"),
        ("cq_plane.c", '#include "cq_epoch.c"', "includes cq_epoch.c, which is no header"),
        ("cq_plane.c", '#include "cq_nothing.h"', "includes cq_nothing.h, which is no file of csrc/"),
        ("cq_tx.c", "struct cq_plane;", "cq_plane belongs to cq_plane, which stands above it"),
        ("cq_worker.h", "void cq_tx_wake(void *tx);", "cq_tx_wake belongs to cq_tx, which stands above it"),
        ("cq_rx.c", "void cq_tx_run(void *);", "cq_tx_run belongs to cq_tx, which stands beside it"),
        ("cq_aead.c", "void cq_gcm_x86_init(void);", "cq_gcm_x86_init belongs to cq_gcm_x86, which stands above it"),
    ],
)
def test_what_points_up_is_found(tree: Path, name: str, line: str, fault: str) -> None:
    text = (tree / name).read_text()
    (tree / name).write_text(f"/* a comment\n   of two lines */\n{line}\n{text}")
    assert check(tree) == [f"{name}:3: {fault}"]


@pytest.mark.parametrize(
    "line",
    [
        '/* #include "cq_plane.h" and cq_plane_new() */',
        '// #include "cq_plane.h"',
        "#include <cq_plane.h>",
        "static int cq_plan(void);",
        '#include "cq_wire.h"',
    ],
)
def test_what_only_looks_like_it_is_not(tree: Path, line: str) -> None:
    with (tree / "cq_tx.c").open("a") as file:
        file.write(f"{line}\n")
    assert check(tree) == []


def test_every_file_has_a_place_and_every_place_a_file(tree: Path) -> None:
    (tree / "cq_new.c").write_text('#include "cq_new.h"\n')
    (tree / "cq_new.h").write_text("")
    (tree / "cq_bench.c").unlink()
    (tree / "cq_bench.h").unlink()
    assert check(tree) == [
        f"c_includes.py: LAYERS names cq_bench, which is no file of {tree}",
        "cq_new.c:1: stands in no layer: give it a place in LAYERS of c_includes.py",
        "cq_new.h:1: stands in no layer: give it a place in LAYERS of c_includes.py",
    ]
