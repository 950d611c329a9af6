"""The sealed control channel of a session: its root chain, its control keys and the three rotation messages (protocol,
3.2 and 3.3). Knows no time and no epochs beyond their numbers; ``session.py`` decides what is due.

Each method commits only when its message has verified completely. Everything here is wiped with the channel.
"""

import hmac
from collections.abc import Callable
from dataclasses import dataclass, field

from cryprq.protocol import frames, key_schedule
from cryprq.protocol.constants import HASH_SIZE, TAG_SIZE, X25519_SIZE
from cryprq.protocol.frames import Cursor, FrameError, FrameType
from cryprq.protocol.kem import SIZES, Ephemeral, KemError, encapsulate
from cryprq.protocol.key_schedule import ControlKey, wipe


class Refused(Exception):
    """A frame of the peer ends the connection. ``str()`` is one word: tag, order, malformed, kem, too_often."""


@dataclass(frozen=True)
class Agreed:
    """One end's outcome of a rotation message: the next epoch, and the frame that goes to the peer."""

    rx_index: int
    tx_index: int
    root: bytearray = field(repr=False)
    """Of the next epoch; the channel's own, valid until it moves on."""
    frame: bytes


class ControlChannel:
    """Seals and opens control frames, and carries the root from epoch to epoch."""

    def __init__(self, root: bytearray, *, dials: bool, kem: int) -> None:
        """``root`` is root_0, which is copied. ``dials``: this is the initiator. ``kem``: one of ``constants.KEMS``."""
        self.tx, self.rx = (key_schedule.I2R, key_schedule.R2I) if dials else (key_schedule.R2I, key_schedule.I2R)
        self.root = bytearray(root)
        """Of the newest confirmed epoch."""
        self._kem = kem
        self._seal = ControlKey(root, self.tx)
        self._open = ControlKey(root, self.rx)
        # Initiator, between R1 and R2.
        self._ephemeral: Ephemeral | None = None
        self._r1 = b""
        self._r1_index = 0
        # Responder: the root until the epoch is confirmed, key and tag until R3.
        self._next_root: bytearray | None = None
        self._next_open: ControlKey | None = None
        self._expected_tag = b""

    def seal(self, frame_type: FrameType, body: bytes) -> bytes:
        """A whole frame."""
        header = frames.header(frame_type, len(body) + TAG_SIZE)
        return header + self._seal.seal(header, body)

    def open(self, frame_type: FrameType, header: bytes, sealed: bytes) -> bytes:
        """The body of the next frame. Refused ("tag") if it does not verify.

        R3 is the initiator's first frame under the new epoch; whatever it says before that is under the old one.
        """
        key = self._next_open if frame_type == frames.REKEY_DONE else self._open
        opened = key.open(header, sealed) if key else None
        if opened is None:
            raise Refused("tag")
        return opened

    # ---- rotation, in the order of its messages ----

    def start_rekey(self, number: int, rx_index: int) -> bytes:
        """Initiator: the frame of R1, for epoch ``number``, which the peer's records will name ``rx_index``."""
        self._ephemeral = Ephemeral.generate(self._kem)
        self._r1_index = rx_index
        self._r1 = (
            number.to_bytes(4, "big") + self._ephemeral.kem_ek + self._ephemeral.x25519 + rx_index.to_bytes(4, "big")
        )
        return self.seal(frames.REKEY, self._r1)

    def answer_rekey(self, r1: bytes, number: int, new_index: Callable[[], int]) -> Agreed:
        """Responder: takes R1 for epoch ``number`` and makes R2. Control frames go out under the new root after it."""
        cursor = Cursor(r1)
        try:
            _expect(number, cursor)
            kem_ek, x25519 = cursor.take(SIZES[self._kem].encapsulation_key), cursor.take(X25519_SIZE)
            tx_index = cursor.index()
            cursor.end()
            answer = encapsulate(self._kem, kem_ek, x25519)
        except (FrameError, KemError) as error:
            raise _refused(error) from None
        rx_index = new_index()
        r2 = number.to_bytes(4, "big") + answer.ciphertext + answer.x25519 + rx_index.to_bytes(4, "big")
        try:
            following = key_schedule.next_root(self.root, answer.shared, r1, r2)
        finally:
            wipe(answer.shared)
        frame = self.seal(frames.REKEY_RESPONSE, r2 + following.tag_r)
        self._next_root = following.root
        self._next_open = ControlKey(following.root, self.rx)
        self._expected_tag = following.tag_i
        self._replace_seal(following.root)
        return Agreed(rx_index, tx_index, following.root, frame)

    def finish_rekey(self, r2: bytes, number: int) -> Agreed:
        """Initiator: takes R2 and makes R3. A good tag proves that the peer has the new root, so the old one goes."""
        cursor = Cursor(r2)
        ephemeral, self._ephemeral = self._ephemeral, None
        if ephemeral is None:
            raise Refused("order")
        try:
            _expect(number, cursor)
            ciphertext, x25519 = cursor.take(SIZES[self._kem].ciphertext), cursor.take(X25519_SIZE)
            tx_index = cursor.index()
            without_tag, tag = cursor.consumed, cursor.take(HASH_SIZE)
            cursor.end()
            shared = ephemeral.agree(ciphertext, x25519)
        except (FrameError, KemError) as error:
            raise _refused(error) from None
        try:
            following = key_schedule.next_root(self.root, shared, self._r1, without_tag)
        finally:
            wipe(shared)
        if not hmac.compare_digest(tag, following.tag_r):
            wipe(following.root)
            raise Refused("tag")
        wipe(self.root)
        self.root = following.root
        self._open.wipe()
        self._open = ControlKey(following.root, self.rx)
        self._replace_seal(following.root)
        frame = self.seal(frames.REKEY_DONE, number.to_bytes(4, "big") + following.tag_i)
        return Agreed(self._r1_index, tx_index, following.root, frame)

    def receive_done(self, r3: bytes, number: int) -> None:
        """Responder: takes R3. The old epoch's control key has done its work."""
        cursor = Cursor(r3)
        try:
            _expect(number, cursor)
            tag = cursor.take(HASH_SIZE)
            cursor.end()
        except FrameError as error:
            raise _refused(error) from None
        if self._next_open is None:
            raise Refused("order")
        if not hmac.compare_digest(tag, self._expected_tag):
            raise Refused("tag")
        self._open.wipe()
        self._open, self._next_open = self._next_open, None

    def confirm(self) -> None:
        """Responder: R3 or a record has shown that the peer has the new root, so the old one goes. Else harmless."""
        if self._next_root is not None:
            wipe(self.root)
            self.root, self._next_root = self._next_root, None

    def wipe(self) -> None:
        """Forgets everything; the channel must not be used any more."""
        for key in (self._seal, self._open, self._next_open):
            if key is not None:
                key.wipe()
        if self._ephemeral is not None:
            self._ephemeral.drop()
        wipe(self.root, self._next_root)
        self._next_root = self._next_open = self._ephemeral = None

    def _replace_seal(self, root: bytearray) -> None:
        self._seal.wipe()
        self._seal = ControlKey(root, self.tx)


def _expect(number: int, cursor: Cursor) -> None:
    if cursor.u32() != number:
        raise Refused("order")


def _refused(error: FrameError | KemError) -> Refused:
    return Refused("kem" if isinstance(error, KemError) else "malformed")
