"""The control plane's UDP socket: one QUIC endpoint that accepts and dials on the same port.

Datagrams are routed by destination connection ID. What belongs to no connection meets, in this order: form, backoff
of the source, Retry token, limits on pending connections; only then is anything kept, and beyond the limits only in
the waiting line. Data records that UDP_GRO mixed into a batch go to ``on_record``. Nothing that arrives may raise out
of the reader.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from aioquic.quic.configuration import SMALLEST_MAX_DATAGRAM_SIZE
from aioquic.quic.packet import QuicPacketType

from cryprq.address import Address
from cryprq.protocol.clock import Monotonic
from cryprq.protocol.constants import (
    BACKOFF_FREE_FAILURES,
    DIAL_TIMEOUT,
    QUIC_FIRST_BYTE,
    RESPONSE_BURST,
    RESPONSE_RATE,
)
from cryprq.protocol.frames import CloseCode
from cryprq.quic.adapter import (
    CONNECTION_ID_SIZE,
    VERSIONS,
    Quic,
    client_configuration,
    parse_header,
    server_configuration,
    version_negotiation,
)
from cryprq.quic.admission import UNVALIDATED_RATE, Admission, TokenBucket, Verdict, source_of
from cryprq.quic.backoff import Backoff
from cryprq.quic.certificate import make_certificate
from cryprq.quic.closed import ClosedTable
from cryprq.quic.connection import Connection, ConnectionHandler, Times
from cryprq.quic.intake import DatagramSocket, Intake
from cryprq.quic.qlog import Qlog
from cryprq.quic.retry_tokens import RetryTokens
from cryprq.quic.waiting_line import Beginning, WaitingLine

WAITING_POLL: Final = 0.05
"""Seconds between looks at the waiting line while no pending connection ends."""
WAITING_PATIENCE: Final = 0.02
"""The line is served when there is nothing to read, so that handshakes which have begun are done first; but at least
one of it in so many seconds, whatever comes in."""
_CLIENT_CID_MIN: Final = 8  # RFC 9000, 7.2
_LONG_HEADER: Final = 0x80
_TICK: Final = 0.001
"""A loop may call a timer so much too early."""


class Observer(Protocol):
    """Told what happens, as an event name and fields: the ``info`` of a structlog logger is one."""

    def __call__(self, event: str, /, **fields: object) -> object: ...


@dataclass(frozen=True)
class EndpointLimits:
    """What strangers may cost."""

    max_inbound: int
    """Accepted connections that have not authenticated themselves yet."""
    backoff_base_ms: int
    backoff_max_ms: int
    backoff_free_failures: int = BACKOFF_FREE_FAILURES
    unvalidated_rate: float = UNVALIDATED_RATE


class Endpoint:
    """Accepts and dials connections on one bound UDP socket (IPv4, or IPv6 with or without dual stack).

    ``accept`` makes the handler of a connection whose QUIC handshake is complete; None: dial only. ``on_record`` gets
    data records (first byte < 0x40) that arrived here. The socket stays the caller's to close, after ``stop``. The
    clock is not the loop's, since uvloop's stands still during a callback and has milliseconds only.
    """

    def __init__(
        self,
        udp: DatagramSocket,
        *,
        limits: EndpointLimits,
        accept: Callable[[Connection], ConnectionHandler] | None,
        loop: asyncio.AbstractEventLoop,
        clock: Callable[[], Monotonic],
        on_record: Callable[[bytes, Address, str | None], None],
        observer: Observer,
        times: Times | None = None,
        qlog: Qlog | None = None,
    ) -> None:
        self.times = times if times is not None else Times()
        self.counters: Counter[str] = Counter()
        """Datagrams and connections that came to nothing, by reason; and datagrams sent and received."""
        self.clock = clock
        self._udp = udp
        self._intake = Intake(udp, clock, self.counters)
        self._accept = accept
        self._loop = loop
        self._on_record = on_record
        self._observer = observer
        certificate = make_certificate()
        self.certificate_der = certificate.der
        """The listener's certificate, fresh for this object."""
        self._server_configuration = server_configuration(certificate, self.times.idle_timeout)
        self._client_configuration = client_configuration(self.times.idle_timeout)
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
        self._by_cid: dict[bytes, Connection] = {}
        self._connections: dict[Connection, tuple[float, asyncio.TimerHandle] | None] = {}
        self._closed = ClosedTable(loop, clock, self.transmit)
        self._touched: dict[Connection, None] = {}
        self._flush_handle: asyncio.Handle | None = None
        self._accepting = accept is not None
        self._running = False

    # ---- for the node ----

    def start(self) -> None:
        """Begins to read the socket."""
        self._running = True
        self._loop.add_reader(self._udp.fileno(), self._readable)

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
        self._loop.remove_reader(self._udp.fileno())
        for handle in (self._flush_handle, self._serve_handle):
            if handle is not None:
                handle.cancel()
        self._flush_handle = self._serve_handle = None
        self._closed.clear()
        self._by_cid.clear()

    def dial(self, remote: Address, handler: ConnectionHandler, *, timeout: float = DIAL_TIMEOUT) -> Connection:
        """Begins a connection; ``connected`` or ``closed`` follows.

        Without a completed QUIC handshake within ``timeout`` seconds it ends as ``Ended.NO_ANSWER``; what comes after
        the handshake is the handler's to time. RuntimeError when the endpoint is not running.
        """
        if not self._running:
            raise RuntimeError("the endpoint is not running")
        now = self.clock()
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
        self._datagram(data, Address(*remote), local, self.clock())
        self._flush_soon()

    def allow_m2(self) -> bool:
        """Takes a token for one M2 (a KEM encapsulation and two signatures); False: refuse the M1 instead."""
        return self._responses.take(self.clock())

    @property
    def connections(self) -> int:
        return len(self._connections)

    @property
    def pending(self) -> int:
        """Accepted connections that have not authenticated themselves."""
        return self._admission.pending

    # ---- datagrams in ----

    def _readable(self) -> None:
        self._intake.read(self._datagram)
        self._flush()

    def _datagram(self, data: bytes, remote: Address, local: str | None, now: Monotonic) -> None:
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

    def _quic_datagram(self, data: bytes, remote: Address, local: str | None, now: Monotonic) -> None:
        is_long = bool(data[0] & _LONG_HEADER)
        if is_long:
            cid = data[6 : 6 + data[5]] if len(data) > 6 else b""
        else:
            cid = data[1 : 1 + CONNECTION_ID_SIZE]
        conn = self._by_cid.get(cid)
        if conn is not None:
            try:
                conn.receive(data, remote, local, now)
            except Exception as error:
                self.report_fault(error, conn)
                self._drop(conn)
        elif self._closed.receive(cid, remote):
            pass
        elif is_long and self._accepting:
            self._first_datagram(data, remote, local, now)
        else:
            self.counters["unknown_connection"] += 1

    def _first_datagram(self, data: bytes, remote: Address, local: str | None, now: Monotonic) -> None:
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
        source = source_of(remote)
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
            elif not validated and (self._intake.is_behind(now) or self._busy(now) or not self._beginnings.take(now)):
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

    def _busy(self, now: Monotonic) -> bool:
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
        now = self.clock()
        if now - self._served_at < WAITING_PATIENCE and self._udp.readable():
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

    def _may_begin(self, source: bytes, now: Monotonic) -> bool:
        return self._admission.has_place(source) and not self._backoff.remaining(source, now)

    def _open(self, beginning: Beginning, now: Monotonic) -> None:
        data, header, remote, local = beginning.data, beginning.header, beginning.remote, beginning.local
        validated = bool(header.token)
        quic = Quic(
            self._server_configuration,
            original_destination_connection_id=beginning.original,
            retry_source_connection_id=header.destination_cid if validated else None,
        )
        conn = Connection(
            self,
            quic,
            remote,
            local,
            is_client=False,
            validated=validated,
            handler=None,
            deadline=now + min(self.times.m1_timeout, self.times.pending_timeout),
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
        now = self.clock()
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
        farewell = [] if by_peer else [data for data, _ in datagrams]
        self._closed.add(conn.cids, conn.remote, conn.local, farewell, now)
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
        self._connections[conn] = due, self._loop.call_later(max(0.0, due - self.clock()), self._timer, conn)

    def _timer(self, conn: Connection) -> None:
        if conn not in self._connections:
            return
        self._connections[conn] = None
        try:
            due = conn.timer_at()
            now = self.clock()
            if due is not None and due <= now + _TICK:
                conn.handle_timer(max(due, now))
                self._flush()
            else:
                self._arm(conn)
        except Exception as error:
            self.report_fault(error, conn)
            self._drop(conn)

    # ---- the owner of its connections ----

    def make_handler(self, conn: Connection) -> ConnectionHandler | None:
        return None if self._accept is None else self._accept(conn)

    def touch(self, conn: Connection) -> None:
        self._touched[conn] = None
        self._flush_soon()

    def add_cid(self, cid: bytes, conn: Connection) -> None:
        self._by_cid[cid] = conn
        conn.cids.add(cid)

    def remove_cid(self, cid: bytes, conn: Connection) -> None:
        if self._by_cid.get(cid) is conn:
            del self._by_cid[cid]
        conn.cids.discard(cid)

    def became_validated(self, conn: Connection) -> None:
        self._admission.became_validated(conn.source)

    def settled(self, conn: Connection, *, authenticated: bool) -> None:
        self._admission.ended(conn.source, validated=conn.validated)
        self._serve_now()
        if authenticated:
            self._backoff.succeeded(conn.source)

    def count_failure(self, conn: Connection) -> None:
        wait = self._backoff.failed(conn.source, self.clock())
        if wait:
            self._observer("inbound_backoff", remote=str(conn.remote), wait_ms=round(wait * 1000))

    def report_fault(self, error: Exception, conn: Connection | None) -> None:
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
