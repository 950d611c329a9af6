"""Our ML-KEM and ML-DSA, which are OpenSSL's, against those of liboqs: they take and refuse the same things. And the
KEM that is liboqs' own, in a whole agreement, handshake and rotation, with everything that a peer may get wrong."""

import secrets
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from cryprq.peer_id import ED25519_PUBLIC_SIZE, MLDSA_PUBLIC_SIZES
from cryprq.protocol import kem as agreement
from cryprq.protocol.actions import SendFrame
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import (
    KEM_X25519_MLKEM768,
    KEM_X25519_MLKEM768_FRODOKEM976,
    KEM_X25519_MLKEM1024,
    KEMS,
    SIGNATURE_CONTEXT,
)
from cryprq.protocol.frames import FrameReader
from cryprq.protocol.identity import KINDS, SEED_SIZE, Identity, verify_record
from cryprq.protocol.kem import SIZES, Ephemeral, KemError, encapsulate
from cryprq.protocol.liboqs import LiboqsMissing
from cryprq.protocol.oqs_kem import FRODOKEM_976_AES, OqsError
from lab import ROOT
from tests.rigs import liboqs
from tests.rigs.handshake_pair import Pair, refused

try:
    oqs = liboqs.load()
except LiboqsMissing as missing:
    pytest.skip(str(missing), allow_module_level=True)

NAMES = {KEM_X25519_MLKEM768: "ML-KEM-768", KEM_X25519_MLKEM1024: "ML-KEM-1024"}
THIRD = KEM_X25519_MLKEM768_FRODOKEM976
SIGNATURES = {kind: oqs.Signature(KINDS[kind].signature.upper()) for kind in KINDS}
OTHER = Ephemeral.from_seeds(KEM_X25519_MLKEM768, bytes(64), bytes((7,)) * 32).x25519
"""An X25519 public key, for the half of the hybrid that is not compared."""
ED25519 = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
Q = 3329

cases = settings(max_examples=50)
kems = st.sampled_from(sorted(NAMES))
seeds = st.binary(min_size=64, max_size=64)
messages = st.binary(max_size=2000)
each_kem = pytest.mark.parametrize("kem", NAMES)
each_kind = pytest.mark.parametrize("kind", KINDS)
kinds = st.sampled_from(sorted(KINDS))


def flipped(data: bytes, bit: int) -> bytes:
    """``data`` with one bit the other way round."""
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def resized(data: bytes) -> tuple[bytes, bytes, bytes]:
    """``data``, too short and too long."""
    return b"", data[:-1], data + b"\0"


def with_coefficient(ek: bytes, index: int, value: int) -> bytes:
    """An encapsulation key in which one coefficient of 12 bits has another value (FIPS 203, algorithm 5)."""
    start = 3 * (index // 2)
    shift = 12 * (index % 2)
    pair = int.from_bytes(ek[start : start + 3], "little") & ~(0xFFF << shift) | value << shift
    return ek[:start] + pair.to_bytes(3, "little") + ek[start + 3 :]


def decapsulated(kem: int, seed: bytes, ciphertext: bytes) -> bytes:
    """What we make of a ciphertext for the key of ``seed``."""
    return bytes(Ephemeral.from_seeds(kem, seed, bytes(32)).agree(ciphertext, OTHER)[:32])


class Theirs:
    """liboqs' side of one KEM, with the key of FIPS 203's seed d || z."""

    def __init__(self, kem: int, seed: bytes) -> None:
        self.kem = oqs.KeyEncapsulation(NAMES[kem])
        self.ek: bytes = self.kem.generate_keypair_seed(seed)

    def encapsulated(self, ek: bytes) -> tuple[bytes, bytes] | None:
        """Ciphertext and secret, or None for a key that liboqs refuses."""
        try:
            ciphertext, secret = self.kem.encap_secret(ek)
        except RuntimeError:
            return None
        return ciphertext, secret

    def decapsulated(self, ciphertext: bytes) -> bytes:
        secret: bytes = self.kem.decap_secret(ciphertext)
        return secret


def test_every_kem_is_compared_or_is_of_liboqs() -> None:
    assert {*NAMES, THIRD} == set(KEMS)


@each_kem
def test_kem_sizes_are_the_same(kem: int) -> None:
    details = oqs.KeyEncapsulation(NAMES[kem]).details
    assert details["length_public_key"] == SIZES[kem].encapsulation_key
    assert details["length_ciphertext"] == SIZES[kem].ciphertext
    assert details["length_shared_secret"] == 32


@cases
@given(kems, seeds)
def test_seed_makes_the_same_key(kem: int, seed: bytes) -> None:
    assert Theirs(kem, seed).ek == Ephemeral.from_seeds(kem, seed, bytes(32)).kem_ek


@cases
@given(kems, seeds)
def test_our_key_encapsulated_by_liboqs(kem: int, seed: bytes) -> None:
    own = Ephemeral.from_seeds(kem, seed, bytes(32))
    answer = Theirs(kem, bytes(64)).encapsulated(own.kem_ek)
    assert answer is not None
    ciphertext, secret = answer
    assert own.agree(ciphertext, OTHER)[:32] == secret


@cases
@given(kems, seeds)
def test_key_of_liboqs_encapsulated_by_us(kem: int, seed: bytes) -> None:
    theirs = Theirs(kem, seed)
    answer = encapsulate(kem, theirs.ek, OTHER)
    assert theirs.decapsulated(answer.ciphertext) == answer.shared[:32]


@each_kem
def test_ciphertext_with_any_byte_damaged_is_rejected_with_the_same_secret(kem: int) -> None:
    """Implicit rejection (FIPS 203, 6.3) depends on z and on the whole ciphertext."""
    seed = secrets.token_bytes(64)
    theirs = Theirs(kem, seed)
    answer = encapsulate(kem, theirs.ek, OTHER)
    outcomes = {bytes(answer.shared[:32])}
    for place in range(len(answer.ciphertext)):
        damaged = flipped(answer.ciphertext, 8 * place + secrets.randbelow(8))
        secret = decapsulated(kem, seed, damaged)
        assert theirs.decapsulated(damaged) == secret
        outcomes.add(secret)
    assert len(outcomes) == 1 + len(answer.ciphertext)


@cases
@given(kems, seeds, st.sampled_from([b"\x00", b"\xff", None]))
def test_ciphertext_that_nobody_made_gives_the_same_secret(kem: int, seed: bytes, fill: bytes | None) -> None:
    size = SIZES[kem].ciphertext
    ciphertext = secrets.token_bytes(size) if fill is None else fill * size
    assert Theirs(kem, seed).decapsulated(ciphertext) == decapsulated(kem, seed, ciphertext)


@each_kem
def test_key_is_refused_by_both_if_any_coefficient_is_not_reduced(kem: int) -> None:
    """The modulus check of FIPS 203, 7.2, at its edge and at the largest value of 12 bits."""
    theirs = Theirs(kem, secrets.token_bytes(64))
    for index in range((len(theirs.ek) - 32) * 2 // 3):
        edge = with_coefficient(theirs.ek, index, Q - 1)
        assert theirs.encapsulated(edge) is not None
        encapsulate(kem, edge, OTHER)
        for value in (Q, 4095):
            ek = with_coefficient(theirs.ek, index, value)
            assert theirs.encapsulated(ek) is None
            with pytest.raises(KemError):
                encapsulate(kem, ek, OTHER)


@each_kem
def test_kem_values_of_other_sizes_are_refused(kem: int) -> None:
    """By us alone: liboqs takes no sizes."""
    theirs = Theirs(kem, secrets.token_bytes(64))
    answer = theirs.encapsulated(theirs.ek)
    assert answer is not None
    for ek in resized(theirs.ek):
        with pytest.raises(KemError):
            encapsulate(kem, ek, OTHER)
    for ciphertext in resized(answer[0]):
        with pytest.raises(KemError):
            Ephemeral.generate(kem).agree(ciphertext, OTHER)


def we_accept(kind: int, key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``verify_record`` does, with an Ed25519 signature beside that is right: ML-DSA alone decides."""
    record = bytes((kind,)) + ED25519.public_key().public_bytes_raw() + key
    return verify_record(record, message, ED25519.sign(message), signature)


def they_accept(kind: int, key: bytes, message: bytes, signature: bytes) -> bool:
    accepted: bool = SIGNATURES[kind].verify_with_ctx_str(message, signature, SIGNATURE_CONTEXT, key)
    return accepted


def both_refuse(kind: int, key: bytes, message: bytes, signature: bytes) -> bool:
    return not we_accept(kind, key, message, signature) and not they_accept(kind, key, message, signature)


def signed_by_us(kind: int, message: bytes, seed: bytes) -> tuple[bytes, bytes]:
    """An identity's ML-DSA key, and its signature."""
    identity = Identity.from_seed(seed, kind)
    return identity.record[1 + ED25519_PUBLIC_SIZE :], identity.sign(message)[1]


def signed_by_liboqs(kind: int, message: bytes) -> tuple[bytes, bytes]:
    signer = oqs.Signature(KINDS[kind].signature.upper())
    return signer.generate_keypair(), signer.sign_with_ctx_str(message, SIGNATURE_CONTEXT)


def signed_by_either(kind: int, message: bytes) -> list[tuple[bytes, bytes]]:
    return [signed_by_us(kind, message, secrets.token_bytes(SEED_SIZE)), signed_by_liboqs(kind, message)]


@each_kind
def test_signature_sizes_are_the_same(kind: int) -> None:
    details = SIGNATURES[kind].details
    assert details["length_public_key"] == MLDSA_PUBLIC_SIZES[kind]
    assert details["length_signature"] == KINDS[kind].sig_mldsa_size


@cases
@given(kinds, messages, st.binary(min_size=SEED_SIZE, max_size=SEED_SIZE))
def test_our_signature_verifies_in_liboqs(kind: int, message: bytes, seed: bytes) -> None:
    key, signature = signed_by_us(kind, message, seed)
    assert they_accept(kind, key, message, signature)


@cases
@given(kinds, messages)
def test_signature_of_liboqs_verifies_here(kind: int, message: bytes) -> None:
    key, signature = signed_by_liboqs(kind, message)
    assert we_accept(kind, key, message, signature)


@each_kind
def test_signatures_are_pure_with_our_context(kind: int) -> None:
    signer = oqs.Signature(KINDS[kind].signature.upper())
    key = signer.generate_keypair()
    assert we_accept(kind, key, b"message", signer.sign_with_ctx_str(b"message", b"cryprq v2 identity"))
    assert not we_accept(kind, key, b"message", signer.sign_with_ctx_str(b"message", b""))
    assert not we_accept(kind, key, b"message", signer.sign(b"message"))


@each_kind
def test_signature_with_any_byte_damaged_is_refused_by_both(kind: int) -> None:
    """Also where only its encoding shows it: the hints, its last bytes, have exactly one (FIPS 204, algorithm 21)."""
    for key, signature in signed_by_either(kind, b"message"):
        for place in range(len(signature)):
            assert both_refuse(kind, key, b"message", flipped(signature, 8 * place + secrets.randbelow(8)))


@cases
@given(kinds, messages.filter(bool), st.data())
def test_damaged_message_is_refused_by_both(kind: int, message: bytes, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, 8 * len(message) - 1))
    for key, signature in signed_by_either(kind, message):
        for damaged in (flipped(message, bit), message[:-1], message + b"\0"):
            assert both_refuse(kind, key, damaged, signature)


@each_kind
def test_key_with_any_byte_damaged_verifies_nothing(kind: int) -> None:
    for key, signature in signed_by_either(kind, b"message"):
        for place in range(len(key)):
            assert both_refuse(kind, flipped(key, 8 * place + secrets.randbelow(8)), b"message", signature)


@each_kind
def test_signatures_of_other_sizes_are_refused_by_both(kind: int) -> None:
    for key, signature in signed_by_either(kind, b"message"):
        for other in resized(signature):
            assert both_refuse(kind, key, b"message", other)


@each_kind
def test_keys_of_other_sizes_are_refused(kind: int) -> None:
    """By us alone: liboqs takes no sizes."""
    for key, signature in signed_by_either(kind, b"message"):
        for other in resized(key):
            assert not we_accept(kind, other, b"message", signature)


# ---- the third KEM, which is liboqs' ----


def test_third_kem_is_the_one_of_the_protocol() -> None:
    agreement.require(THIRD)
    assert oqs.KeyEncapsulation(FRODOKEM_976_AES.name).details["is_ind_cca"]


def test_library_without_the_kem_or_with_another_version_of_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(oqs, "is_kem_enabled", lambda name: False)
        with pytest.raises(LiboqsMissing, match="built without FrodoKEM-976-AES"):
            agreement.require(THIRD)
    for other in (replace(FRODOKEM_976_AES, ciphertext=15792), replace(FRODOKEM_976_AES, shared_secret=16)):
        with pytest.raises(LiboqsMissing, match="another version"):
            other.require()


def test_both_ends_agree_on_three_secrets() -> None:
    own = Ephemeral.generate(THIRD)
    answer = encapsulate(THIRD, own.kem_ek, own.x25519)
    assert (len(own.kem_ek), len(answer.ciphertext)) == (1184 + 15632, 1088 + 15744)
    assert own.agree(answer.ciphertext, answer.x25519) == answer.shared
    assert len(answer.shared) == 32 + 32 + 24


def test_ciphertext_of_the_third_kem_with_a_byte_damaged_gives_another_secret() -> None:
    """Implicit rejection: no error, nothing that tells where the damage is."""
    outcomes = set()
    for place in range(0, FRODOKEM_976_AES.ciphertext, 487):
        key = FRODOKEM_976_AES.generate()
        ciphertext, secret = FRODOKEM_976_AES.encapsulate(key.encapsulation_key)
        rejected = key.decapsulate(flipped(ciphertext, 8 * place + secrets.randbelow(8)))
        assert rejected != secret
        outcomes.add(rejected)
    assert len(outcomes) == -(-FRODOKEM_976_AES.ciphertext // 487)


def test_values_of_other_sizes_never_reach_the_library() -> None:
    own = Ephemeral.generate(THIRD)
    answer = encapsulate(THIRD, own.kem_ek, own.x25519)
    for ek in (*resized(own.kem_ek), own.kem_ek[:1184]):
        with pytest.raises(KemError):
            encapsulate(THIRD, ek, own.x25519)
    for ciphertext in (*resized(answer.ciphertext), answer.ciphertext[:1088]):
        with pytest.raises(KemError):
            Ephemeral.generate(THIRD).agree(ciphertext, answer.x25519)
    for data in resized(own.kem_ek[1184:]):
        with pytest.raises(OqsError):
            FRODOKEM_976_AES.encapsulate(data)
    for data in resized(answer.ciphertext[1088:]):
        with pytest.raises(OqsError):
            FRODOKEM_976_AES.generate().decapsulate(data)


def test_key_of_the_third_kem_is_used_once() -> None:
    key = FRODOKEM_976_AES.generate()
    ciphertext, secret = FRODOKEM_976_AES.encapsulate(key.encapsulation_key)
    assert key.decapsulate(ciphertext) == secret
    with pytest.raises(OqsError):
        key.decapsulate(ciphertext)


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("damage", [lambda part: flipped(part, 77), lambda part: part[:-1], lambda part: part + b"\0"])
def test_handshake_with_a_damaged_third_part_is_refused(number: int, damage: Callable[[bytes], bytes]) -> None:
    pair = Pair(kem=THIRD)
    message = pair.run(until=number)
    start = 4 + 2 + 1 + 32 + 4 + 1184 if number == 1 else 5 + 32 + 4 + 1088
    end = start + (15632 if number == 1 else 15744)
    changed = message[:start] + damage(message[start:end]) + message[end:]
    assert refused(pair, number, changed).reason == ("knock" if number == 1 else "tag")


def test_handshake_and_rotation_with_three_secrets() -> None:
    pair = Pair(kem=THIRD)
    pair.run()
    initiator, responder = pair.session(), pair.session_r
    assert responder is not None
    for session in (initiator, responder):
        session.start(Boottime(0.0))
        session.first_record(session.rx_indices().pop(), Boottime(0.0))
    assert initiator.kem == responder.kem == THIRD
    frames = FrameReader()
    sender, receiver, actions = initiator, responder, initiator.rotate(Boottime(2.0))
    for _ in range(3):
        (sent,) = [action.data for action in actions if isinstance(action, SendFrame)]
        ((kind, header, body),) = frames.feed(sent)
        actions = receiver.receive_frame(kind, header, body, Boottime(2.0))
        sender, receiver = receiver, sender
    assert initiator._channel.root == responder._channel.root
    assert responder.number == 1


def test_library_is_loaded_without_a_word_and_without_the_network() -> None:
    """liboqs-python writes to standard output, and clones a library if it finds none: it is not even imported then."""
    program = "from cryprq.protocol import kem; kem.require(3); print('done')"
    here = {"OQS_INSTALL_PATH": liboqs.prefix(), "PATH": "/nonexistent"}
    command = [sys.executable, "-c", program]
    found = subprocess.run(command, env=here, cwd=ROOT, capture_output=True, text=True, check=True)
    assert (found.stdout, found.stderr) == ("done\n", "")
