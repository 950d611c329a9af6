"""What a node can work with: checks of one value, for the table's rows, and of several options together.

``..._fault`` returns what is wrong with one value as a text that begins with the value, or None. The others raise
ConfigError.
"""

import os
import re
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, ip_network
from pathlib import Path
from typing import Final

from cryprq.config.allow_entries import Allowed
from cryprq.dns import PRIVATE_TOP_DOMAINS, NameServerAddress, domain, is_public_top
from cryprq.errors import ConfigError, MachineError
from cryprq.multiaddr import Multiaddr
from cryprq.networks import Interface, Network, amounts_to_default, covering, overlapping
from cryprq.peer_id import PeerId
from cryprq.protocol import kem
from cryprq.protocol.constants import (
    ADDRESSES_MAX,
    KEM_NAMES,
    MTU_MIN_IPV6,
    NAME_SERVERS_MAX,
    ROUTES_MAX,
    SEARCH_MAX,
)
from cryprq.protocol.liboqs import LiboqsMissing

ROUTE_TABLES: Final = ("auto", "main", "off")

LISTEN_MAX: Final = 8
"""Addresses to listen at: each has a socket for every worker, which looks at all of its own (CQ_GROUPS_MAX)."""
PEER_ADDRESSES_MAX: Final = 8
"""Of one peer: with a quarter of a second between them, the last one is tried after two seconds."""
DSCP_MAX: Final = 63
_TABLE_MAX: Final = 999_999_999
_TABLE_LOCAL: Final = 255
"""The kernel's own, with this host's addresses (RT_TABLE_LOCAL)."""
_SOCKET_PATH_MAX: Final = 107
"""Bytes of a Unix socket's path (unix(7): sun_path has 108 with its end)."""
_TUN_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,15}", re.ASCII)  # IFNAMSIZ is 16 with the terminator


# ---- one value ----


def listen_fault(value: Multiaddr) -> str | None:
    if not value.is_numeric:
        return f"{value}: a node listens on an address, not on a name; use /ip4/... or /ip6/..."
    if value.peer_id is not None:
        return f"{value}: leave out /p2p/...; a node listens under its own identity"
    return None


def peer_fault(value: Multiaddr) -> str | None:
    if value.peer_id is None:
        return f"{value} does not say who is there: add /p2p/ID, the peer_id in that node's listener_ready line"
    if value.port == 0:
        return f"{value}: port 0 cannot be dialled"
    return None


def tun_name_fault(value: str) -> str | None:
    if not _TUN_NAME.fullmatch(value) or value in (".", ".."):
        return f"{value!r} is no interface name: up to 15 letters, digits, '_', '.' or '-'"
    return None


def tun_address_fault(value: Interface) -> str | None:
    address, network = value.ip, value.network
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        return f"{value}: not an address that a host can have in a tunnel"
    has_edges = network.max_prefixlen - network.prefixlen >= 2
    last_is_broadcast = isinstance(address, IPv4Address)
    if has_edges and (
        address == network.network_address or (last_is_broadcast and address == network.broadcast_address)
    ):
        return f"{value} is the network itself, or its broadcast address, not a host"
    return None


def route_fault(value: Network) -> str | None:
    if value.prefixlen == 0:
        return f"{value}: a default route is not announced; give the dialers --allow-peer ID=CIDR,... instead"
    return None


def search_fault(value: str) -> str | None:
    try:
        written = domain(value)
    except ValueError as error:
        return str(error)
    if written != value:
        return f"{value} is to be written as {written}"
    if is_public_top(value):
        return f"{value}: a domain of one label is told only if it is {', '.join(sorted(PRIVATE_TOP_DOMAINS))}"
    return None


def program_fault(value: Path) -> str | None:
    return None if value.is_absolute() else f"{value} is not an absolute path"


def mark_fault(value: int) -> str | None:
    return None if 1 <= value <= 0xFFFFFFFF else f"{value} is out of range: 1 to 0xffffffff"


def socket_path_fault(value: Path) -> str | None:
    length = len(os.fsencode(value))
    if length > _SOCKET_PATH_MAX:
        return f"{value} is too long for a Unix socket: {length} bytes, and {_SOCKET_PATH_MAX} is the most"
    return None


def route_table_fault(value: int | str) -> str | None:
    if isinstance(value, int) and not 1 <= value <= _TABLE_MAX:
        return f"{value} is no routing table: 1 to {_TABLE_MAX}"
    if value == _TABLE_LOCAL:
        return f"{value} is the kernel's table of this host's own addresses; take another one"
    if isinstance(value, str) and value not in ROUTE_TABLES:
        return f"{value!r} is unknown; valid are {', '.join(ROUTE_TABLES)} and a table's number"
    return None


def dscp_fault(value: int | str) -> str | None:
    if isinstance(value, int) and not 0 <= value <= DSCP_MAX:
        return f"{value} is no DSCP: 0 to {DSCP_MAX} (46 is expedited forwarding), or inherit"
    return None


# ---- several together ----


def check_purpose(
    listen: Sequence[Multiaddr],
    peers: Sequence[Multiaddr],
    routes: Sequence[Network],
    dns: Sequence[NameServerAddress],
    search: Sequence[str],
) -> None:
    """A node listens or dials, or both; what is told to dialers, a listener tells."""
    if not listen and not peers:
        raise ConfigError("nothing to do: give --listen MULTIADDR, --peer MULTIADDR/p2p/ID, or both")
    if not listen and routes:
        raise ConfigError("--route needs --listen: it announces the networks behind a listener to its dialers")
    if not listen and (dns or search):
        raise ConfigError("--dns and --search need --listen: they name a listener's name servers to its dialers")


def check_listen(listen: Sequence[Multiaddr]) -> None:
    """The addresses are not too many, and none of them has another one's datagrams."""
    if len(listen) > LISTEN_MAX:
        raise ConfigError(f"--listen: {len(listen)} addresses, and {LISTEN_MAX} are the most")
    for number, address in enumerate(listen):
        for other in listen[:number]:
            if address == other:
                raise ConfigError(f"--listen: {address} is given twice")
            if address.port and address.port == other.port:
                wide, narrow = (other, address) if _includes(other, address) else (address, other)
                if _includes(wide, narrow):
                    raise ConfigError(f"--listen: {narrow} is a part of {wide}; leave it out, or give it another port")


def _includes(wide: Multiaddr, narrow: Multiaddr) -> bool:
    """Whether a socket at the one address would have the datagrams of the other, too. (/ip6/:: is dual-stack.)"""
    return wide.host == "::" or (wide.host == "0.0.0.0" and narrow.protocol == "ip4")


def check_announced(addresses: Sequence[Interface], routes: Sequence[Network]) -> None:
    """What a listener tells its dialers fits into the message."""
    if not addresses:
        raise ConfigError("a listener needs its own address in the tunnel: give --tun-address, e.g. 10.9.0.1/24")
    told = {*(address.network for address in addresses), *routes}
    if len(addresses) > ADDRESSES_MAX or len(told) > ROUTES_MAX:
        raise ConfigError(
            f"a listener tells its dialers up to {ADDRESSES_MAX} --tun-address and {ROUTES_MAX} networks,"
            f" not {len(addresses)} and {len(told)}: use fewer and wider --route"
        )


def check_dns(dns: Sequence[NameServerAddress], search: Sequence[str]) -> None:
    """What a listener tells of name servers fits into the message, and is of use."""
    if search and not dns:
        raise ConfigError("--search needs --dns: who is to be asked about those domains?")
    for flag, given, most in (("--dns", dns, NAME_SERVERS_MAX), ("--search", search, SEARCH_MAX)):
        if len(given) > most:
            raise ConfigError(f"a listener tells its dialers up to {most} {flag}, not {len(given)}")
        if len(set(given)) != len(given):
            twice = next(each for each in given if given.count(each) > 1)
            raise ConfigError(f"{flag}: {twice} is given twice")


def check_peers(listen: Sequence[Multiaddr], peers: Iterable[Multiaddr]) -> None:
    """The addresses of each peer are different ones, not too many to be tried, and can be reached from the node's
    socket."""
    seen: dict[PeerId | None, set[Multiaddr]] = {}
    for peer in peers:
        known = seen.setdefault(peer.peer_id, set())
        if peer in known:
            raise ConfigError(f"--peer: {peer} is given twice")
        known.add(peer)
        if len(known) > PEER_ADDRESSES_MAX:
            raise ConfigError(f"--peer: more than {PEER_ADDRESSES_MAX} addresses of {peer.peer_id}")
        if len(listen) == 1 and not _family_fits(listen[0], peer):  # with several, there is one more to dial from
            raise ConfigError(
                f"--peer {peer} cannot be reached from --listen {listen[0]}: one socket serves both; "
                "listen on /ip6/:: for IPv4 and IPv6"
            )


def _family_fits(listen: Multiaddr, peer: Multiaddr) -> bool:
    """Whether a socket bound to ``listen`` can send to the peer. /ip6/:: is dual-stack, a given address is not."""
    version = {"ip4": 4, "dns4": 4, "ip6": 6, "dns6": 6}.get(peer.protocol)
    if version is None or (listen.protocol == "ip6" and listen.host == "::"):
        return True
    return version == (4 if listen.protocol == "ip4" else 6)


def check_addresses(addresses: Sequence[Interface], mtu: int) -> None:
    """The addresses in the tunnel have a network each, and IPv6 has the MTU that it needs."""
    for number, interface in enumerate(addresses):
        if interface.version == 6 and mtu < MTU_MIN_IPV6:
            raise ConfigError(f"--mtu {mtu} is too small for --tun-address {interface}: IPv6 needs {MTU_MIN_IPV6}")
        earlier = (other.network for other in addresses[:number])
        if (other := overlapping(interface.network, earlier)) is not None:
            raise ConfigError(f"--tun-address {interface}: its network overlaps {other} of another --tun-address")


def check_owners(allow_peers: Allowed, addresses: Iterable[Interface]) -> None:
    """No peer has an address of this node. (Several may have one network: one owns it, the others stand by.)"""
    own = {ip_network(interface.ip) for interface in addresses}
    for peer, networks in allow_peers.items():
        for network in networks:
            if network in own:
                raise ConfigError(f"--allow-peer {peer}: {network} is this node's own --tun-address")


def spares_endpoint(network: Network, route_table: int | str) -> bool:
    """Whether records for an endpoint in this network stay out of the tunnel all the same: by rules of the node
    (``auto``), or of whoever makes the routes (``off``)."""
    return route_table == "off" or (route_table == "auto" and amounts_to_default(network))


def check_endpoints(
    peers: Iterable[Multiaddr], allow_peers: Allowed, addresses: Sequence[Interface], route_table: int | str
) -> None:
    """No network in the tunnel has the endpoint of a dialled peer in it, as far as addresses are known: those of a
    name are checked when it has been resolved. What policy routing takes care of may."""
    for dialled in peers:
        if dialled.peer_id is None or not dialled.is_numeric:
            continue
        networks = [n for n in allow_peers.get(dialled.peer_id, ()) if not spares_endpoint(n, route_table)]
        _check_endpoint(dialled, networks, f"--allow-peer {dialled.peer_id}")
        _check_endpoint(dialled, (interface.network for interface in addresses), "--tun-address")


def _check_endpoint(dialled: Multiaddr, networks: Iterable[Network], source: str) -> None:
    network = covering(networks, dialled.host)
    if network is not None:
        raise ConfigError(
            f"{source}: {network} covers the peer's own endpoint {dialled.host}, so the tunnel would swallow itself; "
            "use narrower networks that leave it out, or --route-table auto with the whole of 0.0.0.0/0 and ::/0"
        )


def check_kems(names: Iterable[str]) -> None:
    """This machine can do them. MachineError where it cannot."""
    for number, name in KEM_NAMES.items():
        if name in names:
            try:
                kem.require(number)
            except LiboqsMissing as error:
                raise MachineError(f"--kem {name}: {error}") from None


def check_rotation(rotate_secs: int, rotate_min_secs: int) -> None:
    if rotate_min_secs > rotate_secs:
        raise ConfigError(f"--rotate-min-secs {rotate_min_secs} is above --rotate-secs {rotate_secs}")


def check_backoff(base_ms: int, max_ms: int) -> None:
    if base_ms > max_ms:
        raise ConfigError(f"--backoff-base-ms {base_ms} is above --backoff-max-ms {max_ms}")
