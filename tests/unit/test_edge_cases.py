"""docs/edge-cases.json: what this implementation takes and what not, case by case; and what the data plane's slow twin
makes of its records (tests/plane/test_edge_cases_plane.py has the data plane itself)."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from cryprq.peer_id import PeerId
from cryprq.protocol.frames import FrameError, FrameReader
from cryprq.protocol.identity import verify_record
from cryprq.protocol.parameters import Parameters
from lab import ROOT
from lab.oracle import Receiver

CASES: dict[str, Any] = json.loads((ROOT / "docs" / "edge-cases.json").read_text())
GROUPS = CASES["groups"]
ALL = [(group, case) for group in GROUPS for case in group["tests"]]


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


TEXTS = [(group["type"], case) for group, case in ALL if group["type"] in TAKE]


def of(kind: str) -> list[Any]:
    """The groups of a kind, each with each of its cases."""
    return [pytest.param(group, case, id=str(case["id"])) for group, case in ALL if group["type"] == kind]


@pytest.mark.parametrize(("kind", "case"), TEXTS, ids=[f"{kind}-{case['comment']}" for kind, case in TEXTS])
def test_case(kind: str, case: dict[str, Any]) -> None:
    try:
        result = TAKE[kind](bytes.fromhex(case["input"]))
    except (FrameError, ValueError):
        result = "invalid"
    assert result == case["result"]


@pytest.mark.parametrize(("group", "case"), of("signatures"))
def test_record_and_signatures(group: dict[str, Any], case: dict[str, Any]) -> None:
    record, ed25519, mldsa = (bytes.fromhex(group["values"][case[n]]) for n in ("record", "sig_ed25519", "sig_mldsa"))
    assert verify_record(record, bytes.fromhex(group["message"]), ed25519, mldsa) is (case["result"] == "valid")


@pytest.mark.parametrize(("group", "case"), of("records"))
def test_records_that_the_slow_twin_opens(group: dict[str, Any], case: dict[str, Any]) -> None:
    lanes = [(bytes.fromhex(lane["key"]), bytes.fromhex(lane["iv"])) for lane in group["lanes"]]
    receiver = Receiver(group["receiver_index"], group["aead"], lanes)
    packets = [packet for datagram in case["inputs"] for packet in receiver.receive(bytes.fromhex(datagram))]
    assert [packet.hex() for packet in packets] == case["packets"]


def test_a_wrong_half_is_there_of_either_signature() -> None:
    (group,) = (group for group in GROUPS if group["type"] == "signatures")
    halves = [case for case in group["tests"] if "OneHalf" in case["flags"]]
    assert all(case["result"] == "invalid" for case in halves)
    wrong = {(case["sig_ed25519"] == "a ed25519", case["sig_mldsa"] == "a mldsa") for case in halves}
    assert wrong == {(True, False), (False, True)}


def test_cases_are_numbered_and_say_why() -> None:
    assert [case["id"] for _, case in ALL] == list(range(1, len(ALL) + 1))
    assert {flag for _, case in ALL for flag in case["flags"]} == set(CASES["flags"])
    assert {group["type"] for group in GROUPS} == {*TAKE, "records", "signatures"}
