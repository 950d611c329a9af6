"""What a node is at one moment: the values that metrics and ``cryprq status`` share.

``docs/status.schema.json`` says the same to programs (``scripts/make_schemas.py`` writes it).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerSample:
    """One peer as it is now. Counters are of inner IP packets and never fall while the node knows the peer."""

    peer_id: str
    name: str = ""
    """By which it is known here; empty: none."""
    groups: tuple[str, ...] = ()
    barred: str = ""
    """Why a peer that is known may not connect: ``disabled`` or ``expired``; empty: it may."""
    expires: float | None = None
    """Unix time from which it may not connect any more; None: never."""
    connected: bool
    """Whether there is a session with live keys."""
    direction: str = ""
    """``inbound``, ``outbound``, or empty if not connected."""
    endpoint: str = ""
    """HOST:PORT where records for the peer go; empty if unknown."""
    local_endpoint: str = ""
    """HOST:PORT of this node by which they leave; ``*`` where the kernel chooses the address."""
    lane_ports: tuple[int, ...] = ()
    """Further UDP ports at that host, of lanes that have ports of their own and were heard lately."""
    addresses: tuple[str, ...] = ()
    """Tunnel addresses that were assigned, by this node or to it by the peer."""
    allowed_ips: tuple[str, ...] = ()
    standby_for: tuple[str, ...] = ()
    """Networks that another peer owns, and this one when that is not there."""
    mtu: int = 0
    """The largest inner packet that is sent to it."""
    aead: str = ""
    kem: str = ""
    epoch: int = 0
    """Number of the current epoch: rotations since the handshake."""
    epoch_age_secs: float | None = None
    """Age of the current epoch's keys."""
    since: float | None = None
    """Unix time when the tunnel came up that there is, or the last one ended; None: there was none since the start."""
    last_heard_secs: float | None = None
    """Seconds since the last record of the peer that was authentic; None: never since the node knows it."""
    silent: bool = False
    """It has a session, and does not answer: nothing is heard although something was asked or sent."""
    last_handshake: float | None = None
    """Unix time of the last complete handshake or rotation; None for never."""
    path_mtu: int | None = None
    """The largest packet that the path to the peer is known to carry whole, IP and UDP headers included, as far as it
    is of use; None: unknown, records may be fragmented."""
    round_trip_secs: float | None = None
    """From here to the peer's data plane and back, smoothed; None: not measured on this path."""
    epoch_arrived: int = 0
    """Records of the current epoch that have arrived, ..."""
    epoch_lost: int = 0
    """... and that the peer has sent before the last of them and that have not."""
    rx_rate: float = 0.0
    """Bytes a second in the last one, about: likewise of inner IP packets."""
    tx_rate: float = 0.0
    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSample:
    """A tunnel network that addresses are given from."""

    network: str
    size: int
    """Peers that can have one."""
    used: int
    """Peers that may connect and have one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """A node as ``cryprq status`` shows it; ``--json`` prints these names."""

    version: str
    time: float = 0.0
    """Unix time of all this."""
    peer_id: str
    tun_name: str
    uptime_secs: float
    healthy: bool
    unhealthy: str = ""
    """Why it is not healthy, in one line, as ``/healthz`` says it."""
    listen_addr: str = ""
    """The multiaddr that others dial, or empty; the first of several."""
    listen_addrs: tuple[str, ...] = ()
    """All of them."""
    addresses: tuple[str, ...] = ()
    """The node's own tunnel addresses."""
    routes: tuple[str, ...] = ()
    """The networks that are routed into the tunnel, besides those of its addresses."""
    mtu: int = 0
    name_servers: tuple[str, ...] = ()
    """Those of a gateway that this host asks, ..."""
    search: tuple[str, ...] = ()
    """... about these domains, ..."""
    dns_everything: bool = False
    """... or about all names."""
    dns_by: str = ""
    """What told the host: ``resolvectl``, ``resolvconf``, or ``on-change``, which is left to it; empty: nobody."""
    routes_missing: int = 0
    """Routes that the kernel should have and does not."""
    faults: tuple[str, ...] = ()
    """What the kernel does not take of all that the tunnel needs, a line each."""
    peers: Sequence[PeerSample] = ()
    """Those that may connect, or might but are disabled or expired, whether they are there or not."""
    drops: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Packets and records dropped, by direction and reason."""
    answers: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """ICMP errors about packets from the tunnel device, by reason and what became of them."""
    offloads: Mapping[str, str] = field(default_factory=dict)


def as_json(status: NodeStatus) -> dict[str, Any]:
    """The object that ``cryprq status --json`` prints. (``asdict`` copies all that is in it, many times as slowly.)"""
    return {**_values(status), "peers": [_values(peer) for peer in status.peers]}


def _values(sample: NodeStatus | PeerSample) -> dict[str, Any]:
    return {each.name: getattr(sample, each.name) for each in fields(sample)}
