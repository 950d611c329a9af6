"""Says to a namespace what the kernel says when a virtual machine goes on from a snapshot."""

import socket
import struct
from typing import Final

from lab.hosts import Namespace

_NETLINK_KOBJECT_UEVENT: Final = 15
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr: length, type, flags, sequence, port
_NLMSG_MIN_TYPE: Final = 0x10
_NLM_F_REQUEST_ACK: Final = 0x1 | 0x4
VM_GENERATION: Final = (
    b"change@/devices/platform/vmgenid\0ACTION=change\0DEVPATH=/devices/platform/vmgenid\0"
    b"SUBSYSTEM=platform\0NEW_VMGENID=1\0"
)


def tell(namespace: Namespace, uevent: bytes = VM_GENERATION) -> None:
    """Has the kernel multicast a uevent there, with a sequence number of its own at the end (Linux 4.18)."""
    message = _HEADER.pack(_HEADER.size + len(uevent), _NLMSG_MIN_TYPE, _NLM_F_REQUEST_ACK, 1, 0) + uevent
    with namespace.entered(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_KOBJECT_UEVENT) as sender:
        sender.bind((0, 0))
        sender.settimeout(5)
        sender.send(message)
        (error,) = struct.unpack_from("=i", sender.recv(4096), _HEADER.size)
    assert error == 0, f"the kernel refuses the uevent: {error}"
