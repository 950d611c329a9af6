"""``cryprq top`` on a terminal, typed at through tmux."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.hosts import Lab
from lab.nodes import PROGRAMS, Node
from lab.tunnels import DIALER, GATEWAY, Tunnel, make_tunnel
from lab.uplink import soon

pytestmark = pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux")


class Terminal:
    """24 lines, on which a program runs."""

    def __init__(self, directory: Path, *command: str, columns: int = 100) -> None:
        self._socket = directory / "tmux.sock"
        environ = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm-256color", "TMUX": ""}
        self._env = {name: value for name, value in environ.items() if name != "TMUX"}
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", "24", *command)

    def tmux(self, *arguments: str) -> str:
        words = ["tmux", "-S", str(self._socket), *arguments]
        return subprocess.run(words, env=self._env, check=True, capture_output=True, text=True, timeout=10).stdout

    def screen(self) -> str:
        return self.tmux("capture-pane", "-p")

    def type(self, *keys: str) -> None:
        self.tmux("send-keys", *keys)

    def shows(self, text: str, seconds: float = 15.0) -> bool:
        return soon(lambda: text in self.screen(), seconds)

    def close(self) -> None:
        subprocess.run(["tmux", "-S", str(self._socket), "kill-server"], env=self._env, check=False)


@pytest.fixture(scope="module")
def tunnel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tunnel]:
    """Whose dialer is ``alice``, of the registry: commands may disable her."""
    with Lab(tmp_path_factory.mktemp("top")) as lab:
        tunnel = make_tunnel(lab, up=False)
        flags = tunnel.listener.arguments
        at = flags.index("--allow-peer")
        del flags[at : at + 2]
        tunnel.listener.start().wait_event("listener_ready")
        tunnel.listener.tool("peer", "add", tunnel.dialer.peer_id, "--name", "alice")
        tunnel.dialer.start()
        tunnel.wait_up()
        yield tunnel


@pytest.fixture
def terminal(tunnel: Tunnel, tmp_path: Path) -> Iterator[Terminal]:
    terminal = top_of(tunnel.listener, tmp_path)
    yield terminal
    terminal.close()


def top_of(node: Node, directory: Path) -> Terminal:
    return Terminal(directory, str(PROGRAMS / "cryprq"), "top", "--every", "0.2", "--control-socket", str(node.control))


def test_peers_their_traffic_and_what_keys_do(tunnel: Tunnel, terminal: Terminal) -> None:
    assert terminal.shows("1 of 1 peers")
    row = next(line for line in terminal.screen().splitlines() if "alice" in line)
    assert (" up " in row and DIALER[4] in row and "ms" in row) or "us" in row
    ping = tunnel.dialer.namespace.traffic("ping", GATEWAY[4], count=400, interval=0.01)
    assert terminal.shows("█")
    ping.result()
    terminal.type("r")
    assert terminal.shows("rotation started with alice")
    tunnel.listener.wait_event("key_rotation")
    terminal.type("/")
    terminal.type("nobody", "Enter")
    assert soon(lambda: DIALER[4] not in terminal.screen(), 15)
    terminal.type("Escape")
    assert terminal.shows(DIALER[4])
    terminal.type("d")
    assert terminal.shows("d again cuts alice off")
    assert tunnel.listener.status()["peers"][0]["connected"]
    terminal.type("d")
    assert terminal.shows("disabled")
    assert soon(lambda: not tunnel.listener.status()["peers"][0]["connected"])
    terminal.type("d")
    assert terminal.shows("alice is enabled")
    terminal.type("s")
    assert terminal.shows("sorted by name")
    terminal.type("q")
    assert soon(lambda: gone(terminal), 15)


def gone(terminal: Terminal) -> bool:
    try:
        return not terminal.screen()
    except subprocess.CalledProcessError:
        return True


def test_status_fits_a_terminal_and_is_shown_again_and_again(tunnel: Tunnel, tmp_path: Path) -> None:
    program = (str(PROGRAMS / "cryprq"), "status", "--watch", "0.2", "--control-socket", str(tunnel.listener.control))
    terminal = Terminal(tmp_path, *program, columns=80)
    try:
        assert terminal.shows("alice")
        head, row = (line for line in terminal.screen().splitlines() if line.startswith(("PEER", "alice")))
        assert {"STATE", "SINCE", "SEEN", "ADDRESS", "RTT", "LOSS", "PMTU", "IN/s", "OUT/s"} <= {*head.split()}
        assert DIALER[4] in row and max(len(head), len(row)) <= 80
        assert "\x1b[32mup" in terminal.tmux("capture-pane", "-p", "-e")
        assert tunnel.dialer.namespace.measure("ping", GATEWAY[4], count=100, interval=0.01)["received"] == 100
        assert soon(lambda: "alice" in terminal.screen() and terminal.screen().count("PEER") == 1)
    finally:
        terminal.close()


def test_node_that_goes_and_comes_is_said(tunnel: Tunnel, terminal: Terminal) -> None:
    assert terminal.shows("peers   in")
    tunnel.listener.stop()
    assert terminal.shows("no node answers at")
    tunnel.listener.start().wait_event("listener_ready")
    assert terminal.shows("1 of 1 peers", 30)


def test_without_a_terminal_or_the_library_it_is_one_line(tunnel: Tunnel, tmp_path: Path) -> None:
    command = [str(PROGRAMS / "cryprq"), "top", "--control-socket", str(tunnel.listener.control)]
    for environ, says in (
        ({}, "cryprq: cryprq top needs a terminal; cryprq events and cryprq status --json are for programs\n"),
        (
            {"PYTHONPATH": str(tmp_path)},
            "cryprq: cryprq top needs Textual: pip install 'cryprq[top]'; cryprq status --watch does not\n",
        ),
    ):
        (tmp_path / "textual").mkdir(exist_ok=True)
        (tmp_path / "textual/__init__.py").write_text("raise ModuleNotFoundError(name='textual')\n")
        done = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr, done.stdout) == (1, says, "")
