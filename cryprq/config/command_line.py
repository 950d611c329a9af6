"""The command line: a flag for each option. Values stay text, which ``Option.read`` checks wherever it came from."""

import argparse
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from cryprq.config.nearest import nearest
from cryprq.config.options import Option, table
from cryprq.errors import ConfigError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are a ConfigError instead of usage text and an exit."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{_in_our_words(message)}{self._meant(message)}; see {self.prog} --help")

    def _meant(self, message: str) -> str:
        """The flag that an unknown one is nearly, of this program or one of its commands."""
        found = _UNKNOWN_FLAG.match(message)
        if found is None:
            return ""
        near = nearest(found[1], {flag.lstrip("-"): None for flag in _flags(self)})
        return "" if near is None else f"; did you mean --{near}?"


def _flags(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from (flag for flag in action.option_strings if flag.startswith("--"))
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _flags(command)


_UNKNOWN_FLAG: Final = re.compile(r"unrecognized arguments: --?([a-zA-Z][\w-]+)")
_VALUE_OF_SWITCH: Final = re.compile(r"argument (\S+): ignored explicit argument .*")
_UNKNOWN_CHOICE: Final = re.compile(r"argument (.+): invalid choice: '(.*)' \(choose from (.*)\)")


def _in_our_words(message: str) -> str:
    """What argparse says of two mistakes, with what to do about them."""
    if (found := _VALUE_OF_SWITCH.fullmatch(message)) is not None:
        return f"{found[1]} takes no value: give it alone, or leave it out"
    if (found := _UNKNOWN_CHOICE.fullmatch(message)) is not None:
        what, given, listed = found.groups()
        names = [name.strip(" '") for name in listed.split(",")]
        near = nearest(given, names)
        hint = f"did you mean {near}?" if near is not None else f"valid are {', '.join(names)}"
        return f"{what} {given!r} is unknown; {hint}"
    return message


class _StoreLast(argparse.Action):
    """Keeps the last of several values, as ``store`` does, and remembers that there were others."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[Any] | None,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            namespace.given_again = {*namespace.given_again, self.dest}
        setattr(namespace, self.dest, values)


def parser(config: "type[DataclassInstance]") -> OneLineParser:
    """The parser of ``cryprq-node``, which takes the options of this class. What it parses has them by name, and in
    ``given_again`` the names of those that were given in vain before."""
    result = OneLineParser(
        prog="cryprq-node",
        description="A post-quantum VPN node. A flag beats the environment, which beats the file.",
    )
    result.set_defaults(given_again=frozenset())
    for option in table(config).values():
        if option.metavar is None:
            result.add_argument(option.flag, dest=option.name, action="store_true", help=_help(option))
        else:
            result.add_argument(
                option.flag,
                dest=option.name,
                action="append" if option.many else _StoreLast,
                metavar=option.metavar,
                help=_help(option),
            )
    result.add_argument("--check", action="store_true", help="validate, print the effective configuration and exit")
    result.add_argument("--version", action="store_true", help="print version and build and exit")
    return result


def _help(option: Option) -> str:
    """What it does, (its default), and [its variables]."""
    text = option.help
    if option.default_text != "none":
        text += f" ({option.default_text})"
    if option.env is not None:
        text += f" [{option.env}]" if option.else_env is None else f" [{option.env}, else {option.else_env[0]}]"
    return text.replace("`", "").replace("%", "%%")
