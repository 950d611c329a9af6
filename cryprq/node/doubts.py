"""What a node is told to do and hardly should on this machine: said once when it starts, and by ``--check``.

Each doubt is one line. That a machine cannot be asked is none.
"""

from collections.abc import Collection, Iterator, Sequence
from ipaddress import ip_address
from typing import Final

from cryprq.config.node_config import NodeConfig
from cryprq.linux.surroundings import ELSEWHERE, local_networks, way_to
from cryprq.multiaddr import Multiaddr
from cryprq.networks import Network, covering, overlapping
from cryprq.peer_id import PeerId
from cryprq.registry.leases import capacity

_RECORD: Final = 32
"""Header and tag of a record (docs/protocol.md, section 4)."""
_OUTER: Final = {4: 20 + 8, 6: 40 + 8}
"""IP and UDP headers around it, by IP version."""


def of_configuration(config: NodeConfig, registered: Collection[PeerId] = ()) -> tuple[str, ...]:
    """What is doubtful wherever the node runs. ``registered``: the peers that its registry knows."""
    nobody = () if registered else _nobody(config)
    stray = (*_stray_keys(config, registered), *_stray_names(config, registered))
    silent = (*_listens_alone(config), *_shared_addresses(config))
    return (*config.doubts, *nobody, *stray, *silent, *_small_pool(config), *_far_name_servers(config))


def of_machine(config: NodeConfig) -> tuple[str, ...]:
    """What is doubtful here and now. To be asked before the tunnel is up, which would be among the answers."""
    return (*_tunnel_in_lan(config), *_ways(config))


def _nobody(config: NodeConfig) -> Iterator[str]:
    if config.listen and not (config.allow_any or config.allow_peers or config.peers):
        yield "nobody may connect: name the dialers with --allow-peer ID, or add them with cryprq peer add ID"


def _stray_keys(config: NodeConfig, registered: Collection[PeerId]) -> Iterator[str]:
    named = {*config.allow_peers, *(peer.peer_id for peer in config.peers), *registered}
    for peer_id, path in config.psk_files.items():
        if peer_id not in named and not config.allow_any:
            yield f"--psk-file has {path} for {peer_id}, which is neither allowed nor dialled"


def _stray_names(config: NodeConfig, registered: Collection[PeerId]) -> Iterator[str]:
    """A name alone lets nobody in."""
    named = {*config.allow_peers, *(peer.peer_id for peer in config.peers), *registered}
    for peer_id, name in config.peer_names.items():
        if peer_id not in named and not config.allow_any:
            yield f"--peer-name {name} is that of {peer_id}, which is neither allowed nor dialled"


def _listens_alone(config: NodeConfig) -> Iterator[str]:
    if config.listen and all(ip_address(each.host).is_loopback for each in config.listen):
        yield f"--listen {config.listen[0]}: only programs of this host can reach it; /ip4/0.0.0.0 is for others"


def _shared_addresses(config: NodeConfig) -> Iterator[str]:
    """A network behind two peers is a spare way to it; an address is one peer's own."""
    owners: dict[Network, PeerId] = {}
    successors = set(config.successors.items())
    for peer_id, networks in config.allow_peers.items():
        for network in networks:
            owner = owners.setdefault(network, peer_id)
            if network.num_addresses == 1 and owner != peer_id and (owner, peer_id) not in successors:
                yield f"{network} is given to both {owner} and {peer_id}: only one at a time can have it"


def _far_name_servers(config: NodeConfig) -> Iterator[str]:
    """Dialers pass over servers that are not in the networks that they are told of."""
    told = [*(address.network for address in config.tun_addresses), *config.routes]
    for server in config.dns:
        if covering(told, str(server)) is None:
            yield f"--dns {server} is in no network of this gateway, so dialers pass over it: add a --route to it"


def _small_pool(config: NodeConfig) -> Iterator[str]:
    if not config.listen:
        return
    dialled = {peer.peer_id for peer in config.peers}
    wanting = sum(not networks and peer_id not in dialled for peer_id, networks in config.allow_peers.items())
    by_hand = {network for networks in config.allow_peers.values() for network in networks}
    for gateway in config.tun_addresses:
        room = capacity(gateway, by_hand)
        if room < wanting:
            yield f"{wanting} peers are to get an address, and {gateway.network} has {room}: use a wider --tun-address"


def _tunnel_in_lan(config: NodeConfig) -> Iterator[str]:
    lans = list(local_networks(without=config.tun_name))
    for address in config.tun_addresses:
        for name, network in lans:
            if overlapping(address.network, [network]) is not None:
                yield (
                    f"--tun-address {address} is in {network}, where {name} is: hosts on one side will not be reached; "
                    "use a network that is nowhere else"
                )


def _ways(config: NodeConfig) -> Iterator[str]:
    """Peers to which there is no way, and ways that are too narrow."""
    for peer in config.peers:
        if peer.is_numeric:
            try:
                yield from _narrow(config.mtu, peer.host, way_to(peer.host).mtu)
            except OSError as error:
                hint = "this machine has no IPv6 address or route" if ":" in peer.host else "is the network up?"
                yield f"--peer {peer}: there is no way to {peer.host} ({error.strerror}): {hint}"
    for host in _others(config.listen):
        try:
            yield from _narrow(config.mtu, host, way_to(host).mtu)
        except OSError:
            continue  # it may have peers in its own network, or none by this IP version


def _others(listen: Sequence[Multiaddr]) -> Iterator[str]:
    """An address of each IP version that dialers may have."""
    for host in ELSEWHERE:
        if any(each.protocol == "ip6" or ip_address(host).version == 4 for each in listen):
            yield host


def _narrow(mtu: int, host: str, path: int) -> Iterator[str]:
    around = _RECORD + _OUTER[ip_address(host).version]
    if mtu + around > path:
        where = "the way to dialers" if host in ELSEWHERE else f"the way to {host}"
        yield (
            f"--mtu {mtu} makes datagrams of {mtu + around} bytes, and {where} takes {path}: senders are told to "
            f"make their packets smaller; --mtu {path - around} spares them that"
        )
