"""Several UDP sockets that are read and written as one: those of the event loop, where a node has several ports."""

import select
from collections.abc import Sequence
from typing import Final

from cryprq.address import Address, Local
from cryprq.linux.udp import UdpSocket


class UdpSockets:
    """To an event loop they are one descriptor, an epoll instance, which is readable when one of them is. A datagram
    leaves by the socket that its ``local`` names. A context of its own: ``close`` closes it, and none of the sockets.
    """

    def __init__(self, members: Sequence[UdpSocket]) -> None:
        """By the numbers of their groups."""
        self._members: Final = tuple(members)
        self._turn = 0
        self._epoll = select.epoll()
        for member in self._members:
            self._epoll.register(member.fileno(), select.EPOLLIN)

    def fileno(self) -> int:
        """The descriptor, for an event loop."""
        return self._epoll.fileno()

    def readable(self) -> bool:
        """Whether something waits to be received."""
        return any(member.readable() for member in self._members)

    def receive(self) -> tuple[list[bytes], Address, Local] | None:
        """As that of one socket; the sockets take turns, so that none waits for another that is flooded."""
        for _ in self._members:
            member = self._members[self._turn]
            self._turn = (self._turn + 1) % len(self._members)
            if (batch := member.receive()) is not None:
                return batch
        return None

    def send(self, data: bytes, remote: Address, local: Local) -> bool:
        """As that of one socket."""
        return self._members[local.group].send(data, remote, local)

    def send_all(self, datagrams: Sequence[bytes], remote: Address, local: Local) -> bool:
        """As that of one socket."""
        return self._members[local.group].send_all(datagrams, remote, local)

    def replaced(self, group: int) -> None:
        """The descriptor of this one is another socket now. (epoll knows sockets, and forgot the one before.)"""
        self._epoll.register(self._members[group].fileno(), select.EPOLLIN)

    def close(self) -> None:
        """Idempotent."""
        self._epoll.close()
