"""Private namespaces for this process, in which it may build networks as it likes.

``enter`` moves this process into namespaces of its own (users, mounts, network, with a tmpfs on /run), so that nothing
it does touches the machine's network, names cannot collide, and all of it is gone when the process ends, however it
ends. Root needs no user namespace; others get what ``unshare -Urnm`` gives.

Run as a program, this file tries that in a process of its own: ``sandbox.py root`` or ``sandbox.py user``.
"""

import contextlib
import ctypes
import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_CLONE_NEWNS, _CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
_MS_REC, _MS_PRIVATE = 0x4000, 0x40000
_libc = ctypes.CDLL(None, use_errno=True)

_KINDS: Final = {
    "user": (_CLONE_NEWUSER, "user.max_user_namespaces"),
    "mount": (_CLONE_NEWNS, "user.max_mnt_namespaces"),
    "network": (CLONE_NEWNET, "user.max_net_namespaces"),
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


def call(name: str, *arguments: object) -> None:
    """Calls a function of libc that returns 0; OSError with its errno otherwise."""
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
        command = [sys.executable, "-I", "-S", __file__, way]
        try:
            tried = subprocess.run(command, capture_output=True, text=True, timeout=60)
        except OSError as error:  # a Python of another architecture, say, which this one emulates
            return f"{sys.executable} cannot start itself: {error.strerror}"
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
            call("unshare", flag)
            if kind == "user":
                Path("/proc/self/setgroups").write_text("deny")
                Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
                Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    with _refusal("a private /", way):
        call("mount", None, b"/", None, ctypes.c_ulong(_MS_REC | _MS_PRIVATE), None)
    with _refusal("a tmpfs on /run", way):
        call("mount", b"cryprq", b"/run", b"tmpfs", ctypes.c_ulong(0), b"mode=755")
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
    """What ``sandbox.py WAY`` does: exit status 0, or 1 and a line that says why not."""
    try:
        _isolate(way)
    except Refused as refused:
        print(refused)
        return 1
    done = subprocess.run(["sh", "-c", _PROBE], capture_output=True, text=True)
    if done.returncode != 0:
        print((done.stderr.strip().splitlines() or ["refused"])[-1])
    return done.returncode


if __name__ == "__main__":
    sys.exit(_try(sys.argv[1]))
