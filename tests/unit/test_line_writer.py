"""The log's way to stderr: nobody who logs waits for who reads, and what is lost is told."""

import fcntl
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from cryprq.telemetry.line_writer import FLUSH_TIMEOUT, LineWriter

PIPE_SIZE = 4096


@dataclass
class Pipe:
    """What a writer writes to. It holds a page; beyond that, somebody has to read."""

    reader: int
    writer: int

    def fill(self) -> bytes:
        """Leaves no room in the pipe."""
        content = b"x" * (PIPE_SIZE - 1) + b"\n"
        os.write(self.writer, content)
        return content

    def read_until(self, end: bytes) -> list[str]:
        """Lines up to one that ends like this."""
        data = b""
        while not data.endswith(end):
            data += os.read(self.reader, 65536)
        return data.decode().splitlines()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe(*os.pipe())
    fcntl.fcntl(pipe.writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    yield pipe
    for descriptor in (pipe.reader, pipe.writer):
        try:
            os.close(descriptor)
        except OSError:
            pass  # a test has closed it


def gap(lines: int) -> str:
    return f"{lines} lost"


def wait_for(condition: object, timeout: float = 30.0) -> None:
    assert callable(condition)
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_lines_come_in_order(pipe: Pipe) -> None:
    writer = LineWriter(pipe.writer)
    for number in range(100):
        writer.write(f"line {number}", gap)
    assert pipe.read_until(b"99\n") == [f"line {number}" for number in range(100)]
    assert writer.flush()
    assert writer.dropped == 0


def test_nobody_waits_for_a_reader_and_the_loss_is_told_where_it_is(pipe: Pipe) -> None:
    filling = pipe.fill()
    writer = LineWriter(pipe.writer, capacity=50)
    writer.write("in the thread's hands", gap)
    wait_for(lambda: not writer._queue)
    for number in range(1000):  # who waited here would wait for ever: the reader comes later
        writer.write(f"line {number}", gap)
    assert writer.dropped == 993
    lines = pipe.read_until(b"993 lost\n")
    assert lines[0] == filling.decode().rstrip()
    assert lines[1:] == ["in the thread's hands", *(f"line {number}" for number in range(7)), "993 lost"]
    assert writer.flush()
    writer.write("after", gap)
    assert pipe.read_until(b"\n") == ["after"]
    assert writer.dropped == 993


def test_flush_waits_for_a_slow_reader_but_not_for_ever_and_only_once(pipe: Pipe) -> None:
    pipe.fill()
    writer = LineWriter(pipe.writer)
    writer.write("last", gap)
    reader = threading.Timer(0.1, os.read, (pipe.reader, PIPE_SIZE))
    reader.start()
    assert writer.flush(30.0)
    reader.join()
    os.read(pipe.reader, PIPE_SIZE)
    pipe.fill()
    writer.write("never", gap)
    before = time.monotonic()
    assert not writer.flush(0.2)
    assert not writer.flush(60.0)
    assert 0.2 <= time.monotonic() - before < 50


def test_descriptor_that_somebody_made_non_blocking_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.writer, False)
    writer = LineWriter(pipe.writer)
    long = "y" * (3 * PIPE_SIZE)
    writer.write(long, gap)
    writer.write("end", gap)
    time.sleep(0.05)
    assert pipe.read_until(b"end\n") == [long, "end"]
    assert writer.dropped == 0


def test_lines_for_a_reader_that_is_gone_are_counted(pipe: Pipe) -> None:
    os.close(pipe.reader)
    writer = LineWriter(pipe.writer)
    for number in range(3):
        writer.write(f"line {number}", gap)
    assert writer.flush()
    assert writer.dropped == 3


def test_without_a_thread_lines_are_lost_and_told_later(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    writer = LineWriter(pipe.writer)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        writer.write("lost", gap)
    assert writer.dropped == 1
    writer.write("also lost, before the gap is told", gap)
    assert pipe.read_until(b"lost\n") == ["2 lost"]


def test_program_ends_in_time_though_nobody_reads_and_whole_if_somebody_does(pipe: Pipe) -> None:
    program = "from cryprq.telemetry.logs import Log\nlog = Log()\nfor n in range(50): log.info('line', n=n)"
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, timeout=60)
    assert [line.split()[1] for line in done.stderr.splitlines()] == [f"n={number}" for number in range(50)]
    pipe.fill()
    timed = f"import time\n{program}\nprint(time.monotonic(), flush=True)"
    done = subprocess.run(
        [sys.executable, "-c", timed], stdout=subprocess.PIPE, stderr=pipe.writer, text=True, timeout=60
    )
    assert done.returncode == 0
    assert time.monotonic() - float(done.stdout) > FLUSH_TIMEOUT / 2  # and it did end, which takes no reader
