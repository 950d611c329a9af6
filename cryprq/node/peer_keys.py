"""The pre-shared keys of all peers: of those that the configuration names, and of those in the registry."""

import secrets
from collections.abc import Callable, Mapping

from cryprq.config import psk_file
from cryprq.peer_id import PeerId
from cryprq.protocol.constants import PSK_SIZE
from cryprq.registry.entries import PeerEntry, Source


def peer_keys(
    files: psk_file.Files,
    entries: Mapping[PeerId, PeerEntry],
    before: Mapping[PeerId, bytearray],
    failed: Callable[[PeerId, str], None],
) -> dict[PeerId, bytearray]:
    """Each peer's key, which the caller wipes. What the configuration says of a peer (``files``) counts; PskError if
    one of those cannot be read, with nothing left in memory.

    Where one of the registry's cannot be, ``failed`` is told, and the key of ``before`` stays. Without that, the peer's
    key is one that nobody has: to let it in with none at all is not what somebody has asked for.
    """
    keys = psk_file.load_all(files)
    for peer, entry in entries.items():
        if entry.psk_file is None or entry.source is not Source.REGISTRY or peer in files:
            continue
        try:
            keys[peer] = psk_file.load_psk(entry.psk_file)
        except psk_file.PskError as error:
            failed(peer, str(error))
            kept = before.get(peer)
            keys[peer] = bytearray(kept if kept is not None else secrets.token_bytes(PSK_SIZE))
    return keys
