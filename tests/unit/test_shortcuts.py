"""What stands for parts of aioquic does the same."""

import random

import pytest
from aioquic import tls
from aioquic._buffer import Buffer, BufferWriteError

from cryprq.quic.shortcuts import PushBlock, use_shortcuts

use_shortcuts()


@pytest.mark.parametrize("seed", range(20))
def test_nested_blocks_are_after_their_lengths(seed: int) -> None:
    choose = random.Random(seed)
    buf = Buffer(capacity=2048)

    def write(depth: int) -> bytes:
        """Writes a block, and returns what it should be."""
        size = choose.choice((1, 2, 3))
        inner = b""
        with PushBlock(buf, size):
            for _ in range(choose.randrange(3)):
                inner += data if (data := choose.randbytes(choose.randrange(9))) else b""
                buf.push_bytes(data)
                inner += write(depth + 1) if depth < 3 else b""
        return len(inner).to_bytes(size, "big") + inner

    assert write(0) == buf.data


def test_a_block_that_is_too_long_for_its_length_and_an_error_inside_are_errors() -> None:
    with pytest.raises(OverflowError), PushBlock(buf := Buffer(capacity=400), 1):
        buf.push_bytes(bytes(256))
    with pytest.raises(BufferWriteError), PushBlock(buf := Buffer(capacity=4), 1):
        buf.push_bytes(bytes(8))


def test_aioquic_uses_them() -> None:
    assert vars(tls)["push_block"] is PushBlock
