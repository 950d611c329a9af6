"""Lines to a descriptor, without making who writes wait for who reads.

A pipe that nobody reads, a stopped terminal, a full socket: each makes a write wait, maybe for ever. O_NONBLOCK would
be set for all who share the open file. So a thread writes, from a bounded queue. When the queue is full, lines are
dropped until it is empty again, and one line in their place says how many.
"""

import atexit
import functools
import os
import select
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

QUEUE_MAX: Final = 1024 * 1024
"""Bytes that wait to be written; about 4,000 lines."""
FLUSH_TIMEOUT: Final = 0.5
"""Seconds that the end of the program waits for lines that nobody takes."""


class LineWriter:
    """Writes lines in the order in which they came, each with one call, so that those of several processes do not mix.

    Any thread may use it. Nothing here raises, and nothing but ``flush`` waits.
    """

    def __init__(self, descriptor: int, *, capacity: int = QUEUE_MAX) -> None:
        """The descriptor stays the caller's."""
        self.descriptor: Final = descriptor
        self._capacity = capacity
        self._changed = threading.Condition()
        self._queue: deque[bytes] = deque()
        self._queued = 0  # bytes
        self._gap: Callable[[int], str] | None = None
        self._lost = 0  # lines, since the queue was full
        self._dropped = 0  # lines, ever
        self._busy = False
        self._given_up = False
        self._thread: threading.Thread | None = None

    @property
    def dropped(self) -> int:
        """Lines that were never written."""
        return self._dropped

    def write(self, line: str, gap: Callable[[int], str]) -> None:
        """Adds a line. ``gap`` makes the line that stands for so many dropped ones."""
        data = line.encode(errors="backslashreplace") + b"\n"
        with self._changed:
            if not self._runs() or self._lost or self._queued + len(data) > self._capacity:
                self._lost += 1
                self._dropped += 1
                self._gap = gap
                return
            self._queue.append(data)
            self._queued += len(data)
            self._changed.notify_all()

    def flush(self, timeout: float = FLUSH_TIMEOUT) -> bool:
        """Waits until all is written. False if that took too long; then no later flush waits any more."""
        with self._changed:
            if not self._given_up:
                self._given_up = not self._changed.wait_for(self._is_idle, timeout)
            return self._is_idle()

    def _is_idle(self) -> bool:
        return not (self._busy or self._queue or self._lost)

    def _runs(self) -> bool:
        """Starts the thread with the first line, and again in a process that was forked off."""
        if self._thread is None or not self._thread.is_alive():
            thread = threading.Thread(target=self._run, name="log", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # there may be no more threads
                return False
            self._thread = thread
        return True

    def _run(self) -> None:
        while True:
            self._put(self._next())

    def _next(self) -> bytes:
        with self._changed:
            self._busy = False
            while True:
                if self._queue:
                    data = self._queue.popleft()
                    self._queued -= len(data)
                    break
                if self._lost and self._gap is not None:
                    data = self._gap(self._lost).encode() + b"\n"
                    self._lost = 0
                    break
                self._changed.notify_all()
                self._changed.wait()
            self._busy = True
            return data

    def _put(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self.descriptor, rest) :]
            except BlockingIOError:  # somebody who shares the open file made it so
                poll = select.poll()
                poll.register(self.descriptor, select.POLLOUT)
                poll.poll()
            except OSError:  # the reader is gone, or the disk is full
                with self._changed:
                    self._dropped += 1
                return


@functools.cache
def writer_to(descriptor: int) -> LineWriter:
    """The process's one writer to this descriptor. What is left at the end gets ``FLUSH_TIMEOUT``."""
    writer = LineWriter(descriptor)
    atexit.register(writer.flush)
    return writer
