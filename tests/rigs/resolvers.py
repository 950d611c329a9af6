"""Hosts whose names are looked up by a real systemd-resolved or openresolv, in a mount namespace of their own.

The programs are the system's, or what ``scripts/bootstrap.sh --tests`` has unpacked into the environment.
"""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from lab.hosts import CommandError, Namespace, Process
from lab.nodes import Node

_UNPACKED: Final = Path(sys.executable).parent.parent
_BUS: Final = """<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type><listen>unix:path=/run/dbus/system_bus_socket</listen><auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>
  </policy>
</busconfig>
"""
# What a host's programs see: a /run of their own, its /etc/resolv.conf, and in /usr/local/sbin what ``tools`` has. What
# this machine itself has of that kind is hidden from them: it would write to the machine's files.
_SETUP: Final = """set -e
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /usr/local/sbin
mount --bind "$1/resolv.conf" /etc/resolv.conf
for name in resolvconf resolvectl; do
    for place in /usr/local/bin /usr/sbin /usr/bin /sbin /bin; do
        if test -e $place/$name; then mount --bind /dev/null $place/$name; fi
    done
done
cp -r "$1/tools/." /usr/local/sbin/
"""
# systemd-resolved wants a user of its own. Here that is root: a user namespace may have nobody else.
_RESOLVED: Final = """mkdir -p /run/dbus /run/systemd/resolve /run/systemd/resolved.conf.d
printf '[Resolve]\\nDNS=%s\\nLLMNR=no\\nMulticastDNS=no\\n' "$2" > /run/systemd/resolved.conf.d/test.conf
for file in passwd group; do
    grep -v '^systemd-resolve:' /etc/$file > /run/$file
done
echo 'systemd-resolve:x:0:0::/:/usr/sbin/nologin' >> /run/passwd
echo 'systemd-resolve:x:0:' >> /run/group
mount --bind /run/passwd /etc/passwd
mount --bind /run/group /etc/group
dbus-daemon --config-file="$1/bus.conf" --nofork --nopidfile &
until test -S /run/dbus/system_bus_socket; do sleep 0.02; done
"$3" &
until resolvectl status > /dev/null 2>&1; do sleep 0.02; done
"""


def _program(name: str, *places: str) -> Path:
    """Where it is; the test is skipped where it is nowhere."""
    for place in places:
        if (path := Path(place)).exists():
            return path
    pytest.skip(f"no {name}: scripts/bootstrap.sh --tests brings it")


class Resolvers:
    """A host as its programs see it. What is started in it ends with the lab."""

    def __init__(self, host: Namespace, name: str, setup: str, *words: str) -> None:
        self.host = host
        directory = host.directory / f"{name}.files"
        (directory / "tools").mkdir(parents=True, exist_ok=True)
        self.resolv_conf = directory / "resolv.conf"
        if not self.resolv_conf.exists():
            self.resolv_conf.write_text("")
        script = f"{_SETUP}{setup}echo ready\nexec sleep infinity"
        command = ("unshare", "-m", "sh", "-c", script, "sh", str(directory), *words)
        self._process: Process = host.start(name, *command)
        self._process.wait_for("ready\n")

    def inside(self, *command: str) -> tuple[str, ...]:
        """A command, as it has to be run on the host."""
        return ("nsenter", "-t", str(self._process.pid), "-m", "--", *command)

    def run(self, *command: str) -> str:
        """Runs a command there; CommandError."""
        return self.host.run(*self.inside(*command))

    def look_up(self, name: str) -> str:
        """The address of a name, as any program on this host gets it, or nothing."""
        try:
            return self.run("getent", "ahostsv4", name).split()[0]
        except CommandError:
            return ""


def resolved(host: Namespace, name_server: str, name: str = "resolved") -> Resolvers:
    """A host with systemd-resolved, which asks a name server of its own."""
    unpacked = f"{_UNPACKED}/systemd-resolved"
    daemon = _program(
        "systemd-resolved",
        "/usr/lib/systemd/systemd-resolved",
        f"{unpacked}/lib/systemd/systemd-resolved",
        f"{unpacked}/usr/lib/systemd/systemd-resolved",
    )
    tool = _program("resolvectl", "/usr/bin/resolvectl", f"{unpacked}/usr/bin/resolvectl")
    _program("dbus-daemon", "/usr/bin/dbus-daemon")
    directory = host.directory / f"{name}.files"
    (directory / "tools").mkdir(parents=True)
    (directory / "bus.conf").write_text(_BUS)
    (directory / "resolv.conf").write_text("nameserver 127.0.0.53\noptions timeout:2 attempts:1\n")
    (directory / "tools" / "resolvectl").write_bytes(tool.read_bytes())
    (directory / "tools" / "resolvectl").chmod(0o755)
    return Resolvers(host, name, _RESOLVED, name_server, str(daemon))


def openresolv(host: Namespace, name_server: str, name: str = "openresolv") -> Resolvers:
    """A host with openresolv and a record of one interface. (Its scripts are told where they are.)"""
    places = [f"{_UNPACKED}/openresolv{usr}/sbin/resolvconf" for usr in ("", "/usr")]
    script = _program("openresolv", *places)
    tools = host.directory / f"{name}.files" / "tools"
    (tools / "openresolv").mkdir(parents=True)
    for source, target in ((script, "resolvconf"), (script.parent.parent / "lib/resolvconf/libc", "openresolv/libc")):
        text = re.sub(r"(/usr)?/sbin/resolvconf", "/usr/local/sbin/resolvconf", source.read_text())
        text = re.sub(r"(?m)^(SYSCONFDIR|LIBEXECDIR)=.*$", r"\1=/usr/local/sbin/openresolv", text)
        (tools / target).write_text(text)
        (tools / target).chmod(0o755)
    (tools.parent / "resolv.conf").write_text("# Generated by resolvconf\n")
    setup = 'echo "nameserver $2" | resolvconf -a eth0.dhcp\n'
    return Resolvers(host, name, setup, name_server)


def nothing(host: Namespace, name_server: str, name: str = "nothing") -> Resolvers:
    """A host with neither."""
    directory = host.directory / f"{name}.files"
    directory.mkdir()
    (directory / "resolv.conf").write_text(f"nameserver {name_server}\n")
    return Resolvers(host, name, "")


class ResolvingNode(Node):
    """A node on such a host."""

    resolvers: Resolvers

    def command(self) -> Sequence[str]:
        return self.resolvers.inside(*super().command())
