"""Spares a node what aioquic imports to check certificate chains, which none of our connections has.

``aioquic.tls`` imports service_identity, pyOpenSSL and certifi: 3 MiB, and a quarter of the time that a node takes to
start. It gets stand-ins, which import the real modules when somebody uses them: a program that has a node in it may
use aioquic for something else too.
"""

import importlib
import sys
from types import ModuleType
from typing import Any, Final

_NAMES: Final = ("certifi", "service_identity", "service_identity.cryptography", "OpenSSL", "OpenSSL.crypto")


class _Later(ModuleType):
    """A module that is imported when an attribute of it is asked for."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # the import system looks for some of these, and does not mean to use the module
            raise AttributeError(name)
        return getattr(importlib.import_module(self.__name__), name)


def spare() -> None:
    """Imports ``aioquic.tls``, unless that is done already. Modules that others have imported stay as they are."""
    if "aioquic.tls" in sys.modules:
        return
    absent = {name: _Later(name) for name in _NAMES if name not in sys.modules}
    for name, module in absent.items():
        package, _, child = name.rpartition(".")
        if package in absent:
            setattr(absent[package], child, module)
    sys.modules.update(absent)
    try:
        importlib.import_module("aioquic.tls")
    finally:
        for name, module in absent.items():
            if sys.modules.get(name) is module:
                del sys.modules[name]
