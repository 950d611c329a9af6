"""Invitations: the token, the proof in M3, and all that is not taken for one."""

import hashlib
import hmac
import random
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from cryprq import base58
from cryprq.multiaddr import Multiaddr
from cryprq.peer_id import PeerId
from cryprq.protocol.frames import CloseCode, Cursor, FrameError
from cryprq.protocol.handshake import HandshakeError
from cryprq.protocol.invitation import ADDRESSES_MAX, PREFIX, TEXT_MAX, Keys, Proof, Token
from cryprq.protocol.parameters import Parameters
from tests.rigs.handshake_pair import DIALER, LISTENER, STRANGER, Pair, nobody, refused

SECRET = bytes(range(16))
KEYS = Keys.of(SECRET, LISTENER.peer_id)
TH2 = hashlib.sha256(b"a handshake").digest()
ADDRESSES = tuple(
    map(
        Multiaddr.parse,
        (
            "/ip4/203.0.113.7/udp/9999/quic-v1",
            "/ip6/2001:db8::7/udp/1/quic-v1",
            "/dns/gateway.example.org/udp/65535/quic-v1",
            "/dns4/" + ".".join(["a" * 63] * 3 + ["b" * 61]) + "/udp/9999/quic-v1",
        ),
    )
)
TOKEN = Token(LISTENER.peer_id, ADDRESSES, SECRET)


def known(invitation: bytes) -> bytes | None:
    """The listener's table of one invitation."""
    return KEYS.key if invitation == KEYS.invitation else None


# ---- the token ----


def test_a_token_says_what_it_was_made_of() -> None:
    assert Token.parse(TOKEN.spell()) == TOKEN
    assert Token.parse(f"  {TOKEN.spell()}\n") == TOKEN


def test_a_usual_token_is_one_word_that_fits_a_line_and_a_half() -> None:
    text = Token(LISTENER.peer_id, ADDRESSES[:1], SECRET).spell()
    assert text.isalnum()
    assert text.isascii()
    assert len(text) < 100


def test_the_longest_token_is_read() -> None:
    token = replace(TOKEN, addresses=(ADDRESSES[-1],) * ADDRESSES_MAX)
    assert len(token.spell()) <= TEXT_MAX
    assert Token.parse(token.spell()) == token


def test_tokens_are_made_with_new_secrets_and_without_ids_in_their_addresses() -> None:
    address = replace(ADDRESSES[0], peer_id=LISTENER.peer_id)
    one, other = Token.make(LISTENER.peer_id, [address]), Token.make(LISTENER.peer_id, [address])
    assert one.addresses == ADDRESSES[:1]
    assert one.secret != other.secret
    assert len(one.secret) == 16


@pytest.mark.parametrize("count", [0, ADDRESSES_MAX + 1])
def test_a_token_has_one_to_four_addresses(count: int) -> None:
    with pytest.raises(ValueError, match="1 to 4 addresses"):
        Token.make(LISTENER.peer_id, ADDRESSES[:1] * count)


def test_each_mistake_of_one_character_is_noticed() -> None:
    text = Token(LISTENER.peer_id, ADDRESSES[:1], SECRET).spell()
    for at in range(len(PREFIX), len(text)):
        wrong = text[:at] + ("2" if text[at] != "2" else "3") + text[at + 1 :]
        with pytest.raises(ValueError, match="damaged"):
            Token.parse(wrong)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no invitation"),
        ("/ip4/203.0.113.7/udp/9999/quic-v1", "no invitation"),
        (str(LISTENER.peer_id), "no invitation"),
        (PREFIX, "damaged"),
        (PREFIX + "0OIl", "damaged"),
        (PREFIX + "z" * TEXT_MAX, "damaged"),
        (TOKEN.spell()[:-1], "damaged"),
        (TOKEN.spell() * 2, "damaged"),
    ],
)
def test_what_is_no_token_gets_one_line_that_does_not_show_it(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        Token.parse(text)
    assert "\n" not in str(caught.value)
    assert len(text) < 20 or text not in str(caught.value)


def spelled(body: bytes) -> str:
    """A token with a right checksum, whatever is in it."""
    check = hashlib.sha256(b"cryprq v2 invitation check" + body).digest()[:4]
    return PREFIX + base58.spell(int.from_bytes(body + check, "big"))


HEAD = b"\x01" + LISTENER.peer_id.digest + SECRET


@pytest.mark.parametrize(
    ("body", "says"),
    [
        (b"\x02" + HEAD[1:], "newer CrypRQ"),
        (b"\x01", "ask for another"),
        (HEAD[:-1], "ask for another"),
        (HEAD, "nowhere to dial"),
        (HEAD + b"\x00\x27\x0f\xcb\x00\x71", "ask for another"),
        (HEAD + b"\x05\x27\x0f\xcb\x00\x71\x07", "ask for another"),
        (HEAD + b"\x02\x27\x0f\x03a b", "bad multiaddr"),
        (HEAD + b"\x02\x27\x0f\x02\xff\xff", "bad multiaddr"),
        (HEAD + b"\x00\x27\x0f\xcb\x00\x71\x07" * 5, "nowhere to dial"),
    ],
)
def test_a_token_of_somebody_who_can_count_is_refused_in_one_line(body: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        Token.parse(spelled(body))
    assert "\n" not in str(caught.value)


def test_noise_is_a_value_error_and_nothing_else() -> None:
    source = random.Random(1)
    for _ in range(300):
        with pytest.raises(ValueError):
            Token.parse(spelled(b"\x01" + source.randbytes(source.randrange(120))))


def test_secrets_are_in_no_repr() -> None:
    for shown in (repr(TOKEN), repr(KEYS)):
        assert repr(SECRET)[2:-1] not in shown
        assert repr(KEYS.key)[2:-1] not in shown
        assert "secret" not in shown
        assert "key=" not in shown


# ---- the proof ----


def test_id_key_and_mac_are_those_of_the_protocol() -> None:
    """By another implementation of HKDF and HMAC."""

    def derive(info: bytes, size: int) -> bytes:
        return HKDF(hashes.SHA256(), size, salt=LISTENER.peer_id.digest, info=info).derive(SECRET)

    assert KEYS.invitation == derive(b"cryprq v2 invitation id", 8)
    assert KEYS.key == derive(b"cryprq v2 invitation key", 32)
    proof = KEYS.prove(TH2, DIALER.peer_id)
    assert proof.mac == hmac.new(KEYS.key, TH2 + DIALER.peer_id.digest, hashlib.sha256).digest()
    assert proof.encode() == KEYS.invitation + proof.mac


def test_a_proof_is_for_one_handshake_one_dialer_and_one_listener() -> None:
    proof = KEYS.prove(TH2, DIALER.peer_id)
    assert proof.verify(KEYS.key, TH2, DIALER.peer_id)
    assert not proof.verify(KEYS.key, bytes(32), DIALER.peer_id)
    assert not proof.verify(KEYS.key, TH2, STRANGER.peer_id)
    assert not proof.verify(Keys.of(SECRET, STRANGER.peer_id).key, TH2, DIALER.peer_id)


@pytest.mark.parametrize("size", [0, 8, 39, 41, 256])
def test_a_proof_has_one_size(size: int) -> None:
    with pytest.raises(FrameError):
        Proof.take(Cursor(bytes(size)))
    with pytest.raises(FrameError):
        Parameters.decode(b"\x0d" + size.to_bytes(2, "big") + bytes(size))


def test_the_parameter_is_read_as_it_was_written() -> None:
    parameters = Parameters(rotate_secs=300, invitation=KEYS.prove(TH2, DIALER.peer_id))
    assert Parameters.decode(parameters.encode()) == parameters


# ---- in the handshake ----


def test_an_invited_stranger_is_told_apart_from_a_peer() -> None:
    invited = Pair(permits=nobody, invitation=KEYS, invitation_key=known)
    invited.run()
    assert invited.auth.invited_by == KEYS.invitation
    assert invited.auth.peer_id == DIALER.peer_id
    assert invited.session()


def test_who_is_a_peer_already_uses_up_no_invitation() -> None:
    asked: list[bytes] = []

    def note(invitation: bytes) -> bytes | None:
        asked.append(invitation)
        return None

    pair = Pair(invitation=KEYS, invitation_key=note)
    pair.run()
    assert pair.auth.invited_by is None
    assert not asked


def test_a_listener_that_knows_of_no_invitations_takes_none() -> None:
    pair = Pair(permits=nobody, invitation=KEYS)
    assert refused(pair, 3, pair.run(until=3)).reason == "invitation"


@pytest.mark.parametrize(
    "keys",
    [
        Keys.of(bytes(16), LISTENER.peer_id),
        Keys.of(SECRET, STRANGER.peer_id),
        replace(KEYS, key=bytes(32)),
        replace(KEYS, invitation=bytes(8)),
    ],
    ids=["another secret", "another listener", "another key", "another ID"],
)
def test_what_does_not_prove_the_secret_is_refused_as_every_stranger_is(keys: Keys) -> None:
    pair = Pair(permits=nobody, invitation=keys, invitation_key=known)
    error = refused(pair, 3, pair.run(until=3))
    assert (error.reason, error.code, error.peer_id) == ("invitation", CloseCode.REFUSED, DIALER.peer_id)


def test_a_proof_of_another_handshake_does_not_help() -> None:
    """Who has seen the inside of an M3 (at the listener, say) cannot use its proof in a handshake of his own."""
    first = Pair(permits=nobody, invitation=KEYS, invitation_key=known)
    first.run()
    seen = first.auth.parameters.invitation
    assert seen is not None
    stolen: Proof = seen

    class Replayed(Keys):
        def prove(self, th2: bytes, initiator: PeerId) -> Proof:
            return stolen

    again = Pair(permits=nobody, invitation=Replayed(KEYS.invitation, KEYS.key), invitation_key=known)
    assert refused(again, 3, again.run(until=3)).reason == "invitation"


def test_a_stranger_without_one_is_refused_before_its_parameters_count() -> None:
    pair = Pair(permits=nobody, invitation_key=known)
    with pytest.raises(HandshakeError) as caught:
        pair.step(3, pair.run(until=3))
    assert caught.value.reason == "not_allowlisted"
