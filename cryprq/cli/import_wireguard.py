"""``cryprq import wireguard FILE``: a configuration of WireGuard as one of ours, and what could not be carried over."""

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from cryprq.config import psk_file, wireguard_file, wireguard_import
from cryprq.config.private_file import remedy
from cryprq.errors import ConfigError, MachineError
from cryprq.peer_id import PeerId

_MODE: Final = 0o644
"""Of the configuration: no secret is in it."""


def run(arguments: argparse.Namespace) -> int:
    """The configuration goes to ``--out`` or stdout, remarks to stderr."""
    path = Path(arguments.file)
    try:
        file = wireguard_file.parse(_read(path))
    except ConfigError as error:
        raise ConfigError(f"{path} {error}") from None
    imported = wireguard_import.translate(file, dict(map(_id, arguments.id)))
    out = None if arguments.out is None else Path(arguments.out)
    if out is not None:
        _refuse_existing(out, imported.psks())
    for line in imported.report(os.fspath(path)):
        print(line, file=sys.stderr)
    text = imported.toml(path.name)
    if out is None:
        print(text, end="")
        _say(f"{name} is not written: give --out FILE" for name in imported.psks())
        return 0
    _write(out, text, imported.psks())
    _say([f"next: cryprq-node --check --config {out}"])
    return 0


def _say(lines: Iterable[str]) -> None:
    for line in lines:
        print(line, file=sys.stderr)


def _id(text: str) -> tuple[str, PeerId]:
    name, _, peer = text.rpartition("=")  # a public key ends in =
    if not name:
        raise ConfigError(f"--id {wireguard_file.shown(text)}: the form is NAME=ID")
    try:
        return name, PeerId.parse(peer)
    except ValueError as error:
        raise ConfigError(f"--id: {error}") from None


def _read(path: Path) -> bytes:
    """All of the file, which may be a pipe (``<(sudo cat ...)``)."""
    try:
        with path.open("rb") as file:
            data = file.read(wireguard_file.SIZE_MAX + 1)
    except OSError as error:
        raise MachineError(f"cannot read {path}: {error.strerror}{remedy(error)}") from None
    if len(data) > wireguard_file.SIZE_MAX:
        raise ConfigError(f"{path} has more than {wireguard_file.SIZE_MAX} bytes: it is no configuration of WireGuard")
    return data


def _refuse_existing(out: Path, psks: Iterable[str]) -> None:
    for path in (out, *(out.parent / name for name in psks)):
        if os.path.lexists(path):
            raise MachineError(f"{path} exists already and is not overwritten; move it away or choose another --out")


def _write(out: Path, text: str, psks: dict[str, str]) -> None:
    """The keys first, so that the configuration names nothing that is not there. Nothing is replaced."""
    paths = {out.parent / name: psk for name, psk in psks.items()}
    for path, psk in paths.items():
        psk_file.create_psk(path, psk)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE), "w") as file:
            file.write(text)
    except OSError as error:
        raise MachineError(f"cannot make {out}: {error.strerror}{remedy(error)}") from None
