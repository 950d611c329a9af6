"""What is due when, for many: looking costs nothing per entry that has not changed."""

import heapq
import itertools
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from cryprq.protocol.clock import Boottime

Key = TypeVar("Key", bound=Hashable)

_STALE_SHARE: Final = 4
"""The heap is made anew when no more than one entry in so many counts."""
_STALE_MIN: Final = 64


class Timers(Generic[Key]):
    """One time per key, the earliest first. An entry that changes leaves a stale one behind until its time comes, or
    until they are many."""

    def __init__(self) -> None:
        self._due: dict[Key, Boottime] = {}
        self._heap: list[tuple[Boottime, int, Key]] = []
        self._order = itertools.count()  # entries of the same time: first set, first due

    def set(self, key: Key, due: Boottime | None) -> None:
        """The key's time; None: never."""
        if self._due.get(key) == due:
            return
        if due is None:
            del self._due[key]
        else:
            self._due[key] = due
            heapq.heappush(self._heap, (due, next(self._order), key))
        if len(self._heap) > max(_STALE_MIN, _STALE_SHARE * len(self._due)):
            self._heap = [(at, next(self._order), key) for key, at in self._due.items()]
            heapq.heapify(self._heap)

    def next(self) -> Boottime | None:
        """The earliest time of all."""
        while self._heap:
            due, _, key = self._heap[0]
            if self._due.get(key) == due:
                return due
            heapq.heappop(self._heap)
        return None

    def take(self, now: Boottime) -> Key | None:
        """Removes and returns one key that is due, the earliest; None when nothing is."""
        due = self.next()
        if due is None or due > now:
            return None
        _, _, key = heapq.heappop(self._heap)
        del self._due[key]
        return key

    def __len__(self) -> int:
        return len(self._due)
