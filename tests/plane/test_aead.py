"""Known answers and random cases for the AEAD back ends in ``csrc/``, through ``tests/c/aead_vectors.c``.

Vectors: NIST CAVS for GCM with 256-bit keys, 96-bit IVs and 128-bit tags (SP 800-38D), and those of RFC 8439 (first
published as RFC 7539), BoringSSL and OpenSSL for ChaCha20-Poly1305, all from the ``cryptography-vectors`` package.
Each runs through every back end that this CPU has; a back end of other CPUs is skipped.
"""

import random
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cryptography_vectors
import pytest

from lab import ROOT
from lab.oracle import AEADS, AES_256_GCM, CHACHA20_POLY1305
from tests.rigs.c_programs import build, from_hex, run_lines, to_hex


class Case(NamedTuple):
    key: bytes
    nonce: bytes
    aad: bytes
    plaintext: bytes
    sealed: bytes
    valid: bool = True

    def command(self, verb: str, backend: str) -> str:
        data = self.plaintext if verb == "seal" else self.sealed
        return " ".join([verb, backend, *map(to_hex, (self.key, self.nonce, self.aad, data))])


GCM_BACKENDS = [f"{name}-aes-256-gcm" for name in ("vaes512", "vaes256", "aesni", "armv8", "evp")]
CHACHA_BACKENDS = [f"{name}-chacha20-poly1305" for name in ("avx512", "evp")]
SUITES = dict.fromkeys(GCM_BACKENDS, AES_256_GCM) | dict.fromkeys(CHACHA_BACKENDS, CHACHA20_POLY1305)


@pytest.fixture(scope="module")
def program() -> Path:
    return build("aead_vectors")


@pytest.fixture(scope="module")
def present(program: Path) -> list[str]:
    """The back ends that this CPU has, of both suites, the fastest of each first."""
    return " ".join(run_lines(program, [f"backends {AES_256_GCM}", f"backends {CHACHA20_POLY1305}"])).split()


@pytest.fixture(params=GCM_BACKENDS)
def gcm(request: pytest.FixtureRequest, present: list[str]) -> str:
    return present_or_skip(request.param, present)


@pytest.fixture(params=CHACHA_BACKENDS)
def chacha(request: pytest.FixtureRequest, present: list[str]) -> str:
    return present_or_skip(request.param, present)


@pytest.fixture(params=GCM_BACKENDS + CHACHA_BACKENDS)
def backend(request: pytest.FixtureRequest, present: list[str]) -> str:
    return present_or_skip(request.param, present)


def present_or_skip(name: str, present: list[str]) -> str:
    if name not in present:
        pytest.skip(f"this CPU has no {name}")
    return name


def test_every_back_end_of_this_cpu_is_in_the_lists(present: list[str]) -> None:
    assert set(present) <= set(SUITES)


def test_readme_names_every_back_end() -> None:
    text = (ROOT / "README.md").read_text()
    named = re.search(r"`CRYPRQ_AEAD_BACKEND` \((.*?)\)", text, re.DOTALL)
    assert named is not None
    assert set(re.findall(r"`(\w+)`", named[1])) == {name.partition("-")[0] for name in SUITES}


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


def check(program: Path, backend: str, cases: list[Case], *, minimum: int) -> None:
    """Each case opens as it should, and each valid one seals to the published bytes."""
    assert len(cases) >= minimum, "the vector files were not read as a whole"
    opened = run_lines(program, [case.command("open", backend) for case in cases])
    assert opened == [to_hex(case.plaintext) if case.valid else "FAIL" for case in cases]
    good = [case for case in cases if case.valid]
    sealed = run_lines(program, [case.command("seal", backend) for case in good])
    assert sealed == [to_hex(case.sealed) for case in good]


def test_aes_256_gcm_decrypts_nist_vectors(program: Path, gcm: str) -> None:
    cases = nist_cases("gcmDecrypt256.rsp")
    assert any(not case.valid for case in cases)
    check(program, gcm, cases, minimum=375)


def test_aes_256_gcm_encrypts_nist_vectors(program: Path, gcm: str) -> None:
    check(program, gcm, nist_cases("gcmEncryptExtIV256.rsp"), minimum=375)


def test_chacha20_poly1305_matches_rfc_8439_and_boringssl(program: Path, chacha: str) -> None:
    cases = boringssl_cases()
    assert cases[0].plaintext.startswith(b"Ladies and Gentlemen of the class of '99")  # RFC 8439, section 2.8.2
    check(program, chacha, cases, minimum=66)


def test_chacha20_poly1305_matches_openssl(program: Path, chacha: str) -> None:
    cases = openssl_cases()
    assert any(not case.valid for case in cases)
    check(program, chacha, cases, minimum=5)


def random_case(rng: random.Random, backend: str, aad_size: int, size: int) -> Case:
    key, nonce, aad, plaintext = (rng.randbytes(n) for n in (32, 12, aad_size, size))
    return Case(key, nonce, aad, plaintext, AEADS[SUITES[backend]](key).encrypt(nonce, plaintext, aad))


def test_random_cases_agree_with_cryptography(program: Path, backend: str) -> None:
    rng = random.Random(f"differential {backend}")
    sizes = [*range(130), 255, 256, 257, 511, 512, 513, 1023, 1024, 1025, 1420, 1500, 9000, 65503]
    cases = [random_case(rng, backend, rng.choice([0, 1, 15, 16, 17, 100]), size) for size in sizes]
    cases += [random_case(rng, backend, 16, rng.randrange(1500)) for _ in range(100)]
    check(program, backend, cases, minimum=len(sizes))


@pytest.mark.parametrize("size", [0, 1, 16, 77])
def test_every_flipped_bit_is_a_forgery(program: Path, backend: str, size: int) -> None:
    """Each bit of the tag, the ciphertext and the additional data, one at a time."""
    case = random_case(random.Random(f"forgery {backend} {size}"), backend, 16, size)
    forgeries = [case._replace(sealed=flipped) for flipped in one_bit_flips(case.sealed)]
    forgeries += [case._replace(aad=flipped) for flipped in one_bit_flips(case.aad)]
    commands = [forgery.command("open", backend) for forgery in forgeries]
    assert run_lines(program, commands) == ["FAIL"] * (8 * (size + 16) + 8 * 16)
    assert from_hex(run_lines(program, [case.command("open", backend)])[0]) == case.plaintext


def one_bit_flips(data: bytes) -> Iterator[bytes]:
    for bit in range(8 * len(data)):
        yield bytes(byte ^ (1 << bit % 8 if at == bit // 8 else 0) for at, byte in enumerate(data))


def selected(program: Path, suite: int) -> str:
    return run_lines(program, [f"selected {suite}"])[0]


def fastest(names: list[str], present: list[str]) -> str:
    return next(name for name in names if name in present)


def test_fastest_backend_is_selected(program: Path, present: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (None, ""):
        monkeypatch.delenv("CRYPRQ_AEAD_BACKEND", raising=False)
        if value is not None:
            monkeypatch.setenv("CRYPRQ_AEAD_BACKEND", value)
        assert selected(program, AES_256_GCM) == present[0] == fastest(GCM_BACKENDS, present)
        assert selected(program, CHACHA20_POLY1305) == fastest(CHACHA_BACKENDS, present)


def test_environment_names_the_backend(
    program: Path, backend: str, present: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each suite that has one of that name; another suite keeps its fastest."""
    word = backend.split("-")[0]
    monkeypatch.setenv("CRYPRQ_AEAD_BACKEND", word)
    for suite, names in ((AES_256_GCM, GCM_BACKENDS), (CHACHA20_POLY1305, CHACHA_BACKENDS)):
        of_that_name = [name for name in names if name.startswith(f"{word}-")]
        assert selected(program, suite) == (of_that_name[0] if of_that_name else fastest(names, present))


@pytest.mark.parametrize("name", ["vaes1024", "evp-", "ev", "EVP", "evp-aes-256-gcm", " "])
def test_unknown_backend_is_not_replaced(program: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRYPRQ_AEAD_BACKEND", name)
    assert selected(program, AES_256_GCM) == "none"
    assert selected(program, CHACHA20_POLY1305) == "none"
