"""What the configuration says of single peers, as entries of the registry."""

from collections.abc import Mapping

from cryprq.config.node_config import NodeConfig
from cryprq.peer_id import PeerId
from cryprq.registry.entries import PeerEntry, Source


def declared(config: NodeConfig) -> Mapping[PeerId, PeerEntry]:
    """An entry for each peer that is on the list or has a name; a successor has what its predecessor has but the
    name."""
    dialled = (address.peer_id for address in config.peers if address.peer_id is not None)
    found = {}
    for peer_id in dict.fromkeys((*config.allow_peers, *dialled, *config.peer_names)):
        found[peer_id] = PeerEntry(
            peer_id=peer_id,
            name=config.peer_names.get(peer_id, ""),
            networks=config.allow_peers.get(peer_id, ()),
            groups=config.peer_groups.get(peer_id, ()),
            expires=config.peer_expires.get(peer_id),
            disabled=peer_id in config.disabled_peers,
            psk_file=config.psk_files.get(peer_id),
            successor=config.successors.get(peer_id),
            source=Source.CONFIG,
        )
    return found


def barred(entry: PeerEntry | None, now: float) -> str:
    """Why a peer may not connect at this Unix time, though it is known: ``disabled`` or ``expired``; empty: it may."""
    if entry is None or entry.active(now):
        return ""
    return "disabled" if entry.disabled else "expired"
