"""The handshake in memory, and everything a peer, a stranger or somebody in between may do to it. None of it makes a
session, raises anything but HandshakeError, or touches a session that is there."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cryprq.peer_id import PeerId
from cryprq.protocol import handshake, key_schedule
from cryprq.protocol.actions import Install
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import AEAD_AES_256_GCM, AEAD_CHACHA20_POLY1305, KEMS
from cryprq.protocol.frames import CloseCode
from cryprq.protocol.handshake import STATUS_ACCEPTED, STATUS_DUPLICATE, HandshakeError, Responder
from cryprq.protocol.identity import Identity
from cryprq.protocol.kem import SIZES
from cryprq.protocol.key_schedule import EpochKeys
from cryprq.protocol.parameters import Parameters
from cryprq.protocol.session import Role, Session
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
        3 + 2 + 1 + 32 + 4 + sizes.encapsulation_key + 32 + 32,
        4 + 32 + 4 + sizes.ciphertext + 32 + 1984 + 64 + 3309 + 16,
        1984 + 64 + 3309 + 5 + 16,
        1 + len(TOLD.encode()) + 16,
    ]


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
    clear_m2 = 4 + 32 + 4 + SIZES[1].ciphertext + 32
    for at in (*range(0, 46, 3), 600, 1100, 1229, 1257):
        pair = Pair()
        offered = flip(pair.run(until=1)[:-32], at * 8)
        changed = offered + key_schedule.knock(LISTENER.peer_id.digest, BINDING, offered)
        message2 = answer_or_reason(pair, changed)
        if isinstance(message2, str):
            assert message2 in {"version", "malformed", "aead", "kem"}
            continue
        # The KEM's own reaction to a changed ek or point may differ; what counts is that no tag verifies.
        assert refused(pair, 2, message2).reason in {"tag", "aead", "kem", "malformed"}
    for at in (*range(0, 40, 3), 40, 600, clear_m2 - 33, clear_m2 - 1):
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
        lambda pair: pair.initiator.receive_message2(bytes(6533)),
        lambda pair: pair.initiator.receive_message4(bytes(45), Boottime(0.0)),
        lambda pair: pair.responder.receive_message3(bytes(5378), anybody),
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


def test_another_certificate_fails_at_the_knock_and_without_it_at_the_tag() -> None:
    """Somebody in between who shows a certificate of its own and passes the messages on."""
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
    monkeypatch.setattr(handshake, "verify_record", lambda *_: pytest.fail("a signature was checked"))
    error = refused(pair, 2, message2)
    assert error.reason == "wrong_peer_id"
    assert error.peer_id == STRANGER.peer_id


def test_peer_outside_the_allowlist_is_refused_by_its_proven_id(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refused(pair := Pair(permits=nobody), 3, pair.run(until=3))
    assert (error.reason, error.peer_id, error.code) == ("not_allowlisted", DIALER.peer_id, CloseCode.REFUSED)


def test_allowlist_is_not_asked_about_an_id_that_is_only_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Pair(permits=lambda peer: pytest.fail("it was asked"))
    message3 = pair.run(until=3)
    monkeypatch.setattr(handshake, "verify_record", lambda *_: False)
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
    assert key_schedule.responder_statement(th, record).startswith(b"cryprq v1 responder\x00")
    assert key_schedule.initiator_statement(th, record).startswith(b"cryprq v1 initiator\x00")


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
        (put(0, b"\x02"), "version"),
        (put(1, b"\x00"), "malformed"),
        (put(1, b"\x41"), "malformed"),
        (put(2, b"\x00"), "aead"),
        (put(3, b"\x03\x09"), "aead"),
        (put(5, b"\x00"), "kem"),
        (put(5, b"\x02"), "malformed"),
        (put(5, b"\x03"), "kem"),
        (put(38, bytes(4)), "malformed"),
        (put(42, b"\xff\xff\xff"), "kem"),
        (put(42 + 1184, bytes(32)), "kem"),
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
    message2 = pair.step(1, offered(pair, put(3, b"\x09\x02")))
    assert message2[2] == AEAD_CHACHA20_POLY1305


def test_downgraded_offer_breaks_the_handshake() -> None:
    """AES is struck from the offer on the way: R takes ChaCha20, I's th1 is another one."""
    pair = Pair()
    message2 = pair.step(1, offered(pair, put(3, b"\x02\x02")))
    assert message2[2] == AEAD_CHACHA20_POLY1305
    assert refused(pair, 2, message2).reason == "tag"


@pytest.mark.parametrize(
    ("at", "value", "reason"),
    [
        (0, 2, "version"),
        (1, 0, "malformed"),
        (1, 65, "malformed"),
        (2, 2, "aead"),
        (2, 0, "aead"),
        (3, 2, "kem"),
    ],
)
def test_choice_outside_the_offer_is_refused(at: int, value: int, reason: str) -> None:
    pair = Pair(offer=(AEAD_AES_256_GCM,))
    message = bytearray(pair.run(until=2))
    message[at] = value
    assert refused(pair, 2, bytes(message)).reason == reason


def test_m2_with_index_zero_or_an_all_zero_point_is_refused() -> None:
    for at, value, reason in ((36, bytes(4), "malformed"), (40 + SIZES[1].ciphertext, bytes(32), "kem")):
        pair = Pair()
        message = bytearray(pair.run(until=2))
        message[at : at + len(value)] = value
        assert refused(pair, 2, bytes(message)).reason == reason


def test_cipher_that_the_listener_does_not_accept_is_refused() -> None:
    pair = Pair(offer=(AEAD_AES_256_GCM,), accepts=(AEAD_CHACHA20_POLY1305,))
    assert refused(pair, 1, pair.run(until=1)).reason == "aead"


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
    key = key_schedule.accept_key(key_schedule.first_root(pair.responder._hs, pair.responder._transcript))
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


@pytest.mark.parametrize("change", [{"kem": 3}, {"offer": ()}, {"offer": (7,)}, {"binding_i": b"short"}])
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
