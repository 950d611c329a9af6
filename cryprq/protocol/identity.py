"""A node's long-term identity: one seed, an Ed25519 and an ML-DSA key made from it, and how it is proven.

There are two kinds, by their ML-DSA parameter set: ML-DSA-65, and ML-DSA-87 for those who have to follow CNSA 2.0. A
record begins with its kind, so that either end of a handshake may be of either.
"""

import secrets
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import (
    MLDSA65PrivateKey,
    MLDSA65PublicKey,
    MLDSA87PrivateKey,
    MLDSA87PublicKey,
)

from cryprq.peer_id import ED25519_PUBLIC_SIZE, KIND_MLDSA65, KIND_MLDSA87, RECORD_SIZES, SIGNATURE_NAMES, PeerId
from cryprq.protocol.constants import SIGNATURE_CONTEXT
from cryprq.protocol.frames import Cursor, FrameError
from cryprq.protocol.key_schedule import expand_into, extract, take, wipe

SEED_SIZE: Final = 32
SIG_ED25519_SIZE: Final = 64


@dataclass(frozen=True)
class Kind:
    """One kind of identity."""

    number: int
    """First byte of its records."""
    name: str
    """In the log."""
    signature: str
    """Of its ML-DSA, as ``cryprq keygen --signature`` takes it."""
    sig_mldsa_size: int
    ed25519_label: bytes
    """HKDF's info for the Ed25519 private key."""
    mldsa_label: bytes
    """HKDF's info for the ML-DSA seed (FIPS 204, xi)."""
    private_key: type[MLDSA65PrivateKey] | type[MLDSA87PrivateKey]
    public_key: type[MLDSA65PublicKey] | type[MLDSA87PublicKey]


KINDS: Final = {
    kind.number: kind
    for kind in (
        Kind(
            number=KIND_MLDSA65,
            name="ed25519-ml-dsa-65",
            signature=SIGNATURE_NAMES[KIND_MLDSA65],
            sig_mldsa_size=3309,
            # These two, and the hash of the ID, are those of protocol version 1: an identity outlives versions.
            ed25519_label=b"cryprq v1 identity ed25519",
            mldsa_label=b"cryprq v1 identity ml-dsa-65",
            private_key=MLDSA65PrivateKey,
            public_key=MLDSA65PublicKey,
        ),
        Kind(
            number=KIND_MLDSA87,
            name="ed25519-ml-dsa-87",
            signature=SIGNATURE_NAMES[KIND_MLDSA87],
            sig_mldsa_size=4627,
            ed25519_label=b"cryprq v2 identity ed25519 of ml-dsa-87",
            mldsa_label=b"cryprq v2 identity ml-dsa-87",
            private_key=MLDSA87PrivateKey,
            public_key=MLDSA87PublicKey,
        ),
    )
}


class Identity:
    """A node's key pairs. Holds the expanded keys, not the seed; ``repr`` shows only the peer ID.

    Made by ``generate`` or ``from_seed``; ``cryprq.config.identity_file`` keeps one in a file.
    """

    __slots__ = ("_ed25519", "_mldsa", "peer_id", "record", "token_key")

    record: bytes
    """Kind (1) || Ed25519 public key (32) || ML-DSA public key (1952 or 2592)."""
    peer_id: PeerId
    token_key: bytes
    """Of the tokens that this node gives to its peers (32 bytes). It opens nothing but these."""

    def __init__(
        self,
        kind: Kind,
        ed25519: Ed25519PrivateKey,
        mldsa: MLDSA65PrivateKey | MLDSA87PrivateKey,
        token_key: bytes,
    ) -> None:
        self._ed25519 = ed25519
        self._mldsa = mldsa
        self.token_key = token_key
        self.record = (
            bytes((kind.number,)) + ed25519.public_key().public_bytes_raw() + mldsa.public_key().public_bytes_raw()
        )
        self.peer_id = PeerId.of_record(self.record)

    @classmethod
    def generate(cls, kind: int = KIND_MLDSA65) -> Self:
        """A new identity that is in no file."""
        seed = take(secrets.token_bytes(SEED_SIZE))
        try:
            return cls.from_seed(seed, kind)
        finally:
            wipe(seed)

    @classmethod
    def from_seed(cls, seed: bytes | bytearray, kind: int = KIND_MLDSA65) -> Self:
        """The identity of a 32-byte seed (ValueError for another size). The buffer stays the caller's to wipe.

        Ed25519 (RFC 8032) and ML-DSA (FIPS 204, xi) seeds are HKDF-SHA-256 outputs (RFC 5869) under labels of the kind,
        and the key of tokens is one under a third label. KeyError for a kind that is not one of ``KINDS``.
        """
        if len(seed) != SEED_SIZE:
            raise ValueError(f"an identity seed has {SEED_SIZE} bytes, not {len(seed)}")
        chosen = KINDS[kind]
        prk = extract(bytes(32), seed)
        part = bytearray(32)
        try:
            expand_into(prk, chosen.ed25519_label, part)
            ed25519 = Ed25519PrivateKey.from_private_bytes(part)
            expand_into(prk, chosen.mldsa_label, part)
            mldsa = chosen.private_key.from_seed_bytes(part)
            expand_into(prk, b"cryprq v2 identity tokens", part)
            token_key = bytes(part)
        finally:
            wipe(prk, part)
        return cls(chosen, ed25519, mldsa, token_key)

    @property
    def kind(self) -> Kind:
        """What it is made of."""
        return KINDS[self.record[0]]

    def sign(self, message: bytes) -> tuple[bytes, bytes]:
        """The Ed25519 (64 bytes; pure, RFC 8032, 5.1) and the ML-DSA signature (3309 or 4627 bytes; pure, hedged, with
        the context ``SIGNATURE_CONTEXT``, FIPS 204, 5.2) of the message."""
        try:
            return self._ed25519.sign(message), self._mldsa.sign(message, SIGNATURE_CONTEXT)
        finally:
            wipe()  # what signing leaves on the stack

    def __repr__(self) -> str:
        return f"<Identity {self.peer_id}>"


class Proof(NamedTuple):
    """By which one end of a handshake proves who it is: its record and both signatures of a statement."""

    record: bytes
    sig_ed25519: bytes
    sig_mldsa: bytes

    @classmethod
    def of(cls, identity: Identity, statement: bytes) -> Self:
        """What the identity says."""
        return cls(identity.record, *identity.sign(statement))

    @classmethod
    def take(cls, cursor: Cursor) -> Self:
        """Reads those of any kind. FrameError for a kind that is unknown, or where bytes are missing."""
        number = cursor.peek()
        kind = KINDS.get(number)
        if kind is None:
            raise FrameError(f"an identity of kind {number}")
        return cls(cursor.take(RECORD_SIZES[number]), cursor.take(SIG_ED25519_SIZE), cursor.take(kind.sig_mldsa_size))

    @property
    def kind(self) -> Kind:
        """What the identity is made of."""
        return KINDS[self.record[0]]

    @property
    def peer_id(self) -> PeerId:
        """Who this claims to be; it is so if ``verify`` says so."""
        return PeerId.of_record(self.record)

    def verify(self, statement: bytes) -> bool:
        """Whether both signatures are right."""
        return verify_record(self.record, statement, self.sig_ed25519, self.sig_mldsa)

    def encode(self) -> bytes:
        """As they are in M2 and M3."""
        return b"".join(self)


def verify_record(record: bytes, message: bytes, sig_ed25519: bytes, sig_mldsa: bytes) -> bool:
    """Whether both signatures of ``message`` verify under an identity record. Never raises for bytes of any size."""
    kind = KINDS.get(record[0]) if record else None
    if kind is None or len(record) != RECORD_SIZES[kind.number]:
        return False
    if len(sig_ed25519) != SIG_ED25519_SIZE or len(sig_mldsa) != kind.sig_mldsa_size:
        return False
    ed25519, mldsa = record[1 : 1 + ED25519_PUBLIC_SIZE], record[1 + ED25519_PUBLIC_SIZE :]
    try:
        Ed25519PublicKey.from_public_bytes(ed25519).verify(sig_ed25519, message)
        kind.public_key.from_public_bytes(mldsa).verify(sig_mldsa, message, SIGNATURE_CONTEXT)
    except (InvalidSignature, ValueError):
        return False
    return True
