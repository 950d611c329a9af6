"""One UDP socket with control messages: local addresses (PKTINFO) both ways, batches that UDP_GRO merged, and
runs that UDP_SEGMENT takes apart.

Datagram transports of asyncio and uvloop pass no control messages on, so replies would leave from whatever address
the kernel prefers, and a merged batch could not be taken apart.
"""

import errno
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from cryprq.address import Address, Local

_SOL_UDP: Final = 17
_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_SEGMENTS_MAX: Final = 32
"""Datagrams of one send: Linux takes 64 or more, and 64 KiB."""
_RECV_SIZE: Final = 65_535
_IN_PKTINFO: Final = struct.Struct("=I4s4s")  # ifindex, local address to send from, destination of the packet (ip(7))
_IN6_PKTINFO: Final = struct.Struct("=16sI")  # address, ifindex (RFC 3542, 6.2)
_MAPPED: Final = bytes(10) + b"\xff\xff"
_INT: Final = struct.Struct("=i")
_SHORT: Final = struct.Struct("=H")
_ANCILLARY: Final = socket.CMSG_SPACE(_IN6_PKTINFO.size) + socket.CMSG_SPACE(12) + socket.CMSG_SPACE(_INT.size)
_BAD_SOURCE: Final = frozenset({errno.EINVAL, errno.ENETUNREACH, errno.EADDRNOTAVAIL})
"""What sendmsg says when the pinned local address is gone or cannot reach the destination."""
_NOT_IN_SEGMENTS: Final = frozenset({errno.EINVAL, errno.EMSGSIZE, errno.EIO, errno.ENOPROTOOPT, errno.EOPNOTSUPP})
"""What it says when the way there does not take datagrams of that size, or does not take several at once: one by one
they may be fragmented (udp(7))."""
_Control = tuple[int, int, bytes]
"""A control message: level, type, data."""

# Python 3.11 has no names for the IPv4 one.
_IP_PKTINFO: Final = 8


def segments(data: bytes, size: int) -> Iterator[bytes]:
    """Takes a batch apart that UDP_GRO merged from datagrams of ``size`` bytes (the last may be shorter).

    A size of 0 or less, or beyond the batch, means that nothing was merged.
    """
    if size <= 0 or size >= len(data):
        yield data
        return
    for start in range(0, len(data), size):
        yield data[start : start + size]


def runs(datagrams: Sequence[bytes]) -> Iterator[Sequence[bytes]]:
    """What UDP_SEGMENT takes in one send each: datagrams of one size that follow each other, the last maybe shorter."""
    start = 0
    while start < len(datagrams):
        size, end = len(datagrams[start]), start + 1
        while end < len(datagrams) and len(datagrams[end - 1]) == size and end - start < _SEGMENTS_MAX:
            if not 0 < len(datagrams[end]) <= size:
                break
            end += 1
        yield datagrams[start:end]
        start = end


class UdpSocket:
    """Receives and sends with control messages on a bound, non-blocking UDP socket, IPv4 or dual-stack IPv6.

    The descriptor stays the caller's. UDP_GRO is understood if the caller has set it. ``group`` is the number of the
    socket's group; ``segment``: datagrams that leave together may be sent by one UDP_SEGMENT.
    """

    def __init__(self, sock: socket.socket, group: int = 0, *, segment: bool = False) -> None:
        if sock.type != socket.SOCK_DGRAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
            raise ValueError("not a UDP socket")
        sock.setblocking(False)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        self._sock = sock
        self._group = group
        self._segment = segment
        self._family = sock.family
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._buffer = bytearray(_RECV_SIZE)
        self._view = memoryview(self._buffer)

    def fileno(self) -> int:
        """The descriptor, for an event loop."""
        return self._sock.fileno()

    def readable(self) -> bool:
        """Whether something waits to be received."""
        return bool(self._poll.poll(0))

    def receive(self) -> tuple[list[bytes], Address, Local] | None:
        """One batch: its datagrams, their sender, and where they came in.

        None when nothing waits. OSError for a pending error of the socket; calling again is right.
        """
        try:
            length, ancillary, _, sockaddr = self._sock.recvmsg_into([self._buffer], _ANCILLARY)
        except (BlockingIOError, InterruptedError):
            return None
        host: str | None = None
        size = 0
        for level, kind, value in ancillary:
            if level == socket.IPPROTO_IPV6 and kind == socket.IPV6_PKTINFO and len(value) >= _IN6_PKTINFO.size:
                packed = value[:16]
                if packed.startswith(_MAPPED):
                    host = socket.inet_ntop(socket.AF_INET, packed[12:])
                else:
                    host = socket.inet_ntop(socket.AF_INET6, packed)
            elif level == socket.IPPROTO_IP and kind == _IP_PKTINFO and len(value) >= _IN_PKTINFO.size:
                host = socket.inet_ntop(socket.AF_INET, value[4:8])
            elif level == _SOL_UDP and kind == _UDP_GRO and len(value) >= _INT.size:
                size = _INT.unpack_from(value)[0]
        datagrams = list(segments(bytes(self._view[:length]), size))
        return datagrams, Address.from_sockaddr(sockaddr), Local(host, self._group)

    def send(self, data: bytes, remote: Address, local: Local) -> bool:
        """Sends one datagram, from the host of ``local`` if given. Returns False if that source had to be forgotten.

        OSError if the datagram was not sent at all; BlockingIOError among them when the socket's buffer is full.
        """
        return self._send([data], [], remote, local)

    def send_all(self, datagrams: Sequence[bytes], remote: Address, local: Local) -> bool:
        """Sends several in order, those of one size by one system call, and returns what ``send`` does.

        OSError for the last one that was not sent; the others were, as far as the socket had room.
        """
        known, fault = True, None
        for run in runs(datagrams) if self._segment else ([datagram] for datagram in datagrams):
            try:
                known &= self._send_run(run, remote, local)
            except OSError as error:
                fault = error
        if fault is not None:
            raise fault
        return known

    def _send_run(self, run: Sequence[bytes], remote: Address, local: Local) -> bool:
        if len(run) > 1:
            size = _SHORT.pack(len(run[0]))
            try:
                return self._send(run, [(_SOL_UDP, _UDP_SEGMENT, size)], remote, local)
            except OSError as error:
                if error.errno not in _NOT_IN_SEGMENTS:
                    raise
        known = True
        for datagram in run:
            known &= self._send([datagram], [], remote, local)
        return known

    def _send(self, parts: Sequence[bytes], control: list[_Control], remote: Address, local: Local) -> bool:
        sockaddr = remote.to_sockaddr(self._family)
        host = local.host
        if host is None or (":" in host) != remote.is_ipv6:
            self._sock.sendmsg(parts, control, 0, sockaddr)
            return host is None
        try:
            self._sock.sendmsg(parts, [self._source(remote, host), *control], 0, sockaddr)
        except OSError as error:
            if error.errno not in _BAD_SOURCE or (control and error.errno in _NOT_IN_SEGMENTS):
                raise
            self._sock.sendmsg(parts, control, 0, sockaddr)
            return False
        return True

    def _source(self, remote: Address, host: str) -> _Control:
        # The interface stays 0, so that routing decides, except where an address means nothing without one.
        if remote.is_ipv6:
            scope = remote.scope if remote.is_link_local else 0
            packed = socket.inet_pton(socket.AF_INET6, host)
            return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _IN6_PKTINFO.pack(packed, scope)
        packed = socket.inet_pton(socket.AF_INET, host)
        if self._family == socket.AF_INET6:
            return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _IN6_PKTINFO.pack(_MAPPED + packed, 0)
        return socket.IPPROTO_IP, _IP_PKTINFO, _IN_PKTINFO.pack(0, packed, bytes(4))
