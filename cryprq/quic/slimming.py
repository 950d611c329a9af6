"""What aioquic's connection keeps for ever although only the handshake needs it, or each connection although all could
share it.

A listener keeps a connection for each peer, for months. Once the handshake is confirmed (RFC 9001, 4.1.2) the keys of
Initial and Handshake packets are gone, and with them every way to use what belongs to these packets: streams, packet
number spaces, buffers, and TLS itself, since there are no session tickets here.
"""

import functools
from types import MethodType
from typing import TYPE_CHECKING, Any, Final, NoReturn

from aioquic import tls
from aioquic._crypto import AEAD, HeaderProtection
from aioquic.quic import connection
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CIPHER_SUITES, CryptoContext, CryptoPair, derive_key_iv_hp
from aioquic.quic.recovery import MAX_ACK_RANGES, QuicPacketNumberWindow, QuicPacketSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from aioquic._buffer import Buffer

# 33 sets for each connection, of which there are four different ones.
vars(connection)["EPOCHS"] = functools.cache(connection.EPOCHS)
# Members of an Enum hash their name, in Python: 300 times a handshake. They are equal to themselves only.
setattr(tls.Epoch, "__hash__", object.__hash__)  # noqa: B010 (mypy takes it for the assignment to a method)

_OVER: Final = (tls.Epoch.INITIAL, tls.Epoch.HANDSHAKE)
_NO_KEYS: Final = CryptoPair()
"""In the place of keys that were discarded: says so to whoever asks (``KeyUnavailableError``), as theirs did."""
_NO_SPACE: Final = QuicPacketSpace()
"""In the place of packet number spaces that were discarded. Nothing is noted in it: no packet gets so far."""
_NO_SPACE.discarded = True


class _FinishedTls:
    """In the place of the TLS context, when TLS has nothing more to say.

    ``_receive_buffer`` is empty: what ``Quic.buffered`` counts.
    """

    __slots__ = ("state",)

    _receive_buffer = b""

    def __init__(self, state: tls.State) -> None:
        self.state = state

    def handle_message(self, input_data: bytes, output_buf: "Mapping[tls.Epoch, Buffer]") -> NoReturn:
        """A peer of ours sends no message after the handshake: no ticket, no KeyUpdate (RFC 9001, 6)."""
        raise tls.AlertUnexpectedMessage("the handshake is over")


_HANDLERS: "Final[dict[int, tuple[Callable[..., None], frozenset[tls.Epoch]]]]" = {}
"""By type of frame: who handles it, not bound to a connection, and the epochs in which it is allowed."""


class _FrameHandlers:
    """How a connection handles each type of frame, and where it may be: a method is bound when it is looked up."""

    __slots__ = ("_connection",)

    def __init__(self, conn: QuicConnection, bound: "Mapping[int, tuple[MethodType, frozenset[tls.Epoch]]]") -> None:
        self._connection = conn
        if not _HANDLERS:
            _HANDLERS.update((number, (method.__func__, epochs)) for number, (method, epochs) in bound.items())

    def __getitem__(self, number: int) -> "tuple[MethodType, frozenset[tls.Epoch]]":
        function, epochs = _HANDLERS[number]
        return MethodType(function, self._connection), epochs


class _Queue(list[Any]):
    """In the place of a deque that is nearly always empty, and takes 760 bytes for that."""

    __slots__ = ()

    def popleft(self) -> Any:
        return self.pop(0)


class _Challenges(_Queue):
    """Likewise, of the last few challenges that were sent to find out whether a path works."""

    __slots__ = ()

    def append(self, challenge: bytes) -> None:
        del self[: max(0, len(self) + 1 - connection.MAX_LOCAL_CHALLENGES)]
        super().append(challenge)


class _RareCiphers:
    """In the place of a direction's two ciphers, which are 3 KiB of OpenSSL's and come to use a few times in a minute:
    made for each packet, which takes microseconds."""

    __slots__ = ("_names", "_secrets")

    def __init__(self, context: CryptoContext) -> None:
        assert context.cipher_suite is not None and context.secret is not None and context.version is not None
        self._names = CIPHER_SUITES[context.cipher_suite]
        self._secrets = derive_key_iv_hp(
            cipher_suite=context.cipher_suite, secret=context.secret, version=context.version
        )

    def _aead(self) -> AEAD:
        return AEAD(self._names[1], *self._secrets[:2])

    def _protection(self) -> HeaderProtection:
        return HeaderProtection(self._names[0], self._secrets[2])

    def decrypt(self, data: bytes, associated_data: bytes, packet_number: int) -> bytes:
        return self._aead().decrypt(data, associated_data, packet_number)

    def encrypt(self, data: bytes, associated_data: bytes, packet_number: int) -> bytes:
        return self._aead().encrypt(data, associated_data, packet_number)

    def apply(self, plain_header: bytes, protected_payload: bytes) -> bytes:
        return self._protection().apply(plain_header, protected_payload)

    def remove(self, packet: bytes, pn_offset: int) -> tuple[bytes, int]:
        return self._protection().remove(packet, pn_offset)


class _Window:
    """In the place of the numbers of the packets that came last: a set of 256 takes 24 KiB, these bits 50 bytes."""

    __slots__ = ("_bits", "_next")

    _SIZE: Final = 2 * MAX_ACK_RANGES

    def __init__(self, received: QuicPacketNumberWindow) -> None:
        self._next = 0
        self._bits = 0
        """The lowest is of the packet before the next."""
        for number in sorted(received._received):
            self.add(number)

    def add(self, packet_number: int) -> None:
        """It has come."""
        age = self._next - 1 - packet_number
        if age < 0:
            self._bits = (self._bits << -age | 1) & ((1 << self._SIZE) - 1)
            self._next = packet_number + 1
        elif age < self._SIZE:
            self._bits |= 1 << age

    def __contains__(self, packet_number: int) -> bool:
        age = self._next - 1 - packet_number
        return age >= self._SIZE or (age >= 0 and bool(self._bits >> age & 1))


def _share(conn: QuicConnection) -> None:
    """What is a number, a truth or nothing, and the same in nearly all connections, is looked up in their class: of a
    hundred attributes half remain. One that changes is the connection's own again."""
    kind = type(conn)
    own = {}
    for name, value in vars(conn).items():
        if value is None or type(value) in (bool, int):
            if name not in vars(kind):
                setattr(kind, name, value)
            if vars(kind)[name] is value:
                continue
        own[name] = value
    conn.__dict__ = own


def slim_down(conn: QuicConnection) -> None:
    """Lets go of what a connection whose handshake is confirmed has no more use for. A listener's has dropped its
    Initial keys by then, and a dialer's too (RFC 9001, 4.9)."""
    anything: Any = conn  # for what has other types in aioquic
    for epoch in _OVER:
        conn._discard_epoch(epoch)
        conn._cryptos[epoch] = _NO_KEYS
        conn._spaces[epoch] = _NO_SPACE
        del conn._crypto_streams[epoch]
    conn._cryptos_initial = dict.fromkeys(conn._cryptos_initial, _NO_KEYS)
    conn._cryptos[tls.Epoch.ZERO_RTT] = _NO_KEYS  # never had any
    conn._loss.spaces = [conn._spaces[tls.Epoch.ONE_RTT]]
    conn._crypto_buffers = {}
    anything._events = _Queue(conn._events)
    anything._datagrams_pending = ()  # of DATAGRAM frames (RFC 9221), which are not offered
    for path in conn._network_paths:
        vars(path)["remote_challenges"] = _Queue(path.remote_challenges)
        vars(path)["local_challenges"] = _Challenges(path.local_challenges)
    pair, space = conn._cryptos[tls.Epoch.ONE_RTT], conn._spaces[tls.Epoch.ONE_RTT]
    for context in (pair.recv, pair.send):
        vars(context)["aead"] = vars(context)["hp"] = _RareCiphers(context)
    vars(space)["received_packets"] = _Window(space.received_packets)
    anything.tls = _FinishedTls(conn.tls.state)
    anything._QuicConnection__frame_handlers = _FrameHandlers(conn, anything._QuicConnection__frame_handlers)
    _share(conn)
