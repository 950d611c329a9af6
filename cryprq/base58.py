"""Numbers as base58 text: letters and digits without those that look alike (0, O, I, l), so that one click selects it
and a person can read it aloud. The alphabet is Bitcoin's ("base58btc" in the multibase table)."""

from typing import Final

_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_PAIRS: Final = [high + low for high in _ALPHABET for low in _ALPHABET]
_TEN_DIGITS: Final = 58**10  # fits into 64 bits, where division is quick
_VALUES: Final = {character: value for value, character in enumerate(_ALPHABET)}


def spell(number: int) -> str:
    """The text of a number; empty for 0. It is divided as a whole for ten digits, and what is left for two of those."""
    pairs = []
    while number:
        number, ten = divmod(number, _TEN_DIGITS)
        for _ in range(5):
            ten, two = divmod(ten, 58 * 58)
            pairs.append(_PAIRS[two])
    return "".join(reversed(pairs)).lstrip(_ALPHABET[0])


def value(text: str) -> int | None:
    """The number that ``text`` spells; None if a character is not base58. Its time grows with the square of the length:
    the caller bounds that."""
    number = 0
    for character in text:
        digit = _VALUES.get(character)
        if digit is None:
            return None
        number = number * 58 + digit
    return number
