"""An invitation: a secret that lets whoever shows it first become a peer (protocol, 3.1, *invitations*).

The listener makes the secret and keeps what follows from it; the token with the secret goes to the new node's host by
a way that people trust. The new node's first M3 has a proof of the secret that is good for its identity and for that
handshake alone.
"""

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Self

from cryprq import base58
from cryprq.multiaddr import Multiaddr, Protocol
from cryprq.peer_id import PeerId
from cryprq.protocol import key_schedule
from cryprq.protocol.constants import HASH_SIZE, INVITATION_ID_SIZE, INVITATION_SECRET_SIZE
from cryprq.protocol.frames import Cursor, FrameError

PREFIX: Final = "cryprq1"
"""What every token begins with; the digit is the version of its form."""
ADDRESSES_MAX: Final = 4
"""Of a listener in one token."""
TEXT_MAX: Final = 1600
"""Characters of the longest token: four names of 253 bytes."""

_VERSION: Final = 1
_CHECK_SIZE: Final = 4
_PROTOCOLS: Final[tuple[Protocol, ...]] = ("ip4", "ip6", "dns", "dns4", "dns6")


@dataclass(frozen=True, slots=True)
class Keys:
    """What follows from the secret of an invitation."""

    invitation: bytes
    """Its ID: 8 bytes, by which the listener finds it."""
    key: bytes = field(repr=False)
    """Of the proof: 32 bytes."""

    @classmethod
    def of(cls, secret: key_schedule.Secret, responder: PeerId) -> Self:
        """Of an invitation to the listener ``responder``: at any other one the same secret is worth nothing."""
        prk = key_schedule.extract(responder.digest, secret)
        try:
            identifier = key_schedule.expand(prk, b"cryprq v2 invitation id", INVITATION_ID_SIZE)
            return cls(bytes(identifier), bytes(key_schedule.expand(prk, b"cryprq v2 invitation key")))
        finally:
            key_schedule.wipe(prk)

    def prove(self, th2: bytes, initiator: PeerId) -> "Proof":
        """The proof for the handshake with that transcript hash, and for that dialer."""
        return Proof(self.invitation, _mac(self.key, th2, initiator))


@dataclass(frozen=True, slots=True)
class Proof:
    """That a dialer knows the secret of an invitation: parameter 13 of M3."""

    invitation: bytes
    """Which one: 8 bytes."""
    mac: bytes
    """32 bytes."""

    def encode(self) -> bytes:
        return self.invitation + self.mac

    @classmethod
    def take(cls, cursor: Cursor) -> Self:
        """FrameError for what ``encode`` would not write."""
        proof = cls(cursor.take(INVITATION_ID_SIZE), cursor.take(HASH_SIZE))
        cursor.end()
        return proof

    def verify(self, key: bytes, th2: bytes, initiator: PeerId) -> bool:
        """Whether it is that of the invitation with this key; in constant time."""
        return hmac.compare_digest(self.mac, _mac(key, th2, initiator))


@dataclass(frozen=True, slots=True)
class Token:
    """What a new node is given: whom it dials, where, and the secret. ``spell`` gives one word of base58."""

    responder: PeerId
    addresses: tuple[Multiaddr, ...]
    """1 to 4, without a peer ID."""
    secret: bytes = field(repr=False)
    """16 random bytes."""

    @classmethod
    def make(cls, responder: PeerId, addresses: Sequence[Multiaddr]) -> Self:
        """A new one; ValueError for none or too many addresses."""
        if not 0 < len(addresses) <= ADDRESSES_MAX:
            raise ValueError(f"an invitation has 1 to {ADDRESSES_MAX} addresses, not {len(addresses)}")
        bare = tuple(replace(address, peer_id=None) for address in addresses)
        return cls(responder, bare, secrets.token_bytes(INVITATION_SECRET_SIZE))

    @property
    def keys(self) -> Keys:
        """What proves it."""
        return Keys.of(self.secret, self.responder)

    def spell(self) -> str:
        """The token as text, the secret included."""
        body = bytes((_VERSION,)) + self.responder.digest + self.secret + b"".join(map(_encode_address, self.addresses))
        return PREFIX + base58.spell(int.from_bytes(body + _check(body), "big"))

    @classmethod
    def parse(cls, text: str) -> Self:
        """The token that ``text`` spells. ValueError with one line that does not show it: it is a secret."""
        text = text.strip()
        if not text.startswith(PREFIX):
            raise ValueError(f"that is no invitation: one begins with {PREFIX}, as `cryprq invite` prints it")
        number = base58.value(text[len(PREFIX) :]) if len(text) <= TEXT_MAX else None
        raw = b"" if number is None else number.to_bytes((number.bit_length() + 7) // 8, "big")
        body, check = raw[:-_CHECK_SIZE], raw[-_CHECK_SIZE:]
        if not body or not hmac.compare_digest(check, _check(body)):
            raise ValueError("the invitation is damaged: copy it once more, as a whole")
        cursor = Cursor(body)
        try:
            if cursor.u8() != _VERSION:
                raise ValueError("the invitation is of a newer CrypRQ: this node needs that version")
            responder, secret = PeerId(cursor.take(HASH_SIZE)), cursor.take(INVITATION_SECRET_SIZE)
            addresses = []
            while cursor.remaining:
                addresses.append(_take_address(cursor))
        except FrameError:
            raise ValueError("the invitation is damaged: ask for another one") from None
        if not 0 < len(addresses) <= ADDRESSES_MAX:
            raise ValueError("the invitation says nowhere to dial: ask for another one")
        return cls(responder, tuple(addresses), secret)


def _mac(key: bytes, th2: bytes, initiator: PeerId) -> bytes:
    return hmac.digest(key, th2 + initiator.digest, "sha256")


def _check(body: bytes) -> bytes:
    """Against mistakes of typing and copying, not against people."""
    return hashlib.sha256(b"cryprq v2 invitation check" + body).digest()[:_CHECK_SIZE]


def _encode_address(address: Multiaddr) -> bytes:
    if address.protocol == "ip4":
        host = IPv4Address(address.host).packed
    elif address.protocol == "ip6":
        host = IPv6Address(address.host).packed
    else:
        name = address.host.encode("ascii")
        host = bytes((len(name),)) + name
    return bytes((_PROTOCOLS.index(address.protocol),)) + address.port.to_bytes(2, "big") + host


def _take_address(cursor: Cursor) -> Multiaddr:
    """FrameError or ValueError for what ``_encode_address`` would not write."""
    number = cursor.u8()
    if number >= len(_PROTOCOLS):
        raise FrameError(f"address of kind {number}")
    protocol, port = _PROTOCOLS[number], cursor.u16()
    if protocol == "ip4":
        host = str(IPv4Address(cursor.take(4)))
    elif protocol == "ip6":
        host = str(IPv6Address(cursor.take(16)))
    else:
        host = cursor.take(cursor.u8()).decode("ascii", "replace")
    return Multiaddr.parse(f"/{protocol}/{host}/udp/{port}/quic-v1")
