"""Reading the endpoint's socket: how much in one turn of the loop, and whether that keeps pace. No socket, no loop."""

import errno
from collections import Counter
from collections.abc import Sequence

import pytest

from cryprq.address import Address, Local
from cryprq.protocol.clock import Monotonic
from cryprq.quic.intake import BEHIND_AFTER, DATAGRAMS_PER_WAKEUP, SECONDS_PER_WAKEUP, Intake

HERE = Address("192.0.2.1", 4000)
Batch = tuple[Sequence[bytes], Address, Local]


class Socket:
    """Holds batches, or errors, that wait to be received; ``cost`` is what the clock moves with each datagram."""

    def __init__(self) -> None:
        self.waiting: list[Batch | OSError] = []
        self.now = Monotonic(50.0)
        self.cost = 0.0
        self.delivered: list[tuple[bytes, Address, Local, Monotonic]] = []
        self.counters: Counter[str] = Counter()
        self.intake = Intake(self, lambda: self.now, self.counters)

    def put(self, *batches: Sequence[bytes]) -> None:
        self.waiting += [(batch, HERE, Local("192.0.2.9")) for batch in batches]

    def read(self) -> int:
        """One turn of the loop; how many datagrams came of it."""
        before = len(self.delivered)
        self.intake.read(self._deliver)
        return len(self.delivered) - before

    def _deliver(self, data: bytes, remote: Address, local: Local, now: Monotonic) -> None:
        self.delivered.append((data, remote, local, now))
        self.now = Monotonic(self.now + self.cost)

    # ---- DatagramSocket ----

    def fileno(self) -> int:
        raise NotImplementedError

    def send(self, data: bytes, remote: Address, local: Local) -> bool:
        raise NotImplementedError

    def send_all(self, datagrams: Sequence[bytes], remote: Address, local: Local) -> bool:
        raise NotImplementedError

    def readable(self) -> bool:
        return bool(self.waiting)

    def receive(self) -> Batch | None:
        if not self.waiting:
            return None
        first = self.waiting.pop(0)
        if isinstance(first, OSError):
            raise first
        return first


def test_datagrams_come_in_order_with_where_they_came_from() -> None:
    sock = Socket()
    sock.put([b"1", b"2"], [b""])
    assert sock.read() == 3
    assert sock.delivered == [(data, HERE, Local("192.0.2.9"), 50.0) for data in (b"1", b"2", b"")]


def test_turn_ends_after_so_many_datagrams_merged_or_not() -> None:
    sock = Socket()
    sock.put(*[[b"x"]] * (DATAGRAMS_PER_WAKEUP + 1))
    assert sock.read() == DATAGRAMS_PER_WAKEUP
    assert sock.read() == 1
    sock.put([b"x"] * (DATAGRAMS_PER_WAKEUP // 2), [b"x"] * (DATAGRAMS_PER_WAKEUP // 2), [b"x"])
    assert sock.read() == DATAGRAMS_PER_WAKEUP
    assert sock.read() == 1


def test_turn_ends_after_some_time_whatever_waits() -> None:
    sock = Socket()
    sock.cost = SECONDS_PER_WAKEUP / 2.5
    sock.put(*[[b"x"]] * 10)
    assert sock.read() == 3
    assert [now - 50.0 for *_, now in sock.delivered] == pytest.approx([0, sock.cost, 2 * sock.cost])


def test_errors_of_the_socket_are_counted_and_bounded_too() -> None:
    sock = Socket()
    sock.waiting.append(OSError(errno.ECONNREFUSED, "refused"))
    sock.put([b"x"])
    assert sock.read() == 1
    sock.waiting += [OSError(errno.EIO, "without end")] * (DATAGRAMS_PER_WAKEUP * 2)
    assert sock.read() == 0
    assert sock.counters["socket_error"] == 1 + DATAGRAMS_PER_WAKEUP


def test_it_is_behind_when_it_has_not_read_everything_for_a_while() -> None:
    sock = Socket()
    sock.put(*[[b"x"]] * (DATAGRAMS_PER_WAKEUP * 2 + 1))
    started = sock.now
    sock.read()
    assert not sock.intake.is_behind(sock.now)
    sock.now = Monotonic(started + BEHIND_AFTER + 0.01)
    assert sock.intake.is_behind(sock.now)
    sock.read()
    assert sock.intake.is_behind(sock.now), "since the first turn that left something"
    sock.read()
    assert not sock.intake.is_behind(sock.now), "the last datagram is read"
    sock.put([b"x"])
    sock.read()
    assert not sock.intake.is_behind(Monotonic(sock.now + 9))


def test_it_is_not_behind_when_the_last_that_a_turn_may_take_was_the_last_of_all() -> None:
    sock = Socket()
    sock.put(*[[b"x"]] * DATAGRAMS_PER_WAKEUP)
    assert sock.read() == DATAGRAMS_PER_WAKEUP
    assert not sock.intake.is_behind(Monotonic(sock.now + 9))
