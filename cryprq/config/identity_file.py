"""The identity file: where a node keeps the seed of its identity, and nowhere else.

One line of text, ``cryprq-identity-v1 `` and 56 characters of base64: the 32-byte seed and 10 bytes of
SHA-256("cryprq v1 identity file" || seed), so that a wrong byte is noticed, not taken for another identity. With
ML-DSA-87 it is ``cryprq-identity-v2 ml-dsa-87 ``, and the hash that of "cryprq v2 identity file ml-dsa-87" || seed: its
seed with another kind would be another identity.
"""

import binascii
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Final

from cryprq.config import private_file
from cryprq.errors import MachineError
from cryprq.peer_id import KIND_MLDSA65, KIND_MLDSA87
from cryprq.protocol.identity import SEED_SIZE, Identity
from cryprq.protocol.key_schedule import join, take, wipe

_FORMS: Final = {
    KIND_MLDSA65: (b"cryprq-identity-v1 ", b"cryprq v1 identity file"),
    KIND_MLDSA87: (b"cryprq-identity-v2 ml-dsa-87 ", b"cryprq v2 identity file ml-dsa-87"),
}
"""How the file of each kind begins, and the label of its check."""
_MAGICS: Final = tuple(magic for magic, _ in _FORMS.values())
_CHECK_SIZE: Final = 10  # seed and check are 42 bytes: base64 without padding, so no character has spare bits
_FILE_SIZE_MAX: Final = max(len(magic) for magic, _ in _FORMS.values()) + (SEED_SIZE + _CHECK_SIZE) // 3 * 4 + 1


class IdentityError(MachineError):
    """An identity file cannot be used or made; the message is one line that names the file."""


def load_identity(path: Path) -> Identity:
    """The identity in a file. IdentityError if it is absent, damaged, or open to anyone but its owner.

    ``private_file.read`` says who may have access to it.
    """
    try:
        data = private_file.read(
            path, _FILE_SIZE_MAX, "identity file", "`cryprq keygen --out FILE`", lambda data: data.startswith(_MAGICS)
        )
    except FileNotFoundError:
        raise IdentityError(f"no identity file {path}; `cryprq keygen --out {path}` makes one") from None
    except OSError as error:
        raise IdentityError(
            f"cannot read the identity file {path}: {error.strerror}{private_file.remedy(error)}"
        ) from None
    except private_file.NotPrivate as error:
        raise IdentityError(str(error)) from None
    try:
        decoded = _decode(data)
        if decoded is None and not data.startswith(_MAGICS):
            raise IdentityError(f"{path} is no identity file, or is damaged: restore it, or name another one")
        if decoded is None:
            raise IdentityError(f"the identity file {path} is damaged; restore it from a backup or move it away")
        kind, seed = decoded
        try:
            return Identity.from_seed(seed, kind)
        finally:
            wipe(seed)
    finally:
        wipe(data)


def create_identity(path: Path, kind: int = KIND_MLDSA65) -> Identity:
    """A new identity in a new file (mode 0600, on the disk when this returns). Never replaces anything.

    ``kind``: ``KIND_MLDSA65`` or ``KIND_MLDSA87``. A missing parent directory is made with mode 0700. IdentityError if
    the path exists or cannot be written.
    """
    seed = take(secrets.token_bytes(SEED_SIZE))
    data = _encode(kind, seed)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        private_file.write_new(path, data)
        return Identity.from_seed(seed, kind)
    except OSError as error:
        if os.path.lexists(path):
            raise IdentityError(
                f"{path} exists already and an identity is never overwritten; move it away or choose another file"
            ) from None
        raise IdentityError(
            f"cannot make the identity file {path}: {error.strerror}{private_file.remedy(error)}"
        ) from None
    finally:
        wipe(seed)
        wipe(data)


def is_there(path: Path) -> bool:
    """Whether something has that name; it need not be an identity."""
    return os.path.lexists(path)


def load_or_create_identity(path: Path) -> Identity:
    """The identity in the file, which is made at the first start. IdentityError as from
    ``load_identity`` and ``create_identity``."""
    if not is_there(path):
        try:
            return create_identity(path)
        except IdentityError:
            if not is_there(path):
                raise
            # Another process made it in between: that identity is this node's.
    return load_identity(path)


def _check(label: bytes, seed: bytearray) -> bytes:
    digest = hashlib.sha256(label)
    digest.update(seed)
    return digest.digest()[:_CHECK_SIZE]


def _encode(kind: int, seed: bytearray) -> bytearray:
    magic, label = _FORMS[kind]
    content = join(seed, _check(label, seed))
    text = binascii.b2a_base64(content)
    try:
        return join(magic, text)
    finally:
        wipe(content, text)


def _decode(data: bytearray) -> tuple[int, bytearray] | None:
    """Kind and seed, or None if any byte is not as ``_encode`` wrote it (a missing line end is let pass)."""
    for kind, (magic, label) in _FORMS.items():
        if data.startswith(magic):
            seed = _decode_seed(memoryview(data)[len(magic) : len(data) - data.endswith(b"\n")], label)
            return None if seed is None else (kind, seed)
    return None


def _decode_seed(text: memoryview, label: bytes) -> bytearray | None:
    try:
        content = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        return None
    seed = bytearray(memoryview(content)[:SEED_SIZE])
    # A content of another size leaves something else than ten bytes for the check, and so fails it.
    good = hmac.compare_digest(memoryview(content)[SEED_SIZE:], _check(label, seed))
    wipe(content, None if good else seed)
    return seed if good else None
