"""What a host learns from ICMP: sockets that collect errors, as traceroute and path MTU discovery use them."""

import select
import socket
import struct
from typing import NamedTuple

from lab.hosts import Namespace

# <linux/in.h>, <linux/in6.h>, <linux/errqueue.h>
_IP_RECVERR, _IP_MTU_DISCOVER, _IP_MTU, _IPV6_RECVERR, _IPV6_MTU_DISCOVER, _IPV6_MTU = 11, 10, 14, 25, 23, 24
_IPV6_DONTFRAG = 62
DONT_FRAGMENT, FRAGMENT = 2, 0
"""IP_PMTUDISC_DO: with the DF bit, errors for what is too long. IP_PMTUDISC_DONT: fragments, wherever it may be."""
_EXTENDED_ERROR = struct.Struct("=IBBBxII")

TIME_EXCEEDED = {4: (11, 0), 6: (3, 0)}
PORT_UNREACHABLE = {4: (3, 3), 6: (1, 4)}
TOO_BIG = {4: (3, 4), 6: (2, 0)}
"""Type and code (RFC 792, RFC 4443)."""


class IcmpError(NamedTuple):
    """An ICMP error as the kernel queues it for a socket."""

    kind: tuple[int, int]
    mtu: int
    """Of the next hop, where the error is about one."""
    offender: str
    """Who sent it."""


class Probe:
    """A UDP socket in a namespace, connected to an address; a context manager."""

    def __init__(self, namespace: Namespace, address: str, port: int = 33434, *, discover: int = DONT_FRAGMENT) -> None:
        self.version = 6 if ":" in address else 4
        with namespace.entered():
            self.socket = socket.socket(socket.AF_INET6 if self.version == 6 else socket.AF_INET, socket.SOCK_DGRAM)
        if self.version == 4:
            self.socket.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            self.socket.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, discover)
        else:
            self.socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
            self.socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, discover)
            self.socket.setsockopt(socket.IPPROTO_IPV6, _IPV6_DONTFRAG, int(discover == DONT_FRAGMENT))
        self.socket.connect((address, port))

    def __enter__(self) -> "Probe":
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def set_hops(self, hops: int) -> None:
        """The TTL or hop limit of what is sent from now on."""
        if self.version == 4:
            self.socket.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
        else:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)

    def mtu(self) -> int:
        """The path MTU as the kernel knows it."""
        if self.version == 4:
            return self.socket.getsockopt(socket.IPPROTO_IP, _IP_MTU)
        return self.socket.getsockopt(socket.IPPROTO_IPV6, _IPV6_MTU)

    def error(self, timeout: float = 5.0) -> IcmpError:
        """The next ICMP error, waited for; TimeoutError."""
        poll = select.poll()
        poll.register(self.socket, 0)  # POLLERR alone: there is something in the error queue
        if not poll.poll(timeout * 1000):
            raise TimeoutError(f"no ICMP error within {timeout} s")
        _, ancillary, _, _ = self.socket.recvmsg(65535, 512, socket.MSG_ERRQUEUE)
        value = next(value for _, kind, value in ancillary if kind in (_IP_RECVERR, _IPV6_RECVERR))
        _, _, kind, code, info, _ = _EXTENDED_ERROR.unpack_from(value)
        address = value[_EXTENDED_ERROR.size :]  # SO_EE_OFFENDER: a struct sockaddr
        host = address[4:8] if self.version == 4 else address[8:24]
        return IcmpError((kind, code), info, socket.inet_ntop(self.socket.family, host))


def answers(namespace: Namespace, address: str) -> bool:
    """Whether a host says, within 5 s, that nobody listens on its port 33434: the quickest proof that it is reached."""
    with Probe(namespace, address) as probe:
        probe.socket.send(b"probe")
        return probe.error() == IcmpError(PORT_UNREACHABLE[probe.version], 0, address)
