"""One UDP socket with control messages: local addresses (PKTINFO) both ways, and batches that UDP_GRO merged.

Datagram transports of asyncio and uvloop pass no control messages on, so replies would leave from whatever address
the kernel prefers, and a merged batch could not be taken apart.
"""

import errno
import select
import socket
import struct
from collections.abc import Iterator
from typing import Final

from cryprq.address import Address, Local

_SOL_UDP: Final = 17
_UDP_GRO: Final = 104
_RECV_SIZE: Final = 65_535
_IN_PKTINFO: Final = struct.Struct("=I4s4s")  # ifindex, local address to send from, destination of the packet (ip(7))
_IN6_PKTINFO: Final = struct.Struct("=16sI")  # address, ifindex (RFC 3542, 6.2)
_MAPPED: Final = bytes(10) + b"\xff\xff"
_INT: Final = struct.Struct("=i")
_ANCILLARY: Final = socket.CMSG_SPACE(_IN6_PKTINFO.size) + socket.CMSG_SPACE(12) + socket.CMSG_SPACE(_INT.size)
_BAD_SOURCE: Final = frozenset({errno.EINVAL, errno.ENETUNREACH, errno.EADDRNOTAVAIL})
"""What sendmsg says when the pinned local address is gone or cannot reach the destination."""

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


class UdpSocket:
    """Receives and sends with control messages on a bound, non-blocking UDP socket, IPv4 or dual-stack IPv6.

    The descriptor stays the caller's. UDP_GRO is understood if the caller has set it. ``group`` is the number of the
    socket's group.
    """

    def __init__(self, sock: socket.socket, group: int = 0) -> None:
        if sock.type != socket.SOCK_DGRAM or sock.family not in (socket.AF_INET, socket.AF_INET6):
            raise ValueError("not a UDP socket")
        sock.setblocking(False)
        if sock.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)
        self._sock = sock
        self._group = group
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
        sockaddr = remote.to_sockaddr(self._family)
        host = local.host
        if host is None or (":" in host) != remote.is_ipv6:
            self._sock.sendto(data, sockaddr)
            return host is None
        try:
            self._sock.sendmsg([data], [self._source(remote, host)], 0, sockaddr)
        except OSError as error:
            if error.errno not in _BAD_SOURCE:
                raise
            self._sock.sendto(data, sockaddr)
            return False
        return True

    def _source(self, remote: Address, host: str) -> tuple[int, int, bytes]:
        # The interface stays 0, so that routing decides, except where an address means nothing without one.
        if remote.is_ipv6:
            scope = remote.scope if remote.is_link_local else 0
            packed = socket.inet_pton(socket.AF_INET6, host)
            return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _IN6_PKTINFO.pack(packed, scope)
        packed = socket.inet_pton(socket.AF_INET, host)
        if self._family == socket.AF_INET6:
            return socket.IPPROTO_IPV6, socket.IPV6_PKTINFO, _IN6_PKTINFO.pack(_MAPPED + packed, 0)
        return socket.IPPROTO_IP, _IP_PKTINFO, _IN_PKTINFO.pack(0, packed, bytes(4))
