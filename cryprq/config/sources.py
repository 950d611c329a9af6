"""Where options come from: command line, environment, TOML file. Texts only; ``Option.read`` gives them meaning."""

from argparse import Namespace
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from cryprq.config import toml_file
from cryprq.config.options import Given, Option

FILE_OPTION: Final = "config"
"""The option that names the file; it cannot stand in it."""


def collect(options: Iterable[Option], arguments: Namespace, environ: Mapping[str, str]) -> dict[str, Sequence[Given]]:
    """What was said about each option, by its name, strongest source first: flag, environment, file. Options about
    which nobody said anything are absent.

    ConfigError for a bad file, MachineError for one that cannot be read.
    """
    found: dict[str, list[Given]] = {}
    in_file: dict[str, Option] = {}
    for option in options:
        found[option.name] = [*_on_command_line(option, arguments), *_in_environment(option, environ)]
        if option.name != FILE_OPTION:
            in_file[option.name] = option
    if (files := found.get(FILE_OPTION)) and (name := files[0].texts[0]):
        path = Path(name)
        for name, texts in toml_file.read(path, in_file).items():
            found[name].append(Given(f"{path}: {name}", texts))
    return {name: given for name, given in found.items() if given}


def _on_command_line(option: Option, arguments: Namespace) -> Iterable[Given]:
    value = vars(arguments)[option.name]
    if option.metavar is None:
        return [Given(option.flag, ("true",))] if value else []
    if value is None:
        return []
    return [Given(option.flag, tuple(value) if option.many else (value,))]


def _in_environment(option: Option, environ: Mapping[str, str]) -> Iterable[Given]:
    """An empty variable counts as unset."""
    if option.env is None:
        return []
    if text := environ.get(option.env, "").strip():
        return [Given(option.env, option.split(text))]
    if option.else_env is not None:
        variable, find = option.else_env
        if found := find(environ.get(variable, "")):
            return [Given(variable, (found,))]
    return []
