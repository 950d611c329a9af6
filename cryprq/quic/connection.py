"""One connection of the control channel: a QUIC connection whose one stream carries frames.

The endpoint (``cryprq.quic.endpoint``) hands it datagrams and sends what it makes; a handler gets whole frames. Nothing
is done inside ``send`` and ``close`` but to take note: datagrams leave, and ``closed`` is called, when the endpoint
flushes, so a handler is never called from within its own call.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from aioquic.quic import events

from cryprq.address import Address, Local
from cryprq.protocol.clock import Monotonic
from cryprq.protocol.constants import (
    ANSWER_ROUND_TRIPS,
    HANDSHAKE_ROUND_TRIPS,
    HANDSHAKE_TIMEOUT,
    M1_TIMEOUT,
    QUIC_ANSWER_WITHIN,
    QUIC_IDLE_TIMEOUT,
    QUIC_KEEPALIVE,
    QUIC_KEEPALIVE_SHARE,
    ROUND_TRIP_MAX,
)
from cryprq.protocol.frames import CloseCode, FrameError, FrameReader, FrameType
from cryprq.quic.adapter import QUIC_WINDOW, QUIC_WINDOW_PENDING, STREAM_ID, Quic
from cryprq.quic.admission import Rank, source_of
from cryprq.quic.ending import REASON_MAX, Ended, explain

QUIC_PATIENCE: Final = 3.0
"""Seconds after which a dialer that has begun the QUIC handshake is overdue, so that its place goes to who needs it: a
dialer in a hurry gives up by itself then. ..."""
M1_PATIENCE: Final = 0.1
"""... Likewise beyond its round trip, since M1 leaves a dialer together with the end of the QUIC handshake. Whoever has
sent one may take its time: that cost the dialer as much as this side."""


class ConnectionHandler(Protocol):
    """What happens on a connection. An exception here closes the connection with ``CloseCode.INTERNAL``."""

    def connected(self, conn: "Connection") -> None:
        """The QUIC handshake is complete and ``conn.channel_binding`` is there."""

    def frame(self, conn: "Connection", frame_type: FrameType, header: bytes, body: bytes) -> None:
        """A whole frame arrived."""

    def closed(self, conn: "Connection", code: int, reason: str, by_peer: bool) -> None:
        """The connection is gone; called once, last. For a dialled one also if it never came up."""


@dataclass(frozen=True)
class Times:
    """When a connection does something by itself, in seconds."""

    m1_timeout: float = M1_TIMEOUT
    pending_timeout: float = HANDSHAKE_TIMEOUT
    keepalive: float = QUIC_KEEPALIVE
    answer_within: float = QUIC_ANSWER_WITHIN
    idle_timeout: float = QUIC_IDLE_TIMEOUT


class Owner(Protocol):
    """What a connection needs of the endpoint that it belongs to (``cryprq.quic.endpoint.Endpoint``)."""

    @property
    def times(self) -> Times: ...
    def clock(self) -> Monotonic: ...
    def make_handler(self, conn: "Connection") -> ConnectionHandler | None:
        """For an accepted connection whose QUIC handshake is complete."""

    def touch(self, conn: "Connection") -> None:
        """The connection has something to send, or a timer to arm: it is flushed soon."""

    def add_cid(self, cid: bytes, conn: "Connection") -> None:
        """Datagrams with that destination connection ID are for it."""

    def remove_cid(self, cid: bytes, conn: "Connection") -> None:
        """The peer gave a connection ID up."""

    def became_validated(self, conn: "Connection") -> None:
        """An accepted connection completed the QUIC handshake: its peer receives where it says."""

    def settled(self, conn: "Connection", *, authenticated: bool) -> None:
        """An accepted connection is not pending any more: its peer authenticated itself, or it ended."""

    def count_failure(self, conn: "Connection") -> None:
        """A validated source failed."""

    def count_refusal(self, conn: "Connection", identity: bytes) -> None:
        """Somebody at a validated source has proven an identity that may not connect."""

    def report_other_protocol(self, conn: "Connection") -> None:
        """Somebody dialled who does not offer our ALPN."""

    def report_fault(self, error: Exception, conn: "Connection | None") -> None:
        """An exception that should not have been: ours or aioquic's. The connection goes, the endpoint stays."""


class Connection:
    """Made by ``Endpoint.dial``, or by the endpoint for a dialer. Not for other threads."""

    def __init__(
        self,
        owner: Owner,
        quic: Quic,
        remote: Address,
        local: Local,
        *,
        is_client: bool,
        validated: bool,
        rank: Rank = Rank.STRANGER,
        handler: ConnectionHandler | None,
        deadline: Monotonic,
        opened_at: Monotonic,
    ) -> None:
        self.remote = remote
        """Where the peer is. Follows the QUIC path when a dialer's address changes."""
        self.local = local
        """What the peer sends to and replies leave by; a dialer leaves the address to the kernel."""
        self.is_client = is_client
        self.validated = validated
        """Whether the peer has proven that it receives at ``remote``: by a Retry token or a QUIC handshake."""
        self.rank = rank
        """What the dialer of an accepted connection was taken for when it began."""
        self.channel_binding = b""
        """tls-exporter of the connection (RFC 9266, 32 bytes); empty until connected."""
        self.ended: Ended | None = None
        """Set when ``closed`` is called."""
        self.source = source_of(remote)
        """What the listener's limits and backoff count this connection by: where it came from first."""
        self.pending = not is_client
        """Accepted and not ``authenticated`` yet."""
        self.cids: set[bytes] = set()
        """Connection IDs under which the endpoint knows it."""
        self.quic = quic
        self.send_error: OSError | None = None
        """The last error of the socket while sending to this peer."""
        self._owner = owner
        self._handler = handler
        self._reader = FrameReader()
        self._opened_at = opened_at
        self._deadline: Monotonic | None = deadline
        self._expected_by: Monotonic | None = Monotonic(opened_at + QUIC_PATIENCE)
        self._connected = False
        self._greeted = False
        self._failure_counted = False
        self._close: tuple[Ended, int, str] | None = None
        self._relaxed = False
        self._ping_at: Monotonic | None = None
        self._pong_by: Monotonic | None = None

    # ---- for the handler ----

    @property
    def round_trip(self) -> float:
        """Seconds, as measured; 0 before the first answer, and at most ``ROUND_TRIP_MAX``: a stranger, who can feign
        any, is to gain no more time than that."""
        return min(self.quic.round_trip, ROUND_TRIP_MAX)

    def send(self, frame: bytes) -> None:
        """Queues a whole frame, header included. Without effect on a connection that is closing.

        A listener can send once the dialer's first frame has come (ValueError before that).
        """
        if self._is_closing():
            return
        self.quic.send_stream_data(STREAM_ID, frame)
        if not self._over_budget():
            self._owner.touch(self)

    def close(self, code: CloseCode, reason: str = "") -> None:
        """Closes with an application error code. The first call counts; ``closed`` is called soon."""
        self._end(Ended.LOCAL, code, reason)

    def probe(self, within: float) -> None:
        """Asks whether the peer is still there: the connection ends (``Ended.IDLE``) unless it answers a ping within so
        many seconds, or longer if the way is. Once, however often this is called meanwhile."""
        if self._is_closing() or not self._connected:
            return
        by = Monotonic(self._owner.clock() + max(within, ANSWER_ROUND_TRIPS * self.round_trip))
        if self._pong_by is None or self._pong_by > by:
            self._pong_by = by
            self.quic.send_ping(0)
            self._owner.touch(self)

    def relax(self) -> None:
        """The data plane asks all the time whether the peer is there, and keeps the way to it open: a dialer's
        keepalives come only as often as the idle timeout needs from now on."""
        self._relaxed = True
        if self._ping_at is not None:
            self._ping_at = Monotonic(self._owner.clock() + self._keepalive)
            self._owner.touch(self)

    def show(self) -> None:
        """Shows the peer where this end is now, which may be another place than before."""
        if not self._is_closing() and self._connected:
            self.quic.send_ping(0)
            self._owner.touch(self)

    def authenticated(self) -> None:
        """The peer has proven its identity: lifts the pending limits and timers and clears the source's backoff."""
        if not self.pending or self._is_closing():
            return
        self.pending = False
        self._deadline = None
        self.quic.raise_windows()
        self._owner.settled(self, authenticated=True)
        self._owner.touch(self)

    def failed(self) -> None:
        """Counts one failure of the source for the backoff; only of an accepted, validated connection, and once."""
        if self._may_count_failure():
            self._owner.count_failure(self)

    def refused(self, identity: bytes) -> None:
        """The same for a peer that has proven its identity (the digest of its ID), which may not connect: others at its
        source are not to suffer from that."""
        if self._may_count_failure():
            self._owner.count_refusal(self, identity)

    # ---- for the endpoint ----

    def receive(self, data: bytes, remote: Address, local: Local, now: Monotonic) -> None:
        """A datagram with one of its connection IDs arrived."""
        opened = self.quic.opened
        self.quic.receive_datagram(data, remote, now)
        # Connection IDs are seen on the path: what anybody could have sent must not choose where replies leave from.
        if not self.is_client and self.quic.opened > opened and remote == self.quic.get_peer_address():
            self.local = local
        if not self._over_budget():
            self.process_events(now)
        self._owner.touch(self)

    def process_events(self, now: Monotonic) -> None:
        """Acts on what aioquic reports. Also needed after a flush, which announces connection IDs."""
        while (event := self.quic.next_event()) is not None:
            match event:
                case events.StreamDataReceived():
                    self._stream_data(event)
                case events.HandshakeCompleted():
                    self._handshake_completed(now)
                case events.ConnectionIdIssued():
                    self._owner.add_cid(event.connection_id, self)
                case events.ConnectionIdRetired():
                    self._owner.remove_cid(event.connection_id, self)
                case events.PingAcknowledged():
                    self._pong_by = None
                case events.StreamReset() | events.StopSendingReceived():
                    self._malformed("stream reset")
        remote = self.quic.get_peer_address()
        if remote is not None:
            self.remote = remote

    def timer_at(self) -> Monotonic | None:
        """When ``handle_timer`` is due."""
        times = (self.quic.get_timer(), self._deadline, self._ping_at, self._pong_by)
        due = min((at for at in times if at is not None), default=None)
        return None if due is None else Monotonic(due)

    def handle_timer(self, now: Monotonic) -> None:
        """Does what is due."""
        quic_at = self.quic.get_timer()
        if self._deadline is not None and now >= self._deadline:
            self._deadline = None
            self._deadline_passed()
        elif self._pong_by is not None and now >= self._pong_by:
            self._end(Ended.IDLE, CloseCode.TIMEOUT, "idle timeout")
        elif self._ping_at is not None and now >= self._ping_at:
            self._ping(now)
        if quic_at is not None and now >= quic_at:
            self.quic.handle_timer(now)
        self.process_events(now)
        self._owner.touch(self)

    def overdue(self, now: Monotonic) -> float:
        """For how many seconds a pending dialer has owed its next step; not positive while it may take its time."""
        return 0.0 if self._expected_by is None or self._is_closing() else now - self._expected_by

    def give_way(self) -> None:
        """It is overdue, and somebody else waits for its place."""
        self._deadline_passed()

    def finish(self, event: events.ConnectionTerminated, by_peer: bool) -> None:
        """QUIC is done with the connection: says so to the handler."""
        pending, self.pending = self.pending, False
        if pending:
            self._owner.settled(self, authenticated=False)
        how, code, reason = self._close or explain(event, by_peer, is_client=self.is_client, connected=self._connected)
        if pending and self._is_to_blame(how, by_peer):
            self.failed()
        if pending and how is Ended.PROTOCOL and not by_peer:
            self._owner.report_other_protocol(self)
        self.ended = how
        self._close = None
        handler, self._handler = self._handler, None
        if handler is not None:
            handler.closed(self, code, reason, how is Ended.PEER or (how is Ended.TRANSPORT and by_peer))

    def vanish(self) -> None:
        """A fault of this node ended the connection without a word to the peer, who is not to blame for it."""
        self._failure_counted = True
        self._close = (Ended.LOCAL, int(CloseCode.INTERNAL), "internal error")
        self.finish(events.ConnectionTerminated(int(CloseCode.INTERNAL), None, ""), by_peer=False)

    # ---- inside ----

    def _may_count_failure(self) -> bool:
        if self.is_client or not self.validated or self._failure_counted:
            return False
        self._failure_counted = True
        return True

    def _is_to_blame(self, how: Ended, by_peer: bool) -> bool:
        """Whether the dialer of an accepted connection that was pending has failed: aioquic closed it because of what
        came, or the dialer left when this side had done its part of the TLS handshake. Who leaves after that is the
        handler's to judge."""
        if by_peer:
            return not self._connected and self.quic.answered
        return how is Ended.TRANSPORT

    def _is_closing(self) -> bool:
        return self._close is not None or self.ended is not None

    def _stream_data(self, event: events.StreamDataReceived) -> None:
        if self._is_closing():
            return
        try:
            frames = self._reader.feed(event.data)
        except FrameError as error:
            self._malformed(str(error))
            return
        for frame_type, header, body in frames:
            if self._handler is None:
                return
            if self.pending and not self._greeted:
                self._deadline = self._pending_until()
                self._expected_by = None
            self._greeted = True
            self._guard(self._handler.frame, self, frame_type, header, body)
            if self._is_closing():
                return
        if event.end_stream:
            self._malformed("stream ended")

    def _handshake_completed(self, now: Monotonic) -> None:
        self._connected = True
        self.quic.assume_round_trip(now - self._opened_at)
        if self.is_client:
            self.validated = True
            self._deadline = None
            self._ping_at = Monotonic(now + self._keepalive)
            self.quic.raise_windows()
        else:
            if not self.validated:
                self.validated = True
                self._owner.became_validated(self)
            m1_within = max(self._owner.times.m1_timeout, ANSWER_ROUND_TRIPS * self.round_trip)
            self._deadline = Monotonic(min(now + m1_within, self._pending_until()))
            self._expected_by = Monotonic(now + M1_PATIENCE + self.round_trip)
        self.channel_binding = self.quic.channel_binding
        if self._handler is None:
            self._handler = self._owner.make_handler(self)
        if self._handler is not None:
            self._guard(self._handler.connected, self)

    def _pending_until(self) -> Monotonic:
        """When a listener gives the whole handshake up."""
        within = max(self._owner.times.pending_timeout, HANDSHAKE_ROUND_TRIPS * self.round_trip)
        return Monotonic(self._opened_at + within)

    def _guard(self, function: Callable[..., None], *args: object) -> None:
        try:
            function(*args)
        except Exception as error:
            self._owner.report_fault(error, self)
            self._end(Ended.LOCAL, CloseCode.INTERNAL, "")

    def _malformed(self, reason: str) -> None:
        if self.pending:
            self.failed()
        self._end(Ended.LOCAL, CloseCode.MALFORMED, reason)

    def _over_budget(self) -> bool:
        limit = QUIC_WINDOW_PENDING if self.pending or not self._connected else QUIC_WINDOW
        if self.quic.buffered <= 2 * limit:
            return False
        self._malformed("too much unread or unacknowledged data")
        return True

    def _deadline_passed(self) -> None:
        if self.is_client:
            detail = f" ({self.send_error.strerror})" if self.send_error is not None else ""
            self._end(Ended.NO_ANSWER, CloseCode.TIMEOUT, f"no answer{detail}")
            return
        self.failed()
        self._end(Ended.LOCAL, CloseCode.TIMEOUT, "")

    @property
    def _keepalive(self) -> float:
        usual = self._owner.times.keepalive
        return max(usual, QUIC_KEEPALIVE_SHARE * self.quic.idle_timeout) if self._relaxed else usual

    def _ping(self, now: Monotonic) -> None:
        self._ping_at = Monotonic(now + self._keepalive)
        if self._pong_by is None:
            within = min(self._owner.times.answer_within, self.quic.idle_timeout - self._owner.times.keepalive)
            self._pong_by = Monotonic(now + within)
            self.quic.send_ping(0)

    def _end(self, how: Ended, code: CloseCode, reason: str) -> None:
        if self._is_closing():
            return
        self._close = (how, int(code), reason)
        self._deadline = self._ping_at = self._pong_by = None
        # The listener tells a stranger nothing but the code.
        told = "" if self.pending else reason[:REASON_MAX]
        self.quic.close(error_code=int(code), reason_phrase=told)
        self._owner.touch(self)
