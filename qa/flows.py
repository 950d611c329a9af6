"""Traffic of the scenarios: flows that must lose nothing, and a probe that knows when the tunnel carried what."""

import contextlib
import random
import socket
import struct
import threading
import time
from itertools import pairwise
from typing import Any, Final

from lab.background import Background
from lab.hosts import Namespace
from qa.report import Report

RATE: Final = 200
"""Datagrams a second, each way."""

WAYS: Final = ("to the listener", "to the dialer")

_NUMBER = struct.Struct("!Q")


class Flow:
    """Numbered datagrams both ways between two addresses inside the tunnel, for a fixed time."""

    def __init__(
        self, ends: tuple[Namespace, Namespace], addresses: tuple[str, str], seconds: float, port: int
    ) -> None:
        """Starts both receivers, then both senders; end 0 has address 0."""
        self._senders = []
        self._receivers = []
        for here, there, address in ((ends[0], ends[1], addresses[0]), (ends[1], ends[0], addresses[1])):
            self._receivers.append(here.traffic("udp_receive", address, port, timeout=seconds + 10))
            self._senders.append(there.traffic("udp_send", address, port, rate=RATE, seconds=seconds))
        self._seconds = seconds

    def finish(self, report: Report, name: str) -> None:
        """Waits for the end. What was sent must have arrived, once, and have been as much as was meant to be."""
        for way, sender, receiver in zip(WAYS, self._senders, self._receivers, strict=True):
            sent = sender.result(self._seconds + 30)["sent"]
            result = receiver.result(self._seconds + 30)
            report.at_least(f"{name}: datagrams sent {way}", sent, RATE * self._seconds * 0.8)
            report.check(
                f"{name}: every datagram {way} arrived, once",
                result["received"] == sent and result["duplicates"] == 0,
                sent=sent, **result,
            )  # fmt: skip


def transfer(server: Namespace, client: Namespace, address: str, size: int, report: Report, name: str) -> None:
    """The same number of bytes both ways over one TCP connection; either end checks the other's SHA-256."""
    serving = server.traffic("tcp_serve", address, 5001, size=size)
    ends = [client.measure("tcp_transfer", address, 5001, size=size), serving.result()["connections"][0]]
    report.check(
        f"{name}: {size >> 20} MiB each way by TCP are unchanged",
        all(end["ok"] and end["received"] == size for end in ends),
        seconds=ends[0]["seconds"], retransmits=sum(end["retransmits"] for end in ends),
    )  # fmt: skip


def ping(host: Namespace, address: str, report: Report, name: str, count: int = 10) -> dict[str, Any]:
    """Pings of which each must be answered."""
    result = host.measure("ping", address, count=count, interval=0.02, timeout=1.0)
    report.equal(f"{name}: pings answered", result["received"], count)
    return result


class Probe(Background):
    """Datagrams from one host to an address of another, a hundred a second, with the time at which each arrived.

    A context manager. Both sockets belong to this process, so there is one clock; a receiver keeps its socket while
    its address goes and comes again.
    """

    def __init__(self, source: Namespace, target: Namespace, address: str, port: int = 5900) -> None:
        super().__init__()
        self._arrivals: list[float] = []
        self._address = (address, port)
        with target.entered():
            self._receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._receiver.bind(self._address)
        self._receiver.settimeout(0.05)
        with source.entered():
            self._sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sockets = [self._receiver, self._sender]
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]

    def _send(self) -> None:
        number = 0
        while not self._end.wait(0.01):
            number += 1
            try:
                self._sender.sendto(_NUMBER.pack(number), self._address)
            except OSError:
                pass  # no route at the moment

    def _receive(self) -> None:
        while not self._end.is_set():
            try:
                self._receiver.recv(64)
                self._arrivals.append(time.monotonic())
            except TimeoutError:
                pass

    def next_arrival(self, since: float, timeout: float) -> float | None:
        """The time of the first arrival after ``since``, waited for until ``timeout`` seconds after it; None for
        none."""
        while True:
            for at in self._arrivals[:]:
                if at > since:
                    return at
            if time.monotonic() > since + timeout:
                return None
            time.sleep(0.02)

    def longest_gap(self, since: float) -> float:
        """The longest time without an arrival from ``since`` until now, in seconds."""
        times = [since, *(at for at in self._arrivals if at > since), time.monotonic()]
        return max(later - earlier for earlier, later in pairwise(times))


class Conversation(Background):
    """One TCP connection through the tunnel for as long as the context is open: the client says something, the server
    says it back, and that again and again. Whoever interrupts the tunnel may delay an answer, but not lose one."""

    def __init__(self, client: Namespace, server: Namespace, address: str, port: int = 5002) -> None:
        self.answers = 0
        """So many answers came, each of them right."""
        self.error: str | None = None
        """What ended the connection."""
        super().__init__()
        with server.entered():
            self._listener = socket.create_server((address, port))
        with client.entered():
            self._client = socket.create_connection((address, port), timeout=30)
        self._server, _ = self._listener.accept()
        self._server.settimeout(30)
        self._sockets = [self._client, self._server, self._listener]
        self._threads = [threading.Thread(target=self._ask), threading.Thread(target=self._answer)]

    def wait(self, timeout: float = 10.0) -> bool:
        """Whether one more answer comes."""
        before, end = self.answers, time.monotonic() + timeout
        while self.answers == before and time.monotonic() < end:
            time.sleep(0.02)
        return self.answers > before

    def _ask(self) -> None:
        try:
            while not self._end.wait(0.01):
                said = random.randbytes(4096)
                self._client.sendall(said)
                heard = b""
                while len(heard) < len(said):
                    if not (part := self._client.recv(len(said) - len(heard))):
                        raise ConnectionError("the connection ended early")
                    heard += part
                if heard != said:
                    raise ConnectionError("the answer is not what was said")
                self.answers += 1
        except OSError as error:
            self.error = str(error)
        with contextlib.suppress(OSError):
            self._client.shutdown(socket.SHUT_WR)

    def _answer(self) -> None:
        try:
            while said := self._server.recv(65536):
                self._server.sendall(said)
        except OSError as error:
            self.error = self.error or str(error)
