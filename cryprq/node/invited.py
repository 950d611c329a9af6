"""The invitation by which this node becomes known to a gateway: shown at each dial until there is a session."""

from pathlib import Path
from typing import Protocol

from cryprq.config.invitation_file import InvitationError, forget_invitation, load_invitation
from cryprq.peer_id import PeerId
from cryprq.protocol.invitation import Keys


class InvitedObserver(Protocol):
    """Is told what becomes of it."""

    def invitation_used(self, peer_id: PeerId) -> None: ...
    def invitation_kept(self, peer_id: PeerId, error: str) -> None: ...


class Invited:
    """Keeps what proves the invitation, in memory and in its file, as long as it is of use."""

    def __init__(self, path: Path | None, observer: InvitedObserver) -> None:
        """``path`` is ``--invitation-file``. InvitationError if that cannot be read."""
        self._path = path
        self._observer = observer
        token = load_invitation(path) if path is not None else None
        self.keys: dict[PeerId, Keys] = {} if token is None else {token.responder: token.keys}
        """What an M3 shows, and whom."""

    def connected(self, peer_id: PeerId) -> None:
        """There is a session with that gateway: it knows this node now."""
        if self._path is None or self.keys.pop(peer_id, None) is None:
            return
        try:
            forget_invitation(self._path)
        except InvitationError as error:
            self._observer.invitation_kept(peer_id, str(error))
        else:
            self._observer.invitation_used(peer_id)
