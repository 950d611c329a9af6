"""Log lines: their form, what cannot be forged, and the rate limit."""

import io
import json
import logging
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryprq.address import Address
from cryprq.peer_id import PeerId
from cryprq.telemetry.logs import LIMIT, SUBJECTS_MAX, TOTAL, VALUE_MAX, WINDOW, Log, RateLimiter, setup


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_logfmt_begins_with_the_event(stream: io.StringIO) -> None:
    peer = PeerId(bytes(32))
    Log(stream=stream).info("listener_ready", peer_id=peer, listen_addr="/ip4/1.2.3.4/udp/1/quic-v1", count=3)
    assert re.fullmatch(
        rf"event=listener_ready peer_id={peer} listen_addr=/ip4/1\.2\.3\.4/udp/1/quic-v1 count=3 level=info "
        r"time=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z\n",
        stream.getvalue(),
    )


def test_json_is_one_object_a_line_with_types(stream: io.StringIO) -> None:
    log = Log(log_format="json", stream=stream)
    log.warning("x", number=1, ratio=0.5, flag=True, nothing=None, path=Path("/a"), text="line\nbreak")
    log.error("y")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert next(iter(first)) == "event"
    first.pop("time")
    assert first == {
        "event": "x",
        "level": "warning",
        "number": 1,
        "ratio": 0.5,
        "flag": True,
        "nothing": None,
        "path": "/a",
        "text": "line\nbreak",
    }
    assert second["level"] == "error"


@pytest.mark.parametrize(
    ("level", "passes"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warn", ["warning", "error"]),
        ("error", ["error"]),
        ("off", []),
    ],
)
def test_level_filters(stream: io.StringIO, level: str, passes: list[str]) -> None:
    log = Log(level, stream=stream)
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)(name)
        log.limited(name, f"limited_{name}")
    expected = [event for name in passes for event in (name, f"limited_{name}")]
    assert re.findall(r"^event=(\S+)", stream.getvalue(), re.MULTILINE) == expected


def test_level_changes_while_running(stream: io.StringIO) -> None:
    log = Log("info", stream=stream)
    log.debug("before")
    log.set_level("debug")
    log.debug("after")
    assert re.findall(r"event=(\w+)", stream.getvalue()) == ["after"]


@given(st.text(alphabet=st.characters(), max_size=60))
def test_value_can_neither_begin_a_line_nor_forge_a_field(value: str) -> None:
    stream = io.StringIO()
    Log(stream=stream).info("transport_error", reason=value, last="end")
    line = stream.getvalue()
    assert len(line.splitlines()) == 1
    assert line[:-1].isprintable()
    fields = shlex.split(line.replace("\\u", "\\\\u").replace("'", "_"), posix=True)
    assert [field.partition("=")[0] for field in fields] == ["event", "reason", "last", "level", "time"]


def test_special_values(stream: io.StringIO) -> None:
    Log(stream=stream).info("x", a=None, b=True, c="", d='say "hi"\\\n', e="k=v", f="é", g="\x1b[31m\u2028")
    assert 'a= b=true c="" d="say \\"hi\\"\\\\\\n" e="k=v" f=é g="\\u001b[31m\\u2028" level' in stream.getvalue()


def test_long_value_is_cut(stream: io.StringIO) -> None:
    Log(stream=stream).info("x", value="a" * 100_000)
    assert len(stream.getvalue()) < VALUE_MAX + 100


def test_limit_counts_what_it_suppressed(stream: io.StringIO, clock: Clock) -> None:
    log = Log(stream=stream, clock=clock)
    for number in range(LIMIT + 25):
        log.limited("warning", "peer_denied", number=number)
    log.limited("info", "another_event")
    lines = stream.getvalue().splitlines()
    assert len(lines) == LIMIT + 1
    assert "suppressed" not in stream.getvalue()
    clock.now += WINDOW
    log.limited("warning", "peer_denied", number=99)
    log.limited("warning", "peer_denied", number=100)
    assert "number=99 suppressed=25 " in stream.getvalue()
    assert "number=100 level" in stream.getvalue()


def test_one_peer_or_source_does_not_silence_the_others(stream: io.StringIO, clock: Clock) -> None:
    log = Log(stream=stream, clock=clock)
    one, two = PeerId(bytes(32)), PeerId(b"\x01" * 32)
    for number in range(LIMIT + 5):
        log.limited("info", "endpoint_moved", peer_id=one, remote=Address(f"192.0.2.{number}", 1))
        log.limited("info", "inbound_backoff", remote=Address("192.0.2.7", 1000 + number))
    log.limited("info", "endpoint_moved", peer_id=two, remote=Address("192.0.2.1", 1))
    log.limited("info", "inbound_backoff", remote=Address("192.0.2.8", 1))
    lines = stream.getvalue().splitlines()
    assert sum(f"peer_id={one}" in line for line in lines) == LIMIT
    assert sum("remote=192.0.2.7:" in line and "inbound_backoff" in line for line in lines) == LIMIT
    assert f"event=endpoint_moved peer_id={two} remote=192.0.2.1:1 suppressed=5 " in lines[-2]
    assert "event=inbound_backoff remote=192.0.2.8:1 suppressed=5 " in lines[-1]


def test_many_sources_have_no_more_than_the_total_and_little_memory(stream: io.StringIO, clock: Clock) -> None:
    log = Log(stream=stream, clock=clock)
    for number in range(3 * SUBJECTS_MAX):
        log.limited("info", "inbound_backoff", remote=Address(f"2001:db8::{number:x}", 1))
    assert len(stream.getvalue().splitlines()) == TOTAL
    assert len(log._limiter._subjects) == SUBJECTS_MAX
    log.limited("info", "another_event", remote=Address("2001:db8::1", 1))
    assert "another_event" in stream.getvalue()


def test_a_thousand_peers_at_once_are_all_seen_and_one_that_repeats_itself_is_not(
    stream: io.StringIO, clock: Clock
) -> None:
    log = Log(stream=stream, clock=clock)
    peers = [PeerId(number.to_bytes(32, "big")) for number in range(SUBJECTS_MAX)]
    for peer in peers:
        log.about_peer("info", "peer_connected", peer_id=peer)
    assert len(stream.getvalue().splitlines()) == len(peers) > TOTAL
    for _ in range(3 * LIMIT):
        log.about_peer("info", "peer_connected", peer_id=peers[-1])
    assert sum(f"peer_id={peers[-1]} " in line for line in stream.getvalue().splitlines()) == LIMIT
    clock.now += WINDOW
    log.about_peer("info", "peer_connected", peer_id=peers[-1])
    assert f"suppressed={2 * LIMIT + 1} " in stream.getvalue().splitlines()[-1]


@given(st.lists(st.tuples(st.floats(0, 20), st.sampled_from("abc")), max_size=150))
def test_never_more_than_the_limit_of_a_subject_nor_than_the_total(steps: list[tuple[float, str]]) -> None:
    clock = Clock()
    limiter = RateLimiter(limit=3, window=60.0, clock=clock, total=5)
    passed: list[tuple[float, str]] = []
    suppressed = 0
    for step, subject in steps:
        clock.now += step
        count = limiter.admit("kind", subject)
        if count is None:
            suppressed += 1
            recent = [who for at, who in passed if clock.now - at < 60.0]
            assert recent.count(subject) == 3 or len(recent) == 5  # not for nothing
        else:
            assert count == suppressed
            suppressed = 0
            passed.append((clock.now, subject))
    assert all(later - earlier >= 60.0 for (earlier, _), (later, _) in zip(passed, passed[5:], strict=False))
    for subject in "abc":
        own = [at for at, who in passed if who == subject]
        assert all(later - earlier >= 60.0 for earlier, later in zip(own, own[3:], strict=False))


@given(st.lists(st.floats(0, 40), max_size=120))
def test_never_more_than_the_limit_in_any_window(steps: list[float]) -> None:
    clock = Clock()
    limiter = RateLimiter(limit=3, window=60.0, clock=clock)
    passed, suppressed = [], 0
    for step in steps:
        clock.now += step
        count = limiter.admit("kind")
        if count is None:
            suppressed += 1
        else:
            assert count == suppressed
            suppressed = 0
            passed.append(clock.now)
    assert all(later - earlier >= 60.0 for earlier, later in zip(passed, passed[3:], strict=False))


def test_broken_stream_does_not_raise() -> None:
    class Broken(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    Log(stream=Broken()).error("x")
    closed = io.StringIO()
    closed.close()
    Log(stream=closed).error("x")


def test_program_without_stderr_goes_on() -> None:
    program = "from cryprq.telemetry.logs import Log\nlog = Log()\nlog.error('x')\nprint(log.lines_dropped, end='')"
    command = ["sh", "-c", 'exec "$0" "$@" 2>&-', sys.executable, "-c", program]
    assert subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=30).stdout == "0"


@pytest.fixture
def _root_logger() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        root.removeHandler(handler)
    for handler in handlers:
        root.addHandler(handler)
    root.setLevel(level)
    logging.captureWarnings(False)
    for name in ("quic", "http3"):
        logging.getLogger(name).setLevel(logging.NOTSET)


@pytest.mark.usefixtures("_root_logger")
def test_libraries_are_one_line_events_and_aioquic_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    setup("info", "logfmt")
    logging.getLogger("quic").error("what a stranger sent")
    logging.getLogger("asyncio").info("chatter")
    try:
        raise RuntimeError("broken\nin two lines")
    except RuntimeError:
        logging.getLogger("asyncio").exception("Task exception was never retrieved\nmore")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    start = 'event=library_message logger=asyncio message="Task exception was never retrieved" error='
    assert lines[0].startswith(start)
    assert "RuntimeError" in lines[0]
    assert "test_logs.py" in lines[0]
