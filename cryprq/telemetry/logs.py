"""Log lines on stderr: ``event=NAME key=value`` or JSON. Rate limits for what strangers can trigger."""

import io
import json
import logging
import os
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Literal, TextIO

from cryprq.address import Address
from cryprq.telemetry.defects import TRACEBACK_MAX, describe_exception, whole_traceback
from cryprq.telemetry.journal import PRIORITIES, is_journal
from cryprq.telemetry.line_writer import FLUSH_TIMEOUT, LineWriter, writer_to

Level = Literal["debug", "info", "warning", "error"]

LIMIT: Final = 10
"""How often an event that strangers can trigger is logged about one peer or source within ``WINDOW`` seconds."""
TOTAL: Final = 100
"""The same about all together."""
SUBJECTS_MAX: Final = 1024
"""Peers and sources that are told apart, times events."""
WINDOW: Final = 60.0
VALUE_MAX: Final = 1000
"""Characters of one value, but for a traceback; the rest is cut off."""

_LEVELS: Final = {"debug": 0, "info": 1, "warn": 2, "error": 3, "off": 4}
"""Words of the configuration, the least important first."""
_SEVERITY: Final[Mapping[Level, int]] = {"debug": 0, "info": 1, "warning": 2, "error": 3}
"""The same of events; nothing reaches ``off``."""
_BARE: Final = re.compile(r"[^\s\"=\\]+")


class RateLimiter:
    """Lets every kind of event about one subject pass at most ``limit`` times in any ``window`` seconds, and a kind as
    a whole ``total`` times; counts the others.

    Kinds are names from the program. Subjects come from the network: of those only the last ``SUBJECTS_MAX`` are known,
    and whoever has many cannot have more than the total. Without a total, ``None``, one subject takes nothing from
    another: for those of whom there are only so many.
    """

    def __init__(
        self,
        limit: int = LIMIT,
        window: float = WINDOW,
        clock: Callable[[], float] = time.monotonic,
        total: int | None = TOTAL,
    ) -> None:
        self._limit = limit
        self._total = total
        self._window = window
        self._clock = clock
        self._subjects: dict[tuple[str, str], deque[float]] = {}
        self._kinds: dict[str, deque[float]] = {}
        self._suppressed: dict[str, int] = {}

    def admit(self, kind: str, subject: str = "") -> int | None:
        """None: be silent. Else the number of events of this kind that were suppressed since the last one passed."""
        now = self._clock()
        # Taken out and put in again: the first in the dictionary is the one that was not heard of for the longest time.
        own = self._subjects.pop((kind, subject), None) or deque(maxlen=self._limit)
        self._subjects[kind, subject] = own
        if len(self._subjects) > SUBJECTS_MAX:
            del self._subjects[next(iter(self._subjects))]
        counted = [own]
        if self._total is not None:
            counted.append(self._kinds.setdefault(kind, deque(maxlen=self._total)))
        if any(self._is_full(each, now) for each in counted):
            self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
            return None
        for each in counted:
            each.append(now)
        return self._suppressed.pop(kind, 0)

    def _is_full(self, passed: deque[float], now: float) -> bool:
        return len(passed) == passed.maxlen and now - passed[0] < self._window


class Log:
    """Where events go. Fields are anything with a ``str()``; numbers, booleans and None stay what they are in JSON.

    Writing never raises, and to stderr it never waits: a log that nobody reads any more must not stop a tunnel.
    """

    def __init__(
        self,
        level: str = "info",
        log_format: str = "logfmt",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``level`` and ``log_format`` as in NodeConfig; ``stream`` is stderr by default, and waits for its reader if
        it is another one."""
        self._format = log_format
        self._writer = _stderr_writer() if stream is None else None
        self._journal = self._writer is not None and is_journal(self._writer.descriptor, os.environ)
        self._sink = _Sink(self._writer, stream, self._gap)
        self._limiter = RateLimiter(clock=clock)
        self._peers = RateLimiter(clock=clock, total=None)
        self.name_of: Callable[[object], str] = lambda _: ""
        """What the peer of a ``peer_id`` is called, which lines then say beside the ID; empty: nothing."""
        self.set_level(level)

    @property
    def lines_dropped(self) -> int:
        """Lines that nobody took in time, and that are lost, of all logs that write to stderr."""
        return 0 if self._writer is None else self._writer.dropped

    def flush(self, timeout: float = FLUSH_TIMEOUT) -> None:
        """Waits, so long at the most, until all lines are written."""
        if self._writer is not None:
            self._writer.flush(timeout)

    def set_level(self, level: str) -> None:
        """Drops events below this level (``debug``, ``info``, ``warn``, ``error``, ``off``) from now on."""
        self._debugging = level == "debug"
        self._least = _LEVELS[level]

    def _write(self, level: Level, event: str, fields: Mapping[str, object]) -> None:
        if _SEVERITY[level] >= self._least:
            self._sink.write(self._line(level, event, fields))

    def _line(self, level: Level, event: str, fields: Mapping[str, object]) -> str:
        time = datetime.now(UTC).replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"
        shown = _plain({"event": event, **self.named(fields), "level": level, "time": time})
        line = json.dumps(shown) if self._format == "json" else _logfmt(shown)
        return PRIORITIES[level] + line if self._journal else line

    def named(self, fields: Mapping[str, object]) -> Mapping[str, object]:
        """The fields, with the name of a peer that has one beside its ID."""
        peer_id = fields.get("peer_id")
        if peer_id is None or not (name := self.name_of(peer_id)):
            return fields
        named: dict[str, object] = {}
        for key, value in fields.items():
            named[key] = value
            if key == "peer_id":
                named["peer"] = name
        return named

    def _gap(self, lines: int) -> str:
        """The line that stands for so many lost ones."""
        return self._line("warning", "log_lines_dropped", {"lines": lines})

    def debug(self, event: str, **fields: object) -> None:
        """Details for troubleshooting, each handshake message among them."""
        self._write("debug", event, fields)

    def info(self, event: str, **fields: object) -> None:
        """What an operator wants to see in normal use."""
        self._write("info", event, fields)

    def warning(self, event: str, **fields: object) -> None:
        """What an operator may have to act on."""
        self._write("warning", event, fields)

    def error(self, event: str, **fields: object) -> None:
        """What stops a part of the node."""
        self._write("error", event, fields)

    def limited(self, level: Level, event: str, **fields: object) -> None:
        """An event that a stranger can trigger, or that may repeat by itself: at most ``LIMIT`` a minute of each name
        about one peer (``peer_id``), or else one source (``remote``), network or address, and ``TOTAL`` in all; the
        next one that is written says with ``suppressed=N`` how many of this name were not."""
        self._write_limited(self._limiter, level, event, fields)

    def about_peer(self, level: Level, event: str, **fields: object) -> None:
        """An event that only a peer on the allowlist can trigger (``peer_id``): as ``limited``, but without the limit
        for all together, so that a thousand peers that come back at once are all seen."""
        self._write_limited(self._peers, level, event, fields)

    def _write_limited(self, limiter: RateLimiter, level: Level, event: str, fields: dict[str, object]) -> None:
        suppressed = limiter.admit(event, _subject(fields))
        if suppressed is not None:
            if suppressed:
                fields["suppressed"] = suppressed
            self._write(level, event, fields)

    def defect(self, level: Level, event: str, error: BaseException, **fields: object) -> None:
        """An exception that should not have been: ``error``, ``where``, and at level ``debug`` the whole ``traceback``.
        Somebody may be able to repeat it, so it is ``limited``."""
        fields |= describe_exception(error)
        if self._debugging:
            fields["traceback"] = whole_traceback(error)
        self.limited(level, event, **fields)


def setup(level: str, log_format: str) -> Log:
    """The program's log on stderr. What libraries log at warning or above comes as one-line ``library_message`` events;
    aioquic is silenced: it warns about what strangers send, one line a packet."""
    log = Log(level, log_format)
    root = logging.getLogger()
    for handler in list(root.handlers):
        root.removeHandler(handler)
    root.addHandler(_Forward(log))
    root.setLevel(logging.WARNING)
    for name in ("quic", "http3"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    logging.captureWarnings(True)
    return log


class _Sink:
    """Where lines go: to the writer, or else to the stream, or nowhere if that fails."""

    def __init__(self, writer: LineWriter | None, stream: TextIO | None, gap: Callable[[int], str]) -> None:
        self._writer = writer
        self._stream = stream
        self._gap = gap

    def write(self, line: str) -> None:
        if self._writer is not None:
            self._writer.write(line, self._gap)
            return
        stream = self._stream if self._stream is not None else sys.stderr
        if stream is None:  # the program was started without
            return
        try:
            stream.write(line + "\n")  # one write, so that lines of several processes do not mix
            stream.flush()
        except (OSError, ValueError):  # the reader is gone, or the stream is closed
            pass


def _stderr_writer() -> LineWriter | None:
    """None where a program has put something else in the place of stderr, which nothing makes wait."""
    try:
        return writer_to(sys.stderr.fileno())
    except (AttributeError, io.UnsupportedOperation, ValueError):  # None, without a descriptor, closed
        return None


class _Forward(logging.Handler):
    """Turns records of the standard library's logging into events."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, object] = {"logger": record.name, "message": record.getMessage().partition("\n")[0]}
        level: Level = "error" if record.levelno >= logging.ERROR else "warning"
        if record.exc_info and record.exc_info[1] is not None:
            self._log.defect(level, "library_message", record.exc_info[1], **fields)
        else:
            self._log.limited(level, "library_message", **fields)


def _subject(fields: Mapping[str, object]) -> str:
    """Whom or what an event is about. A source is an address without its port, which is the sender's to choose."""
    if (peer_id := fields.get("peer_id")) is not None:
        return str(peer_id)
    remote = fields.get("remote")
    if isinstance(remote, Address):
        return remote.host
    return str(remote or fields.get("network") or fields.get("address") or "")


def _plain(event: Mapping[str, object]) -> dict[str, object]:
    """Turns values into what both formats can show."""
    result: dict[str, object] = {}
    for key, value in event.items():
        if value is None or isinstance(value, bool | int | float):
            result[key] = value
        else:
            text, limit = str(value), TRACEBACK_MAX if key == "traceback" else VALUE_MAX
            result[key] = text if len(text) <= limit else text[: limit - 3] + "..."
    return result


def _logfmt(event: Mapping[str, object]) -> str:
    """``key=value`` pairs. A value with blanks, quotes or control characters is quoted and escaped, so that what a
    stranger sends can neither begin a new line nor forge a field."""
    return " ".join(f"{key}={_logfmt_value(value)}" for key, value in event.items())


def _logfmt_value(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    text = str(value)
    if text.isprintable() and _BARE.fullmatch(text):
        return text
    escaped = "".join(_escape(character) for character in text)
    return f'"{escaped}"'


def _escape(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    return {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character, f"\\u{ord(character):04x}")
