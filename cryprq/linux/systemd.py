"""What a service manager is told: the sd_notify protocol, datagrams of VARIABLE=VALUE lines to $NOTIFY_SOCKET.

Source: sd_notify(3) and sd_watchdog_enabled(3) of systemd. Without $NOTIFY_SOCKET every call does nothing.
"""

import os
import socket
import time
from collections.abc import Mapping
from typing import Final, Self


class Notifier:
    """Tells the service manager, if there is one, how the node is. A manager that does not listen is no failure of the
    node: what cannot be sent at once is not sent."""

    def __init__(self, path: str | None = None, watchdog: float | None = None) -> None:
        """``path`` of the manager's socket, ``@`` for the abstract name space; ``watchdog`` is how many seconds it
        bears without a sign of life."""
        self.watchdog: Final = watchdog
        self._address: Final = _address(path)
        self._fed = float("-inf")
        self._status: str | None = None

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Self:
        """From NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID; a watchdog that is meant for another process is none."""
        usec = environ.get("WATCHDOG_USEC", "")
        mine = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog = int(usec) / 1e6 if mine and usec.isascii() and usec.isdigit() and int(usec) > 0 else None
        return cls(environ.get("NOTIFY_SOCKET"), watchdog)

    def ready(self) -> None:
        """The node works; after ``reloading``: under its new configuration, or still under the old one."""
        self._send("READY=1")

    def reloading(self) -> None:
        """The configuration is about to be read again. MONOTONIC_USEC is what ``Type=notify-reload`` asks for."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")

    def stopping(self) -> None:
        """The node has begun to stop."""
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        """One line for ``systemctl status``; sent only when it has changed."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def alive(self, now: float) -> None:
        """Feeds the watchdog, if there is one and a third of its time is over; ``now`` in seconds of any steady
        clock."""
        if self.watchdog is not None and now - self._fed >= self.watchdog / 3:
            self._fed = now
            self._send("WATCHDOG=1")

    def _send(self, *lines: str) -> None:
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
                sock.sendto("\n".join(lines).encode(), self._address)
        except OSError:
            pass


def _address(path: str | None) -> str | bytes | None:
    """As the kernel takes it; None for what is neither an absolute path nor an abstract name."""
    if not path or path[0] not in "/@" or len(path) < 2:
        return None
    return b"\0" + os.fsencode(path[1:]) if path[0] == "@" else path
