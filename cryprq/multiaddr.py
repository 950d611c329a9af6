"""The part of the multiaddr notation that the flags take: ``/ip4/203.0.113.7/udp/9999/quic-v1[/p2p/PEER-ID]``.

Also ``/ip6``, ``/dns`` (either family), ``/dns4`` and ``/dns6``. See https://github.com/multiformats/multiaddr.
"""

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address
from typing import Final, Literal, Self, cast

from cryprq.peer_id import PeerId

Protocol = Literal["ip4", "ip6", "dns", "dns4", "dns6"]

_PROTOCOLS: Final = ("ip4", "ip6", "dns", "dns4", "dns6")
_FORM: Final = "/ip4/ADDRESS/udp/PORT/quic-v1[/p2p/PEER-ID] (or /ip6, /dns, /dns4, /dns6)"
_LABEL: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", re.ASCII)
_PORT: Final = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Multiaddr:
    """A UDP address that speaks QUIC v1, and perhaps who is to be found there. ``str()`` gives the canonical text."""

    protocol: Protocol
    host: str
    """A numeric address in its canonical form, or a DNS name."""
    port: int
    """0..65535; 0 lets the system choose, where listening."""
    peer_id: PeerId | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """The address that ``text`` spells; ValueError with one line that says what is wrong with it."""
        shown = repr(text if len(text) <= 120 else text[:117] + "...")
        parts = text.split("/")
        if len(parts) not in (6, 8) or parts[0]:
            raise ValueError(f"{shown} is not a multiaddr of the form {_FORM}{_meant(text)}")
        protocol, host, transport, port, quic = parts[1:6]
        if protocol not in _PROTOCOLS:
            raise ValueError(f"{shown} begins with /{protocol}: expected {_FORM}")
        if transport != "udp" or quic != "quic-v1":
            raise ValueError(f"{shown} is not UDP with QUIC v1: expected {_FORM}")
        try:
            host = _check_host(protocol, host)
            if not _PORT.fullmatch(port) or int(port) > 0xFFFF:
                raise ValueError(f"{port!r} is not a port")
            peer_id = None
            if len(parts) == 8:
                if parts[6] != "p2p":
                    raise ValueError(f"/{parts[6]} where /p2p/PEER-ID is expected")
                peer_id = PeerId.parse(parts[7])
        except ValueError as error:
            raise ValueError(f"bad multiaddr {shown}: {error}") from None
        return cls(cast(Protocol, protocol), host, int(port), peer_id)

    @property
    def is_numeric(self) -> bool:
        """Whether ``host`` is an address and not a name."""
        return self.protocol in ("ip4", "ip6")

    def __str__(self) -> str:
        suffix = "" if self.peer_id is None else f"/p2p/{self.peer_id}"
        return f"/{self.protocol}/{self.host}/udp/{self.port}/quic-v1{suffix}"


def _meant(text: str) -> str:
    """The multiaddr of a HOST:PORT, which other programs take; empty if it is none."""
    host, _, port = text.partition("/")[0].rpartition(":")
    if not _PORT.fullmatch(port) or not host:
        return ""
    try:
        address = ip_address(host.strip("[]"))
    except ValueError:
        return f"; for that, /dns/{host}/udp/{port}/quic-v1" if ":" not in host else ""
    return f"; for that, /ip{address.version}/{address}/udp/{port}/quic-v1"


def _check_host(protocol: str, host: str) -> str:
    """The host in its canonical form; ValueError."""
    if protocol == "ip4":
        try:
            return str(IPv4Address(host))
        except AddressValueError:
            raise ValueError(f"{host!r} is not an IPv4 address") from None
    if protocol == "ip6":
        try:
            address = IPv6Address(host)
        except AddressValueError:
            raise ValueError(f"{host!r} is not an IPv6 address") from None
        if address.scope_id is not None:
            raise ValueError("an IPv6 address with a zone is not supported; use a global or unique local address")
        if address.ipv4_mapped is not None:
            raise ValueError(f"an IPv4-mapped address; write /ip4/{address.ipv4_mapped}")
        return str(address)
    name = host.removesuffix(".")
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in name.split(".")):
        raise ValueError(f"{host!r} is not a DNS name")
    return name
