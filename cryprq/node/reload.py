"""What of a new configuration a running node can take over: the options whose row in the table says so."""

from dataclasses import fields, replace

from cryprq.config.node_config import NodeConfig
from cryprq.config.options import table


def merge(running: NodeConfig, wanted: NodeConfig) -> tuple[NodeConfig, list[str]]:
    """The configuration to go on with, and the names of the options that differ and need a restart.

    ConfigError if the new parts do not fit the old ones.
    """
    rows = table(running)
    reloaded = {field for field, row in rows.items() if row.reload}
    kept = {
        field.name: getattr(running, field.name)
        for field in fields(running)
        if field.compare and field.name not in reloaded and getattr(running, field.name) != getattr(wanted, field.name)
    }
    return replace(wanted, **kept), [rows[field].name if field in rows else field for field in kept]
