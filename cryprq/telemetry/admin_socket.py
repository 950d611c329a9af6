"""The Unix control socket: what ``cryprq status`` and ``cryprq rotate`` ask a running node, one JSON object a line.

Request ``{"command": "status"}`` or ``{"command": "rotate", "peer": "<peer ID>"}`` (no peer: all); answer
``{"ok": true, "result": ...}`` or ``{"ok": false, "error": "<one line>"}``. Whoever may open the socket may ask.
"""

import asyncio
import contextlib
import errno
import json
import os
import socket
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from cryprq.errors import MachineError
from cryprq.peer_id import PeerId
from cryprq.telemetry.metrics import PeerSample

REQUEST_MAX: Final = 4096
TIMEOUT: Final = 5.0
"""Seconds that a client may be silent, and that the tool waits for an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStatus:
    """A node as ``cryprq status`` shows it; ``--json`` prints these names."""

    version: str
    peer_id: str
    tun_name: str
    uptime_secs: float
    healthy: bool
    listen_addr: str = ""
    """The multiaddr that others dial, or empty."""
    addresses: tuple[str, ...] = ()
    """The node's own tunnel addresses."""
    mtu: int = 0
    peers: Sequence[PeerSample] = ()
    drops: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Packets and records dropped, by direction and reason."""
    offloads: Mapping[str, str] = field(default_factory=dict)


class ControlServer:
    """Answers on the control socket until it is closed."""

    def __init__(
        self, path: Path, status: Callable[[], NodeStatus], rotate: Callable[[PeerId | None], Sequence[PeerId]]
    ) -> None:
        """``rotate`` starts a rotation with one peer or all and returns those it started with; a LookupError's text is
        the answer for a peer that has no session."""
        self._path = path
        self._status = status
        self._rotate = rotate
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._inode: tuple[int, int] | None = None

    async def start(self) -> None:
        """Makes the socket, mode 0600, and its directory (0755) if that is missing. A socket that nobody listens on any
        more is replaced; MachineError if a node does, if something else is there, or if it cannot be made."""
        try:
            sock = _bind(self._path)
        except OSError as error:
            raise MachineError(f"cannot make the control socket {self._path}: {error.strerror or error}") from None
        status = os.stat(self._path)
        self._inode = (status.st_dev, status.st_ino)
        self._server = await asyncio.start_unix_server(self._accept, sock=sock, limit=REQUEST_MAX)

    async def close(self) -> None:
        """Ends open connections and removes the socket, unless another node has put its own in that place."""
        if self._server is None:
            return
        self._server.close()
        self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(OSError):
            status = os.stat(self._path)
            if (status.st_dev, status.st_ino) == self._inode:
                os.unlink(self._path)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            while True:
                async with asyncio.timeout(TIMEOUT):
                    line = await reader.readline()
                    if not line.endswith(b"\n"):
                        break
                    writer.write(json.dumps(self._answer(line)).encode() + b"\n")
                    await writer.drain()
        except (OSError, ValueError, TimeoutError, asyncio.CancelledError):  # ValueError: the line is too long
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
        except (ValueError, RecursionError):
            request = None
        match request:
            case {"command": "status"}:
                return {"ok": True, "result": asdict(self._status())}
            case {"command": "rotate"}:
                try:
                    name = request.get("peer")
                    started = self._rotate(None if name is None else PeerId.parse(str(name)))
                except (LookupError, ValueError) as error:
                    return {"ok": False, "error": str(error.args[0]) if error.args else "unknown peer"}
                return {"ok": True, "result": [str(peer) for peer in started]}
        return {"ok": False, "error": "unknown request; expected the command status or rotate"}


def request(path: Path, command: str, **arguments: object) -> Any:
    """Asks the node behind a control socket and returns the result. MachineError, one line, if it cannot or says no."""
    message = json.dumps({"command": command, **arguments}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(TIMEOUT)
            sock.connect(os.fspath(path))
            sock.sendall(message)
            with sock.makefile("rb") as file:
                answer = json.loads(file.readline())
    except (FileNotFoundError, ConnectionRefusedError):
        raise MachineError(
            f"no node answers at {path}: is cryprq-node running? (--tun-name or --control-socket says which)"
        ) from None
    except PermissionError:
        raise MachineError(f"no permission for {path}: use the node's user or root") from None
    except TimeoutError:
        raise MachineError(f"the node at {path} does not answer") from None
    except OSError as error:
        raise MachineError(f"cannot ask the node at {path}: {error.strerror or error}") from None
    except ValueError:
        answer = None
    match answer:
        case {"ok": True, "result": result}:
            return result
        case {"ok": False, "error": str(error_text)}:
            raise MachineError(error_text)
    raise MachineError(f"what answers at {path} is not a CrypRQ node")


def _bind(path: Path) -> socket.socket:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    # The mode must be right from the start, and there is no fchmod for a socket's file.
    previous = os.umask(0o177)
    try:
        try:
            sock.bind(os.fspath(path))
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            _remove_stale(path)
            sock.bind(os.fspath(path))
        sock.listen(16)
    except BaseException:
        sock.close()
        raise
    finally:
        os.umask(previous)
    return sock


def _remove_stale(path: Path) -> None:
    """Removes a socket that nobody listens on. MachineError for anything else."""
    if not stat.S_ISSOCK(os.lstat(path).st_mode):
        raise MachineError(f"{path} is in the place of the control socket and is not a socket; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            os.unlink(path)
            return
        except OSError:
            pass  # a full backlog, say: somebody is there
    raise MachineError(f"another node uses the control socket {path}; give this one another --tun-name")


# ---- for a terminal ----


def render(status: Mapping[str, Any]) -> str:
    """The table that ``cryprq status`` prints, from the JSON form of a NodeStatus."""
    lines = [
        f"node      {status['peer_id']}",
        f"version   {status['version']}, up {_duration(status['uptime_secs'])}"
        + ("" if status["healthy"] else ", NOT HEALTHY"),
    ]
    if status["listen_addr"]:
        lines.append(f"listening {status['listen_addr']}")
    addresses = ", ".join(status["addresses"]) or "no address yet"
    lines += [f"tunnel    {status['tun_name']}, {addresses}, MTU {status['mtu']}", ""]
    rows = [("PEER", "ENDPOINT", "ADDRESS", "ALLOWED IPS", "EPOCH", "AGE", "RECEIVED", "SENT")]
    for peer in status["peers"]:
        up = peer["connected"]
        age = peer["epoch_age_secs"]
        # One network a line: a site with ten of them must not push the other columns off the screen.
        lists = [list(peer["addresses"]) or ["-"], list(peer["allowed_ips"]) or ["-"]]
        rows.append(
            (
                peer["peer_id"],
                peer["endpoint"] or "-",
                lists[0].pop(0),
                lists[1].pop(0),
                str(peer["epoch"]) if up else "down",
                "-" if age is None else _duration(age),
                _size(peer["rx_bytes"]),
                _size(peer["tx_bytes"]),
            )
        )
        while any(lists):
            address, network = (items.pop(0) if items else "" for items in lists)
            rows.append(("", "", address, network, "", "", "", ""))
    if len(rows) == 1:
        lines.append("no peers")
    else:
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    drops = [
        f"{direction}/{reason} {count}"
        for direction, reasons in sorted(status["drops"].items())
        for reason, count in sorted(reasons.items())
        if count
    ]
    lines += ["", f"dropped   {', '.join(drops) or 'nothing'}"]
    return "\n".join(lines)


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def _size(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:.1f} {'KMGT'[power - 1]}iB"
