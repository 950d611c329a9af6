"""Log lines on stderr: ``event=NAME key=value`` or JSON. Rate limits for what strangers can trigger."""

import logging
import re
import sys
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from typing import Any, Final, Literal, TextIO

import structlog

from cryprq.telemetry.defects import TRACEBACK_MAX, describe_exception, whole_traceback

Level = Literal["debug", "info", "warning", "error"]

LIMIT: Final = 10
"""How often an event that strangers can trigger is logged within ``WINDOW`` seconds."""
WINDOW: Final = 60.0
VALUE_MAX: Final = 1000
"""Characters of one value, but for a traceback; the rest is cut off."""

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "off": logging.CRITICAL,  # nothing here is logged as critical
}
_BARE: Final = re.compile(r"[^\s\"=\\]+")


class RateLimiter:
    """Lets every kind of event pass at most ``limit`` times in any ``window`` seconds, and counts the others.

    Kinds are names from the program, never from the network, so the table stays small.
    """

    def __init__(self, limit: int = LIMIT, window: float = WINDOW, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = limit
        self._window = window
        self._clock = clock
        self._passed: dict[str, deque[float]] = {}
        self._suppressed: dict[str, int] = {}

    def admit(self, kind: str) -> int | None:
        """None: be silent. Else the number of events of this kind that were suppressed since the last one passed."""
        now = self._clock()
        passed = self._passed.setdefault(kind, deque(maxlen=self._limit))
        if len(passed) == self._limit and now - passed[0] < self._window:
            self._suppressed[kind] = self._suppressed.get(kind, 0) + 1
            return None
        passed.append(now)
        return self._suppressed.pop(kind, 0)


class Log:
    """Where events go. Fields are anything with a ``str()``; numbers, booleans and None stay what they are in JSON.

    Writing never raises: a log that nobody reads any more must not stop a tunnel.
    """

    def __init__(
        self,
        level: str = "info",
        log_format: str = "logfmt",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``level`` and ``log_format`` as in NodeConfig; ``stream`` is stderr by default."""
        self._sink = _Sink(stream)
        self._format = log_format
        self._limiter = RateLimiter(clock=clock)
        self.set_level(level)

    def set_level(self, level: str) -> None:
        """Drops events below this level (``debug``, ``info``, ``warn``, ``error``, ``off``) from now on."""
        self._debugging = level == "debug"
        renderer = structlog.processors.JSONRenderer(ensure_ascii=True) if self._format == "json" else _logfmt
        self._logger = structlog.wrap_logger(
            self._sink,
            processors=[
                structlog.processors.add_log_level,
                structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
                _plain,
                renderer,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        )

    def debug(self, event: str, **fields: object) -> None:
        """Details for troubleshooting, each handshake message among them."""
        self._logger.debug(event, **fields)

    def info(self, event: str, **fields: object) -> None:
        """What an operator wants to see in normal use."""
        self._logger.info(event, **fields)

    def warning(self, event: str, **fields: object) -> None:
        """What an operator may have to act on."""
        self._logger.warning(event, **fields)

    def error(self, event: str, **fields: object) -> None:
        """What stops a part of the node."""
        self._logger.error(event, **fields)

    def limited(self, level: Level, event: str, **fields: object) -> None:
        """An event that a stranger can trigger: at most ``LIMIT`` a minute of each name; the next one that is written
        says with ``suppressed=N`` how many were not."""
        suppressed = self._limiter.admit(event)
        if suppressed is not None:
            if suppressed:
                fields["suppressed"] = suppressed
            getattr(self._logger, level)(event, **fields)

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
    """The logger that structlog writes to: a line to the stream, or nothing if that fails."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream

    def msg(self, line: str) -> None:
        stream = self._stream if self._stream is not None else sys.stderr
        try:
            stream.write(line + "\n")  # one write, so that lines of several processes do not mix
            stream.flush()
        except (OSError, ValueError):  # the reader is gone, or the stream is closed
            pass

    debug = info = warning = error = msg


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


def _plain(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Puts the event's name first and turns values into what both formats can show."""
    result: dict[str, Any] = {"event": event.pop("event")}
    for key, value in event.items():
        if value is None or isinstance(value, bool | int | float):
            result[key] = value
        else:
            text, limit = str(value), TRACEBACK_MAX if key == "traceback" else VALUE_MAX
            result[key] = text if len(text) <= limit else text[: limit - 3] + "..."
    return result


def _logfmt(_logger: object, _method: str, event: MutableMapping[str, Any]) -> str:
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
