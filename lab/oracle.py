"""A slow, obvious twin of the data plane's records: what C must do, in the fewest words.

It follows docs/protocol.md, section 4, and nothing in ``csrc/``: sets instead of bitmaps, whole integers instead of
words, and the AEADs of the ``cryptography`` package. Tests compare C with it.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

AES_256_GCM = 1
CHACHA20_POLY1305 = 2
AEADS: dict[int, type[AESGCM] | type[ChaCha20Poly1305]] = {AES_256_GCM: AESGCM, CHACHA20_POLY1305: ChaCha20Poly1305}

RECORD_TYPE = 1
FLAG_VOUCHED = 1
HEADER_SIZE = 16
TAG_SIZE = 16
OVERHEAD = HEADER_SIZE + TAG_SIZE
RECORDS_HARD = 2**28
BLOCKS_HARD = 2**35
WINDOW = 16_320
"""Records that may arrive late: 255 words of 64 (the protocol asks for at least 8192)."""


class Refused(Exception):
    """A record that must not be used; ``str()`` is the reason: malformed, limit, replay or auth."""


class Limits(NamedTuple):
    """What one key may protect: records, and blocks of 16 bytes (header and payload, rounded up)."""

    records_soft: int = 2**26
    records_hard: int = RECORDS_HARD
    blocks_soft: int = 2**34
    blocks_hard: int = BLOCKS_HARD


PROTOCOL_LIMITS = Limits()


@dataclass(frozen=True)
class Header:
    """The 16 bytes in front of a record, which are also its additional data."""

    type: int
    lane: int
    flags: int
    index: int
    counter: int

    def encode(self) -> bytes:
        return (
            self.type.to_bytes(1)
            + self.lane.to_bytes(1)
            + self.flags.to_bytes(2)
            + self.index.to_bytes(4)
            + self.counter.to_bytes(8)
        )

    @classmethod
    def decode(cls, record: bytes) -> "Header":
        integer = int.from_bytes
        return cls(record[0], record[1], integer(record[2:4]), integer(record[4:8]), integer(record[8:16]))


def derive_nonce(iv: bytes, counter: int) -> bytes:
    """iv XOR (0^4 || counter), as TLS 1.3 does (RFC 8446, section 5.3)."""
    return bytes(a ^ b for a, b in zip(iv, counter.to_bytes(12), strict=True))


def blocks_of(payload_size: int) -> int:
    """Blocks that a record uses up: one for the header, and the payload's, the last of them perhaps not full."""
    return 1 + -(-payload_size // 16)


@dataclass
class ReplayWindow:
    """The counters that were accepted, and how far back a late one may be."""

    size: int = WINDOW
    seen: set[int] = field(default_factory=set)
    next: int = 0
    """The highest accepted counter + 1; 0 while nothing was accepted."""

    def may_accept(self, counter: int) -> bool:
        if counter in self.seen or counter == 2**64 - 1:
            return False
        return self.next - counter <= self.size

    def accept(self, counter: int) -> None:
        assert self.may_accept(counter)
        self.seen.add(counter)
        self.next = max(self.next, counter + 1)


@dataclass
class RecordSealer:
    """Seals under one key: one epoch, direction and lane."""

    key: bytes
    iv: bytes
    lane: int
    index: int
    suite: int = AES_256_GCM
    limits: Limits = PROTOCOL_LIMITS
    counter: int = 0
    blocks: int = 0

    @property
    def soft_limit(self) -> bool:
        return self.counter >= self.limits.records_soft or self.blocks >= self.limits.blocks_soft

    def seal(self, payload: bytes, flags: int = 0) -> bytes:
        """One record. Refused("limit") at a hard limit; then no counter was spent."""
        if self.counter >= self.limits.records_hard or self.blocks + blocks_of(len(payload)) > self.limits.blocks_hard:
            raise Refused("limit")
        record = self.seal_at(self.counter, payload, flags)
        self.counter += 1
        self.blocks += blocks_of(len(payload))
        return record

    def seal_at(self, counter: int, payload: bytes, flags: int = 0) -> bytes:
        """A record with any counter, as a peer that keeps no limits could make it."""
        header = Header(RECORD_TYPE, self.lane, flags, self.index, counter).encode()
        return header + AEADS[self.suite](self.key).encrypt(derive_nonce(self.iv, counter), payload, header)


@dataclass
class RecordOpener:
    """Opens under one key: one epoch, direction and lane."""

    key: bytes
    iv: bytes
    lane: int
    suite: int = AES_256_GCM
    limits: Limits = PROTOCOL_LIMITS
    window: ReplayWindow = field(default_factory=ReplayWindow)
    records: int = 0
    blocks: int = 0

    @property
    def soft_limit(self) -> bool:
        return self.window.next >= self.limits.records_soft or self.blocks >= self.limits.blocks_soft

    def open(self, record: bytes) -> tuple[bytes, bool]:
        """The payload, and whether the counter became the highest. Refused otherwise; then nothing has changed."""
        if len(record) < OVERHEAD:
            raise Refused("malformed")
        header = Header.decode(record)
        if header.lane != self.lane:
            raise Refused("malformed")
        if header.counter >= self.limits.records_hard:
            raise Refused("limit")
        if not self.window.may_accept(header.counter):
            raise Refused("replay")
        blocks = self.blocks + blocks_of(len(record) - OVERHEAD)
        if blocks > self.limits.blocks_hard:
            raise Refused("limit")
        nonce = derive_nonce(self.iv, header.counter)
        try:
            payload = AEADS[self.suite](self.key).decrypt(nonce, record[HEADER_SIZE:], record[:HEADER_SIZE])
        except InvalidTag:
            raise Refused("auth") from None
        newest = header.counter >= self.window.next
        self.window.accept(header.counter)
        self.records += 1
        self.blocks = blocks
        return payload, newest


def packets_of(payload: bytes) -> list[bytes]:
    """The whole IP packets of a payload, up to padding or the first byte that is not as it should be."""
    packets = []
    while payload and payload[0] >> 4 != 0:
        version, size = payload[0] >> 4, 0
        if version == 1 and len(payload) >= 3:
            size = 3 + int.from_bytes(payload[1:3])
        elif version == 4 and len(payload) >= 20:
            header, total = payload[0] % 16 * 4, int.from_bytes(payload[2:4])
            size = total if 20 <= header <= total else 0
        elif version == 6 and len(payload) >= 40:
            size = 40 + int.from_bytes(payload[4:6])
        if not 0 < size <= len(payload):
            break
        if version != 1:
            packets.append(payload[:size])
        payload = payload[size:]
    return packets


class Receiver:
    """What becomes of datagrams that are no QUIC: of one epoch, whose lanes have these keys and IVs."""

    def __init__(self, index: int, suite: int, lanes: list[tuple[bytes, bytes]]) -> None:
        self._index = index
        self._openers = [RecordOpener(key, iv, lane, suite) for lane, (key, iv) in enumerate(lanes)]

    def receive(self, datagram: bytes) -> list[bytes]:
        """The packets in it; none if it is no record that may be used."""
        if len(datagram) < OVERHEAD:
            return []
        header = Header.decode(datagram)
        if header.type != RECORD_TYPE or header.flags & ~FLAG_VOUCHED or header.lane >= len(self._openers):
            return []
        if header.index != self._index:
            return []
        try:
            return packets_of(self._openers[header.lane].open(datagram)[0])
        except Refused:
            return []
