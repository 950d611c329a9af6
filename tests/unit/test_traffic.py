"""What ``cryprq top`` shows, without a screen."""

from dataclasses import replace

import pytest

from cryprq.cli.traffic import HISTORY, Traffic, sparkline
from cryprq.telemetry.samples import PeerSample, as_json
from tests.unit.test_admin_socket import STATUS, A, B

ALICE = PeerSample(peer_id=str(A), name="alice", connected=True, addresses=("10.9.0.2/24",), groups=("staff",))
BOB = PeerSample(peer_id=str(B), connected=False, barred="disabled")


def traffic(*rates: float) -> Traffic:
    """Alice at these rates, one after the other; Bob is not there."""
    found = Traffic()
    for rate in rates:
        found.take(as_json(replace(STATUS, peers=(BOB, replace(ALICE, rx_rate=rate, round_trip_secs=0.01)))))
    return found


def test_sparkline() -> None:
    assert sparkline([]) == ""
    assert sparkline([0, 0]) == "  "
    assert sparkline([0, 1, 50, 100]) == " ▁▄█"


def test_busiest_is_first_and_has_its_history() -> None:
    rows = traffic(1000, 2000).rows()
    assert [row.label for row in rows] == ["alice", str(B)]
    assert rows[0].cells == ("alice", "up", "10.9.0.2", "10.0ms", "-", "2.0K", "0", " " * (HISTORY - 2) + "▄█")
    assert (rows[1].state, rows[1].cells[-1]) == ("disabled", " " * HISTORY)
    assert len(traffic(*range(100)).rows()[0].cells[-1]) == HISTORY


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("", 2), ("ALI", 1), ("10.9.", 1), ("staff", 1), ("disabled", 1), (str(B)[:20], 1), ("nobody", 0)],
)
def test_filter(pattern: str, found: int) -> None:
    assert len(traffic(1).rows(pattern=pattern)) == found


def test_orders() -> None:
    assert [row.label for row in traffic(0).rows(sort="name")] == sorted([str(B), "alice"])
    assert [row.label for row in traffic(0).rows(sort="rtt")] == ["alice", str(B)]


def test_head_counts_who_is_there() -> None:
    assert traffic(2048).head().startswith("cryprq0   1 of 2 peers   in 2.0K/s   out 0/s   ")
    found = Traffic()
    found.take(as_json(replace(STATUS, healthy=False, unhealthy="no TUN")))
    assert found.head().endswith("NOT HEALTHY: no TUN")
