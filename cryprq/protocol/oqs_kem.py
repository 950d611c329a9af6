"""A KEM of liboqs, as the third part of a key agreement: keys that are used once, and sizes that are fixed."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from cryprq.protocol import liboqs
from cryprq.protocol.liboqs import LiboqsMissing

if TYPE_CHECKING:
    from types import ModuleType


class OqsError(Exception):
    """The library does not take what the other end sent: another size, or its own verdict."""


class _Native(Protocol):
    """``oqs.KeyEncapsulation``, as far as it is used."""

    def generate_keypair(self) -> bytes: ...
    def encap_secret(self, public_key: bytes) -> tuple[bytes, bytes]: ...
    def decap_secret(self, ciphertext: bytes) -> bytes: ...
    def free(self) -> None: ...


class OqsKey:
    """A fresh key pair, used once. The library wipes the private key when it is dropped."""

    def __init__(self, kem: "OqsKem", native: _Native) -> None:
        self._kem = kem
        self._native: _Native | None = native
        self.encapsulation_key = native.generate_keypair()

    def decapsulate(self, ciphertext: bytes) -> bytes:
        """The shared secret. OqsError for a ciphertext of another size, and for a second call."""
        native = self._native
        if native is None:
            raise OqsError("an ephemeral key is used once")
        try:
            if len(ciphertext) != self._kem.ciphertext:
                raise OqsError(f"a ciphertext of {len(ciphertext)} bytes")
            return native.decap_secret(ciphertext)
        except RuntimeError as error:
            raise OqsError(str(error)) from None
        finally:
            self.drop()

    def drop(self) -> None:
        """Forgets the private key. Harmless at any time."""
        native, self._native = self._native, None
        if native is not None:
            native.free()

    def __del__(self) -> None:
        self.drop()


@dataclass(frozen=True)
class OqsKem:
    """One KEM by its name in liboqs, and the sizes in bytes that the protocol has for it."""

    name: str
    encapsulation_key: int
    ciphertext: int
    shared_secret: int

    def require(self) -> None:
        """LiboqsMissing (one line) where this machine cannot do it: no library, or one that has not got this KEM, or
        another version of it."""
        oqs = liboqs.load()
        if not oqs.is_kem_enabled(self.name):
            raise LiboqsMissing(f"liboqs {oqs.oqs_version()} on this machine was built without {self.name}")
        with oqs.KeyEncapsulation(self.name) as native:
            found = tuple(native.details[f"length_{what}"] for what in ("public_key", "ciphertext", "shared_secret"))
        if found != (self.encapsulation_key, self.ciphertext, self.shared_secret):
            raise LiboqsMissing(f"liboqs {oqs.oqs_version()} has another version of {self.name} than this protocol")

    def generate(self) -> OqsKey:
        """A fresh key pair. LiboqsMissing."""
        return OqsKey(self, self._open())

    def encapsulate(self, encapsulation_key: bytes) -> tuple[bytes, bytes]:
        """Ciphertext and shared secret for a key of the other end. OqsError for one of another size."""
        if len(encapsulation_key) != self.encapsulation_key:
            raise OqsError(f"an encapsulation key of {len(encapsulation_key)} bytes")
        native = self._open()
        try:
            return native.encap_secret(encapsulation_key)
        except RuntimeError as error:
            raise OqsError(str(error)) from None
        finally:
            native.free()

    def _open(self) -> _Native:
        oqs: ModuleType = liboqs.load()
        native: _Native = oqs.KeyEncapsulation(self.name)
        return native


FRODOKEM_976_AES: Final = OqsKem("FrodoKEM-976-AES", encapsulation_key=15632, ciphertext=15744, shared_secret=24)
"""FrodoKEM (round 3 of NIST's process; eFrodoKEM in the drafts of ISO/IEC 18033-2): learning with errors without the
structure that ML-KEM's lattices have. A key here meets one ciphertext, which is what the variant without a salt is
for."""
