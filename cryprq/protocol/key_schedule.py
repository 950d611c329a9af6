"""The key schedule: every hash, label and key that the protocol derives, and nothing else (protocol, 3.1 to 3.3 and 4).

HKDF-SHA-256 is RFC 5869, HMAC is RFC 2104. Secrets are in bytearrays, and whoever holds one wipes it with ``wipe``.
What a library returns as bytes is moved into one at once (``take``). No buffer of a secret grows, is sliced or is added
to another: each of these leaves a copy behind.
"""

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import HASH_SIZE, IV_SIZE, KEY_SIZE, KNOCK_TAG_SIZE, LANE_SECRET_SIZE, PSK_SIZE

try:
    from cryprq._fastpath import wipe as _overwrite
except ImportError:  # it is not built; `keygen` and `--check` do without, and with what Python can do

    def _overwrite(*buffers: bytearray | bytes | None) -> None:
        for buffer in buffers:
            if isinstance(buffer, bytearray):
                buffer[:] = bytes(len(buffer))


Secret = bytes | bytearray

I2R: Final = b"i2r"
"""From the dialer (initiator) to the listener (responder)."""
R2I: Final = b"r2i"

_NONCE_ZERO: Final = bytes(12)


def wipe(*buffers: bytearray | bytes | None) -> None:
    """Overwrites each buffer with zeros, in place; None is skipped. Likewise what the computations before have left on
    the stack and in registers: so it comes last, if need be without a buffer.

    ``bytes`` only as a library has just made them for the caller: whoever else has the object would see it change.
    """
    _overwrite(*buffers)


def join(*parts: Secret) -> bytearray:
    """The concatenation, without copies that nobody can wipe."""
    out = bytearray(sum(map(len, parts)))
    view, at = memoryview(out), 0
    for part in parts:
        view[at : at + len(part)] = part
        at += len(part)
    return out


def take(secret: bytes) -> bytearray:
    """The result of a library, which nobody else may have, in a buffer; the bytes are overwritten."""
    out = bytearray(secret)
    wipe(secret)
    return out


def digest(*parts: Secret) -> bytes:
    """H: SHA-256 of the concatenation."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return state.digest()


def extract(salt: Secret, ikm: Secret) -> bytearray:
    """HKDF-Extract (RFC 5869, 2.2): 32 bytes. HMAC of the input under the salt, and nothing else."""
    return take(hmac.digest(salt, ikm, "sha256"))


def expand(prk: Secret, info: bytes, size: int = KEY_SIZE) -> bytearray:
    """HKDF-Expand (RFC 5869, 2.3)."""
    out = bytearray(size)
    expand_into(prk, info, out)
    wipe()
    return out


def expand_into(prk: Secret, info: bytes, out: bytearray | memoryview) -> None:
    """HKDF-Expand that fills a buffer of 1 to 255 * 32 bytes. What it leaves on the stack is the caller's to wipe.

    Not the library's: that copies the key into bytes of its own. T(i) is HMAC of T(i-1) || info || i under the PRK.
    """
    view, block = memoryview(out), b""
    for number, at in enumerate(range(0, len(out), HASH_SIZE), start=1):
        text = join(block, info, bytes((number,)))
        wipe(block)
        block = hmac.digest(prk, text, "sha256")
        wipe(text)
        view[at : at + HASH_SIZE] = memoryview(block)[: len(out) - at]
    wipe(block)


# ---- the handshake (3.1) ----


def knock(responder_digest: bytes, channel_binding: bytes, m1_without_knock: bytes) -> bytes:
    """What M1 ends with: a filter that only those who know the responder's peer ID pass, not authentication."""
    key = digest(b"cryprq v2 knock", responder_digest)
    return hmac.digest(key, channel_binding + m1_without_knock, "sha256")


def first_knock_key(responder_digest: bytes) -> bytes:
    """The key of every ``first_knock`` for the responder with that peer ID (32 bytes)."""
    return digest(b"cryprq v2 first knock", responder_digest)


def first_knock(key: bytes, random: bytes, step: int) -> bytes:
    """The connection ID (20 bytes) that a dialer's first datagram goes to: ``random`` (8) and a tag over it and the
    number of the ``KNOCK_STEP`` of Unix time, so that a recorded one is soon worth nothing. A filter like ``knock``."""
    return random + hmac.digest(key, random + step.to_bytes(8, "big"), "sha256")[:KNOCK_TAG_SIZE]


def transcript1(channel_binding: bytes, m1: bytes, m2_clear: bytes) -> bytes:
    """th1: the channel, the whole of M1 and M2 up to its sealed part."""
    return digest(b"cryprq v2 th1", channel_binding, m1, m2_clear)


def transcript2(th1: bytes, m2: bytes) -> bytes:
    """th2: th1 and the whole of M2."""
    return digest(b"cryprq v2 th2", th1, m2)


def transcript3(th2: bytes, m3: bytes) -> bytes:
    """th3: th2 and the whole of M3."""
    return digest(b"cryprq v2 th3", th2, m3)


def responder_statement(th1: bytes, record: bytes) -> bytes:
    """What the listener signs with both of its keys."""
    return b"cryprq v2 responder\x00" + digest(th1, record)


def initiator_statement(th2: bytes, record: bytes) -> bytes:
    """What the dialer signs with both of its keys."""
    return b"cryprq v2 initiator\x00" + digest(th2, record)


def handshake_secret(th1: bytes, shared: Secret) -> bytearray:
    """hs, from the shared secrets of all parts. The salt th1 contains ek, ct and both X25519 keys and so binds hs to
    them."""
    return extract(th1, shared)


def handshake_key(hs: Secret, direction: bytes) -> bytearray:
    """k_r2i_hs or k_i2r_hs: seals M2 or M3, one message."""
    return expand(hs, b"cryprq v2 hs " + direction)


def first_root(hs: Secret, psk: Secret | None, th3: bytes) -> bytearray:
    """root_0, the root of epoch 0. ``psk``: the pre-shared key of the two ends (32 bytes), None for zeros."""
    prk = extract(hs, bytes(PSK_SIZE) if psk is None else psk)
    root = expand(prk, b"cryprq v2 root" + th3)
    wipe(prk)
    return root


def accept_key(root: Secret) -> bytearray:
    """k_accept: seals M4, one message."""
    return expand(root, b"cryprq v2 accept")


# ---- epochs (3.2, 3.3 and 4) ----


def control_key(root: Secret, direction: bytes) -> bytearray:
    """The key of one direction's control frames in the epoch of that root."""
    return expand(root, b"cryprq v2 control " + direction)


def data_secrets(root: Secret, direction: bytes, lanes: int) -> bytearray:
    """key (32) || iv (12) of each lane 0..lanes-1 of one direction, in one buffer."""
    out = bytearray(lanes * LANE_SECRET_SIZE)
    view = memoryview(out)
    for lane in range(lanes):
        start = lane * LANE_SECRET_SIZE
        for kind, offset, size in ((b"key", 0, KEY_SIZE), (b"iv", KEY_SIZE, IV_SIZE)):
            info = b"cryprq v2 data " + direction + b" " + kind + bytes((lane,))
            expand_into(root, info, view[start + offset : start + offset + size])
    wipe()
    return out


@dataclass(frozen=True)
class NextRoot:
    """What one rotation derives."""

    root: bytearray = field(repr=False)
    tag_r: bytes = field(repr=False)
    tag_i: bytes = field(repr=False)


def next_root(root: Secret, shared: Secret, r1: bytes, r2_without_tag: bytes) -> NextRoot:
    """root_{n+1} from root_n and a rotation's shared secret, and both confirmation tags (3.3)."""
    salt = expand(root, b"cryprq v2 rekey salt")
    ikm = join(shared, digest(b"cryprq v2 rekey", r1, r2_without_tag))
    new = extract(salt, ikm)
    key_r, key_i = expand(new, b"cryprq v2 confirm r"), expand(new, b"cryprq v2 confirm i")
    transcript = digest(r1, r2_without_tag)
    tags = hmac.digest(key_r, transcript, "sha256"), hmac.digest(key_i, transcript, "sha256")
    wipe(salt, ikm, key_r, key_i)
    return NextRoot(new, *tags)


# ---- sealing control messages: AES-256-GCM (NIST SP 800-38D) ----


def seal_once(key: Secret, aad: bytes, plaintext: bytes) -> bytes:
    """One handshake message under a key that seals nothing else, so that the nonce is 0. Ends with the 16-byte tag."""
    return _seal(key, _NONCE_ZERO, aad, plaintext)


def open_once(key: Secret, aad: bytes, sealed: bytes) -> bytes | None:
    """The plaintext, or None if it does not verify."""
    return _open(key, _NONCE_ZERO, aad, sealed)


class ControlKey:
    """One direction's key for control frames in one epoch, with the counter that makes the nonces.

    Both ends count alike because a stream keeps its order; a frame that is lost, repeated or out of order fails.
    """

    def __init__(self, root: Secret, direction: bytes) -> None:
        self._key = control_key(root, direction)
        self._counter = 0

    def seal(self, header: bytes, plaintext: bytes) -> bytes:
        """The sealed body (16 bytes longer) of the frame with that header."""
        sealed = _seal(self._key, self._nonce(), header, plaintext)
        self._counter += 1
        return sealed

    def open(self, header: bytes, sealed: bytes) -> bytes | None:
        """The body of the next frame, or None if it does not verify; only success moves the counter."""
        plaintext = _open(self._key, self._nonce(), header, sealed)
        if plaintext is not None:
            self._counter += 1
        return plaintext

    def wipe(self) -> None:
        """Forgets the key. A wiped key must not be used."""
        wipe(self._key)

    def _nonce(self) -> bytes:
        return bytes(4) + self._counter.to_bytes(8, "big")


def _seal(key: Secret, nonce: bytes, aad: bytes, plaintext: bytes) -> bytes:
    try:
        return AESGCM(key).encrypt(nonce, plaintext, aad)
    finally:
        wipe()


def _open(key: Secret, nonce: bytes, aad: bytes, sealed: bytes) -> bytes | None:
    try:
        return AESGCM(key).decrypt(nonce, sealed, aad)
    except InvalidTag:  # also raised for what is shorter than a tag
        return None
    finally:
        wipe()


@dataclass
class EpochKeys:
    """The data keys of one epoch, as the data plane takes them. The plane wipes the buffers when it has them."""

    number: int
    """n of root_n."""
    suite: int
    """``AEAD_AES_256_GCM`` or ``AEAD_CHACHA20_POLY1305``."""
    rx_index: int
    """The receiver index in records that we receive: ours."""
    tx_index: int
    """The one in records that we send: the peer's."""
    tx_secrets: bytearray
    """Per lane on which we send: key (32) || iv (12)."""
    rx_secrets: bytearray
    derived_at: Boottime
    """CLOCK_BOOTTIME in seconds when the root was derived: the age that the hard limit counts."""

    def wipe(self) -> None:
        """Overwrites both buffers."""
        wipe(self.tx_secrets, self.rx_secrets)

    def __repr__(self) -> str:
        return f"<EpochKeys number={self.number} rx_index={self.rx_index:08x} tx_index={self.tx_index:08x}>"
