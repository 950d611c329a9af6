"""Many dialers at once: a live tunnel notices nothing, and everybody gets a session at the first attempt or soon."""

import time
from dataclasses import dataclass

import pytest

from lab.crowd import Crowd
from lab.hosts import Lab
from lab.nodes import PORT
from lab.probe import Probe
from lab.tunnels import GATEWAY, OUTER, Tunnel, make_tunnel

COUNT = 100
NETWORK = "198.18.0.0/16"
"""Where the dialers of the crowd are (RFC 2544)."""
HOST = "192.0.2.3"
ROTATE_SECS = 5


@dataclass
class Storm:
    """A live tunnel, and a crowd on the same network."""

    tunnel: Tunnel
    crowd: Crowd

    def probe(self) -> Probe:
        return Probe(self.tunnel.dialer.namespace, self.tunnel.listener.namespace, GATEWAY[4])


@pytest.fixture
def storm(lab: Lab) -> Storm:
    host = lab.namespace("crowd")
    flags = ("--rotate-secs", str(ROTATE_SECS))
    tunnel = make_tunnel(lab, listen=(*flags, "--allow-any"), dial=flags, strangers={host: [f"{HOST}/24"]})
    tunnel.listener.namespace.ip(f"route add {NETWORK} via {HOST}")
    return Storm(tunnel, Crowd(host, tunnel.listener.peer_id, OUTER[4][0], PORT, count=COUNT, network=NETWORK))


def test_live_tunnel_beside_a_hundred_new_dialers(storm: Storm) -> None:
    tunnel, crowd = storm.tunnel, storm.crowd
    with storm.probe() as probe:
        start = time.monotonic()
        crowd.dial()
        new = crowd.wait()
        crowd.lose()
        again = crowd.wait()
        rotated = len(tunnel.dialer.events("key_rotation", status="success"))
        tunnel.dialer.wait_event("key_rotation", status="success", count=rotated + 1)
        end = time.monotonic()
        time.sleep(1)
        live = probe.report(start, end)
    print(new.summary(), again.summary(), live)  # shown with a failure, and by ``pytest -rP``
    assert live["sent"] > 100
    assert live["lost_there"] == live["lost_back"] == 0
    for node in (tunnel.listener, tunnel.dialer):
        assert len(node.events("handshake_complete", peer_id=tunnel.dialer.peer_id)) <= 1
        assert node.events("key_rotation", status="failed") == []
        for event in ("control_lost", "peer_silent", "peer_disconnected", "handshake_failed", "inbound_backoff"):
            assert node.events(event) == []
        assert tunnel.drops(node) == {}
    assert len(tunnel.listener.events("peer_connected")) == COUNT + 1
    assert len(new.handshakes) == len(again.handshakes) == COUNT


def test_everybody_is_back_soon_after_a_restart(storm: Storm) -> None:
    tunnel, crowd = storm.tunnel, storm.crowd
    crowd.dial()
    crowd.wait()
    with storm.probe() as probe:
        time.sleep(0.5)
        assert tunnel.listener.stop() == 0
        tunnel.listener.start().wait_event("listener_ready")
        ready = time.monotonic()
        back = crowd.wait()
        while (first := probe.first_after(ready)) is None:
            assert time.monotonic() < ready + 60, "the live tunnel did not come back"
            time.sleep(0.05)
    print(back.summary(ready), first - ready)
    # Everybody dialled at least once a second, and yet hardly anybody was served twice, unless this machine is so
    # slow that they give up what it is at.
    assert len(tunnel.listener.events("handshake_complete")) <= 2.5 * (COUNT + 1)
