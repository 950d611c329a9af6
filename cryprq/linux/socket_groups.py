"""The UDP sockets of a node with all its ports: a socket group for each address at which it listens, and one to dial
from."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from cryprq.linux.sockets import SocketGroup, open_group

if TYPE_CHECKING:
    from cryprq.multiaddr import Multiaddr


class SocketGroups:
    """The groups in the order of their numbers, which are those of ``cryprq.address.Local``.

    A node that listens at one address dials from there, too. One that listens at several has a further group for that:
    of either IP version, with the kernel's choice of a way out, and free to take another port. Nobody may connect to
    that one.
    """

    def __init__(self, groups: Sequence[SocketGroup], listening: int) -> None:
        """The first ``listening`` of them listen; the last one dials."""
        self._groups: Final = tuple(groups)
        self._listening: Final = listening

    def __iter__(self) -> Iterator[SocketGroup]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, number: int) -> SocketGroup:
        return self._groups[number]

    @property
    def listening(self) -> tuple[SocketGroup, ...]:
        """Those at which peers connect, in the order in which they were asked for."""
        return self._groups[: self._listening]

    @property
    def dials_by(self) -> int:
        """The number of the group that this node dials from."""
        return len(self._groups) - 1

    @property
    def dialling(self) -> SocketGroup:
        """That group."""
        return self._groups[-1]

    @property
    def ports(self) -> tuple[int, ...]:
        """Their UDP ports, in order."""
        return tuple(group.port for group in self._groups)

    @property
    def mark(self) -> int:
        """What all that they send is marked with (SO_MARK), 0 for nothing."""
        return self._groups[0].mark

    @property
    def rcvbuf(self) -> int:
        """Bytes of receive buffer that every socket has at least."""
        return min(group.rcvbuf for group in self._groups)

    @property
    def offloads(self) -> dict[str, str]:
        """State by name, as in a group: what is tried is the kernel, and so it is the same for all."""
        return self._groups[0].offloads

    def set_mark(self, mark: int) -> None:
        """Marks what all of them send from now on. MachineError."""
        for group in self._groups:
            group.set_mark(mark)

    def close(self) -> None:
        """Closes every socket. Idempotent."""
        for group in self._groups:
            group.close()


def open_groups(
    listen: Sequence["Multiaddr"], lanes: int, *, udp_gro: bool = True, udp_segment: bool = True
) -> SocketGroups:
    """Binds every port, each as ``open_group`` does. MachineError for the first that cannot be had, with none left."""
    first = open_group(listen[0] if listen else None, lanes, udp_gro=udp_gro, udp_segment=udp_segment)
    groups = [first]
    try:
        for address in listen[1:]:
            groups.append(open_group(address, lanes, offloads=first.offloads))
        if len(listen) > 1:
            groups.append(open_group(None, lanes, offloads=first.offloads))
    except BaseException:
        for group in groups:
            group.close()
        raise
    return SocketGroups(groups, len(listen))
