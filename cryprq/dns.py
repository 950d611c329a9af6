"""Name servers and search domains: what may be one, and what a host is to ask whom."""

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

NameServerAddress = IPv4Address | IPv6Address

DOMAIN_MAX: Final = 253
"""Characters of a name without the dot at its end (RFC 1035, 2.3.4: 255 bytes on the wire)."""
PRIVATE_TOP_DOMAINS: Final = frozenset({"corp", "home", "internal", "intranet", "lan", "private"})
"""Names of one label that sites use for themselves and that are nobody's (RFC 6762, appendix G)."""

_DOMAIN: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*", re.ASCII)


@dataclass(frozen=True, slots=True)
class DnsSettings:
    """Whom a host asks about names in and beyond some domains."""

    servers: tuple[NameServerAddress, ...]
    """At least one, in order of preference."""
    search: tuple[str, ...] = ()
    """Domains that these servers are asked about, and by which names of one label are completed."""
    everything: bool = False
    """Whether they are asked about all other names, too, and no other server is."""


def domain(text: str) -> str:
    """A domain as it is written here: lower case, without the dot at its end. ValueError if it is none: labels of up to
    63 letters, digits and hyphens, no hyphen at an edge (RFC 1123, 2.1). Nothing else ever gets into a file or onto a
    command line."""
    name = text.lower().removesuffix(".") if text.isascii() else text
    if len(name) > DOMAIN_MAX or not _DOMAIN.fullmatch(name):
        raise ValueError(f"{text[: DOMAIN_MAX + 2]!r} is not a domain such as corp.example")
    return name


def is_public_top(name: str) -> bool:
    """Whether a domain has one label and is, or may become, everybody's, as ``com`` is: who is asked about it is asked
    about a large part of all names."""
    return "." not in name and name not in PRIVATE_TOP_DOMAINS


def server_fault(address: NameServerAddress) -> str | None:
    """Why no host asks a name server there, as a text that begins with the address; None: it can."""
    nobody = address.is_unspecified or address.is_loopback or address.is_multicast or address.is_link_local
    if isinstance(address, IPv4Address):
        nobody = nobody or address.is_reserved or address.packed[0] == 0
    else:
        nobody = nobody or address.ipv4_mapped is not None
    return f"{address} is not an address that a name server in a tunnel can have" if nobody else None
