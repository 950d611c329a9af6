"""Receiver indices: the 32-bit numbers by which a data record names the epoch that opens it.

They also say which worker is to open it. The lane alone cannot: a peer with one worker has lane 0 only, and so have all
of its kind. A session has an **offset**, which its indices carry in their upper half, and a record goes to worker
(lane + offset) modulo the number of workers (``cryprq.linux.sockets.steering_program``). An offset stays what it is
over the rotations of a session, so that a flow is in the hands of one worker and keeps its order.

Only dialers with one lane are spread like this; of all others the offset is 0. The TUN sends a flow by the queue that
its last packet came in by, at either end: where both have several, offsets would drive it from worker to worker.

It is the same only for as long as the peer's address is: one that has moved gets another with its next index. So what
indices have in common, log2 of the workers in bits, says nothing that addresses and ports have not said.
"""

import secrets
from collections.abc import Callable
from typing import Final

INDEX_BITS: Final = 32
_HALF: Final = INDEX_BITS // 2


def offset_of(index: int, workers: int) -> int:
    """How many workers beyond its lane a record with that receiver index goes."""
    return (index >> _HALF) % workers


class IndexPool:
    """Random, non-zero indices that are unique over all live and pending epochs of a node.

    Random rather than counted, so that an index on the wire tells an observer nothing about how many peers or
    rotations a node has seen. Of those with the right offset all are equally likely.
    """

    def __init__(self, workers: int = 1, randbits: Callable[[int], int] = secrets.randbits) -> None:
        """``workers``: those that records are spread over."""
        self._workers = workers
        self._randbits = randbits
        self._taken: set[int] = set()
        self._sessions = [0] * workers

    def __len__(self) -> int:
        return len(self._taken)

    def __contains__(self, index: int) -> bool:
        return index in self._taken

    def share(self) -> int:
        """An offset for a session: one of those that the fewest have. ``leave`` gives it back."""
        fewest = min(self._sessions)
        free = [offset for offset, sessions in enumerate(self._sessions) if sessions == fewest]
        offset = free[self._randbits(_HALF) % len(free)]
        self._sessions[offset] += 1
        return offset

    def leave(self, offset: int) -> None:
        """A session less has this offset."""
        self._sessions[offset] -= 1

    def take(self, offset: int | None = None) -> int:
        """An index that nobody else holds, with this offset, or any. Draws again until it has one: as often as there
        are workers, and very rarely once more, since a node holds a few thousand at most."""
        while True:
            index = self._randbits(INDEX_BITS)
            if offset is not None and offset_of(index, self._workers) != offset:
                continue
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

    def __init__(self, pool: IndexPool, spread: Callable[[], bool] = lambda: False) -> None:
        """``spread``: whether the session is to have an offset, when its first index is drawn."""
        self._pool = pool
        self._spread = spread
        self._held: set[int] = set()
        self._offset: int | None = None

    def __call__(self) -> int:
        if self._offset is None and self._spread():
            self._offset = self._pool.share()
        index = self._pool.take(self._offset or 0)
        self._held.add(index)
        return index

    def moved(self) -> None:
        """The peer has another address: what its indices have in common must not tell that it is the same peer."""
        if self._offset is not None:
            self._pool.leave(self._offset)
            self._offset = None

    def release(self, index: int) -> None:
        """Gives one index back; one that this lease does not hold is left alone."""
        if index in self._held:
            self._held.remove(index)
            self._pool.release(index)

    def release_all(self) -> None:
        """Gives back what is still held."""
        for index in tuple(self._held):
            self.release(index)
        self.moved()
