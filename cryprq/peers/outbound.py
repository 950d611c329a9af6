"""The dialer's side of a connection: the handshake as initiator, then frames to and from the session."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, Protocol

from cryprq.address import Address
from cryprq.peer_id import PeerId
from cryprq.peers.indices import IndexLease, IndexPool
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import (
    HANDSHAKE_ROUND_TRIPS,
    KEM_NAMES,
    KEMS_DEFAULT,
    MESSAGE_PING,
    ROTATE_SECS_MIN,
    RX_LANES_LEAST,
)
from cryprq.protocol.frames import CloseCode, FrameType, encode
from cryprq.protocol.handshake import STATUS_DUPLICATE, HandshakeError, Initiator
from cryprq.protocol.identity import Identity
from cryprq.protocol.invitation import Keys
from cryprq.protocol.key_schedule import Secret
from cryprq.protocol.parameters import Parameters

if TYPE_CHECKING:
    from cryprq.peers.link import Link
    from cryprq.peers.peer import Peer
    from cryprq.quic.connection import Connection
    from cryprq.telemetry.reporter import Reporter


@dataclass(frozen=True)
class HandshakeSettings:
    """What this node brings to every handshake."""

    identity: Identity
    lanes: int
    """On how many lanes this node would send, one for each worker."""
    aeads: Sequence[int]
    """In order of preference."""
    rotate_secs: int
    mtu: int
    indices: IndexPool
    psks: Mapping[PeerId, Secret] = field(default_factory=dict, repr=False)
    """The keys that this node and some of its peers have for each other."""
    rotate_floor: int = ROTATE_SECS_MIN
    """The least interval between rotations that this node agrees to, in seconds."""
    invitations: Mapping[PeerId, Keys] = field(default_factory=dict, repr=False)
    """Of gateways that do not know this node yet."""
    kems: Sequence[int] = KEMS_DEFAULT
    """The first is what this node dials with; all are accepted."""

    ecn: bool = True
    """Congestion on the way is told to the flows inside (RFC 6040), where the peer takes part in it."""
    lane_ports: bool = False
    """Each lane but the first has a port of its own to dial from, for peers that take part in it."""

    @property
    def rx_lanes(self) -> int:
        """On how many lanes this node receives at most: each has keys and a window, which cost time and memory."""
        return max(self.lanes, RX_LANES_LEAST)


PSK_HINT: Final = "the pre-shared key differs: --psk-file gives the same key at both nodes, or at neither"


class Outcome(Enum):
    """How a dial went."""

    UNANSWERED = auto()
    """Nobody there, or nobody who speaks the protocol; or the dialer gave up."""
    SESSION = auto()
    FAILED = auto()
    """The peer answered, and then the connection was lost."""
    REFUSED = auto()
    """One of the two ends refuses the other."""
    DUPLICATE = auto()
    """A session that the peer has dialled is the one to use."""
    REPLACED = auto()
    """After SESSION: the peer has given it up for a newer one of this node's ID, which is not of this node's making."""


class Cancellable(Protocol):
    """A timer of the event loop."""

    def cancel(self) -> None: ...


class Outbound:
    """One dialled connection. An ``Attempt`` for the dialer, a ``ConnectionHandler`` for the endpoint."""

    def __init__(
        self,
        peer: "Peer",
        remote: Address,
        settings: HandshakeSettings,
        *,
        timeout: float,
        take: Callable[["Peer", Parameters, Address], str | None],
        ended: Callable[[Outcome], None],
        reporter: "Reporter",
        clock: Callable[[], Boottime],
        call_later: Callable[[float, Callable[[], None]], Cancellable],
    ) -> None:
        """``timeout`` is for the handshake, once QUIC is up, or longer if the way is. ``take`` is asked with M4's
        parameters and says why they are refused, or None. ``ended`` is told once how the attempt went, and later if its
        session was REPLACED."""
        self.remote = remote
        self.detail = "no answer"
        self._timeout = timeout
        self._call_later = call_later
        self._timer: Cancellable | None = None
        self._connected_at: Boottime | None = None
        self._peer = peer
        self._settings = settings
        self._take = take
        self._ended = ended
        self._reporter = reporter
        self._clock = clock
        self._lease = IndexLease(settings.indices)
        self._connection: Connection | None = None
        self._initiator: Initiator | None = None
        self._link: Link | None = None
        self._expected: FrameType = FrameType.RESPONSE
        self._over = False
        self._started = clock()

    # ---- Attempt ----

    @property
    def answered(self) -> bool:
        """True once QUIC is up; it stays true."""
        return self._connected_at is not None

    @property
    def over(self) -> bool:
        """True once the connection ended, or a session grew out of it."""
        return self._over

    def begin(self, connection: "Connection") -> None:
        """The connection on which this attempt runs."""
        self._connection = connection

    def abandon(self) -> None:
        """Gives up without a word in the log: the dialer knows why."""
        if self._over:
            return
        self._finish(Outcome.UNANSWERED)
        if self._connection is not None:
            self._connection.close(CloseCode.TIMEOUT)

    # ---- ConnectionHandler ----

    def connected(self, connection: "Connection") -> None:
        """QUIC is up: M1 goes out."""
        if self._over:
            return
        self._connection = connection
        self._connected_at = self._clock()
        self._peer.answered()
        within = max(self._timeout, HANDSHAKE_ROUND_TRIPS * connection.round_trip)
        self._timer = self._call_later(within, self._timed_out)
        self._reporter.handshake_started()
        settings = self._settings
        try:
            self._initiator = Initiator(
                settings.identity,
                self._peer.peer_id,
                connection.channel_binding,
                lanes=settings.lanes,
                aead_offer=settings.aeads,
                kem=settings.kems[0],
                new_index=self._lease,
                parameters=Parameters(
                    mtu=settings.mtu,
                    rotate_secs=settings.rotate_secs,
                    messages=(MESSAGE_PING,),
                    lanes=settings.rx_lanes,
                    rotate_floor=settings.rotate_floor,
                    ecn=settings.ecn,
                    lane_ports=settings.lane_ports,
                ),
                psk=settings.psks.get(self._peer.peer_id),
                invitation=settings.invitations.get(self._peer.peer_id),
            )
            self._send(connection, FrameType.INIT, self._initiator.message1())
        except HandshakeError as error:
            self._fail(error.reason, hint=_HINTS.get(error.reason))
            connection.close(error.code)

    def frame(self, connection: "Connection", frame_type: FrameType, header: bytes, body: bytes) -> None:
        """M2, M4, and after them what the session's peer says."""
        if self._link is not None:
            self._peer.receive(self._link, frame_type, header, body, self._clock())
            return
        if self._over or self._initiator is None:
            return
        self._reporter.handshake_step("received", frame_type.name, self.remote, len(body))
        try:
            if frame_type is not self._expected:
                raise HandshakeError("order", CloseCode.MALFORMED, self._peer.peer_id)
            if frame_type is FrameType.RESPONSE:
                self._send(connection, FrameType.AUTH, self._initiator.receive_message2(body))
                self._expected = FrameType.ACCEPT
            else:
                self._accepted(connection, body)
        except HandshakeError as error:
            self._fail(error.reason, hint=_HINTS.get(error.reason))
            connection.close(error.code)

    def closed(self, connection: "Connection", code: int, reason: str, by_peer: bool) -> None:
        """The connection ended, before or after there was a session."""
        if self._link is not None:
            if by_peer and code == CloseCode.REPLACED and not self._peer.has_successor(self._link):
                self._ended(Outcome.REPLACED)
            self._peer.carrier_lost(self._link, reason or f"code {code}", self._clock())
        elif self._over:
            return
        elif not self.answered:
            self.detail = reason or self.detail
            self._finish(Outcome.UNANSWERED)  # the dialer tells, once for all addresses
        elif by_peer and code == CloseCode.REFUSED:
            self._fail("refused", hint=self._refusal_hint())
        elif by_peer and code in _CLOSED:
            self._fail(_CLOSED[code], hint=_HINTS[_CLOSED[code]], outcome=Outcome.FAILED)
        else:
            self._fail("transport", hint=_HINTS["transport"], outcome=Outcome.FAILED)

    # ---- steps ----

    def _send(self, connection: "Connection", frame_type: FrameType, body: bytes) -> None:
        self._reporter.handshake_step("sent", frame_type.name, self.remote, len(body))
        connection.send(encode(frame_type, body))

    def _accepted(self, connection: "Connection", body: bytes) -> None:
        now = self._clock()
        assert self._initiator is not None
        accepted = self._initiator.receive_message4(body, now)
        session = accepted.session
        if session is None or accepted.status == STATUS_DUPLICATE or self._peer.outranks_outbound():
            if session is not None:
                session.wipe()
            self._reporter.handshake_duplicate(self._peer.peer_id, self.remote)
            self._finish(Outcome.DUPLICATE)
            connection.close(CloseCode.DUPLICATE)
            return
        refusal = self._take(self._peer, accepted.parameters, self.remote)
        if refusal is not None:
            session.wipe()
            self._fail("parameters", hint=refusal)
            connection.close(CloseCode.REFUSED)
            return
        connection.authenticated()
        self._peer.token = accepted.parameters.token
        duration = now - self._began()
        self._reporter.handshake_complete(
            self._peer.peer_id, self.remote, "outbound", session.kem, accepted.kind.name, session.suite, duration
        )
        told = self._agreed(accepted.parameters)
        self._link = self._peer.adopt(session, connection, self._lease, now, told=told, serial=told.serial)
        self._finish(Outcome.SESSION)

    def _agreed(self, told: Parameters) -> Parameters:
        """What the listener says, less what this node has not asked for or cannot do. Workers that share lanes cannot
        each have a port: a lane would come from several."""
        settings = self._settings
        ports = settings.lane_ports and told.lanes is not None and settings.lanes <= told.lanes
        return replace(told, lane_ports=told.lane_ports and ports)

    def _began(self) -> float:
        return self._connected_at if self._connected_at is not None else self._started

    def _refusal_hint(self) -> str:
        own = self._settings.identity.peer_id
        if self._expected is FrameType.RESPONSE:
            who, kem = self._peer.peer_id, KEM_NAMES[self._settings.kems[0]]
            return (
                f"nobody there is {who}, or it is too busy, or does not accept --kem {kem}:"
                " check --peer against the listener's listener_ready line"
            )
        if self._peer.peer_id in self._settings.invitations:
            return "the invitation was used, withdrawn or has expired: ask for another one"
        return f"the listener refuses this node: check that it runs with --allow-peer {own}"

    def _timed_out(self) -> None:
        if not self._over:
            self._fail("timeout", hint=_HINTS["timeout"], outcome=Outcome.FAILED)
            if self._connection is not None:
                self._connection.close(CloseCode.TIMEOUT)

    def _fail(self, reason: str, *, hint: str | None, outcome: Outcome = Outcome.REFUSED) -> None:
        self._reporter.handshake_failed(reason, self.remote, peer_id=self._peer.peer_id, hint=hint)
        self._peer.dial_failed()
        self._finish(outcome)

    def _finish(self, outcome: Outcome) -> None:
        self._over = True
        if self._timer is not None:
            self._timer.cancel()
        if self._initiator is not None:
            self._initiator.abort()
            self._initiator = None
        if self._link is None:
            self._lease.release_all()
        self._ended(outcome)


_CLOSED: Final[Mapping[int, str]] = {CloseCode.TIMEOUT: "timeout", CloseCode.SHUTDOWN: "shutdown"}
"""Why the listener ended a handshake that it had nothing against."""
_HINTS: Final = {
    "wrong_peer_id": "another node answered there: check the ID in --peer against its listener_ready line",
    "lanes": "the listener sends on more lanes than this node receives on: it needs this version, or fewer --workers",
    "aead": "the two nodes have no --aead in common",
    "timeout": "the handshake took too long: packets are lost, or one of the two machines is overloaded",
    "shutdown": "the listener stops",
    "transport": "the connection was lost during the handshake",
    "own_peer_id": "that is this node's own ID",
    "psk": PSK_HINT,
    "version": "the listener speaks another version of the protocol",
    "downgrade": "both nodes speak a later version of the protocol: somebody on the way makes it fail",
}
