"""What is remembered of links and addresses, and notices that are none."""

import struct

import pytest

from cryprq.linux.rtnetlink import RTM_NEWADDR, RTM_NEWLINK, RTM_NEWROUTE
from cryprq.linux.ways import KNOWN_MAX, Ways

HOST = bytes([203, 0, 113, 7])


def address(number: int, flags: int = 0) -> bytes:
    packed = struct.pack(">I", number)
    return struct.pack("=BBBBI", 2, 24, flags, 0, 3) + struct.pack("=HH", 8, 2) + packed


def test_address_counts_once_it_can_be_used() -> None:
    ways = Ways()
    assert not ways.opens(RTM_NEWADDR, address(1, flags=0x40), 9, ())
    assert ways.opens(RTM_NEWADDR, address(1), 9, ())
    assert not ways.opens(RTM_NEWADDR, address(1), 9, ())


def test_memory_is_bounded() -> None:
    ways = Ways()
    assert all(ways.opens(RTM_NEWADDR, address(number), 9, ()) for number in range(2 * KNOWN_MAX))
    assert len(ways._known) <= KNOWN_MAX


@pytest.mark.parametrize("kind", [RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE])
def test_notice_that_is_cut_short_is_none(kind: int) -> None:
    ways = Ways()
    whole = struct.pack("=BBBBBBBBI", 2, 24, 0, 0, 254, 3, 0, 1, 0) + struct.pack("=HH", 8, 1) + HOST[:3] + b"\0"
    for size in range(12):
        assert not ways.opens(kind, whole[:size], 9, [HOST]), size
    assert ways.opens(RTM_NEWROUTE, whole, 9, [HOST])


def test_prefix_that_no_address_has_is_no_way() -> None:
    notice = struct.pack("=BBBBBBBBI", 2, 33, 0, 0, 254, 3, 0, 1, 0) + struct.pack("=HH", 8, 1) + HOST
    assert not Ways().opens(RTM_NEWROUTE, notice, 9, [HOST])


def link(carries: bool, times: int) -> bytes:
    flags = 0x10001 if carries else 0x1  # IFF_UP, with IFF_LOWER_UP
    return struct.pack("=BxHiII", 0, 1, 3, flags, 0) + struct.pack("=HHI", 8, 47, times)  # IFLA_CARRIER_UP_COUNT


def test_carrier_that_was_away_between_two_notices_is_back() -> None:
    ways = Ways()
    told = [ways.opens(RTM_NEWLINK, link(carries, times), 9, ()) for carries, times in
            ((True, 1), (True, 1), (True, 2), (True, 2), (False, 2), (True, 3))]  # fmt: skip
    assert told == [True, False, True, False, False, True]
