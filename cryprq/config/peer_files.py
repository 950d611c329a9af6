"""The directory of ``--allow-peer-dir``: a file ``NAME.toml`` for each peer, with the keys of a table ``[peer.NAME]``.

A file that is wrong costs nobody else anything: what it said before stays in force, and a line says what is wrong and
where. One that is only being written is not read before it is complete (``unfinished``).
"""

import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryprq.config import peer_entries
from cryprq.config.options import Given
from cryprq.config.private_file import remedy
from cryprq.errors import ConfigError, MachineError
from cryprq.peer_name import peer_name

SUFFIX: Final = ".toml"
SIZE_MAX: Final = 65_536
"""Bytes of a file: a thousand networks, and not what somebody put there by mistake."""
_TOML_PLACE: Final = re.compile(r"(.*) \(at line (\d+), column \d+\)", re.DOTALL)
_MESSAGE: Final = re.compile(r"([^:]*): (.*)", re.DOTALL)

Said = Mapping[str, tuple[Given, ...]]
"""What one file says, by the option that it is about."""


@dataclass(frozen=True, slots=True)
class _Read:
    signature: tuple[int, ...]
    said: Said | None
    fault: str | None


class PeerFiles:
    """Remembers, from one reading to the next, what files said while they were right."""

    def __init__(self) -> None:
        self.unfinished: frozenset[str] = frozenset()
        """Names of files that somebody is writing to: what they said before counts."""
        self._directory: Path | None = None
        self._read: dict[str, _Read] = {}
        self._good: dict[str, Said] = {}

    def read(self, directory: Path) -> None:
        """Looks at all files; those that have not changed are not read again. MachineError if there is no directory."""
        if directory != self._directory:
            self._directory, self._read, self._good = directory, {}, {}
        try:
            names = sorted(name for name in os.listdir(directory) if name.endswith(SUFFIX) and name[0] != ".")
        except OSError as error:
            raise MachineError(
                f"cannot read the peers in --allow-peer-dir {directory}: {error.strerror}{remedy(error)}"
            ) from None
        self._read = {
            name: self._read[name]
            if name in self.unfinished and name in self._read
            else _read(directory / name, self._read.get(name))
            for name in names
            if name not in self.unfinished or name in self._read
        }
        self._good = {name: said for name, said in self._good.items() if name in self._read}

    def differs(self, directory: Path) -> bool:
        """Whether there is something else there than was read. MachineError if there is no directory."""
        before = self._read
        self.read(directory)
        return self._read != before

    def said(self) -> Iterable[Said]:
        """What the files say, right or not, for who looks for names."""
        return [read.said for read in self._read.values() if read.said is not None]

    def take(self, accept: Callable[[Said], None]) -> tuple[str, ...]:
        """Hands what each file says to ``accept``, and what it said before where that raises ConfigError. Returns what
        is wrong, a line each."""
        faults = []
        for name, read in self._read.items():
            fault = read.fault
            if read.said is not None:
                try:
                    accept(read.said)
                    self._good[name] = read.said
                except ConfigError as error:
                    fault = str(error)
            if fault is not None:
                faults.append(fault + self._fall_back(name, accept))
        return tuple(faults)

    def _fall_back(self, name: str, accept: Callable[[Said], None]) -> str:
        before = self._good.get(name)
        if before is None:
            return "; the file is not in force"
        try:
            accept(before)
        except ConfigError:
            del self._good[name]
            return "; the file is not in force"
        return "; what it said before stays in force"


def _read(path: Path, before: _Read | None) -> _Read:
    try:
        # O_NONBLOCK: a FIFO must not hang the node.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            signature = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            if before is not None and before.signature == signature:
                return before
            if not stat.S_ISREG(status.st_mode) or status.st_size > SIZE_MAX:
                return _Read(signature, None, f"{path} is no file of at most {SIZE_MAX} bytes")
            text = file.read(SIZE_MAX).decode()
    except OSError as error:
        return _Read((), None, f"cannot read {path}: {error.strerror}{remedy(error)}")
    except UnicodeDecodeError:
        return _Read(signature, None, f"{path} is not valid TOML: it is not UTF-8")
    try:
        return _Read(signature, _parse(path, text), None)
    except ConfigError as error:
        return _Read(signature, None, str(error))


def _parse(path: Path, text: str) -> Said:
    try:
        name = peer_name(path.name.removesuffix(SUFFIX))
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        found = _TOML_PLACE.fullmatch(str(error))
        line, what = (found[2], found[1]) if found else (len(text.splitlines()) or 1, str(error))
        raise ConfigError(f"{path}:{line}: not valid TOML: {what}") from None
    said: dict[str, tuple[Given, ...]] = {}
    try:
        for about, key, entry in peer_entries.from_table(name, table, path.parent):
            said[about] = (*said.get(about, ()), Given(f"{path}:{_line_of(key, text)}", (entry,)))
    except ValueError as error:
        found = _MESSAGE.fullmatch(str(error))
        assert found is not None
        raise ConfigError(f"{path}:{_line_of(found[1], text)}: {found[1]}: {found[2]}") from None
    return said


def _line_of(key: str, text: str) -> int:
    """The line on which a key stands; the first where it stands nowhere."""
    pattern = "[-_]".join(map(re.escape, re.split("[-_]", key)))
    written = re.compile(rf"\s*[\"']?{pattern}[\"']?\s*=")
    return next((number for number, line in enumerate(text.splitlines(), 1) if written.match(line)), 1)
