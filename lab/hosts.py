"""Hosts in a box for tests, demo, benchmarks and QA: network namespaces, joined by veth pairs.

All of it lives in the private namespaces of ``lab.sandbox``: names cannot collide, and nothing outlives this process.
"""

import contextlib
import ctypes
import fcntl
import json
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab.sandbox import CLONE_NEWNET, call, enter
from lab.traffic import PINGS


class Process:
    """A program in a namespace, its output in a file. It dies with this process, whatever happens."""

    def __init__(self, name: str, command: Sequence[str], log: Path, env: Mapping[str, str] | None) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as output:
            self.popen = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        return self.popen.pid

    @property
    def running(self) -> bool:
        return self.popen.poll() is None

    def wait(self, timeout: float = 60.0) -> int:
        """Its exit status; subprocess.TimeoutExpired."""
        return self.popen.wait(timeout)

    def output(self) -> str:
        """All that it has written so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, timeout: float = 60.0) -> None:
        """Returns once the output has text in it; CommandError if it ends or time is up before."""
        end = time.monotonic() + timeout
        while text not in self.output():
            if not self.running and text not in self.output():
                raise CommandError(f"{self.name} ended without {text!r}:\n{self.output()}")
            if time.monotonic() > end:
                raise CommandError(f"{self.name} has not said {text!r} within {timeout} s:\n{self.output()}")
            time.sleep(0.01)

    def result(self, timeout: float = 60.0) -> dict[str, Any]:
        """Waits for its end; the JSON object on the last line that it wrote. CommandError if it failed."""
        status = self.wait(timeout)
        lines = self.output().strip().splitlines()
        if status != 0 or not lines:
            raise CommandError(f"{self.name}: exit status {status}\n{self.output()}")
        result: dict[str, Any] = json.loads(lines[-1])
        return result

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal, if it still runs."""
        if self.running:
            self.popen.send_signal(number)

    def stop(self, timeout: float = 10.0) -> int:
        """SIGTERM, then SIGKILL after timeout seconds. Returns the exit status, negative for a signal."""
        self.signal(signal.SIGTERM)
        try:
            return self.popen.wait(timeout)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait(timeout)


class Namespace:
    """One host: a network namespace with loopback up. Made by ``Lab.namespace``."""

    def __init__(self, lab: "Lab", name: str) -> None:
        self.name = name
        self._lab = lab
        _run(["ip", "netns", "add", name])
        # Else a link-local address would turn usable a second or two after its cable was plugged in: a node that runs
        # by then takes that for another way to its peer, and asks whether it is heard.
        self.sysctl("net.ipv6.conf.default.accept_dad", 0)
        self.ip("link set lo up")

    @property
    def directory(self) -> Path:
        """Where the lab keeps its files."""
        return self._lab.directory

    def ip(self, arguments: str) -> str:
        """Runs ``ip ARGUMENTS`` in the namespace and returns its output."""
        return _run(["ip", "-n", self.name, *arguments.split()])

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """This thread in the namespace: sockets and processes that are made meanwhile stay there."""
        with open("/proc/thread-self/ns/net", "rb") as before, open(f"/run/netns/{self.name}", "rb") as there:
            call("setns", there.fileno(), CLONE_NEWNET)
            try:
                yield
            finally:
                call("setns", before.fileno(), CLONE_NEWNET)

    def ip_batch(self, lines: Sequence[str]) -> None:
        """Runs many commands of ``ip``, up to the first that fails, by one process."""
        _run(["ip", "-n", self.name, "-batch", "-"], text="\n".join(lines))

    def run(self, *command: str, timeout: float = 60.0) -> str:
        """Runs a command to its end and returns its output; raises CommandError with the output on failure."""
        with self.entered():
            return _run(list(command), timeout)

    def start(self, name: str, *command: str, env: Mapping[str, str] | None = None) -> Process:
        """Starts a command in the background; the lab stops it at the latest."""
        with self.entered():
            process = Process(name, command, self._lab.directory / f"{name}.log", env)
        self._lab.processes.append(process)
        return process

    def traffic(self, command: str, *arguments: object, **options: object) -> Process:
        """Starts a command of ``traffic.py`` (``udp_receive`` or ``udp-receive``); a server is ready on return."""
        command = command.replace("_", "-")
        words = [str(word) for word in arguments]
        for name, value in options.items():
            words += [f"--{name}", str(value)]
        self._lab.counter += 1
        name = f"{command}-{self.name}-{self._lab.counter}"
        process = self.start(name, sys.executable, str(Path(__file__).with_name("traffic.py")), command, *words)
        if command in ("tcp-serve", "tcp-sink", "udp-receive", "udp-echo"):
            process.wait_for("ready\n")
        return process

    def measure(self, command: str, *arguments: object, within: float = 60.0, **options: object) -> dict[str, Any]:
        """Runs a command of ``traffic.py`` to its end, at most ``within`` seconds, and returns its result.

        Pings are sent from this process: a Python of their own would take many times as long to start as they take."""
        if (ping := PINGS.get(command.replace("_", "-"))) is not None:
            function, defaults = ping
            try:
                with self.entered():
                    return function(*arguments, **defaults | options)
            except OSError as error:
                raise CommandError(f"{command} {arguments}: {error}") from error
        return self.traffic(command, *arguments, **options).result(within)

    def sysctl(self, name: str, value: str | int) -> None:
        """Sets a net.* sysctl of the namespace."""
        with self.entered():
            Path("/proc/sys", *name.split(".")).write_text(f"{value}\n")

    def sysfs(self, path: str, value: str | int) -> None:
        """Writes below the namespace's own /sys, which needs a mount of it; CommandError where that is refused."""
        script = f"mount -t sysfs sysfs /sys && echo {value} > /sys/{path}"
        self.run("unshare", "-m", "sh", "-c", script)

    def ethtool(self, device: str, **features: bool) -> None:
        """Turns features of an interface on or off: ``gro``, ``gso``, ``tso``, ``tx``, ``rx``, ``sg``."""
        commands = {"rx": 0x15, "tx": 0x17, "sg": 0x19, "tso": 0x1F, "gso": 0x24, "gro": 0x2C}  # ETHTOOL_S*
        with self.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            for feature, on in features.items():
                value = ctypes.create_string_buffer(struct.pack("=II", commands[feature], on), 8)
                request = struct.pack("16sP16x", device.encode(), ctypes.addressof(value))
                fcntl.ioctl(control, 0x8946, request)  # SIOCETHTOOL


class CommandError(Exception):
    """A command failed; the text has its output."""


def _run(command: list[str], timeout: float = 60.0, text: str | None = None) -> str:
    """``text`` is its input, if it is to have another than this process."""
    done = subprocess.run(
        command, input=text, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout
    )
    if done.returncode != 0:
        raise CommandError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout


@contextlib.contextmanager
def tmpfs(path: Path, options: str) -> Iterator[None]:
    """A file system of its own on a new directory, with options of mount(8), for as long as the context lasts."""
    path.mkdir()
    _run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)])
    try:
        yield
    finally:
        _run(["umount", "--lazy", str(path)])


class Lab:
    """Hosts and the links between them; leaving it stops every process and removes every namespace."""

    def __init__(self, directory: Path) -> None:
        """Logs go to directory. ``enter`` must have succeeded."""
        if (reason := enter()) is not None:
            raise CommandError(f"no network namespaces: {reason}")
        self.directory = directory
        self.counter = 0
        self.processes: list[Process] = []
        self.namespaces: list[Namespace] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent."""
        for process in self.processes:
            process.signal(signal.SIGTERM)
        while self.processes:
            self.processes.pop().stop()
        while self.namespaces:
            with contextlib.suppress(CommandError):
                _run(["ip", "netns", "delete", self.namespaces.pop().name])

    def logs(self) -> dict[str, str]:
        """What each process has written, by name."""
        return {path.stem: path.read_text(errors="replace") for path in sorted(self.directory.glob("*.log"))}

    def namespace(self, name: str) -> Namespace:
        """A new host."""
        namespace = Namespace(self, name)
        self.namespaces.append(namespace)
        return namespace

    def veth(
        self,
        left: Namespace,
        left_addresses: Sequence[str],
        right: Namespace,
        right_addresses: Sequence[str],
        *,
        names: tuple[str, str] = ("eth0", "eth0"),
        mtu: int = 1500,
    ) -> None:
        """A cable: an interface in either namespace with its addresses (``10.0.0.1/24``, ``fd00::1/64``), up."""
        left.ip(f"link add {names[0]} mtu {mtu} type veth peer name {names[1]} mtu {mtu} netns {right.name}")
        for namespace, device, addresses in ((left, names[0], left_addresses), (right, names[1], right_addresses)):
            lines = [f"address add {address} dev {device}{' nodad' if ':' in address else ''}" for address in addresses]
            namespace.ip_batch([*lines, f"link set {device} up"])

    def switch(self, name: str, members: Mapping[Namespace, Sequence[str]], *, device: str = "eth0") -> Namespace:
        """A switch: a namespace with a bridge that joins an interface of every member."""
        switch = self.namespace(name)
        switch.ip("link add br0 type bridge")
        switch.ip("link set br0 up")
        for number, (namespace, addresses) in enumerate(members.items()):
            self.veth(switch, [], namespace, addresses, names=(f"port{number}", device))
            switch.ip(f"link set port{number} master br0")
        return switch
