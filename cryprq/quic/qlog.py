"""qlog of the control connections, for somebody who debugs one: a file for each in a directory (``CRYPRQ_QLOG_DIR``).

The format is qlog 0.3 as a sequence of JSON texts (RFC 7464), which can be read while the connection lives: packets
with their frames, losses, round-trip times, key updates by name. No TLS secret is in it, nor what a frame carries, nor
the tokens with which somebody else could end the connection or open another.

Files are written from the event loop, so this is not for a gateway under load. The newest ``FILES_MAX`` are kept, of at
most ``FILE_SIZE_MAX`` bytes each. Who floods a listener with connections pushes older files out.
"""

import json
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from aioquic.quic.logger import QLOG_VERSION, QuicLogger, QuicLoggerTrace
from aioquic.quic.packet import QuicTransportParameters

FILES_MAX: Final = 64
FILE_SIZE_MAX: Final = 4 << 20
SUFFIX: Final = ".sqlog"
_OPENED: Final = frozenset({"transport:packet_received", "transport:packet_sent"})
"""A datagram that cannot be opened is nobody's connection: anyone can send those, and they get no file."""


class Qlog(QuicLogger):
    """Where aioquic's connections log to. ``flush`` writes what has been logged since the last time."""

    def __init__(self, directory: Path, failed: Callable[[OSError], object]) -> None:
        """Makes the directory if it is not there; OSError if files cannot be written to it. ``failed`` is called once
        if that happens later, and nothing more is written."""
        super().__init__()
        directory.mkdir(mode=0o700, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
        self._directory = directory
        self._failed: Callable[[OSError], object] | None = failed
        self._files = deque(sorted(directory.glob(f"*{SUFFIX}")))
        self._changed: dict[_Trace, None] = {}

    def start_trace(self, is_client: bool, odcid: bytes) -> QuicLoggerTrace:
        """For aioquic, once for each connection."""
        return _Trace(self._changed, is_client=is_client, odcid=odcid)

    def end_trace(self, trace: QuicLoggerTrace) -> None:
        """For aioquic. There is nothing to do: a file is not kept open."""

    def flush(self) -> None:
        """Writes events. Not from within a call of aioquic, which completes an event after it has logged it."""
        changed, failed = list(self._changed), self._failed
        self._changed.clear()
        for trace in changed:
            if failed is None:
                trace.events.clear()
                continue
            try:
                self._write(trace)
            except OSError as error:
                failed(error)
                self._failed = failed = None

    def _write(self, trace: "_Trace") -> None:
        events, trace.events = trace.events, []
        if trace.path is None:
            if not any(event["name"] in _OPENED for event in events):
                return
            trace.path = self._create(trace)
        text = "".join(map(_text, events))
        if len(text) > trace.room:
            trace.room = 0
            return
        try:
            descriptor = os.open(trace.path, os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW)
        except FileNotFoundError:  # it was one too many
            trace.room = 0
            return
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(text)
        trace.room -= len(text)

    def _create(self, trace: "_Trace") -> Path:
        now = time.time()
        stamp = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
        end = "dialer" if trace.is_client else "listener"
        path = self._directory / f"{stamp}.{int(now % 1 * 1e6):06d}-{end}-{trace.odcid}{SUFFIX}"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(_text(trace.header()))
        self._files.append(path)
        while len(self._files) > FILES_MAX:
            self._files.popleft().unlink(missing_ok=True)
        return path


def _text(value: dict[str, Any]) -> str:
    """One text of the sequence. What JSON has no form for is not to stop a connection."""
    return f"\x1e{json.dumps(value, separators=(',', ':'), default=repr)}\n"


class _Trace(QuicLoggerTrace):
    """What one connection has logged and is not written yet."""

    def __init__(self, changed: dict["_Trace", None], *, is_client: bool, odcid: bytes) -> None:
        super().__init__(is_client=is_client, odcid=odcid)
        self.is_client = is_client
        self.odcid = odcid.hex()
        self.events: list[dict[str, Any]] = []
        self.path: Path | None = None
        self.room = FILE_SIZE_MAX
        self._changed = changed

    def header(self) -> dict[str, Any]:
        """The first text of the file."""
        return {
            "qlog_version": QLOG_VERSION,
            "qlog_format": "JSON-SEQ",
            "trace": {
                "vantage_point": {"name": "cryprq", "type": "client" if self.is_client else "server"},
                "common_fields": {"ODCID": self.odcid, "time_format": "absolute"},
            },
        }

    def log_event(self, *, category: str, event: str, data: dict[str, Any]) -> None:
        """For aioquic, which adds to ``data`` afterwards."""
        if self.room > 0:
            self._changed[self] = None
            self.events.append({"time": self.encode_time(time.time()), "name": f"{category}:{event}", "data": data})

    # ---- secrets that aioquic would log ----

    def encode_new_connection_id_frame(
        self, connection_id: bytes, retire_prior_to: int, sequence_number: int, stateless_reset_token: bytes
    ) -> dict[str, Any]:
        """Without the token, which ends the connection for whoever knows it."""
        frame = super().encode_new_connection_id_frame(
            connection_id, retire_prior_to, sequence_number, stateless_reset_token
        )
        return {key: value for key, value in frame.items() if key != "reset_token"}

    def encode_new_token_frame(self, token: bytes) -> dict[str, Any]:
        """Without the token, which shows an address to be validated."""
        frame = super().encode_new_token_frame(token)
        return {key: value for key, value in frame.items() if key != "token"}

    def encode_transport_parameters(self, owner: str, parameters: QuicTransportParameters) -> dict[str, Any]:
        """Without the token of the first connection ID."""
        data = super().encode_transport_parameters(owner, parameters)
        return {key: value for key, value in data.items() if key != "stateless_reset_token"}
