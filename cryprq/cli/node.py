"""``cryprq-node``: the daemon. Exit status 0 after a normal stop, 2 for a wrong configuration, 1 for the machine."""

import gc
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from cryprq import version
from cryprq.cli import run_program
from cryprq.config import psk_file
from cryprq.config.command_line import parser
from cryprq.config.identity_file import load_identity
from cryprq.config.node_config import NodeConfig
from cryprq.config.peer_files import PeerFiles
from cryprq.errors import ConfigError, MachineError
from cryprq.node import hook
from cryprq.node.doubts import of_configuration, of_machine
from cryprq.protocol.constants import AEAD_NAMES
from cryprq.protocol.key_schedule import wipe

PROGRAM = "cryprq-node"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a node until it is told to stop; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_program(PROGRAM, lambda: _run(arguments))


def _run(argv: Sequence[str]) -> int:
    environ = dict(os.environ)
    arguments = parser(NodeConfig).parse_args(argv)
    if arguments.version:
        print(version.describe(PROGRAM))
        return 0
    gc.disable()  # until the node runs: what imports make is no garbage
    try:
        return _load_and_run(argv, environ, arguments.check)
    finally:
        gc.enable()


def _load_and_run(argv: Sequence[str], environ: Mapping[str, str], check: bool) -> int:
    peer_files = PeerFiles()
    config = NodeConfig.load(argv, environ, peer_files)
    try:
        from cryprq.node.daemon import run
    except ImportError as error:
        if error.name != "cryprq._fastpath":
            raise
        raise MachineError(f"the compiled data plane cannot be loaded: {error}; build it with `make build`") from None
    _check_backend(environ.get("CRYPRQ_AEAD_BACKEND", ""))
    if check:
        print(_check(config))
        return 0
    return run(config, reload=lambda: NodeConfig.load(argv, environ, peer_files), peer_files=peer_files)


def _check_backend(word: str) -> None:
    """ConfigError if the variable names no back end of this CPU (``cq_aead_select``)."""
    from cryprq._fastpath import aead_backends

    known = dict.fromkeys(name.partition("-")[0] for suite in AEAD_NAMES for name in aead_backends(suite))
    if word and word not in known:
        raise ConfigError(f"CRYPRQ_AEAD_BACKEND names no back end of this CPU; it has {', '.join(known)}")


def _check(config: NodeConfig) -> str:
    """The effective configuration, whose it is, and what is doubtful about it. Reads the identity if it is there, but
    makes none, and the pre-shared keys."""
    who = "none yet, made at the first start"
    if os.path.lexists(config.identity):
        identity = load_identity(Path(config.identity))
        if any(peer.peer_id == identity.peer_id for peer in config.peers) or identity.peer_id in config.allow_peers:
            raise ConfigError(f"{identity.peer_id} is this node's own peer ID; name other nodes as peers")
        who = str(identity.peer_id)
    wipe(*psk_file.load_all(config.psk_files).values())  # are they there, and private?
    if config.on_change is not None:
        hook.check(config.on_change)
    doubts = (*config.peer_faults, *of_machine(config), *of_configuration(config))
    told = "".join(f"\n# warning: {doubt}" for doubt in doubts)
    return f"peer_id = {who}\n{config.describe()}{told}"


if __name__ == "__main__":
    sys.exit(main())
