"""A state directory that is full or read-only: the node says so from its start on, and goes on for those it has."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cryprq.config.identity_file import create_identity
from lab.hosts import Lab, tmpfs
from lab.nodes import Node
from lab.tunnels import LISTEN_FLAGS, listen_address


@pytest.fixture
def state(lab: Lab) -> Iterator[Path]:
    """A file system of its own, with the identity in it."""
    path = lab.directory / "state"
    with tmpfs(path, "size=512k,mode=700"):
        create_identity(path / "identity")
        yield path


def start(lab: Lab, state: Path) -> Node:
    node = Node(lab.namespace("listener"), "--listen", listen_address(4), *LISTEN_FLAGS, "--allow-any")
    return node.start("--identity", str(state / "identity"))


def fill(state: Path) -> Path:
    """Leaves no room; returns the file that takes it."""
    ballast, there = state / "ballast", os.statvfs(state)
    ballast.write_bytes(bytes(there.f_bavail * there.f_frsize))
    return ballast


def test_full_directory_is_found_before_a_peer_comes_and_forgotten_when_there_is_room(lab: Lab, state: Path) -> None:
    ballast = fill(state)
    node = start(lab, state)
    reason = f"cannot write the registry {state}/identity.cryprq0.registry: No space left on device"
    assert node.wait_event("node_failed")["reason"] == reason
    assert node.http("/healthz") == (503, f"{reason}\n")
    assert node.metric("healthy") == 0
    ballast.unlink()
    node.wait_event("node_recovered", timeout=15)
    assert node.http("/healthz") == (200, "ok\n")
    assert [path.name for path in state.iterdir()] == ["identity"]


def test_read_only_directory_is_found_before_a_peer_comes(lab: Lab, state: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(state)], check=True)
    node = start(lab, state)
    assert "Read-only file system" in node.wait_event("node_failed")["reason"]
    assert node.http("/healthz")[0] == 503
    node.wait_event("node_started")
    assert node.stop() == 0
