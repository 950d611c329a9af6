"""Strangers at a listener's door: they hold up nobody who has business there, and who wastes its time is slowed."""

import asyncio
from collections.abc import Iterator

import pytest

from cryprq.address import Address
from cryprq.peer_id import PeerId
from cryprq.protocol.frames import CloseCode
from cryprq.quic.backoff import BACKOFF_FREE_FAILURES
from lab.dialers import Dialers, Until, identity_of
from lab.hosts import Lab, Namespace
from lab.nodes import PORT, Node
from lab.strangers import Strangers
from lab.tunnels import OUTER, Tunnel, make_tunnel

NETWORK = "198.18.0.0/16"
HOST, LEAVES, NO_KNOCK = "192.0.2.3", "192.0.2.4", "192.0.2.5"
"""Of the strangers' host: what one of its addresses is blamed for is not held against the others."""
PLACES = 16
SECONDS = 5.0
NEWCOMERS = [identity_of(98, number) for number in range(5)]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("strangers")) as made:
        yield made


@pytest.fixture(scope="module")
def strangers(lab: Lab) -> Namespace:
    return lab.namespace("strangers")


@pytest.fixture(scope="module")
def tunnel(lab: Lab, strangers: Namespace) -> Tunnel:
    """A tunnel whose listener has few places, and strangers on its network."""
    allowed = [word for identity in NEWCOMERS for word in ("--allow-peer", str(identity.peer_id))]
    listen = ("--max-inbound", str(PLACES), "--backoff-base-ms", "10000", *allowed)
    made = make_tunnel(
        lab, listen=listen, strangers={strangers: [f"{address}/24" for address in (HOST, LEAVES, NO_KNOCK)]}
    )
    made.listener.namespace.ip(f"route add {NETWORK} via {HOST}")
    return made


def dialers(tunnel: Tunnel, source: str) -> Dialers:
    return Dialers(Address(OUTER[4][0], PORT), PeerId.parse(tunnel.listener.peer_id), source)


def outcome(node: Node, name: str) -> int:
    """How many first datagrams have come to that."""
    return int(node.metric("first_datagrams_total", outcome=name))


def test_peer_is_known_after_a_restart_of_its_gateway(tunnel: Tunnel) -> None:
    listener = tunnel.listener
    assert outcome(listener, "opened_knocked") == 1, "it had never been here"
    assert listener.stop() == 0
    listener.start().wait_event("listener_ready")
    listener.wait_event("handshake_complete", peer_id=tunnel.dialer.peer_id)
    assert outcome(listener, "opened_known") >= 1
    assert outcome(listener, "opened_knocked") == outcome(listener, "opened_stranger") == 0


async def dial_in_turn(tunnel: Tunnel, source: str, *, no_knock: bool = False) -> list[str]:
    """Honest handshakes, one after the other: their outcomes."""
    outcomes = []
    for identity in NEWCOMERS:
        with dialers(tunnel, source) as ours:
            outcomes.append(await ours.dial(identity, no_knock=no_knock).wait(3))
    return outcomes


def test_who_leaves_before_m1_is_told_and_slowed(tunnel: Tunnel, strangers: Namespace) -> None:
    listener = tunnel.listener

    async def leave(within: float) -> str:
        with dialers(tunnel, LEAVES) as theirs:
            dial = theirs.dial(NEWCOMERS[0], Until.QUIC)
            outcome = await dial.wait(within)
            assert dial.connection is not None
            dial.connection.close(CloseCode.OK)
            return outcome

    with strangers.entered():
        for number in range(BACKOFF_FREE_FAILURES + 1):
            assert asyncio.run(leave(3)) == "done"
            event = listener.wait_event("handshake_failed", reason="left", count=number + 1)
            assert event["remote"].startswith(LEAVES)
        assert listener.wait_event("inbound_backoff")["remote"].startswith(LEAVES)
        assert asyncio.run(leave(0.5)) == "timeout"
    assert listener.metric("handshakes_failed_total", reason="left") == BACKOFF_FREE_FAILURES + 1
    assert outcome(listener, "backoff") > 0
    with tunnel.dialer.namespace.entered():
        assert asyncio.run(dial_in_turn(tunnel, OUTER[4][1])) == ["done"] * len(NEWCOMERS)


def test_dialer_without_a_knock_gets_in_as_a_stranger(tunnel: Tunnel, strangers: Namespace) -> None:
    """As an older node's, or one whose clock is wrong."""
    before = [outcome(tunnel.listener, name) for name in ("opened_stranger", "retry")]
    with strangers.entered():
        assert asyncio.run(dial_in_turn(tunnel, NO_KNOCK, no_knock=True)) == ["done"] * len(NEWCOMERS)
    after = [outcome(tunnel.listener, name) for name in ("opened_stranger", "retry")]
    assert after == [count + len(NEWCOMERS) for count in before]


@pytest.mark.parametrize("attack", ["silent", "knocked-silent"])
def test_who_speaks_tls_and_falls_silent_keeps_nobody_out(tunnel: Tunnel, strangers: Namespace, attack: str) -> None:
    """For each place four strangers, whose addresses are real, come each second."""
    listener, where = tunnel.listener, (OUTER[4][0], PORT)
    crowd = Strangers(
        strangers, attack, listener.peer_id, *where, seconds=SECONDS, sources=64, network=NETWORK, scale=0.4
    )
    rank = "opened_knocked" if attack.startswith("knocked") else "opened_stranger"
    before = outcome(listener, rank)
    while outcome(listener, rank) < before + PLACES:  # by now they would have had every place, each for five seconds
        assert crowd.process.running
    with tunnel.dialer.namespace.entered():
        outcomes = asyncio.run(dial_in_turn(tunnel, OUTER[4][1]))
    assert crowd.process.running, "the strangers had gone before the last one dialled"
    assert outcomes == ["done"] * len(NEWCOMERS)
    assert crowd.result()["tls_per_second"] > 0
    assert outcome(listener, "gave_way") > 0
    for event in ("peer_disconnected", "control_lost"):
        assert listener.events(event, peer_id=tunnel.dialer.peer_id) == []
