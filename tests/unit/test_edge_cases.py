"""docs/edge-cases.json: what this implementation takes and what not, case by case."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from cryprq.peer_id import PeerId
from cryprq.protocol.frames import FrameError, FrameReader
from cryprq.protocol.parameters import Parameters
from lab import ROOT

CASES: dict[str, Any] = json.loads((ROOT / "docs" / "edge-cases.json").read_text())
TESTS = [(group["type"], case) for group in CASES["groups"] for case in group["tests"]]


def parameters(data: bytes) -> str:
    Parameters.decode(data)
    return "valid"


def frames(data: bytes) -> str:
    reader = FrameReader()
    reader.feed(data)
    return "incomplete" if reader.pending else "valid"


def peer_id(data: bytes) -> str:
    PeerId.parse(data.decode())
    return "valid"


TAKE: dict[str, Callable[[bytes], str]] = {take.__name__: take for take in (parameters, frames, peer_id)}


@pytest.mark.parametrize(("kind", "case"), TESTS, ids=[f"{kind}-{case['comment']}" for kind, case in TESTS])
def test_case(kind: str, case: dict[str, Any]) -> None:
    try:
        result = TAKE[kind](bytes.fromhex(case["input"]))
    except (FrameError, ValueError):
        result = "invalid"
    assert result == case["result"]


def test_cases_are_numbered_and_say_why() -> None:
    assert [case["id"] for _, case in TESTS] == list(range(1, len(TESTS) + 1))
    assert {flag for _, case in TESTS for flag in case["flags"]} == set(CASES["flags"])
