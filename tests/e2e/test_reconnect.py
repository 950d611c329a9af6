"""What happens when something goes away: the dialer's address, the QUIC connection, the path, the listener."""

import signal
import time

from lab.capture import Capture
from lab.hosts import Lab, Process
from lab.nat import make_natted
from lab.nodes import PORT
from lab.oracle import OVERHEAD
from lab.tunnels import GATEWAY, OUTER, Tunnel, make_tunnel

RATE = 200


def flow(tunnel: Tunnel, seconds: float) -> tuple[Process, Process]:
    """A constant-rate flow from the dialer to the gateway: sender and receiver."""
    receiver = tunnel.listener.namespace.traffic("udp_receive", GATEWAY[4], 5000, timeout=30.0)
    return tunnel.dialer.namespace.traffic("udp_send", GATEWAY[4], 5000, rate=RATE, seconds=seconds), receiver


def wait_ping(tunnel: Tunnel, seconds: float) -> float:
    """How long until the gateway answers through the tunnel; fails after ``seconds``."""
    took: float | None = tunnel.dialer.namespace.measure("await_ping", GATEWAY[4], seconds=seconds)["seconds"]
    assert took is not None, f"no answer through the tunnel within {seconds} s"
    return took


def block_quic(tunnel: Tunnel) -> None:
    """Drops what the dialer sends and gets as QUIC: UDP whose first payload byte is 0x40 or more."""
    there = tunnel.dialer.namespace
    there.run("nft", "add table inet cut")
    for hook in ("input", "output"):
        there.run("nft", f"add chain inet cut {hook} {{ type filter hook {hook} priority 0; }}")
        there.run("nft", f"add rule inet cut {hook} udp sport {PORT} @th,64,8 >= 0x40 drop")
        there.run("nft", f"add rule inet cut {hook} udp dport {PORT} @th,64,8 >= 0x40 drop")


def test_dialer_that_changes_its_address_under_load_keeps_its_session(lab: Lab) -> None:
    tunnel = make_tunnel(lab)
    there = tunnel.dialer.namespace
    sender, receiver = flow(tunnel, 6)
    time.sleep(1)
    there.ip("address add 192.0.2.77/24 dev eth0")
    there.ip(f"address del {OUTER[4][1]}/24 dev eth0")
    there.ip("address replace 192.0.2.77/24 dev eth0")  # deleting a primary address takes its secondaries along
    sent = sender.result()["sent"]
    result = receiver.result()
    assert result["received"] > sent - RATE  # at most the moment without an address
    assert result["longest_gap_ms"] < 1000
    status = tunnel.listener.status()["peers"][0]
    assert status["endpoint"].startswith("192.0.2.77:")
    assert len(tunnel.listener.events("handshake_complete")) == 1
    assert wait_ping(tunnel, 1) < 1


def test_dialer_that_is_killed_and_moves_in_turn_is_one_host(lab: Lab) -> None:
    """Its sessions come from two addresses in turn, each replaces the one before it, and no second host is reported."""
    tunnel = make_tunnel(lab)
    there = tunnel.dialer.namespace
    for host in ("192.0.2.77", OUTER[4][1], "192.0.2.77"):
        tunnel.dialer.kill()
        there.ip("address flush dev eth0")
        there.ip(f"address add {host}/24 dev eth0")
        tunnel.dialer.start().wait_event("peer_connected")
        assert wait_ping(tunnel, 5) < 5
    assert len(tunnel.listener.events("handshake_complete")) == 4
    assert not tunnel.listener.events("identity_in_use_twice")
    assert tunnel.listener.metric("identity_in_use_twice_total") == 0


def test_data_flows_on_while_quic_is_cut(lab: Lab) -> None:
    """A rotation without an answer ends the connection; the keys live on and the flow does not notice."""
    tunnel = make_tunnel(lab)
    sender, receiver = flow(tunnel, 22)
    block_quic(tunnel)
    tunnel.dialer.tool("rotate")
    tunnel.dialer.wait_event("dial_started", count=2, timeout=20)  # noticed: it tries again, in vain
    assert tunnel.dialer.namespace.measure("ping", GATEWAY[4], count=20, interval=0.05)["received"] == 20
    sent, result = sender.result(), receiver.result()
    assert result["received"] == sent["sent"] and result["lost"] == 0
    tunnel.dialer.namespace.run("nft", "delete table inet cut")
    tunnel.listener.wait_event("handshake_complete", count=2, timeout=10)
    assert wait_ping(tunnel, 2) < 2


def test_listener_restarted_by_sigterm(lab: Lab) -> None:
    tunnel = make_tunnel(lab)
    assert tunnel.listener.stop() == 0
    tunnel.dialer.wait_event("peer_disconnected")
    time.sleep(2)
    tunnel.listener.start().wait_event("listener_ready")
    assert wait_ping(tunnel, 5) < 5


def test_listener_killed_and_restarted(lab: Lab) -> None:
    """A flow that gets no answer is no reason to dial, nor is a listener that stands still for a second; one that is
    gone is."""
    tunnel = make_tunnel(lab)
    sender, _ = flow(tunnel, 20)
    time.sleep(2.5)
    tunnel.listener.running().signal(signal.SIGSTOP)
    time.sleep(1)
    tunnel.listener.running().signal(signal.SIGCONT)
    time.sleep(1)
    assert len(tunnel.dialer.events("dial_started")) == 1
    killed = time.monotonic()
    tunnel.listener.kill()
    tunnel.listener.start().wait_event("listener_ready")
    wait_ping(tunnel, 5)
    assert time.monotonic() - killed < 4
    assert len(tunnel.dialer.events("peer_silent")) == 1
    sender.stop()


def test_router_that_changed_its_uplink_is_passed_by_another_port(lab: Lab) -> None:
    """It goes on translating to the address of the uplink that is dead, for as long as it sees that flow."""
    natted = make_natted(lab)
    natted.start()
    sender, _ = flow(natted, 30)
    time.sleep(1)
    changed = time.monotonic()
    natted.use("second")
    wait_ping(natted, 15)
    assert time.monotonic() - changed < 15
    (event,) = natted.dialer.events("port_changed")
    assert natted.listener.status()["peers"][0]["endpoint"].startswith("198.51.100.2:")
    assert event["port"] != event["before"]
    sender.stop()


def test_gateway_with_two_addresses_is_found_by_either(lab: Lab) -> None:
    """The one that is given first goes first; when it leads nowhere any more, the tunnel goes over to the other."""
    tunnel = make_tunnel(lab, up=False)
    tunnel.listener.namespace.ip("address add 192.0.2.9/24 dev eth0")
    tunnel.dialer.arguments += ["--peer", tunnel.listener.multiaddr("192.0.2.9")]
    tunnel.start()
    assert tunnel.dialer.events("peer_connected")[0]["remote"] == f"{OUTER[4][0]}:{PORT}"
    sender, _ = flow(tunnel, 30)
    time.sleep(1)
    start = time.monotonic()
    tunnel.dialer.namespace.run("nft", "add table ip cut")
    for hook, end in (("output", "daddr"), ("input", "saddr")):
        tunnel.dialer.namespace.run("nft", f"add chain ip cut {hook} {{ type filter hook {hook} priority 0; }}")
        tunnel.dialer.namespace.run("nft", f"add rule ip cut {hook} ip {end} {OUTER[4][0]} drop")
    wait_ping(tunnel, 10)
    assert time.monotonic() - start < 6
    assert tunnel.dialer.status()["peers"][0]["endpoint"] == f"192.0.2.9:{PORT}"
    sender.stop()


def test_link_that_is_back_is_used_at_once(lab: Lab) -> None:
    """Whatever the wait is by then. An idle tunnel, too, knows within seconds that the link led nowhere meanwhile."""
    tunnel = make_tunnel(lab, dial=("--backoff-base-ms", "60000", "--backoff-max-ms", "60000"), up=False)
    here, there = tunnel.listener.namespace, tunnel.dialer.namespace
    here.ip("link set eth0 down")  # the cable is pulled at the far end
    tunnel.dialer.start().wait_event("transport_error", timeout=20)
    tunnel.listener.start().wait_event("listener_ready")
    start = time.monotonic()
    here.ip("link set eth0 up")
    tunnel.wait_up(timeout=10)
    assert time.monotonic() - start < 5
    tunnel.listener.kill()
    tunnel.listener.start().wait_event("listener_ready")
    start = time.monotonic()
    for state in ("down", "up"):
        here.ip(f"link set eth0 {state}")
    tunnel.dialer.wait_event("peer_silent", timeout=10)
    tunnel.listener.wait_event("peer_connected", timeout=10)
    assert time.monotonic() - start < 7
    there.ip("link set eth0 down")
    there.ip("link set eth0 up")
    assert wait_ping(tunnel, 5) < 5


def test_idle_dialer_notices_a_killed_listener_within_22_seconds(lab: Lab) -> None:
    tunnel = make_tunnel(lab)
    tunnel.listener.kill()
    start = time.monotonic()
    with Capture(tunnel.dialer.namespace) as there:
        tunnel.dialer.wait_event("dial_started", count=2, timeout=24)
    assert time.monotonic() - start < 22
    # What keeps the path open is the question: a ping, ten seconds after the last record, which may be one that
    # answered the last packets, and two more.
    records = [len(datagram.payload) for datagram in there.sent if not datagram.is_quic]
    assert records[-3:] == [OVERHEAD + 3] * 3 and set(records[:-3]) <= {OVERHEAD}
    tunnel.listener.start().wait_event("listener_ready")
    assert wait_ping(tunnel, 5) < 5


def test_packets_for_a_peer_that_is_gone_are_dropped_not_leaked(lab: Lab) -> None:
    """Fail closed: the TUN and its routes stay, packets are counted as no_key."""
    tunnel = make_tunnel(lab)
    there = tunnel.dialer.namespace
    there.ip(f"route add default via {OUTER[4][0]}")
    assert tunnel.listener.stop() == 0
    tunnel.dialer.wait_event("peer_disconnected")
    assert there.measure("ping", GATEWAY[4], count=3, interval=0.05, timeout=0.1)["received"] == 0
    there.measure(
        "ping", GATEWAY[4], count=1, interval=3.5, timeout=3.5
    )  # what came in the first second waits for three
    assert tunnel.drops(tunnel.dialer)["tx", "no_key"] >= 3
    assert "dev cryprq0" in there.ip(f"route get {GATEWAY[4]}")
