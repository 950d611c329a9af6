"""Network namespaces for tests, demo and benchmarks: hosts in a box, joined by veth pairs.

``enter`` moves this process into namespaces of its own first (users, mounts, network, with a tmpfs on /run), so that
nothing here touches the machine's network, names cannot collide, and all of it is gone when the process ends, however
it ends. Root needs no user namespace; others get what ``unshare -Urnm`` gives.

Run as a program, this file tries that in a process of its own: ``hosts.py root`` or ``hosts.py user``.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

_CLONE_NEWNS, _CLONE_NEWUSER, _CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_libc = ctypes.CDLL(None, use_errno=True)

_KINDS: Final = {
    "user": (_CLONE_NEWUSER, "user.max_user_namespaces"),
    "mount": (_CLONE_NEWNS, "user.max_mnt_namespaces"),
    "network": (_CLONE_NEWNET, "user.max_net_namespaces"),
}
"""Kinds of namespaces: the flag of unshare(2), and the sysctl that bounds how many there may be."""
_FORBIDDING: Final = {"kernel.unprivileged_userns_clone": "0", "kernel.apparmor_restrict_unprivileged_userns": "1"}
"""Sysctls of distributions, and the values with which they keep users from making user namespaces."""
_CAP_SYS_ADMIN = 21
_POLICY = "seccomp, AppArmor or SELinux does"

# What the tests need, in the order in which it can be refused. Run in throw-away namespaces.
_PROBE = """set -e
ip netns add probe
ip link add probe0 type veth peer name probe1 netns probe
test -c /dev/net/tun || { echo "no /dev/net/tun: modprobe tun, or give the container that device" >&2; exit 1; }
test -w /dev/net/tun || { echo "no right to open /dev/net/tun: chmod 666, as udev has it" >&2; exit 1; }
ip tuntap add dev probe2 mode tun
echo 0 > /proc/sys/net/ipv4/ip_forward
"""

_outcome: list[str | None] = []


class Refused(Exception):
    """There are no private namespaces to be had; the text, one line, says why and what helps."""


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def enter() -> str | None:
    """Moves this process into private namespaces, once. None when it is there, else why it cannot be, in one line.

    To be called while the process has one thread. It is tried in a child first, so a refusal changes nothing here.
    """
    if not _outcome:
        _outcome.append(_enter())
    return _outcome[0]


def _enter() -> str | None:
    for tool in ("ip", "setpriv"):
        if shutil.which(tool) is None:
            return f"no {tool} (packages iproute2 and util-linux)"
    reasons = []
    for way in ("root", "user") if os.geteuid() == 0 else ("user",):
        tried = subprocess.run([sys.executable, "-I", "-S", __file__, way], capture_output=True, text=True, timeout=60)
        if tried.returncode == 0:
            try:
                _isolate(way)
            except Refused as refused:
                return str(refused)
            return None
        reasons.append((tried.stdout + tried.stderr).strip().splitlines()[-1])
    if os.geteuid() == 0:
        return "; and in a user namespace: ".join(reasons)
    return f"{reasons[0]}; or try again as root"


def _isolate(way: str) -> None:
    """Moves this process into namespaces of its own; the way ``user`` is by one of users, in which it is root."""
    uid, gid = os.geteuid(), os.getegid()
    kinds = ("user", "mount", "network") if way == "user" else ("mount", "network")
    for kind in kinds:
        flag, limit = _KINDS[kind]
        with _refusal(f"a {kind} namespace", way, kind, limit):
            _call("unshare", flag)
            if kind == "user":
                Path("/proc/self/setgroups").write_text("deny")
                Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
                Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    with _refusal("a private /", way):
        _call("mount", None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
    with _refusal("a tmpfs on /run", way):
        _call("mount", b"cryprq", b"/run", b"tmpfs", ctypes.c_ulong(0), b"mode=755")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@contextlib.contextmanager
def _refusal(what: str, way: str, kind: str = "", limit: str = "") -> Iterator[None]:
    """Makes an OSError a Refused that names the error and what helps."""
    try:
        yield
    except OSError as error:
        number = error.errno or 0
        name = f"{errno.errorcode.get(number, number)}, {os.strerror(number)}"
        raise Refused(f"{what} is refused ({name}): {_remedy(way, kind, limit, number)}") from None


def _remedy(way: str, kind: str, limit: str, number: int) -> str:
    if number == errno.ENOSPC and limit:
        return f"sysctl {limit} is {_sysctl(limit)}, or that of an outer namespace is used up"
    if number == errno.EINVAL and not kind:
        return "it is no mount point, as in a chroot: mount --bind the new root to itself before chroot"
    if way == "user":
        forbidding = [f"sysctl {name} is {value}" for name, value in _FORBIDDING.items() if _sysctl(name) == value]
        return ", ".join(forbidding) or "a chroot, seccomp, AppArmor or SELinux forbids it"
    if not _capable(_CAP_SYS_ADMIN):
        return "this root has no CAP_SYS_ADMIN; a container gets it by --cap-add SYS_ADMIN or --privileged"
    return "seccomp, AppArmor or SELinux forbids it"


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys", *name.split(".")).read_text().strip()
    except OSError:
        return "unknown"


def _capable(capability: int) -> bool:
    (effective,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> capability & 1)


def _try(way: str) -> int:
    """What ``hosts.py WAY`` does: exit status 0, or 1 and a line that says why not."""
    try:
        _isolate(way)
    except Refused as refused:
        print(refused)
        return 1
    done = subprocess.run(["sh", "-c", _PROBE], capture_output=True, text=True)
    if done.returncode != 0:
        print((done.stderr.strip().splitlines() or ["refused"])[-1])
    return done.returncode


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

    def wait(self, timeout: float = 30.0) -> int:
        """Its exit status; subprocess.TimeoutExpired."""
        return self.popen.wait(timeout)

    def output(self) -> str:
        """All that it has written so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, text: str, timeout: float = 10.0) -> None:
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

    def stop(self, timeout: float = 5.0) -> int:
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
            _call("setns", there.fileno(), _CLONE_NEWNET)
            try:
                yield
            finally:
                _call("setns", before.fileno(), _CLONE_NEWNET)

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
        """Runs a command of ``traffic.py`` to its end, at most ``within`` seconds, and returns its result."""
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


def _run(command: list[str], timeout: float = 60.0) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout)
    if done.returncode != 0:
        raise CommandError(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout


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
            for address in addresses:
                namespace.ip(f"address add {address} dev {device}{' nodad' if ':' in address else ''}")
            namespace.ip(f"link set {device} up")

    def switch(self, name: str, members: Mapping[Namespace, Sequence[str]], *, device: str = "eth0") -> Namespace:
        """A switch: a namespace with a bridge that joins an interface of every member."""
        switch = self.namespace(name)
        switch.ip("link add br0 type bridge")
        switch.ip("link set br0 up")
        for number, (namespace, addresses) in enumerate(members.items()):
            self.veth(switch, [], namespace, addresses, names=(f"port{number}", device))
            switch.ip(f"link set port{number} master br0")
        return switch


if __name__ == "__main__":
    sys.exit(_try(sys.argv[1]))
