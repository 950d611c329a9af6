"""Frames of the control channel: type u8, length u24 (big-endian), body.

The reader is fed what a QUIC stream delivers and yields whole frames. What it cannot accept is a ``FrameError``, and
nothing else; it buffers at most one frame (``FRAME_MAX``).
"""

from enum import IntEnum
from typing import Final

from cryprq.protocol.constants import FRAME_HEADER_SIZE, FRAME_MAX


class FrameType(IntEnum):
    """What a frame carries. The first four are the handshake, the others are sealed (protocol, 3.1 and 3.2)."""

    INIT = 1
    RESPONSE = 2
    AUTH = 3
    ACCEPT = 4
    REKEY_REQUEST = 16
    REKEY = 17
    REKEY_RESPONSE = 18
    REKEY_DONE = 19
    CLOSE = 20


INIT: Final = FrameType.INIT
RESPONSE: Final = FrameType.RESPONSE
AUTH: Final = FrameType.AUTH
ACCEPT: Final = FrameType.ACCEPT
REKEY_REQUEST: Final = FrameType.REKEY_REQUEST
REKEY: Final = FrameType.REKEY
REKEY_RESPONSE: Final = FrameType.REKEY_RESPONSE
REKEY_DONE: Final = FrameType.REKEY_DONE
CLOSE: Final = FrameType.CLOSE


class CloseCode(IntEnum):
    """QUIC application error codes. They tell a stranger as little as possible; reasons stay in the local log."""

    OK = 0
    """A sealed CLOSE said why, or there is nothing to say."""
    MALFORMED = 1
    """A frame, a tag or an order that the protocol does not allow, after the handshake or from the listener."""
    REFUSED = 2
    """Every failure of M1 and M3, without distinction."""
    TIMEOUT = 3
    """A deadline passed (M1, handshake, R2)."""
    DUPLICATE = 4
    """Both nodes dialled each other and the other connection won."""
    SHUTDOWN = 5
    """The node stops."""
    INTERNAL = 6
    """A fault on the side that closes."""
    REPLACED = 7
    """A newer session with the same peer took over."""
    PSK = 8
    """M4 does not open at the dialer: the two ends have different pre-shared keys for each other."""


class FrameError(Exception):
    """The stream cannot be what the protocol allows; the connection must end with ``CloseCode.MALFORMED``."""


def header(frame_type: FrameType, body_size: int) -> bytes:
    """The 4-byte header of a frame whose body on the wire (tag included) has ``body_size`` bytes.

    Raises ValueError beyond ``FRAME_MAX``: what we send is ours to bound.
    """
    if FRAME_HEADER_SIZE + body_size > FRAME_MAX:
        raise ValueError(f"a frame of {body_size} bytes is too large")
    return bytes((frame_type,)) + body_size.to_bytes(3, "big")


def encode(frame_type: FrameType, body: bytes) -> bytes:
    """One frame, ready for the stream. ValueError beyond ``FRAME_MAX``."""
    return header(frame_type, len(body)) + body


class FrameReader:
    """Cuts one stream into frames. After a ``FrameError`` it is spent: every further call raises again."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._failed = False

    def feed(self, data: bytes) -> list[tuple[FrameType, bytes, bytes]]:
        """The frames that ``data`` completes, in order: (type, header of 4 bytes, body). Raises FrameError.

        Type and length are judged as soon as the header is there, so an endless frame is never waited for. Frames that
        precede a bad one in the same call are given up with it: the connection ends anyway.
        """
        if self._failed:
            raise FrameError("the stream has failed before")
        self._buffer += data
        frames: list[tuple[FrameType, bytes, bytes]] = []
        start = 0
        while len(self._buffer) - start >= FRAME_HEADER_SIZE:
            head = bytes(self._buffer[start : start + FRAME_HEADER_SIZE])
            frame_type, size = self._parse(head)
            end = start + FRAME_HEADER_SIZE + size
            if len(self._buffer) < end:
                break
            frames.append((frame_type, head, bytes(self._buffer[start + FRAME_HEADER_SIZE : end])))
            start = end
        del self._buffer[:start]
        return frames

    @property
    def pending(self) -> int:
        """Bytes of a frame that is not whole yet; not 0 at the end of a stream means a truncated frame."""
        return len(self._buffer)

    def _parse(self, head: bytes) -> tuple[FrameType, int]:
        size = int.from_bytes(head[1:], "big")
        try:
            frame_type = FrameType(head[0])
            if FRAME_HEADER_SIZE + size > FRAME_MAX:
                raise ValueError(f"a frame of {size} bytes is too large")
        except ValueError as error:
            self._failed = True
            self._buffer.clear()
            raise FrameError(f"bad frame: {error}") from None
        return frame_type, size


class Cursor:
    """Reads a body field by field. Whatever is not there is a ``FrameError``, and so is what is left at the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    @property
    def consumed(self) -> bytes:
        """What was read so far."""
        return self._data[: self._at]

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        if size > self.remaining:
            raise FrameError(f"{size} bytes expected, {self.remaining} left")
        self._at += size
        return self._data[self._at - size : self._at]

    def rest(self) -> bytes:
        """Everything that is left, maybe nothing."""
        return self.take(self.remaining)

    def u8(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def peek(self) -> int:
        """The next byte, which stays where it is."""
        value = self.u8()
        self._at -= 1
        return value

    def u16(self) -> int:
        """A 16-bit number, big-endian like all."""
        return int.from_bytes(self.take(2), "big")

    def u32(self) -> int:
        """A 32-bit number."""
        return int.from_bytes(self.take(4), "big")

    def index(self) -> int:
        """A receiver index: a 32-bit number that is not 0."""
        index = self.u32()
        if index == 0:
            raise FrameError("a receiver index of 0")
        return index

    def end(self) -> None:
        """Checks that nothing is left."""
        if self.remaining:
            raise FrameError(f"{self.remaining} bytes too many")
