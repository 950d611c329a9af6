"""What the parts of the data plane cost; the loops run in C, one benchmark round each."""

from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from cryprq._fastpath import SUITE_AES_256_GCM, SUITE_CHACHA20_POLY1305, aead_backends, measure

RECORD = 1420
COUNT = 5000
BACKENDS = [name for suite in (SUITE_AES_256_GCM, SUITE_CHACHA20_POLY1305) for name in aead_backends(suite)]


def per_operation(benchmark: BenchmarkFixture, op: str, size: int, backend: str | None = None) -> None:
    """Rounds of COUNT operations; the time of one is in ``extra_info``."""
    best = [float("inf")]

    def once() -> None:
        best[0] = min(best[0], measure(op, size=size, count=COUNT, backend=backend))

    run: Callable[..., None] = benchmark.pedantic  # without types of its own
    run(once, rounds=20, warmup_rounds=2)
    benchmark.extra_info["best_ns_per_operation"] = best[0]
    assert best[0] > 0


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("op", ["seal", "open"])
def test_aead(benchmark: BenchmarkFixture, op: str, backend: str) -> None:
    per_operation(benchmark, op, RECORD, backend)


@pytest.mark.parametrize("prefixes", [4, 1000])
@pytest.mark.parametrize("op", ["route4", "route6"])
def test_route(benchmark: BenchmarkFixture, op: str, prefixes: int) -> None:
    per_operation(benchmark, op, prefixes)


@pytest.mark.parametrize("op", ["replay", "split", "coalesce"])
def test_part(benchmark: BenchmarkFixture, op: str) -> None:
    per_operation(benchmark, op, RECORD)
