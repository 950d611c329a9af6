"""Tunnel parameters: the TLVs (type u8, length u16, value) in M3 and M4.

1 addresses and 2 routes: a list of family u8 (4 or 6), prefix length u8, address (4 or 16 bytes); 3 MTU, 4 rotate_secs
and 5 keepalive: u16; 6 name servers: a list of family u8, address; 7 search: a list of length u8, domain; 8 messages: a
list of u8, ascending; 9 lanes and 10 rotate_floor: u16; 11 serial: 8 bytes and u64; 12 ecn: empty; 13 invitation: 8 and
32 bytes; 16 token: bytes that only the listener reads. A type may occur once, in any order; unknown types are skipped;
anything else that ``encode`` would not write is an error.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import Final, Self, TypeVar

from cryprq.dns import NameServerAddress, domain, server_fault
from cryprq.networks import Interface, Network
from cryprq.protocol import invitation as invitations
from cryprq.protocol.constants import (
    ADDRESSES_MAX,
    KEEPALIVE_MAX,
    LANES_MAX,
    MESSAGES_FIRST,
    MESSAGES_LAST,
    MTU_MIN,
    MTU_PARAMETER_MAX,
    NAME_SERVERS_MAX,
    ROTATE_FLOOR_MAX,
    ROTATE_SECS_MAX,
    ROTATE_SECS_MIN,
    ROUTES_MAX,
    SEARCH_MAX,
    SERIAL_LIFE_SIZE,
    TOKEN_MAX,
)
from cryprq.protocol.frames import Cursor, FrameError


class ParameterType(IntEnum):
    """The TLV types."""

    ADDRESSES = 1
    ROUTES = 2
    MTU = 3
    ROTATE_SECS = 4
    KEEPALIVE = 5
    NAME_SERVERS = 6
    SEARCH = 7
    MESSAGES = 8
    LANES = 9
    ROTATE_FLOOR = 10
    SERIAL = 11
    ECN = 12
    INVITATION = 13
    LANE_PORTS = 14
    TOKEN = 16


_NUMBERS: Final = {
    ParameterType.MTU: (MTU_MIN, MTU_PARAMETER_MAX),
    ParameterType.ROTATE_SECS: (ROTATE_SECS_MIN, ROTATE_SECS_MAX),
    ParameterType.KEEPALIVE: (0, KEEPALIVE_MAX),
    ParameterType.LANES: (1, LANES_MAX),
    ParameterType.ROTATE_FLOOR: (ROTATE_SECS_MIN, ROTATE_FLOOR_MAX),
}

_T = TypeVar("_T")


@dataclass(frozen=True)
class Serial:
    """The place of a session among those that one peer has dialled, as the listener numbers them."""

    life: bytes
    """8 random bytes: whose numbers can be compared with one another."""
    number: int
    """The later a handshake was complete at the listener, the larger; u64."""

    def encode(self) -> bytes:
        return self.life + self.number.to_bytes(8, "big")

    @classmethod
    def take(cls, cursor: Cursor) -> Self:
        """FrameError for what ``encode`` would not write."""
        serial = cls(cursor.take(SERIAL_LIFE_SIZE), int.from_bytes(cursor.take(8), "big"))
        cursor.end()
        return serial


@dataclass(frozen=True)
class Parameters:
    """What one end tells the other about the tunnel. Absent values are None or empty."""

    addresses: tuple[Interface, ...] = ()
    """Tunnel addresses that the listener assigns to the dialer, with the tunnel network's prefix length."""
    routes: tuple[Network, ...] = ()
    """Networks that the listener announces."""
    mtu: int | None = None
    """Of the TUN, in bytes: 576..65535."""
    rotate_secs: int | None = None
    """5..3600; both ends use the smaller one, but no less than either's ``rotate_floor``."""
    keepalive: int | None = None
    """Seconds without a record after which this end wants an empty one from the other; 0 is off."""
    name_servers: tuple[NameServerAddress, ...] = ()
    """Name servers in the tunnel that the listener has for the dialer, the preferred one first."""
    search: tuple[str, ...] = ()
    """Domains that those know, as ``cryprq.dns.domain`` writes them."""
    token: bytes = field(default=b"", repr=False)
    """What the dialer shows the listener in the first datagram of its next dial; at most ``TOKEN_MAX`` bytes."""
    messages: tuple[int, ...] = ()
    """The types of in-band messages that this end acts on, ascending; 0x10..0x1f."""
    lanes: int | None = None
    """On how many lanes this end receives at most, so the other sends on no more; 1..64."""
    rotate_floor: int | None = None
    """The least interval between rotations that this end agrees to, in seconds: 5..300."""
    serial: Serial | None = None
    """Of the session, by which the dialer knows the later of two whose M4s have crossed."""
    ecn: bool = False
    """This end minds the ECN field of the records that it is sent (RFC 6040): they may have that of what is inside."""
    invitation: invitations.Proof | None = None
    """By which the dialer asks to become a peer of the listener."""

    lane_ports: bool = False
    """Of the dialer: each of its lanes but the first would have a port of its own; of the listener: it may."""

    def encode(self) -> bytes:
        """The TLVs. ValueError for a value out of its range, so that what ``encode`` writes ``decode`` reads."""
        parts = []
        if self.addresses:
            parts.append(_tlv(ParameterType.ADDRESSES, _encode_list(self.addresses, ADDRESSES_MAX)))
        if self.routes:
            parts.append(_tlv(ParameterType.ROUTES, _encode_list(self.routes, ROUTES_MAX)))
        numbers = (self.mtu, self.rotate_secs, self.keepalive, self.lanes, self.rotate_floor)
        for (kind, (low, high)), value in zip(_NUMBERS.items(), numbers, strict=True):
            if value is not None:
                if not low <= value <= high:
                    raise ValueError(f"{kind.name.lower()} {value} is not in {low}..{high}")
                parts.append(_tlv(kind, value.to_bytes(2, "big")))
        if self.name_servers:
            parts.append(_tlv(ParameterType.NAME_SERVERS, _encode_servers(self.name_servers)))
        if self.search:
            parts.append(_tlv(ParameterType.SEARCH, _encode_search(self.search)))
        if self.token:
            if len(self.token) > TOKEN_MAX:
                raise ValueError(f"a token has at most {TOKEN_MAX} bytes, not {len(self.token)}")
            parts.append(_tlv(ParameterType.TOKEN, self.token))
        if self.messages:
            if not _are_messages(self.messages):
                raise ValueError(f"{self.messages} are not ascending types of messages")
            parts.append(_tlv(ParameterType.MESSAGES, bytes(self.messages)))
        if self.serial is not None:
            parts.append(_tlv(ParameterType.SERIAL, self.serial.encode()))
        if self.ecn:
            parts.append(_tlv(ParameterType.ECN, b""))
        if self.invitation is not None:
            parts.append(_tlv(ParameterType.INVITATION, self.invitation.encode()))
        if self.lane_ports:
            parts.append(_tlv(ParameterType.LANE_PORTS, b""))
        return b"".join(parts)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Reads what ``encode`` writes. ``FrameError``, and nothing else, for anything it would not write."""
        cursor = Cursor(data)
        seen: set[int] = set()
        addresses: tuple[Interface, ...] = ()
        routes: tuple[Network, ...] = ()
        numbers: dict[int, int] = {}
        name_servers: tuple[NameServerAddress, ...] = ()
        search: tuple[str, ...] = ()
        token = b""
        messages: tuple[int, ...] = ()
        serial: Serial | None = None
        ecn = False
        invitation: invitations.Proof | None = None
        lane_ports = False
        while cursor.remaining:
            kind = cursor.u8()
            value = Cursor(cursor.take(cursor.u16()))
            if kind in seen:
                raise FrameError(f"parameter {kind} occurs twice")
            seen.add(kind)
            if kind == ParameterType.ADDRESSES:
                addresses = _decode_list(value, ADDRESSES_MAX, _interface)
            elif kind == ParameterType.ROUTES:
                routes = _decode_list(value, ROUTES_MAX, ip_network)
            elif kind == ParameterType.TOKEN:
                token = value.rest()
                if not 0 < len(token) <= TOKEN_MAX:
                    raise FrameError(f"a token of {len(token)} bytes")
            elif kind in _NUMBERS:
                numbers[kind] = _decode_number(value, *_NUMBERS[ParameterType(kind)])
            elif kind == ParameterType.NAME_SERVERS:
                name_servers = _decode_items(value, NAME_SERVERS_MAX, _server)
            elif kind == ParameterType.SEARCH:
                search = _decode_items(value, SEARCH_MAX, _domain)
            elif kind == ParameterType.MESSAGES:
                messages = tuple(value.take(value.remaining))
                if not _are_messages(messages):
                    raise FrameError(f"messages {messages}")
            elif kind == ParameterType.SERIAL:
                serial = Serial.take(value)
            elif kind == ParameterType.ECN:
                value.end()
                ecn = True
            elif kind == ParameterType.INVITATION:
                invitation = invitations.Proof.take(value)
            elif kind == ParameterType.LANE_PORTS:
                value.end()
                lane_ports = True
        return cls(
            addresses=addresses,
            routes=routes,
            mtu=numbers.get(ParameterType.MTU),
            rotate_secs=numbers.get(ParameterType.ROTATE_SECS),
            keepalive=numbers.get(ParameterType.KEEPALIVE),
            name_servers=name_servers,
            search=search,
            token=token,
            messages=messages,
            lanes=numbers.get(ParameterType.LANES),
            rotate_floor=numbers.get(ParameterType.ROTATE_FLOOR),
            serial=serial,
            ecn=ecn,
            invitation=invitation,
            lane_ports=lane_ports,
        )


def _are_messages(types: tuple[int, ...]) -> bool:
    in_range = all(MESSAGES_FIRST <= each <= MESSAGES_LAST for each in types)
    return bool(types) and in_range and sorted(set(types)) == list(types)


def _tlv(kind: ParameterType, value: bytes) -> bytes:
    return bytes((kind,)) + len(value).to_bytes(2, "big") + value


def _encode_list(items: Sequence[Interface | Network], most: int) -> bytes:
    _check_list(items, most)
    parts = []
    for item in items:
        if isinstance(item, IPv4Network | IPv6Network):
            address, prefix = item.network_address, item.prefixlen
        else:
            address, prefix = item.ip, item.network.prefixlen
        parts.append(bytes((item.version, prefix)) + address.packed)
    return b"".join(parts)


def _encode_servers(servers: Sequence[NameServerAddress]) -> bytes:
    _check_list(servers, NAME_SERVERS_MAX)
    for server in servers:
        if (fault := server_fault(server)) is not None:
            raise ValueError(fault)
    return b"".join(bytes((server.version,)) + server.packed for server in servers)


def _encode_search(search: Sequence[str]) -> bytes:
    _check_list(search, SEARCH_MAX)
    for name in search:
        if domain(name) != name:
            raise ValueError(f"{name!r} is not written as it should be")
    return b"".join(bytes((len(name),)) + name.encode("ascii") for name in search)


def _check_list(items: Sequence[object], most: int) -> None:
    if len(items) > most or len(set(items)) != len(items):
        raise ValueError(f"more than {most} entries, or one twice")


def _decode_list(cursor: Cursor, most: int, make: Callable[[tuple[bytes, int]], _T]) -> tuple[_T, ...]:
    def item(cursor: Cursor) -> _T:
        size, prefix = _address_size(cursor), cursor.u8()
        # A packed address and a prefix length that is out of range, or a route with host bits, are ValueErrors.
        return make((cursor.take(size), prefix))

    return _decode_items(cursor, most, item)


def _decode_items(cursor: Cursor, most: int, item: Callable[[Cursor], _T]) -> tuple[_T, ...]:
    """At least one and at most so many different items; ``item`` reads one, and a ValueError of it is a FrameError."""
    items: list[_T] = []
    while cursor.remaining:
        if len(items) == most:
            raise FrameError(f"more than {most} entries")
        try:
            items.append(item(cursor))
        except ValueError as error:
            raise FrameError(str(error)) from None
    if not 0 < len(items) <= most or len(set(items)) != len(items):
        raise FrameError(f"{len(items)} entries, not 1..{most} different ones")
    return tuple(items)


def _address_size(cursor: Cursor) -> int:
    family = cursor.u8()
    if family not in (4, 6):
        raise FrameError(f"address family {family}")
    return 4 if family == 4 else 16


def _server(cursor: Cursor) -> NameServerAddress:
    address = ip_address(cursor.take(_address_size(cursor)))
    if (fault := server_fault(address)) is not None:
        raise ValueError(fault)
    return address


def _domain(cursor: Cursor) -> str:
    text = cursor.take(cursor.u8()).decode("ascii")
    if domain(text) != text:
        raise ValueError("a domain that is not in lower case, or ends with a dot")
    return text


def _interface(value: tuple[bytes, int]) -> Interface:
    interface = ip_interface(value)
    address: IPv4Address | IPv6Address = interface.ip
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise ValueError(f"{address} cannot be an interface's address")
    return interface


def _decode_number(cursor: Cursor, low: int, high: int) -> int:
    value = cursor.u16()
    cursor.end()
    if not low <= value <= high:
        raise FrameError(f"{value} is not in {low}..{high}")
    return value
