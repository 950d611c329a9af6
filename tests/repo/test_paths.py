"""Files that others name are there: a file that moves takes its mentions along."""

import re
import subprocess

import pytest

from lab import ROOT

TRACKED = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
"""Empty outside a checkout, as in an unpacked sdist."""
FOLDERS = "bench|cryprq|csrc|deploy|docs|findings|lab|qa|release|scripts|tests"
BEFORE = r"(?:^|[\s\"'`(=]|\$\w+/|\{project\}/|\.\./|(?<![\w.])\./)"
SUFFIXES = "c|h|in|json|lock|lua|map|md|py|pyi|pyx|sh|svg|toml|txt|yml"
NAMED = re.compile(rf"{BEFORE}((?:{FOLDERS})/[\w./-]*\w\.(?:{SUFFIXES}))\b", re.MULTILINE)
MODULE = re.compile(r"``(cryprq(?:\.[a-z_]+)+)(?:\.[A-Z]\w*)?``")
MADE_UP = (
    "tests/repo/test_docs.py",
    "tests/repo/test_paths.py",
    "tests/repo/test_release.py",
    "tests/repo/test_wheel_contents.py",
)
"""They speak of files that they make up: of pages, or in wheels."""
GENERATED = ("cryprq/_build.py", "cryprq/_fastpath.c")


def texts() -> dict[str, str]:
    """Tracked files that people or programs read for the names in them; not data."""
    skipped = (".json", ".lock", ".png", ".svg")
    named = [name for name in TRACKED if not name.endswith(skipped) and not name.startswith("tests/corpus/")]
    names = [name for name in named if name not in MADE_UP]
    return {name: (ROOT / name).read_text() for name in names if (ROOT / name).is_file()}


@pytest.mark.skipif(not TRACKED, reason="not a git checkout")
def test_files_that_are_named_exist() -> None:
    missing = {
        f"{name}: {path}"
        for name, text in texts().items()
        for path in NAMED.findall(text)
        if not (ROOT / path).exists() and path not in GENERATED and "VERSION" not in path
    }
    assert not missing


@pytest.mark.skipif(not TRACKED, reason="not a git checkout")
def test_modules_that_are_named_exist() -> None:
    missing = {
        f"{name}: {module}"
        for name, text in texts().items()
        for module in MODULE.findall(text)
        if not any((ROOT / path).exists() for path in _paths(module))
    }
    assert not missing


def _paths(module: str) -> tuple[str, ...]:
    path = module.replace(".", "/")
    owner = path.rpartition("/")[0]
    return (path, f"{path}.py", f"{path}.pyi", f"{owner}.py")  # the last one: a function of a module
