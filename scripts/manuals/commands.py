"""What the programs take, as pages and completions need it: read from their argument parsers."""

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

_FILE_METAVARS: Final = ("FILE", "PATH", "PROGRAM")
_SUMMARY_MAX: Final = 60


@dataclass(frozen=True, slots=True)
class Argument:
    """A flag, or what stands without one."""

    name: str
    """With its dashes, if it is a flag."""
    metavar: str | None
    """What stands behind the flag; None: nothing."""
    help: str
    words: tuple[str, ...] = ()
    """All values that it can have, where they can be told."""
    optional: bool = True
    many: bool = False

    @property
    def is_file(self) -> bool:
        return self.metavar in _FILE_METAVARS

    @property
    def summary(self) -> str:
        """The first part of the help, for a line of a menu."""
        return summary(self.help)


@dataclass(frozen=True, slots=True)
class Command:
    """A program, or a command of one."""

    name: str
    """All of its words, without the program's."""
    help: str
    flags: tuple[Argument, ...]
    positionals: tuple[Argument, ...]
    commands: tuple["Command", ...] = field(default=())

    def walk(self) -> Iterator["Command"]:
        """This command and all below it, each after the one that it belongs to."""
        yield self
        for command in self.commands:
            yield from command.walk()

    @property
    def word(self) -> str:
        """The last word of its name."""
        return self.name.rpartition(" ")[2]


def summary(text: str) -> str:
    """As much of a help text as fits into a menu: up to where it goes into detail, or else to a whole word."""
    short = re.split(r"[;:] | \[| \(", text)[0]
    if len(short) > _SUMMARY_MAX:
        short = short[: _SUMMARY_MAX - 3].rpartition(" ")[0] + "..."
    return short


def of(parser: argparse.ArgumentParser, words: dict[str, tuple[str, ...]], name: str = "", help: str = "") -> Command:
    """The command of a parser. ``words`` has values of flags that the parser leaves to others to check."""
    flags: list[Argument] = []
    positionals: list[Argument] = []
    commands: list[Command] = []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {each.dest: each.help or "" for each in action._choices_actions}
            for word, below in action.choices.items():
                commands.append(of(below, words, f"{name} {word}".strip(), helps[word]))
        elif action.option_strings:
            flags.append(_argument(action, action.option_strings[-1], words))
        else:
            positionals.append(_argument(action, str(action.metavar or action.dest), words))
    return Command(name, help or parser.description or "", tuple(flags), tuple(positionals), tuple(commands))


def _argument(action: argparse.Action, name: str, words: dict[str, tuple[str, ...]]) -> Argument:
    metavar = None if action.nargs == 0 else str(action.metavar or action.dest.upper())
    return Argument(
        name=name,
        metavar=metavar,
        help=(action.help or "").replace("%%", "%"),
        words=tuple(map(str, action.choices)) if action.choices else words.get(name, ()),
        optional=bool(action.option_strings) or action.nargs == "?",
        many=isinstance(action, argparse._AppendAction) or action.nargs in ("*", "+"),
    )
