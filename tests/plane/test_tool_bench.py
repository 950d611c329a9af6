"""``cryprq bench``: the back ends it lists are real, and bytes do go through its tunnel."""

import json
import subprocess

import pytest

from cryprq._fastpath import aead_backends, measure
from cryprq.cli import bench
from cryprq.protocol.constants import AEAD_NAMES
from lab.nodes import PROGRAMS


def test_every_back_end_of_the_cpu_is_measured() -> None:
    names = [name for suite in AEAD_NAMES for name in aead_backends(suite)]
    assert "evp-aes-256-gcm" in names and "evp-chacha20-poly1305" in names
    found = {each.backend: each for each in bench.ciphers()}
    assert list(found) == names
    assert all(10 < each.seal_ns < 1e6 and 10 < each.open_ns < 1e6 for each in found.values())


@pytest.mark.parametrize("suite", AEAD_NAMES)
def test_tunnel_in_memory_carries_bytes(suite: int) -> None:
    result = bench.tunnel(suite, seconds=0.2)
    assert result.aead == AEAD_NAMES[suite]
    assert result.gigabits > 0.01
    assert 0 <= result.lost_share < 1


@pytest.mark.parametrize("op", ["seal", "open", "replay", "route4", "route6", "split", "coalesce"])
def test_measure_gives_nanoseconds(op: str) -> None:
    backend = "evp-aes-256-gcm" if op in ("seal", "open") else None
    assert 0.5 < measure(op, size=1000, count=2000, backend=backend) < 1e6


def test_measure_refuses_what_it_cannot_do() -> None:
    for arguments in (
        {"op": "nothing"},
        {"op": "seal", "backend": "rot13"},
        {"op": "seal"},
        {"op": "split", "size": 7},
    ):
        with pytest.raises(ValueError):
            measure(**arguments)


def test_program_prints_a_table_or_json() -> None:
    table = subprocess.run([PROGRAMS / "cryprq", "bench"], capture_output=True, text=True, timeout=60, check=True)
    assert "evp-aes-256-gcm" in table.stdout and "Gbit/s" in table.stdout
    raw = subprocess.run(
        [PROGRAMS / "cryprq", "bench", "--json"], capture_output=True, text=True, timeout=60, check=True
    )
    assert len(json.loads(raw.stdout)["tunnel"]) == len(AEAD_NAMES)
