"""Plays the guides of the documentation: every block of commands is typed, as it stands, on the host that it names.

What a page has to do for that, and what it looks like:

- A block ``sh`` begins with the line ``# on HOST``, or ``# on HOST and HOST``. It is a script of its own, and each of
  its commands has to succeed.
- A block ``output`` after it is what it prints: each of its lines has to be there, in this order. ``...`` stands for
  any text, and blanks for any number of blanks.
- ``TOKEN``, ``VERSION`` and ``QmNAME`` (in capitals) are placeholders. One gets its value from where it first stands in
  an ``output`` block, and has that value in every command from then on.
- A block that cannot be run has ``<!-- not run: REASON -->`` on the line before it.

A host has a network namespace, processes of its own, and copies of ``/etc``, ``/var/lib``, ``/usr/local`` and others on
which it writes; ``systemctl`` is that of ``lab/systemctl.py``.
"""

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cryprq.version import VERSION
from lab.hosts import CommandError, Namespace
from lab.nodes import PROGRAMS

_FENCE: Final = re.compile(r"^(?:<!-- not run: (.+?) -->\n)?^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_HOSTS: Final = re.compile(r"# on ([\w-]+(?: and [\w-]+)*)")
_PLACEHOLDER: Final = re.compile(r"\b(?:TOKEN|VERSION|Qm[A-Z]+)\b")
_OWN: Final = ("etc", "opt", "root", "usr/local", "var/lib")
"""Directories that a host may write to without another noticing."""
_TUNNEL_SECONDS: Final = 20.0

# The host's own root of processes and mounts: an init that reaps what is left to it. What it writes is in its memory.
_INIT: Final = """set -e
mount -t tmpfs tmpfs /run
for directory in {own}; do
    own=/run/.own/$directory
    mkdir -p $own/upper $own/work
    mount -t overlay -o userxattr,lowerdir=/$directory,upperdir=$own/upper,workdir=$own/work overlay /$directory
done
mkdir -p /etc/systemd/system /run/typist
rm -rf /var/lib/cryprq /etc/cryprq /opt/cryprq
printf '#!/bin/sh\\nexec {python} {systemctl} "$@"\\n' >/usr/local/bin/systemctl
printf '#!/bin/sh\\nexec "$@"\\n' >/usr/local/bin/sudo
chmod +x /usr/local/bin/systemctl /usr/local/bin/sudo
echo ready
trap : CHLD
while :; do sleep 3600 & wait $! || :; done
"""


@dataclass(frozen=True, slots=True)
class Block:
    """Commands of a page."""

    line: int
    hosts: tuple[str, ...]
    commands: str
    expected: tuple[str, ...]
    """Lines of what it prints; none: the page does not say."""
    not_run: str | None
    """Why not, if it is not to be run."""


def blocks(text: str) -> list[Block]:
    """Those of a page or a part of one, in order; ValueError for one that does not say where it is typed."""
    found: list[Block] = []
    for match in _FENCE.finditer(text):
        not_run, language, body = match.groups()
        line = text.count("\n", 0, match.start(3)) + 1
        if language == "output":
            if not found or found[-1].expected:
                raise ValueError(f"line {line}: output of no commands")
            last = found.pop()
            found.append(Block(last.line, last.hosts, last.commands, tuple(body.splitlines()), last.not_run))
        elif language in ("sh", "console", "shell", "bash"):
            hosts = _HOSTS.match(body)
            if hosts is None and not_run is None:
                raise ValueError(f"line {line}: on which host is this typed?")
            found.append(Block(line, tuple(hosts[1].split(" and ")) if hosts else (), body, (), not_run))
    return found


class Shell(Protocol):
    """Where commands of a page can be typed."""

    def type(self, commands: str, timeout: float = ...) -> str:
        """Runs them in a shell of their own and returns what they print; CommandError if one fails."""

    def wait_for_tunnel(self) -> None:
        """Returns when each peer that this host dials is there: who types looks away from the keys for a moment."""


class Host:
    """A host at whose shell the commands of a page are typed."""

    def __init__(self, namespace: Namespace) -> None:
        self.namespace = namespace
        systemctl = Path(__file__).with_name("systemctl.py")
        script = _INIT.format(own=" ".join(_OWN), python=shlex.quote(sys.executable), systemctl=systemctl)
        unshare = "unshare --mount --propagation private --pid --fork --kill-child --mount-proc"
        # unshare does not heed SIGTERM, and neither does the first process of a namespace.
        keeper = f'trap "kill -KILL \\$!" TERM; {unshare} bash -c "$0" & wait $!'
        self._init = namespace.start(f"init-{namespace.name}", "bash", "-c", keeper, script)
        self._init.wait_for("ready\n")
        self._pid = _child(_child(self._init.pid))
        version = f"/opt/cryprq/{VERSION}"
        self.type(f"mkdir -p {version} && ln -s {PROGRAMS} {version}/bin && mkdir .venv && ln -s {PROGRAMS} .venv/bin")

    def type(self, commands: str, timeout: float = 60.0) -> str:
        environment = ("env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root")
        inside = ("nsenter", "--target", str(self._pid), "--mount", "--pid", "--wdns=/run/typist")
        # What is left in the background would hold a pipe open: it goes to a file.
        wrapped = 'out=$(mktemp); bash -eu -c "$0" >$out 2>&1 </dev/null || status=$?; cat $out; exit ${status:-0}'
        return self.namespace.run(*inside, *environment, "bash", "-c", wrapped, commands, timeout=timeout)

    def wait_for_tunnel(self) -> None:
        end = time.monotonic() + _TUNNEL_SECONDS
        while not self._is_connected():
            if time.monotonic() > end:
                raise CommandError(f"{self.namespace.name} is not connected:\n{self.type('cat /run/units/*.log || :')}")
            time.sleep(0.05)

    def _is_connected(self) -> bool:
        """A node that listens is, as soon as it answers."""
        question = (
            "import json, sys; status = json.load(sys.stdin); "
            "print(bool(status['listen_addrs']) or any(peer['connected'] for peer in status['peers']))"
        )
        answer = self.type(
            f"{PROGRAMS}/cryprq status --json >status || exit 0; {sys.executable} -c {shlex.quote(question)} <status"
        )
        return answer.strip() == "True"


def _child(pid: int) -> int:
    """Of a process that has one."""
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


class Typist:
    """Plays the blocks of a page on its hosts, and remembers what placeholders stand for."""

    def __init__(self, hosts: Mapping[str, Shell], known: Mapping[str, str] | None = None) -> None:
        self.hosts = hosts
        self.known = {"VERSION": VERSION, **(known or {})}

    def play(self, page: Iterable[Block]) -> int:
        """Types all that can be run, and returns how many blocks that were; CommandError with the line of the page for
        one that fails, or prints something else."""
        count = 0
        for block in page:
            if block.not_run is None:
                for name in block.hosts:
                    self._type(block, name)
                count += 1
        return count

    def write(self, name: str, path: str, text: str) -> None:
        """Puts a file on a host, which a page takes to be there."""
        self.hosts[name].type(f"mkdir -p {Path(path).parent}; cat >{path} <<'END'\n{text}END\n")

    def _type(self, block: Block, name: str) -> None:
        if name not in self.hosts:
            raise CommandError(f"line {block.line}: there is no host {name}")
        host = self.hosts[name]
        try:
            printed = host.type(self._filled(block))
            self._compare(block, printed)
            if re.search(r"systemctl (enable|start|restart)|&$", block.commands, re.MULTILINE):
                host.wait_for_tunnel()
        except CommandError as error:
            raise CommandError(f"line {block.line}, on {name}: {error}") from None

    def _filled(self, block: Block) -> str:
        def value(match: re.Match[str]) -> str:
            if match[0] not in self.known:
                raise CommandError(f"nothing on the page has said what {match[0]} is")
            return self.known[match[0]]

        return _PLACEHOLDER.sub(value, block.commands)

    def _compare(self, block: Block, printed: str) -> None:
        lines = iter(printed.splitlines())
        for wanted in block.expected:
            pattern = re.compile(self._pattern(wanted))
            found = next((match for line in lines if (match := pattern.fullmatch(line.strip()))), None)
            if found is None:
                raise CommandError(f"the page has {wanted!r}, which is not in what was printed:\n{printed}")
            self.known |= found.groupdict()

    def _pattern(self, line: str) -> str:
        """As a regular expression: what is not known yet is a group with the placeholder's name."""
        return "".join(self._part(part) for part in re.split(rf"({_PLACEHOLDER.pattern}|\.\.\.|\s+)", line.strip()))

    def _part(self, part: str) -> str:
        if part == "...":
            return ".*"
        if part.isspace():
            return r"\s+"
        if not _PLACEHOLDER.fullmatch(part):
            return re.escape(part)
        return re.escape(self.known[part]) if part in self.known else rf"(?P<{part}>\S+)"


def file(text: str, what: str) -> str:
    """The file that a page shows in a block, whose first line is ``# WHAT``."""
    (found,) = re.findall(rf"^```\w+\n(# {re.escape(what)}\n.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return str(found)


def not_run(page: Sequence[Block]) -> Iterator[str]:
    """The reasons of a page, one for each block that nobody runs."""
    return (block.not_run for block in page if block.not_run is not None)


class Here:
    """This machine, for pages about what cannot be had in a box: a container engine."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def type(self, commands: str, timeout: float = 600.0) -> str:
        environment = {**os.environ, "PATH": f"{PROGRAMS}:{os.environ['PATH']}"}
        done = subprocess.run(
            ["bash", "-eu", "-c", commands],
            cwd=self._directory, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            text=True, timeout=timeout,
        )  # fmt: skip
        if done.returncode != 0:
            raise CommandError(f"exit status {done.returncode}\n{done.stdout}")
        return done.stdout

    def wait_for_tunnel(self) -> None:
        """There is nothing to wait for: no node is the machine's own."""


def main(path: str) -> int:
    """Types a page of one host on this machine, in a directory of its own: ``python -m lab.guides PAGE``."""
    page = blocks(Path(path).read_text())
    (name,) = {host for block in page for host in block.hosts}
    with tempfile.TemporaryDirectory(prefix="cryprq-guide-") as directory:
        try:
            count = Typist({name: Here(Path(directory))}).play(page)
        except CommandError as error:
            print(f"{path}: {error}", file=sys.stderr)
            return 1
    print(f"{path}: {count} blocks of commands did what the page says")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
