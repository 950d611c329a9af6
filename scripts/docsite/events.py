"""The events that a node can log, read from its sources: where a log is called, by which name and with which fields."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import cryprq

_LEVELS: Final = ("debug", "info", "warning", "error")
_LEVEL_FIRST: Final = ("limited", "about_peer", "defect")
"""Methods of a log whose first argument is the level; ``_changed`` has a kind of change there."""


@dataclass(slots=True)
class Event:
    """What the sources say of one event."""

    levels: list[str] = field(default_factory=list)
    fields: list[str] = field(default_factory=list)
    meaning: str = ""


def all_of(package: Path = Path(cryprq.__file__).parent) -> list[tuple[str, Event]]:
    """Those of the package, by name."""
    found: dict[str, Event] = {}
    for path in sorted(package.rglob("*.py")):
        if path.name != "logs.py":
            told_by_methods = path.name == "reporter.py"  # its methods have one event each, and say what it is
            for name, event in _events(ast.parse(path.read_text()), told_by_methods):
                known = found.setdefault(name, Event())
                known.levels += [level for level in event.levels if level not in known.levels]
                known.fields = list(dict.fromkeys((*known.fields, *event.fields)))
                known.meaning = known.meaning or event.meaning
    return sorted(found.items())


def _events(module: ast.Module, told_by_methods: bool) -> Iterator[tuple[str, Event]]:
    told = _lists(module)
    for function in ast.walk(module):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            local = told | _lists(function)
            meaning = ast.get_docstring(function) if told_by_methods else None
            for call in ast.walk(function):
                if isinstance(call, ast.Call):
                    for name, level in _named(call, local):
                        yield name, Event([level], _fields(call, local), _first_sentence(meaning or ""))


def _lists(where: ast.AST) -> dict[str, list[str]]:
    """Words in the dictionaries of a module or a function, by the variable: values of a module's, keys of others."""
    found = {}
    for each in ast.walk(where):
        if isinstance(each, ast.Assign | ast.AnnAssign) and isinstance(each.value, ast.Dict):
            target = each.targets[0] if isinstance(each, ast.Assign) else each.target
            words = (
                each.value.values
                if isinstance(where, ast.Module) and ast.unparse(target).isupper()
                else each.value.keys
            )
            found[ast.unparse(target)] = [str(word.value) for word in words if isinstance(word, ast.Constant)]
    return found


def _named(call: ast.Call, told: dict[str, list[str]]) -> Iterator[tuple[str, str]]:
    """Names and levels of what a call logs; none, if it is none of a log."""
    functions = [call.func.body, call.func.orelse] if isinstance(call.func, ast.IfExp) else [call.func]
    for function in functions:
        if not isinstance(function, ast.Attribute) or not call.args:
            continue
        method, owner = function.attr, ast.unparse(function.value)
        is_log = "log" in owner.rpartition(".")[2]
        if is_log and method in _LEVELS:
            level, at = method, 0
        elif (is_log and method in _LEVEL_FIRST) or (owner == "self" and method == "_changed"):
            level = str(first.value) if isinstance(first := call.args[0], ast.Constant) else ""
            level, at = (level if level in _LEVELS else "info"), 1
        else:
            continue
        name = call.args[at]
        if isinstance(name, ast.Constant):
            yield str(name.value), level
        elif isinstance(name, ast.Subscript):
            yield from ((each, level) for each in told.get(ast.unparse(name.value), ()))


def _fields(call: ast.Call, told: dict[str, list[str]]) -> list[str]:
    names = []
    for keyword in call.keywords:
        if keyword.arg is not None:
            names.append(keyword.arg)
        elif isinstance(keyword.value, ast.Name):
            names += told.get(keyword.value.id, ())
        elif isinstance(keyword.value, ast.Call):
            names += [each.arg for each in keyword.value.keywords if each.arg is not None]
    return [name for name in names if name != "again"]


def _first_sentence(docstring: str) -> str:
    """Without what it says of arguments."""
    text = " ".join(docstring.replace("``", "`").split())
    return text.partition(". ")[0].partition("; `")[0].rstrip(".") + "." if text else ""
