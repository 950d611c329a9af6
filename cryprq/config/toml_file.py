"""The configuration file: TOML whose keys are the options' names, with - or _, and whose values become texts."""

import os
import stat
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from cryprq.config import peer_entries
from cryprq.config.nearest import nearest
from cryprq.config.options import Option
from cryprq.config.private_file import remedy
from cryprq.errors import ConfigError, MachineError

_TYPE_NAMES: Final = {bool: "true or false", int: "a whole number", str: "a string"}


def read(path: Path, options: Mapping[str, Option]) -> dict[str, tuple[str, ...]]:
    """What the file gives, by the option's name, as the flags would spell it. ConfigError names the key that is wrong;
    MachineError if the file cannot be read."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if stat.S_ISFIFO(os.fstat(file.fileno()).st_mode):  # nobody might ever write to it
                raise MachineError(f"the configuration file {path} is a pipe, not a file")
            document = tomllib.load(file)
    except OSError as error:
        raise MachineError(f"cannot read the configuration file {path}: {error.strerror}{remedy(error)}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        hint = f"; {_OF_WIREGUARD}" if _is_of_wireguard(path) else ""
        raise ConfigError(f"{path} is not valid TOML: {error}{hint}") from None
    given: set[str] = set()
    found: dict[str, list[str]] = {}
    for key, value in document.items():
        name = key.replace("_", "-")
        if name not in options:
            near = nearest(name, options)
            hint = f"did you mean {near!r}?" if near is not None else f"known are {', '.join(options)}"
            if key == "Interface":
                hint = _OF_WIREGUARD
            raise ConfigError(f"unknown key {key!r} in {path}; {hint}")
        if name in given:
            raise ConfigError(f"{name!r} is given twice in {path}, with - and with _")
        given.add(name)
        option = options[name]
        if name == "peer" and isinstance(value, dict):
            for about, text in _peers(value, path):
                found.setdefault(about, []).append(text)
            continue
        if option.toml_entry is not None and isinstance(value, dict):
            found.setdefault(name, [])  # an empty table says that there is nothing
            for about, text in _entries(option, value, options, path):
                found.setdefault(about, []).append(text)
        else:
            found.setdefault(name, []).extend(_texts(option, value, path))
    return {name: tuple(texts) for name, texts in found.items()}


def _peers(table: Mapping[str, object], path: Path) -> Iterator[tuple[str, str]]:
    """Tables ``[peer.NAME]``: the options that each says something about."""
    for name, entry in table.items():
        if not isinstance(entry, dict):
            raise ConfigError(f"{name!r} under 'peer' in {path} must be a table: [peer.{name}] with an id")
        try:
            for about, _, text in peer_entries.from_table(name, entry, path.parent):
                yield about, text
        except ValueError as error:
            raise ConfigError(f"[peer.{name}] in {path}: {error}") from None


def _entries(
    option: Option, table: Mapping[str, object], options: Mapping[str, Option], path: Path
) -> Iterator[tuple[str, str]]:
    """The entries of an option that is a table, each with the option that it is about."""
    for key, value in table.items():
        if not (option.toml_columns and isinstance(value, dict)):
            yield option.name, _entry(option, key, value, path)
            continue
        columns = {name.replace("_", "-"): part for name, part in value.items()}
        for name in columns:
            if name not in option.toml_columns:
                known = ", ".join(option.toml_columns)
                raise ConfigError(f"unknown key {name!r} in {key!r} under {option.name!r} in {path}; known are {known}")
        for name, about in option.toml_columns.items():
            if name in columns:
                yield about, _entry(options[about], key, columns[name], path)
            elif about == option.name:
                yield about, key  # named, with nothing said of it


def _texts(option: Option, value: object, path: Path) -> tuple[str, ...]:
    items = value if option.many and isinstance(value, list) else [value]
    # bool is a subclass of int, and yet no number.
    if not all(type(item) in option.toml for item in items):
        expected = " or ".join(_TYPE_NAMES[each] for each in option.toml)
        raise ConfigError(f"{option.name!r} in {path} must be {expected}{' or a list of strings' * option.many}")
    texts = (str(item).lower() if isinstance(item, bool) else str(item) for item in items)
    return tuple(str(path.parent / text) if option.is_path and text else text for text in texts)


def _entry(option: Option, key: str, value: object, path: Path) -> str:
    assert option.toml_entry is not None
    try:
        return option.toml_entry(key, value, path.parent)
    except ValueError as error:
        raise ConfigError(f"{key!r} under {option.name!r} in {path} {error}") from None


_OF_WIREGUARD: Final = "that is a file of WireGuard, and `cryprq import wireguard FILE` makes one of ours of it"


def _is_of_wireguard(path: Path) -> bool:
    try:
        return "[Interface]" in path.read_text(errors="replace")
    except OSError:
        return False
