"""What comes in: datagrams off the endpoint's socket, so many in one turn of the loop, and whether that keeps pace."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from cryprq.address import Address, Local
from cryprq.protocol.clock import Monotonic

DATAGRAMS_PER_WAKEUP: Final = 64
"""After so many the loop gets its turn, so that a flood leaves time for everything else."""
SECONDS_PER_WAKEUP: Final = 0.005
"""Likewise, so that many handshakes at once do: a datagram of one may cost a millisecond."""
BEHIND_AFTER: Final = 0.1
"""Seconds without a moment in which everything was read; dialers repeat themselves after 0.2 s (RFC 9002, 6.2.2)."""


class DatagramSocket(Protocol):
    """What the endpoint needs of its UDP socket (``cryprq.linux.udp.UdpSocket``)."""

    def fileno(self) -> int: ...
    def readable(self) -> bool: ...
    def receive(self) -> tuple[Sequence[bytes], Address, Local] | None: ...
    def send(self, data: bytes, remote: Address, local: Local) -> bool: ...
    def send_all(self, datagrams: Sequence[bytes], remote: Address, local: Local) -> bool: ...


class Intake:
    """Reads a socket in bounded portions."""

    def __init__(self, udp: DatagramSocket, clock: Callable[[], Monotonic], counters: Counter[str]) -> None:
        self._udp = udp
        self._clock = clock
        self._counters = counters
        self._behind_since: Monotonic | None = None

    def read(self, deliver: Callable[[bytes, Address, Local, Monotonic], None]) -> None:
        """Delivers what waits at the socket, or as much of it as one turn of the loop may take: each datagram with its
        sender, where it came in, and the time."""
        now = started = self._clock()
        budget = DATAGRAMS_PER_WAKEUP
        while budget > 0 and now - started < SECONDS_PER_WAKEUP:
            try:
                batch = self._udp.receive()
            except OSError:
                self._counters["socket_error"] += 1
                budget -= 1
                continue
            if batch is None:
                self._behind_since = None
                return
            datagrams, remote, local = batch
            for datagram in datagrams:
                deliver(datagram, remote, local, now)
            budget -= len(datagrams)
            now = self._clock()
        self._behind_since = (self._behind_since or started) if self._udp.readable() else None

    def is_behind(self, now: Monotonic) -> bool:
        """True if datagrams may be in here twice, since the first was not answered in time."""
        return self._behind_since is not None and now - self._behind_since > BEHIND_AFTER
