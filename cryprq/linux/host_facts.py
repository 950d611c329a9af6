"""What this host lets a tunnel do, for ``cryprq doctor``: rights, sysctls, tables of the kernel. Changes nothing."""

import ctypes
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryprq.linux.netlink import NetlinkError
from cryprq.linux.route_plan import Numbers
from cryprq.linux.rtnetlink import PROTOCOL, RtNetlink
from cryprq.linux.tun import DEVICE

_CAP_NET_ADMIN: Final = 12
_STA_UNSYNC: Final = 0x0040
_IPV4: Final = Path("/proc/sys/net/ipv4")
_IPV6: Final = Path("/proc/sys/net/ipv6")
_CONNTRACK: Final = Path("/proc/sys/net/netfilter")
_NETSTAT: Final = Path("/proc/net/netstat")


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What the kernel says; None: it does not tell."""

    net_admin: bool = True
    """Whether this process has CAP_NET_ADMIN here."""
    tun_fault: str = ""
    """Why the device file that makes TUNs cannot be opened; empty: it can."""
    tun_taken: bool = False
    """Whether there is an interface of the TUN's name."""
    forwarding: Mapping[int, bool] = field(default_factory=dict)
    """By IP version."""
    rp_filter: Mapping[str, int] = field(default_factory=dict)
    """The filter that is in force on each interface: 0 none, 1 strict, 2 loose."""
    rp_dropped: int = 0
    """Packets that it has dropped, on all interfaces."""
    conntrack: tuple[int, int] | None = None
    """Connections in the firewall's table, and how many it takes."""
    clock_synced: bool | None = None
    """Whether something keeps this clock right, as far as the kernel knows (adjtimex(2))."""
    now: float = 0.0
    """Unix time."""
    rng_ready: bool = True
    """Whether the kernel's random numbers are of use (getrandom(2))."""
    leftovers: int = 0
    """Rules and unreachable routes that a node with this TUN has made."""


def host_facts(tun_name: str) -> HostFacts:
    """As things are now, in this network namespace."""
    return HostFacts(
        net_admin=_has_net_admin(),
        tun_fault=_tun_fault(),
        tun_taken=tun_name in {name for _, name in socket.if_nameindex()},
        forwarding={
            version: value != 0
            for version, path in ((4, _IPV4 / "ip_forward"), (6, _IPV6 / "conf/all/forwarding"))
            if (value := _number(path)) is not None
        },
        rp_filter=_rp_filter(),
        rp_dropped=_counter("TcpExt", "IPReversePathFilter"),
        conntrack=_conntrack(),
        clock_synced=_clock_synced(),
        now=time.time(),
        rng_ready=_rng_ready(),
        leftovers=_leftovers(tun_name),
    )


def _has_net_admin() -> bool:
    for line in _text(Path("/proc/self/status")).splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return os.geteuid() == 0


def _tun_fault() -> str:
    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _rp_filter() -> dict[str, int]:
    """The stricter of what is set for an interface and for all counts (ip-sysctl: the larger number)."""
    found = {name: _number(_IPV4 / "conf" / name / "rp_filter") for _, name in socket.if_nameindex()}
    every = _number(_IPV4 / "conf/all/rp_filter") or 0
    return {name: max(value, every) for name, value in found.items() if value is not None}


def _conntrack() -> tuple[int, int] | None:
    count, most = _number(_CONNTRACK / "nf_conntrack_count"), _number(_CONNTRACK / "nf_conntrack_max")
    return None if count is None or not most else (count, most)


class _Timex(ctypes.Structure):
    """The beginning of ``struct timex``, and room for the rest: mode 0 only reads."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 256),
    )


def _clock_synced() -> bool | None:
    timex = _Timex()
    if ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(timex)) < 0:
        return None
    return not timex.status & _STA_UNSYNC


def _rng_ready() -> bool:
    try:
        os.getrandom(1, os.GRND_NONBLOCK)
    except BlockingIOError:
        return False
    return True


def _leftovers(tun_name: str) -> int:
    numbers = Numbers.of(tun_name)
    try:
        with RtNetlink() as kernel:
            rules = sum(map(numbers.owns_rule, kernel.rules()))
            return rules + sum(map(numbers.owns_guard, kernel.routes(protocol=PROTOCOL)))
    except NetlinkError:
        return 0


def _counter(group: str, name: str) -> int:
    lines = [line.split() for line in _text(_NETSTAT).splitlines() if line.startswith(f"{group}:")]
    if len(lines) != 2 or name not in lines[0]:
        return 0
    return int(lines[1][lines[0].index(name)])


def _number(path: Path) -> int | None:
    try:
        return int(_text(path))
    except ValueError:
        return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
