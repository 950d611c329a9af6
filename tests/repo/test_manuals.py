"""Man pages and completions: they are what the parsers say now, pages are sound, and the shells complete by them."""

import os
import pty
import re
import runpy
import select
import shutil
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cryprq.config.node_config import NodeConfig
from cryprq.config.options import table
from lab import ROOT

PAGES = ["man/man8/cryprq-node.8", "man/man1/cryprq.1"]


def script(name: str) -> dict[str, Any]:
    """What a script defines, which finds the modules beside it."""
    sys.path.append(str(ROOT / "scripts"))
    try:
        return runpy.run_path(str(ROOT / "scripts" / name))
    finally:
        sys.path.remove(str(ROOT / "scripts"))


SCRIPT = script("make_manuals.py")
FOLDER: Path = SCRIPT["FOLDER"]
FILES: dict[str, str] = SCRIPT["files"]()


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(program) is None, reason=f"no {program}")


def test_files_are_up_to_date() -> None:
    there = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}
    assert there == set(FILES)
    for name, text in FILES.items():
        assert (FOLDER / name).read_text() == text, f"{name}: run scripts/make_manuals.py"


# ---- pages ----


@needs("groff")
@pytest.mark.parametrize("page", PAGES)
def test_groff_has_no_warning(page: str) -> None:
    done = subprocess.run(["groff", "-man", "-ww", "-z", "-Tutf8", FOLDER / page], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@needs("mandoc")
@pytest.mark.parametrize("page", PAGES)
def test_mandoc_has_no_warning_but_of_the_date(page: str) -> None:
    done = subprocess.run(["mandoc", "-T", "lint", FOLDER / page], capture_output=True, text=True, check=False)
    assert [line for line in done.stdout.splitlines() if "missing date" not in line] == []


@needs("mandoc")
def test_fault_in_a_page_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.8"
    page.write_text(FILES[PAGES[0]].replace(".TP", ".XX", 1))
    done = subprocess.run(["mandoc", "-T", "lint", page], capture_output=True, text=True, check=False)
    assert "unknown macro" in done.stdout


@needs("mandoc")
def test_page_of_the_node_has_every_option() -> None:
    shown = subprocess.run(
        ["mandoc", "-T", "ascii", "-O", "width=200", FOLDER / PAGES[0]], capture_output=True, text=True
    ).stdout
    text = re.sub(r".\x08", "", shown)
    for row in table(NodeConfig).values():
        assert f"\n       {row.flag}" in text
        assert row.env is None or f"\n       {row.env}\n" in text or f"\n       {row.env} " in text


# ---- shells ----

CASES = [
    ("cryprq key", "cryprq keygen "),
    ("cryprq import w", "cryprq import wireguard "),
    ("cryprq keygen --signature ml-dsa-8", "cryprq keygen --signature ml-dsa-87 "),
    ("cryprq status --js", "cryprq status --json "),
    ("cryprq import wireguard ./only", "cryprq import wireguard ./only-one.conf "),
    ("cryprq id ./with", "cryprq id ./with\\ blank "),
    ("cryprq-node --log-format js", "cryprq-node --log-format json "),
    ("cryprq-node --kem x25519-mlkem1", "cryprq-node --kem x25519-mlkem1024 "),
    ("cryprq-node --config ./only", "cryprq-node --config ./only-one.conf "),
    ("cryprq-node --kill", "cryprq-node --kill-switch "),
    ("cryprq-node --tun-name ./only", "cryprq-node --tun-name ./only"),  # no file is meant
]


class Shell:
    """An interactive shell on a terminal of its own, whose key ctrl-t shows the line as it stands. ``setup`` ends with
    what shows something, once the shell reads keys by itself."""

    def __init__(self, command: list[str], setup: str, cwd: Path) -> None:
        self.pid, self.terminal = pty.fork()
        if self.pid == 0:
            os.chdir(cwd)
            environ = {"PATH": os.environ["PATH"], "HOME": str(cwd), "TERM": "dumb", "LC_ALL": "C.UTF-8"}
            os.execvpe(command[0], command, environ)
        attributes = termios.tcgetattr(self.terminal)
        attributes[3] = 0  # no echo; and what is typed before the shell reads keys by itself is keys, not editing
        termios.tcsetattr(self.terminal, termios.TCSANOW, attributes)
        self.seen = ""
        self.send(setup)
        self.shown()

    def send(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def shown(self) -> str:
        """What stands between << and >> next."""
        end = time.monotonic() + 30
        while (found := re.search(r"<<([^'%$\r\n]*)>>", self.seen)) is None:
            if not select.select([self.terminal], [], [], max(0.0, end - time.monotonic()))[0]:
                raise AssertionError(f"nothing is shown: {self.seen!r}")
            self.seen += os.read(self.terminal, 4096).decode(errors="replace")
        self.seen = self.seen[found.end() :]
        return found[1]

    def completed(self, line: str) -> str:
        """The line after the tabulator was pressed; it is empty again after that."""
        self.send(f"{line}\t\x14\x15")
        while (shown := self.shown()) == "ready":  # once more: the setup has several lines
            pass
        return shown

    def close(self) -> None:
        os.close(self.terminal)
        os.kill(self.pid, 9)
        os.waitpid(self.pid, 0)


BASH = r"""
bind 'set enable-bracketed-paste off'; bind 'set bell-style none'
bind -x '"\C-t": printf "<<%s>>\n" "$READLINE_LINE"'
"""
ZSH = r"""
autoload -Uz compinit; compinit -u -D; unsetopt zle_bracketed_paste beep; PS1=
show() { print -r -- "<<$BUFFER>>" }; zle -N show; bindkey '^T' show; bindkey '^U' kill-whole-line
zle-line-init() { print -r -- '<<ready>>' }; zle -N zle-line-init
"""
"""zle shows that it is ready when it reads a line: what is typed before may be taken for the terminal's."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "only-one.conf").touch()
    (tmp_path / "with blank").touch()
    return tmp_path


@pytest.fixture
def bash(folder: Path) -> Iterator[Shell]:
    sources = "".join(f"source {FOLDER}/{name}\n" for name in FILES if name.startswith("bash-completion"))
    shell = Shell(["bash", "--norc", "--noprofile", "-i"], f"{BASH}{sources}echo '<''<ready>>'\n", folder)
    yield shell
    shell.close()


@pytest.fixture
def zsh(folder: Path) -> Iterator[Shell]:
    shell = Shell(["zsh", "-f", "-i"], f"fpath=({FOLDER}/zsh/site-functions $fpath)\n{ZSH}", folder)
    yield shell
    shell.close()


def test_bash_completes(bash: Shell) -> None:
    cases = [*CASES, ("cryprq-node --log-format=js", "cryprq-node --log-format=json ")]
    assert [(line, bash.completed(line)) for line, _ in cases] == cases


@needs("zsh")
def test_zsh_completes(zsh: Shell) -> None:
    cases = [*CASES, ("cryprq-node --log-format=js", "cryprq-node --log-format=json ")]
    assert [(line, zsh.completed(line)) for line, _ in cases] == cases


@needs("fish")
def test_fish_completes(folder: Path) -> None:
    for line, completed in [*CASES, ("cryprq-node --log-format=js", "cryprq-node --log-format=json ")]:
        program = line.split()[0]
        source = FOLDER / f"fish/vendor_completions.d/{program}.fish"
        script = f"source {source}; complete -C '{line}'"
        environ = {"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        done = subprocess.run(
            ["fish", "--no-config", "-c", script], cwd=folder, env=environ, capture_output=True, text=True, timeout=60
        )
        offered = [each.partition("\t")[0] for each in done.stdout.splitlines()]
        word = completed.removeprefix(" ".join(line.split()[:-1])).strip().replace("\\ ", " ")
        assert offered == ([word] if completed.endswith(" ") else []), (line, done.stderr)
