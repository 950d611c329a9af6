"""Tokens for peers: whose they are, for how long they are good and how often, and what a copy of one is worth."""

import pytest

from cryprq.protocol.clock import Realtime
from cryprq.protocol.constants import TOKEN_MAX
from cryprq.quic import peer_tokens
from cryprq.quic.peer_tokens import PEER_TOKEN_LIFETIME, PEER_TOKEN_USES, PeerToken, PeerTokens
from cryprq.registry import commands

KEY, PEER, OTHER = b"k" * 32, b"p" * 32, b"q" * 32
NOW = Realtime(1.8e9)


def later(seconds: float) -> Realtime:
    return Realtime(NOW + seconds)


def test_token_says_whose_it_is_and_only_to_the_listener() -> None:
    tokens = PeerTokens(KEY)
    token = tokens.make(PEER, NOW)
    assert tokens.check(token, NOW) == PeerToken(PEER, 1_800_000_000_000_000)
    assert PEER not in token
    assert len(token) <= TOKEN_MAX
    assert PeerTokens(b"l" * 32).check(token, NOW) is None


def test_no_two_can_be_told_to_be_of_one_peer() -> None:
    tokens = PeerTokens(KEY)
    first, second = tokens.make(PEER, NOW), tokens.make(PEER, NOW)
    assert sum(a == b for a, b in zip(first[1:], second[1:], strict=True)) < 10


def test_token_expires_and_is_not_good_long_before_it_was_made() -> None:
    tokens = PeerTokens(KEY)
    token = tokens.make(PEER, NOW)
    assert tokens.check(token, later(PEER_TOKEN_LIFETIME - 1)) is not None
    assert tokens.check(token, later(PEER_TOKEN_LIFETIME + 1)) is None
    assert tokens.check(token, later(-30)) is not None
    assert tokens.check(token, later(-90)) is None


def test_every_changed_or_cut_token_is_refused() -> None:
    tokens = PeerTokens(KEY)
    token = tokens.make(PEER, NOW)
    for bit in range(8 * len(token)):
        changed = bytearray(token)
        changed[bit // 8] ^= 1 << bit % 8
        assert tokens.check(bytes(changed), NOW) is None
    for size in range(len(token)):
        assert tokens.check(token[:size], NOW) is None
    assert tokens.check(token + b"\0", NOW) is None


def test_token_serves_a_few_times_and_a_look_at_it_is_no_use() -> None:
    tokens = PeerTokens(KEY)
    token = tokens.make(PEER, NOW)
    for _ in range(PEER_TOKEN_USES):
        assert tokens.check(token, NOW) is not None
        seen = tokens.check(token, NOW)
        assert seen is not None
        tokens.use(seen)
    assert tokens.check(token, NOW) is None
    assert tokens.check(tokens.make(PEER, NOW), NOW) is not None


def test_next_one_makes_those_before_worthless_and_nobody_elses() -> None:
    tokens = PeerTokens(KEY)
    old, others = tokens.make(PEER, NOW), tokens.make(OTHER, NOW)
    new = tokens.make(PEER, NOW)  # within the same microsecond
    assert tokens.check(old, NOW) is None
    assert tokens.check(new, NOW) is not None
    assert tokens.check(others, NOW) is not None


def test_token_outlives_a_restart_and_then_the_newest_that_was_seen_counts() -> None:
    before = PeerTokens(KEY)
    older, newer = before.make(PEER, NOW), before.make(PEER, later(10))
    after = PeerTokens(KEY)
    seen = after.check(newer, later(20))
    assert seen is not None
    after.use(seen)
    assert after.check(older, later(20)) is None
    assert after.check(newer, later(20)) is not None
    for _ in range(PEER_TOKEN_USES - 1):
        after.use(seen)
    assert after.check(newer, later(20)) is None


def test_revoked_ones_are_worthless_until_the_peer_gets_another() -> None:
    before, after = PeerTokens(KEY), PeerTokens(KEY)
    token = before.make(PEER, NOW)
    used = after.check(token, NOW)
    assert used is not None
    after.use(used)
    for tokens in (before, after):
        tokens.revoke(PEER, later(1))
        assert tokens.check(token, later(1)) is None
        assert tokens.check(tokens.make(PEER, later(2)), later(2)) is not None


def test_who_has_no_token_is_not_remembered_for_being_refused() -> None:
    tokens = PeerTokens(KEY)
    tokens.revoke(OTHER, NOW)
    assert len(tokens) == 0


def test_clock_that_was_set_back_does_not_keep_new_tokens_from_counting() -> None:
    tokens = PeerTokens(KEY)
    tokens.make(PEER, later(30))
    assert tokens.check(tokens.make(PEER, NOW), NOW) is not None


def test_every_peer_that_there_is_room_for_is_remembered() -> None:
    assert peer_tokens.PEERS_MAX == commands.PEERS_MAX


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_tokens, "PEERS_MAX", 3)
    tokens = PeerTokens(KEY)
    made = [tokens.make(bytes([n]) * 32, NOW) for n in range(5)]
    assert len(tokens) == 3
    assert all(tokens.check(token, NOW) is not None for token in made)
