"""The line in front of the listener: who is next, who has to leave, and what of a dialer counts."""

from aioquic.quic.packet import QuicHeader, QuicPacketType

from cryprq.address import Address, Local
from cryprq.protocol.clock import Monotonic
from cryprq.protocol.clock import Monotonic as at
from cryprq.quic.admission import Rank, source_of
from cryprq.quic.waiting_line import WAITING_LIFETIME, Beginning, WaitingLine


def beginning(host: int, port: int = 4000, cid: bytes = b"first", at: float = 0.0) -> Beginning:
    header = QuicHeader(
        version=1,
        packet_type=QuicPacketType.INITIAL,
        packet_length=0,
        destination_cid=cid,
        source_cid=b"",
        token=b"good",
        integrity_tag=b"",
        supported_versions=[],
    )
    return Beginning(
        b"", header, b"original", Address(f"192.0.2.{host}", port), Local(), Monotonic(at), Rank.KNOCKED, True
    )


def join(line: WaitingLine, one: Beginning) -> bool:
    return line.add(source_of(one.remote), one)


def drain(line: WaitingLine, now: float = 0.0) -> list[tuple[int, int]]:
    """Host and port of all that are served, in that order."""
    served = []
    while (one := line.take(at(now), lambda source: True)) is not None:
        served.append((int(one.remote.host.rpartition(".")[2]), one.remote.port))
    assert len(line) == 0
    return served


def test_sources_take_turns_whoever_sends_most() -> None:
    line = WaitingLine()
    for host, port in ((1, 1), (1, 2), (1, 3), (1, 4), (2, 1), (3, 1), (2, 2)):
        assert join(line, beginning(host, port))
    assert len(line) == 7
    assert drain(line) == [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (1, 3), (1, 4)]


def test_source_that_may_not_begin_keeps_nobody_else_waiting() -> None:
    line = WaitingLine()
    join(line, beginning(1))
    join(line, beginning(2))
    mine = source_of(beginning(1).remote)
    taken = line.take(at(0.0), lambda source: source != mine)
    assert taken is not None and taken.remote.host == "192.0.2.2"
    assert line.take(at(0.0), lambda source: source != mine) is None
    assert drain(line) == [(1, 4000)]


def test_full_line_loses_the_last_of_the_source_with_most() -> None:
    line = WaitingLine(size=4)
    for port in range(1, 5):
        assert join(line, beginning(1, port))
    assert not join(line, beginning(2))
    assert not join(line, beginning(3))
    assert not join(line, beginning(1, 5))  # of the source with most it is the last itself
    assert len(line) == 4
    assert drain(line) == [(1, 1), (2, 4000), (3, 4000), (1, 2)]


def test_who_has_given_up_is_not_served() -> None:
    line = WaitingLine()
    join(line, beginning(1, 1, at=0.0))
    join(line, beginning(1, 2, at=1.0))
    join(line, beginning(2, 1, at=0.0))
    join(line, beginning(2, 1, at=1.0))  # sent again
    assert drain(line, WAITING_LIFETIME + 0.5) == [(1, 2), (2, 1)]


def test_a_dialer_waits_with_its_newest_attempt_in_its_old_place() -> None:
    line = WaitingLine()
    join(line, beginning(1, cid=b"first", at=0.0))
    join(line, beginning(2))
    join(line, beginning(1, cid=b"second", at=1.0))
    join(line, beginning(1, cid=b"first", at=1.4))  # a retransmission, or the end, of the one before: of no use
    assert len(line) == 2
    taken = line.take(at(1.5), lambda source: True)
    assert taken is not None
    assert (taken.remote.host, taken.header.destination_cid, taken.at) == ("192.0.2.1", b"second", 1.0)
    join(line, beginning(1, cid=b"second", at=1.6))  # it has been served: this is a new one
    assert len(line) == 2


def test_last_word_of_an_attempt_counts() -> None:
    line = WaitingLine()
    join(line, beginning(1, at=0.0))
    last = beginning(1, at=0.9)
    join(line, last)
    assert line.take(at(1.0), lambda source: True) is last


def test_line_knows_whose_place_is_in_it() -> None:
    line = WaitingLine()
    join(line, beginning(1))
    assert [line.has(source_of(beginning(host).remote)) for host in (1, 2)] == [True, False]


def test_clear_sends_everybody_away() -> None:
    line = WaitingLine()
    join(line, beginning(1))
    line.clear()
    assert len(line) == 0
    assert line.take(at(0.0), lambda source: True) is None
