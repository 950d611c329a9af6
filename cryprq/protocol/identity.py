"""A node's long-term identity: one seed, an Ed25519 and an ML-DSA-65 key made from it, and who verifies them."""

import secrets
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey

from cryprq.peer_id import ED25519_PUBLIC_SIZE, RECORD_SIZE, PeerId
from cryprq.protocol.key_schedule import expand_into, extract, take, wipe

SEED_SIZE: Final = 32
SIG_ED25519_SIZE: Final = 64
SIG_MLDSA65_SIZE: Final = 3309


class Identity:
    """A node's key pairs. Holds the expanded keys, not the seed; ``repr`` shows only the peer ID.

    Made by ``generate`` or ``from_seed``; ``cryprq.config.identity_file`` keeps one in a file.
    """

    __slots__ = ("_ed25519", "_mldsa65", "peer_id", "record", "token_key")

    record: bytes
    """Ed25519 public key (32) || ML-DSA-65 public key (1952)."""
    peer_id: PeerId
    token_key: bytes
    """Of the tokens that this node gives to its peers (32 bytes). It opens nothing but these."""

    def __init__(self, ed25519: Ed25519PrivateKey, mldsa65: MLDSA65PrivateKey, token_key: bytes) -> None:
        self._ed25519 = ed25519
        self._mldsa65 = mldsa65
        self.token_key = token_key
        self.record = ed25519.public_key().public_bytes_raw() + mldsa65.public_key().public_bytes_raw()
        self.peer_id = PeerId.of_record(self.record)

    @classmethod
    def generate(cls) -> Self:
        """A new identity that is in no file."""
        seed = take(secrets.token_bytes(SEED_SIZE))
        try:
            return cls.from_seed(seed)
        finally:
            wipe(seed)

    @classmethod
    def from_seed(cls, seed: bytes | bytearray) -> Self:
        """The identity of a 32-byte seed (ValueError for another size). The buffer stays the caller's to wipe.

        Ed25519 (RFC 8032) and ML-DSA-65 (FIPS 204, xi) seeds and the key of tokens are HKDF-SHA-256 outputs (RFC 5869)
        under three labels.
        """
        if len(seed) != SEED_SIZE:
            raise ValueError(f"an identity seed has {SEED_SIZE} bytes, not {len(seed)}")
        prk = extract(bytes(32), seed)
        part = bytearray(32)
        try:
            expand_into(prk, b"cryprq v1 identity ed25519", part)
            ed25519 = Ed25519PrivateKey.from_private_bytes(part)
            expand_into(prk, b"cryprq v1 identity ml-dsa-65", part)
            mldsa65 = MLDSA65PrivateKey.from_seed_bytes(part)
            expand_into(prk, b"cryprq v1 identity tokens", part)
            token_key = bytes(part)
        finally:
            wipe(prk, part)
        return cls(ed25519, mldsa65, token_key)

    def sign(self, message: bytes) -> tuple[bytes, bytes]:
        """The Ed25519 (64 bytes) and the ML-DSA-65 (3309 bytes; pure, empty context) signature of the message."""
        try:
            return self._ed25519.sign(message), self._mldsa65.sign(message)
        finally:
            wipe()  # what signing leaves on the stack

    def __repr__(self) -> str:
        return f"<Identity {self.peer_id}>"


def verify_record(record: bytes, message: bytes, sig_ed25519: bytes, sig_mldsa65: bytes) -> bool:
    """Whether both signatures of ``message`` verify under an identity record. Never raises for bytes of any size."""
    if len(record) != RECORD_SIZE or len(sig_ed25519) != SIG_ED25519_SIZE or len(sig_mldsa65) != SIG_MLDSA65_SIZE:
        return False
    try:
        Ed25519PublicKey.from_public_bytes(record[:ED25519_PUBLIC_SIZE]).verify(sig_ed25519, message)
        MLDSA65PublicKey.from_public_bytes(record[ED25519_PUBLIC_SIZE:]).verify(sig_mldsa65, message)
    except (InvalidSignature, ValueError):
        return False
    return True
