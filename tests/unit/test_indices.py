"""Receiver indices: unique, random, and with an offset that a session keeps for as long as its addresses stay."""

import random
from collections import Counter

import pytest

from cryprq.peers.indices import IndexLease, IndexPool, offset_of


def pool_of(workers: int, seed: int = 1) -> IndexPool:
    return IndexPool(workers, random.Random(seed).getrandbits)


def offsets(lease: IndexLease, workers: int, count: int) -> set[int]:
    return {offset_of(lease(), workers) for _ in range(count)}


@pytest.mark.parametrize("workers", [1, 2, 3, 64])
def test_session_keeps_its_offset_and_sessions_share_the_workers(workers: int) -> None:
    pool = pool_of(workers)
    leases = [IndexLease(pool, lambda: True) for _ in range(2 * workers)]
    kept = [offsets(lease, workers, 8) for lease in leases]
    assert all(len(each) == 1 for each in kept)
    assert Counter(offset for each in kept for offset in each) == dict.fromkeys(range(workers), 2)


def test_places_of_sessions_that_ended_are_taken_first() -> None:
    pool = pool_of(4)
    leases = [IndexLease(pool, lambda: True) for _ in range(8)]
    before = [offsets(lease, 4, 1).pop() for lease in leases]
    for lease in leases[:4]:
        lease.release_all()
        lease.release_all()  # gives back what it has, which is nothing any more
    after = [offsets(IndexLease(pool, lambda: True), 4, 1).pop() for _ in range(4)]
    assert sorted(after) == sorted(before[:4])


def test_nothing_but_the_offset_is_the_same_in_the_indices_of_a_session() -> None:
    """Each bit that the offset leaves free is set about as often as not."""
    lease = IndexLease(pool_of(2), lambda: True)
    drawn = [lease() for _ in range(4000)]
    assert len({index >> 16 & 1 for index in drawn}) == 1
    for bit in set(range(32)) - {16}:
        assert 1800 < sum(index >> bit & 1 for index in drawn) < 2200


def test_peer_that_moved_gets_any_offset_with_its_next_index() -> None:
    """An observer of both of its addresses sees in it what it would see in another peer's."""
    pool, changed = pool_of(2), 0
    lease = IndexLease(pool, lambda: True)
    for _ in range(400):
        before = offsets(lease, 2, 2)
        lease.moved()
        lease.moved()
        changed += offsets(lease, 2, 2) != before
    assert 150 < changed < 250
    lease.release_all()
    assert not len(pool)
    assert {offsets(IndexLease(pool, lambda: True), 2, 1).pop() for _ in range(2)} == {0, 1}


def test_index_that_is_taken_or_zero_is_drawn_again() -> None:
    drawn = iter([0, 7, 7, 9])
    pool = IndexPool(randbits=lambda _: next(drawn))
    assert [pool.take(), pool.take()] == [7, 9]
    pool.release(7)
    pool.release(8)
    assert 9 in pool
    assert 7 not in pool


def test_session_that_is_not_to_be_spread_has_no_offset() -> None:
    pool = pool_of(4)
    lease = IndexLease(pool)
    assert offsets(lease, 4, 20) == {0}
    lease.moved()
    assert offsets(lease, 4, 20) == {0}
    lease.release_all()
    assert not len(pool)
