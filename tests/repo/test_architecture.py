"""docs/architecture.md keeps its word: the list of files is that of the tree, and what a packet or a handshake passes
through is where it says."""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from lab import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text()
TREE = PAGE.split("```")[1]

NAMED = re.compile(r"`([\w/]+\.(?:py|c))`((?: `[\w.]+`,?)+)")
"""A file, and after it what is in it."""


def listed() -> Iterator[Path]:
    """The files that the list has. A folder's line ends in a slash, its files follow, several divided by commas."""
    folders: list[str] = []
    for line in filter(None, TREE.splitlines()):
        names = re.split(r" {2,}", line.strip())[0]
        if names.endswith("/"):
            folders[(len(line) - len(line.lstrip())) // 2 :] = [names.rstrip("/")]
        else:
            yield from (Path(*folders, name) for name in names.split(", "))


def test_list_has_every_file_of_the_package_and_of_csrc_and_no_other() -> None:
    sources = [path for path in (ROOT / "cryprq").rglob("*.p*") if path.suffix in (".py", ".pyi", ".pyx", ".pxd")]
    sources += [path for path in (ROOT / "csrc").iterdir() if path.suffix in (".c", ".h")]
    generated = ("__init__", "_build")
    there = {path.relative_to(ROOT).with_suffix("") for path in sources if path.stem not in generated}
    found = list(listed())
    assert set(found) ^ there == set()
    assert len(found) == len(set(found))


@cache
def names_in(path: Path) -> frozenset[str]:
    """Functions and classes of a file; a method with its class."""
    if path.suffix == ".c":
        return frozenset(re.findall(r"^\w[\w \*]*\b(\w+)\([^;]*$", path.read_text(), re.MULTILINE))
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.add(node.name)
            found |= {
                f"{node.name}.{method.name}"
                for method in node.body
                if isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef)
            }
    return frozenset(found)


def test_functions_that_are_named_are_in_the_files_that_are_named() -> None:
    places = [
        (ROOT / ("csrc" if file.endswith(".c") else "cryprq") / file, name)
        for file, names in NAMED.findall(PAGE)
        for name in re.findall(r"[\w.]+", names)
    ]
    assert len(places) > 30
    assert not [(path.name, name) for path, name in places if not path.is_file() or name not in names_in(path)]
