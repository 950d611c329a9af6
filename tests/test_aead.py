"""Known answers and random cases for the AEAD back ends in ``csrc/``, through ``tests/c/aead_vectors.c``.

Vectors: NIST CAVS for GCM with 256-bit keys, 96-bit IVs and 128-bit tags (SP 800-38D), and those of RFC 8439 (first
published as RFC 7539), BoringSSL and OpenSSL for ChaCha20-Poly1305, all from the ``cryptography-vectors`` package.
"""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cryptography_vectors
import pytest
from c_programs import build, from_hex, run_lines, to_hex
from oracle import AEADS, AES_256_GCM, CHACHA20_POLY1305


class Case(NamedTuple):
    key: bytes
    nonce: bytes
    aad: bytes
    plaintext: bytes
    sealed: bytes
    valid: bool = True

    def command(self, verb: str, suite: int) -> str:
        data = self.plaintext if verb == "seal" else self.sealed
        return " ".join([verb, str(suite), *map(to_hex, (self.key, self.nonce, self.aad, data))])


@pytest.fixture(scope="module")
def program() -> Path:
    return build("aead_vectors")


def vector_blocks(name: str) -> Iterator[dict[str, str]]:
    """The ``name = value`` blocks of a vector file, names in lower case, with the ``[sections]`` before them."""
    section: dict[str, str] = {}
    with cryptography_vectors.open_vector_file(name, "r") as file:
        for block in re.split(r"\n\s*\n", file.read()):
            fields = {}
            for line in block.splitlines():
                if match := re.fullmatch(r"\[(\w+) = (\w+)\]", line.strip()):
                    section[match[1].lower()] = match[2]
                elif match := re.fullmatch(r"(\w+)\s*=\s*(.*)", line.strip()):
                    fields[match[1].lower()] = match[2].strip()
                elif line.strip() == "FAIL":
                    fields["fail"] = ""
            if "key" in fields:
                yield section | fields


def value(text: str) -> bytes:
    """Hex digits, or ASCII in quotes."""
    return text[1:-1].encode() if text.startswith('"') else bytes.fromhex(text)


def nist_cases(name: str) -> list[Case]:
    return [
        Case(
            value(block["key"]),
            value(block["iv"]),
            value(block["aad"]),
            value(block.get("pt", "")),
            value(block["ct"]) + value(block["tag"]),
            "fail" not in block,
        )
        for block in vector_blocks(f"ciphers/AES/GCM/{name}")
        if (block["keylen"], block["ivlen"], block["taglen"]) == ("256", "96", "128")
    ]


def boringssl_cases() -> list[Case]:
    return [
        Case(
            value(block["key"]),
            value(block["nonce"]),
            value(block["ad"]),
            value(block["in"]),
            value(block["ct"]) + value(block["tag"]),
        )
        for block in vector_blocks("ciphers/ChaCha20Poly1305/boringssl.txt")
    ]


def openssl_cases() -> list[Case]:
    return [
        Case(
            value(block["key"]),
            value(block["iv"]),
            value(block["aad"]),
            value(block["plaintext"]),
            value(block["ciphertext"]) + value(block["tag"]),
            "result" not in block,
        )
        for block in vector_blocks("ciphers/ChaCha20Poly1305/openssl.txt")
    ]


def check(program: Path, suite: int, cases: list[Case], *, minimum: int) -> None:
    """Each case opens as it should, and each valid one seals to the published bytes."""
    assert len(cases) >= minimum, "the vector files were not read as a whole"
    opened = run_lines(program, [case.command("open", suite) for case in cases])
    assert opened == [to_hex(case.plaintext) if case.valid else "FAIL" for case in cases]
    good = [case for case in cases if case.valid]
    sealed = run_lines(program, [case.command("seal", suite) for case in good])
    assert sealed == [to_hex(case.sealed) for case in good]


def test_aes_256_gcm_decrypts_nist_vectors(program: Path) -> None:
    cases = nist_cases("gcmDecrypt256.rsp")
    assert any(not case.valid for case in cases)
    check(program, AES_256_GCM, cases, minimum=375)


def test_aes_256_gcm_encrypts_nist_vectors(program: Path) -> None:
    check(program, AES_256_GCM, nist_cases("gcmEncryptExtIV256.rsp"), minimum=375)


def test_chacha20_poly1305_matches_rfc_8439_and_boringssl(program: Path) -> None:
    cases = boringssl_cases()
    assert cases[0].plaintext.startswith(b"Ladies and Gentlemen of the class of '99")  # RFC 8439, section 2.8.2
    check(program, CHACHA20_POLY1305, cases, minimum=66)


def test_chacha20_poly1305_matches_openssl(program: Path) -> None:
    cases = openssl_cases()
    assert any(not case.valid for case in cases)
    check(program, CHACHA20_POLY1305, cases, minimum=5)


SUITES = pytest.mark.parametrize("suite", [AES_256_GCM, CHACHA20_POLY1305])


def random_case(rng: random.Random, suite: int, aad_size: int, size: int) -> Case:
    key, nonce, aad, plaintext = (rng.randbytes(n) for n in (32, 12, aad_size, size))
    return Case(key, nonce, aad, plaintext, AEADS[suite](key).encrypt(nonce, plaintext, aad))


@SUITES
def test_random_cases_agree_with_cryptography(program: Path, suite: int) -> None:
    rng = random.Random(f"differential {suite}")
    sizes = [*range(130), 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 1420, 1500, 9000, 65503]
    cases = [random_case(rng, suite, rng.choice([0, 1, 15, 16, 17, 100]), size) for size in sizes]
    cases += [random_case(rng, suite, 16, rng.randrange(1500)) for _ in range(100)]
    check(program, suite, cases, minimum=len(sizes))


@SUITES
@pytest.mark.parametrize("size", [0, 1, 16, 77])
def test_every_flipped_bit_is_a_forgery(program: Path, suite: int, size: int) -> None:
    """Each bit of the tag, the ciphertext and the additional data, one at a time."""
    case = random_case(random.Random(f"forgery {suite} {size}"), suite, 16, size)
    forgeries = [case._replace(sealed=flipped) for flipped in one_bit_flips(case.sealed)]
    forgeries += [case._replace(aad=flipped) for flipped in one_bit_flips(case.aad)]
    commands = [forgery.command("open", suite) for forgery in forgeries]
    assert run_lines(program, commands) == ["FAIL"] * (8 * (size + 16) + 8 * 16)
    assert from_hex(run_lines(program, [case.command("open", suite)])[0]) == case.plaintext


def one_bit_flips(data: bytes) -> Iterator[bytes]:
    for bit in range(8 * len(data)):
        yield bytes(byte ^ (1 << bit % 8 if at == bit // 8 else 0) for at, byte in enumerate(data))
