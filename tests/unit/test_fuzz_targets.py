"""What fuzzing in Python looks for does not happen: with the inputs of tests/corpus/, and with any others."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab import ROOT
from tests.rigs.fuzz_targets import TARGETS

CORPUS = ROOT / "tests" / "corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_inputs_of_the_corpus(name: str) -> None:
    inputs = [path.read_bytes() for path in sorted((CORPUS / name).iterdir())]
    assert inputs
    for data in inputs:
        TARGETS[name](data)


@pytest.mark.parametrize("name", TARGETS)
def test_other_inputs(name: str) -> None:
    @settings(max_examples=60)
    @given(st.binary(max_size=600))
    def take(data: bytes) -> None:
        TARGETS[name](data)

    take()
