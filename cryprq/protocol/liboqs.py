"""liboqs, where it is installed: a C library of further KEMs, by way of its wrapper liboqs-python (``cryprq[oqs]``).

Nothing else may ``import oqs``. Where that finds no library, it clones and builds one from the network, and ends the
process if it cannot. So the library is loaded here first, from the places in which liboqs-python looks.

The wrapper leaves lengths to its caller: whoever hands it bytes from a peer has to compare their length before.
"""

import ctypes
import ctypes.util
import importlib
import logging
import os
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Final

from cryprq.errors import MachineError

INSTALL_PATH: Final = "OQS_INSTALL_PATH"
"""The variable that names the prefix of a liboqs which the system's linker does not find."""
_HOME: Final = "_oqs"
"""Where liboqs-python looks in the user's home if the variable is not set."""


class LiboqsMissing(MachineError):
    """No liboqs that could be used; says how to get one."""


@cache
def load() -> ModuleType:
    """The module ``oqs`` on a liboqs that is on this machine. Asks nothing of the network. LiboqsMissing."""
    from importlib import metadata  # costs 1.5 MiB and 20 ms, and few nodes have liboqs

    try:
        version = metadata.version("liboqs-python")
    except metadata.PackageNotFoundError:
        raise LiboqsMissing("no liboqs-python: pip install 'cryprq[oqs]'") from None
    library = _find()
    # Looked up by liboqs-python 0.16 as it is imported; the first function that an older liboqs lacks.
    if not hasattr(library, "OQS_SIG_supports_ctx_str"):
        raise LiboqsMissing(f"{library._name} is too old for liboqs-python {version}, which needs 0.14 or later")
    logging.getLogger("oqs.oqs").disabled = True  # it writes to standard output as it is imported
    with warnings.catch_warnings():
        # That versions differ is no fault: functions were added, and none has changed.
        warnings.filterwarnings("ignore", "liboqs version .* differs from liboqs-python version")
        return importlib.import_module("oqs")


def _find() -> ctypes.CDLL:
    """The first library that loads."""
    for path in _candidates():
        try:
            return ctypes.CDLL(path)
        except OSError:
            continue
    raise LiboqsMissing(f"no liboqs: install it, or set {INSTALL_PATH} to the prefix that it was installed under")


def _candidates() -> Iterator[str]:
    """In the order in which liboqs-python tries them."""
    if (name := ctypes.util.find_library("oqs")) is not None:
        yield name
    given = os.environ.get(INSTALL_PATH)
    prefix = Path.home() / _HOME if given is None else Path(given)
    for folder in ("lib", "lib64"):
        yield str(prefix.absolute() / folder / "liboqs.so")
