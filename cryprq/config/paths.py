"""Where a node's files lie if nobody says: in the directories that systemd gives a service, or in the usual ones."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

DEFAULT_IDENTITY: Final = Path("/var/lib/cryprq/identity")
DEFAULT_TUN_NAME: Final = "cryprq0"
DEFAULT_CONFIG: Final = Path("/etc/cryprq/node.toml")
RUNTIME_DIRECTORY: Final = Path("/run/cryprq")


def default_identity(environ: Mapping[str, str]) -> Path:
    """Where the identity lies: in the service's state directory, or in /var/lib/cryprq."""
    return state_directory(environ) / "identity"


def state_directory(environ: Mapping[str, str]) -> Path:
    """Where a node may write what is to last."""
    state = environ.get("STATE_DIRECTORY", "").split(":")[0]  # systemd gives a list
    return Path(state) if state else DEFAULT_IDENTITY.parent


def is_credential(identity: Path, environ: Mapping[str, str]) -> bool:
    """Whether the file is one that systemd hands to the service: nothing can be written beside it."""
    credentials = environ.get("CREDENTIALS_DIRECTORY", "")
    return bool(credentials) and identity.is_relative_to(credentials)


def default_control_socket(environ: Mapping[str, str], tun_name: str) -> Path:
    """Where the admin socket (``--control-socket``) of the node with that TUN is."""
    runtime = environ.get("RUNTIME_DIRECTORY", "").split(":")[0]
    return (Path(runtime) if runtime else RUNTIME_DIRECTORY) / f"{tun_name}.sock"
