"""CrypRQ: a post-quantum VPN for Linux.

``Node`` runs a node in an asyncio program, ``NodeConfig`` says what it does, ``Identity`` and ``PeerId`` who it is.
"""

from typing import TYPE_CHECKING, Any

from cryprq.config.node_config import NodeConfig
from cryprq.peer_id import PeerId
from cryprq.protocol.identity import Identity

if TYPE_CHECKING:
    from cryprq.node.node import Node

__all__ = ["Identity", "Node", "NodeConfig", "PeerId"]


def __getattr__(name: str) -> Any:
    # Node needs the compiled data plane; everything else works without it.
    if name == "Node":
        from cryprq.node.node import Node

        return Node
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
