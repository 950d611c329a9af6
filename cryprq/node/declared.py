"""What the configuration says of single peers, as entries of the registry."""

from collections.abc import Mapping

from cryprq.config.node_config import NodeConfig
from cryprq.peer_id import PeerId
from cryprq.registry.entries import PeerEntry, Source


def declared(config: NodeConfig, origin: str) -> Mapping[PeerId, PeerEntry]:
    """An entry for each peer that is on the list, or is dialled and has more said of it than where it is. A name alone
    lets nobody in. ``origin`` as in the entries."""
    said = (config.peer_names, config.peer_groups, config.peer_expires, config.disabled_peers)
    dialled = (address.peer_id for address in config.peers if address.peer_id is not None)
    known = (*config.allow_peers, *(peer_id for peer_id in dialled if any(peer_id in each for each in said)))
    return {
        peer_id: PeerEntry(
            peer_id=peer_id,
            name=config.peer_names.get(peer_id, ""),
            networks=config.allow_peers.get(peer_id, ()),
            groups=config.peer_groups.get(peer_id, ()),
            expires=config.peer_expires.get(peer_id),
            disabled=peer_id in config.disabled_peers,
            successor=config.successors.get(peer_id),
            psk_file=config.psk_files.get(peer_id),
            source=Source.CONFIG,
            origin=origin,
        )
        for peer_id in dict.fromkeys(known)
    }
