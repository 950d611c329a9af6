"""A session on its connection, and what a peer needs of connection, data plane and observer."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from cryprq._fastpath import PeerStats
from cryprq.address import Address
from cryprq.peer_id import PeerId
from cryprq.peers.indices import IndexLease
from cryprq.protocol.actions import Action, Established, Promote
from cryprq.protocol.frames import CloseCode
from cryprq.protocol.session import Role, Session


class Carrier(Protocol):
    """What a peer needs of a QUIC connection (``cryprq.quic.endpoint.Connection``)."""

    @property
    def remote(self) -> Address: ...
    @property
    def local(self) -> str | None: ...
    def send(self, frame: bytes) -> None: ...
    def probe(self, within: float) -> None: ...
    def close(self, code: CloseCode, reason: str = "") -> None: ...


class EpochPlane(Protocol):
    """What a peer needs of the data plane (``cryprq._fastpath.Plane``)."""

    def add_peer(self) -> int: ...
    def remove_peer(self, peer: int) -> None: ...
    def set_endpoint(self, peer: int, remote: Address, local: str | None = None) -> None: ...
    def endpoint(self, peer: int) -> tuple[Address, str | None] | None: ...
    def install(
        self,
        peer: int,
        *,
        number: int,
        suite: int,
        rx_index: int,
        tx_index: int,
        tx_secrets: bytearray,
        rx_secrets: bytearray,
        lifetime: float,
        records_soft: int,
    ) -> None: ...
    def activate(self, rx_index: int) -> None: ...
    def promote(self, rx_index: int) -> None: ...
    def remove(self, rx_index: int) -> None: ...
    def has(self, rx_index: int) -> bool: ...
    def send_empty(self, rx_index: int) -> None: ...
    def peer_stats(self, peer: int) -> PeerStats: ...


class PeerObserver(Protocol):
    """Who is told what happens to a peer (``cryprq.telemetry.reporter.Reporter``)."""

    def peer_connected(self, peer_id: PeerId, remote: Address, direction: str) -> None: ...
    def peer_disconnected(self, peer_id: PeerId, reason: str) -> None: ...
    def control_lost(self, peer_id: PeerId, remote: Address, reason: str) -> None: ...
    def peer_silent(self, peer_id: PeerId) -> None: ...
    def endpoint_moved(self, peer_id: PeerId, remote: Address) -> None: ...
    def rotated(self, peer_id: PeerId, epoch: int, duration: float, interval: float) -> None: ...
    def rotation_failed(self, peer_id: PeerId, epoch: int, reason: str) -> None: ...
    def peer_denied(self, peer_id: PeerId, remote: Address) -> None: ...
    def internal_error(self, **fields: object) -> None: ...


@dataclass(eq=False)
class Link:
    """One session, and the connection that carries its control frames for as long as it lasts."""

    session: Session
    carrier: Carrier | None
    lease: IndexLease
    remote: Address
    local: str | None
    serial: int
    """Links are numbered in the order in which their handshakes completed: of two dialled by the same side the later
    one wins, whichever proves itself first."""
    created: float
    epoch_since: float
    promoted_index: int | None = None
    established: bool = False
    endpoint_set: bool = False
    ended: bool = False
    indices: set[int] = field(default_factory=set)
    """The receiver indices that this session has installed."""

    @property
    def dialled(self) -> bool:
        """True if this node dialled the session."""
        return self.session.role is Role.INITIATOR

    @property
    def direction(self) -> str:
        return "outbound" if self.dialled else "inbound"


def promotes(actions: Iterable[Action]) -> bool:
    """True if these actions take a session or an epoch into use."""
    return any(isinstance(action, Promote | Established) for action in actions)
