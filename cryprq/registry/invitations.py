"""Invitations as the registry keeps them: what each grants, until when, and the key by which it is proven."""

import json
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any, Final, Self

from cryprq.networks import Network
from cryprq.peer_id import PeerId
from cryprq.peer_name import peer_name
from cryprq.registry.entries import PeerEntry
from cryprq.registry.store import ABSENT, Delete, Expect, Op, Put

INVITATION_PREFIX: Final = "invite/"
_ID_SIZE: Final = 8
_KEY_SIZE: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Invitation:
    """One that was not used yet."""

    identifier: bytes
    """8 bytes: what a dialer's M3 says (docs/protocol.md, 3.1, *invitations*)."""
    key: bytes = field(repr=False)
    """Of the proof, 32 bytes. It follows from the secret, which is not kept: nobody can read the token here."""
    name: str
    """What the peer will be called; it is reserved."""
    networks: tuple[Network, ...] = ()
    """The peer's allowed IPs; empty: it gets an address."""
    groups: tuple[str, ...] = ()
    expires: float
    """Unix time from which it is worth nothing."""
    peer_expires: float | None = None
    """Unix time from which the peer may not connect any more; None: never."""
    invited_by: str
    made: float
    """Unix time."""

    @property
    def store_key(self) -> str:
        """Where it lies in a store."""
        return f"{INVITATION_PREFIX}{self.identifier.hex()}"

    def usable(self, now: float) -> bool:
        """Whether somebody may become a peer by it at this Unix time: one that could not connect is none."""
        return now < self.expires and (self.peer_expires is None or now < self.peer_expires)

    def entry(self, peer: PeerId) -> PeerEntry:
        """What is known of the peer that has used it."""
        return PeerEntry(
            peer_id=peer,
            name=self.name,
            networks=self.networks,
            groups=self.groups,
            expires=self.peer_expires,
            invited_by=self.invited_by,
        )

    def encode(self) -> bytes:
        """Its value in a store."""
        document = {
            "key": self.key.hex(),
            "name": self.name,
            "networks": list(map(str, self.networks)),
            "groups": list(self.groups),
            "expires": self.expires,
            "peer_expires": self.peer_expires,
            "invited_by": self.invited_by,
            "made": self.made,
        }
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, key: str, value: bytes) -> Self:
        """ValueError for what is none."""
        document: Any = json.loads(value)
        try:
            identifier, secret = bytes.fromhex(key.removeprefix(INVITATION_PREFIX)), bytes.fromhex(document["key"])
            if len(identifier) != _ID_SIZE or len(secret) != _KEY_SIZE:
                raise ValueError("its ID or its key has a wrong size")
            peer_expires = document["peer_expires"]
            return cls(
                identifier=identifier,
                key=secret,
                name=peer_name(document["name"]),
                networks=tuple(ip_network(str(network)) for network in document["networks"]),
                groups=tuple(map(str, document["groups"])),
                expires=float(document["expires"]),
                peer_expires=None if peer_expires is None else float(peer_expires),
                invited_by=str(document["invited_by"]),
                made=float(document["made"]),
            )
        except (KeyError, TypeError, AttributeError):
            raise ValueError("a field is missing or has a wrong type") from None

    # ---- what is committed ----

    def offer_ops(self, name_key: str) -> list[Op]:
        """It is there, and its name is taken. Conflict if the name is."""
        return [
            Expect(name_key, ABSENT),
            Expect(self.store_key, ABSENT),
            Put(name_key, self.store_key.encode()),
            Put(self.store_key, self.encode()),
        ]

    def withdraw_ops(self, version: int, name_key: str) -> list[Op]:
        """It is gone, and its name is free. Conflict if somebody has used it meanwhile."""
        return [Expect(self.store_key, version), Delete(self.store_key), Delete(name_key)]

    def redeem_ops(self, version: int, name_key: str, peer: PeerId) -> list[Op]:
        """It is used up, and the peer has what it grants. Conflict if somebody was quicker."""
        entry = self.entry(peer)
        return [
            Expect(self.store_key, version),
            Expect(entry.key, ABSENT),
            Delete(self.store_key),
            Put(entry.key, entry.encode()),
            Put(name_key, str(peer).encode()),
        ]
