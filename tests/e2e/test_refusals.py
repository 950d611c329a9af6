"""Who may not, and who is not there: the answers that a user sees, and that nothing else happens."""

import subprocess

import pytest

from cryprq.protocol.identity import Identity
from lab.hosts import Lab, Namespace
from lab.nodes import PORT, PROGRAMS, Node
from lab.tunnels import DIALER, GATEWAY, LISTEN_FLAGS, OUTER, listen_address, make_tunnel


@pytest.fixture
def hosts(lab: Lab) -> tuple[Namespace, Namespace]:
    here, there = lab.namespace("listener"), lab.namespace("dialer")
    lab.veth(here, [f"{OUTER[4][0]}/24"], there, [f"{OUTER[4][1]}/24"])
    return here, there


def stranger() -> str:
    return str(Identity.generate().peer_id)


def test_peer_outside_the_allowlist(hosts: tuple[Namespace, Namespace]) -> None:
    dialer = Node(hosts[1])
    listener = Node(hosts[0], "--listen", listen_address(4), *LISTEN_FLAGS, "--allow-peer", stranger())
    dialer.arguments += ["--peer", listener.multiaddr(OUTER[4][0])]
    listener.start().wait_event("listener_ready")
    dialer.start()
    denied = listener.wait_event("peer_denied")
    assert denied["peer_id"] == dialer.peer_id and denied["reason"] == "not_allowlisted"
    assert denied["remote"].startswith(OUTER[4][1])
    failed = dialer.wait_event("handshake_failed")
    assert failed["reason"] == "refused"
    assert "--allow-peer" in failed["hint"] and dialer.peer_id in failed["hint"]
    assert listener.metric("peers_denied_total") >= 1
    assert listener.metric("handshakes_failed_total", reason="not_allowlisted") >= 1
    assert listener.metric("current_peers") == dialer.metric("current_peers") == 0
    assert dialer.running().running


def test_denied_peer_that_insists_is_backed_off(hosts: tuple[Namespace, Namespace]) -> None:
    dialer = Node(hosts[1], "--backoff-base-ms", "50", "--backoff-max-ms", "100")
    listener = Node(hosts[0], "--listen", listen_address(4), *LISTEN_FLAGS, "--backoff-base-ms", "1000")
    dialer.arguments += ["--peer", listener.multiaddr(OUTER[4][0])]
    listener.start().wait_event("listener_ready")
    dialer.start()
    backoff = listener.wait_event("inbound_backoff")
    assert backoff["remote"].startswith(OUTER[4][1]) and backoff["wait_ms"] > 0


def test_listed_peer_connects_beside_eight_that_are_not(hosts: tuple[Namespace, Namespace]) -> None:
    """All of them have the same address, as behind a NAT."""
    dialer = Node(hosts[1])
    listener = Node(hosts[0], "--listen", listen_address(4), *LISTEN_FLAGS, "--allow-peer", dialer.peer_id)
    listener.start().wait_event("listener_ready")
    where = ("--peer", listener.multiaddr(OUTER[4][0]))
    for number in range(8):
        own = ("--tun-name", f"other{number}", "--metrics-addr", f"127.0.0.1:{9500 + number}")
        Node(hosts[1], *where, *own, name=f"other{number}").start()
    listener.wait_event("peer_denied", count=16, timeout=20)
    dialer.start(*where).wait_event("peer_connected", timeout=4)
    assert not listener.events("inbound_backoff")
    assert not dialer.events("handshake_failed")


def test_wrong_peer_id(hosts: tuple[Namespace, Namespace]) -> None:
    dialer = Node(hosts[1])
    listener = Node(hosts[0], "--listen", listen_address(4), *LISTEN_FLAGS, "--allow-peer", dialer.peer_id)
    dialer.arguments += ["--peer", f"/ip4/{OUTER[4][0]}/udp/{PORT}/quic-v1/p2p/{stranger()}"]
    listener.start().wait_event("listener_ready")
    dialer.start()
    assert dialer.wait_event("handshake_failed")["reason"] == "refused"  # the knock already tells the listener
    assert listener.metric("handshakes_failed_total", reason="knock") >= 1
    assert dialer.metric("current_peers") == 0


@pytest.mark.parametrize("filtered", [False, True], ids=["nobody", "filtered"])
def test_listener_that_does_not_answer(hosts: tuple[Namespace, Namespace], filtered: bool) -> None:
    if filtered:
        hosts[0].run("nft", "add table inet cut")
        hosts[0].run("nft", "add chain inet cut input { type filter hook input priority 0; }")
        hosts[0].run("nft", f"add rule inet cut input udp dport {PORT} drop")
    dialer = Node(hosts[1], "--peer", f"/ip4/{OUTER[4][0]}/udp/{PORT}/quic-v1/p2p/{stranger()}")
    error = dialer.start("--log-level", "debug").wait_event("transport_error", timeout=20)
    assert error["error"].startswith("Select(Failed)")
    assert str(PORT) in error["hint"] or "UDP" in error["hint"]
    assert error["remote"] == f"{OUTER[4][0]}:{PORT}"
    dialer.wait_event("dial_started", count=2)  # and goes on trying


def test_port_that_speaks_something_else(hosts: tuple[Namespace, Namespace]) -> None:
    hosts[0].traffic("udp_echo", OUTER[4][0], PORT)
    dialer = Node(hosts[1], "--peer", f"/ip4/{OUTER[4][0]}/udp/{PORT}/quic-v1/p2p/{stranger()}").start()
    assert dialer.wait_event("transport_error", timeout=20)["error"].startswith("Select(Failed)")


def test_sighup_cuts_off_a_removed_peer_at_once_and_nobody_else(lab: Lab) -> None:
    here, one, two = lab.namespace("gateway"), lab.namespace("one"), lab.namespace("two")
    lab.switch("switch", {here: ["192.0.2.1/24"], one: ["192.0.2.2/24"], two: ["192.0.2.3/24"]})
    dialers = [Node(one, name="one"), Node(two, name="two")]
    config = lab.directory / "gateway.toml"

    def allow(*peers: Node) -> None:
        config.write_text(f"allow-peer = [{', '.join(repr(peer.peer_id) for peer in peers)}]\n".replace("'", '"'))

    allow(*dialers)
    gateway = Node(here, "--config", str(config), "--listen", listen_address(4), *LISTEN_FLAGS)
    gateway.start().wait_event("listener_ready")
    for dialer in dialers:
        dialer.arguments += ["--peer", gateway.multiaddr("192.0.2.1")]
        dialer.start().wait_event("peer_connected")
        dialer.namespace.measure("ping", GATEWAY[4], count=1)
    allow(dialers[1])
    gateway.reload()
    gateway.wait_event("peer_disconnected", peer_id=dialers[0].peer_id)
    gateway.wait_event("config_reloaded")
    assert one.measure("ping", GATEWAY[4], count=2, interval=0.05, timeout=0.2)["received"] == 0
    assert two.measure("ping", GATEWAY[4], count=5, interval=0.05)["received"] == 5
    assert gateway.metric("current_peers") == 1
    assert len(dialers[1].events("handshake_complete")) == 1
    allow(*dialers)  # and back again
    gateway.reload()
    gateway.wait_event("peer_connected", peer_id=dialers[0].peer_id, count=2, timeout=40)
    assert one.measure("ping", GATEWAY[4], count=2, timeout=2.0)["received"] == 2


def test_broken_configuration_at_sighup_changes_nothing(lab: Lab) -> None:
    config = lab.directory / "gateway.toml"
    config.write_text("")
    tunnel = make_tunnel(lab, listen=("--config", str(config)))
    config.write_text("allow-peer = 7\n")
    tunnel.listener.reload()
    assert "allow-peer" in tunnel.listener.wait_event("config_rejected")["error"]
    assert tunnel.dialer.namespace.measure("ping", GATEWAY[4], count=2)["received"] == 2


def test_second_node_on_the_same_port_is_told_so(lab: Lab) -> None:
    tunnel = make_tunnel(lab)
    command = [str(PROGRAMS / "cryprq-node"), "--listen", listen_address(4), "--tun-name", "other0"]
    command += ["--tun-address", "10.67.0.1/24", "--identity", str(lab.directory / "other.identity")]
    command += ["--control-socket", str(lab.directory / "other.sock")]
    with tunnel.listener.namespace.entered():
        done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    last = done.stderr.splitlines()
    assert len(last) == 1 and str(PORT) in last[0] and "in use" in last[0]
    assert "other0" not in tunnel.listener.namespace.ip("link show")


def test_three_dialers_reach_the_gateway_and_each_other_where_allowed(lab: Lab) -> None:
    names = ["alpha", "beta", "gamma"]
    here = lab.namespace("gateway")
    here.sysctl("net.ipv4.ip_forward", 0)
    spaces = [lab.namespace(name) for name in names]
    lab.switch("switch", {here: ["192.0.2.1/24"]} | {s: [f"192.0.2.{n}/24"] for n, s in enumerate(spaces, start=2)})
    dialers = [Node(space, name=name) for space, name in zip(spaces, names, strict=True)]
    allowed = [flag for dialer in dialers for flag in ("--allow-peer", dialer.peer_id)]
    gateway = Node(here, "--listen", listen_address(4), *LISTEN_FLAGS, *allowed)
    for number, dialer in enumerate(dialers, start=2):
        gateway.grant(dialer.peer_id, f"10.66.0.{number}", f"fd66::{number}")
    gateway.start().wait_event("listener_ready")
    addresses = []
    for dialer in dialers:
        dialer.arguments += ["--peer", gateway.multiaddr("192.0.2.1")]
        dialer.start().wait_event("peer_connected")
        assert dialer.namespace.measure("ping", GATEWAY[4], count=2)["received"] == 2
        addresses.append(dialer.status()["addresses"])
    assert len({str(each) for each in addresses}) == 3
    assert gateway.metric("current_peers") == 3
    target = "10.66.0.3"
    assert spaces[0].measure("ping", target, count=2, interval=0.05, timeout=0.2)["received"] == 0  # no ip_forward
    here.sysctl("net.ipv4.ip_forward", 1)
    assert spaces[0].measure("ping", target, count=2, timeout=2.0)["received"] == 2
    restarted = {dialer.peer_id: address for dialer, address in zip(dialers, addresses, strict=True)}
    assert gateway.stop() == 0
    gateway.start().wait_event("listener_ready")  # leases are kept: each gets its address again
    for dialer in reversed(dialers):
        gateway.wait_event("peer_connected", peer_id=dialer.peer_id, timeout=15)
        assert dialer.status()["addresses"] == restarted[dialer.peer_id]
    assert spaces[0].measure("ping", DIALER[4], count=1)["received"] == 1
