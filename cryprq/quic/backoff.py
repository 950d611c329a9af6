"""How long a source that failed is not listened to: doubling waits in a table of bounded size."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from cryprq.protocol.clock import Monotonic

BACKOFF_TABLE_MAX: Final = 4096
"""Sources that are remembered; the one that failed least recently is forgotten first."""
BACKOFF_FORGET: Final = 600.0
"""A source without failures for so long starts afresh."""
BACKOFF_FREE_FAILURES: Final = 3
"""Failures of a source that cost it nothing yet."""


@dataclass(slots=True)
class _Entry:
    failures: int
    last: Monotonic
    until: Monotonic


class Backoff:
    """Failures by source (``admission.source_of``; only sources whose address was validated belong here).

    Failure number ``free_failures + n`` starts a wait of ``base_ms * 2**(n - 1)``, at most ``max_ms``. A source is
    forgotten ``forget`` seconds after its last failure, or as the least recent one when ``size`` is reached, so
    memory does not grow with the number of sources.
    """

    def __init__(
        self,
        base_ms: int,
        max_ms: int,
        *,
        free_failures: int = BACKOFF_FREE_FAILURES,
        size: int = BACKOFF_TABLE_MAX,
        forget: float = BACKOFF_FORGET,
    ) -> None:
        if not 0 < base_ms <= max_ms or free_failures < 0 or size < 1 or forget <= 0:
            raise ValueError("backoff needs 0 < base_ms <= max_ms, a size of at least 1 and forget > 0")
        self._base = base_ms / 1000
        self._max = max_ms / 1000
        self._free_failures = free_failures
        self._size = size
        self._forget = max(forget, self._max)
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()  # least recent failure first

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, source: bytes) -> bool:
        """Whether a failure of the source is remembered."""
        return source in self._entries

    def failed(self, source: bytes, now: Monotonic) -> float:
        """Counts a failure and returns the wait in seconds that starts now; 0 while failures are still free."""
        self._expire(now)
        entry = self._entries.get(source)
        if entry is None:
            if len(self._entries) >= self._size:
                self._entries.popitem(last=False)
            entry = self._entries[source] = _Entry(0, now, now)
        else:
            self._entries.move_to_end(source)
        entry.failures += 1
        entry.last = now
        counted = entry.failures - self._free_failures
        # The exponent is bounded: 2**failures of a patient stranger must not become a large number.
        wait = 0.0 if counted <= 0 else min(self._base * 2.0 ** min(counted - 1, 32), self._max)
        entry.until = Monotonic(now + wait)
        return wait

    def has_room_for(self, source: bytes, now: Monotonic) -> bool:
        """True if a failure of the source makes the table forget nobody else."""
        self._expire(now)
        return source in self._entries or len(self._entries) < self._size

    def succeeded(self, source: bytes) -> None:
        """Somebody there has authenticated: the source starts afresh."""
        self._entries.pop(source, None)

    def remaining(self, source: bytes, now: Monotonic) -> float:
        """Seconds for which the source is still not listened to, 0 if it is."""
        entry = self._entries.get(source)
        return 0.0 if entry is None else max(0.0, entry.until - now)

    def _expire(self, now: Monotonic) -> None:
        while self._entries:
            source, entry = next(iter(self._entries.items()))
            if now - entry.last < self._forget:
                break
            del self._entries[source]
