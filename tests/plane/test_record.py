"""The epoch code in ``csrc/`` against its slow twin in ``oracle.py``, through ``tests/c/epoch_lines.c``."""

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import shake_128
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lab.oracle import (
    AES_256_GCM,
    CHACHA20_POLY1305,
    FLAG_VOUCHED,
    OVERHEAD,
    PROTOCOL_LIMITS,
    RECORDS_HARD,
    WINDOW,
    Header,
    Limits,
    RecordOpener,
    RecordSealer,
    Refused,
    ReplayWindow,
    blocks_of,
    derive_nonce,
)
from tests.rigs.c_programs import Conversation, build, from_hex, to_hex

LANES = 2
RX_INDEX, TX_INDEX = 0xC0FFEE01, 0x0BADF00D

SUITES = pytest.mark.parametrize("suite", [AES_256_GCM, CHACHA20_POLY1305])
quick = settings(derandomize=True, deadline=None, max_examples=60)
suites = st.sampled_from([AES_256_GCM, CHACHA20_POLY1305])
lanes = st.integers(0, LANES - 1)


def secret(name: str, lane: int) -> tuple[bytes, bytes]:
    """A key and IV that are the same in every run."""
    stream = shake_128(f"{name} {lane}".encode()).digest(44)
    return stream[:32], stream[32:]


class Outcome(NamedTuple):
    """What came of opening or sealing: bytes, or a reason why not."""

    data: bytes = b""
    newest: bool = False
    refused: str | None = None


class Epoch:
    """The C side: one epoch, in a program that stays up."""

    def __init__(self, conversation: Conversation, suite: int, limits: Limits) -> None:
        self._ask = conversation.ask
        tx, rx = (b"".join(b"".join(secret(way, lane)) for lane in range(LANES)) for way in ("tx", "rx"))
        words = ["new", suite, RX_INDEX, TX_INDEX, tx.hex(), rx.hex(), *limits]
        assert self._ask(" ".join(map(str, words))) == "ok"

    def seal(self, lane: int, payload: bytes, flags: int = 0) -> Outcome:
        match self._ask(f"seal {lane} {flags} {to_hex(payload)}").split():
            case ["error", reason]:
                return Outcome(refused=reason)
            case [record]:
                return Outcome(from_hex(record))
        raise AssertionError

    def open(self, record: bytes) -> Outcome:
        match self._ask(f"open {to_hex(record)}").split():
            case ["error", reason]:
                return Outcome(refused=reason)
            case [payload, newest]:
                return Outcome(from_hex(payload), newest == "1")
        raise AssertionError

    def state(self) -> str:
        return self._ask("state")


class Twin:
    """The same epoch in Python, and the peer whose records it opens."""

    def __init__(self, suite: int, limits: Limits) -> None:
        numbers = range(LANES)
        self.sealers = [RecordSealer(*secret("tx", n), n, TX_INDEX, suite, limits) for n in numbers]
        self.openers = [RecordOpener(*secret("rx", n), n, suite, limits) for n in numbers]
        self.peer = [RecordSealer(*secret("rx", n), n, RX_INDEX, suite) for n in numbers]

    def seal(self, lane: int, payload: bytes, flags: int = 0) -> Outcome:
        try:
            return Outcome(self.sealers[lane].seal(payload, flags))
        except Refused as refused:
            return Outcome(refused=str(refused))

    def open(self, record: bytes) -> Outcome:
        lane = Header.decode(record).lane if len(record) >= OVERHEAD else 0
        try:
            if lane >= LANES:
                raise Refused("malformed")
            return Outcome(*self.openers[lane].open(record))
        except Refused as refused:
            return Outcome(refused=str(refused))

    def state(self) -> str:
        soft = any(s.soft_limit for s in self.sealers) or any(o.soft_limit for o in self.openers)
        sent = [f"{s.counter}/{s.blocks}" for s in self.sealers]
        received = [f"{o.records}/{o.blocks}/{o.window.next}" for o in self.openers]
        return " ".join([str(int(soft)), *sent, *received])


@dataclass
class Pair:
    """C and its twin, which are told the same and must say the same."""

    epoch: Epoch
    twin: Twin

    @property
    def peer(self) -> list[RecordSealer]:
        return self.twin.peer

    def seal(self, lane: int, payload: bytes, flags: int = 0) -> Outcome:
        outcome = self.epoch.seal(lane, payload, flags)
        assert outcome == self.twin.seal(lane, payload, flags)
        assert self.epoch.state() == self.twin.state()
        return outcome

    def open(self, record: bytes) -> Outcome:
        before = self.epoch.state()
        outcome = self.epoch.open(record)
        assert outcome == self.twin.open(record)
        assert self.epoch.state() == self.twin.state()
        assert outcome.refused is None or self.epoch.state() == before
        return outcome


@pytest.fixture(scope="module")
def conversation() -> Iterator[Conversation]:
    with Conversation(build("epoch_lines")) as conversation:
        yield conversation


def pair(conversation: Conversation, suite: int = AES_256_GCM, limits: Limits = PROTOCOL_LIMITS) -> Pair:
    return Pair(Epoch(conversation, suite, limits), Twin(suite, limits))


def flip(data: bytes, bit: int) -> bytes:
    """One bit changed; bit 0 is the lowest of the first byte."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


# ---- the twin itself ----


def test_twin_derives_nonces_by_xor_into_the_last_8_bytes() -> None:
    iv = bytes.fromhex("a0a1a2a3a4a5a6a7a8a9aaab")
    assert derive_nonce(iv, 0) == iv
    assert derive_nonce(iv, 0x0102030405060708).hex() == "a0a1a2a3a5a7a5a3adafada3"
    assert derive_nonce(iv, 2**64 - 1).hex() == "a0a1a2a35b5a595857565554"


def test_twin_counts_one_block_for_the_header() -> None:
    assert [blocks_of(size) for size in (0, 1, 16, 17, 1420)] == [1, 2, 2, 3, 90]


def test_twin_window_closes_behind_the_highest_counter() -> None:
    window = ReplayWindow(size=4)
    for counter in (10, 7, 8):
        window.accept(counter)
    assert [counter for counter in range(13) if window.may_accept(counter)] == [9, 11, 12]


def test_record_has_the_layout_of_the_protocol(conversation: Conversation) -> None:
    both = pair(conversation)
    both.seal(1, b"")
    record = both.seal(1, bytes(5), FLAG_VOUCHED).data
    assert record[:16].hex() == "01" + "01" + "0001" + "0badf00d" + "0000000000000001"
    assert len(record) == 16 + 5 + 16


# ---- sealing ----


@quick
@given(suite=suites, records=st.lists(st.tuples(lanes, st.binary(max_size=1500), st.integers(0, 0xFFFF)), max_size=20))
def test_seal_gives_the_bytes_of_the_twin(
    conversation: Conversation, suite: int, records: list[tuple[int, bytes, int]]
) -> None:
    both = pair(conversation, suite)
    for lane, payload, flags in records:
        assert both.seal(lane, payload, flags).refused is None


# ---- opening: order, duplicates, forgeries ----


class Delivery(NamedTuple):
    """A record that arrives: its counter is an offset from a landmark, and a bit of it may be flipped."""

    lane: int
    landmark: str
    offset: int
    flipped: int | None
    size: int


offsets = st.one_of(
    st.integers(-70, 70),
    st.integers(-WINDOW - 70, -WINDOW + 70),
    st.integers(WINDOW - 70, WINDOW + 70),
    st.integers(-3 * WINDOW, 3 * WINDOW),
)
deliveries = st.builds(
    Delivery,
    lane=lanes,
    landmark=st.sampled_from(["next"] * 6 + ["zero", "hard limit", "2^64"]),
    offset=offsets,
    flipped=st.one_of(st.none(), st.none(), st.none(), st.integers(0, 8 * OVERHEAD - 1)),
    size=st.integers(0, 40),
)


@settings(quick, max_examples=150)
@given(suite=suites, steps=st.lists(deliveries, max_size=60))
def test_open_agrees_with_the_twin_on_any_arrivals(
    conversation: Conversation, suite: int, steps: list[Delivery]
) -> None:
    both = pair(conversation, suite)
    for step in steps:
        landmarks = {
            "next": both.twin.openers[step.lane].window.next,
            "zero": 0,
            "hard limit": RECORDS_HARD,
            "2^64": 2**64,
        }
        counter = min(max(landmarks[step.landmark] + step.offset, 0), 2**64 - 1)
        record = both.peer[step.lane].seal_at(counter, bytes(step.size))
        both.open(record if step.flipped is None else flip(record, step.flipped))


@quick
@given(order=st.permutations(range(24)), copies=st.lists(st.integers(0, 23), max_size=24))
def test_each_record_opens_once_in_any_order(conversation: Conversation, order: list[int], copies: list[int]) -> None:
    both = pair(conversation)
    records = [both.peer[0].seal(bytes([n])) for n in range(24)]
    opened = [both.open(records[n]) for n in order]
    assert [outcome.data for outcome in opened] == [bytes([n]) for n in order]
    assert [both.open(records[n]).refused for n in copies] == ["replay"] * len(copies)


@SUITES
def test_every_flipped_bit_is_refused_and_changes_nothing(conversation: Conversation, suite: int) -> None:
    """All of header (the flags too), ciphertext and tag; a flipped lane bit reaches the other lane's key."""
    both = pair(conversation, suite)
    record = both.peer[0].seal_at(5, b"payload", FLAG_VOUCHED)
    reasons = [both.open(flip(record, bit)).refused for bit in range(8 * len(record))]
    assert set(reasons) == {"auth", "limit", "malformed"}
    assert {reasons[bit] for bit in range(16, 32)} == {"auth"}, "the flags are not authenticated"
    assert both.open(record) == Outcome(b"payload", newest=True)


def test_forged_record_with_a_huge_counter_does_not_move_the_window(conversation: Conversation) -> None:
    both = pair(conversation)
    peer = both.peer[0]
    records = [peer.seal(b"") for _ in range(40)]
    for record in records[::2]:
        assert both.open(record).refused is None
    for counter in (WINDOW + 41, 2**27, RECORDS_HARD - 1):
        assert both.open(flip(peer.seal_at(counter, b"x"), 8 * 20)).refused == "auth"
    assert both.open(peer.seal_at(RECORDS_HARD, b"x")).refused == "limit"
    assert both.open(peer.seal_at(2**64 - 1, b"x")).refused == "limit"
    for number, record in enumerate(records):
        assert both.open(record).refused == ("replay" if number % 2 == 0 else None)


def test_forged_copy_does_not_use_up_the_counter_of_the_real_record(conversation: Conversation) -> None:
    both = pair(conversation)
    record = both.peer[0].seal(b"real")
    assert both.open(flip(record, 8 * len(record) - 1)).refused == "auth"
    assert both.open(record) == Outcome(b"real", newest=True)
    assert both.open(flip(record, 8 * len(record) - 1)).refused == "replay"


def test_lanes_have_windows_of_their_own(conversation: Conversation) -> None:
    both = pair(conversation)
    assert both.open(both.peer[0].seal_at(9, b"0")) == Outcome(b"0", newest=True)
    assert both.open(both.peer[1].seal_at(9, b"1")) == Outcome(b"1", newest=True)
    assert both.open(both.peer[1].seal_at(8, b"1")) == Outcome(b"1", newest=False)
    assert both.open(both.peer[0].seal_at(9, b"0")).refused == "replay"


@SUITES
def test_every_truncation_is_refused(conversation: Conversation, suite: int) -> None:
    both = pair(conversation, suite)
    record = both.peer[0].seal(bytes(50))
    reasons = [both.open(record[:size]).refused for size in range(len(record))]
    assert reasons == ["malformed"] * OVERHEAD + ["auth"] * 50
    assert both.open(record + b"\0").refused == "auth"
    assert both.open(record).refused is None


# ---- limits ----


def test_counters_from_the_hard_limit_on_are_refused_though_genuine(conversation: Conversation) -> None:
    """However much a caller allows, the protocol's 2^28 stands."""
    both = Pair(Epoch(conversation, AES_256_GCM, Limits(*[2**63] * 4)), Twin(AES_256_GCM, Limits(2**28, 2**28, 2**35)))
    peer = both.peer[0]
    assert both.open(peer.seal_at(RECORDS_HARD, b"")).refused == "limit"
    assert both.open(peer.seal_at(RECORDS_HARD - 2, b"")).refused is None
    assert both.epoch.state().startswith("0 ")
    assert both.open(peer.seal_at(RECORDS_HARD - 1, b"")).refused is None
    assert both.epoch.state().startswith("1 ")
    assert both.open(peer.seal_at(RECORDS_HARD, b"")).refused == "limit"


small_limits = st.builds(
    lambda soft_r, more_r, soft_b, more_b: Limits(soft_r, soft_r + more_r, soft_b, soft_b + more_b),
    st.integers(1, 12),
    st.integers(0, 6),
    st.integers(1, 60),
    st.integers(0, 30),
)


@settings(quick, max_examples=120)
@given(
    suite=suites,
    limits=small_limits,
    steps=st.lists(st.tuples(st.booleans(), lanes, st.integers(0, 100)), max_size=50),
)
def test_limits_agree_with_the_twin(
    conversation: Conversation, suite: int, limits: Limits, steps: list[tuple[bool, int, int]]
) -> None:
    both = pair(conversation, suite, limits)
    for sending, lane, size in steps:
        if sending:
            both.seal(lane, bytes(size))
        else:
            both.open(both.peer[lane].seal(bytes(size)))


def test_sealing_stops_at_the_record_limit_and_asks_for_rotation_before(conversation: Conversation) -> None:
    both = pair(conversation, limits=Limits(records_soft=3, records_hard=5))
    outcomes = []
    for _ in range(7):
        outcomes.append(both.seal(0, b"x").refused)
        assert both.epoch.state().startswith("1 ") == (len(outcomes) >= 3)
    assert outcomes == [None] * 5 + ["limit"] * 2
    assert both.seal(1, b"x").refused is None, "the limit is one key's, not the epoch's"


def test_sealing_goes_on_with_what_fits_the_block_limit(conversation: Conversation) -> None:
    both = pair(conversation, limits=Limits(blocks_soft=10, blocks_hard=10))
    assert both.seal(0, bytes(112)).refused is None  # 8 blocks
    assert both.seal(0, bytes(17)).refused == "limit"  # 3 more
    assert both.seal(0, bytes(16)).refused is None  # 2 more
    assert both.seal(0, b"").refused == "limit"


def test_opening_stops_at_the_block_limit(conversation: Conversation) -> None:
    both = pair(conversation, limits=Limits(blocks_soft=10, blocks_hard=10))
    peer = both.peer[0]
    assert both.open(peer.seal(bytes(112))).refused is None
    assert both.open(peer.seal(bytes(17))).refused == "limit"
    assert both.open(peer.seal(bytes(16))).refused is None
    assert both.open(peer.seal(b"")).refused == "limit"
