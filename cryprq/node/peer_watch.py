"""The directory of ``--allow-peer-dir`` while a node runs: a moment after something in it is complete, the
configuration is read again."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Final

from cryprq.config.peer_files import PeerFiles
from cryprq.linux.directory_watch import DirectoryWatch

REST: Final = 0.2
"""Seconds without anything new until it is read: what an editor does in several steps, or a copy of many files, is one
change."""
REST_MAX: Final = 2.0
"""Seconds after which it is read all the same."""
TRY_AGAIN: Final = 1.0
"""Seconds between looks for a directory that is gone."""


class PeerWatch:
    """Belongs to one event loop."""

    def __init__(
        self, directory: Path, files: PeerFiles, changed: Callable[[], None], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._directory = directory
        self._files = files
        self._changed = changed
        self._loop = loop
        self._watch: DirectoryWatch | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._first: float | None = None

    def start(self) -> None:
        """Begins; a directory that cannot be watched yet is looked for."""
        try:
            self._watch = DirectoryWatch(self._directory)
        except OSError:
            self._set(TRY_AGAIN, self._restart)
            return
        self._files.unfinished = frozenset()
        self._loop.add_reader(self._watch.fileno(), self._ready)

    def stop(self) -> None:
        """Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
        if self._watch is not None:
            self._loop.remove_reader(self._watch.fileno())
            self._watch.close()
            self._watch = None

    def _ready(self) -> None:
        assert self._watch is not None
        found = self._watch.changed()
        self._files.unfinished = self._watch.unfinished
        if self._watch.gone:
            self.stop()
            self._restart()
        elif found or self._first is not None:
            self._rest()

    def _rest(self) -> None:
        now = self._loop.time()
        self._first = now if self._first is None else self._first
        self._set(max(0.0, min(REST, self._first + REST_MAX - now)), self._tell)

    def _tell(self) -> None:
        self._first = self._timer = None
        self._changed()

    def _restart(self) -> None:
        """What the files said stays in force until there is such a directory again."""
        self._timer = None
        self.start()
        if self._watch is not None:
            self._changed()

    def _set(self, seconds: float, what: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, what)
