"""A store that lasts as long as the process, for tests and for nodes that are to leave nothing."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from cryprq.registry.store import (
    ABSENT,
    Batch,
    Change,
    Compacted,
    Conflict,
    Contents,
    Delete,
    Entry,
    Expect,
    Note,
    Op,
    Presence,
    Put,
)

LOG_MAX: Final = 4096
"""Commits that a watch can go back."""
NOTES_MAX: Final = 10_000
"""Lines of the audit trail."""


class Held:
    """The presence of a process in a store that only it, or only its host, has: it is there as long as that."""

    lost = False

    async def close(self) -> None:
        """Nothing is left to take back."""


class MemoryStore:
    """Store, in memory."""

    where = "memory"

    def __init__(self, *, log_max: int = LOG_MAX, notes_max: int = NOTES_MAX) -> None:
        self._revision = 0
        self._entries: dict[str, Entry] = {}
        self._log: deque[Batch] = deque(maxlen=log_max)
        self._notes: deque[Note] = deque(maxlen=notes_max)
        self._news = asyncio.Event()

    async def load(self) -> Contents:
        return Contents(self._revision, dict(self._entries))

    async def watch(self, after: int) -> AsyncIterator[Batch]:
        while True:
            news = self._news
            missing = [batch for batch in self._log if batch.revision > after]
            if len(missing) != self._revision - after:
                raise Compacted(f"what followed revision {after} is not known any more")
            for batch in missing:
                after = batch.revision
                yield batch
            if after == self._revision:
                await news.wait()

    async def commit(self, *ops: Op, note: Note | None = None, timeout: float = 2.0) -> int:
        expected = [op for op in ops if isinstance(op, Expect)]
        if [op for op in expected if self._version(op.key) != op.version]:
            raise Conflict("somebody else was quicker", {op.key: self._entries.get(op.key) for op in expected})
        self._revision += 1
        changes = changes_of(ops)
        for change in changes:
            if change.value is None:
                self._entries.pop(change.key, None)
            else:
                self._entries[change.key] = Entry(change.value, self._revision)
        self._log.append(Batch(self._revision, changes))
        if note is not None:
            self._notes.append(note)
        self._news.set()
        self._news = asyncio.Event()
        return self._revision

    async def notes(self, limit: int) -> list[Note]:
        return list(self._notes)[-limit:]

    async def present(self, key: str, value: bytes, ttl: float) -> Presence:
        return Held()

    async def probe(self) -> None:
        return None

    async def close(self) -> None:
        return None

    def _version(self, key: str) -> int:
        entry = self._entries.get(key)
        return entry.version if entry is not None else ABSENT


def changes_of(ops: tuple[Op, ...]) -> tuple[Change, ...]:
    """What the operations change: of several for one key, the last."""
    changes: dict[str, Change] = {}
    for op in ops:
        if isinstance(op, Put):
            changes[op.key] = Change(op.key, op.value)
        elif isinstance(op, Delete):
            changes[op.key] = Change(op.key, None)
    return tuple(changes.values())
