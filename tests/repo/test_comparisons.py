"""Values that a secret goes into are compared in constant time: by hmac.compare_digest, and never by ``==``."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import ROOT

SECRET = re.compile(
    r"(?:^|_)(?:tag|tags|mac|hmac|knock|secret|secrets|seed|root|key|keys|shared|signature|check)(?:_[ri])?$"
)
"""Names of such values, as they are used in ``cryprq/``."""
PUBLIC = {
    ("cryprq/cli/tool.py", "signature"),  # the name of an algorithm
    ("cryprq/config/file_access.py", "tag"),  # of an entry of an ACL
    ("cryprq/config/peer_entries.py", "key"),  # of a table
    ("cryprq/config/peer_files.py", "signature"),  # of a file: inode, size and times
    ("cryprq/config/wireguard_file.py", "key"),  # of a line
    ("cryprq/linux/rtnetlink.py", "key"),  # of an attribute
    ("cryprq/protocol/kem.py", "encapsulation_key"),  # a size
    ("cryprq/protocol/oqs_kem.py", "encapsulation_key"),  # likewise
    ("cryprq/quic/qlog.py", "key"),  # of a field
    ("cryprq/telemetry/logs.py", "key"),  # likewise
}
"""Where such a name means something else."""


def words(node: ast.expr) -> Iterator[str]:
    """The names in an expression that say what it is: of variables, attributes and functions that are called."""
    if isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.Call):
        yield from words(node.func)
    elif isinstance(node, ast.Subscript | ast.Starred):
        yield from words(node.value)
    elif isinstance(node, ast.BinOp):
        yield from (*words(node.left), *words(node.right))


def faults(path: Path, text: str) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Compare) and any(isinstance(op, ast.Eq | ast.NotEq) for op in node.ops):
            for name in (word for side in (node.left, *node.comparators) for word in words(side)):
                if SECRET.search(name) and (str(path), name) not in PUBLIC:
                    found.append(f"{path}:{node.lineno}: {name} is compared by == or !=")
    return found


def test_no_secret_is_compared_by_equality() -> None:
    paths = [path.relative_to(ROOT) for path in sorted(ROOT.glob("cryprq/**/*.py"))]
    assert [fault for path in paths for fault in faults(path, (ROOT / path).read_text())] == []


@pytest.mark.parametrize(
    "line", ["if tag == self._expected_tag: pass", "ok = knock[:32] != expected", "return hmac.digest() == body[3:]"]
)
def test_a_comparison_is_seen(line: str) -> None:
    text = "def function():\n    " + line.replace("hmac.digest", "check")
    assert len(faults(Path("x.py"), text)) >= 1
