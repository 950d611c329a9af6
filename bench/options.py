"""Kinds of options that the benchmarks share: what is wrong with one is said before anything is built or measured."""

import argparse
import math
from pathlib import Path


def count(text: str) -> int:
    """A whole number from 1 on."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 on")
    return int(text)


def amount(text: str) -> float:
    """A number from 0 on."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 on")
    return value


def positive(text: str) -> float:
    """A number above 0: seconds that something takes, a rate."""
    if amount(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not above 0")
    return float(text)


def file(text: str) -> Path:
    """A file that is there."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return Path(text)


def package(text: str) -> Path:
    """A built tree of cryprq."""
    if not list(Path(text, "cryprq").glob("_fastpath*.so")):
        raise argparse.ArgumentTypeError(f"{text} has no cryprq that was built in place")
    return Path(text)
