"""What is known of one peer, and of one lease: values, and their form in a store (JSON; unknown fields are kept)."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from pathlib import Path
from typing import Any, Final, Self

from cryprq.networks import Network
from cryprq.peer_id import PeerId
from cryprq.peer_name import peer_name

InnerAddress = IPv4Address | IPv6Address

PEER_PREFIX: Final = "peer/"
LEASE_PREFIX: Final = "lease/p/"
ADDRESS_PREFIX: Final = "lease/a/"


class Source(StrEnum):
    """Where it stands what is known of a peer."""

    CONFIG = "config"
    """In flags, the environment or a file: commands do not change it."""
    REGISTRY = "registry"


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerEntry:
    """What is known of one peer. Immutable; ``dataclasses.replace`` makes another one."""

    peer_id: PeerId
    name: str = ""
    """A label as ``cryprq.peer_name`` has them, no other peer's; empty: none."""
    networks: tuple[Network, ...] = ()
    """Its allowed IPs; empty: it gets an address of each tunnel network."""
    groups: tuple[str, ...] = ()
    expires: float | None = None
    """Unix time from which it may not connect any more; None: never."""
    disabled: bool = False
    """It keeps its place and its address, and may not connect."""
    invited_by: str = ""
    """Who made it known, as ``Actor`` shows it."""
    successor: PeerId | None = None
    """The ID that this peer is about to have: it may connect as well, and has this one's place."""
    psk_file: Path | None = None
    """Where the node that reads this has the key that it shares with the peer; an absolute path. The key itself is in
    no store."""
    source: Source = Source.REGISTRY
    origin: str = ""
    """Where in the configuration it stands, for people: ``--allow-peer``; empty for the registry."""
    extra: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Fields that a newer version has stored."""

    def active(self, now: float) -> bool:
        """Whether it may connect at this Unix time."""
        return not self.disabled and (self.expires is None or now < self.expires)

    def barred(self, now: float) -> str:
        """Why it may not connect at this Unix time: ``disabled`` or ``expired``; empty: it may."""
        return "" if self.active(now) else "disabled" if self.disabled else "expired"

    @property
    def key(self) -> str:
        """Where it lies in a store."""
        return f"{PEER_PREFIX}{self.peer_id}"

    def encode(self) -> bytes:
        """Its value there; ``source`` and ``origin`` are not part of it."""
        document = {
            **self.extra,
            "name": self.name,
            "networks": list(map(str, self.networks)),
            "groups": list(self.groups),
            "expires": self.expires,
            "disabled": self.disabled,
            "invited_by": self.invited_by,
        }
        if self.successor is not None:
            document["successor"] = str(self.successor)
        if self.psk_file is not None:
            document["psk_file"] = str(self.psk_file)
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, key: str, value: bytes) -> Self:
        """ValueError for what is none."""
        document = _object(value)
        known = {name: document.pop(name, None) for name in _PEER_FIELDS}
        expires = known["expires"]
        if not isinstance(known["disabled"], bool) or not isinstance(expires, int | float | None):
            raise ValueError(f"the entry {key} has fields of a wrong type")
        return cls(
            peer_id=PeerId.parse(key.removeprefix(PEER_PREFIX)),
            name=peer_name(_text(known["name"])) if known["name"] else "",
            networks=tuple(ip_network(_text(network)) for network in _list(known["networks"])),
            groups=tuple(map(_text, _list(known["groups"]))),
            expires=expires,
            disabled=known["disabled"],
            invited_by=_text(known["invited_by"] or ""),
            successor=None if known["successor"] is None else PeerId.parse(_text(known["successor"])),
            psk_file=None if known["psk_file"] is None else _path(known["psk_file"]),
            extra=document,
        )


_PEER_FIELDS: Final = (
    *("name", "networks", "groups", "expires", "disabled", "invited_by"),
    *("successor", "psk_file"),  # since schema 2
)


@dataclass(frozen=True, slots=True)
class Lease:
    """The addresses that a peer was given, one of each tunnel network."""

    addresses: tuple[InnerAddress, ...]
    used: float
    """Unix time when it was last needed, to about a day."""

    def encode(self) -> bytes:
        """Its value in a store."""
        document = {"addresses": list(map(str, self.addresses)), "used": round(self.used)}
        return json.dumps(document, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, key: str, value: bytes) -> Self:
        """ValueError for what is none."""
        document = _object(value)
        used = document.get("used")
        if not isinstance(used, int | float) or isinstance(used, bool):
            raise ValueError(f"the lease {key} does not say when it was used")
        return cls(tuple(ip_address(_text(address)) for address in _list(document.get("addresses"))), used)


def lease_key(peer: PeerId) -> str:
    """Where the peer's lease lies in a store."""
    return f"{LEASE_PREFIX}{peer}"


def address_keys(addresses: Iterable[InnerAddress]) -> tuple[str, ...]:
    """What else lies there of a lease: each address by itself, so that nobody else can have it."""
    return tuple(f"{ADDRESS_PREFIX}{address}" for address in addresses)


def _object(value: bytes) -> dict[str, Any]:
    try:
        document = json.loads(value)
    except RecursionError:
        document = None
    if not isinstance(document, dict):
        raise ValueError("no JSON object")
    return document


def _list(value: object) -> list[object]:
    if not isinstance(value, list):
        raise ValueError("no list")
    return value


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError("no text")  # ip_address would take a number for an address
    return value


def _path(value: object) -> Path:
    path = Path(_text(value))
    if not path.is_absolute():  # it would mean another file wherever it is read
        raise ValueError("no absolute path")
    return path
