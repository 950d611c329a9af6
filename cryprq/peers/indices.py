"""Receiver indices: the 32-bit numbers by which a data record names the epoch that opens it."""

import secrets
from collections.abc import Callable

INDEX_BITS = 32


class IndexPool:
    """Random, non-zero indices that are unique over all live and pending epochs of a node.

    Random rather than counted, so that an index on the wire tells an observer nothing about how many peers or
    rotations a node has seen.
    """

    def __init__(self, randbits: Callable[[int], int] = secrets.randbits) -> None:
        self._randbits = randbits
        self._taken: set[int] = set()

    def __len__(self) -> int:
        return len(self._taken)

    def __contains__(self, index: int) -> bool:
        return index in self._taken

    def take(self) -> int:
        """An index that nobody else holds. A node holds a few thousand at most, so this draws again very rarely."""
        while True:
            index = self._randbits(INDEX_BITS)
            if index and index not in self._taken:
                self._taken.add(index)
                return index

    def release(self, index: int) -> None:
        """The index may be drawn again. Releasing one that is not taken does nothing."""
        self._taken.discard(index)


class IndexLease:
    """The indices that one handshake and the session that grows out of it have drawn.

    A handshake that fails, or a rotation that never gets its answer, has drawn an index that no epoch will ever give
    back; the lease gives it back when its owner ends. Calling a lease draws an index.
    """

    def __init__(self, pool: IndexPool) -> None:
        self._pool = pool
        self._held: set[int] = set()

    def __call__(self) -> int:
        index = self._pool.take()
        self._held.add(index)
        return index

    def release(self, index: int) -> None:
        """Gives one index back; one that this lease does not hold is left alone."""
        if index in self._held:
            self._held.remove(index)
            self._pool.release(index)

    def release_all(self) -> None:
        """Gives back what is still held."""
        for index in tuple(self._held):
            self.release(index)
