"""Dialers without a node: as many as a test or a benchmark likes in one process, each with an identity of its own.

They speak the real protocol with the package's own endpoint and state machine, and can stop in the middle of it, which
a node never does. Records come from the slow twin (``oracle``), so no TUN and no data plane is needed.
"""

import asyncio
import hashlib
import socket
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from enum import IntEnum
from typing import Self

from cryprq.address import Address, Local
from cryprq.linux.clock import boottime, monotonic, realtime
from cryprq.linux.udp import UdpSocket
from cryprq.peer_id import PeerId
from cryprq.peers.indices import IndexPool
from cryprq.protocol.actions import Install
from cryprq.protocol.constants import (
    AEAD_AES_256_GCM,
    DIAL_TIMEOUT,
    KEM_X25519_MLKEM768,
    MESSAGE_PING,
    PROMOTE_TIMEOUT,
)
from cryprq.protocol.frames import CloseCode, FrameType, encode
from cryprq.protocol.handshake import HandshakeError, Initiator
from cryprq.protocol.identity import Identity
from cryprq.protocol.parameters import Parameters
from cryprq.protocol.session import Session
from cryprq.quic.connection import Connection
from cryprq.quic.endpoint import Endpoint
from cryprq.quic.gate import Credentials, GateLimits
from lab.oracle import OVERHEAD, Header, RecordSealer
from lab.traffic import make_room

RESEND = 1.0
"""Seconds between empty records while the listener has not answered one."""
_PING = bytes((MESSAGE_PING, 0, 0))
"""A message without a body (protocol, section 4)."""


class Until(IntEnum):
    """How far a handshake goes before the dialer falls silent."""

    QUIC = 0
    """The QUIC handshake is complete."""
    M1 = 1
    """M1 is sent."""
    M3 = 3
    """M3 is sent, and M4 is not looked at."""
    RECORD = 4
    """All of it: the listener has answered the first record of the session."""


def identity_of(seed: int, number: int) -> Identity:
    """The identity with that number of a family of identities that is the same in every process."""
    return Identity.from_seed(hashlib.sha256(b"%d %d" % (seed, number)).digest())


_NOBODY = GateLimits(max_inbound=0, backoff_base_ms=1, backoff_max_ms=1)
"""Who may connect to an endpoint that only dials."""
_NO_CREDENTIALS = Credentials(peer_id=bytes(32), token_key=bytes(32))


class _Socket(UdpSocket):
    """One that can fall silent."""

    silent = False

    def send(self, data: bytes, remote: Address, local: Local) -> bool:
        return self.silent or super().send(data, remote, local)

    def send_all(self, datagrams: Sequence[bytes], remote: Address, local: Local) -> bool:
        return self.silent or super().send_all(datagrams, remote, local)


class _Complaints:
    """A fault of this program's own goes to stderr; nothing else is said by an endpoint that only dials."""

    def other_protocol(self, remote: Address) -> None:
        """Nobody dials a crowd that speaks anything else."""

    def inbound_backoff(self, remote: Address, wait: float) -> None:
        """Nobody is let in, so nobody is slowed down."""

    def internal_error(self, error: Exception, *, remote: Address | None) -> None:
        traceback.print_exception(error)


class Dial:
    """One handshake as initiator: a ``ConnectionHandler``. ``outcome`` is None until it is over."""

    def __init__(
        self,
        dialers: "Dialers",
        identity: Identity,
        until: Until,
        wrong_knock: bool,
        changed: Callable[[], None],
        timeout: float | None,
    ) -> None:
        """``changed`` is called when QUIC is up, when there is an outcome, and when the connection ends after that."""
        self.session: Session | None = None
        self.token = b""
        """What M4 brought for the next dial."""
        self.outcome: str | None = None
        """``done``: it went as far as it should; else how it failed."""
        self.answered = False
        """The QUIC handshake was completed."""
        self.ended = False
        """The connection is gone."""
        self.connection: Connection | None = None
        self.seconds = 0.0
        """From its first datagram to the outcome."""
        self._dialers = dialers
        self._identity = identity
        self._until = until
        self._wrong_knock = wrong_knock
        self._changed = changed
        self._timeout = timeout
        self._patient = False
        self._initiator: Initiator | None = None
        self._record = b""
        self._sealer: RecordSealer | None = None
        self._started = time.monotonic()
        self._over = asyncio.get_running_loop().create_future()

    async def wait(self, timeout: float) -> str:
        """Its outcome; ``timeout`` if there is none in so many seconds."""
        try:
            await asyncio.wait_for(asyncio.shield(self._over), timeout)
        except TimeoutError:
            self._end("timeout")
        assert self.outcome is not None
        return self.outcome

    def abandon(self) -> None:
        """Gives up: the listener is told."""
        self._end("abandoned")
        if self.connection is not None:
            self.connection.close(CloseCode.TIMEOUT)

    # ---- ConnectionHandler ----

    def connected(self, connection: Connection) -> None:
        self.answered = True
        self._changed()
        if self._timeout is not None:
            asyncio.get_running_loop().call_later(self._timeout, self._timed_out)
        if self._until is Until.QUIC:
            self._end("done")
            return
        binding = bytes(32) if self._wrong_knock else connection.channel_binding
        self._initiator = Initiator(
            self._identity,
            self._dialers.peer_id,
            binding,
            lanes=1,
            aead_offer=(AEAD_AES_256_GCM,),
            kem=KEM_X25519_MLKEM768,
            new_index=self._dialers.indices.take,
            parameters=Parameters(),
        )
        connection.send(encode(FrameType.INIT, self._initiator.message1()))
        if self._until is Until.M1 and not self._wrong_knock:
            self._end("done")

    def frame(self, connection: Connection, frame_type: FrameType, header: bytes, body: bytes) -> None:
        if self.outcome is not None or self._initiator is None:
            return
        try:
            if frame_type is FrameType.RESPONSE:
                connection.send(encode(FrameType.AUTH, self._initiator.receive_message2(body)))
                if self._until is Until.M3:
                    self._end("done")
            elif frame_type is FrameType.ACCEPT:
                self._accepted(body)
            else:
                self._end(f"unexpected {frame_type.name}")
        except HandshakeError as error:
            self._end(error.reason)
            connection.close(error.code)

    def closed(self, connection: Connection, code: int, reason: str, by_peer: bool) -> None:
        self.ended = True
        if self.outcome is None:
            self._end("refused" if by_peer and code == CloseCode.REFUSED else reason or f"code {code}")
        else:
            self._changed()

    # ---- the session ----

    def received(self) -> None:
        """The listener has answered with a record of the session."""
        self._end("done")

    def _accepted(self, body: bytes) -> None:
        now = boottime()
        assert self._initiator is not None
        accepted = self._initiator.receive_message4(body, now)
        session, self.token = accepted.session, accepted.parameters.token
        if session is None:
            self._end("duplicate")
            return
        self.session = session
        for action in session.start(now):
            if isinstance(action, Install):
                keys = action.keys
                sealer = RecordSealer(bytes(keys.tx_secrets[:32]), bytes(keys.tx_secrets[32:44]), 0, keys.tx_index)
                self._sealer = sealer
                self._record = sealer.seal(b"")  # repeated as it is: the listener takes one of them
                self._dialers.waiting[keys.rx_index] = self
        self._send_record()
        if every := accepted.parameters.keepalive:
            assert self.connection is not None
            self.connection.relax()
            asyncio.get_running_loop().call_later(every, self._keep_alive, every)

    def _keep_alive(self, every: float) -> None:
        """As a node's data plane does."""
        if self._sealer is not None and not self.ended:
            self._dialers.send(self._sealer.seal(_PING))
            asyncio.get_running_loop().call_later(every, self._keep_alive, every)

    def _send_record(self) -> None:
        if self.outcome is None:
            self._dialers.send(self._record)
            asyncio.get_running_loop().call_later(RESEND, self._send_record)

    def _timed_out(self) -> None:
        """The handshake, or with a session its first record, took too long."""
        if self.outcome is None and self.connection is not None:
            if self.session is not None and not self._patient:
                self._patient = True
                asyncio.get_running_loop().call_later(PROMOTE_TIMEOUT, self._timed_out)
                return
            self._end("timeout")
            self.connection.close(CloseCode.TIMEOUT)

    def _end(self, outcome: str) -> None:
        if self.outcome is None:
            self.outcome = outcome
            self.seconds = time.monotonic() - self._started
            self._over.set_result(None)
            self._changed()


class Dialers:
    """All dialers of one UDP socket. A context manager on a running loop; its end closes every connection."""

    def __init__(self, listener: Address, peer_id: PeerId, source: str | None = None) -> None:
        """``source`` is the address to dial from; None: the kernel's choice."""
        self.peer_id = peer_id
        self.indices = IndexPool()
        self.waiting: dict[int, Dial] = {}
        """Dials that wait for a record, by its receiver index."""
        self._listener = listener
        family = socket.AF_INET6 if listener.is_ipv6 else socket.AF_INET
        self._sock = socket.socket(family, socket.SOCK_DGRAM)
        make_room(self._sock, 4 << 20)
        self._sock.bind((source or ("::" if listener.is_ipv6 else "0.0.0.0"), 0))
        self._udp = _Socket(self._sock, segment=True)
        self._endpoint = Endpoint(
            self._udp,
            limits=_NOBODY,
            accept=None,
            loop=asyncio.get_running_loop(),
            credentials=_NO_CREDENTIALS,
            clock=monotonic,
            unix=realtime,
            on_record=self._on_record,
            observer=_Complaints(),
        )

    def __enter__(self) -> Self:
        self._endpoint.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._endpoint.stop()
        self._sock.close()

    @property
    def counters(self) -> Counter[str]:
        """Those of the endpoint: datagrams ``sent`` and ``received`` among them."""
        return self._endpoint.counters

    def dial(
        self,
        identity: Identity,
        until: Until = Until.RECORD,
        *,
        wrong_knock: bool = False,
        no_knock: bool = False,
        token: bytes = b"",
        timeout: float | None = None,
        changed: Callable[[], None] = lambda: None,
    ) -> Dial:
        """Begins a handshake. The connection stays open when it is over, as a node's does.

        ``no_knock``: none in the first datagram, as of an older node; ``wrong_knock``: and a wrong one in M1;
        ``token``: what the listener gave in an M4.
        ``timeout`` is for the QUIC handshake and then again for ours, as in a node; without, a node's usual one is for
        the former, and nothing for the latter.
        """
        dial = Dial(self, identity, until, wrong_knock, changed, timeout)
        dial.connection = self._endpoint.dial(
            self._listener,
            dial,
            timeout=timeout or DIAL_TIMEOUT,
            peer=None if wrong_knock or no_knock else self.peer_id.digest,
            token=token,
        )
        return dial

    def send(self, record: bytes) -> None:
        """A data record to the listener."""
        self._endpoint.transmit(record, self._listener, Local())

    def vanish(self) -> None:
        """From now on nothing is sent any more, not even that the connections end."""
        self._udp.silent = True

    def _on_record(self, data: bytes, remote: Address, local: Local) -> None:
        if len(data) >= OVERHEAD and (dial := self.waiting.pop(Header.decode(data).index, None)) is not None:
            dial.received()
