"""Our ML-KEM and ML-DSA, which are OpenSSL's, against those of liboqs: they take and refuse the same things."""

import secrets

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from cryprq.peer_id import ED25519_PUBLIC_SIZE, RECORD_SIZE
from cryprq.protocol.constants import KEM_X25519_MLKEM768, KEM_X25519_MLKEM1024, KEMS
from cryprq.protocol.identity import SEED_SIZE, SIG_MLDSA65_SIZE, Identity, verify_record
from cryprq.protocol.kem import SIZES, Ephemeral, KemError, encapsulate
from tests.rigs import liboqs

try:
    oqs = liboqs.load()
except liboqs.Missing as missing:
    pytest.skip(str(missing), allow_module_level=True)

NAMES = {KEM_X25519_MLKEM768: "ML-KEM-768", KEM_X25519_MLKEM1024: "ML-KEM-1024"}
OTHER = Ephemeral.from_seeds(KEM_X25519_MLKEM768, bytes(64), bytes((7,)) * 32).x25519
"""An X25519 public key, for the half of the hybrid that is not compared."""
ED25519 = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
VERIFIER = oqs.Signature("ML-DSA-65")
Q = 3329

cases = settings(max_examples=50)
kems = st.sampled_from(sorted(NAMES))
seeds = st.binary(min_size=64, max_size=64)
messages = st.binary(max_size=2000)


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


def test_every_kem_is_compared() -> None:
    assert set(NAMES) == set(KEMS)


@pytest.mark.parametrize("kem", KEMS)
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


@pytest.mark.parametrize("kem", KEMS)
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


@pytest.mark.parametrize("kem", KEMS)
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


@pytest.mark.parametrize("kem", KEMS)
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


def we_accept(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether ``verify_record`` does, with an Ed25519 signature beside that is right: ML-DSA alone decides."""
    return verify_record(ED25519.public_key().public_bytes_raw() + key, message, ED25519.sign(message), signature)


def they_accept(key: bytes, message: bytes, signature: bytes) -> bool:
    accepted: bool = VERIFIER.verify(message, signature, key)
    return accepted


def both_refuse(key: bytes, message: bytes, signature: bytes) -> bool:
    return not we_accept(key, message, signature) and not they_accept(key, message, signature)


def signed_by_us(message: bytes, seed: bytes) -> tuple[bytes, bytes]:
    """An identity's ML-DSA-65 key, and its signature."""
    identity = Identity.from_seed(seed)
    return identity.record[ED25519_PUBLIC_SIZE:], identity.sign(message)[1]


def signed_by_liboqs(message: bytes) -> tuple[bytes, bytes]:
    signer = oqs.Signature("ML-DSA-65")
    return signer.generate_keypair(), signer.sign(message)


def signed_by_either(message: bytes) -> list[tuple[bytes, bytes]]:
    return [signed_by_us(message, secrets.token_bytes(SEED_SIZE)), signed_by_liboqs(message)]


def test_signature_sizes_are_the_same() -> None:
    details = VERIFIER.details
    assert details["length_public_key"] == RECORD_SIZE - ED25519_PUBLIC_SIZE
    assert details["length_signature"] == SIG_MLDSA65_SIZE


@cases
@given(messages, st.binary(min_size=SEED_SIZE, max_size=SEED_SIZE))
def test_our_signature_verifies_in_liboqs(message: bytes, seed: bytes) -> None:
    key, signature = signed_by_us(message, seed)
    assert they_accept(key, message, signature)


@cases
@given(messages)
def test_signature_of_liboqs_verifies_here(message: bytes) -> None:
    key, signature = signed_by_liboqs(message)
    assert we_accept(key, message, signature)


def test_signatures_are_pure_with_an_empty_context() -> None:
    signer = oqs.Signature("ML-DSA-65")
    key = signer.generate_keypair()
    assert we_accept(key, b"message", signer.sign_with_ctx_str(b"message", b""))
    assert not we_accept(key, b"message", signer.sign_with_ctx_str(b"message", b"context"))


def test_signature_with_any_byte_damaged_is_refused_by_both() -> None:
    """Also where only its encoding shows it: the hints, its last bytes, have exactly one (FIPS 204, algorithm 21)."""
    for key, signature in signed_by_either(b"message"):
        for place in range(len(signature)):
            assert both_refuse(key, b"message", flipped(signature, 8 * place + secrets.randbelow(8)))


@cases
@given(messages.filter(bool), st.data())
def test_damaged_message_is_refused_by_both(message: bytes, data: st.DataObject) -> None:
    bit = data.draw(st.integers(0, 8 * len(message) - 1))
    for key, signature in signed_by_either(message):
        for damaged in (flipped(message, bit), message[:-1], message + b"\0"):
            assert both_refuse(key, damaged, signature)


def test_key_with_any_byte_damaged_verifies_nothing() -> None:
    for key, signature in signed_by_either(b"message"):
        for place in range(len(key)):
            assert both_refuse(flipped(key, 8 * place + secrets.randbelow(8)), b"message", signature)


def test_signatures_of_other_sizes_are_refused_by_both() -> None:
    for key, signature in signed_by_either(b"message"):
        for other in resized(signature):
            assert both_refuse(key, b"message", other)


def test_keys_of_other_sizes_are_refused() -> None:
    """By us alone: liboqs takes no sizes."""
    for key, signature in signed_by_either(b"message"):
        for other in resized(key):
            assert not we_accept(other, b"message", signature)
