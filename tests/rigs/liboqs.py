"""liboqs for tests: the one that ``make test-oqs`` has built in this checkout, or another that is installed."""

import os
from types import ModuleType
from unittest import mock

from cryprq.protocol import liboqs
from lab import ROOT


def prefix() -> str:
    """Where a liboqs is looked for that the linker does not find."""
    return os.environ.get(liboqs.INSTALL_PATH, str(ROOT / "build" / "liboqs"))


def load() -> ModuleType:
    """The module ``oqs``. LiboqsMissing where there is no library."""
    with mock.patch.dict(os.environ, {liboqs.INSTALL_PATH: prefix()}):
        return liboqs.load()
