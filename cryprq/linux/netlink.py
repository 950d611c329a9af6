"""A netlink socket (netlink(7)): requests that the kernel acknowledges, and dumps of what it has.

A message is a fixed header in host byte order, then a body with attributes of length, type and value, padded to 4
bytes. What the bodies mean is for ``rtnetlink`` to know. A call takes microseconds and may be made from an event loop.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Final, Self

# <linux/netlink.h>
_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
NLM_F_EXCL: Final = 0x200
NLM_F_CREATE: Final = 0x400
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP, _NLM_F_DUMP_INTR = 0x1, 0x4, 0x300, 0x10
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200  # in an acknowledgement
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
_NLMSGERR_ATTR_MSG = 1
_ATTRIBUTE = struct.Struct("=HH")  # length with this header, type
NLA_F_NESTED: Final = 0x8000
_NLA_TYPE_MASK = 0x3FFF

_RECEIVE_SIZE = 65536
_WAITING_MAX = 64  # datagrams in one go: an event loop has other things to do while a router loads its table
_TIMEOUT_SECS = 5.0  # the kernel answers within the send call; this bounds what cannot happen
_DUMP_TRIES = 5  # while somebody else changes what is dumped


class NetlinkError(OSError):
    """The kernel refused a request: ``errno``, and ``strerror`` in the kernel's own words where it gave some."""


def waiting(sock: socket.socket) -> Iterator[tuple[bytes, int] | None]:
    """What waits in a socket that does not block, each datagram with the port of its sender (0: the kernel); None where
    some were lost, since nobody read them in time."""
    for _ in range(_WAITING_MAX):
        try:
            data, (port, _groups) = sock.recvfrom(_RECEIVE_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            yield None
        else:
            yield data, port


def attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack("=I", value))


def attributes(data: bytes) -> Iterable[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            return
        yield kind & _NLA_TYPE_MASK, data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]


def messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """What one datagram of the kernel holds: type, flags, sequence and body of each message."""
    start = 0
    while len(data) - start >= _HEADER.size:
        length, kind, flags, sequence, _port = _HEADER.unpack_from(data, start)
        if not _HEADER.size <= length <= len(data) - start:
            return
        yield kind, flags, sequence, data[start + _HEADER.size : start + length]
        start += (length + 3) & ~3


class NetlinkSocket:
    """An rtnetlink socket in the network namespace of the thread that makes it.

    Every method raises NetlinkError when the kernel refuses.
    """

    def __init__(self) -> None:
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            self._socket.bind((0, 0))
            self._socket.settimeout(_TIMEOUT_SECS)
            for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK, _NETLINK_GET_STRICT_CHK):
                try:
                    self._socket.setsockopt(_SOL_NETLINK, option, 1)
                except OSError:
                    if option != _NETLINK_GET_STRICT_CHK:  # Linux before 4.20 has none: it dumps more than was asked
                        raise
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the socket. Idempotent."""
        self._socket.close()

    def request(self, kind: int, flags: int, body: bytes) -> list[bytes]:
        """Sends one request and waits for its acknowledgement; the bodies that came before it, if it asked for any."""
        self._send(kind, flags | _NLM_F_REQUEST | _NLM_F_ACK, body)
        answers: list[bytes] = []
        while True:
            for kind, flags, body in self._receive():
                if kind == _NLMSG_ERROR:
                    _check(flags, body)
                    return answers
                answers.append(body)

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """Asks for everything of a kind, as far as ``body`` does not narrow it; what one moment had of it."""
        for _ in range(_DUMP_TRIES):
            self._send(kind, _NLM_F_REQUEST | _NLM_F_DUMP, body)
            whole, answers = self._receive_dump()
            if whole:
                break
        return answers

    def _receive_dump(self) -> tuple[bool, list[bytes]]:
        answers: list[bytes] = []
        whole = True
        while True:
            for kind, flags, body in self._receive():
                whole = whole and not flags & _NLM_F_DUMP_INTR
                if kind == _NLMSG_ERROR:
                    _check(flags, body)
                elif kind == _NLMSG_DONE:
                    _check(0, body)
                    return whole, answers
                else:
                    answers.append(body)

    def _send(self, kind: int, flags: int, body: bytes) -> None:
        self._sequence += 1
        try:
            self._socket.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, self._sequence, 0) + body)
        except OSError as error:  # refused before it is read: an emulator that does not know the request, say
            raise NetlinkError(error.errno, error.strerror) from None

    def _receive(self) -> Iterator[tuple[int, int, bytes]]:
        """The messages of the next datagram that belong to the last request; others are left overs of one that failed
        half-way."""
        for kind, flags, sequence, body in messages(self._socket.recv(_RECEIVE_SIZE)):
            if sequence == self._sequence:
                yield kind, flags, body


def _check(flags: int, body: bytes) -> None:
    """Raises what an acknowledgement says: ``struct nlmsgerr``, then attributes (extended acknowledgement)."""
    if len(body) < 4:
        return
    (error,) = struct.unpack_from("=i", body)
    if error == 0:
        return
    message = os.strerror(-error)
    if flags & _NLM_F_ACK_TLVS:
        (request_length,) = struct.unpack_from("=I", body, 4)
        skip = 4 + (_HEADER.size if flags & _NLM_F_CAPPED else (request_length + 3) & ~3)
        for kind, value in attributes(body[skip:]):
            if kind == _NLMSGERR_ATTR_MSG:
                message = value.rstrip(b"\0").decode("utf-8", "replace")
    raise NetlinkError(-error, message)
