"""The rig ``liboqs`` where there is none, or an old one: ``import oqs`` would ask the network, or fail half-way."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.rigs import liboqs


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that there is to look through: an empty folder. To import ``oqs`` is an ImportError."""
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    monkeypatch.setattr(liboqs, "ROOT", tmp_path)
    monkeypatch.setenv("OQS_INSTALL_PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "oqs", None)
    return tmp_path


def test_without_a_liboqs_the_wrapper_is_not_imported(prefix: Path) -> None:
    with pytest.raises(liboqs.Missing, match="no liboqs: make test-oqs builds one"):
        liboqs.load()


@pytest.mark.parametrize("folder", ["lib", "lib64", "build/liboqs/lib"])
def test_library_that_the_wrapper_could_not_use_is_named(prefix: Path, folder: str) -> None:
    library = prefix / folder / "liboqs.so"
    library.parent.mkdir(parents=True)
    subprocess.run(["gcc", "-shared", "-o", library, "-x", "c", "/dev/null"], check=True)
    with pytest.raises(liboqs.Missing, match=f"{library} is too old for liboqs-python"):
        liboqs.load()
