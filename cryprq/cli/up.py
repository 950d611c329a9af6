"""``cryprq up``: starts a node in the background and waits until its tunnel is up. ``cryprq down`` stops it.

For a laptop, or to try something; a server's node is its service manager's (``deploy/cryprq-node.service``).
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

from cryprq.cli import admin_client
from cryprq.config.node_config import NodeConfig
from cryprq.config.paths import DEFAULT_CONFIG
from cryprq.errors import CryprqError, MachineError

_POLL: Final = 0.05
_LINE_MAX: Final = 1000


class NotUp(CryprqError):
    """The node has ended at once, with this exit status; what it said is the message."""

    def __init__(self, message: str, exit_status: int) -> None:
        super().__init__(message)
        self.exit_status = exit_status


def run(arguments: argparse.Namespace) -> str:
    """Starts it, and returns what is to be said."""
    return start(Path(arguments.config or os.environ.get("CRYPRQ_CONFIG") or DEFAULT_CONFIG), arguments.wait)


def start(path: Path, patience: float) -> str:
    """Starts the node of that configuration unless it runs, and waits ``patience`` seconds for a peer.

    Returns one line that says how it is. ConfigError for a wrong configuration, NotUp if the node has ended,
    MachineError if it could not be started, or has no session yet."""
    flags = ("--config", str(path.absolute()))
    config = NodeConfig.load(flags, os.environ)
    socket, log = config.control_socket, config.control_socket.with_suffix(".log")
    try:
        status = admin_client.request(socket, "status")
        return f"the node was running already; {_describe(status)}"
    except admin_client.NoNode:
        pass
    process = _spawn(flags, log)
    end = time.monotonic() + patience
    status = None
    while time.monotonic() < end:
        if (code := process.poll()) is not None:
            raise NotUp(_last_line(log) or "the node has ended without a word", code if code > 0 else 1)
        try:
            status = admin_client.request(socket, "status")
            if _is_up(status):
                return _describe(status)
        except admin_client.NoNode:
            pass
        time.sleep(_POLL)
    why = "" if status is None else f": {_describe(status)}"
    raise MachineError(
        f"the node runs, but has no session yet{why}; it goes on trying, its log is {log}, `cryprq down` stops it"
    )


def _spawn(flags: tuple[str, ...], path: Path) -> "subprocess.Popen[bytes]":
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as log:
            return subprocess.Popen(
                (*_program(), *flags),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
            )
    except OSError as error:
        raise MachineError(f"cannot start the node: {error.filename or ''} {error.strerror}; run as root") from None


def _program() -> tuple[str, ...]:
    """``cryprq-node`` beside this program, which knows where its modules are; without it, the module."""
    beside = Path(sys.argv[0]).absolute().with_name("cryprq-node")
    if Path(sys.argv[0]).name == "cryprq" and os.access(beside, os.X_OK):
        return (str(beside),)
    return (sys.executable, "-m", "cryprq.cli.node")


def _is_up(status: Any) -> bool:
    """A dialer is when it has a session; a listener as soon as it listens."""
    return any(peer["connected"] for peer in status["peers"]) or bool(status["listen_addrs"])


def _describe(status: Any) -> str:
    addresses = ", ".join(status["addresses"]) or "no address yet"
    connected = sum(peer["connected"] for peer in status["peers"])
    return f"{status['tun_name']} has {addresses}; connected to {connected} of {len(status['peers'])} peers"


def _last_line(log: Path) -> str:
    """What the node said last, without its own name in front."""
    try:
        lines = log.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return lines[-1][:_LINE_MAX].removeprefix("cryprq-node: ") if lines else ""
