"""An address of this host that others may reach it at, for a listener that listens on all of them."""

import fcntl
import socket
import struct
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path
from typing import Final

_SIOCGIFADDR: Final = 0x8915
_IF_INET6: Final = Path("/proc/net/if_inet6")
# Addresses that are never assigned (RFC 5737, RFC 3849): a route lookup for them shows the way to everywhere else.
_ELSEWHERE: Final = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def reachable_address(family: int, *, without: str) -> str:
    """A numeric address that is not loopback, link-local or of the interface ``without`` (the tunnel's own).

    Where the default route leaves from comes first, IPv4 before IPv6; then any other. ``family`` AF_INET allows IPv4
    only, AF_INET6 both (dual stack). The loopback address if the host has no other.
    """
    families = (socket.AF_INET,) if family == socket.AF_INET else (socket.AF_INET, socket.AF_INET6)
    own = set(_interface_addresses(families, only=without))
    candidates = (*_route_sources(families), *_interface_addresses(families, without=without))
    usable = (address for address in candidates if address not in own and not _is_local(address))
    return next(usable, "127.0.0.1" if family == socket.AF_INET else "::1")


def _route_sources(families: tuple[int, ...]) -> Iterator[str]:
    for family, destination in _ELSEWHERE:
        if family not in families:
            continue
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as sock:
                sock.connect((destination, 9))  # chooses a source; nothing is sent
                yield str(sock.getsockname()[0])
        except OSError:
            continue


def _interface_addresses(families: tuple[int, ...], *, without: str = "lo", only: str | None = None) -> Iterator[str]:
    names = [name for _, name in socket.if_nameindex() if name not in ("lo", without) and only in (None, name)]
    if socket.AF_INET in families:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for name in names:
                try:
                    answer = fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("16s24x", name.encode()))
                except OSError:
                    continue  # it has no IPv4 address
                yield socket.inet_ntoa(answer[20:24])
    if socket.AF_INET6 in families:
        try:
            lines = _IF_INET6.read_text(encoding="ascii").splitlines()
        except OSError:
            return  # IPv6 is off
        for line in lines:
            address, _index, _prefix, _scope, _flags, name = line.split()
            if name in names:
                yield str(IPv6Address(bytes.fromhex(address)))


def _is_local(address: str) -> bool:
    if ":" in address:
        return IPv6Address(address).is_link_local or IPv6Address(address).is_loopback
    return address.startswith(("127.", "169.254.", "0."))
