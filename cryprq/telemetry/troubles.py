"""Why peers are not there, as far as this node knows: the last failure with each of them, until it is there again."""

from collections import OrderedDict
from typing import Final

from cryprq.peer_id import PeerId

REMEMBERED_MAX: Final = 1024
"""Peers with a failure that is remembered: strangers cannot fill more than that."""


class Troubles:
    """What ``cryprq status`` and ``cryprq doctor`` tell of it; a line each."""

    def __init__(self) -> None:
        self._by_peer: OrderedDict[PeerId, str] = OrderedDict()
        self.denied: PeerId | None = None
        """Who was refused last because it is not on the allowlist, having proven who it is."""

    def of(self, peer: PeerId) -> str:
        """What went wrong the last time; empty: nothing since the tunnel was up."""
        return self._by_peer.get(peer, "")

    def note(self, peer: PeerId, what: str, hint: str | None) -> None:
        """It has happened just now."""
        self._by_peer[peer] = what if hint is None else f"{what}: {hint}"
        self._by_peer.move_to_end(peer)
        if len(self._by_peer) > REMEMBERED_MAX:
            self._by_peer.popitem(last=False)

    def over(self, peer: PeerId) -> None:
        """The tunnel is up."""
        self._by_peer.pop(peer, None)
        if self.denied == peer:
            self.denied = None
