"""Writes docs/status.schema.json and docs/doctor.schema.json: what ``cryprq status`` and ``cryprq doctor`` print with
``--json``, for programs (JSON Schema 2020-12).

    .venv/bin/python scripts/make_schemas.py [--check]

Types are those of the dataclasses in ``cryprq/telemetry/samples.py`` and ``cryprq/node/findings.py``, descriptions
their docstrings. With ``--check`` nothing is written, and the exit status is 1 if a file is not as it would be.
"""

import argparse
import ast
import inspect
import itertools
import json
import sys
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from cryprq.node.findings import Finding, Report
from cryprq.telemetry.samples import NodeStatus, PeerSample

DOCS = Path(__file__).parents[1] / "docs"
_PLAIN = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def schema(kind: type = NodeStatus, command: str = "status") -> dict[str, Any]:
    """The whole of one. Fields may come at any time, so unknown ones are allowed; none goes."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"cryprq {command} --json",
        **_object(kind),
    }


def schemas() -> dict[str, dict[str, Any]]:
    """All of them, by the names of their files."""
    return {
        "status.schema.json": schema(),
        "doctor.schema.json": schema(Report, "doctor"),
    }


def _object(kind: type) -> dict[str, Any]:
    hints = typing.get_type_hints(kind)
    told = _docstrings(kind)
    return {
        "description": inspect.cleandoc(kind.__doc__ or "").replace("``", "").replace("\n", " "),
        "type": "object",
        "properties": {
            each.name: {**_type(hints[each.name]), **_described(told.get(each.name))} for each in fields(kind)
        },
        "required": [each.name for each in fields(kind)],
    }


def _described(text: str | None) -> dict[str, str]:
    return {} if text is None else {"description": " ".join(text.replace("``", "").split())}


def _docstrings(kind: type) -> dict[str, str]:
    """What stands below each field of a class."""
    tree = ast.parse(inspect.getsource(sys.modules[kind.__module__]))
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    found = {}
    for line, below in itertools.pairwise(body):
        match line, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = text
    return found


def _type(hint: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint in _PLAIN:
        return {"type": _PLAIN[hint]}
    if origin is types.UnionType:
        return {"type": [_PLAIN[each] for each in arguments]}
    if origin in (tuple, Sequence):
        item = arguments[0]
        return {"type": "array", "items": _object(item) if item in (PeerSample, Finding) else _type(item)}
    if origin is Mapping:
        return {"type": "object", "additionalProperties": _type(arguments[1])}
    raise TypeError(f"no JSON type for {hint}")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if the file is out of date")
    check = parser.parse_args().check
    stale = False
    for name, found in schemas().items():
        path, text = DOCS / name, json.dumps(found, indent=2) + "\n"
        stale |= not path.exists() or path.read_text() != text
        if not check:
            path.write_text(text)
    return int(check and stale)


if __name__ == "__main__":
    sys.exit(main())
