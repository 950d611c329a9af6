"""What is around this host: the networks that it is in, and how it reaches an address. Nothing is sent."""

import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Final, NamedTuple

from cryprq.networks import Network

_ROUTES: Final = Path("/proc/net/route")
_ROUTES6: Final = Path("/proc/net/ipv6_route")
_RTF_GATEWAY: Final = 0x0002
_RTF_REJECT: Final = 0x0200
_RTF_LOCAL: Final = 0x80000000
_IP_MTU: Final = 14
_IPV6_MTU: Final = 24
ELSEWHERE: Final = ("192.0.2.1", "2001:db8::1")
"""Addresses that are never assigned (RFC 5737, RFC 3849): the way to them is the way to everywhere else."""


def local_networks(*, without: str) -> Iterator[tuple[str, Network]]:
    """The networks that this host is in, with the interface; not those of ``without``, nor link-local ones."""
    for line in _lines(_ROUTES)[1:]:
        name, destination, _gateway, flags, _, _, _, mask, *_ = line.split()
        prefix = int.from_bytes(bytes.fromhex(mask), "big").bit_count()
        if name not in ("lo", without) and not int(flags, 16) & (_RTF_GATEWAY | _RTF_REJECT) and prefix:
            yield name, IPv4Network((struct.pack("<I", int(destination, 16)), prefix))
    for line in _lines(_ROUTES6):
        destination, length, _, _, _gateway, _, _, _, flags, name = line.split()
        network = IPv6Network((bytes.fromhex(destination), int(length, 16)))
        unusual = int(flags, 16) & (_RTF_GATEWAY | _RTF_REJECT | _RTF_LOCAL)
        special = network.is_link_local or network.is_multicast or network.prefixlen in (0, 128)
        if name not in ("lo", without) and not unusual and not special:
            yield name, network


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii").splitlines()
    except OSError:
        return []  # IPv6 is off, or there is no /proc


class Way(NamedTuple):
    """How this host reaches an address."""

    source: str
    """Its own address there."""
    mtu: int
    """The largest packet that fits, as far as it knows: its own link's, or less that routers have told it."""


def way_to(host: str, mark: int = 0, source: str | None = None) -> Way:
    """The way of packets with that mark (SO_MARK), and perhaps from that address of this host, to a numeric address.
    OSError: there is none."""
    if ip_address(host).version == 4:
        family, level, option = socket.AF_INET, socket.IPPROTO_IP, _IP_MTU
    else:
        family, level, option = socket.AF_INET6, socket.IPPROTO_IPV6, _IPV6_MTU
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        if mark:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, mark)
        if source is not None:
            sock.bind((source, 0))
        sock.connect((host, 9))  # asks the routes; nothing is sent
        return Way(sock.getsockname()[0], sock.getsockopt(level, option))
