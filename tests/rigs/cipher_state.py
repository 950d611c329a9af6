"""What a cipher makes of a key and keeps in memory, computed slowly and by the book: to be looked for in a process."""

from collections.abc import Iterator
from typing import Final

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import ECB

_ROUNDS: Final = 14
_POLYNOMIAL: Final = 0xE1 << 120
"""x^128 + x^7 + x^2 + x + 1 without x^128, in GCM's order of bits: the highest is x^0 (NIST SP 800-38D, 6.3)."""
_ONE: Final = 1 << 127
_INVERSE_OF_X: Final = (_ONE ^ _POLYNOMIAL) << 1 & (1 << 128) - 1 | 1


def _aes_multiply(a: int, b: int) -> int:
    product = 0
    while b:
        product ^= a if b & 1 else 0
        a = a << 1 ^ (0x11B if a & 0x80 else 0)
        b >>= 1
    return product


def _substitute(byte: int) -> int:
    """The S-box of FIPS 197, 5.1.1: the inverse, and an affine map."""
    inverse = 1
    for _ in range(254):
        inverse = _aes_multiply(inverse, byte)
    spread = 0
    for shift in range(5):
        spread ^= inverse << shift | inverse >> (8 - shift)
    return spread & 0xFF ^ 0x63


_SBOX: Final = bytes(_substitute(byte) for byte in range(256))


def round_keys(key: bytes) -> list[bytes]:
    """The 15 round keys of AES-256, 16 bytes each (FIPS 197, 5.2)."""
    words = [key[at : at + 4] for at in range(0, 32, 4)]
    for index in range(8, 4 * (_ROUNDS + 1)):
        word = words[-1]
        if index % 8 == 0:
            word = (word[1:] + word[:1]).translate(_SBOX)
            word = bytes((word[0] ^ 1 << index // 8 - 1,)) + word[1:]
        elif index % 8 == 4:
            word = word.translate(_SBOX)
        words.append(bytes(a ^ b for a, b in zip(word, words[-8], strict=True)))
    return [b"".join(words[at : at + 4]) for at in range(0, len(words), 4)]


def _multiply(a: int, b: int) -> int:
    """In GCM's field (NIST SP 800-38D, 6.3)."""
    product = 0
    for bit in range(127, -1, -1):
        product ^= b if a >> bit & 1 else 0
        b = b >> 1 ^ (_POLYNOMIAL if b & 1 else 0)
    return product


def hash_powers(key: bytes, count: int) -> Iterator[tuple[int, bytes]]:
    """Number and value of powers of GHASH's key H, in each form that an implementation may keep: as it is, reversed,
    and both divided by x, which saves a shift for each product."""
    encryptor = Cipher(AES256(key), ECB()).encryptor()
    h = int.from_bytes(encryptor.update(bytes(16)), "big")
    power = _ONE
    for number in range(1, count + 1):
        power = _multiply(power, h)
        for value in (power, _multiply(power, _INVERSE_OF_X)):
            yield number, value.to_bytes(16, "big")
            yield number, value.to_bytes(16, "little")


def expanded(name: str, key: bytes, powers: int = 100) -> dict[str, bytes]:
    """A key of AES-256-GCM and all that comes of it, by name."""
    secrets = {f"{name} round key {number}": value for number, value in enumerate(round_keys(key))}
    for index, (number, value) in enumerate(hash_powers(key, powers)):
        secrets[f"{name} H^{number} ({index % 4})"] = value
    return secrets
