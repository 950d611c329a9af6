"""The token bucket: its burst, its rate, and a clock that steps back."""

from cryprq.protocol.clock import Monotonic as at
from cryprq.protocol.token_bucket import TokenBucket


def test_token_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(rate=10, burst=3)
    assert [bucket.take(at(0.0)) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(at(0.05))
    assert bucket.take(at(0.11))
    assert not bucket.take(at(0.11))
    assert [bucket.take(at(100.0)) for _ in range(4)] == [True, True, True, False]


def test_token_bucket_gains_nothing_from_a_clock_that_steps_back() -> None:
    bucket = TokenBucket(rate=10, burst=1)
    assert bucket.take(at(100.0))
    assert not bucket.take(at(50.0))
    assert not bucket.take(at(50.05))
    assert bucket.take(at(50.11))
