"""The program of ``--on-change``: called for each change, one call at a time, and never waited for by the node."""

import asyncio
import contextlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from cryprq.errors import MachineError
from cryprq.linux import program
from cryprq.telemetry.changes import Change, ChangeQueue, encode

TIME_LIMIT: Final = 10.0
"""Seconds that one call may take."""
DRAIN_LIMIT: Final = 2.0
"""Seconds for what still waits when the node stops ..."""
DOWN_LIMIT: Final = 3.0
"""... and for the last call, which says that it has. Container runtimes and the unit give a node 10 s to stop."""


class HookObserver(Protocol):
    """Who is told (``cryprq.telemetry.reporter.Reporter``)."""

    def hook_called(self, change: Change, fault: str | None, *, killed: bool = False) -> None: ...
    def hook_behind(self, change: Change, lost: int) -> None: ...


def check(path: Path) -> None:
    """MachineError, one line, unless this is a program that nobody but its owner, root or this user, can change."""
    if (fault := _fault(path)) is not None:
        raise MachineError(f"--on-change {path}: {fault}")


def _fault(path: Path) -> str | None:
    try:
        real = path.resolve(strict=True)
        status = real.stat()
        if not stat.S_ISREG(status.st_mode):
            return "not a regular file"
        if status.st_uid not in (0, os.geteuid()):
            return f"it belongs to another user (uid {status.st_uid}), who could have this node run anything"
        for each in (real, *real.parents):
            mode = each.stat().st_mode
            # In a sticky directory, such as /tmp, nobody replaces what is another's. (A mode shows what an ACL allows.)
            if mode & 0o022 and not (each is not real and mode & stat.S_ISVTX):
                return f"{each} can be written by others (mode {stat.S_IMODE(mode):04o}); chmod go-w {each}"
        if not os.access(real, os.X_OK):
            return "it is not executable"
    except OSError as error:
        return str(error.strerror)
    return None


class Hook:
    """Calls the program. Belongs to one event loop; without a program it does nothing."""

    def __init__(self, path: Path | None, observer: HookObserver, node: Mapping[str, object]) -> None:
        """``node`` is what every object has, besides what it is about."""
        self._path = path
        self._observer = observer
        self._node = node
        self._queue = ChangeQueue()
        self._task: asyncio.Task[None] | None = None
        self._stopped = False

    def tell(self, change: Change) -> None:
        """Returns at once; the call is made when those before it have ended."""
        if self._path is None or self._stopped:
            return
        if (lost := self._queue.put(change)) is not None:
            self._observer.hook_behind(lost, 1)
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(self._work())

    async def stop(self, last: Change | None) -> None:
        """Makes the calls that still wait, for ``DRAIN_LIMIT`` seconds, and then the last one."""
        self._stopped = True
        if self._task is not None and not self._task.done():
            with contextlib.suppress(TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(self._task, DRAIN_LIMIT)  # what runs when the time is up is killed
        if (lost := self._queue.clear()) and last is not None:
            self._observer.hook_behind(last, lost)
        if self._path is not None and last is not None:
            await self._call(last, DOWN_LIMIT)

    async def _work(self) -> None:
        while (change := self._queue.take()) is not None:
            await self._call(change, TIME_LIMIT)

    async def _call(self, change: Change, limit: float) -> None:
        assert self._path is not None
        try:
            ended = await program.run([self._path], data=encode(change, self._node), timeout=limit)
        except OSError as error:
            self._observer.hook_called(change, error.strerror or str(error))
        else:
            self._observer.hook_called(change, ended.fault, killed=ended.status is None)
