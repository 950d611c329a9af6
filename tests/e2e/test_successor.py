"""A peer that changes its identity, without anybody else having to do so at the same time."""

import signal

import pytest

from lab.hosts import Lab
from lab.nodes import Node
from lab.tunnels import GATEWAY, make_tunnel


@pytest.mark.parametrize("networks", ["", "=10.66.0.7/32"])
def test_peer_has_its_place_under_its_next_identity(lab: Lab, networks: str) -> None:
    """With an address from the gateway, and with networks of its own. The gateway is told ahead, by a reload; the peer
    changes its identity when it likes, goes back and forth, and no line of the log warns of anything."""
    config = lab.directory / "gateway.toml"
    dial = ("--tun-address", "10.66.0.7/24") if networks else ()
    tunnel = make_tunnel(lab, listen=("--config", str(config)), dial=dial, up=False)
    old, there = tunnel.dialer, tunnel.dialer.namespace
    new = Node(there, *old.arguments, name="renamed")
    gateway = tunnel.listener
    at = gateway.arguments.index("--allow-peer")
    gateway.arguments[at + 1] += networks
    config.write_text("")
    tunnel.start()
    assert there.measure("ping", GATEWAY[4], count=3, interval=0.01)["received"] == 3
    address = "10.66.0.7/32" if networks else "10.66.0.2/32"

    def owner() -> str:
        (found,) = (p["peer_id"] for p in gateway.status()["peers"] if address in p["allowed_ips"])
        return str(found)

    config.write_text(f'[successor]\n{old.peer_id} = "{new.peer_id}"\n')
    gateway.reload()
    gateway.wait_event("config_reloaded")
    assert there.measure("ping", GATEWAY[4], count=3, interval=0.01)["received"] == 3
    turns = ((old, new, signal.SIGTERM), (new, old, signal.SIGTERM), (old, new, signal.SIGKILL))
    for number, (before, after, how) in enumerate(turns, 1):
        before.running().signal(how)
        before.running().wait()
        after.start()
        gateway.wait_event("peer_succeeded", peer_id=after.peer_id, before=before.peer_id, count=(number + 1) // 2)
        assert there.measure("ping", GATEWAY[4], count=3, interval=0.01, within=10)["received"] == 3
        assert owner() == after.peer_id
    warned = [each["event"] for each in gateway.events() if each["level"] in ("warning", "error")]
    assert not [event for event in warned if event not in ("peer_silent",)]
    assert gateway.metric("network_takeovers_total") == 0
    # The name of before can go, and the lease stays with the new one.
    gateway.arguments[at + 1] = new.peer_id + networks
    config.write_text("")
    gateway.stop()
    gateway.start().wait_event("listener_ready")
    gateway.wait_event("peer_connected", peer_id=new.peer_id, timeout=20)
    assert there.measure("ping", GATEWAY[4], count=3, interval=0.01)["received"] == 3
    assert owner() == new.peer_id
