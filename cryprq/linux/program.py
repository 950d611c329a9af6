"""Other programs: run without a shell, with a limit of time, in a thread that an event loop does not wait for.

A program gets an argument list, a few variables, its input, and nothing else of this process: no descriptor, no signal
handling, no terminal. It leads a process group of its own, so that what it has started ends with it when its time is
up. Of what it writes, the beginning is kept for who has to say why it failed.
"""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryprq.linux import detached

SEARCH_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""Where programs of the system are, for this process and for what it runs; its own PATH is its caller's."""
OUTPUT_MAX: Final = 1000
"""Bytes of a program's output that are kept."""
KILL_PATIENCE: Final = 1.0
"""Seconds that a killed program is waited for."""

_ENVIRONMENT: Final = {"PATH": SEARCH_PATH, "LC_ALL": "C"}
_READ_SIZE: Final = 65536


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended."""

    status: int | None
    """Its exit status, negative for a signal; None: its time was up, and it was killed."""
    output: str = ""
    """The first line that it wrote, if any, without what a terminal would obey."""
    seconds: float = 0.0

    @property
    def fault(self) -> str | None:
        """What went wrong, in one line; None: nothing."""
        if self.status == 0:
            return None
        if self.status is None:
            return f"killed after {self.seconds:.1f} s"
        what = f"exit status {self.status}" if self.status > 0 else f"signal {-self.status}"
        return f"{what}: {self.output}" if self.output else what


def find(name: str) -> Path | None:
    """A program of the system, or None."""
    found = shutil.which(name, path=SEARCH_PATH)
    return None if found is None else Path(found)


async def run(command: Sequence[str | Path], *, data: bytes = b"", timeout: float) -> Ended:
    """Runs a program to its end, ``timeout`` seconds at most, with ``data`` on its standard input. OSError if it cannot
    be started. A call that is cancelled kills the program and what it has started."""
    running = _Running([str(word) for word in command], data, timeout)
    try:
        return await detached.call(running.run, "program")
    finally:
        running.kill()


class _Running:
    """One program, driven by one thread; any thread may kill it."""

    def __init__(self, command: Sequence[str], data: bytes, timeout: float) -> None:
        self._command = command
        self._data = memoryview(data)
        self._timeout = timeout
        self._lock = threading.Lock()
        self._killed = False
        self._pid: int | None = None  # while it is there, or a zombie: its number is nobody else's
        self._output = b""

    def kill(self) -> None:
        """Ends it and its process group, if it has not ended yet; also before it has begun."""
        with self._lock:
            self._killed = True
            self._kill_now()

    def _kill_now(self) -> None:
        if self._pid is not None:
            with contextlib.suppress(OSError):  # it has become another user's
                os.killpg(self._pid, signal.SIGKILL)

    def run(self) -> Ended:
        start = time.monotonic()
        process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            cwd="/",
            env=_ENVIRONMENT,
            start_new_session=True,
        )
        with self._lock:
            self._pid = process.pid
            if self._killed:
                self._kill_now()
        in_time = ended = False
        end = self._end_of(process)
        try:
            in_time = ended = self._attend(process, end, start + self._timeout)
            if not in_time:
                self.kill()
                ended = _ends(end, KILL_PATIENCE)
        finally:
            os.close(end)
            with self._lock:
                status = process.wait() if ended else None  # whatever resists SIGKILL, the kernel has to let go of
                self._pid = None
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with contextlib.suppress(OSError):
                        stream.close()
        return Ended(status if in_time else None, _first_line(self._output), time.monotonic() - start)

    def _end_of(self, process: "subprocess.Popen[bytes]") -> int:
        """A descriptor that is readable when it has ended. OSError: then it has been killed."""
        try:
            return os.pidfd_open(process.pid)
        except OSError:  # no more descriptors, or a sandbox forbids it
            self.kill()
            with self._lock:
                process.wait()
                self._pid = None
            raise

    def _attend(self, process: "subprocess.Popen[bytes]", end: int, deadline: float) -> bool:
        """Feeds it and reads what it says until it has ended, or False when its time is up. What it leaves behind may
        hold its output open: that is nobody's to wait for."""
        assert process.stdin is not None
        assert process.stdout is not None
        source, sink = process.stdin.fileno(), process.stdout.fileno()
        os.set_blocking(source, False)
        os.set_blocking(sink, False)
        poll = select.poll()
        poll.register(end, select.POLLIN)
        poll.register(sink, select.POLLIN)
        poll.register(source, select.POLLOUT)
        while (left := deadline - time.monotonic()) > 0:
            ready = dict(poll.poll(left * 1000 + 1))
            if source in ready and not self._feed(source):
                poll.unregister(source)
                process.stdin.close()
            if sink in ready and not self._read(sink):
                poll.unregister(sink)
            if end in ready:
                return True
        return False

    def _feed(self, descriptor: int) -> bool:
        """Whether there is more to write."""
        try:
            if self._data:
                self._data = self._data[os.write(descriptor, self._data) :]
        except BlockingIOError:
            return True
        except OSError:  # it does not want to hear
            return False
        return bool(self._data)

    def _read(self, descriptor: int) -> bool:
        """Whether there may be more to read."""
        try:
            data = os.read(descriptor, _READ_SIZE)
        except BlockingIOError:
            return True
        self._output += data[: OUTPUT_MAX - len(self._output)]
        return bool(data)


def _ends(descriptor: int, seconds: float) -> bool:
    """Whether the process of a pidfd ends in that time."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _first_line(output: bytes) -> str:
    lines = output.decode(errors="replace").strip().splitlines()
    return "".join(character if character.isprintable() else " " for character in lines[0]) if lines else ""
