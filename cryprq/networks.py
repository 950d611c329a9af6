"""What ``ipaddress`` lacks: one name for networks of either IP version, and how they lie to each other."""

from collections.abc import Iterable
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network
Interface = IPv4Interface | IPv6Interface

_WIDEST = {4: 8, 6: 7}  # fc00::/7 is the widest network with a use of its own


def amounts_to_default(network: Network) -> bool:
    """True for a default route, and for what is so wide that it is one in pieces."""
    return network.prefixlen < _WIDEST[network.version]


def covering(networks: Iterable[Network], host: str) -> Network | None:
    """The first network that contains the numeric address ``host`` (a zone is ignored), or None."""
    address = ip_address(host.partition("%")[0])
    return next((network for network in networks if address.version == network.version and address in network), None)


def overlapping(network: Network, others: Iterable[Network]) -> Network | None:
    """The first of the other networks that shares an address with ``network``, or None."""
    return next((other for other in others if other.version == network.version and _overlap(network, other)), None)


def _overlap(one: Network, other: Network) -> bool:
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.overlaps(other)
    return isinstance(other, IPv6Network) and one.overlaps(other)


def within(network: Network, outer: Network) -> bool:
    """True if every address of ``network`` is one of ``outer``."""
    if isinstance(network, IPv4Network):
        return isinstance(outer, IPv4Network) and network.subnet_of(outer)
    return isinstance(outer, IPv6Network) and network.subnet_of(outer)


def host_networks(addresses: Iterable[Interface]) -> tuple[Network, ...]:
    """Each interface address as the network of just that address (/32, /128)."""
    return tuple(ip_network(address.ip) for address in addresses)
