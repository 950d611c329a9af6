"""The Unix socket behind ``--control-socket``, where the tool asks a running node: one JSON object a line.

Request ``{"command": "status"}`` (``"measure": true``: with round trips of now), ``{"command": "rotate", "peer": "<name
or ID>"}`` (no peer: all), ``{"command": "down"}``, ``{"command": "events"}`` or ``{"command": "peer", "do": ...}``
(``cryprq.registry.commands``); answer ``{"ok": true, "result": ...}`` or ``{"ok": false, "error": "<one line>"}``.
After that of ``events`` come the lines of ``feed``, and no further answers. Whoever may open the socket may ask; who
peers are is only root's to change, and the node's own user's.
"""

import asyncio
import contextlib
import errno
import json
import os
import pwd
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cryprq.errors import CryprqError, MachineError
from cryprq.peer_id import PeerId
from cryprq.telemetry.changes import Change
from cryprq.telemetry.feed import Feed, Reader
from cryprq.telemetry.samples import NodeStatus, as_json

REQUEST_MAX: Final = 32_768
"""Bytes of a request: some hundred networks of a peer."""
TIMEOUT: Final = 5.0
"""Seconds that a client may be silent."""
STREAM_END: Final = 0.5
"""Seconds that a reader of events has for the last ones when the node stops."""
_QUESTIONS: Final = ("list", "show", "log", "invitations")
"""What of ``peer`` changes nothing."""


class AdminSocket:
    """Answers on the admin socket until it is closed."""

    def __init__(
        self,
        path: Path,
        status: Callable[[], NodeStatus],
        rotate: Callable[[PeerId | None], Sequence[PeerId]],
        down: Callable[[], None],
        peers: Callable[[Mapping[str, Any], str], Awaitable[Any]] | None = None,
        *,
        measure: Callable[[], Awaitable[None]],
        feed: Feed,
        find: Callable[[str], PeerId] = PeerId.parse,
    ) -> None:
        """``rotate`` starts a rotation with one peer or all and returns those it started with; a LookupError's text is
        the answer for a peer that has no session. ``down`` makes the node stop, and leave nothing behind. ``peers``
        answers requests about the registry, of the user that it is told; a CryprqError's text is the answer.
        ``measure`` returns when round trips are known, or soon; ``find`` says whom a word means, or raises LookupError
        or ValueError."""
        self._path = path
        self._status = status
        self._rotate = rotate
        self._down = down
        self._peers = peers
        self._measure = measure
        self._feed = feed
        self._find = find
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._streams: set[asyncio.Task[None]] = set()
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
        self._feed.end(Change("down", "node_stopped"))
        if self._streams:
            await asyncio.wait(self._streams, timeout=STREAM_END)
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
            uid = _peer_uid(writer.get_extra_info("socket").fileno())
            while True:
                async with asyncio.timeout(TIMEOUT):
                    line = await reader.readline()
                    if not line.endswith(b"\n"):
                        break
                request = _parse(line)
                if request == {"command": "events"}:
                    await self._stream(task, reader, writer)
                    break
                answer = await self._answer(request, uid)
                async with asyncio.timeout(TIMEOUT):
                    writer.write(json.dumps(answer).encode() + b"\n")
                    await writer.drain()
        except (OSError, ValueError, TimeoutError, asyncio.CancelledError):  # ValueError: the line is too long
            pass
        finally:
            writer.close()
            self._tasks.discard(task)

    async def _stream(
        self, task: asyncio.Task[None], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Events, until there are no more, or nobody takes them. What the client says meanwhile is skipped."""
        try:
            events = self._feed.open()
        except LookupError as error:
            writer.write(json.dumps({"ok": False, "error": str(error)}).encode() + b"\n")
            return
        self._streams.add(task)
        gone = asyncio.ensure_future(_until_end(reader, events))
        try:
            writer.write(b'{"ok": true, "result": null}\n')
            while (line := await events.next()) is not None:
                writer.write(line)
                await writer.drain()  # makes nobody wait but this task
        finally:
            gone.cancel()
            self._feed.drop(events)
            self._streams.discard(task)

    async def _answer(self, request: Any, uid: int) -> dict[str, Any]:
        match request:
            case {"command": "peer", "do": do} if self._peers is not None:
                if do not in _QUESTIONS and uid not in (0, os.geteuid()):
                    return {"ok": False, "error": "only root and the node's own user may change who its peers are"}
                try:
                    who = f"{await asyncio.to_thread(_user, uid)} by the control socket"
                    return {"ok": True, "result": await self._peers(request, who)}
                except CryprqError as error:
                    return {"ok": False, "error": str(error)}
            case {"command": "status"}:
                if request.get("measure") is True:
                    await self._measure()
                return {"ok": True, "result": as_json(self._status())}
            case {"command": "rotate"}:
                try:
                    name = request.get("peer")
                    started = self._rotate(None if name is None else self._find(str(name)))
                except (LookupError, ValueError) as error:
                    return {"ok": False, "error": str(error.args[0]) if error.args else "unknown peer"}
                return {"ok": True, "result": [str(peer) for peer in started]}
            case {"command": "down"}:
                self._down()
                return {"ok": True, "result": None}
        return {"ok": False, "error": "unknown request; expected the command status, events, rotate, peer or down"}


def _parse(line: bytes) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


async def _until_end(reader: asyncio.StreamReader, events: Reader) -> None:
    with contextlib.suppress(OSError):
        while await reader.read(REQUEST_MAX):
            pass
    events.end()


def _peer_uid(descriptor: int) -> int:
    """The user at the other end (unix(7): SO_PEERCRED), as of its connect."""
    with socket.socket(fileno=os.dup(descriptor)) as sock:
        size = struct.calcsize("3i")
        _, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        return int(uid)


def _user(uid: int) -> str:
    """For the audit trail. It may ask a directory service."""
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


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
