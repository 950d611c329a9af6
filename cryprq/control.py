"""The control plane's UDP socket: one QUIC endpoint that accepts and dials on the same port.

Datagrams are routed by destination connection ID. What belongs to no connection meets, in this order: form, backoff
of the source, Retry token, limits on pending connections; only then is anything kept, and beyond the limits only in
the waiting line. Data records that UDP_GRO mixed into a batch go to ``on_record``. Nothing that arrives may raise out
of the reader.
"""

import asyncio
import select
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE
from aioquic.quic.packet import QuicPacketType

from cryprq.address import Address
from cryprq.admission import UNVALIDATED_RATE, Admission, TokenBucket, Verdict
from cryprq.backoff import Backoff
from cryprq.certificate import make_certificate
from cryprq.closing import Closing, ClosingTable
from cryprq.connection import TRANSPORT_CODE, Connection, ConnectionHandler, Ended
from cryprq.frames import CloseCode
from cryprq.limits import (
    BACKOFF_BASE_MS,
    BACKOFF_FREE_FAILURES,
    BACKOFF_MAX_MS,
    DIAL_TIMEOUT,
    HANDSHAKE_TIMEOUT,
    M1_TIMEOUT,
    MAX_INBOUND,
    QUIC_FIRST_BYTE,
    QUIC_IDLE_TIMEOUT,
    QUIC_KEEPALIVE,
    RESPONSE_BURST,
    RESPONSE_RATE,
)
from cryprq.qlog import Qlog
from cryprq.quic import (
    CONNECTION_ID_SIZE,
    VERSIONS,
    Quic,
    client_configuration,
    parse_header,
    server_configuration,
    version_negotiation,
)
from cryprq.retry import RetryTokens
from cryprq.udpio import UdpSocket, segments
from cryprq.waiting import Beginning, WaitingLine

__all__ = [
    "TRANSPORT_CODE",
    "Address",
    "Connection",
    "ConnectionHandler",
    "Ended",
    "Endpoint",
    "EndpointLimits",
    "Observer",
]

DATAGRAMS_PER_WAKEUP: Final = 64
"""After so many the loop gets its turn, so that a flood leaves time for everything else."""
SECONDS_PER_WAKEUP: Final = 0.005
"""Likewise, so that many handshakes at once do: a datagram of one may cost a millisecond."""
BEHIND_AFTER: Final = 0.1
"""Seconds without a moment in which everything was read; dialers repeat themselves after 0.2 s (RFC 9002, 6.2.2)."""
WAITING_POLL: Final = 0.05
"""Seconds between looks at the waiting line while no pending connection ends."""
WAITING_PATIENCE: Final = 0.02
"""The line is served when there is nothing to read, so that handshakes which have begun are done first; but at least
one of it in so many seconds, whatever comes in."""
_CLIENT_CID_MIN: Final = 8  # RFC 9000, 7.2
_LONG_HEADER: Final = 0x80
_TICK: Final = 0.001
"""A loop may call a timer so much too early."""

# uvloop's own time stands still during a callback, and has milliseconds only.
_clock = time.monotonic


class Observer(Protocol):
    """Told what happens, as an event name and fields: the ``info`` of a structlog logger is one."""

    def __call__(self, event: str, /, **fields: object) -> object: ...


@dataclass(frozen=True)
class EndpointLimits:
    """What strangers may cost, and the connection's timers. Times in seconds unless the name says ms."""

    max_inbound: int = MAX_INBOUND
    """Accepted connections that have not authenticated themselves yet."""
    backoff_base_ms: int = BACKOFF_BASE_MS
    backoff_max_ms: int = BACKOFF_MAX_MS
    backoff_free_failures: int = BACKOFF_FREE_FAILURES
    unvalidated_rate: float = UNVALIDATED_RATE
    m1_timeout: float = M1_TIMEOUT
    pending_timeout: float = HANDSHAKE_TIMEOUT
    keepalive: float = QUIC_KEEPALIVE
    idle_timeout: float = QUIC_IDLE_TIMEOUT


class Endpoint:
    """Accepts and dials connections on one bound UDP socket (IPv4, or IPv6 with or without dual stack).

    ``accept`` makes the handler of a connection whose QUIC handshake is complete; None: dial only. ``on_record`` gets
    data records (first byte < 0x40) that arrived here. The socket stays the caller's to close, after ``stop``.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        limits: EndpointLimits,
        accept: Callable[[Connection], ConnectionHandler] | None,
        loop: asyncio.AbstractEventLoop,
        on_record: Callable[[bytes, Address, str | None], None],
        observer: Observer,
        qlog: Qlog | None = None,
    ) -> None:
        self.limits = limits
        self.counters: Counter[str] = Counter()
        """Datagrams and connections that came to nothing, by reason; and datagrams sent and received."""
        self._sock = sock
        self._udp = UdpSocket(sock)
        self._accept = accept
        self._loop = loop
        self._on_record = on_record
        self._observer = observer
        certificate = make_certificate()
        self.certificate_der = certificate.der
        """The listener's certificate, fresh for this object."""
        self._server_configuration = server_configuration(certificate, limits.idle_timeout)
        self._client_configuration = client_configuration(limits.idle_timeout)
        self._qlog = qlog
        for configuration in (self._server_configuration, self._client_configuration):
            configuration.quic_logger = qlog
        self._tokens = RetryTokens()
        self._backoff = Backoff(
            limits.backoff_base_ms, limits.backoff_max_ms, free_failures=limits.backoff_free_failures
        )
        self._admission = Admission(limits.max_inbound)
        self._beginnings = TokenBucket(limits.unvalidated_rate, limits.unvalidated_rate)
        self._responses = TokenBucket(RESPONSE_RATE, RESPONSE_BURST)
        self._waiting = WaitingLine()
        self._serve_handle: asyncio.Handle | None = None
        self._served_at = 0.0
        self._behind_since: float | None = None
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._by_cid: dict[bytes, Connection | Closing] = {}
        self._connections: dict[Connection, tuple[float, asyncio.TimerHandle] | None] = {}
        self._closing = ClosingTable(loop, self._by_cid, self.transmit)
        self._touched: dict[Connection, None] = {}
        self._flush_handle: asyncio.Handle | None = None
        self._accepting = accept is not None
        self._running = False

    # ---- for the node ----

    def start(self) -> None:
        """Begins to read the socket."""
        self._running = True
        self._loop.add_reader(self._sock.fileno(), self._readable)

    def stop_accepting(self) -> None:
        """New connections get no answer from now on: what their dialers repeat reaches whoever has the port next."""
        self._accepting = False
        self._waiting.clear()

    def stop(self) -> None:
        """Tells every peer (``CloseCode.SHUTDOWN``), calls every handler's ``closed`` and stops reading. Idempotent."""
        if not self._running:
            return
        self.stop_accepting()
        for conn in list(self._connections):
            conn.close(CloseCode.SHUTDOWN, "the node stops")
        self._flush()
        self._running = False
        self._loop.remove_reader(self._sock.fileno())
        for handle in (self._flush_handle, self._serve_handle):
            if handle is not None:
                handle.cancel()
        self._flush_handle = self._serve_handle = None
        self._closing.clear()
        self._by_cid.clear()

    def dial(self, remote: Address, handler: ConnectionHandler, *, timeout: float = DIAL_TIMEOUT) -> Connection:
        """Begins a connection; ``connected`` or ``closed`` follows.

        Without a completed QUIC handshake within ``timeout`` seconds it ends as ``Ended.NO_ANSWER``; what comes after
        the handshake is the handler's to time. RuntimeError when the endpoint is not running.
        """
        if not self._running:
            raise RuntimeError("the endpoint is not running")
        now = _clock()
        remote = Address(*remote)
        quic = Quic(self._client_configuration)
        quic.connect(remote, now)
        conn = Connection(
            self,
            quic,
            remote,
            None,
            is_client=True,
            validated=False,
            handler=handler,
            deadline=now + timeout,
            opened_at=now,
        )
        self._connections[conn] = None
        self.add_cid(quic.host_cid, conn)
        self.touch(conn)
        return conn

    def receive(self, data: bytes, remote: Address, local: str | None) -> None:
        """A datagram that a socket of the data plane received."""
        self._segment(data, Address(*remote), local, _clock())
        self._flush_soon()

    def allow_m2(self) -> bool:
        """Takes a token for one M2 (a KEM encapsulation and two signatures); False: refuse the M1 instead."""
        return self._responses.take(_clock())

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def pending(self) -> int:
        """Accepted connections that have not authenticated themselves."""
        return self._admission.pending

    # ---- datagrams in ----

    def _readable(self) -> None:
        now = started = _clock()
        budget = DATAGRAMS_PER_WAKEUP
        while budget > 0 and now - started < SECONDS_PER_WAKEUP:
            budget -= 1
            try:
                batch = self._udp.receive()
            except OSError:
                self.counters["socket_error"] += 1
                continue
            if batch is None:
                self._behind_since = None
                break
            data, size, remote, local = batch
            for segment in segments(data, size):
                self._segment(segment, remote, local, now)
            if size > 0:
                budget -= len(data) // size
            now = _clock()
        else:
            self._behind_since = (self._behind_since or started) if self._readable_now() else None
        self._flush()

    def _readable_now(self) -> bool:
        return bool(self._poll.poll(0))

    def _segment(self, data: bytes, remote: Address, local: str | None, now: float) -> None:
        self.counters["received"] += 1
        try:
            if not data:
                self.counters["empty"] += 1
            elif data[0] < QUIC_FIRST_BYTE:
                self._on_record(data, remote, local)
            else:
                self._quic_datagram(data, remote, local, now)
        except Exception as error:
            self.report_fault(error, None)

    def _quic_datagram(self, data: bytes, remote: Address, local: str | None, now: float) -> None:
        is_long = bool(data[0] & _LONG_HEADER)
        if is_long:
            cid = data[6 : 6 + data[5]] if len(data) > 6 else b""
        else:
            cid = data[1 : 1 + CONNECTION_ID_SIZE]
        known = self._by_cid.get(cid)
        if isinstance(known, Connection):
            try:
                known.receive(data, remote, local, now)
            except Exception as error:
                self.report_fault(error, known)
                self._drop(known)
        elif known is not None:
            known.receive(remote)
        elif is_long and self._accepting:
            self._first_datagram(data, remote, local, now)
        else:
            self.counters["unknown_connection"] += 1

    def _first_datagram(self, data: bytes, remote: Address, local: str | None, now: float) -> None:
        if len(data) < SMALLEST_MAX_DATAGRAM_SIZE or remote.port == 0:
            self.counters["malformed"] += 1
            return
        try:
            header = parse_header(data)
        except ValueError:
            self.counters["malformed"] += 1
            return
        if header.version not in VERSIONS:
            if header.packet_type is not QuicPacketType.VERSION_NEGOTIATION:
                self.counters["version"] += 1
                self.transmit(version_negotiation(header), remote, local)
            return
        if header.packet_type is not QuicPacketType.INITIAL or len(header.destination_cid) < _CLIENT_CID_MIN:
            self.counters["malformed"] += 1
            return
        source = remote.source()
        if self._backoff.remaining(source, now):
            self.counters["backoff"] += 1
            return
        original: bytes | None = header.destination_cid
        if header.token:
            original = self._tokens.check(header.token, remote, header.destination_cid, now)
            if original is None:
                self.counters["bad_token"] += 1
                return
        validated = bool(header.token)
        verdict = self._admission.judge(source, validated=validated)
        if verdict is Verdict.ACCEPT:
            if validated and (self._waiting or self._busy(now)):
                verdict = Verdict.WAIT
            elif not validated and (self._is_behind(now) or self._busy(now) or not self._beginnings.take(now)):
                verdict = Verdict.RETRY
        beginning = Beginning(data, header, original, remote, local, now)
        match verdict:
            case Verdict.RETRY:
                self.counters["retry"] += 1
                self.transmit(self._tokens.packet(header, remote, now), remote, local)
            case Verdict.WAIT:
                self.counters["waited"] += 1
                if not self._waiting.add(source, beginning):
                    self.counters["limit"] += 1
                self._serve_now()
            case Verdict.ACCEPT:
                self._open(beginning, now)

    # ---- the waiting line ----

    def _is_behind(self, now: float) -> bool:
        """True if datagrams may be in here twice, since the first was not answered in time. If that gets a Retry, a
        connection for the second is one that nobody wants."""
        return self._behind_since is not None and now - self._behind_since > BEHIND_AFTER

    def _busy(self, now: float) -> bool:
        """True if pending connections may need all the M2s that are left: who begins now would be refused his."""
        return self._responses.saved(now) < 1 + min(self._admission.pending, RESPONSE_BURST / 2)

    def _serve_now(self) -> None:
        """Somebody got in line, or a place may have become free."""
        if self._serve_handle is not None:
            self._serve_handle.cancel()
        self._serve_later(0.0)

    def _serve_later(self, seconds: float) -> None:
        more = self._waiting and self._running
        self._serve_handle = self._loop.call_later(seconds, self._serve) if more else None

    def _serve(self) -> None:
        """Lets the next one in line begin, and then the loop have its turn."""
        now = _clock()
        if now - self._served_at < WAITING_PATIENCE and self._readable_now():
            self._serve_later(0.0)
            return
        beginning = None
        try:
            if not self._busy(now):
                beginning = self._waiting.take(now, lambda source: self._may_begin(source, now))
            if beginning is not None:
                self._served_at = now
                self._open(beginning, now)
                self._flush()
        except Exception as error:
            self.report_fault(error, None)
        self._serve_later(WAITING_POLL if beginning is None else 0.0)

    def _may_begin(self, source: bytes, now: float) -> bool:
        return self._admission.has_place(source) and not self._backoff.remaining(source, now)

    def _open(self, beginning: Beginning, now: float) -> None:
        data, header, remote, local = beginning.data, beginning.header, beginning.remote, beginning.local
        validated = bool(header.token)
        quic = Quic(
            self._server_configuration,
            original_destination_connection_id=beginning.original,
            retry_source_connection_id=header.destination_cid if validated else None,
        )
        limits = self.limits
        conn = Connection(
            self,
            quic,
            remote,
            local,
            is_client=False,
            validated=validated,
            handler=None,
            deadline=now + min(limits.m1_timeout, limits.pending_timeout),
            opened_at=now,
        )
        self._connections[conn] = None
        self._admission.opened(conn.source, validated=validated)
        self.add_cid(header.destination_cid, conn)
        self.add_cid(quic.host_cid, conn)
        try:
            conn.receive(data, remote, local, now)
        except Exception as error:
            self.report_fault(error, conn)
            self._drop(conn)
        else:
            if not quic.started:
                self.counters["bad_initial"] += 1
                conn.failed()
                self._drop(conn)

    # ---- datagrams out ----

    def transmit(self, data: bytes, remote: Address, local: str | None, conn: Connection | None = None) -> None:
        """Sends one datagram; what cannot be sent is lost, as on any network, and counted."""
        try:
            if not self._udp.send(data, remote, local) and conn is not None:
                conn.local = None
            self.counters["sent"] += 1
        except OSError as error:
            self.counters["send_error"] += 1
            if conn is not None:
                conn.send_error = error

    def touch(self, conn: Connection) -> None:
        """The connection has something to send, or a timer to arm: it is flushed soon."""
        self._touched[conn] = None
        self._flush_soon()

    def _flush_soon(self) -> None:
        if self._touched and self._flush_handle is None and self._running:
            self._flush_handle = self._loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flush_handle = None
        self._flush()

    def _flush(self) -> None:
        while self._touched:
            touched, self._touched = self._touched, {}
            for conn in touched:
                if conn not in self._connections:
                    continue
                try:
                    self._flush_one(conn)
                except Exception as error:
                    self.report_fault(error, conn)
                    self._drop(conn)
        if self._qlog is not None:
            self._qlog.flush()

    def _flush_one(self, conn: Connection) -> None:
        now = _clock()
        datagrams = conn.quic.datagrams_to_send(now)
        for data, remote in datagrams:
            self.transmit(data, remote, conn.local, conn)
        conn.process_events(now)
        ending = conn.quic.ending
        if ending is None:
            self._arm(conn)
            return
        event, by_peer = ending
        self._forget(conn)
        self._closing.add(conn, [] if by_peer else [data for data, _ in datagrams], now)
        conn.finish(event, by_peer)

    # ---- timers ----

    def _arm(self, conn: Connection) -> None:
        due = conn.timer_at()
        if due is None:
            return
        armed = self._connections[conn]
        if armed is not None:
            # A timer that fires too early costs less than one that is set anew for every datagram.
            if armed[0] <= due:
                return
            armed[1].cancel()
        self._connections[conn] = due, self._loop.call_later(max(0.0, due - _clock()), self._timer, conn)

    def _timer(self, conn: Connection) -> None:
        if conn not in self._connections:
            return
        self._connections[conn] = None
        try:
            due = conn.timer_at()
            now = _clock()
            if due is not None and due <= now + _TICK:
                conn.handle_timer(max(due, now))
                self._flush()
            else:
                self._arm(conn)
        except Exception as error:
            self.report_fault(error, conn)
            self._drop(conn)

    # ---- what connections tell ----

    def make_handler(self, conn: Connection) -> ConnectionHandler | None:
        """For an accepted connection whose QUIC handshake is complete."""
        return None if self._accept is None else self._accept(conn)

    def add_cid(self, cid: bytes, conn: Connection) -> None:
        """Routes datagrams with that destination connection ID to it."""
        self._by_cid[cid] = conn
        conn.cids.add(cid)

    def remove_cid(self, cid: bytes, conn: Connection) -> None:
        """The peer gave a connection ID up."""
        if self._by_cid.get(cid) is conn:
            del self._by_cid[cid]
        conn.cids.discard(cid)

    def became_validated(self, conn: Connection) -> None:
        """An accepted connection completed the QUIC handshake."""
        self._admission.became_validated(conn.source)

    def settled(self, conn: Connection, *, authenticated: bool) -> None:
        """An accepted connection is not pending any more: its peer authenticated itself, or it ended."""
        self._admission.ended(conn.source, validated=conn.validated)
        self._serve_now()
        if authenticated:
            self._backoff.succeeded(conn.source)

    def count_failure(self, conn: Connection) -> None:
        """A validated source failed."""
        wait = self._backoff.failed(conn.source, _clock())
        if wait:
            self._observer("inbound_backoff", remote=str(conn.remote), wait_ms=round(wait * 1000))

    def report_fault(self, error: Exception, conn: Connection | None) -> None:
        """An exception that should not have been: ours or aioquic's. The connection goes, the endpoint stays."""
        self.counters["fault"] += 1
        remote = None if conn is None else str(conn.remote)
        self._observer("internal_error", remote=remote, error=f"{type(error).__name__}: {error}")

    # ---- the end of a connection ----

    def _forget(self, conn: Connection) -> None:
        armed = self._connections.pop(conn)
        if armed is not None:
            armed[1].cancel()
        for cid in conn.cids:
            self._by_cid.pop(cid, None)
        if conn.pending:
            self.settled(conn, authenticated=False)

    def _drop(self, conn: Connection) -> None:
        """Forgets a connection without a word to its peer: nothing sensible can be sent."""
        if conn not in self._connections:
            return
        self._forget(conn)
        try:
            conn.vanish()
        except Exception as error:
            self.report_fault(error, conn)
