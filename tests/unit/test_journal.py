"""Priorities for the systemd journal: only where the stream is the journal's."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cryprq.telemetry.journal import is_journal

LINES = """
import sys
from cryprq.telemetry.logs import Log
log = Log("debug", sys.argv[1])
for level in ("debug", "info", "warning", "error"):
    getattr(log, level)("said", text="two\\nlines")
"""


def run(path: Path, journal: str, program: list[str]) -> list[str]:
    with path.open("wb") as file:
        environ = os.environ | {"JOURNAL_STREAM": journal.format(*os.fstat(file.fileno())[2:0:-1])}
        subprocess.run([sys.executable, "-c", *program], stderr=file, env=environ, timeout=30, check=False)
    return path.read_text().splitlines()


@pytest.mark.parametrize("log_format", ["logfmt", "json"])
def test_lines_for_the_journal_begin_with_their_priority(tmp_path: Path, log_format: str) -> None:
    lines = run(tmp_path / "log", "{0}:{1}", [LINES, log_format])
    assert [line[:3] for line in lines] == ["<7>", "<6>", "<4>", "<3>"]
    for line in lines:
        assert json.loads(line[3:])["event"] == "said" if log_format == "json" else line[3:].startswith("event=said ")


@pytest.mark.parametrize("journal", ["", "{0}:1", "1:{1}", "{0}", "nonsense"])
def test_others_do_not(tmp_path: Path, journal: str) -> None:
    lines = run(tmp_path / "log", journal, [LINES, "logfmt"])
    assert [line.partition("=")[0] for line in lines] == ["event"] * 4


def test_line_that_says_why_a_program_ends_is_an_error(tmp_path: Path) -> None:
    program = ["from cryprq.cli.node import main; main()", "--mtu", "1"]
    (line,) = run(tmp_path / "log", "{0}:{1}", program)
    assert line.startswith("<3>cryprq-node: --mtu 1 ")
    (line,) = run(tmp_path / "log", "", program)
    assert line.startswith("cryprq-node: --mtu 1 ")


def test_closed_descriptor_is_no_journal() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)
    assert not is_journal(writer, {"JOURNAL_STREAM": "1:2"})
