"""liboqs, where there is one: an implementation of ML-KEM and ML-DSA that has nothing in common with OpenSSL's.

Nothing else may ``import oqs``. Where that finds no liboqs, it clones and builds one from the network, and ends the
process if it cannot. So the library is loaded here first, from the places in which liboqs-python looks.

The wrapper leaves lengths to its caller: whoever hands it bytes from a peer has to compare their length before.
"""

import ctypes
import ctypes.util
import importlib
import importlib.metadata
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from unittest import mock

from lab import ROOT


class Missing(Exception):
    """No liboqs that could be used; says how to get one."""


def load() -> ModuleType:
    """The module ``oqs`` on a liboqs that is on this machine. Asks nothing of the network."""
    try:
        version = importlib.metadata.version("liboqs-python")
    except importlib.metadata.PackageNotFoundError:
        raise Missing("no liboqs-python: pip install -e .[oqs]") from None
    library, prefix = _find()
    # Looked up by liboqs-python 0.16 as it is imported; the first function that an older liboqs lacks.
    if not hasattr(library, "OQS_SIG_supports_ctx_str"):
        raise Missing(f"{library._name} is too old for liboqs-python {version}, which needs 0.14 or later")
    place = {} if prefix is None else {"OQS_INSTALL_PATH": str(prefix)}
    with mock.patch.dict(os.environ, place), warnings.catch_warnings():
        # What is used here has been the same since 0.13, but for that function.
        warnings.filterwarnings("ignore", "liboqs version .* differs from liboqs-python version")
        return importlib.import_module("oqs")


def _find() -> tuple[ctypes.CDLL, Path | None]:
    """The first library that loads, and the prefix it is under, or None for the system's own."""
    for path, prefix in _candidates():
        try:
            return ctypes.CDLL(path), prefix
        except OSError:
            continue
    raise Missing("no liboqs: make test-oqs builds one (or set OQS_INSTALL_PATH to the prefix of another)")


def _candidates() -> Iterator[tuple[str, Path | None]]:
    """In the order in which liboqs-python tries them, and then the one that was built in this checkout."""
    if (name := ctypes.util.find_library("oqs")) is not None:
        yield name, None
    prefixes = [Path(os.environ["OQS_INSTALL_PATH"])] if "OQS_INSTALL_PATH" in os.environ else []
    for prefix in (*prefixes, ROOT / "build" / "liboqs"):
        for folder in ("lib", "lib64"):
            yield str(prefix.absolute() / folder / "liboqs.so"), prefix
