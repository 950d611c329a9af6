"""What the tests of the QUIC endpoint share: endpoints on loopback, handlers that take notes, a relay in between."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field, fields
from typing import Any

import uvloop

from cryprq.address import Address, Local
from cryprq.config.node_config import NodeConfig
from cryprq.linux.clock import monotonic, realtime
from cryprq.linux.udp import UdpSocket
from cryprq.protocol.frames import FrameType, encode
from cryprq.quic.connection import Connection, ConnectionHandler, Times
from cryprq.quic.endpoint import Endpoint
from cryprq.quic.gate import Credentials, Gate, GateLimits
from cryprq.quic.knocks import make_knock
from cryprq.quic.qlog import Qlog

M1 = encode(FrameType.INIT, b"1" * 1320)
M2 = encode(FrameType.RESPONSE, b"2" * 6500)
M3 = encode(FrameType.AUTH, b"3" * 5500)
M4 = encode(FrameType.ACCEPT, b"4" * 60)
_TIMES = frozenset(each.name for each in fields(Times))
LIMITS = {name: getattr(NodeConfig, name) for name in ("max_inbound", "backoff_base_ms", "backoff_max_ms")}
"""What a node's endpoint has by default."""
CREDENTIALS = Credentials(peer_id=b"p" * 32, token_key=b"k" * 32)
"""Those of every endpoint here, which all of them know."""


def knock() -> bytes:
    """The first destination connection ID of somebody who knows who listens here."""
    return make_knock(CREDENTIALS.peer_id, realtime())


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Makes a coroutine function a test, on a fresh loop as the node uses it, whose unhandled exceptions fail it."""
    return run_on(uvloop.new_event_loop)(test)


def run_on(
    loop_factory: Callable[[], asyncio.AbstractEventLoop],
) -> Callable[[Callable[[], Coroutine[Any, Any, None]]], Callable[[], None]]:
    """``run`` on another kind of loop."""
    return lambda test: _wrap(test, loop_factory)


def _wrap(
    test: Callable[[], Coroutine[Any, Any, None]], loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> Callable[[], None]:

    def wrapper() -> None:
        faults: list[dict[str, Any]] = []

        async def main() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
            await asyncio.wait_for(test(), 70)

        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(main())
        assert not faults

    wrapper.__name__ = test.__name__
    wrapper.__doc__ = test.__doc__
    return wrapper


async def until(condition: Callable[[], object], within: float = 30.0) -> None:
    """Waits for a condition; the assertion fails if it does not come true in time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while not condition():
        assert loop.time() < deadline, "the condition did not come true"
        await asyncio.sleep(0.003)


@dataclass(eq=False)
class Notes:
    """A handler that remembers everything and does nothing by itself."""

    conn: Connection | None = None
    frames: list[tuple[FrameType, bytes]] = field(default_factory=list)
    ended: tuple[int, str, bool] | None = None
    closes: int = 0
    on_connected: Callable[[Connection], None] = lambda conn: None
    on_frame: Callable[[Connection, FrameType], None] = lambda conn, frame_type: None

    def connected(self, conn: Connection) -> None:
        assert self.conn is None
        self.conn = conn
        self.on_connected(conn)

    def frame(self, conn: Connection, frame_type: FrameType, header: bytes, body: bytes) -> None:
        assert header == bytes((frame_type,)) + len(body).to_bytes(3, "big")
        assert self.ended is None
        self.frames.append((frame_type, body))
        self.on_frame(conn, frame_type)

    def closed(self, conn: Connection, code: int, reason: str, by_peer: bool) -> None:
        self.ended = (code, reason, by_peer)
        self.closes += 1


def greet(conn: Connection) -> None:
    """A dialer that sends M1 at once."""
    conn.send(M1)


def answer(conn: Connection, frame_type: FrameType) -> None:
    """Either end of the whole exchange, with the real sizes."""
    match frame_type:
        case FrameType.INIT:
            conn.send(M2)
        case FrameType.RESPONSE:
            conn.send(M3)
        case FrameType.AUTH:
            conn.authenticated()
            conn.send(M4)


@dataclass(eq=False)
class _Notebook:
    """An observer that writes everything down."""

    events: list[tuple[str, dict[str, object]]]

    def other_protocol(self, remote: Address) -> None:
        self.events.append(("other_protocol", {"remote": remote}))

    def inbound_backoff(self, remote: Address, wait: float) -> None:
        self.events.append(("inbound_backoff", {"remote": remote, "wait": wait}))

    def internal_error(self, error: Exception, *, remote: Address | None) -> None:
        self.events.append(("internal_error", {"error": error, "remote": remote}))


@dataclass(eq=False)
class Rig:
    """One endpoint on a socket of its own."""

    endpoint: Endpoint
    address: Address
    sock: socket.socket
    accepted: list[Notes]
    records: list[tuple[bytes, Address, Local]]
    events: list[tuple[str, dict[str, object]]]
    make: Callable[[], ConnectionHandler] | None = None

    def dial(
        self,
        to: "Rig | Address",
        *,
        timeout: float = 5.0,
        peer: bytes | None = CREDENTIALS.peer_id,
        token: bytes = b"",
        **callbacks: Any,
    ) -> Notes:
        notes = Notes(**callbacks)
        remote = to.address if isinstance(to, Rig) else to
        self.endpoint.dial(remote, notes, timeout=timeout, peer=peer, token=token)
        return notes

    @property
    def routes(self) -> int:
        """How many connection IDs it knows."""
        table = self.endpoint._table
        return len(table._by_cid) + len(table._closed._by_cid)

    @property
    def gate(self) -> Gate:
        """Its gate."""
        return self.endpoint._gate


class Rigs:
    """Makes endpoints and stops them all at the end."""

    def __init__(self) -> None:
        self.all: list[Rig] = []

    def make(
        self,
        host: str = "127.0.0.1",
        *,
        dial_only: bool = False,
        bind: str | None = None,
        on_connected: Callable[[Connection], None] = lambda conn: None,
        on_frame: Callable[[Connection, FrameType], None] = lambda conn, frame_type: None,
        qlog: Qlog | None = None,
        **limits: Any,
    ) -> Rig:
        """``bind`` is what the socket binds, ``host`` what dialers are to use."""
        bind = bind if bind is not None else host
        sock = socket.socket(socket.AF_INET6 if ":" in bind else socket.AF_INET, socket.SOCK_DGRAM)
        if ":" in bind:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        sock.bind((bind, 0))
        accepted: list[Notes] = []
        records: list[tuple[bytes, Address, Local]] = []
        events: list[tuple[str, dict[str, object]]] = []

        def accept(conn: Connection) -> ConnectionHandler:
            accepted.append(Notes(on_connected=on_connected, on_frame=on_frame))
            return accepted[-1]

        endpoint = Endpoint(
            UdpSocket(sock),
            limits=GateLimits(**LIMITS | {name: value for name, value in limits.items() if name not in _TIMES}),
            times=Times(**{name: value for name, value in limits.items() if name in _TIMES}),
            accept=None if dial_only else accept,
            loop=asyncio.get_running_loop(),
            credentials=CREDENTIALS,
            clock=monotonic,
            unix=realtime,
            on_record=lambda data, remote, local: records.append((data, remote, local)),
            observer=_Notebook(events),
            qlog=qlog,
        )
        endpoint.start()
        rig = Rig(endpoint, Address(host, sock.getsockname()[1]), sock, accepted, records, events)
        self.all.append(rig)
        return rig


@contextlib.asynccontextmanager
async def rigs() -> AsyncIterator[Rigs]:
    made = Rigs()
    try:
        yield made
        for rig in made.all:
            assert rig.endpoint.counters["fault"] == 0, rig.events
    finally:
        for rig in made.all:
            rig.endpoint.stop()
            rig.sock.close()


class Relay:
    """A NAT between dialer and listener: forwards both ways, after ``delay`` seconds, can change its outer address, and
    can lose packets."""

    def __init__(self, to: Address, *, delay: float = 0.0) -> None:
        self._delay = delay
        self._to = to
        self._loop = asyncio.get_running_loop()
        self._inner = self._open(self._from_inner)
        self._outer = self._open(self._from_outer)
        self._dialer: Any = None
        self.address = Address("127.0.0.1", self._inner.getsockname()[1])
        self._closed = False
        self.lose_to_listener = False
        self.lose_to_dialer = False
        self.seen: list[bytes] = []
        """What went to the listener."""

    @property
    def outer_port(self) -> int:
        return int(self._outer.getsockname()[1])

    def move(self) -> None:
        """The outer address changes, as when a NAT forgets its mapping."""
        self._shut(self._outer)
        self._outer = self._open(self._from_outer)

    def close(self) -> None:
        self._closed = True
        self._shut(self._inner)
        self._shut(self._outer)

    def _open(self, reader: Callable[[], None]) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        self._loop.add_reader(sock.fileno(), reader)
        return sock

    def _shut(self, sock: socket.socket) -> None:
        self._loop.remove_reader(sock.fileno())
        sock.close()

    def _from_inner(self) -> None:
        data, self._dialer = self._inner.recvfrom(65535)
        self.seen.append(data)
        if not self.lose_to_listener:
            self._later(lambda: self._outer.sendto(data, tuple(self._to[:2])))

    def _from_outer(self) -> None:
        data, _ = self._outer.recvfrom(65535)
        if not self.lose_to_dialer:
            self._later(lambda: self._inner.sendto(data, self._dialer))

    def _later(self, send: Callable[[], object]) -> None:
        if not self._delay:
            send()
            return
        self._loop.call_later(self._delay, lambda: self._closed or send())
