"""CrypRQ: a post-quantum VPN for Linux.

``Node`` runs a node in an asyncio program, ``NodeConfig`` says what it does, ``Identity`` and ``PeerId`` who it is; an
identity is kept in a file (``create_identity``, ``load_identity``, ``load_or_create_identity``), and a ``Multiaddr`` is
where a node listens or is dialled. What goes wrong is a ``ConfigError`` or a ``MachineError``, both a ``CryprqError``:
one line that says what to do. docs/python-api.md has two whole programs.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cryprq.config.identity_file import create_identity, load_identity, load_or_create_identity
    from cryprq.config.node_config import NodeConfig
    from cryprq.errors import ConfigError, CryprqError, MachineError
    from cryprq.multiaddr import Multiaddr
    from cryprq.node.node import Node
    from cryprq.peer_id import PeerId
    from cryprq.protocol.identity import Identity

__all__ = [
    "ConfigError",
    "CryprqError",
    "Identity",
    "MachineError",
    "Multiaddr",
    "Node",
    "NodeConfig",
    "PeerId",
    "create_identity",
    "load_identity",
    "load_or_create_identity",
]


_HOMES = {
    "ConfigError": "cryprq.errors",
    "CryprqError": "cryprq.errors",
    "Identity": "cryprq.protocol.identity",
    "MachineError": "cryprq.errors",
    "Multiaddr": "cryprq.multiaddr",
    "Node": "cryprq.node.node",
    "NodeConfig": "cryprq.config.node_config",
    "PeerId": "cryprq.peer_id",
    "create_identity": "cryprq.config.identity_file",
    "load_identity": "cryprq.config.identity_file",
    "load_or_create_identity": "cryprq.config.identity_file",
}


def __getattr__(name: str) -> Any:
    # Each when it is asked for: Node needs the compiled data plane, and the tool is started for one question.
    if (home := _HOMES.get(name)) is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(home), name)
