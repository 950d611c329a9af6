"""The hybrid key agreement against published vectors and against what a hostile peer may send."""

import cryptography_vectors
import pytest

from cryprq.protocol.constants import (
    KEM_X25519_MLKEM768,
    KEM_X25519_MLKEM768_FRODOKEM976,
    KEM_X25519_MLKEM1024,
    KEMS,
)
from cryprq.protocol.kem import SIZES, Ephemeral, KemError, encapsulate
from tests.rigs import fake_liboqs

pytestmark = pytest.mark.usefixtures("fake_liboqs")

P = 2**255 - 19
# Points of small order (RFC 7748, 6.1 and 7): 0, 1, the two of order 8, -1, and 0 and 1 not reduced.
SMALL_ORDER = [
    *(value.to_bytes(32, "little") for value in (0, 1, P - 1, P, P + 1)),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
]


def nist(name: str, count: int) -> list[dict[str, bytes]]:
    """The first entries of a response file of cryptography_vectors."""
    entries: list[dict[str, bytes]] = []
    with cryptography_vectors.open_vector_file(f"asymmetric/MLKEM/{name}", "r") as file:
        for line in file:
            key, _, value = line.strip().partition(" = ")
            if key == "count":
                if len(entries) == count:
                    break
                entries.append({})
            elif value and key != "msg":
                entries[-1][key] = bytes.fromhex(value)
    return entries


@pytest.mark.parametrize(
    ("kem", "name"), [(KEM_X25519_MLKEM768, "kat_MLKEM_768.rsp"), (KEM_X25519_MLKEM1024, "kat_MLKEM_1024.rsp")]
)
def test_ml_kem_known_answers(kem: int, name: str) -> None:
    """Key generation from d || z, decapsulation, and implicit rejection of a wrong ciphertext (ct_n, ss_n)."""
    peer = Ephemeral.from_seeds(kem, bytes(64), bytes((7,)) * 32)
    vectors = nist(name, 10)
    assert len(vectors) == 10
    for vector in vectors:
        for ciphertext, secret in (("ct", "ss"), ("ct_n", "ss_n")):
            own = Ephemeral.from_seeds(kem, vector["d"] + vector["z"], bytes((9,)) * 32)
            assert own.kem_ek == vector["pk"]
            assert own.agree(vector[ciphertext], peer.x25519)[:32] == vector[secret]


def x25519_vectors() -> list[tuple[bytes, bytes, bytes]]:
    """RFC 7748, 5.2: scalar, u-coordinate, result."""
    with cryptography_vectors.open_vector_file("asymmetric/X25519/rfc7748.txt", "r") as file:
        values = [bytes.fromhex(line.split(" = ")[1]) for line in file if "PUT_" in line]
    return list(zip(values[::3], values[1::3], values[2::3], strict=True))


def test_x25519_known_answers() -> None:
    assert len(x25519_vectors()) >= 2
    for scalar, u, result in x25519_vectors():
        own = Ephemeral.from_seeds(KEM_X25519_MLKEM768, bytes(64), scalar)
        assert own.agree(bytes(1088), u)[32:] == result


@pytest.mark.parametrize("kem", KEMS)
def test_both_ends_agree_on_a_secret_of_fixed_size(kem: int) -> None:
    own = Ephemeral.generate(kem)
    answer = encapsulate(kem, own.kem_ek, own.x25519)
    assert len(own.kem_ek) == SIZES[kem].encapsulation_key
    assert len(answer.ciphertext) == SIZES[kem].ciphertext
    assert own.agree(answer.ciphertext, answer.x25519) == answer.shared
    assert len(answer.shared) == SIZES[kem].shared == (88 if kem == KEM_X25519_MLKEM768_FRODOKEM976 else 64)


def test_ephemeral_is_used_once() -> None:
    own = Ephemeral.generate(KEM_X25519_MLKEM768)
    answer = encapsulate(KEM_X25519_MLKEM768, own.kem_ek, own.x25519)
    own.agree(answer.ciphertext, answer.x25519)
    with pytest.raises(KemError):
        own.agree(answer.ciphertext, answer.x25519)


def test_ephemeral_is_used_up_by_a_failure() -> None:
    own = Ephemeral.generate(KEM_X25519_MLKEM768)
    answer = encapsulate(KEM_X25519_MLKEM768, own.kem_ek, own.x25519)
    with pytest.raises(KemError):
        own.agree(answer.ciphertext, bytes(32))
    with pytest.raises(KemError):
        own.agree(answer.ciphertext, answer.x25519)


@pytest.mark.parametrize("kem", KEMS)
def test_wrong_ciphertext_gives_another_secret_and_no_error(kem: int) -> None:
    own = Ephemeral.generate(kem)
    answer = encapsulate(kem, own.kem_ek, own.x25519)
    shared = own.agree(bytes((answer.ciphertext[0] ^ 1,)) + answer.ciphertext[1:], answer.x25519)
    assert shared[:32] != answer.shared[:32]
    assert shared[32:] == answer.shared[32:]


def test_wrong_ciphertext_of_the_third_part_gives_another_secret_and_no_error() -> None:
    kem = KEM_X25519_MLKEM768_FRODOKEM976
    for place in (1088, 1088 + 15744 - 1):
        own = Ephemeral.generate(kem)
        answer = encapsulate(kem, own.kem_ek, own.x25519)
        damaged = bytearray(answer.ciphertext)
        damaged[place] ^= 1
        shared = own.agree(bytes(damaged), answer.x25519)
        assert shared[:64] == answer.shared[:64]
        assert shared[64:] != answer.shared[64:]


def test_key_of_the_third_part_is_wiped_whatever_becomes_of_it() -> None:
    kem = KEM_X25519_MLKEM768_FRODOKEM976
    before = fake_liboqs.KeyEncapsulation.open
    dropped, used, failed, forgotten = (Ephemeral.generate(kem) for _ in range(4))
    assert fake_liboqs.KeyEncapsulation.open == before + 4
    dropped.drop()
    dropped.drop()
    answer = encapsulate(kem, used.kem_ek, used.x25519)
    used.agree(answer.ciphertext, answer.x25519)
    with pytest.raises(KemError):
        failed.agree(answer.ciphertext, bytes(32))
    del forgotten
    assert fake_liboqs.KeyEncapsulation.open == before


@pytest.mark.parametrize("kem", KEMS)
@pytest.mark.parametrize("coefficient", [3329, 3330, 4095])
@pytest.mark.parametrize("place", [0, 1, -1])
def test_encapsulation_key_that_fails_the_modulus_check_is_refused(kem: int, coefficient: int, place: int) -> None:
    """FIPS 203, 7.2: every 12-bit coefficient must be below 3329."""
    own = Ephemeral.generate(kem)
    good = bytearray(own.kem_ek)
    size = 1568 if kem == KEM_X25519_MLKEM1024 else 1184  # of the ML-KEM part, which comes first
    pair = 0 if place >= 0 else size - 32 - 3  # two coefficients in three bytes; the last 32 bytes are the seed
    low = good[pair] | (good[pair + 1] & 0x0F) << 8
    high = good[pair + 1] >> 4 | good[pair + 2] << 4
    low, high = (coefficient, high) if place == 0 else (low, coefficient)
    good[pair : pair + 3] = bytes((low & 0xFF, low >> 8 | (high & 0x0F) << 4, high >> 4))
    with pytest.raises(KemError):
        encapsulate(kem, bytes(good), own.x25519)


@pytest.mark.parametrize("point", SMALL_ORDER, ids=bytes.hex)
def test_all_zero_x25519_result_is_refused_by_both_ends(point: bytes) -> None:
    own = Ephemeral.generate(KEM_X25519_MLKEM768)
    answer = encapsulate(KEM_X25519_MLKEM768, own.kem_ek, own.x25519)
    with pytest.raises(KemError):
        encapsulate(KEM_X25519_MLKEM768, own.kem_ek, point)
    with pytest.raises(KemError):
        own.agree(answer.ciphertext, point)


@pytest.mark.parametrize("kem", KEMS)
@pytest.mark.parametrize("delta", [-1, 1])
def test_wrong_sizes_are_refused(kem: int, delta: int) -> None:
    def resized(data: bytes) -> bytes:
        return data[:-1] if delta < 0 else data + b"\0"

    own = Ephemeral.generate(kem)
    answer = encapsulate(kem, own.kem_ek, own.x25519)
    for ek, x25519 in ((resized(own.kem_ek), own.x25519), (own.kem_ek, resized(own.x25519))):
        with pytest.raises(KemError):
            encapsulate(kem, ek, x25519)
    for ciphertext, x25519 in (
        (resized(answer.ciphertext), answer.x25519),
        (answer.ciphertext, resized(answer.x25519)),
    ):
        with pytest.raises(KemError):
            Ephemeral.generate(kem).agree(ciphertext, x25519)
