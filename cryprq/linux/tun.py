"""The TUN device: its queues and offloads. (``interface_state`` has its addresses and routes.)

Opened as <linux/if_tun.h> has it (see also Documentation/networking/tuntap.rst). With IFF_VNET_HDR every read and
write begins with a 10-byte ``struct virtio_net_hdr``, and the kernel may hand over super-packets of many segments of
one flow (TSO, USO) and leave transport checksums to be filled in.
"""

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Collection, Iterator
from types import TracebackType
from typing import Final, Self

from cryprq.errors import MachineError
from cryprq.linux.netlink import NetlinkError
from cryprq.linux.rtnetlink import RtNetlink

DEVICE: Final = "/dev/net/tun"
VNET_HEADER_SIZE: Final = 10
"""Bytes of ``struct virtio_net_hdr`` without ``num_buffers``, in host byte order."""
QUEUE_LENGTH: Final = 1000
"""Packets that the kernel queues for the readers. The kernel's own 500 drops bursts of a fast sender."""

_TUNGETIFF, _TUNSETIFF, _TUNSETOFFLOAD, _TUNSETVNETHDRSZ = (0x800454D2, 0x400454CA, 0x400454D0, 0x400454D8)
_IFF_TUN, _IFF_MULTI_QUEUE, _IFF_NO_PI, _IFF_VNET_HDR, _IFF_TUN_EXCL = 0x1, 0x100, 0x1000, 0x4000, 0x8000
_F_CSUM, _F_TSO4, _F_TSO6, _F_TSO_ECN, _F_USO4, _F_USO6 = 0x01, 0x02, 0x04, 0x08, 0x20, 0x40
_IFREQ = struct.Struct("16sH22x")
_NAME_MAX = 15


def check_name(name: str) -> None:
    """Raises MachineError unless the kernel would take name for an interface (``dev_valid_name``) as it stands."""
    size = len(os.fsencode(name))
    if size > _NAME_MAX:
        raise MachineError(f"interface name {name!r} is too long: {size} bytes, at most {_NAME_MAX} (--tun-name)")
    if name in ("", ".", "..") or any(c in "/:%" or c.isspace() or not c.isprintable() for c in name):
        raise MachineError(f"{name!r} is no interface name: use letters, digits, '-', '_' and '.' (--tun-name)")


class Tun:
    """A TUN device that lives as long as this object: closing it removes the device, its addresses and its routes."""

    def __init__(self, name: str, index: int, mtu: int, fds: tuple[int, ...], offloads: frozenset[str]) -> None:
        """Takes over what ``open`` made."""
        self.name: Final = name
        """What it was opened as."""
        self.index: Final = index
        self.mtu: Final = mtu
        self.fds: Final = fds
        """One descriptor per queue, nonblocking, close-on-exec."""
        self.offloads: Final = offloads
        """Which of ``vnet_hdr``, ``tso4``, ``tso6`` and ``uso`` the kernel took."""
        self._last_name = name
        self._closed = False

    @classmethod
    def open(cls, name: str, queues: int, offloads: Collection[str], mtu: int) -> Self:
        """Makes the device, still down, with ``queues`` queues and those of the wanted offloads that the kernel has.

        Names that are not the TUN's are ignored; the others need ``vnet_hdr``. Raises MachineError.
        """
        check_name(name)
        flags = _IFF_TUN | _IFF_NO_PI
        if "vnet_hdr" in offloads:
            flags |= _IFF_VNET_HDR
        if queues > 1:
            flags |= _IFF_MULTI_QUEUE
        fds: list[int] = []
        try:
            for queue in range(queues):
                fds.append(_open_device())
                _attach(fds[-1], name, flags if queue else flags | _IFF_TUN_EXCL)
            taken = _set_offloads(fds, offloads) if flags & _IFF_VNET_HDR else frozenset()
            tun = cls(name, socket.if_nametoindex(name), mtu, tuple(fds), taken)
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        try:
            tun._configure()
        except BaseException:
            tun.close()
            raise
        return tun

    def _configure(self) -> None:
        with RtNetlink() as kernel:
            try:
                kernel.set_link(self.index, mtu=self.mtu, txqueuelen=QUEUE_LENGTH)
            except NetlinkError as error:
                raise self._error(f"cannot set MTU {self.mtu} and queue length", error) from error
            try:
                kernel.set_no_link_local(self.index)
            except NetlinkError as error:
                if error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):  # a kernel without IPv6
                    raise self._error("cannot turn off IPv6 link-local addresses", error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def name_now(self) -> str | None:
        """What the device is called now, wherever it is: it may have been renamed, and moved to another network
        namespace. None: it was removed. What cannot be asked has not changed."""
        try:
            answer = fcntl.ioctl(self.fds[0], _TUNGETIFF, bytes(_IFREQ.size))
        except OSError as error:
            return None if error.errno == errno.EBADFD else self._last_name
        self._last_name = os.fsdecode(answer[: _NAME_MAX + 1].partition(b"\0")[0])
        return self._last_name

    def close(self) -> None:
        """Closes the queues, which removes the device. Nobody may use ``fds`` after this. Idempotent."""
        if self._closed:
            return
        self._closed = True
        for fd in self.fds:
            os.close(fd)

    def _error(self, what: str, error: OSError) -> MachineError:
        hint = "; needs root or CAP_NET_ADMIN" if error.errno == errno.EPERM else ""
        return MachineError(f"{self.name}: {what}: {error.strerror}{hint}")


def _open_device() -> int:
    try:
        return os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.EPERM, errno.EACCES):
            line = f"no right to open {DEVICE}: run as root or with CAP_NET_ADMIN, and see that the device is writable"
        elif error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
            line = f"no {DEVICE}: load it with 'modprobe tun', or give the container --device {DEVICE}"
        else:
            line = f"cannot open {DEVICE}: {error.strerror}"
        raise MachineError(line) from error


def _attach(fd: int, name: str, flags: int) -> None:
    try:
        fcntl.ioctl(fd, _TUNSETIFF, _IFREQ.pack(os.fsencode(name), flags))
    except OSError as error:
        if error.errno == errno.EPERM:
            line = f"no right to make the TUN {name}: run as root or with CAP_NET_ADMIN"
        elif error.errno == errno.EBUSY:
            line = f"interface {name} exists already: choose another --tun-name (is a node up? cryprq status says so)"
        elif error.errno == errno.EINVAL:
            line = f"the kernel takes no TUN called {name}: choose another --tun-name, or fewer --workers"
        else:
            line = f"cannot make the TUN {name}: {error.strerror}"
        raise MachineError(line) from error


def _candidates(wanted: Collection[str]) -> Iterator[frozenset[str]]:
    """What to try, best first: everything, without USO (Linux before 6.2), each TSO alone, no segmentation."""
    for names in (("tso4", "tso6", "uso"), ("tso4", "tso6"), ("tso4",), ("tso6",), ()):
        yield frozenset(names).intersection(wanted)


def _set_offloads(fds: list[int], wanted: Collection[str]) -> frozenset[str]:
    """Turns on what is wanted and there. Offloads belong to the device, the header's size too; one queue sets them."""
    try:
        fcntl.ioctl(fds[0], _TUNSETVNETHDRSZ, struct.pack("=i", VNET_HEADER_SIZE))
    except OSError as error:
        line = f"the TUN takes no 10-byte vnet header: {error.strerror}; try --no-offload vnet_hdr"
        raise MachineError(line) from error
    for names in _candidates(wanted):
        bits = _F_CSUM
        bits |= _F_TSO4 if "tso4" in names else 0
        bits |= _F_TSO6 if "tso6" in names else 0
        bits |= _F_TSO_ECN if names & {"tso4", "tso6"} else 0
        bits |= _F_USO4 | _F_USO6 if "uso" in names else 0  # the kernel takes both or none
        try:
            fcntl.ioctl(fds[0], _TUNSETOFFLOAD, bits)
        except OSError:
            continue
        return names | {"vnet_hdr"}
    return frozenset({"vnet_hdr"})  # not even checksums: the header stays, and says that nothing was offloaded
