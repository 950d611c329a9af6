"""Changes of a node that programs of the operator's are told of: what one is, as JSON, and the queue of those to tell
the one of ``--on-change`` (``feed`` has those that read along).

A change says how something is from now on, so a newer one about the same thing takes the place of one that waits: a
slow program misses steps on the way, and never where they led.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

SCHEMA_VERSION: Final = 1
"""Of the objects: raised when a field gets another meaning or goes; new fields and kinds may come at any time."""
WAITING_MAX: Final = 256
"""Changes that wait; about so many peers may come or go while a program is busy."""


@dataclass(frozen=True, slots=True)
class Change:
    """Something is otherwise from now on."""

    kind: str
    """``up``, ``down``, ``address``, ``route``, ``dns`` or ``peer``; and, for ``cryprq events`` alone, ``rotation``,
    ``path`` or ``list``."""
    event: str
    """The event of the log that says the same."""
    subject: str = ""
    """What of its kind it is about; a later change of kind and subject says all that counts."""
    fields: Mapping[str, object] = field(default_factory=dict)
    """What JSON can have, named as in the log."""
    time: str = field(default_factory=lambda: now())
    """When; RFC 3339, UTC."""


def now() -> str:
    """The time as such objects have it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def encode(change: Change, node: Mapping[str, object]) -> bytes:
    """The object on a line of its own; ``node`` is what is the same in all."""
    head = {"version": SCHEMA_VERSION, "change": change.kind, "event": change.event, "time": change.time}
    return json.dumps({**head, **node, **change.fields}).encode("ascii") + b"\n"


class ChangeQueue:
    """Changes in the order in which they came, bounded."""

    def __init__(self, most: int = WAITING_MAX) -> None:
        self._most = most
        self._waiting: dict[tuple[str, str], Change] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def put(self, change: Change) -> Change | None:
        """Adds a change at the end. Returns one that will not be told: the one that this one makes obsolete, or the
        oldest, where there are too many."""
        key = change.kind, change.subject
        lost = self._waiting.pop(key, None)
        if lost is None and len(self._waiting) >= self._most:
            lost = self._waiting.pop(next(iter(self._waiting)))
        self._waiting[key] = change
        return lost

    def take(self) -> Change | None:
        """The oldest, or None."""
        return self._waiting.pop(next(iter(self._waiting))) if self._waiting else None

    def clear(self) -> int:
        """Forgets them all; how many there were."""
        count = len(self._waiting)
        self._waiting.clear()
        return count
