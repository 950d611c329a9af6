"""Tokens for peers: who was here before shows it in its first datagram, and is let past what strangers have to pass.

A peer gets one in each M4, and sends it as the token of its next dial's Initial packets (RFC 9000, 8.1.3, whose
NEW_TOKEN frames TLS alone would protect here). On its way it can be seen and copied. So it says nothing to who reads
it, only the newest of a peer counts, it serves a few times, and is worth nothing once its use has led to a session. It
proves no address: a Retry is spared, the limit on what is sent to an unproven one is not.
"""

import hmac
import os
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from cryprq.protocol.clock import Realtime
from cryprq.protocol.key_schedule import open_once, seal_once

PEER_TOKEN: Final = 2
"""The first byte of one, which tells it from a Retry token."""
PEER_TOKEN_LIFETIME: Final = 30 * 24 * 3600.0
"""Seconds of Unix time. A session may last for weeks, and its token is for the day on which its gateway restarts."""
PEER_TOKEN_USES: Final = 8
"""Connections that one token begins. A dial may begin several, one for each address and second; what is more is not
from a peer that needs it."""
PEERS_MAX: Final = 65_536
"""Peers of whom it is known how far they are with theirs, as many as the data plane has room for. Only guests can be
more, by coming and going; of those that were forgotten the age alone counts."""
_SKEW: Final = 60.0
"""So much may this machine's clock be set back while a token is out."""
_SALT_SIZE: Final = 16
_TIME_SIZE: Final = 8
_DIGEST_SIZE: Final = 32
_PREFIX: Final = bytes((PEER_TOKEN,))
_SIZE: Final = 1 + _SALT_SIZE + _DIGEST_SIZE + _TIME_SIZE + 16


@dataclass(frozen=True, slots=True)
class PeerToken:
    """What a good one says."""

    peer: bytes
    """The digest of the peer ID that it was given to."""
    serial: int
    """When, in microseconds of Unix time. A peer's next one has a higher one."""


@dataclass(slots=True)
class _Entry:
    serial: int
    uses: int


class PeerTokens:
    """Makes and checks tokens: 2 || salt (16) || AES-256-GCM(peer (32) || serial (8)) and its tag (16).

    Each has a key of its own, HMAC-SHA-256 of the salt under the listener's. That one comes from its identity, so that
    tokens outlive a restart, when many peers come back at once. How often each served is in memory only.
    """

    def __init__(self, key: bytes, *, lifetime: float = PEER_TOKEN_LIFETIME) -> None:
        """``key`` is the listener's (32 bytes)."""
        self._key = key
        self._lifetime = lifetime
        self._peers: OrderedDict[bytes, _Entry] = OrderedDict()  # least recent first

    def __len__(self) -> int:
        return len(self._peers)

    def make(self, peer: bytes, now: Realtime) -> bytes:
        """A token for the peer with that digest; those that it had before are worth nothing any more."""
        entry = self._entry(peer)
        entry.serial, entry.uses = max(_microseconds(now), entry.serial + 1), 0
        salt = os.urandom(_SALT_SIZE)
        plaintext = peer + entry.serial.to_bytes(_TIME_SIZE, "big")
        return _PREFIX + salt + seal_once(self._key_of(salt), _PREFIX, plaintext)

    def check(self, token: bytes, now: Realtime) -> PeerToken | None:
        """What it says, None if it is not good (any more). Changes nothing."""
        if len(token) != _SIZE or token[0] != PEER_TOKEN:
            return None
        salt, sealed = token[1 : 1 + _SALT_SIZE], token[1 + _SALT_SIZE :]
        plaintext = open_once(self._key_of(salt), _PREFIX, sealed)
        if plaintext is None:
            return None
        peer, serial = plaintext[:_DIGEST_SIZE], int.from_bytes(plaintext[_DIGEST_SIZE:], "big")
        if not -_SKEW <= now - serial / 1e6 <= self._lifetime:
            return None
        entry = self._peers.get(peer)
        if entry is not None and (serial < entry.serial or (serial == entry.serial and entry.uses >= PEER_TOKEN_USES)):
            return None
        return PeerToken(peer, serial)

    def use(self, token: PeerToken) -> None:
        """A connection begins with it."""
        entry = self._entry(token.peer)
        if token.serial > entry.serial:  # of the time before this run
            entry.serial, entry.uses = token.serial, 0
        entry.uses += 1

    def revoke(self, peer: bytes, now: Realtime) -> None:
        """Those that are out for that peer are worth nothing from now on, if it has one at all: nobody is remembered
        only for having been refused."""
        entry = self._peers.get(peer)
        if entry is not None:
            entry.serial, entry.uses = max(_microseconds(now), entry.serial), PEER_TOKEN_USES

    def _entry(self, peer: bytes) -> _Entry:
        entry = self._peers.get(peer)
        if entry is None:
            if len(self._peers) >= PEERS_MAX:
                self._peers.popitem(last=False)
            entry = self._peers[peer] = _Entry(0, 0)
        self._peers.move_to_end(peer)
        return entry

    def _key_of(self, salt: bytes) -> bytes:
        return hmac.digest(self._key, salt, "sha256")


def _microseconds(now: Realtime) -> int:
    return max(0, int(now * 1e6))
