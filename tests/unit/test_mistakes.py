"""What operators do wrong (``tests/rigs/mistakes.py``): each gets an exit status and one line that says what to do."""

import base64
import io
import os
import shlex
import sys
from pathlib import Path

import pytest

from cryprq.cli import node, tool
from cryprq.config.identity_file import create_identity
from cryprq.config.nearest import nearest
from tests.rigs import mistakes
from tests.rigs.mistakes import Mistake

NODE = (*mistakes.FLAGS, *mistakes.PEERS, *mistakes.FILES, *mistakes.SILENT)


@pytest.fixture(autouse=True)
def nothing_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """By this machine."""
    for name in list(os.environ):
        if name.startswith(("CRYPRQ_", "RUST_LOG", "STATE_DIRECTORY", "RUNTIME_DIRECTORY")):
            monkeypatch.delenv(name)


def prepared(mistake: Mistake, directory: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words, when all that they need is there."""
    own = create_identity(directory / "identity").peer_id
    for name, text in mistake.files.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        if name.endswith("/"):
            path.mkdir()
            continue
        path.write_text(base64.b64encode(b"7" * 32).decode() + "\n" if text == "PSK" else text)
        path.chmod(mistake.mode)
    for name, value in mistake.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "stdin", io.StringIO(mistake.given))
    words = shlex.split(mistake.command)
    return [word.replace("{dir}", str(directory)).replace("{OWN}", str(own)) for word in words]


def check(mistake: Mistake, status: int, said: str, directory: Path) -> None:
    assert status == mistake.status, said
    assert "Traceback" not in said and "internal error" not in said
    for words in mistake.says.split("|"):
        assert words.replace("{dir}", str(directory)) in said


@pytest.mark.parametrize("mistake", NODE, ids=lambda mistake: mistake.command[-60:] + mistake.says[:30])
def test_of_the_node(
    mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = node.main([*prepared(mistake, tmp_path, monkeypatch), "--check"])
    said = capsys.readouterr()
    warnings = [line for line in said.out.splitlines() if line.startswith("# warning: ")]
    check(mistake, status, said.err + "\n".join(warnings), tmp_path)
    if status:
        assert (said.out, said.err.count("\n")) == ("", 1)


@pytest.mark.parametrize("mistake", mistakes.TOOL, ids=lambda mistake: mistake.command[:60] + mistake.says[:30])
def test_of_the_tool(
    mistake: Mistake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status = tool.main(prepared(mistake, tmp_path, monkeypatch))
    said = capsys.readouterr()
    check(mistake, status, said.err, tmp_path)
    assert said.err.count("\n") == 1
    before = {"identity", *(name.partition("/")[0] for name in mistake.files)}
    left = {path.name for path in tmp_path.iterdir()} - before
    assert status == 0 or left <= {"identity.cryprq0.registry"}, "what was not done leaves nothing"


def test_there_are_many() -> None:
    assert len(NODE) + len(mistakes.TOOL) >= 200


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("statu", ("status", "up"), "status"),
        ("stat", ("status", "up"), "status"),
        ("start", ("status", "up"), "up"),
        ("start", ("status",), None),
        ("stop", ("top", "down"), "down"),
        ("allow_peer", ("allow-peer", "allow-any"), "allow-peer"),
        ("LISTEN_ADDR", ("LISTEN", "PEERS"), "LISTEN"),
        ("allow", ("allow-peer", "allow-any"), None),
        ("x", ("xyz",), None),
        ("mtu", ("metrics-addr", "route"), None),
    ],
)
def test_word_is_meant_only_where_it_is_near(word: str, known: tuple[str, ...], meant: str | None) -> None:
    assert nearest(word, known) == meant
