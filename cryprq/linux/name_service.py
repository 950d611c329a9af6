"""Names to addresses, in threads that nobody has to wait for.

The system's look-up cannot be interrupted, and takes as long as name servers are silent.

With a full tunnel, queries would go into the tunnel that they are to find. They are the system's, so they cannot have
a mark, but their sockets have an owner that routing rules may go by: the user of the thread that opens them.
"""

import asyncio
import ctypes
import encodings.idna  # noqa: F401  # Python loads it when a name is first looked up, and that user may not read files
import os
import socket
from collections.abc import Sequence
from typing import Any, Final

from cryprq.linux import detached

LOOKUPS_MAX: Final = 32
"""Look-ups at a time; others wait. Each is a thread."""


_OWN_UID: Final = 2_000_000_113
"""Of nobody: above what systemd gives to containers, and below 2^31."""
_NO_UID: Final = 0xFFFFFFFF
_libc = ctypes.CDLL(None, use_errno=True)
_libc.setfsuid.argtypes = [ctypes.c_uint]


def lookup_uid() -> int | None:
    """The user whose sockets make the look-ups: this process's, unless that is root, whose sockets are many; then one
    that nobody else has. None where that cannot be."""
    if (uid := os.geteuid()) != 0:
        return uid
    try:
        return _OWN_UID if _take_uid(_OWN_UID) else None
    finally:
        _libc.setfsuid(uid)


def _take_uid(uid: int) -> bool:
    """Makes what this thread opens from now on that user's; setfsuid(2) itself does not say whether it did."""
    _libc.setfsuid(uid)
    return bool(_libc.setfsuid(_NO_UID) == uid)


class NameService:
    """``getaddrinfo`` for an event loop. It belongs to the loop in which it is first used."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(LOOKUPS_MAX)

    async def getaddrinfo(
        self, host: str, port: int, family: int, kind: int, uid: int | None = None
    ) -> Sequence[tuple[Any, ...]]:
        """As ``socket.getaddrinfo``; OSError or UnicodeError. With ``uid`` the query's sockets are that user's
        (``lookup_uid``). A look-up that is cancelled leaves its thread behind, which ends when the system has answered,
        or with the process."""

        def look_up() -> Sequence[tuple[Any, ...]]:
            if uid is not None:
                _take_uid(uid)
            return socket.getaddrinfo(host, port, family, kind)

        async with self._places:
            return await detached.call(look_up, "look-up")
