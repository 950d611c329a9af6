"""What is used of the module ``oqs``, with a KEM of the sizes of FrodoKEM-976 that keeps nothing secret: for tests of
what surrounds it, on machines without a liboqs."""

import hashlib
import secrets
from typing import Self

NAME = "FrodoKEM-976-AES"
SIZES = {"public_key": 15632, "ciphertext": 15744, "shared_secret": 24}


class KeyEncapsulation:
    """As the one of liboqs-python; ``free`` may be called once."""

    open = 0
    """Objects that nobody has freed yet."""

    def __init__(self, name: str) -> None:
        assert name == NAME
        self.details = {f"length_{what}": size for what, size in SIZES.items()}
        self._public = b""
        self._freed = False
        KeyEncapsulation.open += 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.free()

    def generate_keypair(self) -> bytes:
        self._public = secrets.token_bytes(SIZES["public_key"])
        return self._public

    def encap_secret(self, public_key: bytes) -> tuple[bytes, bytes]:
        assert len(public_key) == SIZES["public_key"]
        ciphertext = secrets.token_bytes(SIZES["ciphertext"])
        return ciphertext, _secret(public_key, ciphertext)

    def decap_secret(self, ciphertext: bytes) -> bytes:
        assert not self._freed
        assert len(ciphertext) == SIZES["ciphertext"]
        return _secret(self._public, ciphertext)

    def free(self) -> None:
        assert not self._freed
        self._freed = True
        KeyEncapsulation.open -= 1


def is_kem_enabled(name: str) -> bool:
    return name == NAME


def oqs_version() -> str:
    return "0.0.0"


def _secret(public_key: bytes, ciphertext: bytes) -> bytes:
    """Anybody can compute it; a ciphertext that was damaged gives another one."""
    return hashlib.sha256(public_key + ciphertext).digest()[: SIZES["shared_secret"]]
