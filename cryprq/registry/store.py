"""What keeps a registry: keys with values, changed all or nothing, told in order. What a store promises, and how it
fails; ``tests/unit/test_store.py`` holds every store to it."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from cryprq.errors import MachineError

ABSENT: Final = 0
"""The version of a key that is not there."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A value, and the revision that put it there."""

    value: bytes
    version: int


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a store holds at one revision."""

    revision: int
    entries: Mapping[str, Entry]


@dataclass(frozen=True, slots=True)
class Expect:
    """The commit is done only if the key has this version; ``ABSENT``: only if it is not there."""

    key: str
    version: int


@dataclass(frozen=True, slots=True)
class Put:
    """The key has this value from now on."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    """The key is gone; nothing, if it was not there."""

    key: str


Op = Expect | Put | Delete


@dataclass(frozen=True, slots=True)
class Change:
    """A key and its new value; None: it is gone."""

    key: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class Batch:
    """What one commit changed; without changes it proves that there were none up to now."""

    revision: int
    changes: tuple[Change, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A line of the audit trail: who did what, when."""

    at: float
    """Unix time."""
    who: str
    """User and way, as ``alice (uid 1000) by the control socket``."""
    did: str


class StoreError(MachineError):
    """A store did not do what it was asked for; one line. Nothing has changed, but for ``Unknown``."""


class Conflict(StoreError):
    """A key has another version than expected."""

    def __init__(self, message: str, entries: Mapping[str, Entry | None]) -> None:
        super().__init__(message)
        self.entries = entries
        """Those keys as they are; None: absent."""


class Unavailable(StoreError):
    """It cannot be read or written now: busy, full, read-only, away."""


class Unknown(StoreError):
    """It may have been done or not: load again, and see."""


class Compacted(StoreError):
    """What happened after that revision is not known any more: load again."""


class Denied(StoreError):
    """This user may not."""


class Damaged(StoreError):
    """What is there is no registry, not whole, or of a newer version."""


class Presence(Protocol):
    """A key that is there as long as its owner is."""

    @property
    def lost(self) -> bool:
        """Whether it is gone although nobody has closed it."""
        ...

    async def close(self) -> None:
        """Takes the key back."""
        ...


class Store(Protocol):
    """Keeps a registry. For one event loop; every method raises StoreError alone."""

    @property
    def where(self) -> str:
        """Where it is, for people."""
        ...

    async def load(self) -> Contents:
        """All that is there."""
        ...

    def watch(self, after: int) -> AsyncIterator[Batch]:
        """Every commit after that revision, by whomever: in order, without a gap, each once. Compacted: load again."""
        ...

    async def commit(self, *ops: Op, note: Note | None = None, timeout: float = 2.0) -> int:
        """Does all or nothing, and is written to the disk when it returns: the revision. ``note`` goes into the audit
        trail with it. ``timeout`` in seconds."""
        ...

    async def notes(self, limit: int) -> list[Note]:
        """The newest lines of the audit trail, the oldest first."""
        ...

    async def present(self, key: str, value: bytes, ttl: float) -> Presence:
        """The key is there until it is closed, or its owner has been away for ``ttl`` seconds."""
        ...

    async def probe(self) -> None:
        """Returns if a commit could be written now; StoreError says why not."""
        ...

    async def close(self) -> None:
        """Gives back what it holds. Nothing is asked of it afterwards."""
        ...
