"""A reload under traffic: routes that change reach a dialer that is connected, and no packet is lost for it."""

import json

import pytest

from lab.hosts import Lab
from lab.tunnels import GATEWAY, make_tunnel


def routes_of(dialer_routes: str) -> set[str]:
    """The destinations in what ``ip -json route`` says."""
    return {route["dst"] for route in json.loads(dialer_routes)}


@pytest.mark.parametrize("outer", [4, 6])
def test_routes_reach_a_connected_dialer_and_nothing_is_lost(lab: Lab, outer: int) -> None:
    config = lab.directory / "listener.toml"
    config.write_text('route = ["192.168.7.0/24"]\n')
    tunnel = make_tunnel(lab, outer, listen=("--config", str(config)))
    dialer = tunnel.dialer
    assert "192.168.7.0/24" in routes_of(dialer.namespace.ip("-json route show dev cryprq0"))
    ping = dialer.namespace.traffic("ping", GATEWAY[4], count=150, interval=0.02)
    config.write_text('route = ["192.168.8.0/24"]\n')
    tunnel.listener.reload()
    dialer.wait_event("handshake_complete", count=2)
    assert ping.result()["received"] == 150
    routes = routes_of(dialer.namespace.ip("-json route show dev cryprq0"))
    assert "192.168.8.0/24" in routes and "192.168.7.0/24" not in routes
    for node in (dialer, tunnel.listener):
        assert not node.events("peer_disconnected")
        assert len(node.events("peer_connected")) == 1
