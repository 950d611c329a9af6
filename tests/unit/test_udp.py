"""The UDP socket with control messages: batches that the kernel merged, and the address that a datagram leaves from."""

import errno
import socket
import struct

import pytest

from cryprq.address import Address, Local
from cryprq.linux.udp import UdpSocket, runs, segments


@pytest.mark.parametrize(
    ("length", "size", "lengths"),
    [
        (10, 4, [4, 4, 2]),
        (8, 4, [4, 4]),
        (8, 8, [8]),
        (8, 9, [8]),
        (8, 0, [8]),
        (8, -1, [8]),
        (1, 1, [1]),
        (0, 0, [0]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_segments(length: int, size: int, lengths: list[int]) -> None:
    data = bytes(range(length))
    parts = list(segments(data, size))
    assert [len(part) for part in parts] == lengths
    assert b"".join(parts) == data


def test_merged_batch_is_received_as_its_datagrams() -> None:
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        for end in (sock, sender):
            end.bind(("127.0.0.1", 0))
        sock.setsockopt(17, 104, 1)  # UDP_GRO
        udp = UdpSocket(sock)
        assert udp.fileno() == sock.fileno()
        assert not udp.readable()
        assert udp.receive() is None
        sender.sendmsg([bytes(250)], [(17, 103, struct.pack("=H", 100))], 0, sock.getsockname())  # UDP_SEGMENT
        sender.sendto(b"alone", sock.getsockname())
        sender.sendto(b"", sock.getsockname())
        here = Address(*sender.getsockname())
        assert udp.readable()
        assert udp.receive() == ([bytes(100), bytes(100), bytes(50)], here, Local("127.0.0.1"))
        assert udp.receive() == ([b"alone"], here, Local("127.0.0.1"))
        assert udp.receive() == ([b""], here, Local("127.0.0.1"))
        assert not udp.readable()


@pytest.mark.parametrize(
    ("sizes", "lengths"),
    [
        ([], []),
        ([7], [1]),
        ([7, 7, 3, 7, 7], [3, 2]),
        ([3, 7], [1, 1]),
        ([7, 0, 7], [1, 1, 1]),
        ([7] * 40, [32, 8]),
    ],
)
def test_runs(sizes: list[int], lengths: list[int]) -> None:
    datagrams = [bytes(size) for size in sizes]
    found = list(runs(datagrams))
    assert [len(run) for run in found] == lengths
    assert [datagram for run in found for datagram in run] == datagrams


def send_all(segment: bool, sizes: list[int], gso: bool = True) -> tuple[list[int], int]:
    """The sizes of the datagrams that arrive, in order, and how many system calls sent them."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        for end in (sock, receiver):
            end.bind(("127.0.0.1", 0))
        counting = _Counting(sock, gso)
        udp = UdpSocket(counting, segment=segment)  # type: ignore[arg-type]
        assert udp.send_all([bytes(size) for size in sizes], Address(*receiver.getsockname()), Local("127.0.0.1"))
        receiver.settimeout(5)
        return [len(receiver.recv(2000)) for _ in sizes], counting.calls


class _Counting:
    """A socket that counts what is sent, and may not know UDP_SEGMENT."""

    def __init__(self, sock: socket.socket, gso: bool) -> None:
        self._sock = sock
        self._gso = gso
        self.calls = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._sock, name)

    def fileno(self) -> int:
        return self._sock.fileno()

    def sendmsg(self, parts: list[bytes], control: list[tuple[int, int, bytes]], flags: int, to: object) -> int:
        if not self._gso and any(kind == 103 for _, kind, _ in control):
            raise OSError(errno.EIO, "no checksum offload")
        self.calls += 1
        return self._sock.sendmsg(parts, control, flags, to)  # type: ignore[arg-type]


@pytest.mark.parametrize(("segment", "gso", "calls"), [(True, True, 2), (False, True, 5), (True, False, 5)])
def test_datagrams_that_leave_together_take_one_call_where_the_kernel_can(segment: bool, gso: bool, calls: int) -> None:
    sizes = [1232, 1232, 610, 1232, 32]
    assert send_all(segment, sizes, gso) == (sizes, calls)


@pytest.mark.parametrize("bind", ["0.0.0.0", "::"])
def test_a_source_that_is_not_ours_is_forgotten_and_the_datagram_sent_again(bind: str) -> None:
    with (
        socket.socket(socket.AF_INET6 if ":" in bind else socket.AF_INET, socket.SOCK_DGRAM) as sock,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
    ):
        sock.bind((bind, 0))
        receiver.bind(("127.0.0.1", 0))
        receiver.settimeout(2)
        udp = UdpSocket(sock)
        to = Address(*receiver.getsockname())
        assert not udp.send(b"moved", to, Local("192.0.2.7"))
        assert receiver.recv(100) == b"moved"
        assert not udp.send(b"other family", to, Local("2001:db8::1"))
        assert receiver.recv(100) == b"other family"
        assert udp.send(b"pinned", to, Local("127.0.0.9"))
        data, sender = receiver.recvfrom(100)
        assert (data, sender[0]) == (b"pinned", "127.0.0.9")
