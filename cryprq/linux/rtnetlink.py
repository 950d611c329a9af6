"""The kernel's links, addresses, routes and rules as values, and the requests that read and change them.

Messages are those of rtnetlink(7) and <linux/rtnetlink.h>. Interfaces are named by index.
"""

import errno
import os
import socket
import struct
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_interface, ip_network
from typing import Final, NamedTuple

from cryprq.linux.netlink import NLA_F_NESTED, NLM_F_CREATE, NLM_F_EXCL, NetlinkError, NetlinkSocket, attribute, u32
from cryprq.linux.netlink import attributes as _attributes
from cryprq.networks import Interface, Network

PROTOCOL: Final = 113
"""Who made a route or rule: CrypRQ, by a number that <linux/rtnetlink.h> and rt_protos of iproute2 give nobody."""
TABLE_MAIN: Final = 254
_TABLE_LOCAL: Final = 255

# <linux/rtnetlink.h>, <linux/if_link.h>, <linux/if_addr.h>, <linux/fib_rules.h>
RTM_NEWLINK, RTM_DELLINK, _RTM_GETLINK = 16, 17, 18
RTM_NEWADDR, RTM_DELADDR, _RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, _RTM_GETROUTE = 24, 25, 26
RTM_NEWRULE, RTM_DELRULE, _RTM_GETRULE = 32, 33, 34
_IFINFOMSG = struct.Struct("=BxHiII")  # family, type, index, flags, mask of the flags to change
_IFADDRMSG = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
_RTMSG = struct.Struct("=BBBBBBBBI")  # family, dst and src length, tos, table, protocol, scope, type, flags
_RULE_HEADER = struct.Struct("=BBBBBBBBI")  # family, dst and src length, tos, table, 0, 0, action, flags
_IFF_UP = 0x1
_CARRIES = 0x1 | 0x10000  # IFF_UP and IFF_LOWER_UP
_IFLA_IFNAME, _IFLA_MTU, _IFLA_TXQLEN, _IFLA_AF_SPEC, _IFLA_CARRIER_UP_COUNT = 3, 4, 13, 26, 47
_IFLA_INET6_ADDR_GEN_MODE, _ADDR_GEN_MODE_NONE = 8, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_F_NODAD, _IFA_F_TENTATIVE = 1, 2, 0x02, 0x40
_RTA_DST, _RTA_OIF, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 6, 7, 15
_RTN_UNICAST, _RTN_UNREACHABLE, _RTM_F_CLONED = 1, 7, 0x200
_RT_SCOPE_UNIVERSE, _RT_SCOPE_LINK = 0, 253
_FRA_DST, _FRA_PRIORITY, _FRA_FWMARK, _FRA_SUPPRESS_PREFIXLEN, _FRA_TABLE = 1, 6, 10, 14, 15
_FRA_IIFNAME, _FRA_UID_RANGE, _FRA_PROTOCOL, _FRA_IP_PROTO, _FRA_SPORT_RANGE, _FRA_DPORT_RANGE = 3, 20, 21, 22, 23, 24
_PORTS, _UIDS = struct.Struct("=HH"), struct.Struct("=II")  # first and last
_ALL_UIDS = (0, 0xFFFFFFFF)
_DNS_PORT = 53
_FR_ACT_TO_TBL, _FIB_RULE_INVERT, _NO_SUPPRESSION = 1, 2, 0xFFFFFFFF

_NO_SUCH_FAMILY = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)  # a kernel without IPv6, or without rules


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as it is."""

    index: int
    name: str
    up: bool
    mtu: int


class Held(NamedTuple):
    """An address, and the interface that has it."""

    interface: int
    address: Interface


@dataclass(frozen=True, slots=True)
class Route:
    """A route straight into an interface, or one that says that there is no way."""

    network: Network
    interface: int | None
    """Its index; None: unreachable."""
    table: int = TABLE_MAIN
    metric: int = 0
    """The least one wins. 0 is what the kernel takes where nobody says: 0 for IPv4, 1024 for IPv6."""
    source: IPv4Address | IPv6Address | None = None
    """The address that packets get which have none yet."""
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True)
class Rule:
    """Which table is asked, and for what."""

    version: int
    priority: int
    """The least is asked first."""
    table: int
    unmarked: int | None = None
    """Only for packets that do not have this mark."""
    suppressed: int | None = None
    """An answer with a prefix of this length, or a shorter one, does not count."""
    endpoint: tuple[IPv4Address | IPv6Address, int] | None = None
    """Only for UDP to this address and port."""
    lookups_of: int | None = None
    """Only for queries to name servers (UDP port 53) from sockets of this user."""
    own_port: int | None = None
    """Only for UDP from this port of this host itself (``iif lo``), not for what it forwards."""
    protocol: int = PROTOCOL


def _family(version: int) -> int:
    return socket.AF_INET if version == 4 else socket.AF_INET6


def _version(family: int) -> int:
    return 4 if family == socket.AF_INET else 6


class RtNetlink(NetlinkSocket):
    """Reads and changes what the kernel has, in the network namespace of the thread that makes it."""

    # ---- links ----

    def link(self, index: int) -> Link | None:
        """The interface, or None if this namespace has none of that index."""
        try:
            answers = self.request(_RTM_GETLINK, 0, _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0))
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        for body in answers:
            _, _, found, flags, _ = _IFINFOMSG.unpack_from(body)
            values = dict(_attributes(body[_IFINFOMSG.size :]))
            name = os.fsdecode(values[_IFLA_IFNAME].rstrip(b"\0"))
            return Link(found, name, bool(flags & _IFF_UP), _number(values[_IFLA_MTU]))
        return None

    def set_link(
        self, index: int, *, up: bool | None = None, mtu: int | None = None, txqueuelen: int | None = None
    ) -> None:
        """Changes what is given: the interface up or down, its MTU in bytes, its queue in packets."""
        values = ((_IFLA_MTU, mtu), (_IFLA_TXQLEN, txqueuelen))
        attributes = b"".join(u32(kind, value) for kind, value in values if value is not None)
        flags, mask = (_IFF_UP if up else 0, _IFF_UP) if up is not None else (0, 0)
        header = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, flags, mask)
        self.request(RTM_NEWLINK, 0, header + attributes)

    def set_no_link_local(self, index: int) -> None:
        """Keeps the kernel from giving the interface an IPv6 link-local address (addrgenmode none), which would send
        router solicitations into a tunnel. EAFNOSUPPORT where the kernel has no IPv6."""
        mode = attribute(_IFLA_INET6_ADDR_GEN_MODE, bytes([_ADDR_GEN_MODE_NONE]))
        inet6 = attribute(socket.AF_INET6 | NLA_F_NESTED, mode)
        header = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0)
        self.request(RTM_NEWLINK, 0, header + attribute(_IFLA_AF_SPEC | NLA_F_NESTED, inet6))

    # ---- addresses ----

    def addresses(self) -> Iterator[Held]:
        """Every address of every interface."""
        for body in self.dump(_RTM_GETADDR, _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
            family, prefix, _flags, _scope, index = _IFADDRMSG.unpack_from(body)
            values = dict(_attributes(body[_IFADDRMSG.size :]))
            packed = values.get(_IFA_LOCAL, values.get(_IFA_ADDRESS))
            if packed is not None and family in (socket.AF_INET, socket.AF_INET6):
                yield Held(index, ip_interface((packed, prefix)))

    def add_address(self, index: int, address: Interface) -> None:
        """Adds an address with its prefix length; the kernel adds the route of that network. EEXIST if it is there.

        IPv6 addresses skip duplicate address detection: nobody answers it in a tunnel, and it would delay them.
        """
        self._address(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, index, address)

    def remove_address(self, index: int, address: Interface) -> None:
        """Removes an address. EADDRNOTAVAIL if it is not there."""
        self._address(RTM_DELADDR, 0, index, address)

    def _address(self, kind: int, flags: int, index: int, address: Interface) -> None:
        family = _family(address.version)
        address_flags = _IFA_F_NODAD if family == socket.AF_INET6 else 0
        header = _IFADDRMSG.pack(family, address.network.prefixlen, address_flags, _RT_SCOPE_UNIVERSE, index)
        packed = address.ip.packed
        self.request(kind, flags, header + attribute(_IFA_LOCAL, packed) + attribute(_IFA_ADDRESS, packed))

    # ---- routes ----

    def routes(self, *, interface: int | None = None, protocol: int = 0) -> Iterator[Route]:
        """The routes of all tables that go straight into an interface, or are of a protocol. (The kernel picks them
        out: a router's table may have a million others.)"""
        for family in (socket.AF_INET, socket.AF_INET6):
            header = _RTMSG.pack(family, 0, 0, 0, 0, protocol, 0, 0, 0)
            narrowed = header if interface is None else header + u32(_RTA_OIF, interface)
            for body in self._dump(_RTM_GETROUTE, narrowed):
                route = _parse_route(body)
                if route is None or (protocol and route.protocol != protocol):
                    continue
                if interface is None or route.interface == interface:
                    yield route

    def add_route(self, route: Route) -> None:
        """Adds a route. EEXIST if its table has one of that network and metric, whatever interface it names; ENETDOWN
        while the interface is down."""
        self.request(RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, _pack_route(route))

    def remove_route(self, route: Route) -> None:
        """Removes a route. ESRCH if it is not there."""
        self.request(RTM_DELROUTE, 0, _pack_route(route))

    # ---- rules ----

    def rules(self) -> Iterator[Rule]:
        """Every rule that points to a table."""
        for family in (socket.AF_INET, socket.AF_INET6):
            for body in self._dump(_RTM_GETRULE, _RULE_HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0)):
                rule = _parse_rule(body)
                if rule is not None:
                    yield rule

    def add_rule(self, rule: Rule) -> None:
        """Adds a rule. EEXIST if it is there."""
        self.request(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, _pack_rule(rule))

    def remove_rule(self, rule: Rule) -> None:
        """Removes a rule. ENOENT if it is not there."""
        self.request(RTM_DELRULE, 0, _pack_rule(rule))

    def _dump(self, kind: int, body: bytes) -> list[bytes]:
        try:
            return self.dump(kind, body)
        except NetlinkError as error:
            if error.errno in _NO_SUCH_FAMILY:
                return []
            raise


# ---- bytes ----


def _pack_route(route: Route) -> bytes:
    family = _family(route.network.version)
    kind = _RTN_UNREACHABLE if route.interface is None else _RTN_UNICAST
    linked = family == socket.AF_INET and route.interface is not None
    scope = _RT_SCOPE_LINK if linked else _RT_SCOPE_UNIVERSE
    table = route.table if route.table < 256 else 0
    body = _RTMSG.pack(family, route.network.prefixlen, 0, 0, table, route.protocol, scope, kind, 0)
    body += attribute(_RTA_DST, route.network.network_address.packed) + u32(_RTA_TABLE, route.table)
    if route.interface is not None:
        body += u32(_RTA_OIF, route.interface)
    if route.metric:
        body += u32(_RTA_PRIORITY, route.metric)
    if route.source is not None:
        body += attribute(_RTA_PREFSRC, route.source.packed)
    return body


def _parse_route(body: bytes) -> Route | None:
    """None for what is neither a route straight into an interface nor an unreachable one."""
    family, prefix, _src, _tos, table, protocol, _scope, kind, flags = _RTMSG.unpack_from(body)
    if kind not in (_RTN_UNICAST, _RTN_UNREACHABLE) or flags & _RTM_F_CLONED:
        return None
    values = dict(_attributes(body[_RTMSG.size :]))
    version = _version(family)
    network = ip_network((values.get(_RTA_DST, bytes(4 if version == 4 else 16)), prefix))
    interface = None if kind == _RTN_UNREACHABLE else _number(values.get(_RTA_OIF))
    source = values.get(_RTA_PREFSRC)
    return Route(
        network,
        interface,
        _number(values.get(_RTA_TABLE), table),
        _number(values.get(_RTA_PRIORITY)),
        None if source is None else ip_address(source),
        protocol,
    )


def _pack_rule(rule: Rule) -> bytes:
    flags = 0 if rule.unmarked is None else _FIB_RULE_INVERT
    table = rule.table if rule.table < 256 else 0
    length = 0 if rule.endpoint is None else rule.endpoint[0].max_prefixlen
    body = _RULE_HEADER.pack(_family(rule.version), length, 0, 0, table, 0, 0, _FR_ACT_TO_TBL, flags)
    body += u32(_FRA_PRIORITY, rule.priority) + u32(_FRA_TABLE, rule.table)
    body += attribute(_FRA_PROTOCOL, bytes([rule.protocol]))
    if rule.unmarked is not None:
        body += u32(_FRA_FWMARK, rule.unmarked)
    if rule.suppressed is not None:
        body += u32(_FRA_SUPPRESS_PREFIXLEN, rule.suppressed)
    if rule.endpoint is not None:
        address, port = rule.endpoint
        body += attribute(_FRA_DST, address.packed) + _udp_port(_FRA_DPORT_RANGE, port)
    if rule.lookups_of is not None:
        body += attribute(_FRA_UID_RANGE, _UIDS.pack(rule.lookups_of, rule.lookups_of))
        body += _udp_port(_FRA_DPORT_RANGE, _DNS_PORT)
    if rule.own_port is not None:
        body += attribute(_FRA_IIFNAME, b"lo\0") + _udp_port(_FRA_SPORT_RANGE, rule.own_port)
    return body


def _udp_port(which: int, port: int) -> bytes:
    return attribute(_FRA_IP_PROTO, bytes([socket.IPPROTO_UDP])) + attribute(which, _PORTS.pack(port, port))


def _parse_rule(body: bytes) -> Rule | None:
    family, _dst, _src, _tos, table, _, _, action, flags = _RULE_HEADER.unpack_from(body)
    if action != _FR_ACT_TO_TBL:
        return None
    values = dict(_attributes(body[_RULE_HEADER.size :]))
    suppressed = _number(values.get(_FRA_SUPPRESS_PREFIXLEN), _NO_SUPPRESSION)
    endpoint = None
    if _FRA_DST in values and _FRA_DPORT_RANGE in values:
        endpoint = ip_address(values[_FRA_DST]), _PORTS.unpack_from(values[_FRA_DPORT_RANGE])[0]
    own_port = None
    if _FRA_IIFNAME in values and _FRA_SPORT_RANGE in values:
        own_port = _PORTS.unpack_from(values[_FRA_SPORT_RANGE])[0]
    uids = _UIDS.unpack_from(values.get(_FRA_UID_RANGE, _UIDS.pack(*_ALL_UIDS)))
    return Rule(
        _version(family),
        _number(values.get(_FRA_PRIORITY)),
        _number(values.get(_FRA_TABLE), table),
        _number(values.get(_FRA_FWMARK)) if flags & _FIB_RULE_INVERT else None,
        None if suppressed == _NO_SUPPRESSION else suppressed,
        endpoint,
        None if uids == _ALL_UIDS else uids[0],
        own_port,
        values.get(_FRA_PROTOCOL, b"\0")[0],
    )


def _number(value: bytes | None, absent: int = 0) -> int:
    """An attribute of 32 bits, in host byte order."""
    return absent if value is None else int(struct.unpack_from("=I", value)[0])


# ---- notices ----


def link_state(body: bytes) -> tuple[int, bool, int]:
    """Of a notice about a link: its index, whether it is up and has a carrier, and how many times it got one (0 where
    the kernel does not say). (0, False, 0) for what is none."""
    if len(body) < _IFINFOMSG.size:
        return 0, False, 0
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(body)
    count = dict(_attributes(body[_IFINFOMSG.size :])).get(_IFLA_CARRIER_UP_COUNT, bytes(4))
    return index, flags & _CARRIES == _CARRIES, int.from_bytes(count, sys.byteorder)


def held_address(body: bytes) -> tuple[int, bytes, bool]:
    """Of a notice about an address: the interface, the packed address, and whether it can be used yet (RFC 4862, 5.4).
    (0, b"", False) for what is none."""
    if len(body) < _IFADDRMSG.size:
        return 0, b"", False
    _, _, flags, _, index = _IFADDRMSG.unpack_from(body)
    values = dict(_attributes(body[_IFADDRMSG.size :]))
    packed = values.get(_IFA_LOCAL, values.get(_IFA_ADDRESS, b""))
    return index, packed, bool(packed) and not flags & _IFA_F_TENTATIVE


def leads_to(body: bytes, hosts: Collection[bytes]) -> bool:
    """Of a notice about a route: whether packets to one of these packed addresses may take it. Not one of ours."""
    if len(body) < _RTMSG.size or not hosts:
        return False
    family, prefix, _src, _tos, table, protocol, _scope, kind, flags = _RTMSG.unpack_from(body)
    if kind != _RTN_UNICAST or protocol == PROTOCOL or table == _TABLE_LOCAL or flags & _RTM_F_CLONED:
        return False
    size = 4 if family == socket.AF_INET else 16
    network = dict(_attributes(body[_RTMSG.size :])).get(_RTA_DST, bytes(size))
    if len(network) != size or not 0 <= prefix <= 8 * size:
        return False
    rest = 8 * size - prefix
    return any(
        len(host) == size and int.from_bytes(host, "big") >> rest == int.from_bytes(network, "big") >> rest
        for host in hosts
    )


def concerns(kind: int, body: bytes, interface: int) -> bool:
    """Whether a notice of the kernel may be about what a node keeps: its interface, its routes and rules, or the
    addresses of others, whose networks it must not take. False for the routes of others, of which there may be many."""
    if kind not in (RTM_NEWROUTE, RTM_DELROUTE):
        return True
    if len(body) < _RTMSG.size or body[5] == PROTOCOL:
        return True
    return any(key == _RTA_OIF and _number(value) == interface for key, value in _attributes(body[_RTMSG.size :]))
