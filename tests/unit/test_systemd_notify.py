"""What systemd is told: each message alone, against a socket in systemd's place, and those of a running node."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cryprq.linux.systemd import Notifier
from lab.hosts import Lab
from lab.nodes import Node


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """The manager's socket, which does not block, and what NOTIFY_SOCKET says of it."""
    name = str(tmp_path / "notify")
    address = name if request.param == "path" else f"\0{name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sock:
        sock.bind(address)
        yield sock, address.replace("\0", "@")


def test_every_message(manager: tuple[socket.socket, str]) -> None:
    sock, path = manager
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": path})
    notifier.ready()
    assert sock.recv(4096) == b"READY=1"
    before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.reloading()
    first, second = sock.recv(4096).decode().split("\n")
    assert first == "RELOADING=1"
    name, _, value = second.partition("=")
    assert name == "MONOTONIC_USEC" and before <= int(value) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
    notifier.status("1 peers connected")
    notifier.status("1 peers connected")  # told once
    notifier.status("2 peers connected")
    assert [sock.recv(4096) for _ in range(2)] == [b"STATUS=1 peers connected", b"STATUS=2 peers connected"]
    notifier.stopping()
    assert sock.recv(4096) == b"STOPPING=1"
    with pytest.raises(BlockingIOError):
        sock.recv(4096)


def test_watchdog_is_fed_three_times_in_its_time(manager: tuple[socket.socket, str]) -> None:
    sock, path = manager
    notifier = Notifier.from_environ(
        {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "9000000", "WATCHDOG_PID": str(os.getpid())}
    )
    assert notifier.watchdog == 9.0
    for now in range(100, 110):
        notifier.alive(float(now))
    assert [sock.recv(4096) for _ in range(4)] == [b"WATCHDOG=1"] * 4  # at 100, 103, 106, 109
    with pytest.raises(BlockingIOError):
        sock.recv(4096)


@pytest.mark.parametrize(
    "environ",
    [{}, {"WATCHDOG_USEC": "9000000", "WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}],
    ids=["none", "another process's", "off", "no number"],
)
def test_no_watchdog(environ: dict[str, str], manager: tuple[socket.socket, str]) -> None:
    sock, path = manager
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": path, **environ})
    assert notifier.watchdog is None
    notifier.alive(1.0)
    with pytest.raises(BlockingIOError):
        sock.recv(4096)


@pytest.mark.parametrize("path", [None, "", "@", "relative", "/nowhere/notify", "/" + 200 * "x", "@" + 200 * "x"])
def test_manager_that_is_not_there_or_named_wrongly_is_no_error(path: str | None) -> None:
    notifier = Notifier(path, watchdog=1.0)
    notifier.ready()
    notifier.reloading()
    notifier.status("well")
    notifier.alive(1.0)
    notifier.stopping()


def test_manager_that_does_not_read_does_not_hold_the_node_up(manager: tuple[socket.socket, str]) -> None:
    notifier = Notifier(manager[1])
    for number in range(2000):  # more than any queue holds, and nobody ever reads
        notifier.status(str(number))


class Manager:
    """Reads a node's messages, one line at a time."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(30)
        self.seen: list[str] = []

    def wait(self, prefix: str) -> str:
        """The next line that begins so."""
        while True:
            lines = self.socket.recv(4096).decode().split("\n")
            self.seen += lines
            for line in lines:
                if line.startswith(prefix):
                    return line


def test_messages_of_a_node_from_its_start_to_its_end(lab: Lab) -> None:
    host = lab.namespace("host")
    path = lab.directory / "notify"
    manager = Manager(path)
    config = lab.directory / "node.toml"
    config.write_text('listen = "/ip4/0.0.0.0/udp/9999/quic-v1"\ntun-address = ["10.66.0.1/24"]\n')
    node = Node(host, "--config", str(config), env={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "1500000"})
    node.start()
    manager.wait("READY=1")
    assert node.http("/healthz")[0] == 200  # it is true
    assert manager.wait("STATUS=") == "STATUS=0 peers connected"
    for text, event in (("", "config_reloaded"), ("allow-peer = 7\n", "config_rejected")):
        config.write_text(config.read_text() + text)
        node.reload()
        asked = int(manager.wait("MONOTONIC_USEC=").partition("=")[2])
        assert manager.seen[-2] == "RELOADING=1"
        manager.wait("READY=1")
        node.wait_event(event)
        assert 0 <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000 - asked < 10e6
    manager.wait("WATCHDOG=1")
    # A node that has lost its TUN says so, and lets the watchdog starve.
    host.ip("link delete cryprq0")
    reason = node.wait_event("node_failed")["reason"]
    assert manager.wait("STATUS=") == f"STATUS={reason}" and "TUN" in reason
    manager.seen.clear()
    manager.socket.settimeout(2.5)
    with pytest.raises(TimeoutError):
        manager.wait("WATCHDOG=1")
    node.running().signal(signal.SIGTERM)
    manager.wait("STOPPING=1")
    assert node.running().wait(10) == 0
