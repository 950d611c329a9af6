"""Where there is no liboqs, or an old one: ``import oqs`` would ask the network, or fail half-way."""

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from cryprq.config.node_config import NodeConfig
from cryprq.errors import MachineError
from cryprq.protocol import liboqs
from cryprq.protocol.liboqs import LiboqsMissing

load: Callable[[], ModuleType] = liboqs.load.__wrapped__
"""Looks again each time."""


@pytest.fixture
def prefix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All that there is to look through: an empty folder. To import ``oqs`` is an ImportError."""
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    monkeypatch.setenv("OQS_INSTALL_PATH", str(tmp_path))
    monkeypatch.setitem(sys.modules, "oqs", None)
    monkeypatch.setattr(liboqs, "load", load)
    return tmp_path


def test_without_a_liboqs_the_wrapper_is_not_imported(prefix: Path) -> None:
    with pytest.raises(LiboqsMissing, match="no liboqs: install it, or set OQS_INSTALL_PATH"):
        load()


def test_without_the_wrapper_nothing_is_looked_for(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(LiboqsMissing, match=r"no liboqs-python: pip install 'cryprq\[oqs\]'"):
        load()


@pytest.mark.parametrize("folder", ["lib", "lib64", "home/_oqs/lib"])
def test_library_that_the_wrapper_could_not_use_is_named(
    prefix: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    if folder.startswith("home"):
        monkeypatch.delenv("OQS_INSTALL_PATH")
        monkeypatch.setenv("HOME", str(prefix / "home"))
    library = prefix / folder / "liboqs.so"
    library.parent.mkdir(parents=True)
    subprocess.run(["gcc", "-shared", "-o", library, "-x", "c", "/dev/null"], check=True)
    with pytest.raises(LiboqsMissing, match=f"{library} is too old for liboqs-python"):
        load()


def test_node_that_needs_it_says_so_and_another_does_not_look(prefix: Path) -> None:
    dials = ("--peer", "/ip4/192.0.2.1/udp/9999/quic-v1/p2p/QmbFMke1KXqnYyBBWxB74N4c5SBnJMVAiMNRcGu6x1AwQH")
    NodeConfig.load([*dials, "--kem", "x25519-mlkem1024"], {})
    with pytest.raises(MachineError, match=r"^--kem x25519-mlkem768-frodokem976aes: no liboqs: install it, or"):
        NodeConfig.load([*dials, "--kem", "x25519-mlkem768-frodokem976aes"], {})
