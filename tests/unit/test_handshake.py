"""The handshake in memory, and everything a peer, a stranger or somebody in between may do to it. None of it makes a
session, raises anything but HandshakeError, or touches a session that is there."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryprq.peer_id import KIND_MLDSA87, PeerId
from cryprq.protocol import handshake, key_schedule
from cryprq.protocol.actions import Install
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import AEAD_AES_256_GCM, AEAD_CHACHA20_POLY1305, FRAME_MAX, KEMS
from cryprq.protocol.frames import CloseCode, FrameType, encode
from cryprq.protocol.handshake import STATUS_ACCEPTED, STATUS_DUPLICATE, HandshakeError, Responder
from cryprq.protocol.identity import Identity, Proof
from cryprq.protocol.kem import SIZES
from cryprq.protocol.key_schedule import EpochKeys
from cryprq.protocol.parameters import Parameters
from cryprq.protocol.session import Role, Session
from cryprq.quic.adapter import QUIC_WINDOW_PENDING
from tests.rigs.handshake_pair import (
    BINDING,
    DIALER,
    LISTENER,
    OTHER_BINDING,
    STRANGER,
    TOLD,
    Pair,
    answer_or_reason,
    anybody,
    nobody,
    refused,
)

pytestmark = pytest.mark.usefixtures("fake_liboqs")

LARGE_DIALER = Identity.from_seed(b"\x01" * 32, KIND_MLDSA87)
LARGE_LISTENER = Identity.from_seed(b"\x02" * 32, KIND_MLDSA87)
HANDSHAKE_FRAMES = (FrameType.INIT, FrameType.RESPONSE, FrameType.AUTH, FrameType.ACCEPT)
PARAMETERS_ROOM = 512
"""For the parameters of a dialer, beyond those that it sends today."""


def start(session: Session, now: float) -> EpochKeys:
    """The keys of the epoch that a new session installs before it does anything else."""
    install = session.start(Boottime(now))[0]
    assert isinstance(install, Install)
    return install.keys


# ---- what works ----


@pytest.mark.parametrize("kem", KEMS)
@pytest.mark.parametrize("offer", [(1,), (2,), (1, 2), (2, 1)])
def test_handshake_makes_two_sessions_that_agree(kem: int, offer: tuple[int, ...]) -> None:
    pair = Pair(kem=kem, offer=offer)
    pair.run()
    ours, theirs = pair.session(), pair.session_r
    assert theirs is not None
    assert (ours.role, theirs.role) == (Role.INITIATOR, Role.RESPONDER)
    assert (ours.peer_id, theirs.peer_id) == (LISTENER.peer_id, DIALER.peer_id)
    assert ours.suite == theirs.suite == offer[0], "the dialer's order decides"
    assert ours.kem == theirs.kem == kem
    keys_i, keys_r = start(ours, 2.0), start(theirs, 1.0)
    assert (keys_i.tx_secrets, keys_i.rx_secrets) == (keys_r.rx_secrets, keys_r.tx_secrets)
    assert (len(keys_i.tx_secrets), len(keys_i.rx_secrets)) == (44, 88), "lanes of each sender"
    assert (keys_i.rx_index, keys_i.tx_index) == (keys_r.tx_index, keys_r.rx_index)
    assert keys_i.tx_secrets != keys_i.rx_secrets[:44]
    assert pair.auth.peer_id == DIALER.peer_id
    assert pair.accepted is not None
    assert pair.accepted.parameters == TOLD


@pytest.mark.parametrize("kem", KEMS)
def test_message_sizes_are_those_of_the_protocol(kem: int) -> None:
    pair = Pair(kem=kem)
    pair.run()
    sizes = SIZES[kem]
    assert [len(message) for message in pair.messages] == [
        4 + 2 + 1 + 32 + 4 + sizes.encapsulation_key + 32 + 32,
        5 + 32 + 4 + sizes.ciphertext + 32 + 1985 + 64 + 3309 + 16,
        1985 + 64 + 3309 + 5 + 16,
        1 + len(TOLD.encode()) + 16,
    ]


@pytest.mark.parametrize("kem", KEMS)
def test_largest_messages_fit_into_a_frame_and_into_the_window_of_a_stranger(kem: int) -> None:
    pair = Pair(kem=kem, dialer=LARGE_DIALER, listener=LARGE_LISTENER, dialled=LARGE_LISTENER.peer_id)
    pair.run()
    sizes = [len(encode(kind, message)) for kind, message in zip(HANDSHAKE_FRAMES, pair.messages, strict=True)]
    assert max(sizes) <= FRAME_MAX
    assert sizes[0] + sizes[2] + PARAMETERS_ROOM <= QUIC_WINDOW_PENDING


@pytest.mark.parametrize(("ours", "theirs", "agreed"), [(300, 120, 120), (60, 120, 60), (None, 120, 120), (5, 120, 5)])
def test_rotate_secs_is_the_smaller_one_at_both_ends(ours: int | None, theirs: int, agreed: int) -> None:
    assert theirs == TOLD.rotate_secs
    pair = Pair(rotate_secs=ours)
    pair.run()
    assert pair.session_r is not None
    assert pair.session().rotate_secs == pair.session_r.rotate_secs == agreed


def test_sessions_of_two_handshakes_share_nothing() -> None:
    seen = set()
    for _ in range(2):
        pair = Pair()
        pair.run()
        keys = start(pair.session(), 2.0)
        seen |= {bytes(keys.tx_secrets), bytes(keys.rx_secrets), *pair.messages}
    assert len(seen) == 2 * 6


def test_duplicate_makes_no_session_at_either_end() -> None:
    pair = Pair()
    pair.responder.receive_message3(pair.run(until=3), anybody)
    answer, session = pair.responder.message4(STATUS_DUPLICATE, Parameters(), Boottime(1.0))
    assert session is None
    accepted = pair.initiator.receive_message4(answer, Boottime(1.0))
    assert accepted.status == STATUS_DUPLICATE
    assert accepted.session is None


def test_secrets_are_gone_when_m4_is_made_or_opened() -> None:
    pair = Pair()
    message = pair.run(until=4)
    hs_i = pair.initiator._hs
    assert hs_i is not None
    assert any(hs_i)
    pair.step(4, message)
    assert not any(hs_i)
    for machine in (pair.initiator, pair.responder):
        assert machine._hs is None
        assert machine._k_i2r is None
    assert pair.initiator._ephemeral is None
    assert pair.initiator._psk is None


def test_abort_wipes_and_ends_at_any_time() -> None:
    for until in range(1, 5):
        pair = Pair()
        message = pair.run(until=until)
        hs = [machine._hs for machine in (pair.initiator, pair.responder) if machine._hs is not None]
        pair.initiator.abort()
        pair.responder.abort()
        assert not any(any(secret) for secret in hs)
        with pytest.raises(HandshakeError) as caught:
            pair.step(until, message)
        assert caught.value.reason == "order"


# ---- every message damaged ----


def flip(message: bytes, bit: int) -> bytes:
    return message[: bit // 8] + bytes((message[bit // 8] ^ 1 << bit % 8,)) + message[bit // 8 + 1 :]


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("share", [i / 12 for i in range(13)])
def test_truncated_or_bit_flipped_message_is_refused(number: int, share: float) -> None:
    for damage in (
        lambda message: message[: int(share * (len(message) - 1))],
        lambda message: flip(message, min(int(share * len(message) * 8), len(message) * 8 - 1)),
    ):
        pair = Pair()
        message = pair.run(until=number)
        refused(pair, number, damage(message))


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("extra", [b"\0", b"\x63\0\0"])
def test_message_with_bytes_after_its_end_is_refused(number: int, extra: bytes) -> None:
    pair = Pair()
    refused(pair, number, pair.run(until=number) + extra)


def test_every_clear_byte_of_m1_and_m2_is_bound() -> None:
    """With the knock made right again by whoever knows the peer ID, M1 is bound by th1: M2 does not open."""
    clear_m2 = 5 + 32 + 4 + SIZES[1].ciphertext + 32
    for at in (*range(0, 47, 3), 600, 1100, 1230, 1258):
        pair = Pair()
        offered = flip(pair.run(until=1)[:-32], at * 8)
        changed = offered + key_schedule.knock(LISTENER.peer_id.digest, BINDING, offered)
        message2 = answer_or_reason(pair, changed)
        if isinstance(message2, str):
            assert message2 in {"version", "malformed", "aead", "kem"}
            continue
        # The KEM's own reaction to a changed ek or point may differ; what counts is that no tag verifies.
        assert refused(pair, 2, message2).reason in {"tag", "aead", "kem", "malformed"}
    for at in (*range(0, 41, 3), 41, 600, clear_m2 - 33, clear_m2 - 1):
        pair = Pair()
        changed = flip(pair.run(until=2), at * 8)
        assert refused(pair, 2, changed).reason in {"tag", "version", "aead", "kem", "malformed"}


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("instead", [1, 2, 3, 4])
def test_message_out_of_its_turn_or_of_another_handshake_is_refused(number: int, instead: int) -> None:
    """Reordered, repeated, or taken from another handshake of the same two nodes."""
    other, pair = Pair(), Pair()
    other.run()
    message = pair.run(until=number)
    if (number, instead) == (1, 1):
        return  # M1 of another handshake is only another M1: see the next test
    wrong = other.messages[instead - 1]
    assert wrong != message
    refused(pair, number, wrong)


def test_replayed_m1_ends_at_m3() -> None:
    """Whoever replays an M1 gets an M2, and cannot answer it."""
    other, pair = Pair(), Pair()
    other.run()
    pair.responder.receive_message1(other.messages[0])
    assert refused(pair, 3, other.messages[2]).reason == "tag"


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_repeated_message_is_refused_and_the_session_stays(number: int) -> None:
    pair = Pair()
    pair.run()
    session = pair.session()
    before = start(session, 2.0).tx_secrets
    with pytest.raises(HandshakeError) as caught:
        pair.step(number, pair.messages[number - 1])
    assert caught.value.reason == "order"
    assert any(before)
    assert session.sending_index is not None
    assert any(session._channel.root)


def test_machines_refuse_calls_out_of_order() -> None:
    calls: list[Callable[[Pair], object]] = [
        lambda pair: pair.initiator.receive_message2(bytes(6535)),
        lambda pair: pair.initiator.receive_message4(bytes(45), Boottime(0.0)),
        lambda pair: pair.responder.receive_message3(bytes(5379), anybody),
        lambda pair: pair.responder.message4(STATUS_ACCEPTED, TOLD, Boottime(0.0)),
    ]
    for call in calls:
        with pytest.raises(HandshakeError) as caught:
            call(Pair())
        assert caught.value.reason == "order"


# ---- who it is ----


def test_wrong_knock_costs_no_post_quantum_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("worked for a stranger")

    pair = Pair(dialled=STRANGER.peer_id)
    message = pair.run(until=1)
    monkeypatch.setattr(handshake, "encapsulate", fail)
    monkeypatch.setattr(Responder, "_parse_message1", fail)
    assert refused(pair, 1, message).reason == "knock"


def test_admission_is_asked_after_the_knock_and_before_the_post_quantum_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> bool:
        asked.append(True)
        return False

    asked: list[bool] = []
    monkeypatch.setattr(handshake, "encapsulate", lambda *_: pytest.fail("worked although there is no time"))
    for dialled, times in ((STRANGER.peer_id, 0), (LISTENER.peer_id, 1)):
        pair = Pair(dialled=dialled)
        with pytest.raises(HandshakeError) as caught:
            pair.responder.receive_message1(pair.run(until=1), full)
        assert caught.value.reason == ("busy" if times else "knock")
        assert len(asked) == times


def test_another_connection_fails_at_the_knock_and_without_it_at_the_tag() -> None:
    """Somebody in between who has a TLS connection with either end and passes the messages on."""
    pair = Pair(binding_i=OTHER_BINDING)
    message = pair.run(until=1)
    assert refused(pair, 1, message).reason == "knock"
    pair = Pair(binding_i=OTHER_BINDING)
    offered = pair.run(until=1)[:-32]
    message2 = pair.step(1, offered + key_schedule.knock(LISTENER.peer_id.digest, BINDING, offered))
    assert refused(pair, 2, message2).reason == "tag"


def test_listener_with_another_identity_is_refused_before_its_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    impostor = Forger(STRANGER, STRANGER, STRANGER)
    impostor.peer_id = LISTENER.peer_id  # it knows the ID that is dialled, and so what the knock has to be
    pair = Pair(listener=impostor)  # type: ignore[arg-type]  # see Forger
    message2 = pair.run(until=2)
    monkeypatch.setattr(Proof, "verify", lambda *_: pytest.fail("a signature was checked"))
    error = refused(pair, 2, message2)
    assert error.reason == "wrong_peer_id"
    assert error.peer_id == STRANGER.peer_id


def test_peer_outside_the_allowlist_is_refused_by_its_proven_id(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(pair := Pair(permits=nobody), 3, pair.run(until=3))
    assert (error.reason, error.peer_id, error.code) == ("not_allowlisted", DIALER.peer_id, CloseCode.REFUSED)


def test_allowlist_is_not_asked_about_an_id_that_is_only_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(permits=lambda peer: pytest.fail("it was asked"))
    message3 = pair.run(until=3)
    monkeypatch.setattr(Proof, "verify", lambda *_: False)
    error = refused(pair, 3, message3)
    assert (error.reason, error.peer_id) == ("signature", DIALER.peer_id)


def test_allowlist_is_asked_about_the_peer_that_signed() -> None:
    asked: list[PeerId] = []

    def permits(peer: PeerId) -> bool:
        asked.append(peer)
        return True

    pair = Pair(permits=permits)
    pair.run()
    assert asked == [DIALER.peer_id]


def test_own_peer_id_is_refused_by_both_ends() -> None:
    with pytest.raises(HandshakeError) as caught:
        Pair(dialled=DIALER.peer_id)
    assert caught.value.reason == "own_peer_id"
    twin = Identity.from_seed(b"\x02" * 32)
    pair = Pair(dialled=STRANGER.peer_id, dialer=twin)
    pair.initiator._peer_id = LISTENER.peer_id
    assert refused(pair, 3, pair.run(until=3)).reason == "own_peer_id"


class Forger:
    """An identity that claims a record and signs with keys of its own choice: what a handshake needs of an identity,
    though an ``Identity`` cannot be made like that."""

    def __init__(self, claimed: Identity, ed25519: Identity, mldsa65: Identity) -> None:
        self.record = claimed.record
        self.peer_id = claimed.peer_id
        self._signers = ed25519, mldsa65

    def sign(self, message: bytes) -> tuple[bytes, bytes]:
        ed25519, mldsa65 = self._signers
        return ed25519.sign(message)[0], mldsa65.sign(message)[1]


@pytest.mark.parametrize("broken", ["ed25519", "mldsa65", "both"])
def test_each_signature_broken_alone_is_refused(broken: str) -> None:
    def forger(claimed: Identity) -> Forger:
        return Forger(
            claimed,
            claimed if broken == "mldsa65" else STRANGER,
            claimed if broken == "ed25519" else STRANGER,
        )

    pair = Pair(listener=forger(LISTENER))  # type: ignore[arg-type]
    assert refused(pair, 2, pair.run(until=2)).reason == "signature"
    pair = Pair(dialer=forger(DIALER))  # type: ignore[arg-type]
    error = refused(pair, 3, pair.run(until=3))
    assert error.reason == "signature"
    assert error.peer_id == DIALER.peer_id


class Parrot(Forger):
    """Replays signatures that the claimed identity made over another message."""

    def __init__(self, claimed: Identity, said: bytes) -> None:
        super().__init__(claimed, claimed, claimed)
        self._said = said

    def sign(self, message: bytes) -> tuple[bytes, bytes]:
        return super().sign(self._said)


@pytest.mark.parametrize("said", [b"", key_schedule.responder_statement(bytes(32), DIALER.record)])
def test_signatures_of_another_handshake_are_refused(said: bytes) -> None:
    pair = Pair(dialer=Parrot(DIALER, said))  # type: ignore[arg-type]
    assert refused(pair, 3, pair.run(until=3)).reason == "signature"


def test_statement_of_the_other_role_is_no_signature() -> None:
    """Reflection: what a node signs as a listener says nothing about it as a dialer."""
    th, record = bytes(32), DIALER.record
    assert key_schedule.responder_statement(th, record) != key_schedule.initiator_statement(th, record)
    assert key_schedule.responder_statement(th, record).startswith(b"cryprq v2 responder\x00")
    assert key_schedule.initiator_statement(th, record).startswith(b"cryprq v2 initiator\x00")


# ---- what is offered ----


def offered(pair: Pair, change: Callable[[bytearray], None]) -> bytes:
    """M1 with a change and a knock that fits it: a hostile dialer, or a listener's enemy who knows the peer ID."""
    body = bytearray(pair.run(until=1)[:-32])
    change(body)
    return bytes(body) + key_schedule.knock(LISTENER.peer_id.digest, BINDING, bytes(body))


def put(at: int, value: bytes) -> Callable[[bytearray], None]:
    def change(body: bytearray) -> None:
        body[at : at + len(value)] = value

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (put(0, b"\x00"), "version"),
        (put(0, b"\x01"), "version"),
        (put(0, b"\x03"), "version"),
        (put(1, b"\x01"), "malformed"),
        (put(2, b"\x00"), "malformed"),
        (put(2, b"\x41"), "malformed"),
        (put(3, b"\x00"), "aead"),
        (put(4, b"\x03\x09"), "aead"),
        (put(6, b"\x00"), "kem"),
        (put(6, b"\x02"), "malformed"),
        (put(6, b"\x03"), "malformed"),
        (put(6, b"\x04"), "kem"),
        (put(39, bytes(4)), "malformed"),
        (put(43, b"\xff\xff\xff"), "kem"),
        (put(43 + 1184, bytes(32)), "kem"),
        (lambda body: body.append(0), "malformed"),
        (lambda body: body.pop(), "malformed"),
        (lambda body: body.clear(), "malformed"),
        (lambda body: body.__delitem__(slice(1, None)), "malformed"),
    ],
)
def test_offer_that_cannot_be_is_refused(change: Callable[[bytearray], None], reason: str) -> None:
    pair = Pair()
    assert refused(pair, 1, offered(pair, change)).reason == reason


def test_unknown_offers_are_passed_over() -> None:
    pair = Pair()
    message2 = pair.step(1, offered(pair, put(4, b"\x09\x02")))
    assert message2[3] == AEAD_CHACHA20_POLY1305


def test_downgraded_offer_breaks_the_handshake() -> None:
    """AES is struck from the offer on the way: R takes ChaCha20, I's th1 is another one."""
    pair = Pair()
    message2 = pair.step(1, offered(pair, put(4, b"\x02\x02")))
    assert message2[3] == AEAD_CHACHA20_POLY1305
    assert refused(pair, 2, message2).reason == "tag"


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, 1, "version"),
        (0, 3, "version"),
        (1, 1, "malformed"),
        (2, 0, "malformed"),
        (2, 65, "malformed"),
        (3, 2, "aead"),
        (3, 0, "aead"),
        (4, 2, "kem"),
    ],
)
def test_choice_outside_the_offer_is_refused(at: int, value: int, reason: str) -> None:
    pair = Pair(offer=(AEAD_AES_256_GCM,))
    message = bytearray(pair.run(until=2))
    message[at] = value
    assert refused(pair, 2, bytes(message)).reason == reason


def test_m2_with_index_zero_or_an_all_zero_point_is_refused() -> None:
    for at, value, reason in ((37, bytes(4), "malformed"), (41 + SIZES[1].ciphertext, bytes(32), "kem")):
        pair = Pair()
        message = bytearray(pair.run(until=2))
        message[at : at + len(value)] = value
        assert refused(pair, 2, bytes(message)).reason == reason


def test_cipher_that_the_listener_does_not_accept_is_refused() -> None:
    pair = Pair(offer=(AEAD_AES_256_GCM,), accepts=(AEAD_CHACHA20_POLY1305,))
    assert refused(pair, 1, pair.run(until=1)).reason == "aead"


# ---- the version ----


def test_fallback_although_both_ends_speak_a_later_version_is_refused_by_either(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two nodes of version 3 whose handshakes in it somebody makes fail: each sees the other's maximum."""
    monkeypatch.setattr(handshake, "VERSION_MAX", 3)
    pair = Pair()
    assert refused(pair, 1, pair.run(until=1)).reason == "downgrade"
    pair = Pair()
    message1 = pair.run(until=1)
    monkeypatch.setattr(
        handshake, "VERSION_MAX", 2
    )  # a listener that lies about itself, or lets itself be talked into it
    message2 = bytearray(pair.step(1, message1))
    message2[1] = 3
    monkeypatch.setattr(handshake, "VERSION_MAX", 3)
    assert refused(pair, 2, bytes(message2)).reason == "downgrade"


def test_fallback_is_right_if_only_one_end_speaks_a_later_version(monkeypatch: pytest.MonkeyPatch) -> None:
    for later in ("initiator", "responder"):
        pair = Pair()
        message = b""
        for number in range(5):
            turn = "initiator" if number in (0, 2, 4) else "responder"
            monkeypatch.setattr(handshake, "VERSION_MAX", 3 if turn == later else 2)
            message = pair.step(number, message) if number else pair.initiator.message1()
        assert pair.accepted is not None
        assert pair.accepted.session is not None


def test_maximum_that_was_changed_on_the_way_breaks_the_handshake() -> None:
    """Somebody hides from the listener that the dialer speaks more; the knock is made right again."""
    pair = Pair()
    message2 = pair.step(1, offered(pair, put(1, b"\x03")))
    assert refused(pair, 2, message2).reason == "tag"


# ---- kinds of identity ----


@pytest.mark.parametrize(("dialer", "listener"), [(1, 2), (2, 1), (2, 2)])
def test_identities_of_either_kind_understand_each_other(dialer: int, listener: int) -> None:
    dials, listens = LARGE_DIALER if dialer == 2 else DIALER, LARGE_LISTENER if listener == 2 else LISTENER
    pair = Pair(dialer=dials, listener=listens, dialled=listens.peer_id)
    pair.run()
    assert pair.accepted is not None
    assert (pair.accepted.kind.number, pair.auth.kind.number) == (listener, dialer)
    assert (pair.session().peer_id, pair.auth.peer_id) == (listens.peer_id, dials.peer_id)


@pytest.mark.parametrize("kind", [0, 2, 3, 255])
def test_record_of_another_kind_than_it_says_is_refused(kind: int) -> None:
    """Signed over as it is sent: only its form is wrong, or the ID that it makes is another one."""

    def changed(identity: Identity) -> Forger:
        forger = Forger(identity, identity, identity)
        forger.record = bytes((kind,)) + forger.record[1:]
        return forger

    pair = Pair(listener=changed(LISTENER))  # type: ignore[arg-type]
    assert refused(pair, 2, pair.run(until=2)).reason == "malformed"
    pair = Pair(dialer=changed(DIALER))  # type: ignore[arg-type]
    assert refused(pair, 3, pair.run(until=3)).reason == "malformed"


# ---- the pre-shared key ----

PSK = bytes(range(32))


def test_pre_shared_key_changes_every_key_of_the_session() -> None:
    keys = []
    for psk in (None, PSK):
        pair = Pair(psk_i=psk, psk_r=psk)
        pair.run()
        assert pair.session_r is not None
        ours, theirs = start(pair.session(), 2.0), start(pair.session_r, 1.0)
        assert (ours.tx_secrets, ours.rx_secrets) == (theirs.rx_secrets, theirs.tx_secrets)
        keys.append(ours)
    hs, th3 = bytes(32), bytes(32)
    roots = {bytes(key_schedule.first_root(hs, psk, th3)) for psk in (None, PSK, bytes(32))}
    assert len(roots) == 2, "zeros are no key"


@pytest.mark.parametrize(("ours", "theirs"), [(PSK, None), (None, PSK), (PSK, bytes(31) + b"\1")])
def test_different_pre_shared_keys_end_at_m4(ours: bytes | None, theirs: bytes | None) -> None:
    pair = Pair(psk_i=ours, psk_r=theirs)
    error = refused(pair, 4, pair.run(until=4))
    assert (error.reason, error.peer_id, error.code) == ("psk", LISTENER.peer_id, CloseCode.PSK)


def test_pre_shared_key_stays_the_callers() -> None:
    psk = bytearray(PSK)
    pair = Pair(psk_i=psk, psk_r=psk)  # type: ignore[arg-type]
    pair.run()
    assert psk == PSK
    assert pair.initiator._psk is None


# ---- what an authenticated peer may still get wrong ----


class Babbler(Parameters):
    """Parameters that encode to given bytes."""

    raw = b""

    def encode(self) -> bytes:
        return self.raw


@pytest.mark.parametrize("raw", [b"", b"\x04\x00\x02\x00\x04", b"\x04", b"\x03\x00\x02\x05\x00", b"\x04\0\2\0\x3c" * 2])
def test_bad_parameters_of_a_peer_are_refused_by_both_ends(raw: bytes) -> None:
    babbler = type("Raw", (Babbler,), {"raw": raw})(rotate_secs=60)
    pair = Pair()
    pair.initiator._parameters = babbler
    error = refused(pair, 3, pair.run(until=3))
    assert (error.reason, error.peer_id) == ("parameters", DIALER.peer_id)
    pair = Pair()
    pair.responder.receive_message3(pair.run(until=3), anybody)
    message4, _ = pair.responder.message4(STATUS_ACCEPTED, babbler, Boottime(1.0))
    error = refused(pair, 4, message4)
    assert (error.reason, error.peer_id) == ("parameters", LISTENER.peer_id)


@pytest.mark.parametrize("text", [b"", b"\x02\x04\0\2\0\x3c"])
def test_m4_without_a_known_status_is_refused(text: bytes) -> None:
    pair = Pair()
    pair.responder.receive_message3(pair.run(until=3), anybody)
    assert pair.responder._hs is not None
    key = key_schedule.accept_key(key_schedule.first_root(pair.responder._hs, None, pair.responder._transcript))
    assert refused(pair, 4, key_schedule.seal_once(key, pair.responder._transcript, text)).reason == "malformed"


# ---- anything at all ----


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([1, 2, 3, 4]), st.binary(max_size=400))
def test_any_bytes_raise_only_handshake_errors(number: int, data: bytes) -> None:
    pair = Pair()
    pair.run(until=number)
    refused(pair, number, data)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=1400), st.integers(0, 1300))
def test_any_offer_with_a_right_knock_raises_only_handshake_errors(data: bytes, keep: int) -> None:
    pair = Pair()
    body = (pair.run(until=1)[:-32][:keep] + data)[:1400]
    answer_or_reason(pair, body + key_schedule.knock(LISTENER.peer_id.digest, BINDING, body))


# ---- misuse by our own code ----


@pytest.mark.parametrize("change", [{"kem": 4}, {"offer": ()}, {"offer": (7,)}, {"binding_i": b"short"}])
def test_bad_arguments_are_value_errors(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Pair(**change)


def test_bad_m4_arguments_are_value_errors() -> None:
    pair = Pair()
    pair.responder.receive_message3(pair.run(until=3), anybody)
    with pytest.raises(ValueError):
        pair.responder.message4(2, TOLD, Boottime(1.0))
    with pytest.raises(ValueError):
        pair.responder.message4(STATUS_ACCEPTED, replace(TOLD, mtu=1), Boottime(1.0))


# ---- what the parameters of both ends make of the session ----


def agreed(dialer: Parameters, listener: Parameters, lanes: tuple[int, int] = (1, 1)) -> tuple[int, int, int]:
    """The interval of rotations, and the lanes of dialer and listener, where both know the same."""
    indices = iter(range(1, 9))
    initiator = handshake.Initiator(
        DIALER,
        LISTENER.peer_id,
        BINDING,
        lanes=lanes[0],
        aead_offer=(1,),
        kem=KEMS[0],
        new_index=lambda: next(indices),
        parameters=dialer,
    )
    responder = Responder(LISTENER, BINDING, lanes=lanes[1], aead_preference=(1,), new_index=lambda: next(indices))
    responder.receive_message3(
        initiator.receive_message2(responder.receive_message1(initiator.message1())), lambda _: True
    )
    message4, theirs = responder.message4(STATUS_ACCEPTED, listener, Boottime(1.0))
    ours = initiator.receive_message4(message4, Boottime(1.0)).session
    assert ours is not None
    assert theirs is not None
    assert ours.rotate_secs == theirs.rotate_secs
    keys_i, keys_r = start(ours, 1.0), start(theirs, 1.0)
    assert (keys_i.tx_secrets, keys_i.rx_secrets) == (keys_r.rx_secrets, keys_r.tx_secrets)
    return ours.rotate_secs, len(keys_i.tx_secrets) // 44, len(keys_r.tx_secrets) // 44


@pytest.mark.parametrize(
    ("dialer", "listener", "expected"),
    [
        ((300, None), (120, None), 120),
        ((5, 5), (300, 60), 60),
        ((300, 100), (5, 5), 100),
        ((5, 5), (300, 5), 5),
        ((200, 5), (300, 60), 200),
        ((5, None), (300, 60), 5),  # an older dialer knows of no floor, so both go without
        ((5, 5), (300, None), 5),
    ],
)
def test_interval_of_rotations_is_the_smaller_one_and_no_less_than_either_floor(
    dialer: tuple[int, int | None], listener: tuple[int, int | None], expected: int
) -> None:
    ours, theirs = (Parameters(rotate_secs=secs, rotate_floor=floor) for secs, floor in (dialer, listener))
    assert agreed(ours, theirs)[0] == expected


@pytest.mark.parametrize(
    ("lanes", "takes", "expected"),
    [
        ((64, 1), (8, 8), (8, 1)),
        ((1, 64), (8, 8), (1, 8)),
        ((4, 2), (8, 8), (4, 2)),
        ((64, 64), (64, 64), (64, 64)),
        ((16, 9), (None, None), (16, 9)),  # of an older version, at both ends
        ((8, 8), (None, 8), (8, 8)),
        ((8, 8), (8, None), (8, 8)),
    ],
)
def test_nobody_sends_on_more_lanes_than_the_other_end_takes(
    lanes: tuple[int, int], takes: tuple[int | None, int | None], expected: tuple[int, int]
) -> None:
    assert agreed(Parameters(lanes=takes[0]), Parameters(lanes=takes[1]), lanes)[1:] == expected


@pytest.mark.parametrize(("lanes", "takes"), [((9, 1), (None, 8)), ((1, 9), (8, None))])
def test_older_peer_with_more_lanes_than_this_end_takes_is_refused(
    lanes: tuple[int, int], takes: tuple[int | None, int | None]
) -> None:
    """It would send on all of them; and who leaves the parameter out gets no more than who does not."""
    with pytest.raises(HandshakeError) as caught:
        agreed(Parameters(lanes=takes[0]), Parameters(lanes=takes[1]), lanes)
    assert caught.value.reason == "lanes"
