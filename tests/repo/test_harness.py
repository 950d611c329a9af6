"""The test harness itself: it cleans up, and its traffic programs notice what they are there to notice."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lab import hosts, traffic


def gone(pid: int, timeout: float = 5.0) -> bool:
    """Whether the process has ended, zombies of a dead parent included."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        try:
            if ") Z " in Path(f"/proc/{pid}/stat").read_text():
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


@pytest.mark.netns
def test_leaving_a_lab_stops_processes_and_removes_namespaces(tmp_path: Path) -> None:
    processes = []

    def fail_in_a_lab() -> None:
        with hosts.Lab(tmp_path) as lab:
            host = lab.namespace("left-behind")
            processes.append(host.start("polite", "sleep", "60"))
            processes.append(host.start("stubborn", "sh", "-c", "trap '' TERM; echo on; while :; do sleep 0.1; done"))
            processes[1].wait_for("on")
            processes[1].stop(timeout=0.2)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_in_a_lab()
    polite, stubborn = processes
    assert polite.popen.returncode == -signal.SIGTERM
    assert stubborn.popen.returncode == -signal.SIGKILL
    assert not Path("/run/netns/left-behind").exists()


@pytest.mark.netns
def test_processes_die_with_the_test_run(tmp_path: Path) -> None:
    script = f"""
import pathlib, sys
from lab import hosts
lab = hosts.Lab(pathlib.Path({str(tmp_path)!r}))
print(lab.namespace("orphan").start("sleeper", "sleep", "60").pid, flush=True)
sys.stdin.read()
"""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", script], stdin=pipe, stdout=pipe, text=True) as runner:
        assert runner.stdout is not None
        pid = int(runner.stdout.readline())
        assert not gone(pid, timeout=0.1)
        runner.kill()
    assert gone(pid)


def test_entered_comes_back_after_an_error(lab: hosts.Lab) -> None:
    host = lab.namespace("host")
    before = os.readlink("/proc/thread-self/ns/net")

    def fail_inside() -> None:
        with host.entered():
            assert os.readlink("/proc/thread-self/ns/net") != before
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert os.readlink("/proc/thread-self/ns/net") == before


def test_lab_links_hosts_and_switch(lab: hosts.Lab) -> None:
    hosts = {lab.namespace(name): [f"10.0.0.{number}/24", f"fd00::{number}/64"] for number, name in enumerate("abc", 1)}
    lab.switch("switch", hosts)
    first, *_, last = hosts
    for address in ("10.0.0.3", "fd00::3"):
        assert first.measure("ping", address, count=1)["received"] == 1
        assert 0 < first.measure("await_ping", address)["seconds"] < 10
    assert first.measure("ping", "10.0.0.9", count=1, timeout=0.2)["received"] == 0
    assert first.measure("await_ping", "10.0.0.9", seconds=0.3) == {"seconds": None}
    last.ip("link set eth0 down")
    assert first.measure("ping", "10.0.0.3", count=1, timeout=0.2)["received"] == 0


def test_command_errors_carry_the_output(lab: hosts.Lab) -> None:
    host = lab.namespace("host")
    with pytest.raises(hosts.CommandError, match="Cannot find device"):
        host.ip("link set nothing up")
    with pytest.raises(hosts.CommandError, match="bad port"):
        host.start("failing", "sh", "-c", "echo bad port; exit 3").result()
    with pytest.raises(hosts.CommandError, match="without 'hello'"):
        host.start("silent", "true").wait_for("hello")


def receive_in_thread(port: int, results: list[traffic.Result]) -> threading.Thread:
    thread = threading.Thread(target=lambda: results.append(traffic.udp_receive("127.0.0.1", port, 5)))
    thread.start()
    return thread


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize(
    ("numbers", "expected"),
    [
        ([1, 2, 3, 4], {"received": 4, "lost": 0, "duplicates": 0, "reordered": 0}),
        ([1, 2, 4], {"received": 3, "lost": 1, "duplicates": 0, "reordered": 0}),
        ([1, 3, 2, 4, 4], {"received": 4, "lost": 0, "duplicates": 1, "reordered": 1}),
        ([], {"received": 0, "lost": 4, "duplicates": 0, "reordered": 0}),
    ],
)
def test_udp_receive_counts(numbers: list[int], expected: dict[str, int], capsys: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    results: list[traffic.Result] = []
    thread = receive_in_thread(port, results)
    while "ready" not in capsys.readouterr().out:
        time.sleep(0.01)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in numbers:
            sender.sendto(traffic._MARK.pack(number, 1), ("127.0.0.1", port))
        sender.sendto(traffic._MARK.pack(4, 0), ("127.0.0.1", port))
    thread.join()
    assert results[0]["ended"]
    assert {key: results[0][key] for key in expected} == expected


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_what_a_slow_receiver_misses_is_not_lost_on_the_way(lab: hosts.Lab, address: str) -> None:
    host, sent = lab.namespace("host"), 0
    receiver = host.traffic("udp_receive", address, 5000)
    receiver.signal(signal.SIGSTOP)
    with host.entered(), socket.socket(traffic.family_of(address), socket.SOCK_DGRAM) as sender:
        while not traffic._overflows(address):
            sent += 1
            sender.sendto(traffic._MARK.pack(sent, 1) + bytes(60_000), (address, 5000))
        receiver.signal(signal.SIGCONT)
        while receiver.running:
            sender.sendto(traffic._MARK.pack(sent, 0), (address, 5000))
            time.sleep(0.05)
    result = receiver.result()
    assert result["overflowed"] >= 1
    assert result["received"] + result["overflowed"] >= sent


@pytest.mark.parametrize("damage", [False, True])
def test_tcp_stream_notices_one_changed_byte(damage: bool) -> None:
    left, right = socket.socketpair()
    collected = bytearray()

    class Collector:
        def sendall(self, data: bytes | memoryview) -> None:
            collected.extend(data)

    traffic._send_stream(Collector(), 3_000_000, 7, None)  # type: ignore[arg-type]  # no socket, but it has what is used of one
    collected[1_500_000] ^= int(damage)
    sender = threading.Thread(target=left.sendall, args=(collected,))
    sender.start()
    size, good = traffic._receive_stream(right)
    sender.join()
    left.close()
    right.close()
    assert (size, good) == (3_000_000, not damage)
