"""A store's contents as the event loop asks for them: decoded, in memory, at one revision."""

from collections.abc import Mapping
from typing import Final

from cryprq.peer_id import PeerId
from cryprq.registry.entries import LEASE_PREFIX, PEER_PREFIX, Lease, PeerEntry
from cryprq.registry.invitations import INVITATION_PREFIX, Invitation
from cryprq.registry.leases import LeaseTable, leases_fault
from cryprq.registry.store import ABSENT, Batch, Change, Contents, Damaged

NAME_PREFIX: Final = "name/"
"""A name, and whose it is: so that two commits cannot give it to two peers."""


class Mirror:
    """Peers and leases as of ``revision``. Keys that it does not know are a newer version's, and left alone."""

    def __init__(self, leases: LeaseTable) -> None:
        self.revision = 0
        self.peers: Mapping[PeerId, PeerEntry] = {}
        """Another object whenever they change."""
        self.invitations: dict[bytes, Invitation] = {}
        """Those that were not used yet, by their ID."""
        self.leases = leases
        self._versions: dict[str, int] = {}

    def version(self, key: str) -> int:
        """The revision that put the key there; ``ABSENT``: it is not there."""
        return self._versions.get(key, ABSENT)

    def __contains__(self, key: str) -> bool:
        return key in self._versions

    def load(self, contents: Contents) -> frozenset[PeerId]:
        """Becomes what the store holds; returns the peers of which something else is known now. Damaged if that is no
        registry: then nothing has changed."""
        peers: dict[PeerId, PeerEntry] = {}
        leases: dict[PeerId, Lease] = {}
        invitations: dict[bytes, Invitation] = {}
        for key, entry in contents.entries.items():
            if key.startswith(PEER_PREFIX):
                peer = _decode_peer(key, entry.value)
                peers[peer.peer_id] = peer
            elif key.startswith(LEASE_PREFIX):
                leases[_peer_of(key, LEASE_PREFIX)] = _decode_lease(key, entry.value)
            elif key.startswith(INVITATION_PREFIX):
                invitation = _decode_invitation(key, entry.value)
                invitations[invitation.identifier] = invitation
        if (fault := leases_fault(leases)) is not None:
            raise Damaged(f"the registry is damaged: {fault}")
        before, self.peers, self.invitations = self.peers, peers, invitations
        for gone in self.leases:
            if gone not in leases:
                self.leases.record(gone, None)
        for holder, lease in leases.items():
            self.leases.record(holder, lease)
        self._versions = {key: entry.version for key, entry in contents.entries.items()}
        self.revision = contents.revision
        return frozenset(i for i in before.keys() | peers.keys() if before.get(i) != peers.get(i))

    def apply(self, batch: Batch) -> frozenset[PeerId]:
        """What a commit has changed, as for ``load``."""
        entries = {change.key: _decoded(change) for change in batch.changes}
        peers = dict(self.peers) if any(key.startswith(PEER_PREFIX) for key in entries) else self.peers
        changed = set()
        for key, entry in entries.items():
            if key.startswith(PEER_PREFIX) and isinstance(peers, dict):
                peer_id = _peer_of(key, PEER_PREFIX)
                changed.add(peer_id)
                if isinstance(entry, PeerEntry):
                    peers[peer_id] = entry
                else:
                    peers.pop(peer_id, None)
            elif key.startswith(LEASE_PREFIX):
                self.leases.record(_peer_of(key, LEASE_PREFIX), entry if isinstance(entry, Lease) else None)
            elif isinstance(entry, Invitation):
                self.invitations[entry.identifier] = entry
            elif key.startswith(INVITATION_PREFIX):
                self.invitations.pop(bytes.fromhex(key.removeprefix(INVITATION_PREFIX)), None)
        for change in batch.changes:
            if change.value is None:
                self._versions.pop(change.key, None)
            else:
                self._versions[change.key] = batch.revision
        self.peers, self.revision = peers, batch.revision
        return frozenset(changed)


def _decoded(change: Change) -> PeerEntry | Lease | Invitation | None:
    if change.value is None:
        return None
    if change.key.startswith(PEER_PREFIX):
        return _decode_peer(change.key, change.value)
    if change.key.startswith(INVITATION_PREFIX):
        return _decode_invitation(change.key, change.value)
    return _decode_lease(change.key, change.value) if change.key.startswith(LEASE_PREFIX) else None


def _decode_peer(key: str, value: bytes) -> PeerEntry:
    try:
        return PeerEntry.decode(key, value)
    except ValueError as error:
        raise Damaged(f"the registry is damaged: {key}: {error}") from None


def _decode_lease(key: str, value: bytes) -> Lease:
    try:
        return Lease.decode(key, value)
    except ValueError as error:
        raise Damaged(f"the registry is damaged: {key}: {error}") from None


def _decode_invitation(key: str, value: bytes) -> Invitation:
    try:
        return Invitation.decode(key, value)
    except ValueError as error:
        raise Damaged(f"the registry is damaged: {key}: {error}") from None


def _peer_of(key: str, prefix: str) -> PeerId:
    try:
        return PeerId.parse(key.removeprefix(prefix))
    except ValueError as error:
        raise Damaged(f"the registry is damaged: {key}: {error}") from None
