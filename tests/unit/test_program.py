"""Other programs: what they get of this process, and that none of them keeps it waiting."""

import asyncio
import errno
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest
import uvloop

from cryprq.linux import program
from cryprq.linux.program import OUTPUT_MAX, SEARCH_PATH, Ended, find

T = TypeVar("T")


def go(coroutine: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(coroutine)


def run(*command: str, data: bytes = b"", timeout: float = 10.0) -> Ended:
    return go(program.run(command, data=data, timeout=timeout))


def python(code: str, data: bytes = b"", timeout: float = 10.0) -> Ended:
    return run(sys.executable, "-I", "-c", code, data=data, timeout=timeout)


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_input_arrives_whole_and_the_first_line_of_the_output_is_kept() -> None:
    data = bytes(range(256)) * 4096  # more than a pipe holds
    code = "import sys, hashlib; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest()); print('more')"
    assert python(code, data).output == hashlib.sha256(data).hexdigest()
    assert run("/bin/true").fault is None


@pytest.mark.parametrize(
    ("script", "fault"),
    [
        ("exit 3", "exit status 3"),
        ("echo 'no such table' >&2; exit 1", "exit status 1: no such table"),
        ("kill -TERM $$", "signal 15"),
        ("printf 'a\\033[1mb\\n'; exit 1", "exit status 1: a [1mb"),
    ],
)
def test_failure_is_one_line(script: str, fault: str) -> None:
    assert run("/bin/sh", "-c", script, data=b"not read" * 100_000).fault == fault


def test_what_a_program_writes_is_bounded_and_does_not_stop_it() -> None:
    ended = python(f"import sys; sys.stdout.write('x' * 5_000_000); sys.exit({OUTPUT_MAX > 0})")
    assert ended.status == 1
    assert ended.output == "x" * OUTPUT_MAX


def test_program_gets_nothing_of_this_process() -> None:
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    code = (
        "import os; s = open('/proc/self/status').read(); "
        "print(sorted(os.listdir('/proc/self/fd'))[:3], len(os.listdir('/proc/self/fd')), sorted(os.environ.items()),"
        " os.getcwd(), os.getsid(0) == os.getpid(), s.partition('SigBlk:')[2].split()[0],"
        " s.partition('SigIgn:')[2].split()[0])"
    )
    try:
        said = python(code).output
    finally:
        os.close(reader)
        os.close(writer)
    descriptors = "['0', '1', '2'] 4"  # the fourth is that of the directory that it reads
    environment = f"[('LC_ALL', 'C'), ('PATH', '{SEARCH_PATH}')]"
    # What this process ignores it was told to by whoever started it, or by Python (SIGPIPE, SIGXFSZ).
    ignored = Path("/proc/self/status").read_text().partition("SigIgn:")[2].split()[0]
    assert said == f"{descriptors} {environment} / True 0000000000000000 {ignored}"


def test_program_whose_time_is_up_is_killed_with_what_it_started(tmp_path: Path) -> None:
    note = tmp_path / "pids"
    start = time.monotonic()
    ended = run("/bin/sh", "-c", f'sleep 60 & echo "$$ $!" > {note}; trap "" TERM; wait', timeout=1.5)
    assert ended.status is None
    assert ended.fault == f"killed after {ended.seconds:.1f} s"
    assert 1.5 <= time.monotonic() - start < 50  # not those 60 s
    end = time.monotonic() + 30
    pids = [int(text) for text in note.read_text().split()]
    while not all(map(gone, pids)) and time.monotonic() < end:
        time.sleep(0.01)
    assert all(map(gone, pids))


def test_what_a_program_leaves_behind_is_not_waited_for() -> None:
    start = time.monotonic()
    left = int(run("/bin/sh", "-c", "sleep 60 & echo $!").output)
    assert time.monotonic() - start < 50
    os.kill(left, signal.SIGKILL)


def test_loop_goes_on_meanwhile_and_a_call_can_be_cancelled(tmp_path: Path) -> None:
    note = tmp_path / "pid"

    async def both() -> int:
        task = asyncio.create_task(
            program.run(["/bin/sh", "-c", f"sleep 0.1; echo $$ > {note}; exec sleep 60"], timeout=60)
        )
        turns = 0
        while not note.exists() or not note.read_text():
            await asyncio.sleep(0.001)
            turns += 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return turns

    assert go(both()) > 1
    end = time.monotonic() + 30
    while not gone(int(note.read_text())) and time.monotonic() < end:
        time.sleep(0.01)
    assert gone(int(note.read_text()))


def test_program_that_is_not_there_is_an_os_error() -> None:
    with pytest.raises(FileNotFoundError):
        run("/nonexistent/program")


def test_program_that_cannot_be_watched_is_not_left_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_pid: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    started: list[int] = []
    popen = subprocess.Popen

    def start(*args: Any, **kwargs: Any) -> Any:
        process = popen(*args, **kwargs)
        started.append(process.pid)
        return process

    monkeypatch.setattr(os, "pidfd_open", refuse)
    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(OSError, match="Too many open files"):
        run("/bin/sleep", "60")
    assert [gone(pid) for pid in started] == [True]


def test_programs_are_found_where_the_system_has_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    assert find("sh") is not None
    assert find("no-such-program") is None
