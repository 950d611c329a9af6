"""Builds and drives the line-protocol programs of ``tests/c``: one command a line in, one answer a line out."""

import fcntl
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from lab import ROOT

HERE = ROOT / "tests" / "c"


def build(name: str) -> Path:
    """Compiles one program if it is out of date; a compiler error fails the test with the compiler's words.

    ``SANITIZE=1`` in the environment builds it with ASan and UBSan, as it does for ``make -C tests/c check``.
    """
    kind = {"": "plain", "thread": "thread"}.get(os.environ.get("SANITIZE", ""), "sanitize")
    target = f"../../build/c-tests/{kind}/{name}"
    with (HERE / "Makefile").open("rb") as turn:
        fcntl.flock(turn, fcntl.LOCK_EX)  # another process of the tests may build it, too, or run it already
        make = subprocess.run(["make", "-s", "-C", HERE, target], capture_output=True, text=True, check=False)
    assert make.returncode == 0, make.stderr
    return (HERE / target).resolve()


def run_lines(program: Path, commands: Sequence[str]) -> list[str]:
    """All answers to all commands, in one run of the program."""
    text = "".join(command + "\n" for command in commands)
    run = subprocess.run([program], input=text, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    answers = run.stdout.splitlines()
    assert len(answers) == len(commands)
    return answers


class Conversation:
    """A program that stays up and answers each command before the next one is given."""

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._process:  # closes the pipes and waits
            assert self._process.stdin is not None
            self._process.stdin.close()
        assert kind is not None or self._process.returncode == 0

    def ask(self, command: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer.endswith("\n"), f"the program ended on: {command[:200]}"
        return answer.rstrip("\n")


def to_hex(data: bytes) -> str:
    return data.hex() or "-"


def from_hex(word: str) -> bytes:
    return b"" if word == "-" else bytes.fromhex(word)
