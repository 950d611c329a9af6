"""Retry tokens: for whom and how long they are good."""

import pytest

from cryprq.address import Address
from cryprq.protocol.clock import Monotonic as at
from cryprq.quic.admission import Rank
from cryprq.quic.retry_tokens import RETRY_TOKEN_LIFETIME, Proof, RetryTokens

HERE = Address("192.0.2.1", 4000)
GIVEN = bytes(8)
ORIGINAL = bytes(range(8))


def test_token_gives_the_original_connection_id_back() -> None:
    tokens = RetryTokens()
    token = tokens.make(HERE, ORIGINAL, GIVEN, Rank.KNOCKED, at(1000.0))
    assert tokens.check(token, HERE, GIVEN, at(1000.0)) == Proof(ORIGINAL, Rank.KNOCKED)
    assert tokens.check(token, HERE, GIVEN, at(1000.0 + RETRY_TOKEN_LIFETIME - 0.1)) == Proof(ORIGINAL, Rank.KNOCKED)


@pytest.mark.parametrize(
    "remote", [HERE._replace(port=4001), HERE._replace(host="192.0.2.2"), Address("2001:db8::1", 4000)]
)
def test_token_is_good_for_one_address_only(remote: Address) -> None:
    tokens = RetryTokens()
    token = tokens.make(HERE, ORIGINAL, GIVEN, Rank.KNOCKED, at(1000.0))
    assert tokens.check(token, remote, GIVEN, at(1000.0)) is None


def test_token_is_good_for_one_connection_id_a_short_time_and_one_listener() -> None:
    tokens = RetryTokens()
    token = tokens.make(HERE, ORIGINAL, GIVEN, Rank.KNOCKED, at(1000.0))
    assert tokens.check(token, HERE, ORIGINAL, at(1000.0)) is None
    assert tokens.check(token, HERE, GIVEN, at(1000.1 + RETRY_TOKEN_LIFETIME)) is None
    assert RetryTokens().check(token, HERE, GIVEN, at(1000.0)) is None


def test_every_changed_or_cut_token_is_refused() -> None:
    tokens = RetryTokens()
    token = tokens.make(HERE, ORIGINAL, GIVEN, Rank.KNOCKED, at(1000.0))
    for bit in range(8 * len(token)):
        changed = bytearray(token)
        changed[bit // 8] ^= 1 << bit % 8
        assert tokens.check(bytes(changed), HERE, GIVEN, at(1000.0)) is None
    for size in range(len(token)):
        assert tokens.check(token[:size], HERE, GIVEN, at(1000.0)) is None
    assert tokens.check(token + b"\0", HERE, GIVEN, at(1000.0)) is None
