"""Notices that files in a directory are otherwise, once they are complete (inotify(7)).

A file counts when whoever wrote it has closed it, or has given it its name by a rename. An editor makes several steps
of one change (vim renames the old file away and writes a new one), so nobody is told before a moment of rest.
"""

import contextlib
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cryprq._fastpath import watch_directory

_MODIFY, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO = 0x2, 0x8, 0x40, 0x80
_CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x100, 0x200, 0x400, 0x800
_OVERFLOW: Final = 0x4000
_IGNORED: Final = 0x8000
_ONLYDIR: Final = 0x0100_0000
_MASK: Final = (
    _MODIFY | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _DELETE_SELF | _MOVE_SELF | _ONLYDIR
)
_HEADER: Final = struct.Struct("=iIII")
"""Watch, mask, cookie, and the length of the name that follows, with its padding."""
_READ_MAX: Final = 65_536


class DirectoryWatch:
    """A descriptor that is readable when something happens in a directory."""

    def __init__(self, directory: Path) -> None:
        """OSError if it cannot be watched."""
        self._directory = directory
        self._unfinished: set[str] = set()
        self.gone = False
        """Whether the directory is not there any more, under its name: then it has to be watched anew."""
        self._descriptor = watch_directory(directory, _MASK)

    @property
    def unfinished(self) -> frozenset[str]:
        """Names of files that somebody is writing to."""
        return frozenset(self._unfinished)

    def fileno(self) -> int:
        """The descriptor, for an event loop."""
        return self._descriptor

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def changed(self) -> bool:
        """Reads what waits; whether something is complete that was otherwise before."""
        found = False
        for mask, name in self._events():
            if mask & (_DELETE_SELF | _MOVE_SELF | _IGNORED):
                self.gone = found = True
            elif mask & _OVERFLOW:  # whatever was written to may be complete
                self._unfinished.clear()
                found = True
            elif mask & (_CREATE | _MODIFY) and self._is_being_written(name, made=bool(mask & _CREATE)):
                self._unfinished.add(name)
            else:
                self._unfinished.discard(name)
                found = True
        return found

    def _is_being_written(self, name: str, *, made: bool) -> bool:
        """Who makes a link closes nothing afterwards."""
        if not made:
            return True
        with contextlib.suppress(OSError):
            status = os.lstat(self._directory / name)
            return stat.S_ISREG(status.st_mode) and status.st_nlink == 1
        return False

    def _events(self) -> Iterator[tuple[int, str]]:
        while True:
            try:
                data = os.read(self._descriptor, _READ_MAX)
            except BlockingIOError:
                return
            at = 0
            while at < len(data):
                _, mask, _, length = _HEADER.unpack_from(data, at)
                at += _HEADER.size + length
                yield mask, os.fsdecode(data[at - length : at].rstrip(b"\0"))
