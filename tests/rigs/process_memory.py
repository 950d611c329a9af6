"""Looks for secrets in a process that is running: its whole memory, and the registers of each of its threads.

What is looked for is in no other form in the process than where it was left: the needles stay in the process of the
test, which has to be the other one's parent, or root.
"""

import ctypes
import os
import signal
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

WINDOW: Final = 8
"""Bytes of a needle that are enough to find it, at an address that is a multiple of as many. Every needle of 15 bytes
or more has such a window, wherever it lies; an IV (12 bytes) at five places of eight."""
_CHUNK: Final = 1 << 20
_ZEROS: Final = bytes(_CHUNK)

# <linux/ptrace.h>, <elf.h>
_PTRACE_DETACH, _PTRACE_GETREGSET, _PTRACE_SEIZE, _PTRACE_INTERRUPT = 17, 0x4204, 0x4206, 0x4207
_REGISTER_SETS: Final = {"general registers": 1, "floating point and vectors": 2, "XSAVE area": 0x202}
_WALL: Final = 0x40000000
_libc: Final = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = (ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p)
_libc.ptrace.restype = ctypes.c_long


@dataclass(frozen=True)
class Hit:
    """A piece of a secret that was found."""

    needle: str
    where: str

    def __str__(self) -> str:
        return f"{self.needle} in {self.where}"


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class Needles:
    """What to look for: secrets, by a name each."""

    def __init__(self, secrets: Mapping[str, bytes]) -> None:
        self.names: dict[int, str] = {}
        for name, secret in secrets.items():
            assert len(secret) >= 12, name
            for start in range(len(secret) - WINDOW + 1):
                window = secret[start : start + WINDOW]
                if len(set(window)) > 2:  # not a row of zeros, say, that is in every memory
                    self.names.setdefault(int.from_bytes(window, "little"), name)

    def within(self, data: bytes | bytearray) -> Iterator[tuple[int, str]]:
        """Offsets and names. The data begins at a multiple of ``WINDOW``."""
        whole = memoryview(data)[: len(data) // WINDOW * WINDOW].cast("Q")
        if self.names.keys().isdisjoint(whole):
            return
        for index, word in enumerate(whole):
            if word in self.names:
                yield WINDOW * index, self.names[word]


def search(pid: int, secrets: Mapping[str, bytes]) -> list[Hit]:
    """Every place in the process where a part of a secret is. A thread is stopped while its registers are read."""
    needles = Needles(secrets)
    return [*_search_registers(pid, needles), *_search_memory(pid, needles)]


def found(hits: Iterable[Hit]) -> set[str]:
    """The names of what was found."""
    return {hit.needle for hit in hits}


# ---- memory ----


def _search_memory(pid: int, needles: Needles) -> Iterator[Hit]:
    maps = Path(f"/proc/{pid}/maps").read_text()
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps.splitlines():
            fields = line.split(maxsplit=5)
            name = fields[5] if len(fields) > 5 else "anonymous"
            if "w" not in fields[1] or name.startswith("[v"):
                continue
            start, end = (int(word, 16) for word in fields[0].split("-"))
            for address in range(start, end, _CHUNK):
                memory.seek(address)
                try:
                    data = memory.read(min(_CHUNK, end - address))
                except OSError:  # a guard page, or a device's memory
                    continue
                if data == _ZEROS[: len(data)]:
                    continue
                for offset, needle in needles.within(data):
                    yield Hit(needle, f"{name} at {address + offset:#x}")


# ---- registers ----


def _ptrace(request: int, tid: int, address: int, data: object) -> None:
    if _libc.ptrace(request, tid, address, data) < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"ptrace of {tid}: {os.strerror(error)}")


def _search_registers(pid: int, needles: Needles) -> Iterator[Hit]:
    for tid in [int(entry.name) for entry in Path(f"/proc/{pid}/task").iterdir()]:
        name = Path(f"/proc/{pid}/task/{tid}/comm").read_text().strip()
        for registers, data in registers_of(tid).items():
            for offset, needle in needles.within(data):
                yield Hit(needle, f"{registers} of {name}, at {offset:#x}")


def registers_of(tid: int) -> dict[str, bytes]:
    """Each set of registers that the kernel knows of a thread. A system call in which it waits goes on afterwards."""
    sets = {}
    _ptrace(_PTRACE_SEIZE, tid, 0, None)
    try:
        _ptrace(_PTRACE_INTERRUPT, tid, 0, None)
        _, status = os.waitpid(tid, _WALL)
        assert os.WIFSTOPPED(status), status
        assert os.WSTOPSIG(status) == signal.SIGTRAP
        for name, number in _REGISTER_SETS.items():
            buffer = ctypes.create_string_buffer(1 << 14)
            iovec = _Iovec(ctypes.addressof(buffer), len(buffer))
            try:
                _ptrace(_PTRACE_GETREGSET, tid, number, ctypes.addressof(iovec))
            except OSError:  # not on this architecture
                continue
            sets[name] = buffer.raw[: iovec.size]
    finally:
        _ptrace(_PTRACE_DETACH, tid, 0, None)
    return sets
