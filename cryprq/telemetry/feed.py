"""Who wants to hear of all that happens, and how far each has got: what is behind ``cryprq events``.

A reader begins with how everything is, and then hears what changes. Nobody waits for one that is slow: what there is no
room for it does not get, and it is told how much that was, and then how everything is by now.
"""

import asyncio
import json
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

from cryprq.telemetry.changes import SCHEMA_VERSION, Change, encode, now

WAITING_MAX: Final = 256
"""Lines that wait for one reader, beside what the kernel holds for it."""
READERS_MAX: Final = 32


class Feed:
    """What happens at a node, for any number of readers. Belongs to one event loop."""

    def __init__(self, status: Callable[[], Mapping[str, Any]], node: Mapping[str, object]) -> None:
        """``status`` is everything as it is now, as JSON can have it; ``node`` is what every line has."""
        self._status = status
        self._node = node
        self._readers: set[Reader] = set()

    def tell(self, change: Change) -> None:
        """Returns at once."""
        if self._readers:
            line = encode(change, self._node)
            for reader in self._readers:
                reader.put(line)

    def open(self) -> "Reader":
        """Another reader, which gets a snapshot first. LookupError, one line, where there are too many."""
        if len(self._readers) >= READERS_MAX:
            raise LookupError(f"{READERS_MAX} programs read this node's events already")
        reader = Reader(self._snapshot)
        self._readers.add(reader)
        return reader

    def drop(self, reader: "Reader") -> None:
        """It reads no more."""
        self._readers.discard(reader)

    def end(self, last: Change) -> None:
        """Nothing comes after this one."""
        self.tell(last)
        for reader in self._readers:
            reader.end()

    def _snapshot(self) -> bytes:
        head = {"version": SCHEMA_VERSION, "change": "snapshot", "event": "snapshot", "time": now()}
        return json.dumps({**head, **self._node, "status": self._status()}).encode() + b"\n"


class Reader:
    """How far one has got, and what waits for it."""

    def __init__(self, snapshot: Callable[[], bytes]) -> None:
        self._snapshot = snapshot
        self._waiting: deque[bytes] = deque()
        self._lost = 0
        self._stale = True
        self._ended = False
        self._news = asyncio.Event()

    def put(self, line: bytes) -> None:
        """Adds a line. Where there is no room, all that waits is lost: a snapshot says more than a part of it."""
        if self._stale:  # a snapshot that is still to be made has it in it
            self._lost += self._lost > 0
        elif len(self._waiting) >= WAITING_MAX:
            self._lost = len(self._waiting) + 1
            self._waiting.clear()
            self._stale = True
        else:
            self._waiting.append(line)
        self._news.set()

    def end(self) -> None:
        """What waits is the last."""
        self._ended = True
        self._news.set()

    async def next(self) -> bytes | None:
        """The next line, or what stands for several; None: there is none any more."""
        while True:
            if self._stale:
                return self._catch_up()
            if self._waiting:
                return self._waiting.popleft()
            if self._ended:
                return None
            self._news.clear()
            await self._news.wait()

    def _catch_up(self) -> bytes:
        lost, self._lost, self._stale = self._lost, 0, False
        told = _lost_line(lost) if lost else b""
        return told if self._ended else told + self._snapshot()


def _lost_line(count: int) -> bytes:
    head = {"version": SCHEMA_VERSION, "change": "lost", "event": "events_lost", "time": now(), "count": count}
    return json.dumps(head).encode() + b"\n"
