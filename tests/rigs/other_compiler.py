"""The compiled data plane, built by another compiler than the package was."""

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from lab import ROOT

_FLAGS = ("-std=gnu11", "-O3", "-fstack-protector-strong", "-fvisibility=hidden", "-fPIC", "-shared", "-pthread")
"""As in setup.py."""


def build_extension(compiler: str) -> Path:
    """``cryprq._fastpath`` by this compiler, in ``build/``; made anew if a source is newer. Skips if there is none."""
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    sources = [ROOT / "cryprq" / "_fastpath.c", *sorted(ROOT.glob("csrc/*.c"))]
    target = ROOT / "build" / compiler / "_fastpath.so"
    newest = max(path.stat().st_mtime for path in [*sources, *ROOT.glob("csrc/*.h")])
    if not target.exists() or target.stat().st_mtime < newest:
        target.parent.mkdir(parents=True, exist_ok=True)
        include = f"-I{sysconfig.get_path('include')}"
        macro = "-DPy_LIMITED_API=0x030b0000"
        subprocess.run(
            [compiler, *_FLAGS, "-w", macro, include, f"-I{ROOT / 'csrc'}", *sources, "-lcrypto", "-o", target],
            check=True,
        )
    return target


def use_extension(path: str) -> None:
    """From now on ``cryprq._fastpath`` is the one in this file. Before anything of the package is imported."""
    assert "cryprq" not in sys.modules
    spec = importlib.util.spec_from_file_location("cryprq._fastpath", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["cryprq._fastpath"] = module
    spec.loader.exec_module(module)
