"""A manual page: man(7), as man-db and mandoc read it."""

import textwrap
from collections.abc import Iterable, Iterator
from typing import Final

from manuals.commands import Argument, Command

_WIDTH: Final = 72
"""Columns of a source line; signs that are quoted add to it."""


def text(words: str) -> str:
    """A line of text: what roff would take for a command, or for another sign, is quoted."""
    line = words.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq").replace("^", r"\(ha")
    line = line.replace("~", r"\(ti")
    return rf"\&{line}" if line.startswith((".", "'")) else line


def prose(words: str) -> list[str]:
    """Text of any length, as lines that are filled when it is shown."""
    return [text(line) for line in textwrap.wrap(words, _WIDTH, break_long_words=False, break_on_hyphens=False)]


def page(name: str, section: str, what: str, body: Iterable[str]) -> str:
    """The page of a program: its heading, its name in one line, and what follows."""
    volume = "User Commands" if section == "1" else "System Administration"
    lines = [
        '.\\" Written by scripts/make_manuals.py; do not edit.',
        f'.TH "{name.upper()}" "{section}" "" "CrypRQ" "{volume}"',
        *heading("NAME"),
        f"{text(name)} \\- {text(what)}",
        *body,
    ]
    return "\n".join(lines) + "\n"


def heading(words: str) -> list[str]:
    return [f'.SH "{words}"']


def subheading(words: str) -> list[str]:
    return [f'.SS "{text(words)}"']


def paragraph(words: str) -> list[str]:
    return [".PP", *prose(words)]


def example(lines: Iterable[str]) -> list[str]:
    return [".PP", ".nf", ".RS 4", *map(text, lines), ".RE", ".fi"]


def item(tag: str, words: str) -> list[str]:
    """An entry of a list; the tag is made up already."""
    return [".TP", tag, *prose(words)]


def argument(each: Argument) -> list[str]:
    return item(spelled(each), each.help)


def spelled(each: Argument) -> str:
    r"""The argument in bold, what it takes in italics: ``\fB\-\-mtu\fR \fIN\fR``."""
    if not each.name.startswith("-"):
        return rf"\fI{text(each.name)}\fR"
    behind = "" if each.metavar is None else rf" \fI{text(each.metavar)}\fR"
    return rf"\fB{text(each.name)}\fR{behind}"


def synopsis(program: str, command: Command) -> str:
    """How it is called, on one line: the program and the command in bold, flags that may be left out in brackets."""
    words = [rf"\fB{text(f'{program} {command.name}'.strip())}\fR"]
    words += [f"[{spelled(flag)}]" for flag in command.flags if flag.name != "--help"]
    for each in command.positionals:
        words.append(f"[{spelled(each)}]" if each.optional else spelled(each))
    return " ".join(words)


def listed(arguments: Iterable[Argument]) -> Iterator[str]:
    for each in arguments:
        yield from argument(each)
