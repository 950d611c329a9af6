"""Who a node is: the peer ID, which commits to both of its public keys, and its notation."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Self

from cryprq import base58

KIND_MLDSA65: Final = 1
KIND_MLDSA87: Final = 2
"""Kinds of identity: which ML-DSA (FIPS 204) it has beside Ed25519 (RFC 8032)."""
ED25519_PUBLIC_SIZE: Final = 32
MLDSA_PUBLIC_SIZES: Final = {KIND_MLDSA65: 1952, KIND_MLDSA87: 2592}
SIGNATURE_NAMES: Final = {KIND_MLDSA65: "ml-dsa-65", KIND_MLDSA87: "ml-dsa-87"}
"""Their names, as ``cryprq keygen --signature`` takes them."""
RECORD_SIZES: Final = {kind: 1 + ED25519_PUBLIC_SIZE + size for kind, size in MLDSA_PUBLIC_SIZES.items()}
"""Of an identity record, by its kind: kind (1) || Ed25519 public key || ML-DSA public key."""

_DIGEST_SIZE: Final = 32
_MULTIHASH_SHA2_256: Final = b"\x12\x20"  # multihash: function code, digest length
_PEER_ID_LENGTH: Final = 46  # of every base58 number between 0x1220 00... and 0x1220 ff...


@dataclass(frozen=True, order=True, slots=True, repr=False)
class PeerId:
    """Who a node is: the hash of its identity record. Compared and ordered by the digest.

    SHA-256("cryprq v2 peer id" || record); for the first kind SHA-256("cryprq v1 peer id" || record without the kind),
    so that nodes keep the IDs that they had before there were kinds.
    ``str()`` gives base58btc of the SHA2-256 multihash (0x12 0x20 || digest): 46 characters that begin with ``Qm``.
    """

    digest: bytes
    """32 bytes."""

    def __post_init__(self) -> None:
        if len(self.digest) != _DIGEST_SIZE:
            raise ValueError(f"a peer ID digest has {_DIGEST_SIZE} bytes, not {len(self.digest)}")

    @classmethod
    def of_record(cls, record: bytes) -> Self:
        """The ID of an identity record. ValueError for an unknown kind, or a size that is not the kind's."""
        kind = record[0] if record else 0
        if len(record) != RECORD_SIZES.get(kind):
            raise ValueError(f"{len(record)} bytes are no identity record of kind {kind}")
        hashed = b"cryprq v1 peer id" + record[1:] if kind == KIND_MLDSA65 else b"cryprq v2 peer id" + record
        return cls(hashlib.sha256(hashed).digest())

    @classmethod
    def parse(cls, text: str) -> Self:
        """The ID that ``text`` spells; ValueError with one line for anything but the form that ``str()`` gives."""
        value = base58.value(text) if len(text) == _PEER_ID_LENGTH else None
        multihash = (value or 0).to_bytes(len(_MULTIHASH_SHA2_256) + _DIGEST_SIZE, "big")  # 58**46 < 256**34
        if not multihash.startswith(_MULTIHASH_SHA2_256):
            shown = text if len(text) <= 64 else text[:61] + "..."
            raise ValueError(
                f"{shown!r} is not a peer ID: it has 46 base58 characters and begins with Qm, as `cryprq id` prints it"
            )
        return cls(multihash[len(_MULTIHASH_SHA2_256) :])

    def __hash__(self) -> int:
        return hash(self.digest)  # which bytes remember

    def __str__(self) -> str:
        return _spell(self.digest)

    def __repr__(self) -> str:
        return f"PeerId({str(self)!r})"


@lru_cache(maxsize=4096)
def _spell(digest: bytes) -> str:
    return base58.spell(int.from_bytes(_MULTIHASH_SHA2_256 + digest, "big"))
