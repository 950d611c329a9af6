"""The backoff table: waits, forgetting, and its bound."""

import random

import pytest

from cryprq.protocol.clock import Monotonic as at
from cryprq.quic.backoff import Backoff


def test_free_failures_cost_nothing_then_waits_double_to_the_maximum() -> None:
    backoff = Backoff(500, 30_000, free_failures=2)
    waits = [backoff.failed(b"a", at(float(i))) for i in range(11)]
    assert waits == [0, 0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_remaining_counts_down_and_other_sources_are_untouched() -> None:
    backoff = Backoff(1000, 8000, free_failures=0)
    assert backoff.failed(b"a", at(100.0)) == 1.0
    assert backoff.remaining(b"a", at(100.25)) == 0.75
    assert backoff.remaining(b"a", at(101.0)) == 0
    assert backoff.remaining(b"b", at(100.25)) == 0


def test_a_clock_that_steps_back_never_gives_a_negative_wait() -> None:
    backoff = Backoff(1000, 8000, free_failures=0)
    backoff.failed(b"a", at(100.0))
    assert backoff.remaining(b"a", at(50.0)) == 51.0
    assert backoff.failed(b"a", at(50.0)) == 2.0


def test_success_starts_afresh() -> None:
    backoff = Backoff(500, 30_000, free_failures=0)
    backoff.failed(b"a", at(0.0))
    backoff.failed(b"a", at(0.0))
    backoff.succeeded(b"a")
    backoff.succeeded(b"never seen")
    assert backoff.remaining(b"a", at(0.0)) == 0
    assert backoff.failed(b"a", at(0.0)) == 0.5
    assert len(backoff) == 1


def test_a_source_is_forgotten_after_a_quiet_time() -> None:
    backoff = Backoff(500, 30_000, free_failures=0, forget=60)
    backoff.failed(b"a", at(0.0))
    backoff.failed(b"a", at(1.0))
    backoff.failed(b"b", at(60.9))
    assert len(backoff) == 2
    assert backoff.failed(b"c", at(61.0)) == 0.5
    assert len(backoff) == 2
    assert backoff.failed(b"a", at(61.0)) == 0.5


def test_forgetting_never_cuts_a_wait_short() -> None:
    backoff = Backoff(90_000, 90_000, free_failures=0, forget=60)
    backoff.failed(b"a", at(0.0))
    backoff.failed(b"b", at(70.0))
    assert backoff.remaining(b"a", at(70.0)) == 20


def test_the_table_is_bounded_and_drops_the_least_recent_failure() -> None:
    backoff = Backoff(500, 30_000, free_failures=0, size=3)
    for source in (b"a", b"b", b"c"):
        backoff.failed(source, at(0.0))
    backoff.failed(b"a", at(0.1))
    backoff.failed(b"d", at(0.2))
    assert len(backoff) == 3
    assert backoff.remaining(b"b", at(0.2)) == 0
    assert all(backoff.remaining(source, at(0.2)) for source in (b"a", b"c", b"d"))


def test_many_failures_do_not_overflow() -> None:
    backoff = Backoff(500, 30_000, free_failures=0)
    assert {backoff.failed(b"a", at(0.0)) for _ in range(3000)} == {0.5, 1, 2, 4, 8, 16, 30}


def test_random_use_against_a_plain_model() -> None:
    rng = random.Random(1)
    backoff = Backoff(100, 5000, free_failures=1, size=10_000, forget=50)
    model: dict[bytes, tuple[int, float, float]] = {}
    now = 0.0
    for _ in range(5000):
        now += rng.random() * 0.2
        source = bytes([rng.randrange(40)])
        if rng.random() < 0.1:
            backoff.succeeded(source)
            model.pop(source, None)
        elif rng.random() < 0.6:
            count, last, _until = model.get(source, (0, now, now))
            count = 1 if now - last >= 50 else count + 1
            wait = 0.0 if count <= 1 else min(0.1 * 2 ** (count - 2), 5.0)
            model[source] = (count, now, now + wait)
            assert backoff.failed(source, at(now)) == pytest.approx(wait)
        else:
            until = model.get(source, (0, 0.0, 0.0))[2]
            assert backoff.remaining(source, at(now)) == pytest.approx(max(0.0, until - now))


@pytest.mark.parametrize(("base", "maximum"), [(0, 100), (200, 100), (-1, 5)])
def test_a_senseless_configuration_is_refused(base: int, maximum: int) -> None:
    with pytest.raises(ValueError):
        Backoff(base, maximum)
