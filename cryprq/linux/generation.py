"""Notices that this machine goes on from a copy of its memory: a virtual machine that was resumed from a snapshot.

Its twin, if there is one, has the same keys and the same counters. The hypervisor tells the kernel by another VM
generation ID (``drivers/virt/vmgenid.c``), and the kernel, which has mixed it into its random numbers by then, tells
everybody by a uevent with ``NEW_VMGENID=1`` (Linux 6.8). A uevent is a line ``ACTION@DEVPATH`` and then variables, each
ended by a zero byte (``lib/kobject_uevent.c``). It reaches the network namespaces of the first user namespace.
"""

import socket
from typing import Final

from cryprq.linux.netlink import waiting

_NETLINK_KOBJECT_UEVENT: Final = 15
_KERNEL_GROUP: Final = 1  # the kernel's own; what udevd makes of them is in 2
_RECEIVE_BUFFER: Final = 1 << 20


def tells_of_copy(uevent: bytes) -> bool:
    """Whether a message of the kernel says that the generation is another one."""
    _, *variables = uevent.split(b"\0")
    return b"NEW_VMGENID=1" in variables and b"ACTION=change" in variables


class GenerationMonitor:
    """A socket that is readable when the kernel tells something about any device."""

    def __init__(self) -> None:
        self.overrun = False
        """Whether messages were lost at the last reading."""
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_KOBJECT_UEVENT
        )
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            self._socket.bind((0, _KERNEL_GROUP))
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """The descriptor, for an event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()

    def changed(self) -> bool:
        """Reads the messages that wait; True if the machine goes on from a copy.

        Lost ones, of which there is no telling what they said, are taken for those of the storm that lost them.
        """
        found = self.overrun = False
        for message in waiting(self._socket):
            if message is None:
                self.overrun = True
                continue
            data, port = message
            found = found or (port == 0 and tells_of_copy(data))  # port 0 is the kernel
        return found
