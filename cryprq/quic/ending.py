"""How a connection ended, and in which words that is told."""

from enum import StrEnum
from typing import Final

from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import AlertDescription

from cryprq.protocol.constants import ALPN

TRANSPORT_CODE: Final = -1
"""``code`` of ``closed`` where no application error code was given: QUIC itself ended the connection."""
REASON_MAX: Final = 64
"""Characters of a reason that is sent or believed."""
OTHER_VERSION: Final = "it runs another version of CrypRQ, or something else"
_NO_COMMON_ALPN: Final = QuicErrorCode.CRYPTO_ERROR + AlertDescription.no_application_protocol


class Ended(StrEnum):
    """How a connection ended (``Connection.ended``)."""

    LOCAL = "local"
    """This side closed it, with the code that ``closed`` reports."""
    PEER = "peer"
    """The peer closed it, with the application error code that ``closed`` reports (``TRANSPORT_CODE`` if it did so
    before the QUIC handshake was complete)."""
    NO_ANSWER = "no_answer"
    """Dialled, and no QUIC handshake within the time: nothing listens there, or something filters it."""
    PROTOCOL = "protocol"
    """Dialled, and whoever answers does not speak QUIC version 1 with our ALPN."""
    IDLE = "idle"
    """It was up, and then nothing came any more."""
    TRANSPORT = "transport"
    """A QUIC error, of either side."""


def explain(event: ConnectionTerminated, by_peer: bool, *, is_client: bool, connected: bool) -> tuple[Ended, int, str]:
    """How it ended, ``code`` and ``reason`` for what QUIC says of a connection that this side did not close.

    ``connected``: the QUIC handshake was complete.
    """
    # What a peer says goes into logs: short and printable.
    said = "".join(c for c in event.reason_phrase[:REASON_MAX] if c.isascii() and c.isprintable())
    if event.frame_type is None:
        return Ended.PEER, event.error_code, said
    if by_peer and event.error_code == QuicErrorCode.APPLICATION_ERROR:
        # An application's close before the handshake is complete loses its code (RFC 9000, 10.2.3).
        return Ended.PEER, TRANSPORT_CODE, "closed during the QUIC handshake"
    if event.error_code == _NO_COMMON_ALPN:
        return Ended.PROTOCOL, TRANSPORT_CODE, f"the peer does not speak {ALPN}: {OTHER_VERSION}"
    if not by_peer and said == "Could not find a common protocol version":
        return Ended.PROTOCOL, TRANSPORT_CODE, "the peer does not speak QUIC version 1"
    if not by_peer and said == "Idle timeout":
        if connected:
            return Ended.IDLE, TRANSPORT_CODE, "idle timeout"
        return Ended.NO_ANSWER, TRANSPORT_CODE, "no answer"
    how = Ended.PROTOCOL if is_client and not connected else Ended.TRANSPORT
    return how, TRANSPORT_CODE, f"QUIC error 0x{event.error_code:x}" + (f" ({said})" if said else "")
