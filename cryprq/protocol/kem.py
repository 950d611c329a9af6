"""The hybrid key agreement: ML-KEM (FIPS 203) and X25519 (RFC 7748), secret if either of the two holds.

The shared secret is ss_mlkem || ss_x25519, 64 bytes. It is bound to the public values by the key schedule, which puts
them all into the salt or the input of HKDF.
"""

from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
    MLKEM1024PrivateKey,
    MLKEM1024PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from cryprq.protocol.constants import KEM_X25519_MLKEM768, KEM_X25519_MLKEM1024
from cryprq.protocol.key_schedule import join, wipe


@dataclass(frozen=True)
class KemSizes:
    """Sizes in bytes of the ML-KEM part."""

    encapsulation_key: int
    ciphertext: int


SIZES: Final = {
    KEM_X25519_MLKEM768: KemSizes(1184, 1088),
    KEM_X25519_MLKEM1024: KemSizes(1568, 1568),
}

_PRIVATE: Final[dict[int, type[MLKEM768PrivateKey] | type[MLKEM1024PrivateKey]]] = {
    KEM_X25519_MLKEM768: MLKEM768PrivateKey,
    KEM_X25519_MLKEM1024: MLKEM1024PrivateKey,
}
_PUBLIC: Final[dict[int, type[MLKEM768PublicKey] | type[MLKEM1024PublicKey]]] = {
    KEM_X25519_MLKEM768: MLKEM768PublicKey,
    KEM_X25519_MLKEM1024: MLKEM1024PublicKey,
}


class KemError(Exception):
    """The other end's key share cannot be used: wrong size, an ek that fails the modulus check, or a bad point."""


class Ephemeral:
    """The dialer's half of one agreement: fresh key pairs, used once and dropped."""

    def __init__(self, kem: int, mlkem: MLKEM768PrivateKey | MLKEM1024PrivateKey, x25519: X25519PrivateKey) -> None:
        self.kem = kem
        self.kem_ek = mlkem.public_key().public_bytes_raw()
        self.x25519 = x25519.public_key().public_bytes_raw()
        self._mlkem: MLKEM768PrivateKey | MLKEM1024PrivateKey | None = mlkem
        self._x25519: X25519PrivateKey | None = x25519

    @classmethod
    def generate(cls, kem: int) -> Self:
        """Fresh keys. KeyError for a KEM that is not one of ``constants.KEMS``."""
        keys = cls(kem, _PRIVATE[kem].generate(), X25519PrivateKey.generate())
        wipe()
        return keys

    @classmethod
    def from_seeds(cls, kem: int, mlkem_seed: bytes, x25519_seed: bytes) -> Self:
        """The keys of known seeds (FIPS 203 d || z, 64 bytes; an X25519 private key): for test vectors only."""
        return cls(kem, _PRIVATE[kem].from_seed_bytes(mlkem_seed), X25519PrivateKey.from_private_bytes(x25519_seed))

    def agree(self, ciphertext: bytes, x25519: bytes) -> bytearray:
        """The shared secret, from the listener's half. KemError; a second call too, since the keys are used once.

        A ciphertext of the right size never fails: a wrong one gives another secret (implicit rejection, FIPS 203,
        6.3), and the next tag does not verify.
        """
        mlkem, own = self._mlkem, self._x25519
        self.drop()
        if mlkem is None or own is None:
            raise KemError("an ephemeral key is used once")
        parts: list[bytes] = []
        try:
            parts.append(mlkem.decapsulate(ciphertext))
            parts.append(_exchange(own, x25519))
            return join(*parts)
        except ValueError as error:
            raise KemError(str(error)) from None
        finally:
            del mlkem, own
            wipe(*parts)

    def drop(self) -> None:
        """Forgets the private keys (OpenSSL clears them when it frees them)."""
        self._mlkem = self._x25519 = None


@dataclass(frozen=True)
class Encapsulation:
    """The listener's half of one agreement and its outcome."""

    ciphertext: bytes
    x25519: bytes
    shared: bytearray = field(repr=False)


def encapsulate(kem: int, kem_ek: bytes, x25519: bytes) -> Encapsulation:
    """Answers a dialer's half. KemError if its ek fails FIPS 203's check or the X25519 result is all zero.

    KeyError for a KEM that is not one of ``constants.KEMS``.
    """
    own = X25519PrivateKey.generate()
    ss_x25519 = ss_mlkem = None
    try:
        # X25519 first: it costs less than an encapsulation that would be in vain.
        ss_x25519 = _exchange(own, x25519)
        # from_public_bytes makes the modulus check of FIPS 203, 7.2 (a test holds it to that).
        ss_mlkem, ciphertext = _PUBLIC[kem].from_public_bytes(kem_ek).encapsulate()
        return Encapsulation(ciphertext, own.public_key().public_bytes_raw(), join(ss_mlkem, ss_x25519))
    except ValueError as error:
        raise KemError(str(error)) from None
    finally:
        del own
        wipe(ss_x25519, ss_mlkem)


def _exchange(own: X25519PrivateKey, x25519: bytes) -> bytes:
    """ValueError for a key of another size and for an all-zero result (RFC 7748, 6.1: a point of small order)."""
    return own.exchange(X25519PublicKey.from_public_bytes(x25519))
