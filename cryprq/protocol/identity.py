"""A node's long-term identity: one seed, an Ed25519 and an ML-DSA-65 key made from it, and the peer ID of both.

The identity file is one line of text, ``cryprq-identity-v1 `` and 56 characters of base64: the 32-byte seed and 10
bytes of SHA-256("cryprq v1 identity file" || seed), so that a wrong byte is noticed, not taken for another identity.
"""

import base64
import binascii
import hashlib
import os
import secrets
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cryprq.errors import MachineError

SEED_SIZE: Final = 32
ED25519_PUBLIC_SIZE: Final = 32
MLDSA65_PUBLIC_SIZE: Final = 1952
RECORD_SIZE: Final = ED25519_PUBLIC_SIZE + MLDSA65_PUBLIC_SIZE
SIG_ED25519_SIZE: Final = 64
SIG_MLDSA65_SIZE: Final = 3309

_DIGEST_SIZE: Final = 32
_MULTIHASH_SHA2_256: Final = b"\x12\x20"  # multihash: function code, digest length
_PEER_ID_LENGTH: Final = 46  # of every base58 number between 0x1220 00... and 0x1220 ff...
_BASE58: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_VALUES: Final = {character: value for value, character in enumerate(_BASE58)}

_FILE_MAGIC: Final = b"cryprq-identity-v1 "
_CHECK_SIZE: Final = 10  # seed and check are 42 bytes: base64 without padding, so no character has spare bits
_FILE_SIZE_MAX: Final = len(_FILE_MAGIC) + (SEED_SIZE + _CHECK_SIZE) // 3 * 4 + 1


class IdentityError(MachineError):
    """An identity file cannot be used or made; the message is one line that names the file."""


@dataclass(frozen=True, order=True, slots=True, repr=False)
class PeerId:
    """Who a node is: SHA-256("cryprq v1 peer id" || identity record). Compared and ordered by the digest.

    ``str()`` gives base58btc of the SHA2-256 multihash (0x12 0x20 || digest): 46 characters that begin with ``Qm``.
    """

    digest: bytes
    """32 bytes."""

    def __post_init__(self) -> None:
        if len(self.digest) != _DIGEST_SIZE:
            raise ValueError(f"a peer ID digest has {_DIGEST_SIZE} bytes, not {len(self.digest)}")

    @classmethod
    def of_record(cls, record: bytes) -> Self:
        """The ID of an identity record (``RECORD_SIZE`` bytes, else ValueError)."""
        if len(record) != RECORD_SIZE:
            raise ValueError(f"an identity record has {RECORD_SIZE} bytes, not {len(record)}")
        return cls(hashlib.sha256(b"cryprq v1 peer id" + record).digest())

    @classmethod
    def parse(cls, text: str) -> Self:
        """The ID that ``text`` spells; ValueError with one line for anything but the form that ``str()`` gives."""
        value = 0
        for character in text if len(text) == _PEER_ID_LENGTH else "":
            digit = _BASE58_VALUES.get(character)
            if digit is None:
                value = 0
                break
            value = value * 58 + digit
        multihash = value.to_bytes(len(_MULTIHASH_SHA2_256) + _DIGEST_SIZE, "big")  # 58**46 < 256**34
        if not multihash.startswith(_MULTIHASH_SHA2_256):
            shown = text if len(text) <= 64 else text[:61] + "..."
            raise ValueError(
                f"{shown!r} is not a peer ID: it has 46 base58 characters and begins with Qm, as `cryprq id` prints it"
            )
        return cls(multihash[len(_MULTIHASH_SHA2_256) :])

    def __str__(self) -> str:
        value = int.from_bytes(_MULTIHASH_SHA2_256 + self.digest, "big")
        characters = []
        while value:
            value, digit = divmod(value, 58)
            characters.append(_BASE58[digit])
        return "".join(reversed(characters))

    def __repr__(self) -> str:
        return f"PeerId({str(self)!r})"


class Identity:
    """A node's key pairs. Holds the expanded keys, not the seed; ``repr`` shows only the peer ID.

    Made by ``generate``, ``from_seed``, ``load``, ``create`` or ``load_or_create``.
    """

    __slots__ = ("_ed25519", "_mldsa65", "peer_id", "record")

    record: bytes
    """Ed25519 public key (32) || ML-DSA-65 public key (1952)."""
    peer_id: PeerId

    def __init__(self, ed25519: Ed25519PrivateKey, mldsa65: MLDSA65PrivateKey) -> None:
        self._ed25519 = ed25519
        self._mldsa65 = mldsa65
        self.record = ed25519.public_key().public_bytes_raw() + mldsa65.public_key().public_bytes_raw()
        self.peer_id = PeerId.of_record(self.record)

    @classmethod
    def generate(cls) -> Self:
        """A new identity that is in no file."""
        return cls.from_seed(secrets.token_bytes(SEED_SIZE))

    @classmethod
    def from_seed(cls, seed: bytes | bytearray) -> Self:
        """The identity of a 32-byte seed (ValueError for another size). The buffer stays the caller's to wipe.

        Ed25519 (RFC 8032) and ML-DSA-65 (FIPS 204, xi) seeds are HKDF-SHA-256 outputs (RFC 5869) under two labels.
        """
        if len(seed) != SEED_SIZE:
            raise ValueError(f"an identity seed has {SEED_SIZE} bytes, not {len(seed)}")
        part = bytearray(32)
        try:
            _derive(seed, b"cryprq v1 identity ed25519", part)
            ed25519 = Ed25519PrivateKey.from_private_bytes(part)
            _derive(seed, b"cryprq v1 identity ml-dsa-65", part)
            mldsa65 = MLDSA65PrivateKey.from_seed_bytes(part)
        finally:
            _wipe(part)
        return cls(ed25519, mldsa65)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The identity in a file. IdentityError if it is absent, damaged, or open to anyone but its owner.

        A symbolic link is followed; what counts is the file that was opened: a regular one, of this user or root
        (root may use any user's), with no access for group and others.
        """
        try:
            data = _read_private(path)
        except FileNotFoundError:
            raise IdentityError(f"no identity file {path}; `cryprq keygen --out {path}` makes one") from None
        except OSError as error:
            raise IdentityError(f"cannot read the identity file {path}: {error.strerror}") from None
        try:
            seed = _decode(data)
            if seed is None:
                raise IdentityError(f"the identity file {path} is damaged; restore it from a backup or move it away")
            try:
                return cls.from_seed(seed)
            finally:
                _wipe(seed)
        finally:
            _wipe(data)

    @classmethod
    def create(cls, path: Path) -> Self:
        """A new identity in a new file (mode 0600, on the disk when this returns). Never replaces anything.

        A missing parent directory is made with mode 0700. IdentityError if the path exists or cannot be written.
        """
        seed = bytearray(secrets.token_bytes(SEED_SIZE))
        data = _encode(seed)
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write_new(path, data)
            return cls.from_seed(seed)
        except OSError as error:
            if os.path.lexists(path):
                raise IdentityError(
                    f"{path} exists already and an identity is never overwritten; move it away or choose another file"
                ) from None
            raise IdentityError(f"cannot make the identity file {path}: {error.strerror}") from None
        finally:
            _wipe(seed)
            _wipe(data)

    @classmethod
    def load_or_create(cls, path: Path) -> Self:
        """The identity in the file, which is made at the first start. IdentityError as from ``load`` and ``create``."""
        if not os.path.lexists(path):
            try:
                return cls.create(path)
            except IdentityError:
                if not os.path.lexists(path):
                    raise
                # Another process made it in between: that identity is this node's.
        return cls.load(path)

    def sign(self, message: bytes) -> tuple[bytes, bytes]:
        """The Ed25519 (64 bytes) and the ML-DSA-65 (3309 bytes; pure, empty context) signature of the message."""
        return self._ed25519.sign(message), self._mldsa65.sign(message)

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


def _derive(seed: bytes | bytearray, info: bytes, out: bytearray) -> None:
    HKDF(algorithm=SHA256(), length=len(out), salt=bytes(32), info=info).derive_into(seed, out)


def _wipe(buffer: bytearray) -> None:
    buffer[:] = bytes(len(buffer))


def _check(seed: bytearray) -> bytes:
    digest = hashlib.sha256(b"cryprq v1 identity file")
    digest.update(seed)
    return digest.digest()[:_CHECK_SIZE]


def _encode(seed: bytearray) -> bytearray:
    return bytearray(_FILE_MAGIC + base64.b64encode(seed + _check(seed)) + b"\n")


def _decode(data: bytearray) -> bytearray | None:
    """The seed, or None if any byte is not as ``_encode`` wrote it (a missing line end is let pass)."""
    if not data.startswith(_FILE_MAGIC):
        return None
    try:
        content = bytearray(binascii.a2b_base64(data[len(_FILE_MAGIC) :].removesuffix(b"\n"), strict_mode=True))
    except binascii.Error:
        return None
    seed = content[:SEED_SIZE]
    try:
        # A content of another size leaves something else than ten bytes for the check, and so fails it.
        return bytearray(seed) if content[SEED_SIZE:] == _check(seed) else None
    finally:
        _wipe(content)
        _wipe(seed)


def _read_private(path: Path) -> bytearray:
    """The contents of a file that only its owner may touch. OSError, or IdentityError if it is not private."""
    # O_NONBLOCK: a FIFO in the file's place must not hang the start.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise IdentityError(f"the identity {path} is not a regular file")
        if status.st_mode & 0o077:
            mode = stat.S_IMODE(status.st_mode)
            raise IdentityError(
                f"the identity file {path} is open to others (mode {mode:04o}); if it is still secret, chmod 600 {path}"
            )
        if os.geteuid() not in (0, status.st_uid) and status.st_uid != 0:
            raise IdentityError(f"the identity file {path} belongs to another user (uid {status.st_uid})")
        data = bytearray(_FILE_SIZE_MAX + 1)  # one more than a good file, so that a longer one is noticed
        size = os.readv(descriptor, [data])
        del data[size:]
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
