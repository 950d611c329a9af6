"""One end of a handshake and of its session, driven by frames: in this process, or as a program of its own.

    python -m tests.rigs.session_end initiator|responder KEM

The program's keys come through a pipe, so that nobody but the code under test has them: first the seed of its identity
and the digest of the other's peer ID, then one command after the other. A command and an answer are a length (4 bytes)
and as many bytes: frames, each answered by frames; or a word. Where an ephemeral key is drawn, a word says so in place
of the answer, and seeds follow: the program has no other randomness that would matter.
"""

import itertools
import os
import sys
from types import SimpleNamespace

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from cryprq.peer_id import PeerId
from cryprq.protocol import kem as agreement
from cryprq.protocol.actions import Action, Install, SendFrame
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import AEAD_AES_256_GCM
from cryprq.protocol.frames import FrameReader, FrameType, encode
from cryprq.protocol.handshake import STATUS_ACCEPTED, Initiator, Responder
from cryprq.protocol.identity import SEED_SIZE, Identity
from cryprq.protocol.kem import Ephemeral
from cryprq.protocol.key_schedule import wipe
from cryprq.protocol.parameters import Parameters
from cryprq.protocol.session import Session

BINDING = bytes(32)
LANES = 2
NOW = Boottime(1000.0)
START, ROTATE, HEARD, CLOSE = b"start", b"rotate", b"heard", b"close"
DRAW = b"draw"
MLKEM_SEED, X25519_SEED = 64, 32


class End:
    """An end: frames in, frames out. The data keys are wiped at once, as by a data plane that has copied them."""

    def __init__(self, identity: Identity, other: PeerId, kem: int, *, dials: bool) -> None:
        indices = itertools.count(1 if dials else 1001)
        self.session: Session | None = None
        self._newest = 0
        self._reader = FrameReader()
        self._initiator: Initiator | None = None
        self._responder: Responder | None = None
        if dials:
            self._initiator = Initiator(
                identity, other, BINDING, lanes=LANES, aead_offer=(AEAD_AES_256_GCM,), kem=kem,
                new_index=lambda: next(indices), parameters=Parameters(),
            )  # fmt: skip
        else:
            self._responder = Responder(
                identity, BINDING, lanes=LANES, aead_preference=(AEAD_AES_256_GCM,), new_index=lambda: next(indices)
            )

    def command(self, data: bytes) -> bytes:
        """The frames that answer frames, or a word."""
        if data == START:
            assert self._initiator is not None
            return encode(FrameType.INIT, self._initiator.message1())
        if data in (ROTATE, HEARD, CLOSE):
            assert self.session is not None
            if data == ROTATE:
                return self._carry_out(self.session.rotate(NOW))
            if data == HEARD:  # a record under the newest epoch
                return self._carry_out(self.session.first_record(self._newest, NOW))
            return self._carry_out(self.session.close("done", NOW))
        return b"".join(self._frame(*frame) for frame in self._reader.feed(data))

    def _frame(self, frame_type: FrameType, header: bytes, body: bytes) -> bytes:
        if self.session is not None:
            return self._carry_out(self.session.receive_frame(frame_type, header, body, NOW))
        if self._initiator is not None:
            if frame_type is FrameType.RESPONSE:
                return encode(FrameType.AUTH, self._initiator.receive_message2(body))
            self.session = self._initiator.receive_message4(body, NOW).session
            assert self.session is not None
            return self._carry_out(self.session.start(NOW))
        assert self._responder is not None
        if frame_type is FrameType.INIT:
            return encode(FrameType.RESPONSE, self._responder.receive_message1(body))
        self._responder.receive_message3(body, lambda _: True)
        message4, self.session = self._responder.message4(STATUS_ACCEPTED, Parameters(), NOW)
        assert self.session is not None
        return self._carry_out(self.session.start(NOW)) + encode(FrameType.ACCEPT, message4)

    def _carry_out(self, actions: list[Action]) -> bytes:
        frames = b""
        for action in actions:
            if isinstance(action, Install):
                self._newest = action.keys.rx_index
                action.keys.wipe()
            elif isinstance(action, SendFrame):
                frames += action.data
        return frames


# ---- as a program ----


def _read_into(*buffers: bytearray) -> None:
    for buffer in buffers:
        view = memoryview(buffer)
        while view:
            got = os.readv(0, [view])
            if got == 0:
                sys.exit(0)
            view = view[got:]


def _answer(data: bytes) -> None:
    os.write(1, len(data).to_bytes(4, "big") + data)


def _draw_ephemeral(kem: int) -> Ephemeral:
    _answer(DRAW)
    mlkem, x25519 = bytearray(MLKEM_SEED), bytearray(X25519_SEED)
    _read_into(mlkem, x25519)
    try:
        return Ephemeral.from_seeds(kem, mlkem, x25519)
    finally:
        wipe(mlkem, x25519)


def _draw_x25519() -> X25519PrivateKey:
    _answer(DRAW)
    seed = bytearray(X25519_SEED)
    _read_into(seed)
    try:
        return X25519PrivateKey.from_private_bytes(seed)
    finally:
        wipe(seed)


def main() -> None:
    role, kem = sys.argv[1], int(sys.argv[2])
    seed, digest = bytearray(SEED_SIZE), bytearray(32)
    _read_into(seed, digest)
    identity = Identity.from_seed(seed)
    wipe(seed)
    Ephemeral.generate = staticmethod(_draw_ephemeral)  # type: ignore[method-assign]
    drawn = SimpleNamespace(generate=_draw_x25519, from_private_bytes=X25519PrivateKey.from_private_bytes)
    setattr(agreement, "X25519PrivateKey", drawn)  # noqa: B010  # which mypy would not have
    end = End(identity, PeerId(bytes(digest)), kem, dials=role == "initiator")
    size = bytearray(4)
    while True:
        _read_into(size)
        command = bytearray(int.from_bytes(size, "big"))
        _read_into(command)
        _answer(end.command(bytes(command)))


if __name__ == "__main__":
    main()
