"""Traffic through a real tunnel: every inner and outer IP version, every size, every offload off, spoofed sources."""

import pytest

from cryprq._fastpath import OFFLOADS
from lab.hosts import Lab
from lab.nodes import Node
from lab.tunnels import DIALER, GATEWAY, Tunnel, make_tunnel

LARGEST = {4: 1420 - 28, 6: 1420 - 48}
"""UDP payload that fits into the tunnel's MTU."""


def transfer(server: Node, client: Node, address: str, size: int = 8 << 20) -> None:
    """The same number of bytes both ways at once over TCP; either end checks the SHA-256 that the other sends along."""
    serving = server.namespace.traffic("tcp_serve", address, 5001, size=size)
    result = client.namespace.measure("tcp_transfer", address, 5001, size=size)
    other = serving.result()["connections"][0]
    assert result["ok"] and other["ok"], (result, other)
    assert result["received"] == other["received"] == size


def every_size(server: Node, client: Node, address: str, last: int) -> None:
    echo = server.namespace.traffic("udp_echo", address, 5002)
    result = client.namespace.measure("udp_sizes", address, 5002, first=0, last=last)
    assert result["wrong"] == [] and result["refused"] == []
    echo.stop()


@pytest.fixture(params=[4, 6], ids=["outer-ipv4", "outer-ipv6"])
def tunnel(lab: Lab, request: pytest.FixtureRequest) -> Tunnel:
    return make_tunnel(lab, request.param)


def test_ip_of_both_versions_in_both_versions(tunnel: Tunnel) -> None:
    for version in (4, 6):
        for client, address in ((tunnel.dialer, GATEWAY[version]), (tunnel.listener, DIALER[version])):
            result = client.namespace.measure("ping", address, count=5, interval=0.01)
            assert result["received"] == 5
        transfer(tunnel.listener, tunnel.dialer, GATEWAY[version])
        every_size(tunnel.listener, tunnel.dialer, GATEWAY[version], LARGEST[version])
    assert tunnel.drops(tunnel.listener) == {}
    assert tunnel.drops(tunnel.dialer) == {}


def test_datagram_over_the_mtu_is_refused_to_the_sender(lab: Lab) -> None:
    tunnel = make_tunnel(lab)
    echo = tunnel.listener.namespace.traffic("udp_echo", GATEWAY[4], 5002)
    result = tunnel.dialer.namespace.measure(
        "udp_sizes", GATEWAY[4], 5002, first=LARGEST[4], last=LARGEST[4] + 2, timeout=1.0
    )
    assert result["refused"] == [LARGEST[4] + 1, LARGEST[4] + 2]
    assert result["wrong"] == []
    echo.stop()


@pytest.mark.parametrize("name", OFFLOADS)
def test_tunnel_without_one_offload(lab: Lab, name: str) -> None:
    off = ("--no-offload", name)
    tunnel = make_tunnel(lab, listen=off, dial=off)
    assert tunnel.listener.metric("offload_info", name=name, state="off") == 1
    for version in (4, 6):
        transfer(tunnel.listener, tunnel.dialer, GATEWAY[version], 4 << 20)
    every_size(tunnel.listener, tunnel.dialer, GATEWAY[4], LARGEST[4])
    assert tunnel.drops(tunnel.listener) == {}
    assert tunnel.drops(tunnel.dialer) == {}


@pytest.mark.parametrize("aead", ["aes-256-gcm", "chacha20-poly1305"])
def test_tunnel_with_a_chosen_aead(lab: Lab, aead: str) -> None:
    tunnel = make_tunnel(lab, dial=("--aead", aead))
    assert tunnel.listener.wait_event("handshake_complete")["aead"] == aead
    transfer(tunnel.listener, tunnel.dialer, GATEWAY[4], 4 << 20)


def test_spoofed_inner_source_is_dropped_and_counted(lab: Lab) -> None:
    tunnel = make_tunnel(lab)
    receiver = tunnel.listener.namespace.traffic("udp_receive", GATEWAY[4], 5003, timeout=2.0)
    tunnel.dialer.namespace.ip("route add local 10.66.0.77 dev lo")
    tunnel.dialer.namespace.measure("udp_spoof", "10.66.0.77", GATEWAY[4], 5003, count=50)
    assert receiver.result()["received"] == 0
    assert tunnel.listener.metric("dropped_packets_total", direction="rx", reason="source_not_allowed") == 50
    assert tunnel.dialer.namespace.measure("ping", GATEWAY[4], count=2)["received"] == 2


def test_each_end_sees_the_same_epoch_and_counts_the_bytes(lab: Lab) -> None:
    tunnel = make_tunnel(lab)
    transfer(tunnel.listener, tunnel.dialer, GATEWAY[4], 1 << 20)
    ends = [tunnel.listener.status()["peers"][0], tunnel.dialer.status()["peers"][0]]
    assert ends[0]["epoch"] == ends[1]["epoch"]
    for node in (tunnel.listener, tunnel.dialer):
        assert node.metric("peer_received_bytes_total") > 1 << 20
        assert node.metric("peer_sent_bytes_total") > 1 << 20
