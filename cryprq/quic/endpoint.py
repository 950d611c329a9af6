"""One QUIC endpoint that accepts and dials on the UDP socket of the event loop, or on several as if they were one.

Datagrams are routed by destination connection ID: to a live connection, to what is left of a closed one, or else to the
gate (``cryprq.quic.gate``), whose decision is carried out here. Data records that UDP_GRO mixed into a batch go to
``on_record``. Nothing that arrives may raise out of the reader.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from cryprq.address import Address, Local
from cryprq.protocol.clock import Monotonic, Realtime
from cryprq.protocol.constants import QUIC_FIRST_BYTE
from cryprq.protocol.frames import CloseCode
from cryprq.quic.adapter import Quic, client_configuration, destination, server_configuration
from cryprq.quic.certificate import make_certificate
from cryprq.quic.connection import Connection, ConnectionHandler, Times
from cryprq.quic.doorman import Doorman
from cryprq.quic.gate import Credentials, Drop, Gate, GateLimits, Negotiate, Open, Retry, Wait
from cryprq.quic.intake import DatagramSocket, Intake
from cryprq.quic.knocks import make_knock
from cryprq.quic.outlet import Outlet
from cryprq.quic.qlog import Qlog
from cryprq.quic.table import ConnectionTable
from cryprq.quic.waiting_line import Beginning


class Observer(Protocol):
    """Who is told what strangers come to, and of faults (``cryprq.telemetry.reporter.Reporter``)."""

    def inbound_backoff(self, remote: Address, wait: float) -> None: ...
    def other_protocol(self, remote: Address) -> None: ...
    def internal_error(self, error: Exception, *, remote: Address | None) -> None: ...


class Endpoint:
    """Accepts and dials connections on a bound UDP socket (IPv4, or IPv6 with or without dual stack), or on those of
    several groups: a connection stays with the group that its peer uses.

    ``credentials`` are by what dialers show that they have business here. ``accept`` makes the handler of a connection
    whose QUIC handshake is complete; None: dial only. ``on_record`` gets data records (first byte < 0x40) that arrived
    here. ``dials_by`` is the group that dialled connections use; ``listens`` says of a group whether others may connect
    there. The socket stays the caller's to close, after ``stop``. The clock is not the loop's, since uvloop's stands
    still during a callback and has milliseconds only; ``unix`` is what both ends of a knock have to agree on.
    """

    def __init__(
        self,
        udp: DatagramSocket,
        *,
        limits: GateLimits,
        accept: Callable[[Connection], ConnectionHandler] | None,
        loop: asyncio.AbstractEventLoop,
        credentials: Credentials,
        clock: Callable[[], Monotonic],
        unix: Callable[[], Realtime],
        on_record: Callable[[bytes, Address, Local], None],
        observer: Observer,
        times: Times | None = None,
        qlog: Qlog | None = None,
        dials_by: int = 0,
        listens: Callable[[int], bool] = lambda group: True,
    ) -> None:
        self.times = times if times is not None else Times()
        self.counters: Counter[str] = Counter()
        """Datagrams and connections that came to nothing, by reason; and datagrams sent and received."""
        self.clock = clock
        self._unix = unix
        self._udp = udp
        self._intake = Intake(udp, clock, self.counters)
        self._outlet = Outlet(udp, self.counters)
        self._accept = accept
        self._loop = loop
        self._on_record = on_record
        self._own_end = Local(None, dials_by)
        self._listens = listens
        self._observer = observer
        self._server_configuration = server_configuration(make_certificate(), self.times.idle_timeout)
        self._client_configuration = client_configuration(self.times.idle_timeout)
        for configuration in (self._server_configuration, self._client_configuration):
            configuration.quic_logger = qlog
        self._gate = Gate(limits, credentials)
        self._pending: dict[Connection, None] = {}
        self._doorman = Doorman(loop, clock, waiting=lambda: self._gate.waiting, busy=udp.readable, serve=self._serve)
        self._table = ConnectionTable(loop, clock, self._outlet, self.report_fault, qlog)
        self._accepting = accept is not None
        self._running = False

    # ---- for the node ----

    def start(self) -> None:
        """Begins to read the socket."""
        self._running = True
        self._loop.add_reader(self._udp.fileno(), self._readable)

    def replace_socket(self, replace: Callable[[], None]) -> None:
        """Has the descriptor made another socket's. Connections go on: to their peers they have changed their
        address. Raises what ``replace`` raises."""
        self._loop.remove_reader(self._udp.fileno())
        try:
            replace()
        finally:
            self._loop.add_reader(self._udp.fileno(), self._readable)

    def stop_accepting(self) -> None:
        """New connections get no answer from now on: what their dialers repeat reaches whoever has the port next."""
        self._accepting = False
        self._gate.send_away()
        self._doorman.stop()

    def stop(self) -> None:
        """Tells every peer (``CloseCode.SHUTDOWN``), calls every handler's ``closed`` and stops reading. Idempotent."""
        if not self._running:
            return
        self.stop_accepting()
        for conn in self._table:
            conn.close(CloseCode.SHUTDOWN, "the node stops")
        self._table.stop()
        self._running = False
        self._loop.remove_reader(self._udp.fileno())

    def dial(
        self,
        remote: Address,
        handler: ConnectionHandler,
        *,
        timeout: float,
        peer: bytes | None = None,
        token: bytes = b"",
    ) -> Connection:
        """Begins a connection; ``connected`` or ``closed`` follows.

        ``peer`` is the digest of the peer ID that is dialled, to knock with (None: as a stranger), ``token`` what that
        peer gave to this node, if anything.
        Without a completed QUIC handshake within ``timeout`` seconds it ends as ``Ended.NO_ANSWER``; what comes after
        the handshake is the handler's to time. RuntimeError when the endpoint is not running.
        """
        if not self._running:
            raise RuntimeError("the endpoint is not running")
        now = self.clock()
        remote = Address(*remote)
        knock = b"" if peer is None else make_knock(peer, self._unix())
        quic = Quic(self._client_configuration, first_destination=knock, token=token)
        quic.connect(remote, now)
        conn = Connection(
            self,
            quic,
            remote,
            self._own_end,
            is_client=True,
            validated=False,
            handler=handler,
            deadline=Monotonic(now + timeout),
            opened_at=now,
        )
        self._table.add(conn)
        self.add_cid(quic.host_cid, conn)
        self.touch(conn)
        return conn

    def receive(self, data: bytes, remote: Address, local: Local) -> None:
        """A datagram that a socket of the data plane received."""
        self._datagram(data, Address(*remote), local, self.clock())
        self._table.flush_soon()

    def transmit(self, data: bytes, remote: Address, local: Local) -> None:
        """Sends a datagram that belongs to no connection."""
        self._outlet.transmit(data, remote, local)

    def allow_m2(self, conn: Connection) -> bool:
        """Takes a token for one M2 (a KEM encapsulation and two signatures); False: refuse the M1 instead."""
        return self._gate.allow_m2(conn.rank, self.clock())

    def token_for(self, peer: bytes) -> bytes:
        """What a peer that has authenticated itself (the digest of its ID) shows the next time that it dials."""
        return self._gate.token_for(peer, self._unix())

    @property
    def connections(self) -> int:
        return len(self._table)

    @property
    def pending(self) -> int:
        """Accepted connections that have not authenticated themselves."""
        return self._gate.pending

    # ---- datagrams in ----

    def _readable(self) -> None:
        self._intake.read(self._datagram)
        self._table.flush()

    def _datagram(self, data: bytes, remote: Address, local: Local, now: Monotonic) -> None:
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

    def _quic_datagram(self, data: bytes, remote: Address, local: Local, now: Monotonic) -> None:
        is_long, cid = destination(data)
        if self._table.receive(cid, data, remote, local, now):
            return
        if is_long and self._accepting and self._listens(local.group):
            self._first_datagram(data, remote, local, now)
        else:
            self.counters["unknown_connection"] += 1

    def _first_datagram(self, data: bytes, remote: Address, local: Local, now: Monotonic) -> None:
        match self._gate.decide(data, remote, local, now, self._unix(), behind=self._intake.is_behind(now)):
            case Open(beginning):
                self._open(beginning, now)
            case Retry(packet):
                self.counters["retry"] += 1
                self.transmit(packet, remote, local)
            case Negotiate(packet):
                self.counters["version"] += 1
                self.transmit(packet, remote, local)
            case Wait(displaced):
                self.counters["waited"] += 1
                if displaced:
                    self.counters["limit"] += 1
                self._doorman.wake()
            case Drop(reason):
                self.counters[reason] += 1

    def _serve(self, now: Monotonic) -> bool:
        """Lets the next one in line begin."""
        try:
            beginning = self._gate.next_in_line(now)
            if beginning is None:
                return self._make_room(now)
            self._open(beginning, now)
            self._table.flush()
        except Exception as error:
            self.report_fault(error, None)
            return False
        return True

    def _make_room(self, now: Monotonic) -> bool:
        """Ends the pending connection that is most overdue, if that makes a place for somebody who waits. Not while
        something is to be read, which may be what it owes."""
        if self._udp.readable() or self._intake.is_behind(now):
            return False
        hindering = (
            conn
            for conn in self._pending
            if conn.overdue(now) > 0 and self._gate.is_in_the_way(conn.source, conn.rank, now)
        )
        conn = max(hindering, key=lambda conn: conn.overdue(now), default=None)
        if conn is None:
            return False
        self.counters["gave_way"] += 1
        conn.give_way()
        self._table.flush()
        return True

    def _open(self, beginning: Beginning, now: Monotonic) -> None:
        data, header, remote, local = beginning.data, beginning.header, beginning.remote, beginning.local
        validated, rank = beginning.validated, beginning.rank
        self.counters[f"opened_{rank.name.lower()}"] += 1
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
            rank=rank,
            handler=None,
            deadline=Monotonic(now + self.times.pending_timeout),
            opened_at=now,
        )
        self._table.add(conn)
        self._pending[conn] = None
        self._gate.opened(beginning, self._unix())
        self.add_cid(header.destination_cid, conn)
        self.add_cid(quic.host_cid, conn)
        self._table.receive(quic.host_cid, data, remote, local, now)
        if conn.ended is None and not quic.started:
            self.counters["bad_initial"] += 1
            conn.failed()
            self._table.drop(conn)

    def forsake_all(self) -> None:
        """Forgets every connection without a word to its peer."""
        for conn in self._table:
            self._table.drop(conn)

    # ---- the owner of its connections ----

    def make_handler(self, conn: Connection) -> ConnectionHandler | None:
        return None if self._accept is None else self._accept(conn)

    def touch(self, conn: Connection) -> None:
        self._table.touch(conn)

    def add_cid(self, cid: bytes, conn: Connection) -> None:
        self._table.add_cid(cid, conn)

    def remove_cid(self, cid: bytes, conn: Connection) -> None:
        self._table.remove_cid(cid, conn)

    def became_validated(self, conn: Connection) -> None:
        self._gate.became_validated(conn.source, conn.rank)

    def settled(self, conn: Connection, *, authenticated: bool) -> None:
        del self._pending[conn]
        self._gate.settled(conn.source, conn.rank, validated=conn.validated, authenticated=authenticated)
        self._doorman.wake()

    def count_failure(self, conn: Connection) -> None:
        self._tell_backoff(conn, self._gate.failed(conn.source, self.clock()))

    def count_refusal(self, conn: Connection, identity: bytes) -> None:
        self._tell_backoff(conn, self._gate.refused(conn.remote, identity, self.clock(), self._unix()))

    def _tell_backoff(self, conn: Connection, wait: float) -> None:
        if wait:
            self._observer.inbound_backoff(conn.remote, wait)

    def report_other_protocol(self, conn: Connection) -> None:
        self.counters["protocol"] += 1
        self._observer.other_protocol(conn.remote)

    def report_fault(self, error: Exception, conn: Connection | None) -> None:
        self.counters["fault"] += 1
        self._observer.internal_error(error, remote=None if conn is None else conn.remote)
