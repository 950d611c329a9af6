"""Rotation under load: keys change every five seconds and not one packet is lost to it."""

from lab.hosts import Lab
from lab.tunnels import DIALER, GATEWAY, Tunnel, make_tunnel

ROTATE_SECS = 5
SECONDS = 23
"""Long enough for four rotations."""
RATE = 1000
TCP_RATE = 40e6


def agreed_epoch(tunnel: Tunnel) -> int:
    """The epoch that both ends are in, read at a moment when no rotation came between the readings."""
    while True:
        before, other, after = (
            int(node.status()["peers"][0]["epoch"]) for node in (tunnel.listener, tunnel.dialer, tunnel.listener)
        )
        if before == after:
            assert other == before
            return other


def test_rotation_under_load_loses_nothing(lab: Lab) -> None:
    flags = ("--rotate-secs", str(ROTATE_SECS))
    tunnel = make_tunnel(lab, listen=flags, dial=flags)
    here, there = tunnel.listener.namespace, tunnel.dialer.namespace
    receivers = [here.traffic("udp_receive", GATEWAY[4], 5000), there.traffic("udp_receive", DIALER[4], 5000)]
    senders = [
        there.traffic("udp_send", GATEWAY[4], 5000, rate=RATE, seconds=SECONDS),
        here.traffic("udp_send", DIALER[4], 5000, rate=RATE, seconds=SECONDS),
    ]
    size = int(TCP_RATE * (SECONDS - 2))
    server = here.traffic("tcp_serve", GATEWAY[4], 5001, size=size, rate=TCP_RATE)
    client = there.traffic("tcp_transfer", GATEWAY[4], 5001, size=size, rate=TCP_RATE)
    for end in (client.result(), server.result()["connections"][0]):
        assert end["ok"]
        assert end["retransmits"] == end["spurious"]  # no segment was lost: the originals had all arrived
        assert end["reordered"] == 0
    for sender, receiver in zip(senders, receivers, strict=True):
        sent, result = sender.result(), receiver.result()
        assert sent["sent"] >= RATE * SECONDS * 0.9
        assert result["overflowed"] == 0, "the receiver of this test was too slow for what came through"
        assert result["ended"] and result["received"] == sent["sent"]
        assert result["lost"] == result["duplicates"] == 0
    for node in (tunnel.listener, tunnel.dialer):
        assert node.metric("rotations_total") >= 4
        assert tunnel.drops(node) == {}
        rotations = node.events("key_rotation", status="success")
        assert [event["epoch"] for event in rotations] == list(range(1, len(rotations) + 1))
        assert node.metric("rotation_duration_seconds_count") == node.metric("rotations_total")
    assert agreed_epoch(tunnel) >= 4


def test_the_smaller_interval_of_the_two_ends_counts(lab: Lab) -> None:
    tunnel = make_tunnel(lab, listen=("--rotate-secs", "5"), dial=("--rotate-secs", "300"))
    tunnel.dialer.wait_event("key_rotation", status="success")
    tunnel.listener.wait_event("key_rotation", status="success")


def test_either_end_can_rotate_on_request(lab: Lab) -> None:
    tunnel = make_tunnel(lab)
    for number, node in enumerate((tunnel.dialer, tunnel.listener), start=1):
        node.tool("rotate")
        for end in (tunnel.dialer, tunnel.listener):
            end.wait_event("key_rotation", status="success", epoch=number)
    assert tunnel.dialer.namespace.measure("ping", GATEWAY[4], count=3, interval=0.01)["received"] == 3


def test_identities_are_proven_anew_beside_the_tunnel(lab: Lab) -> None:
    """A whole handshake takes over while packets flow. The dialer asks for it, whatever the listener's interval is."""
    tunnel = make_tunnel(lab, listen=(), dial=("--reauth-secs", "10"))
    here, there = tunnel.listener.namespace, tunnel.dialer.namespace
    receivers = [here.traffic("udp_receive", GATEWAY[4], 5000), there.traffic("udp_receive", DIALER[4], 5000)]
    senders = [
        there.traffic("udp_send", GATEWAY[4], 5000, rate=RATE, seconds=12),
        here.traffic("udp_send", DIALER[4], 5000, rate=RATE, seconds=12),
    ]
    for sender, receiver in zip(senders, receivers, strict=True):
        sent, result = sender.result(), receiver.result()
        assert result["overflowed"] == 0, "the receiver of this test was too slow for what came through"
        assert result["ended"] and result["received"] == sent["sent"]
        assert result["lost"] == result["duplicates"] == 0
    for node in (tunnel.listener, tunnel.dialer):
        assert len(node.events("handshake_complete")) >= 2
        assert len(node.events("peer_connected")) == 1
        assert not node.events("peer_disconnected")
        assert not node.events("control_lost")
        assert tunnel.drops(node) == {}
