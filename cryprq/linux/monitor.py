"""Notices of the kernel that links, addresses, routes or rules have changed (rtnetlink(7), multicast groups)."""

import socket
from collections.abc import Collection
from typing import Final

from cryprq.linux.netlink import messages, waiting
from cryprq.linux.rtnetlink import concerns
from cryprq.linux.ways import Ways

# <linux/rtnetlink.h>: RTMGRP_LINK, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV6_IFADDR, IPV6_ROUTE, and RTNLGRP_IPV6_RULE
_GROUPS: Final = 0x1 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 1 << 18


class Monitor:
    """A socket that is readable when something has changed in the network namespace of the thread that made it."""

    def __init__(self) -> None:
        self.overrun = False
        """Whether notices were lost at the last reading."""
        self.way_opened = False
        """Whether the last reading told of a new way to elsewhere, or notices were lost that may have."""
        self._ways = Ways()
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            self._socket.bind((0, _GROUPS))
            self._socket.setblocking(False)
        except BaseException:
            self._socket.close()
            raise

    def fileno(self) -> int:
        """The descriptor, for an event loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Idempotent."""
        self._socket.close()

    def changed(self, interface: int, towards: Collection[bytes] = ()) -> bool:
        """Reads the notices that wait; True if one may be about what a node with this interface keeps, or if some were
        lost, of which nobody knows what they said. ``towards``: the packed addresses to which new routes are ways."""
        found = self.overrun = self.way_opened = False
        for notice in waiting(self._socket):
            if notice is None:
                found = self.overrun = self.way_opened = True
                continue
            for kind, _, _, body in messages(notice[0]):
                found = found or concerns(kind, body, interface)
                self.way_opened = self._ways.opens(kind, body, interface, towards) or self.way_opened
        return found
