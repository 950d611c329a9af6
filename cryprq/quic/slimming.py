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
from aioquic.quic import connection
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoPair
from aioquic.quic.recovery import QuicPacketSpace

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
    anything.tls = _FinishedTls(conn.tls.state)
    anything._QuicConnection__frame_handlers = _FrameHandlers(conn, anything._QuicConnection__frame_handlers)
