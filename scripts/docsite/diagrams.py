"""State diagrams of Mermaid, which a forge draws in the browser, as Graphviz, which is drawn when the site is built.

Only the lines that pages have are known: ``tests/repo/test_markdown.py`` holds them to that.
"""

import re
import textwrap
from collections.abc import Iterator
from typing import Final

_BLOCK: Final = re.compile(r"^```mermaid\nstateDiagram-v2\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ARROW: Final = re.compile(r"(\S+) --> (\S+)(?: : (.+))?")
_NAMED: Final = re.compile(r'state "(.+)" as (\w+)')
_NOTE: Final = re.compile(r"note right of (\w+) : (.+)")
_DIRECTION: Final = re.compile(r"direction (LR|TB)")
_LABEL_WIDTH: Final = 24
"""Characters of a line; the graph grows with the longest."""


def replaced(page: str) -> str:
    """The page with directives for Graphviz in the place of its diagrams; ValueError for a line of another kind."""
    return _BLOCK.sub(lambda found: f"```{{graphviz}}\n{graph(found[1])}```", page)


def graph(diagram: str) -> str:
    """The source for ``dot``, from the lines below ``stateDiagram-v2``."""
    lines = [
        "digraph {",
        '    graph [bgcolor=transparent, fontname="sans-serif"];',
        '    node [shape=box, style="rounded,filled", fillcolor="#e8eef7", color="#5b7aa8", fontname="sans-serif"];',
        '    edge [color="#5b7aa8", fontcolor="#5b7aa8", fontname="sans-serif", fontsize=10];',
    ]
    for line in diagram.splitlines():
        lines += (f"    {each};" for each in _statements(line.strip()))
    return "\n".join([*lines, "}"]) + "\n"


def _statements(line: str) -> Iterator[str]:
    if found := _ARROW.fullmatch(line):
        ends = []
        for end, name in enumerate(found.group(1, 2)):
            if name == "[*]":
                name = ("begin", "end")[end]
                size = 'shape=circle, label="", width=0.15, fillcolor="#5b7aa8"'
                yield f"{name} [{size}{', peripheries=2' if end else ''}]"
            ends.append(name)
        yield f"{ends[0]} -> {ends[1]}{f' [label={_quoted(found[3])}]' if found[3] else ''}"
    elif found := _NAMED.fullmatch(line):
        yield f"{found[2]} [label={_quoted(found[1])}]"
    elif found := _NOTE.fullmatch(line):
        yield f"note_{found[1]} [shape=note, style=filled, label={_quoted(found[2])}]"
        yield f"{found[1]} -> note_{found[1]} [arrowhead=none, style=dashed]"
    elif found := _DIRECTION.fullmatch(line):
        yield f"rankdir={found[1]}"
    else:
        raise ValueError(f"no line of a state diagram: {line}")


def _quoted(label: str) -> str:
    """In lines of a moderate width."""
    text = "\\n".join(textwrap.wrap(label, _LABEL_WIDTH))
    return '"' + text.replace('"', '\\"') + '"'
