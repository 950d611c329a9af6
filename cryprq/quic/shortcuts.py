"""Parts of aioquic that a handshake goes through dozens of times, done with less: what comes of them is the same."""

from aioquic import tls
from aioquic._buffer import Buffer


class PushBlock:
    """``tls.push_block``, a block of variable length after its length, without a generator: 40 times a handshake."""

    __slots__ = ("_buffer", "_size", "_start")

    def __init__(self, buf: Buffer, capacity: int) -> None:
        """``capacity`` is that of the length, in bytes."""
        self._buffer = buf
        self._size = capacity
        self._start = 0

    def __enter__(self) -> None:
        self._start = self._buffer.tell() + self._size
        self._buffer.seek(self._start)

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        if kind is not None:
            return
        buffer, start = self._buffer, self._start
        end = buffer.tell()
        buffer.seek(start - self._size)
        buffer.push_bytes((end - start).to_bytes(self._size, "big"))
        buffer.seek(end)


def use_shortcuts() -> None:
    """aioquic uses them from now on."""
    vars(tls)["push_block"] = PushBlock
