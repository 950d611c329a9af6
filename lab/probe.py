"""A steady flow through a live tunnel that notices everything: each datagram is numbered and comes back from an echo.

Both ends are threads of this process, so that all times are of one clock (CLOCK_MONOTONIC, seconds).
"""

import itertools
import os
import socket
import statistics
import struct
import threading
import time
from pathlib import Path
from typing import Any

from lab.background import Background
from lab.hosts import Namespace
from lab.traffic import family_of, make_room

_NUMBER = struct.Struct("!Q")
_POLL = 0.2
_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(pid: int) -> float:
    """User and system time of a process, all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS  # utime and stime (proc(5), fields 14 and 15)


class Probe(Background):
    """Sends ``rate`` datagrams a second from one host to an address of the other, for as long as it is entered."""

    def __init__(self, source: Namespace, target: Namespace, address: str, *, rate: float = 500.0, port: int = 5010):
        super().__init__()
        self.sent: list[float] = []
        """When datagram number n was sent."""
        self.arrived: dict[int, float] = {}
        """When it came to the other host, by number."""
        self.returned: dict[int, float] = {}
        """When it was back."""
        self._rate = rate
        with target.entered():
            self._echo = socket.socket(family_of(address), socket.SOCK_DGRAM)
            self._echo.bind((address, port))
        with source.entered():
            self._sock = socket.socket(family_of(address), socket.SOCK_DGRAM)
            self._sock.connect((address, port))
        for sock in (self._echo, self._sock):
            make_room(sock, 4 << 20)
            sock.settimeout(_POLL)
        self._sockets = [self._echo, self._sock]
        self._threads = [threading.Thread(target=run) for run in (self._answer, self._collect, self._send)]

    def first_after(self, moment: float) -> float | None:
        """When the first datagram arrived that did so after that moment."""
        return min((at for at in self.arrived.copy().values() if at > moment), default=None)

    def report(self, start: float, end: float) -> dict[str, Any]:
        """What became of the datagrams that were sent between two moments; to be asked a little later than ``end``."""
        numbers = [number for number, at in enumerate(self.sent) if start <= at < end]
        lost = [number for number in numbers if number not in self.arrived]
        unanswered = [number for number in numbers if number in self.arrived and number not in self.returned]
        trips = sorted((self.returned[n] - self.sent[n]) * 1e3 for n in numbers if n in self.returned)
        arrivals = sorted(self.arrived[number] for number in numbers if number in self.arrived)
        gaps = [later - earlier for earlier, later in itertools.pairwise(arrivals)]
        return {
            "sent": len(numbers),
            "lost_there": len(lost),
            "lost_back": len(unanswered),
            "rtt_p50_ms": round(statistics.median(trips), 3) if trips else None,
            "rtt_p99_ms": round(trips[len(trips) * 99 // 100], 3) if trips else None,
            "rtt_max_ms": round(trips[-1], 3) if trips else None,
            "longest_gap_ms": round(max(gaps, default=0.0) * 1e3, 1),
        }

    # ---- threads ----

    def _send(self) -> None:
        start = time.monotonic()
        while not self._end.is_set():
            now = time.monotonic()
            while len(self.sent) <= (now - start) * self._rate:
                self.sent.append(time.monotonic())
                try:
                    self._sock.send(_NUMBER.pack(len(self.sent) - 1) + bytes(56))
                except OSError:
                    pass  # no path at the moment: it is lost
            time.sleep(0.5 / self._rate)

    def _answer(self) -> None:
        while not self._end.is_set():
            try:
                data, sender = self._echo.recvfrom(2048)
                self.arrived.setdefault(_NUMBER.unpack_from(data)[0], time.monotonic())
                self._echo.sendto(data, sender)
            except OSError:
                continue

    def _collect(self) -> None:
        while not self._end.is_set():
            try:
                data = self._sock.recv(2048)
            except OSError:
                continue
            self.returned.setdefault(_NUMBER.unpack_from(data)[0], time.monotonic())
