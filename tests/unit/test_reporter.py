"""What the reporter makes of what happens, where it is more than passing it on."""

import io
import json
from ipaddress import ip_network
from typing import Any
from unittest.mock import Mock

from cryprq.address import Address
from cryprq.peer_id import PeerId
from cryprq.telemetry.changes import Change
from cryprq.telemetry.logs import LIMIT, WINDOW, Log
from cryprq.telemetry.reporter import Reporter


def test_tunnel_is_told_with_its_networks_its_seconds_and_its_bytes() -> None:
    stream, now = io.StringIO(), [1000.0]
    metrics: Any = None
    reporter = Reporter(Log("info", "json", stream), metrics, lambda: now[0])
    peer, remote = PeerId(bytes(32)), Address("192.0.2.7", 4000)
    for networks, seconds in (((ip_network("10.9.0.2/32"), ip_network("fd00:9::2/128")), 61.5), ((), 2)):
        reporter.peer_connected(peer, remote, "inbound", networks)
        now[0] += seconds
        reporter.peer_disconnected(peer, "key_expired", rx_bytes=5, tx_bytes=6)
    up, down, again, end = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (up["event"], up["allowed_ips"]) == ("peer_connected", "10.9.0.2/32,fd00:9::2/128")
    assert again["allowed_ips"] is None
    assert (down["event"], down["seconds"], down["rx_bytes"], down["tx_bytes"]) == ("peer_disconnected", 61.5, 5, 6)
    assert end["seconds"] == 2


def test_source_that_has_to_wait_is_told_in_milliseconds_and_not_without_end() -> None:
    stream = io.StringIO()
    metrics: Any = None
    reporter = Reporter(Log("info", "json", stream), metrics)
    for _ in range(LIMIT + 5):
        reporter.inbound_backoff(Address("192.0.2.7", 4000), 0.3)
    lines = stream.getvalue().splitlines()
    assert len(lines) == LIMIT
    entry = json.loads(lines[0])
    del entry["time"]
    assert entry == {"event": "inbound_backoff", "remote": "192.0.2.7:4000", "wait_ms": 300, "level": "warning"}


def test_peer_that_comes_and_goes_without_end_fills_no_log_but_is_counted_and_told() -> None:
    stream, seconds = io.StringIO(), 120
    metrics: Any = Mock()
    now, changes = [0.0], list[Change]()
    reporter = Reporter(Log("info", "json", stream, lambda: now[0]), metrics, lambda: now[0])
    reporter.on_change = changes.append
    peer, remote = PeerId(bytes(32)), Address("192.0.2.7", 4000)
    for _ in range(seconds):
        reporter.handshake_complete(peer, remote, "inbound", 1, "ed25519+ml-dsa-65", 1, 0.01)
        reporter.peer_connected(peer, remote, "inbound", ())
        reporter.control_lost(peer, remote, "closed")
        reporter.peer_disconnected(peer, "closed", rx_bytes=0, tx_bytes=0)
        now[0] += 1
    entries = [json.loads(line) for line in stream.getvalue().splitlines()]
    told = ["handshake_complete", "peer_connected", "control_lost", "peer_disconnected"]
    assert [entry["event"] for entry in entries[: len(told)]] == told
    for event in told:
        assert sum(entry["event"] == event for entry in entries) == LIMIT * seconds / WINDOW
    assert metrics.handshake_succeeded.call_count == seconds
    assert len(changes) == 2 * seconds


def test_black_hole_is_a_warning_and_what_the_search_finds_is_none() -> None:
    stream = io.StringIO()
    metrics: Any = None
    reporter, peer = Reporter(Log("info", "json", stream), metrics), PeerId(bytes(32))
    reporter.path_mtu_changed(peer, 1480, 1280, "black_hole")
    reporter.path_mtu_changed(peer, 1280, 1400, "search")
    fall, found = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (fall["event"], fall["level"], fall["old"], fall["new"]) == ("path_mtu_changed", "warning", 1480, 1280)
    assert (found["level"], found["reason"], "hint" in found) == ("info", "search", False)


def test_peer_that_has_a_name_is_told_by_it_too() -> None:
    stream, told = io.StringIO(), list[Change]()
    metrics: Any = None
    log = Log("info", "json", stream)
    reporter = Reporter(log, metrics)
    reporter.on_event = told.append
    alice, bob, remote = PeerId(bytes(32)), PeerId(b"x" * 32), Address("192.0.2.7", 4000)
    log.name_of = {alice: "alice"}.get  # type: ignore[assignment]
    for peer in (alice, bob):
        reporter.peer_connected(peer, remote, "inbound", ())
        reporter.endpoint_moved(peer, remote)
        reporter.peer_silent(peer)
        reporter.peer_added(peer, ())
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert list(lines[0])[:3] == ["event", "peer_id", "peer"]
    assert [line.get("peer") for line in lines] == ["alice"] * 4 + [None] * 4
    assert [change.fields.get("peer") for change in told] == ["alice"] * 4 + [None] * 4
    assert [change.event for change in told[:4]] == [
        "peer_connected", "endpoint_moved", "peer_silent", "peer_added",
    ]  # fmt: skip


def test_denied_peer_that_is_much_like_one_of_the_list_has_a_hint() -> None:
    stream = io.StringIO()

    class Counters:
        def peer_denied(self) -> None: ...

    metrics: Any = Counters()
    reporter = Reporter(Log("info", "json", stream), metrics)
    alice, bob, remote = PeerId(bytes(32)), PeerId(b"x" * 32), Address("192.0.2.7", 4000)
    reporter.alike = {alice: bob}.get
    for peer in (alice, bob):
        reporter.peer_denied(peer, remote)
    hints = [json.loads(line).get("hint") for line in stream.getvalue().splitlines()]
    assert hints == [f"its ID differs from {bob} on the list by a character or two: is that one mistyped?", None]
