"""What of a new configuration a running node can take over."""

from dataclasses import fields, replace
from typing import Final

from cryprq.config.node_config import NodeConfig

RELOADABLE: Final = frozenset(
    {"peers", "allow_peers", "allow_any", "routes", "rotate_secs", "log_level", "config_file"}
)
"""Fields of ``NodeConfig`` that change at once; all others need a restart."""


def merge(running: NodeConfig, wanted: NodeConfig) -> tuple[NodeConfig, list[str]]:
    """The configuration to go on with, and the names (as flags spell them) of what differs and needs a restart.

    ConfigError if the new parts do not fit the old ones.
    """
    kept = {
        field.name: getattr(running, field.name)
        for field in fields(NodeConfig)
        if field.name not in RELOADABLE and getattr(running, field.name) != getattr(wanted, field.name)
    }
    return replace(wanted, **kept), [_flag(name) for name in kept]


def _flag(field: str) -> str:
    return {"tun_addresses": "tun-address", "disabled_offloads": "no-offload"}.get(field, field.replace("_", "-"))
