"""A peer as metrics and ``cryprq status`` show it."""

import time
from typing import Protocol

from cryprq._fastpath import PeerStats
from cryprq.address import Address
from cryprq.limits import AEAD_NAMES, KEM_NAMES
from cryprq.observe import PeerSample
from cryprq.peers import Peer
from cryprq.tunnel import Tunnel


class StatsPlane(Protocol):
    """What a sample needs of the data plane."""

    def endpoint(self, peer: int) -> tuple[Address, str | None] | None: ...
    def peer_stats(self, peer: int) -> PeerStats: ...


def sample(peer: Peer, plane: StatsPlane, tunnel: Tunnel, assigned: tuple[str, ...], now: float) -> PeerSample:
    """The peer now (``now``: CLOCK_BOOTTIME). ``assigned`` are the addresses that this node assigned to it."""
    stats = plane.peer_stats(peer.handle)
    endpoint = plane.endpoint(peer.handle)
    link = peer.current
    session = link.session if link is not None else None
    happened = peer.last_handshake
    return PeerSample(
        peer_id=str(peer.peer_id),
        connected=link is not None,
        direction=link.direction if link is not None else "",
        endpoint=str(endpoint[0]) if endpoint is not None else "",
        addresses=assigned or tuple(str(address.ip) for address in tunnel.assigned_by(peer.peer_id)),
        allowed_ips=tuple(map(str, tunnel.allowed(peer.peer_id))),
        aead=AEAD_NAMES[session.suite] if session is not None else "",
        kem=KEM_NAMES[session.kem] if session is not None else "",
        epoch=session.number if session is not None else 0,
        epoch_age_secs=round(now - link.epoch_since, 3) if link is not None else None,
        last_handshake=None if happened is None else time.time() - (now - happened),
        rx_bytes=stats.rx_bytes,
        tx_bytes=stats.tx_bytes,
        rx_packets=stats.rx_packets,
        tx_packets=stats.tx_packets,
    )
