"""Two nodes with a long way between them: a relay keeps every datagram for half of a round trip."""

import pytest

from cryprq.protocol.constants import ROUND_TRIP_MAX
from lab.hosts import Lab
from lab.nodes import PORT
from lab.tunnels import GATEWAY, OUTER, Tunnel, make_tunnel

RELAY = 9998


def make_far(lab: Lab, round_trip: float) -> Tunnel:
    """A tunnel whose dialer reaches its listener through the relay. The nodes are not started yet."""
    tunnel = make_tunnel(lab, up=False)
    there = tunnel.dialer.namespace
    there.traffic("udp_delay", OUTER[4][0], PORT, listen=RELAY, delay=round_trip / 2)
    tunnel.dialer.arguments[-1] = tunnel.listener.multiaddr("127.0.0.1", RELAY)
    tunnel.listener.start().wait_event("listener_ready")
    return tunnel


def ping(tunnel: Tunnel) -> float:
    """The round trip through the tunnel in seconds."""
    result = tunnel.dialer.namespace.measure("ping", GATEWAY[4], count=1, timeout=3 * ROUND_TRIP_MAX)
    assert result["received"] == 1
    return float(result["p50_us"]) / 1e6


@pytest.mark.parametrize(("round_trip", "within"), [(2.4, 60), (ROUND_TRIP_MAX, 120)])
def test_tunnel_comes_up(lab: Lab, round_trip: float, within: float) -> None:
    tunnel = make_far(lab, round_trip)
    tunnel.dialer.start().wait_event("peer_connected", timeout=within)
    assert ping(tunnel) > round_trip
    assert len(tunnel.listener.events("peer_connected")) == 1


def test_listener_that_was_restarted_is_found_again_in_a_few_round_trips(lab: Lab) -> None:
    tunnel = make_far(lab, 1.5)
    tunnel.dialer.start().wait_event("peer_connected")
    ping(tunnel)
    assert tunnel.listener.stop() == 0
    tunnel.dialer.wait_event("peer_disconnected")
    tunnel.listener.start().wait_event("listener_ready")
    tunnel.dialer.wait_event("peer_connected", count=2, timeout=24)  # sooner than QUIC would notice
    ping(tunnel)
