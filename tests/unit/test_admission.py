"""Who may begin a connection: pending limits, Retry, the token bucket, Retry tokens, and the sources they count."""

import random

import pytest

from cryprq.address import Address
from cryprq.protocol.constants import PENDING_PER_SOURCE, RETRY_TOKEN_LIFETIME, UNVALIDATED_PER_SOURCE
from cryprq.quic.admission import Admission, TokenBucket, Verdict, source_of
from cryprq.quic.retry_tokens import RetryTokens

HERE = Address("192.0.2.1", 4000)
GIVEN = bytes(8)
ORIGINAL = bytes(range(8))


# ---- limits ----


def test_third_unvalidated_of_a_source_is_asked_for_retry() -> None:
    admission = Admission(64)
    for _ in range(UNVALIDATED_PER_SOURCE):
        assert admission.judge(b"a", validated=False) is Verdict.ACCEPT
        admission.opened(b"a", validated=False)
    assert admission.judge(b"a", validated=False) is Verdict.RETRY
    assert admission.judge(b"a", validated=True) is Verdict.ACCEPT
    assert admission.judge(b"b", validated=False) is Verdict.ACCEPT


def test_a_source_that_proved_its_address_gets_its_unvalidated_share_back() -> None:
    admission = Admission(64)
    for _ in range(UNVALIDATED_PER_SOURCE):
        admission.opened(b"a", validated=False)
        admission.became_validated(b"a")
    assert admission.judge(b"a", validated=False) is Verdict.ACCEPT


def test_above_half_everybody_is_asked_for_retry() -> None:
    admission = Admission(10)
    for i in range(5):
        assert admission.judge(bytes([i]), validated=False) is Verdict.ACCEPT
        admission.opened(bytes([i]), validated=False)
    assert admission.judge(b"new", validated=False) is Verdict.RETRY
    assert admission.judge(b"new", validated=True) is Verdict.ACCEPT


def test_in_a_full_table_there_is_no_place_even_for_validated_sources() -> None:
    admission = Admission(3)
    for i in range(3):
        admission.opened(bytes([i]), validated=True)
    assert admission.judge(b"new", validated=True) is Verdict.WAIT
    assert admission.judge(b"new", validated=False) is Verdict.RETRY
    admission.ended(b"\0", validated=True)
    assert admission.judge(b"new", validated=True) is Verdict.ACCEPT


def test_a_source_has_at_most_its_share() -> None:
    admission = Admission(1000)
    for _ in range(PENDING_PER_SOURCE):
        assert admission.judge(b"a", validated=True) is Verdict.ACCEPT
        admission.opened(b"a", validated=True)
    assert admission.judge(b"a", validated=True) is Verdict.WAIT
    assert admission.judge(b"a", validated=False) is Verdict.RETRY
    assert admission.judge(b"b", validated=True) is Verdict.ACCEPT


def test_no_listening_slots_means_that_nobody_is_admitted() -> None:
    assert Admission(0).judge(b"a", validated=True) is Verdict.WAIT
    assert Admission(0).judge(b"a", validated=False) is Verdict.RETRY


def test_counts_return_to_nothing_whatever_the_order() -> None:
    rng = random.Random(2)
    admission = Admission(50)
    live: list[tuple[bytes, bool]] = []
    for _ in range(5000):
        source = bytes([rng.randrange(12)])
        if live and rng.random() < 0.5:
            index = rng.randrange(len(live))
            source, validated = live.pop(index)
            if not validated and rng.random() < 0.5:
                admission.became_validated(source)
                live.append((source, True))
            else:
                admission.ended(source, validated=validated)
        else:
            validated = rng.random() < 0.5
            if admission.judge(source, validated=validated) is Verdict.ACCEPT:
                admission.opened(source, validated=validated)
                live.append((source, validated))
        assert admission.pending == len(live) <= 50
        assert admission.sources == len(set(live))
    for source, validated in live:
        admission.ended(source, validated=validated)
    assert admission.pending == admission.sources == 0


# ---- token bucket ----


def test_token_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(rate=10, burst=3)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(0.05)
    assert bucket.take(0.11)
    assert not bucket.take(0.11)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]


def test_token_bucket_gains_nothing_from_a_clock_that_steps_back() -> None:
    bucket = TokenBucket(rate=10, burst=1)
    assert bucket.take(100.0)
    assert not bucket.take(50.0)
    assert not bucket.take(50.05)
    assert bucket.take(50.11)


# ---- retry tokens ----


def test_token_gives_the_original_connection_id_back() -> None:
    tokens = RetryTokens()
    token = tokens.make(HERE, ORIGINAL, GIVEN, 1000.0)
    assert tokens.check(token, HERE, GIVEN, 1000.0) == ORIGINAL
    assert tokens.check(token, HERE, GIVEN, 1000.0 + RETRY_TOKEN_LIFETIME - 0.1) == ORIGINAL


@pytest.mark.parametrize(
    "remote", [HERE._replace(port=4001), HERE._replace(host="192.0.2.2"), Address("2001:db8::1", 4000)]
)
def test_token_is_good_for_one_address_only(remote: Address) -> None:
    tokens = RetryTokens()
    token = tokens.make(HERE, ORIGINAL, GIVEN, 1000.0)
    assert tokens.check(token, remote, GIVEN, 1000.0) is None


def test_token_is_good_for_one_connection_id_a_short_time_and_one_listener() -> None:
    tokens = RetryTokens()
    token = tokens.make(HERE, ORIGINAL, GIVEN, 1000.0)
    assert tokens.check(token, HERE, ORIGINAL, 1000.0) is None
    assert tokens.check(token, HERE, GIVEN, 1000.1 + RETRY_TOKEN_LIFETIME) is None
    assert RetryTokens().check(token, HERE, GIVEN, 1000.0) is None


def test_every_changed_or_cut_token_is_refused() -> None:
    tokens = RetryTokens()
    token = tokens.make(HERE, ORIGINAL, GIVEN, 1000.0)
    for bit in range(8 * len(token)):
        changed = bytearray(token)
        changed[bit // 8] ^= 1 << bit % 8
        assert tokens.check(bytes(changed), HERE, GIVEN, 1000.0) is None
    for size in range(len(token)):
        assert tokens.check(token[:size], HERE, GIVEN, 1000.0) is None
    assert tokens.check(token + b"\0", HERE, GIVEN, 1000.0) is None


# ---- sources ----


def test_source_is_the_ipv4_address_or_the_ipv6_prefix() -> None:
    assert source_of(HERE) == source_of(HERE._replace(port=5)) != source_of(HERE._replace(host="192.0.2.2"))
    one, neighbour, other = (Address(h, 1) for h in ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"))
    assert source_of(one) == source_of(neighbour) != source_of(other)


@pytest.mark.parametrize(
    ("sockaddr", "address", "text"),
    [
        (("192.0.2.1", 5), Address("192.0.2.1", 5), "192.0.2.1:5"),
        (("::ffff:192.0.2.1", 5, 0, 0), Address("192.0.2.1", 5), "192.0.2.1:5"),
        (("2001:db8::1", 5, 7, 0), Address("2001:db8::1", 5), "[2001:db8::1]:5"),
        (("fe80::1", 5, 0, 3), Address("fe80::1", 5, 3), "[fe80::1%3]:5"),
    ],
)
def test_address_is_never_mapped(sockaddr: tuple[object, ...], address: Address, text: str) -> None:
    assert Address.from_sockaddr(sockaddr) == address
    assert str(address) == text
