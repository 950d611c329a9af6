"""One peer: its sessions, the connections that carry their control frames, and its place in the data plane.

``Session`` decides and returns actions; ``Peer`` carries them out against the plane and the connection. It knows which
of its sessions is in use: a new one replaces an old one when the first record proves it (protocol, 3.1, taking over).
"""

import itertools
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from cryprq._fastpath import (
    EVENT_ENDPOINT_MOVED,
    EVENT_FIRST_RECORD,
    EVENT_FORGED,
    EVENT_KEY_EXPIRED,
    EVENT_PROBE_ACKED,
    EVENT_RECORD_REFUSED,
    EVENT_ROTATE_DUE,
    PeerStats,
    PlaneError,
)
from cryprq.address import Local
from cryprq.networks import Network
from cryprq.peer_id import PeerId
from cryprq.peers.contest import Contest
from cryprq.peers.indices import IndexLease
from cryprq.peers.link import Link, promotes
from cryprq.peers.liveness import Liveness, Verdict
from cryprq.peers.meter import Meter
from cryprq.peers.path import Path
from cryprq.peers.ports import Carrier, EpochPlane, PeerObserver
from cryprq.peers.reauth import Reauth
from cryprq.protocol.actions import (
    Action,
    Activate,
    CloseConnection,
    Dead,
    Established,
    Install,
    Promote,
    Remove,
    Rotated,
    RotationFailed,
    SendEmpty,
    SendFrame,
)
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import MESSAGE_PING, MTU_SEALABLE_MAX, PROBE_TIMEOUT, SERIAL_LIFE_SIZE
from cryprq.protocol.frames import CloseCode, FrameType
from cryprq.protocol.key_schedule import EpochKeys
from cryprq.protocol.parameters import Parameters, Serial
from cryprq.protocol.session import Session, State
from cryprq.protocol.token_bucket import TokenBucket

CLOSE_FLUSH_TIMEOUT: Final = 1.0
"""How long a stopping node waits for its last frames to be acknowledged."""
CANDIDATES_MAX: Final = 4
"""Sessions of one peer that wait for their first record; one more ends the oldest."""
HANDSHAKE_RATE: Final = 0.5
"""Handshakes a second that a peer may complete at this node, in the long run, ..."""
HANDSHAKE_BURST: Final = 30
"""... and at once: a dialer that is restarted over and over, on several hosts even, needs fewer."""
RETIRED_MAX: Final = 4
"""Sessions of one peer in their grace; one more ends the oldest."""


class Peer:
    """A peer that may have a session: the current one, those that wait to be proven, and those in their grace.

    ``now`` is seconds of CLOCK_BOOTTIME throughout.
    """

    def __init__(
        self,
        peer_id: PeerId,
        *,
        own_id: PeerId,
        plane: EpochPlane,
        observer: PeerObserver,
        permits: Callable[[PeerId], bool],
        allowed: Callable[[PeerId], Sequence[Network]],
        records_soft: int,
        reauth_secs: Callable[[], int],
        mtu: Callable[[], int],
        way: Callable[[str, int], tuple[str, int]],
        changed: Callable[[], None],
        later: Callable[[float, Callable[[], None]], object],
    ) -> None:
        """``permits`` is asked again whenever an inbound session is promoted, ``allowed`` gives a peer's inner networks
        for who is told; ``reauth_secs`` is that of ``Reauth``, ``mtu`` and ``way`` are those of ``Path``; ``changed``
        is called when the peer may want to be dialled, or no longer, and when a timer may be due earlier; ``later`` is
        the loop's call_later."""
        self.peer_id = peer_id
        self.token = b""
        """What it gave this node to be let in by at the next dial; empty: nothing. In memory only."""
        self.handle = plane.add_peer()
        self.current: Link | None = None
        self.links: list[Link] = []
        self.liveness = Liveness()
        self.path = Path(
            peer_id,
            self.handle,
            plane=plane,
            observer=observer,
            mtu=mtu,
            sending_index=self._sending_index,
            round_trip=lambda: self.round_trip,
            way=way,
            changed=changed,
        )
        self.contested = False
        """Whether another peer stands by for a network of this one, so that its silence is to be noticed soon."""
        self.last_handshake: Boottime | None = None
        self.meter = Meter()
        self.rotations = 0
        self._undialled_ns: int | None = None
        """When it had last been heard, as a dial of it came to nothing."""
        self._contest = Contest()
        self._orders = itertools.count(1)
        self._life = secrets.token_bytes(SERIAL_LIFE_SIZE)
        self._numbers = itertools.count(1)
        self._reauth = Reauth(reauth_secs)
        self._handshakes = TokenBucket(HANDSHAKE_RATE, HANDSHAKE_BURST)
        self._own_id = own_id
        self._plane = plane
        self._observer = observer
        self._permits = permits
        self._allowed = allowed
        self._before: PeerStats = plane.peer_stats(self.handle)
        """The counters when the tunnel came up."""
        self._records_soft = records_soft
        self._changed = changed
        self._later = later

    # ---- a handshake completed ----

    def may_begin(self, now: Boottime) -> bool:
        """Takes a token for one handshake that the peer has dialled; False: it comes too often. It is on the list, and
        yet one that does nothing but connect is not to take this node's time from the others."""
        return self._handshakes.take(now)

    def outranks_inbound(self) -> bool:
        """The duplicate rule at M3: True if a session that this node dialled lives, and wins over one that the peer
        dials, because this node's digest is the smaller one."""
        return self._own_id < self.peer_id and any(
            link.dialled and link.carrier is not None and not link.ended for link in self.links
        )

    def doubt(self) -> None:
        """The peer, whose dial was just outranked, may have lost the session that outranks it, by a restart say. Its
        connections are asked for a sign of life; without one they end within seconds instead of the idle timeout."""
        for link in self.links:
            if link.carrier is not None:
                link.carrier.probe(PROBE_TIMEOUT)

    def answered(self) -> None:
        """A dial of this peer is answered: those that run beside it are given up before they cost anybody more."""
        self._changed()

    def dial_failed(self) -> None:
        """A dial of this peer came to nothing."""
        self._undialled_ns = self._plane.peer_stats(self.handle).last_rx_ns
        if self.current is not None:
            self._look_for_loss(self.current)

    def _look_for_loss(self, link: Link) -> None:
        """Who is silent and cannot be reached anew either, by a dial or, where that is for the peer to do, by the
        connection that it dialled, is taken for gone: senders are told so until it is heard."""
        unheard_ns = self.liveness.unheard_after_ns
        unconnected = link.carrier is None and not link.dialled
        if self.liveness.silent and (unconnected or self._undialled_ns == unheard_ns):
            self._plane.set_lost(self.handle, unheard_ns)

    def has_successor(self, link: Link) -> bool:
        """True if another session with the peer is there that may have replaced this one: a later one, or one that was
        dialled by the other side."""
        return any(other.dialled is not link.dialled or other.is_later(link) for other in self.links)

    def next_serial(self) -> Serial:
        """For the next session that the peer has dialled: both ends then know which of two is the later one."""
        return Serial(self._life, next(self._numbers))

    def outranks_outbound(self) -> bool:
        """The same when M4 of an own dial arrives: True if a session that the peer dialled lives and wins."""
        current = self.current
        lives = current is not None and not current.dialled and current.carrier is not None
        return lives and self.peer_id < self._own_id

    def adopt(
        self,
        session: Session,
        carrier: Carrier,
        lease: IndexLease,
        now: Boottime,
        *,
        told: Parameters,
        serial: Serial | None = None,
    ) -> Link:
        """Takes a session whose M4 was made (listener) or opened (dialer), and installs its keys. ``told`` is what the
        peer says of itself: how large a packet it takes, and how often it wants to be heard from. ``serial`` is what
        M4 says.

        A dialer sends on it at once. A listener only receives on it until its first record, and until then goes on
        answering where an older session's peer is: the QUIC path says less than an authenticated record.
        """
        link = Link(
            session,
            carrier,
            lease,
            carrier.remote,
            carrier.local,
            next(self._orders),
            now,
            now,
            keepalive=told.keepalive,
            mtu=MTU_SEALABLE_MAX if told.mtu is None else min(told.mtu, MTU_SEALABLE_MAX),
            serial=serial,
            answers_pings=MESSAGE_PING in told.messages,
            minds_ecn=told.ecn,
            lane_ports=told.lane_ports,
        )
        self.last_handshake = now
        candidates = [other for other in self.links if not other.established]
        for other in candidates[: max(0, len(candidates) + 1 - CANDIDATES_MAX)]:
            self._end(other, CloseCode.REPLACED, "too many sessions wait for their first record")
        self.links.append(link)
        if link.dialled:
            self._reauth.began()
        if link.dialled or self.current is None:
            self._aim(link)
        if link.lanes_spread:  # from the first record on: one of a lane of its own would be taken for a move
            self._plane.set_lanes(self.handle, apart=False, spread=True)
        self._execute(link, session.start(now), now)
        return link

    # ---- what happens to a session ----

    def receive(self, link: Link, frame_type: FrameType, header: bytes, body: bytes, now: Boottime) -> None:
        """A control frame arrived on the link's connection."""
        if not link.ended:
            self._execute(link, link.session.receive_frame(frame_type, header, body, now), now)

    def carrier_lost(self, link: Link, reason: str, now: Boottime) -> None:
        """The link's QUIC connection ended. Its data keys live on to their limits."""
        if link.carrier is None:
            return
        link.carrier = None
        if link.ended:
            return
        if link is self.current and not self.has_successor(link):  # one that is about to take over closes it, too
            self._observer.control_lost(self.peer_id, link.remote, reason)
        self._execute(link, link.session.connection_lost(now), now)

    def event(self, rx_index: int, flags: int, now: Boottime) -> None:
        """The plane reports something about an epoch of this peer, or about its endpoint (index 0)."""
        if flags & EVENT_ENDPOINT_MOVED:
            self._endpoint_moved(now)
        if flags & (EVENT_PROBE_ACKED | EVENT_RECORD_REFUSED) and self.current is not None:
            if flags & EVENT_PROBE_ACKED:
                self.meter.sample(self._plane.peer_stats(self.handle).round_trip_ns)
            self.path.event(flags, now)
        link = next((link for link in self.links if rx_index in link.indices), None)
        if link is None:  # it was removed while the event was on its way
            return
        if flags & EVENT_FIRST_RECORD:
            self._execute(link, link.session.first_record(rx_index, now), now)
        if flags & EVENT_FORGED:
            self._observer.records_forged(self.peer_id, link.session.number)
        if flags & EVENT_ROTATE_DUE and not link.ended and link is self.current:
            self._execute(link, link.session.rotate(now), now)
        if flags & EVENT_KEY_EXPIRED and not link.ended:
            self._execute(link, link.session.key_expired(rx_index, now), now)

    def rotate(self, now: Boottime) -> bool:
        """Rotates the keys now. False if there is no session, or no connection to do it over."""
        if self.current is None or self.current.carrier is None:
            return False
        self._execute(self.current, self.current.session.rotate(now), now)
        return True

    def disown(self, link: Link) -> None:
        """The peer has no use for this session, on which nothing of it has come: it could not open M4."""
        self._end(link, CloseCode.OK, "disowned")

    def renew(self, reason: str, now: Boottime, *, dialled: bool = False) -> None:
        """Makes the peer that dialled connect again, to be told something new: the connections of its sessions are
        closed, their keys live on until the new session replaces them. ``dialled``: also those of sessions that this
        node has dialled, which dials again."""
        for link in tuple(self.links):
            if (dialled or not link.dialled) and (carrier := link.carrier) is not None:
                self.carrier_lost(link, reason, now)
                carrier.close(CloseCode.OK, reason)

    def look(self, now: Boottime) -> None:
        """Once a second, and when a timer says so: the silence rule and the keepalive (protocol, 3.3),
        and whether the ends are to prove anew who they are.

        Whom this node has not dialled it cannot dial either: it takes its time, unless another peer stands by, and then
        asks the peer's connections, in whose way the peer's next one may be.
        """
        link = self.current
        if link is None:
            self.meter.away(now)
            return
        if link.carrier is not None:
            link.round_trip = link.carrier.round_trip
        hurried = link.answers_pings and (link.dialled or self.contested)
        was_silent = self.liveness.silent
        stats = self._plane.peer_stats(self.handle)
        verdict = self.liveness.look(stats, now, link.round_trip, hurried=hurried, keepalive=link.keepalive)
        self.path.look(stats, now)
        self.meter.look(stats, now)
        self._look_at_identity(link, now)
        if verdict is Verdict.SEND_EMPTY:
            self._send(self._plane.send_empty)
        elif verdict is Verdict.ASK:
            self._send(self._plane.send_ping)
        if self.liveness.silent and not was_silent:
            self._observer.peer_silent(self.peer_id)
            if not link.dialled:
                self.doubt()
        self._look_for_loss(link)
        if self.liveness.silent is not was_silent or self.liveness.due is not None:
            self._changed()

    def _look_at_identity(self, link: Link, now: Boottime) -> None:
        wanted_dial = self._reauth.wants_dial
        overdue = self._reauth.look(link.created, now, dialled=link.dialled)
        if overdue and (carrier := link.carrier) is not None:
            self.carrier_lost(link, "reauth", now)
            carrier.close(CloseCode.OK, "reauth")
        if self._reauth.wants_dial is not wanted_dial:
            self._changed()

    def check(self, now: Boottime) -> None:
        """The way to the peer may be another one: asks one that this node has dialled whether it is heard, as if data
        had gone out."""
        self._forget_offsets()
        link = self.current
        if link is None or not link.dialled:
            return
        if not link.answers_pings:
            self.show()
        elif not self.liveness.silent:
            self.liveness.suspect(self._plane.peer_stats(self.handle), now)
            self.look(now)

    def measure(self, now: Boottime) -> bool:
        """Asks for the round trip, where no question is on its way; ``meter.waits`` says until when one is. False: the
        peer is not there to answer."""
        if not self.present:
            return False
        if not self.meter.waits(now) and self.path.measure():
            self.meter.asked = now
        return True

    def show(self) -> None:
        """Shows the peer where this node is now, which may be another place than before."""
        self._send(self._plane.send_empty)

    def next_timer(self) -> Boottime | None:
        """When ``handle_timers`` is due."""
        times = [self.path.next_timer(), *(link.session.next_timer() for link in self.links)]
        if self.current is not None:
            times.append(self.liveness.due)
        return min((due for due in times if due is not None), default=None)

    def handle_timers(self, now: Boottime) -> None:
        """Lets every session act whose time has come, and the path."""
        self.path.handle_timer(now)
        for link in tuple(self.links):
            due = link.session.next_timer()
            if due is not None and due <= now and not link.ended:
                self._execute(link, link.session.handle_timer(now), now)
        if self.liveness.due is not None and self.liveness.due <= now:
            self.look(now)

    def close(self, code: CloseCode, reason: str, now: Boottime) -> None:
        """Ends every session: the peer is told by a sealed CLOSE, all keys are wiped at once.

        ``reason`` is told too: 1..64 of a-z, 0-9 and _. A connection closes when the peer, which got the CLOSE, closes
        it, or after a second: closing it at once would overtake the CLOSE.
        """
        for link in tuple(self.links):
            carrier, link.carrier = link.carrier, None
            for action in link.session.close(reason, now):
                if isinstance(action, SendFrame) and carrier is not None:
                    carrier.send(action.data)
                elif isinstance(action, Remove):
                    self._remove(link, action.rx_index)
            if carrier is not None:
                self._later(CLOSE_FLUSH_TIMEOUT, partial(carrier.close, code, reason))
            self._end(link, code, reason)

    def forsake(self, reason: str) -> None:
        """Ends every session without a word: somebody else may seal another one with the same nonce. The connections
        are the caller's to drop."""
        for link in tuple(self.links):
            link.carrier = None
            self._end(link, CloseCode.OK, reason)

    def fail(self) -> None:
        """After a fault: ends every session, since what the plane has may not be what the sessions think."""
        for link in tuple(self.links):
            self._end(link, CloseCode.INTERNAL, "internal_error")

    # ---- what the node asks ----

    def wants_dial(self) -> bool:
        """True if a dialled peer should be dialled: no session, one whose connection this node has to restore, one that
        has to be proven anew, or silence. Not while a fresh session waits for its first record."""
        if any(link.dialled and not link.established and link.carrier is not None for link in self.links):
            return False
        current = self.current
        if current is None or self.liveness.silent:
            return True
        return current.dialled and (current.carrier is None or self._reauth.wants_dial)

    @property
    def present(self) -> bool:
        """True while a session is in use and the peer is heard."""
        return self.current is not None and not self.liveness.silent

    @property
    def up(self) -> bool:
        """True while a session is in use, its connection stands and the peer is heard."""
        return self.current is not None and self.current.carrier is not None and not self.liveness.silent

    @property
    def round_trip(self) -> float:
        """Of the connection of the session in use, in seconds; 0 if there is none."""
        carrier = self.current.carrier if self.current is not None else None
        return carrier.round_trip if carrier is not None else 0.0

    @property
    def idle(self) -> bool:
        """True if no session, in whatever state, is left."""
        return not self.links

    # ---- carrying out actions ----

    def _execute(self, link: Link, actions: Sequence[Action], now: Boottime) -> None:
        if not link.dialled and not link.established and promotes(actions) and not self._permits(self.peer_id):
            self._observer.peer_denied(self.peer_id, link.remote)
            self._end(link, CloseCode.REFUSED, "not_allowlisted")
            return
        try:
            for action in actions:
                self._carry_out(link, action, now)
        except (PlaneError, MemoryError) as error:
            self._observer.internal_error(error, peer_id=self.peer_id)
            self._end(link, CloseCode.INTERNAL, "plane_error")
        if link.session.drained:
            self._end(link, CloseCode.OK, "closed")
        self._changed()

    def _carry_out(self, link: Link, action: Action, now: Boottime) -> None:
        match action:
            case SendFrame(data):
                if link.carrier is not None:
                    link.carrier.send(data)
            case Install(keys, lifetime):
                self._install(link, keys, lifetime)
            case Activate(rx_index):
                if link is self._sender():
                    self._activate(link, rx_index)
            case Promote(rx_index):
                link.promoted_index = rx_index
                if not self._lost_race(link):
                    if not link.endpoint_set:
                        self._aim(link)
                    self._plane.promote(rx_index)
            case SendEmpty(rx_index):
                if self._plane.has(rx_index):
                    self._plane.send_empty(rx_index)
            case Remove(rx_index):
                self._remove(link, rx_index)
            case Established():
                self._established(link, now)
            case Rotated(number, duration, interval):
                self.rotations += 1
                link.epoch_since = self.last_handshake = now
                self._observer.rotated(self.peer_id, number, duration, interval)
            case RotationFailed(reason):
                self._observer.rotation_failed(self.peer_id, link.session.number, reason)
            case CloseConnection(code, reason):
                if link is self.current and link.carrier is not None and not link.session.drained:
                    self._observer.control_lost(self.peer_id, link.remote, reason)
                self._hang_up(link, code, reason)
            case Dead(reason):
                self._end(link, CloseCode.OK, reason)

    def _install(self, link: Link, keys: EpochKeys, lifetime: float) -> None:
        self._plane.install(
            self.handle,
            number=keys.number,
            suite=keys.suite,
            rx_index=keys.rx_index,
            tx_index=keys.tx_index,
            tx_secrets=keys.tx_secrets,
            rx_secrets=keys.rx_secrets,
            lifetime=lifetime,
            records_soft=self._records_soft,
        )
        link.indices.add(keys.rx_index)

    def _activate(self, link: Link, rx_index: int) -> None:
        """Sends under this epoch from now on, and nothing larger than this session's peer takes."""
        self.path.set_limit(link.mtu)
        self._plane.set_ecn(self.handle, link.minds_ecn)
        self._plane.set_lanes(self.handle, apart=link.lanes_apart, spread=link.lanes_spread)
        self._plane.activate(rx_index)

    def _remove(self, link: Link, rx_index: int) -> None:
        if self._plane.has(rx_index):
            self._plane.remove(rx_index)
        link.indices.discard(rx_index)
        link.lease.release(rx_index)

    def _established(self, link: Link, now: Boottime) -> None:
        """The session is proven in both directions. It replaces the current one, unless that one outranks it."""
        if link.established or link.ended:
            return
        link.established = True
        if link.proven is not None:
            link.proven()
        previous = self.current
        if self._lost_race(link):
            self._retire(link, CloseCode.DUPLICATE, now)
            return
        self.current = link
        if previous is not None:
            self._watch_contest(previous, link, now)
        self._resume()
        self.liveness.reset()
        for other in tuple(self.links):
            if other is previous or (other.dialled is link.dialled and link.is_later(other)):
                self._retire(other, CloseCode.REPLACED, now)
        self.path.begin("session", now)
        if previous is None:
            self._before = self._plane.peer_stats(self.handle)
            self.meter.begin(now)
            self._observer.peer_connected(self.peer_id, link.remote, link.direction, self._allowed(self.peer_id))

    def _watch_contest(self, previous: Link, link: Link, now: Boottime) -> None:
        """A session takes the place of another one. Do two hosts take it from each other?"""
        if previous.dialled or link.dialled or previous.carrier is None:
            return
        loser = previous.carrier.remote
        if self._contest.replaced(loser, link.remote, now):
            self._observer.identity_in_use_twice(self.peer_id, link.remote, loser)

    def _lost_race(self, link: Link) -> bool:
        """True if the current session goes before this one: it was dialled by the side that wins and its connection
        stands, or by the same side and later."""
        current = self.current
        if current is None or current is link or current.ended:
            return False
        if current.dialled is link.dialled:
            return current.is_later(link)
        winner_is_own = self._own_id < self.peer_id
        return current.dialled is winner_is_own and current.carrier is not None

    def _retire(self, link: Link, code: CloseCode, now: Boottime) -> None:
        """A better session is in use: this one only receives, for the grace, and its connection closes."""
        self._hang_up(link, code, code.name.lower())
        self._execute(link, link.session.retire(now), now)
        retired = [other for other in self.links if other.session.state is State.RETIRED]
        for other in retired[: max(0, len(retired) - RETIRED_MAX)]:
            self._end(other, CloseCode.REPLACED, "too many sessions in their grace")

    def _hang_up(self, link: Link, code: CloseCode, reason: str) -> None:
        carrier, link.carrier = link.carrier, None
        if carrier is not None:
            carrier.close(code, reason)
            self._changed()

    def _end(self, link: Link, code: CloseCode, reason: str) -> None:
        """The session is over: nothing of it stays in the plane. Idempotent."""
        if link.ended:
            return
        link.ended = True
        for action in link.session.wipe():
            if isinstance(action, Remove):
                self._remove(link, action.rx_index)
        for rx_index in tuple(link.indices):
            self._remove(link, rx_index)
        link.lease.release_all()
        self.links.remove(link)
        self._hang_up(link, code, reason)
        if link is self.current:
            self.current = None
            self.path.end()
            self.meter.end()
            self._tell_end(reason)
        self._resume()
        self._changed()

    def _tell_end(self, reason: str) -> None:
        stats, before = self._plane.peer_stats(self.handle), self._before
        self._observer.peer_disconnected(
            self.peer_id,
            reason,
            rx_bytes=stats.rx_bytes - before.rx_bytes,
            tx_bytes=stats.tx_bytes - before.tx_bytes,
        )

    def _sender(self) -> Link | None:
        """The link to send on: the newest that this node has dialled and that waits for its first record, which the
        peer has for certain and may already have moved to; else the current one."""
        sender = None
        for link in self.links:
            if link.dialled and link.session.state is State.PROVISIONAL and not self._lost_race(link):
                sender = link if sender is None or link.is_later(sender) else sender
        return self.current if sender is None else sender

    def _resume(self) -> None:
        """Sends on the right session, whichever other one was activated last."""
        sender, current = self._sender(), self.current
        sending = sender.session.sending_index if sender is not None else None
        if sender is not None and sending is not None and self._plane.has(sending):
            self._activate(sender, sending)
        promoted = current.promoted_index if current is not None else None
        if promoted is not None and self._plane.has(promoted):
            self._plane.promote(promoted)

    def _aim(self, link: Link) -> None:
        # A dialer leaves the choice of its own address to the kernel: it changes when the dialer roams.
        local = Local(None, link.local.group) if link.dialled else link.local
        self._plane.set_endpoint(self.handle, link.remote, local)
        link.endpoint_set = True

    def _endpoint_moved(self, now: Boottime) -> None:
        endpoint = self._plane.endpoint(self.handle)
        if endpoint is not None:
            self._observer.endpoint_moved(self.peer_id, endpoint[0])
        self._forget_offsets()
        # The peer has changed its address: an answer shows it that the new path works in both directions.
        self.show()
        self.meter.new_path()
        if self.current is not None:
            self.path.begin("moved", now)

    def _forget_offsets(self) -> None:
        """One of the two addresses is another: what indices have in common must not link the old to the new."""
        for link in self.links:
            link.lease.moved()

    def _sending_index(self) -> int | None:
        return self.current.session.sending_index if self.current is not None else None

    def _send(self, what: Callable[[int], None]) -> None:
        """A record without a packet, in the session in use."""
        index = self._sending_index()
        if index is not None and self._plane.has(index):
            what(index)
