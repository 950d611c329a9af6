"""The listener's side of a connection: the handshake as responder, then frames to and from the session."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final

from cryprq.dns import NameServerAddress
from cryprq.errors import MachineError
from cryprq.networks import Network, covering, within
from cryprq.peer_id import PeerId
from cryprq.peers.indices import IndexLease
from cryprq.peers.outbound import PSK_HINT
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import KEEPALIVE_DEFAULT, KEM_NAMES, MESSAGE_PING
from cryprq.protocol.frames import CloseCode, FrameType, encode
from cryprq.protocol.handshake import STATUS_ACCEPTED, STATUS_DUPLICATE, HandshakeError, Responder
from cryprq.protocol.key_schedule import Secret
from cryprq.protocol.parameters import Parameters

if TYPE_CHECKING:
    from cryprq.peers.link import Link
    from cryprq.peers.outbound import HandshakeSettings
    from cryprq.peers.peer import Peer
    from cryprq.protocol.handshake import Auth
    from cryprq.quic.connection import Connection
    from cryprq.registry.fleet import Fleet
    from cryprq.telemetry.reporter import Reporter


@dataclass(frozen=True)
class Announcement:
    """What a listener tells each of its dialers of the network behind it."""

    networks: tuple[Network, ...]
    """Its tunnel networks and every ``--route``."""
    name_servers: tuple[NameServerAddress, ...] = ()
    search: tuple[str, ...] = ()
    """Domains that the name servers know."""


@dataclass
class Admittance:
    """Whom this listener admits, and what it tells them. Shared by all inbound connections; a reload changes it."""

    settings: "HandshakeSettings"
    fleet: "Fleet"
    announced: Announcement
    obtain: Callable[[PeerId], "Peer"]
    """The peer of an ID that is allowed, with its networks claimed. MachineError (one line) if there is no address."""
    allowed: Callable[[PeerId], Sequence[Network]]
    """The allowed IPs of such a peer."""
    spares_endpoint: Callable[[Network], bool]
    """Whether records for an endpoint in this network stay out of the tunnel although a peer owns it."""
    allow_m2: Callable[["Connection"], bool]
    """Takes a token for the work of one M2; False: there is too much to do."""
    token_for: Callable[[bytes], bytes]
    """What a peer (the digest of its ID) shows at its next dial, to be told from strangers."""
    reporter: "Reporter"
    clock: Callable[[], Boottime]
    stopping: bool = False
    """The node stops: whoever comes now has to wait for the next one."""

    def reconfigure(
        self,
        announced: Announcement,
        rotate_secs: int,
        rotate_floor: int,
        psks: Mapping[PeerId, Secret],
    ) -> None:
        """What holds for handshakes from now on; connections that are there go on."""
        self.announced = announced
        self.settings = replace(self.settings, rotate_secs=rotate_secs, rotate_floor=rotate_floor, psks=psks)

    def accept(self, connection: "Connection") -> "Inbound":
        """The handler for a new inbound connection."""
        return Inbound(self, connection)


class Inbound:
    """One inbound connection. A ``ConnectionHandler`` for the endpoint.

    Until M3 has verified it acts for a stranger: whatever fails ends the connection with the same code and no reason,
    and counts against the source address; what a proven identity is refused for counts against both together.
    """

    def __init__(self, admittance: Admittance, connection: "Connection") -> None:
        self._shared = admittance
        self._lease = IndexLease(admittance.settings.indices, self._has_one_lane)
        self._responder: Responder | None = None
        self._link: Link | None = None
        self._peer: Peer | None = None
        self._began = admittance.clock()
        self._answered = False
        self._over = False

    def _has_one_lane(self) -> bool:
        return self._responder is not None and self._responder.peer_lanes == 1

    # ---- ConnectionHandler ----

    def connected(self, connection: "Connection") -> None:
        """QUIC is up; the dialer speaks first."""
        if self._shared.stopping:
            self._over = True
            connection.close(CloseCode.SHUTDOWN)
            return
        self._began = self._shared.clock()
        settings = self._shared.settings
        self._responder = Responder(
            settings.identity,
            connection.channel_binding,
            lanes=settings.lanes,
            aead_preference=settings.aeads,
            kems=settings.kems,
            new_index=self._lease,
        )

    def frame(self, connection: "Connection", frame_type: FrameType, header: bytes, body: bytes) -> None:
        """M1, M3, and after them what the session's peer says."""
        if self._link is not None and self._peer is not None:
            self._peer.receive(self._link, frame_type, header, body, self._shared.clock())
            return
        responder = self._responder
        if responder is None or self._over:
            return
        if self._shared.stopping:  # a session that begins now would not be told that the node stops
            self._finish()
            connection.close(CloseCode.SHUTDOWN)
            return
        self._shared.reporter.handshake_step("received", frame_type.name, connection.remote, len(body))
        try:
            if frame_type is FrameType.INIT:
                self._first(connection, responder, body)
            elif frame_type is FrameType.AUTH:
                self._third(connection, responder, body)
            else:
                raise HandshakeError("order", CloseCode.REFUSED)
        except HandshakeError as error:
            self._refuse(connection, error)

    def closed(self, connection: "Connection", code: int, reason: str, by_peer: bool) -> None:
        """The connection ended, before or after there was a session."""
        if self._link is not None and self._peer is not None:
            if by_peer and code == CloseCode.PSK and not self._link.established:
                self._shared.reporter.handshake_failed(
                    "psk", connection.remote, peer_id=self._peer.peer_id, hint=PSK_HINT
                )
                self._peer.disown(self._link)
            self._peer.carrier_lost(self._link, reason or f"code {code}", self._shared.clock())
            return
        if not self._over and self._responder is not None:
            reason, quiet = ("left", self._answered) if by_peer else ("timeout", False)
            self._shared.reporter.handshake_failed(reason, connection.remote, quiet=quiet)
            # TLS was costly, and M2 is more so: whoever only wanted that could have it again and again. M1 leaves a
            # dialer together with the end of TLS, so nobody goes before it by mistake.
            connection.failed()
        self._finish()

    # ---- steps ----

    def _send(self, connection: "Connection", frame_type: FrameType, body: bytes) -> None:
        self._shared.reporter.handshake_step("sent", frame_type.name, connection.remote, len(body))
        connection.send(encode(frame_type, body))

    def _first(self, connection: "Connection", responder: Responder, body: bytes) -> None:
        self._shared.reporter.handshake_started()
        message = responder.receive_message1(body, lambda: self._shared.allow_m2(connection))
        self._answered = True
        self._send(connection, FrameType.RESPONSE, message)

    def _third(self, connection: "Connection", responder: Responder, body: bytes) -> None:
        fleet = self._shared.fleet
        auth = responder.receive_message3(body, fleet.permits, fleet.invitation_key)
        if auth.invited_by is not None:
            fleet.redeem(auth.invited_by, auth.peer_id, partial(self._redeemed, connection, responder, auth))
        else:
            self._prepare(connection, responder, auth)

    def _redeemed(self, connection: "Connection", responder: Responder, auth: "Auth", why_not: str | None) -> None:
        """The dialer is a peer now, and its invitation is used up; or it is not, and refused."""
        if self._over:
            return
        if why_not is None:
            self._shared.reporter.peer_joined(auth.peer_id, self._shared.fleet.name(auth.peer_id), connection.remote)
            self._prepare(connection, responder, auth)
        else:
            self._refuse(connection, HandshakeError("invitation", CloseCode.REFUSED, auth.peer_id), hint=why_not)

    def _prepare(self, connection: "Connection", responder: Responder, auth: "Auth") -> None:
        fleet = self._shared.fleet
        if fleet.prepare(auth.peer_id, partial(self._prepared, connection, responder, auth)):
            self._fourth(connection, responder, auth)

    def _prepared(self, connection: "Connection", responder: Responder, auth: "Auth") -> None:
        """The dialer's new address is written down. Much may have happened meanwhile."""
        if self._over:
            return
        if self._shared.stopping:
            self._finish()
            connection.close(CloseCode.SHUTDOWN)
        elif not self._shared.fleet.permits(auth.peer_id):
            self._refuse(connection, HandshakeError("not_allowlisted", CloseCode.REFUSED, peer_id=auth.peer_id))
        else:
            self._fourth(connection, responder, auth)

    def _fourth(self, connection: "Connection", responder: Responder, auth: "Auth") -> None:
        shared = self._shared
        now = shared.clock()
        try:
            peer = shared.obtain(auth.peer_id)
            parameters = replace(self._parameters(auth.peer_id, auth.parameters), serial=peer.next_serial())
        except MachineError as error:
            self._finish()
            shared.reporter.handshake_failed("no_address", connection.remote, peer_id=auth.peer_id, hint=str(error))
            connection.close(CloseCode.REFUSED)
            return
        swallowing = (network for network in shared.allowed(auth.peer_id) if not shared.spares_endpoint(network))
        swallowed = covering(swallowing, connection.remote.host)
        if swallowed is not None:
            self._finish()
            hint = f"its allowed network {swallowed} covers its own endpoint: the tunnel would swallow itself"
            shared.reporter.handshake_failed("endpoint_covered", connection.remote, peer_id=auth.peer_id, hint=hint)
            connection.close(CloseCode.REFUSED)
            return
        if not peer.may_begin(now):
            self._finish()
            shared.reporter.handshake_failed("too_often", connection.remote, peer_id=auth.peer_id)
            connection.refused(auth.peer_id.digest)
            connection.close(CloseCode.REFUSED)
            return
        psk = shared.settings.psks.get(auth.peer_id)
        if peer.outranks_inbound():
            message, _ = responder.message4(STATUS_DUPLICATE, Parameters(), now, psk)
            shared.reporter.handshake_duplicate(auth.peer_id, connection.remote)
            self._finish()
            self._send(connection, FrameType.ACCEPT, message)
            peer.doubt()
            return  # the dialer closes when it has read it; if not, the time for handshakes ends it
        message, session = responder.message4(STATUS_ACCEPTED, parameters, now, psk)
        assert session is not None
        connection.authenticated()
        self._over = True
        duration = now - self._began
        # The keys are in place before the dialer can know them.
        self._peer, self._link = (
            peer,
            peer.adopt(session, connection, self._lease, now, told=auth.parameters, serial=parameters.serial),
        )
        # The dialer may not be able to open M4: the pre-shared key differs, say.
        self._link.proven = partial(
            shared.reporter.handshake_complete,
            *(auth.peer_id, connection.remote, "inbound", session.kem, auth.kind.name, session.suite, duration),
        )
        if not self._link.ended:
            self._send(connection, FrameType.ACCEPT, message)

    def _parameters(self, peer_id: PeerId, told: Parameters) -> Parameters:
        settings = self._shared.settings
        return Parameters(
            addresses=self._shared.fleet.lease(peer_id),
            routes=self._announced_to(peer_id),
            mtu=settings.mtu,
            rotate_secs=settings.rotate_secs,
            keepalive=KEEPALIVE_DEFAULT,
            name_servers=self._shared.announced.name_servers,
            search=self._shared.announced.search,
            token=self._shared.token_for(peer_id.digest),
            messages=(MESSAGE_PING,),
            lanes=settings.rx_lanes,
            rotate_floor=settings.rotate_floor,
            ecn=settings.ecn,
            lane_ports=told.lane_ports,
        )

    def _announced_to(self, peer_id: PeerId) -> tuple[Network, ...]:
        """What the peer is told of, less what it owns: it has no use for a way through us to itself."""
        own = self._shared.allowed(peer_id)
        return tuple(
            network
            for network in self._shared.announced.networks
            if not any(network.version == mine.version and within(network, mine) for mine in own)
        )

    def _refuse(self, connection: "Connection", error: HandshakeError, hint: str | None = None) -> None:
        self._finish()
        reporter = self._shared.reporter
        denied = error.peer_id if error.reason in ("not_allowlisted", "invitation") else None
        hint = hint or self._hint(error.reason)
        if denied is not None:
            reporter.peer_denied(denied, connection.remote, error.reason, hint)
        quiet = denied is not None  # ``peer_denied`` says it
        reporter.handshake_failed(error.reason, connection.remote, peer_id=error.peer_id, hint=hint, quiet=quiet)
        if denied is not None:
            connection.refused(denied.digest)
        elif error.reason != "busy":  # that is no fault of the dialer's, which tries again
            connection.failed()
        connection.close(error.code)

    def _hint(self, reason: str) -> str | None:
        """What to do about it, for those whose dialer knows this node's ID, and so is hardly a stranger."""
        if reason != "kem" or self._responder is None:
            return _HINTS.get(reason)
        wanted, accepted = self._responder.offered_kem, self._shared.settings.kems
        if wanted in accepted:
            return "the dialer's key is none"
        names = ", ".join(KEM_NAMES[kem] for kem in accepted)
        return f"the dialer wants --kem {KEM_NAMES.get(wanted, f'number {wanted}')}, this node accepts {names}"

    def _finish(self) -> None:
        self._over = True
        if self._responder is not None:
            self._responder.abort()
        if self._link is None:
            self._lease.release_all()


_HINTS: Final = {
    "aead": "the two nodes have no --aead in common",
    "invitation": "there is no such invitation: it was used, withdrawn or has expired",
    "downgrade": "both nodes speak a later version of the protocol: somebody on the way makes it fail",
    "lanes": "it sends on more lanes than this node receives on: give it this version, or fewer --workers",
}
