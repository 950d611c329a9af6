"""A minimal rtnetlink client: what a tunnel needs to set up its own interface, and nothing else.

Messages are those of rtnetlink(7) and <linux/rtnetlink.h>: a fixed header in host byte order, then attributes of
length, type and value, padded to 4 bytes. Every request asks for an acknowledgement, so a call returns only after the
kernel has done what was asked. A call takes microseconds and may be made from an event loop.
"""

import os
import socket
import struct
from collections.abc import Iterable
from types import TracebackType
from typing import Self

from cryprq.networks import Interface, Network

# <linux/netlink.h>
_NLMSG_HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
_NLMSG_ERROR = 2
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_EXCL, _NLM_F_CREATE = 0x1, 0x4, 0x200, 0x400
_NLM_F_CAPPED, _NLM_F_ACK_TLVS = 0x100, 0x200  # in an acknowledgement
_SOL_NETLINK, _NETLINK_CAP_ACK, _NETLINK_EXT_ACK = 270, 10, 11
_NLMSGERR_ATTR_MSG = 1
_ATTRIBUTE = struct.Struct("=HH")  # length with this header, type
_NLA_F_NESTED, _NLA_TYPE_MASK = 0x8000, 0x3FFF

# <linux/rtnetlink.h>, <linux/if_link.h>, <linux/if_addr.h>
_RTM_NEWLINK, _RTM_NEWADDR, _RTM_DELADDR, _RTM_NEWROUTE, _RTM_DELROUTE = 16, 20, 21, 24, 25
_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, mask of the flags to change
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst and src length, tos, table, protocol, scope, type, flags
_IFF_UP = 0x1
_IFLA_MTU, _IFLA_TXQLEN, _IFLA_AF_SPEC, _IFLA_GSO_MAX_SEGS = 4, 13, 26, 40
_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_MODE_NONE = 8, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_F_NODAD = 1, 2, 0x02
_RTA_DST, _RTA_OIF = 1, 4
_RT_TABLE_MAIN, _RTPROT_STATIC, _RTN_UNICAST = 254, 4, 1
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK = 0, 253

_RECEIVE_SIZE = 16384
_TIMEOUT_SECS = 5.0  # the kernel answers within the send call; this bounds what cannot happen


class NetlinkError(OSError):
    """The kernel refused a request: ``errno``, and ``strerror`` in the kernel's own words where it gave some."""


def _attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _u32(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack("=I", value))


def _attributes(data: bytes) -> Iterable[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        if not _ATTRIBUTE.size <= length <= len(data):
            return
        yield kind & _NLA_TYPE_MASK, data[_ATTRIBUTE.size : length]
        data = data[(length + 3) & ~3 :]


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


class Netlink:
    """An rtnetlink socket in the network namespace of the thread that makes it.

    Interfaces are named by index (``socket.if_nametoindex``). Every method raises NetlinkError when the kernel refuses.
    """

    def __init__(self) -> None:
        self._sequence = 0
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            self._socket.bind((0, 0))
            self._socket.settimeout(_TIMEOUT_SECS)
            for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
                self._socket.setsockopt(_SOL_NETLINK, option, 1)
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

    def set_link(
        self,
        index: int,
        *,
        up: bool | None = None,
        mtu: int | None = None,
        txqueuelen: int | None = None,
        gso_max_segs: int | None = None,
    ) -> None:
        """Changes what is given: the interface up or down, its MTU in bytes, its queue in packets, and how many
        segments a super-packet may have that the kernel hands to it."""
        values = ((_IFLA_MTU, mtu), (_IFLA_TXQLEN, txqueuelen), (_IFLA_GSO_MAX_SEGS, gso_max_segs))
        attributes = b"".join(_u32(kind, value) for kind, value in values if value is not None)
        flags, mask = (_IFF_UP if up else 0, _IFF_UP) if up is not None else (0, 0)
        header = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, flags, mask)
        self._request(_RTM_NEWLINK, 0, header + attributes)

    def set_no_link_local(self, index: int) -> None:
        """Keeps the kernel from giving the interface an IPv6 link-local address (addrgenmode none), which would send
        router solicitations into a tunnel. EAFNOSUPPORT where the kernel has no IPv6."""
        mode = _attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_MODE_NONE]))
        inet6 = _attribute(socket.AF_INET6 | _NLA_F_NESTED, mode)
        header = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0)
        self._request(_RTM_NEWLINK, 0, header + _attribute(_IFLA_AF_SPEC | _NLA_F_NESTED, inet6))

    def add_address(self, index: int, address: Interface) -> None:
        """Adds an address with its prefix length; the kernel adds the route of that network. EEXIST if it is there.

        IPv6 addresses skip duplicate address detection: nobody answers it in a tunnel, and it would delay them.
        """
        self._address(_RTM_NEWADDR, _NLM_F_CREATE | _NLM_F_EXCL, index, address)

    def remove_address(self, index: int, address: Interface) -> None:
        """Removes an address. EADDRNOTAVAIL if it is not there."""
        self._address(_RTM_DELADDR, 0, index, address)

    def add_route(self, index: int, network: Network) -> None:
        """Routes a network into the interface (main table). EEXIST if the table has a route of that network and metric,
        whatever interface it names; ENETDOWN while the interface is down."""
        self._route(_RTM_NEWROUTE, _NLM_F_CREATE | _NLM_F_EXCL, index, network)

    def remove_route(self, index: int, network: Network) -> None:
        """Removes a route that ``add_route`` made. ESRCH if it is not there."""
        self._route(_RTM_DELROUTE, 0, index, network)

    def _address(self, kind: int, flags: int, index: int, address: Interface) -> None:
        family = _family(address.version)
        address_flags = _IFA_F_NODAD if family == socket.AF_INET6 else 0
        header = _IFADDRMSG.pack(family, address.network.prefixlen, address_flags, _RT_SCOPE_UNIVERSE, index)
        packed = address.ip.packed
        self._request(kind, flags, header + _attribute(_IFA_LOCAL, packed) + _attribute(_IFA_ADDRESS, packed))

    def _route(self, kind: int, flags: int, index: int, network: Network) -> None:
        family = _family(network.version)
        scope = _RT_SCOPE_LINK if family == socket.AF_INET else _RT_SCOPE_UNIVERSE
        header = _RTMSG.pack(family, network.prefixlen, 0, 0, _RT_TABLE_MAIN, _RTPROT_STATIC, scope, _RTN_UNICAST, 0)
        attributes = _attribute(_RTA_DST, network.network_address.packed) + _u32(_RTA_OIF, index)
        self._request(kind, flags, header + attributes)

    def _request(self, kind: int, flags: int, body: bytes) -> None:
        """Sends one request and waits for its acknowledgement."""
        self._sequence += 1
        flags |= _NLM_F_REQUEST | _NLM_F_ACK
        length = _NLMSG_HEADER.size + len(body)
        self._socket.send(_NLMSG_HEADER.pack(length, kind, flags, self._sequence, 0) + body)
        while not self._acknowledged(self._socket.recv(_RECEIVE_SIZE)):
            pass

    def _acknowledged(self, data: bytes) -> bool:
        """Whether data holds the acknowledgement of the last request; raises the error that it may carry."""
        while len(data) >= _NLMSG_HEADER.size:
            length, kind, flags, sequence, _port = _NLMSG_HEADER.unpack_from(data)
            if not _NLMSG_HEADER.size <= length <= len(data):
                break
            if kind == _NLMSG_ERROR and sequence == self._sequence:
                _check(flags, data[_NLMSG_HEADER.size : length])
                return True
            data = data[(length + 3) & ~3 :]
        return False


def _check(flags: int, body: bytes) -> None:
    """Raises what an acknowledgement says: ``struct nlmsgerr``, then attributes (extended acknowledgement)."""
    (error,) = struct.unpack_from("=i", body)
    if error == 0:
        return
    message = os.strerror(-error)
    if flags & _NLM_F_ACK_TLVS:
        (request_length,) = struct.unpack_from("=I", body, 4)
        skip = 4 + (_NLMSG_HEADER.size if flags & _NLM_F_CAPPED else (request_length + 3) & ~3)
        for kind, value in _attributes(body[skip:]):
            if kind == _NLMSGERR_ATTR_MSG:
                message = value.rstrip(b"\0").decode("utf-8", "replace")
    raise NetlinkError(-error, message)
