"""CrypRQ: a post-quantum VPN for Linux.

``Node`` runs a node in an asyncio program, ``NodeConfig`` says what it does, ``Identity`` and ``PeerId`` who it is; an
identity is kept in a file (``create_identity``, ``load_identity``, ``load_or_create_identity``), and a ``Multiaddr`` is
where a node listens or is dialled. What goes wrong is a ``ConfigError`` or a ``MachineError``, both a ``CryprqError``:
one line that says what to do. docs/python-api.md has two whole programs.
"""

from typing import TYPE_CHECKING, Any

from cryprq.config.identity_file import create_identity, load_identity, load_or_create_identity
from cryprq.config.node_config import NodeConfig
from cryprq.errors import ConfigError, CryprqError, MachineError
from cryprq.multiaddr import Multiaddr
from cryprq.peer_id import PeerId
from cryprq.protocol.identity import Identity

if TYPE_CHECKING:
    from cryprq.node.node import Node

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


def __getattr__(name: str) -> Any:
    # Node needs the compiled data plane; everything else works without it.
    if name == "Node":
        from cryprq.node.node import Node

        return Node
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
