"""The identity file: where a node keeps the seed of its identity, and nowhere else.

One line of text, ``cryprq-identity-v1 `` and 56 characters of base64: the 32-byte seed and 10 bytes of
SHA-256("cryprq v1 identity file" || seed), so that a wrong byte is noticed, not taken for another identity.
"""

import binascii
import errno
import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path
from typing import Final

from cryprq.config import file_access
from cryprq.errors import MachineError
from cryprq.protocol.identity import SEED_SIZE, Identity
from cryprq.protocol.key_schedule import join, take, wipe

_FILE_MAGIC: Final = b"cryprq-identity-v1 "
_CHECK_SIZE: Final = 10  # seed and check are 42 bytes: base64 without padding, so no character has spare bits
_FILE_SIZE_MAX: Final = len(_FILE_MAGIC) + (SEED_SIZE + _CHECK_SIZE) // 3 * 4 + 1


class IdentityError(MachineError):
    """An identity file cannot be used or made; the message is one line that names the file."""


def load_identity(path: Path) -> Identity:
    """The identity in a file. IdentityError if it is absent, damaged, or open to anyone but its owner.

    A symbolic link is followed; what counts is the file that was opened: a regular one, of this user or root
    (root may use any user's), with no access for anybody else.
    """
    try:
        data = _read_private(path)
    except FileNotFoundError:
        raise IdentityError(f"no identity file {path}; `cryprq keygen --out {path}` makes one") from None
    except OSError as error:
        raise IdentityError(f"cannot read the identity file {path}: {error.strerror}{_remedy(error)}") from None
    try:
        seed = _decode(data)
        if seed is None:
            raise IdentityError(f"the identity file {path} is damaged; restore it from a backup or move it away")
        try:
            return Identity.from_seed(seed)
        finally:
            wipe(seed)
    finally:
        wipe(data)


def create_identity(path: Path) -> Identity:
    """A new identity in a new file (mode 0600, on the disk when this returns). Never replaces anything.

    A missing parent directory is made with mode 0700. IdentityError if the path exists or cannot be written.
    """
    seed = take(secrets.token_bytes(SEED_SIZE))
    data = _encode(seed)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write_new(path, data)
        return Identity.from_seed(seed)
    except OSError as error:
        if os.path.lexists(path):
            raise IdentityError(
                f"{path} exists already and an identity is never overwritten; move it away or choose another file"
            ) from None
        raise IdentityError(f"cannot make the identity file {path}: {error.strerror}{_remedy(error)}") from None
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


def _remedy(error: OSError) -> str:
    return "; run as root, or name another file" if error.errno in (errno.EACCES, errno.EPERM) else ""


def _check(seed: bytearray) -> bytes:
    digest = hashlib.sha256(b"cryprq v1 identity file")
    digest.update(seed)
    return digest.digest()[:_CHECK_SIZE]


def _encode(seed: bytearray) -> bytearray:
    content = join(seed, _check(seed))
    text = binascii.b2a_base64(content)
    try:
        return join(_FILE_MAGIC, text)
    finally:
        wipe(content, text)


def _decode(data: bytearray) -> bytearray | None:
    """The seed, or None if any byte is not as ``_encode`` wrote it (a missing line end is let pass)."""
    if not data.startswith(_FILE_MAGIC):
        return None
    text = memoryview(data)[len(_FILE_MAGIC) : len(data) - data.endswith(b"\n")]
    try:
        content = binascii.a2b_base64(text, strict_mode=True)
    except binascii.Error:
        return None
    seed = bytearray(memoryview(content)[:SEED_SIZE])
    # A content of another size leaves something else than ten bytes for the check, and so fails it.
    good = hmac.compare_digest(memoryview(content)[SEED_SIZE:], _check(seed))
    wipe(content, None if good else seed)
    return seed if good else None


def _read_private(path: Path) -> bytearray:
    """The contents of a file that only its owner may touch. OSError, or IdentityError if it is not private."""
    # O_NONBLOCK: a FIFO in the file's place must not hang the start.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise IdentityError(f"the identity {path} is not a regular file")
        data = bytearray(_FILE_SIZE_MAX + 1)  # one more than a good file, so that a longer one is noticed
        size = os.readv(descriptor, [data])
        del data[size:]
        if (who := file_access.others(descriptor)) is not None:
            # Whoever names the wrong file is not to be told to change that one's mode.
            is_identity = data.startswith(_FILE_MAGIC)
            wipe(data)
            if not is_identity:
                raise IdentityError(f"{path} is no identity file; `cryprq keygen --out FILE` makes one")
            remedy = f"chmod 600 {path}" if who.startswith("mode") else f"setfacl -b {path} && chmod 600 {path}"
            raise IdentityError(f"the identity file {path} is open to others ({who}); if it is still secret, {remedy}")
        if os.geteuid() not in (0, status.st_uid) and status.st_uid != 0:
            wipe(data)
            raise IdentityError(f"the identity file {path} belongs to another user (uid {status.st_uid})")
        return data
    finally:
        os.close(descriptor)


def _write_new(path: Path, data: bytearray) -> None:
    """Makes a private file that appears under its name complete and on the disk, or not at all. OSError."""
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(descriptor, "wb", buffering=0) as file:
            os.fchmod(descriptor, 0o600)  # whatever the umask took away
            file.write(data)
            os.fsync(descriptor)
        os.link(temporary, path)  # unlike a rename, this fails if the name is taken, even by a dangling link
    finally:
        os.unlink(temporary)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
