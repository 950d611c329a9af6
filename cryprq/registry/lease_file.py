"""The file that leases were kept in before there was a registry: read once, and left as it is.

JSON, ``{"version": 1, "leases": {"<peer ID>": ["10.9.0.2", "fd00:9::2"]}}``.
"""

import json
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from cryprq.peer_id import PeerId
from cryprq.registry.entries import InnerAddress
from cryprq.registry.leases import LeaseError

MARK: Final = "done/lease-file"
"""The key that says that it was read."""
_VERSION: Final = 1
_FILE_MAX: Final = 16 * 1024 * 1024  # a file that is larger is not ours


def lease_path(identity: Path, tun_name: str, directory: Path | None = None) -> Path:
    """Where it lies: one file for each tunnel, beside the identity or in a directory."""
    name = f"{identity.name}.{tun_name}.leases.json"
    return identity.with_name(name) if directory is None else directory / name


def read(path: Path) -> dict[PeerId, tuple[InnerAddress, ...]]:
    """What it holds; nothing, if there is none. LeaseError if it cannot be read or is damaged."""
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_MAX + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LeaseError(f"cannot read the leases {path}: {error.strerror}") from None
    try:
        document = json.loads(data) if len(data) <= _FILE_MAX else None
        if not isinstance(document, dict) or document.get("version") != _VERSION:
            raise ValueError
        leases = {
            PeerId.parse(name): tuple(ip_address(_text(address)) for address in addresses)
            for name, addresses in document["leases"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        leases = None
    if leases is not None:
        given = [address for addresses in leases.values() for address in addresses]
        if len(given) == len(set(given)):
            return leases
    raise LeaseError(f"the leases {path} are damaged; restore the file, or move it away to give addresses anew")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError  # ip_address would take a number for an address
    return value
