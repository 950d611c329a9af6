"""A virtual machine that goes on from a snapshot: keys that its twin may have as well seal nothing any more."""

import pytest

from lab import uevents
from lab.hosts import Lab
from lab.tunnels import GATEWAY, make_tunnel


@pytest.mark.parametrize("end", ["dialer", "listener"])
def test_sessions_begin_anew_after_a_snapshot(lab: Lab, end: str) -> None:
    """At either end: the dialer dials at once, and notices by silence when it was the listener."""
    tunnel = make_tunnel(lab)
    node = getattr(tunnel, end)
    traffic = tunnel.dialer.namespace.traffic("ping", GATEWAY[4], count=300, interval=0.02)
    uevents.tell(node.namespace)
    told = node.wait_event("vm_generation_changed")
    assert told["peers"] == 1
    assert node.wait_event("peer_disconnected")["reason"] == "vm_generation_changed"
    for each in (tunnel.dialer, tunnel.listener):
        each.wait_event("handshake_complete", count=2)
    result = traffic.result()
    assert result["received"] >= 100  # of six seconds, less those in which the other end found out
    assert tunnel.dialer.namespace.measure("ping", GATEWAY[4], count=3, interval=0.01)["received"] == 3
    # Nothing was said under the old keys, least of all goodbye.
    other = tunnel.listener if end == "dialer" else tunnel.dialer
    assert not other.events("peer_disconnected")
