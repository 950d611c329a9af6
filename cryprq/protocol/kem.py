"""The hybrid key agreement: ML-KEM (FIPS 203), X25519 (RFC 7748) and maybe a third KEM, secret if any of them holds.

The shared secret is ss_mlkem (32) || ss_x25519 (32) || ss_third; the sizes are fixed by the KEM, so that no other parts
have the same concatenation. It is bound to the public values by the key schedule, which puts them all into the salt or
the input of HKDF: a combiner of GHP18 (Giacon, Heuer, Poettering, "KEM Combiners", PKC 2018) needs that, since neither
X25519 nor every KEM binds its secret to them.
"""

import os
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric.mlkem import (
    MLKEM768PrivateKey,
    MLKEM768PublicKey,
    MLKEM1024PrivateKey,
    MLKEM1024PublicKey,
)
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from cryprq.protocol.constants import (
    KEM_X25519_MLKEM768,
    KEM_X25519_MLKEM768_FRODOKEM976,
    KEM_X25519_MLKEM1024,
    X25519_SIZE,
)
from cryprq.protocol.key_schedule import Secret, join, take, wipe
from cryprq.protocol.oqs_kem import FRODOKEM_976_AES, OqsError, OqsKem, OqsKey


@dataclass(frozen=True)
class _MlKem:
    """A parameter set of ML-KEM; sizes in bytes."""

    encapsulation_key: int
    ciphertext: int
    private_key: type[MLKEM768PrivateKey] | type[MLKEM1024PrivateKey]
    public_key: type[MLKEM768PublicKey] | type[MLKEM1024PublicKey]


MLKEM_SEED_SIZE: Final = 64
"""d || z (FIPS 203, 7.1)."""
_MLKEM768: Final = _MlKem(1184, 1088, MLKEM768PrivateKey, MLKEM768PublicKey)
_MLKEM1024: Final = _MlKem(1568, 1568, MLKEM1024PrivateKey, MLKEM1024PublicKey)
_PARTS: Final[dict[int, tuple[_MlKem, OqsKem | None]]] = {
    KEM_X25519_MLKEM768: (_MLKEM768, None),
    KEM_X25519_MLKEM1024: (_MLKEM1024, None),
    KEM_X25519_MLKEM768_FRODOKEM976: (_MLKEM768, FRODOKEM_976_AES),
}
"""What each KEM has beside X25519."""


@dataclass(frozen=True)
class KemSizes:
    """Sizes in bytes of what is on the wire beside X25519: the ML-KEM part, and then the third one's."""

    encapsulation_key: int
    ciphertext: int
    shared: int
    """Of the whole shared secret."""


SIZES: Final = {
    kem: KemSizes(
        mlkem.encapsulation_key + (third.encapsulation_key if third else 0),
        mlkem.ciphertext + (third.ciphertext if third else 0),
        64 + (third.shared_secret if third else 0),
    )
    for kem, (mlkem, third) in _PARTS.items()
}


class KemError(Exception):
    """The other end's key share cannot be used: wrong size, an ek that fails the modulus check, or a bad point."""


def require(kem: int) -> None:
    """LiboqsMissing (one line) where this machine cannot do that KEM. KeyError for one that is unknown."""
    _, third = _PARTS[kem]
    if third is not None:
        third.require()


class Ephemeral:
    """The dialer's half of one agreement: fresh key pairs, used once and dropped."""

    def __init__(
        self,
        kem: int,
        mlkem: MLKEM768PrivateKey | MLKEM1024PrivateKey,
        x25519: X25519PrivateKey,
        third: OqsKey | None = None,
    ) -> None:
        self.kem = kem
        self.kem_ek = mlkem.public_key().public_bytes_raw() + (third.encapsulation_key if third else b"")
        self.x25519 = x25519.public_key().public_bytes_raw()
        self._mlkem: MLKEM768PrivateKey | MLKEM1024PrivateKey | None = mlkem
        self._x25519: X25519PrivateKey | None = x25519
        self._third = third

    @classmethod
    def generate(cls, kem: int) -> Self:
        """Fresh keys. KeyError for a KEM that is not one of ``constants.KEMS``, LiboqsMissing as from ``require``."""
        _, third = _PARTS[kem]
        mlkem_seed, x25519_seed = _random(MLKEM_SEED_SIZE), _random(X25519_SIZE)
        try:
            return cls.from_seeds(kem, mlkem_seed, x25519_seed, None if third is None else third.generate())
        finally:
            wipe(mlkem_seed, x25519_seed)

    @classmethod
    def from_seeds(cls, kem: int, mlkem_seed: Secret, x25519_seed: Secret, third: OqsKey | None = None) -> Self:
        """The keys of these seeds (FIPS 203 d || z, 64 bytes; an X25519 private key), which stay the caller's."""
        mlkem, _ = _PARTS[kem]
        return cls(
            kem, mlkem.private_key.from_seed_bytes(mlkem_seed), X25519PrivateKey.from_private_bytes(x25519_seed), third
        )

    def agree(self, ciphertext: bytes, x25519: bytes) -> bytearray:
        """The shared secret, from the listener's half. KemError; a second call too, since the keys are used once.

        A ciphertext of the right size never fails: a wrong one gives another secret (implicit rejection, FIPS 203,
        6.3, and FrodoKEM likewise), and the next tag does not verify.
        """
        mlkem, own, third = self._mlkem, self._x25519, self._third
        self._mlkem = self._x25519 = self._third = None  # what is left of the third is wiped when it goes
        if mlkem is None or own is None:
            raise KemError("an ephemeral key is used once")
        parts: list[bytes] = []
        try:
            if len(ciphertext) != SIZES[self.kem].ciphertext:
                raise KemError(f"a ciphertext of {len(ciphertext)} bytes")
            size = _PARTS[self.kem][0].ciphertext
            parts.append(mlkem.decapsulate(ciphertext[:size]))
            parts.append(_exchange(own, x25519))
            if third is not None:
                parts.append(third.decapsulate(ciphertext[size:]))
            return join(*parts)
        except (ValueError, OqsError) as error:
            raise KemError(str(error)) from None
        finally:
            del mlkem, own, third
            wipe(*parts)

    def drop(self) -> None:
        """Forgets the private keys (OpenSSL and liboqs clear them when they free them)."""
        if self._third is not None:
            self._third.drop()
        self._mlkem = self._x25519 = self._third = None


@dataclass(frozen=True)
class Encapsulation:
    """The listener's half of one agreement and its outcome."""

    ciphertext: bytes
    x25519: bytes
    shared: bytearray = field(repr=False)


def encapsulate(kem: int, kem_ek: bytes, x25519: bytes) -> Encapsulation:
    """Answers a dialer's half. KemError if its ek fails FIPS 203's check or the X25519 result is all zero.

    KeyError for a KEM that is not one of ``constants.KEMS``, LiboqsMissing as from ``require``.
    """
    mlkem, third = _PARTS[kem]
    if len(kem_ek) != SIZES[kem].encapsulation_key:
        raise KemError(f"an encapsulation key of {len(kem_ek)} bytes")
    size = mlkem.encapsulation_key
    seed = _random(X25519_SIZE)
    own = X25519PrivateKey.from_private_bytes(seed)
    wipe(seed)
    ss_x25519 = ss_mlkem = None
    ss_third = ciphertext_third = b""
    try:
        # In the order of what they cost: the costlier ones would be in vain.
        ss_x25519 = _exchange(own, x25519)
        # from_public_bytes makes the modulus check of FIPS 203, 7.2 (a test holds it to that).
        ss_mlkem, ciphertext = mlkem.public_key.from_public_bytes(kem_ek[:size]).encapsulate()
        if third is not None:
            ciphertext_third, ss_third = third.encapsulate(kem_ek[size:])
        return Encapsulation(
            ciphertext + ciphertext_third,
            own.public_key().public_bytes_raw(),
            join(ss_mlkem, ss_x25519, ss_third),
        )
    except (ValueError, OqsError) as error:
        raise KemError(str(error)) from None
    finally:
        del own
        wipe(ss_x25519, ss_mlkem, ss_third or None)  # b"" is everybody's


def _random(size: int) -> bytearray:
    """From the kernel: the generators of OpenSSL repeat what they gave in a copy of this machine, until they reseed."""
    return take(os.urandom(size))


def _exchange(own: X25519PrivateKey, x25519: bytes) -> bytes:
    """ValueError for a key of another size and for an all-zero result (RFC 7748, 6.1: a point of small order)."""
    return own.exchange(X25519PublicKey.from_public_bytes(x25519))
