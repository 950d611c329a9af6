"""``cryprq events``: what happens at a node, a JSON object a line, until it stops."""

import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryprq.cli.admin_client import refusals, result_of
from cryprq.errors import MachineError

PATIENCE: Final = 5.0
"""Seconds for the node to begin."""


def follow(path: Path) -> None:
    """Prints what happens as it does. Returns when the node stops; MachineError, one line, if it cannot be read, or
    ends without a word."""
    line = b""
    for line in _lines(path):
        sys.stdout.write(line.decode())
        sys.stdout.flush()
    if not line or json.loads(line)["change"] != "down":
        raise MachineError(f"the node at {path} is gone")


def _lines(path: Path) -> Iterator[bytes]:
    with refusals(path), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(PATIENCE)
        sock.connect(os.fspath(path))
        sock.sendall(b'{"command": "events"}\n')
        with sock.makefile("rb") as file:
            result_of(path, file.readline())
            sock.settimeout(None)
            yield from file
