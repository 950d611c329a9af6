"""Is a listener there, and what does it take this host for? Asked without a handshake, in two datagrams.

The first is of a QUIC version that does not exist: a listener says so at once, whoever asks (RFC 9000, 6.1), and keeps
nothing. The second knocks as a dialer does: a listener begins with it, or, where it takes the knock for none, asks for
a proof of the address first. As nothing else is in the way then, the peer ID or one of the two clocks is wrong.
"""

import errno
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cryprq.address import Address
from cryprq.linux.clock import monotonic, realtime
from cryprq.peer_id import PeerId
from cryprq.quic.adapter import Quic, client_configuration
from cryprq.quic.knocks import make_knock

TRIES: Final = 3
"""Datagrams of each kind, since one may be lost; ..."""
PATIENCE: Final = 1.0
"""... and seconds for the answer to each."""
_GREASE: Final = 0x1A2A3A4A
"""A version that is kept free for this (RFC 9000, 15)."""
_DATAGRAM_MIN: Final = 1200
_LONG_HEADER: Final = 0x80
_RETRY: Final = 3
_REFUSED: Final = (errno.EPERM, errno.EACCES)


@dataclass(frozen=True, slots=True)
class Reach:
    """What came of it."""

    where: str
    """HOST:PORT."""
    answer: str
    """``quic``: a listener is there; ``refused``: the host is, and nobody at that port, or a firewall says so;
    ``blocked``: a rule of this host lets nothing out; ``silent``; or why there is no way."""
    knock: str = ""
    """``taken``, ``strange``: taken for a stranger's; ``silent``; empty: not asked."""


def ask(remote: Address, peer: PeerId | None, mark: int) -> Reach:
    """Blocks for ``TRIES`` times ``PATIENCE`` and a little, twice at most. ``mark`` keeps what is sent out of a tunnel
    that takes everything, as far as this process may set one."""
    where = str(remote)
    family = socket.AF_INET6 if ":" in remote.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        except OSError:
            pass  # as a user: as good as it gets
        sock.settimeout(PATIENCE)
        try:
            sock.connect((remote.host, remote.port))
            answer = _answer(sock, _of_no_version())
        except OSError as error:
            return Reach(where, _told(error))
        if answer is None:
            return Reach(where, "silent")
        return Reach(where, "quic", "" if peer is None else _knock(sock, remote, peer))


def _told(error: OSError) -> str:
    if error.errno == errno.ECONNREFUSED:
        return "refused"
    return "blocked" if error.errno in _REFUSED else error.strerror or str(error)


def _answer(sock: socket.socket, datagrams: Iterator[bytes]) -> bytes | None:
    """The first answer to one of several datagrams. OSError: what ICMP says, or this host."""
    for _ in range(TRIES):
        sock.send(next(datagrams))
        try:
            return sock.recv(65_535)
        except TimeoutError:
            continue
    return None


def _of_no_version() -> Iterator[bytes]:
    while True:
        ids = b"".join(b"\x08" + os.urandom(8) for _ in range(2))
        yield (bytes([_LONG_HEADER | 0x40]) + _GREASE.to_bytes(4, "big") + ids).ljust(_DATAGRAM_MIN, b"\0")


def _knock(sock: socket.socket, remote: Address, peer: PeerId) -> str:
    dials: list[Quic] = []

    def first_datagrams() -> Iterator[bytes]:
        while True:
            quic = Quic(client_configuration(), first_destination=make_knock(peer.digest, realtime()))
            quic.connect(remote, monotonic())
            dials.append(quic)
            ((data, _), *_) = quic.datagrams_to_send(monotonic())
            yield data

    try:
        for pause in (PATIENCE / 4, 0.0):  # a listener that is busy asks for a proof, too, but not for long
            found = _answer(sock, first_datagrams())
            if found is None:
                return "silent"
            if not _is_retry(found):
                _hang_up(sock, dials[-1], found, remote)
                return "taken"
            time.sleep(pause)
    except OSError:
        return "silent"
    return "strange"


def _hang_up(sock: socket.socket, quic: Quic, answer: bytes, remote: Address) -> None:
    """So that the listener keeps no place for what never comes."""
    quic.receive_datagram(answer, remote, monotonic())
    quic.close()
    for data, _ in quic.datagrams_to_send(monotonic()):
        sock.send(data)


def _is_retry(datagram: bytes) -> bool:
    return bool(datagram[0] & _LONG_HEADER) and datagram[0] >> 4 & 3 == _RETRY
