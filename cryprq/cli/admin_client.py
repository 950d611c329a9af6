"""Asks the node behind an admin socket (``cryprq.telemetry.admin_socket`` has the protocol)."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cryprq.errors import MachineError

TIMEOUT: Final = 5.0
"""Seconds that the tool waits for an answer."""


class NoNode(MachineError):
    """Nobody answers at the admin socket."""


def request(path: Path, command: str, **arguments: object) -> Any:
    """Asks the node behind an admin socket and returns the result. MachineError, one line, if it cannot or says no."""
    message = json.dumps({"command": command, **arguments}).encode() + b"\n"
    with refusals(path), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect(os.fspath(path))
        sock.sendall(message)
        with sock.makefile("rb") as file:
            return result_of(path, file.readline())


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """What the system says when the node cannot be asked becomes a MachineError of one line."""
    try:
        yield
    except (FileNotFoundError, ConnectionRefusedError):
        raise NoNode(
            f"no node answers at {path}: is cryprq-node running? (--tun-name or --control-socket says which)"
        ) from None
    except PermissionError:
        raise MachineError(f"no permission for {path}: use the node's user or root") from None
    except TimeoutError:
        raise MachineError(f"the node at {path} does not answer") from None
    except OSError as error:
        raise MachineError(f"cannot ask the node at {path}: {error.strerror or error}") from None


def result_of(path: Path, line: bytes) -> Any:
    """What an answer says; MachineError if it says no, or is none."""
    try:
        answer = json.loads(line)
    except ValueError:
        answer = None
    match answer:
        case {"ok": True, "result": result}:
            return result
        case {"ok": False, "error": str(error_text)}:
            raise MachineError(error_text)
    raise MachineError(f"what answers at {path} is not a CrypRQ node")
