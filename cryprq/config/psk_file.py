"""Pre-shared keys: 32 random bytes that two nodes have for each other, each in a file: 44 characters of base64, as ``wg
genpsk`` writes them, too."""

import base64
import binascii
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cryprq.config import private_file, values
from cryprq.errors import ConfigError, MachineError
from cryprq.peer_id import PeerId
from cryprq.protocol.constants import PSK_SIZE
from cryprq.protocol.key_schedule import take, wipe

Entry = tuple[PeerId, Path]
Files = Mapping[PeerId, Path]

_FILE_SIZE_MAX: Final = (PSK_SIZE + 2) // 3 * 4 + 1


class PskError(MachineError):
    """A pre-shared key cannot be used or made; the message is one line that names the file."""


# ---- the file ----


def load_psk(path: Path) -> bytearray:
    """The key in a file, 32 bytes, which the caller wipes. PskError if it is absent, damaged, or open to anyone but its
    owner (as for the identity file), or if the key is all zero."""
    try:
        data = private_file.read(
            path, _FILE_SIZE_MAX, "pre-shared key", "`cryprq genpsk --out FILE`", lambda data: bool(_decode(data))
        )
    except FileNotFoundError:
        raise PskError(
            f"no pre-shared key {path}; `cryprq genpsk --out {path}` makes one, and the peer needs a copy"
        ) from None
    except OSError as error:
        raise PskError(f"cannot read the pre-shared key {path}: {error.strerror}{private_file.remedy(error)}") from None
    except private_file.NotPrivate as error:
        raise PskError(str(error)) from None
    psk = _decode(data)
    wipe(data)
    if psk is None:
        raise PskError(f"{path} is no pre-shared key: it has {PSK_SIZE} bytes in base64, as `cryprq genpsk` makes them")
    return psk


def check_psk(path: Path) -> None:
    """PskError if that file has no key of use."""
    wipe(load_psk(path))


def _decode(data: bytearray) -> bytearray | None:
    """The key, or None if that is none: zeros are what stands for no key in the key schedule."""
    try:
        text = memoryview(data)[: len(data) - data.endswith(b"\n")]
        psk = take(binascii.a2b_base64(text, strict_mode=True))
    except binascii.Error:
        return None
    if len(psk) != PSK_SIZE or not any(psk):
        wipe(psk)
        return None
    return psk


def load_all(files: Files) -> dict[PeerId, bytearray]:
    """The keys of all peers that have one. PskError, with nothing left in memory."""
    keys: dict[PeerId, bytearray] = {}
    try:
        for peer, path in files.items():
            keys[peer] = load_psk(path)
    except PskError:
        wipe(*keys.values())
        raise
    return keys


def generate() -> str:
    """A new key as text, without a line end."""
    return base64.b64encode(secrets.token_bytes(PSK_SIZE)).decode()


def is_psk(text: str) -> bool:
    """Whether this is a key as a file has it."""
    psk = _decode(bytearray(text.encode()))
    wipe(*() if psk is None else (psk,))
    return psk is not None


def create_psk(path: Path, text: str | None = None) -> None:
    """A key, a new one if none is given, in a new file (mode 0600). PskError if the path exists, for nothing is ever
    replaced, or cannot be written. A missing parent directory is made with mode 0700, as for an identity."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        private_file.write_new(path, f"{text or generate()}\n".encode())
    except OSError as error:
        if os.path.lexists(path):
            raise PskError(f"{path} exists already and is not overwritten; move it away or choose another") from None
        raise PskError(f"cannot make {path}: {error.strerror}{private_file.remedy(error)}") from None


# ---- ``--psk-file ID=FILE`` ----


def parse(text: str) -> Entry:
    """ValueError says what is wrong with it."""
    name, equals, path = text.partition("=")
    if not equals and "/" in name:
        raise ValueError(f"{text!r} names no peer: the form is ID=FILE")
    peer = PeerId.parse(name.strip())
    if not path.strip():
        raise ValueError(f"{text!r} names no file: the form is ID=FILE")
    return peer, Path(path.strip())


def show(entry: Entry) -> str:
    peer, path = entry
    return f"{peer}={path}"


def split(text: str) -> tuple[str, ...]:
    """The entries of a comma separated list."""
    return values.comma_list(text)


def from_table(peer: str, path: object, directory: Path) -> str:
    """The entry ``ID = "FILE"`` of a file's table as the flag would spell it."""
    if not isinstance(path, str):
        raise ValueError("must be the name of a file")
    return f"{peer}={directory / path}" if path else f"{peer}="


def collect(entries: Sequence[Entry]) -> Files:
    """The entries of one source. ConfigError if a peer is to have two keys."""
    result: dict[PeerId, Path] = {}
    for peer, path in entries:
        if result.setdefault(peer, path) != path:
            raise ConfigError(f"--psk-file: {peer} is given two keys, {result[peer]} and {path}")
    return result


def join(weaker: Files, stronger: Files) -> Files:
    """Both together; for a peer that is in both the stronger source counts."""
    return {**weaker, **stronger}
