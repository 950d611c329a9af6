"""The TUN device: what the kernel really made of it, and one clear line for each thing that can be wrong."""

import fcntl
import json
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cryprq.errors import MachineError
from cryprq.linux import tun as tun_module
from cryprq.linux.tun import Tun, check_name
from lab import hosts

TUN_OFFLOADS = {"vnet_hdr", "tso4", "tso6", "uso"}
TUNGETIFF, TUNGETVNETHDRSZ = 0x800454D2, 0x800454D7


@pytest.fixture
def host(lab: hosts.Lab) -> Iterator[hosts.Namespace]:
    """A namespace that this thread is in during the test."""
    host = lab.namespace("host")
    with host.entered():
        yield host


def link(host: hosts.Namespace, name: str) -> Any:
    return json.loads(host.ip(f"-j -d link show dev {name}"))[0]


def flags_of(tun: Tun) -> int:
    _name, flags = struct.unpack("16sH22x", fcntl.ioctl(tun.fds[0], TUNGETIFF, bytes(40)))
    return int(flags)


def test_open_makes_a_device_with_header_and_offloads(host: hosts.Namespace) -> None:
    with Tun.open("tun-a", 1, TUN_OFFLOADS, 1420) as tun:
        shown = link(host, "tun-a")
        assert shown["linkinfo"]["info_data"]["type"] == "tun"
        assert (shown["mtu"], shown["txqlen"]) == (1420, tun_module.QUEUE_LENGTH)
        assert shown["inet6_addr_gen_mode"] == "none"
        assert {"vnet_hdr", "tso4", "tso6"} <= tun.offloads <= TUN_OFFLOADS
        assert flags_of(tun) & 0x4000  # IFF_VNET_HDR
        (size,) = struct.unpack("=i", fcntl.ioctl(tun.fds[0], TUNGETVNETHDRSZ, bytes(4)))
        assert size == tun_module.VNET_HEADER_SIZE
        assert not os.get_blocking(tun.fds[0])
        assert not os.get_inheritable(tun.fds[0])
        assert tun.index == socket.if_nametoindex("tun-a")
    assert "tun-a" not in [name for _, name in socket.if_nameindex()]


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        (set(), set()),
        ({"tso4", "tso6", "uso"}, set()),  # nothing works without the header
        ({"vnet_hdr"}, {"vnet_hdr"}),
        ({"vnet_hdr", "tso6", "udp_gro"}, {"vnet_hdr", "tso6"}),
        ({"vnet_hdr", "tso4", "tso6"}, {"vnet_hdr", "tso4", "tso6"}),
    ],
)
def test_open_takes_only_wanted_offloads(host: hosts.Namespace, wanted: set[str], taken: set[str]) -> None:
    with Tun.open("tun-a", 1, wanted, 1420) as tun:
        assert tun.offloads == taken
        assert bool(flags_of(tun) & 0x4000) == ("vnet_hdr" in taken)


def test_kernel_without_uso_falls_back_to_tso(host: hosts.Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.ioctl
    tried = []

    def before_6_2(fd: int, request: int, *arguments: Any) -> Any:
        if request == tun_module._TUNSETOFFLOAD:
            tried.append(arguments[0])
            if arguments[0] & 0x60:
                raise OSError(22, "Invalid argument")
        return real(fd, request, *arguments)

    monkeypatch.setattr(fcntl, "ioctl", before_6_2)
    with Tun.open("tun-a", 1, TUN_OFFLOADS, 1420) as tun:
        assert tun.offloads == {"vnet_hdr", "tso4", "tso6"}
    assert tried == [0x6F, 0x0F]


def test_queues_share_the_device(host: hosts.Namespace) -> None:
    with Tun.open("tun-a", 3, TUN_OFFLOADS, 1420) as tun:
        assert len(set(tun.fds)) == 3
        assert flags_of(tun) & 0x100  # IFF_MULTI_QUEUE
        names = {fcntl.ioctl(fd, TUNGETIFF, bytes(40))[:16].rstrip(b"\0") for fd in tun.fds}
        assert names == {b"tun-a"}


def test_packets_pass_through_header_and_address(host: hosts.Namespace) -> None:
    with Tun.open("tun-a", 1, {"vnet_hdr"}, 1420) as tun:
        host.ip("address add 10.66.0.1/24 dev tun-a")
        host.ip("link set tun-a up")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(b"hello", ("10.66.0.2", 7))
        packet = os.read(tun.fds[0], 2048)
        assert packet[10] == 0x45
        assert packet[10 + 12 : 10 + 20] == bytes([10, 66, 0, 1, 10, 66, 0, 2])
        assert packet.endswith(b"hello")
        assert packet[0] & 1  # VIRTIO_NET_HDR_F_NEEDS_CSUM: the kernel left the checksum to us
        with pytest.raises(BlockingIOError):
            os.read(tun.fds[0], 2048)  # and no router solicitation or the like beside it


@pytest.mark.parametrize(("segments", "size"), [(45, 1392), (46, 1392), (47, 1392), (64, 1000), (64, 64)])
def test_super_packets_come_whole(host: hosts.Namespace, segments: int, size: int) -> None:
    """Those of more segments than one send takes (45 at this MTU), too: cut by the kernel they would cost more."""
    with Tun.open("tun-a", 1, TUN_OFFLOADS, 1420) as tun:
        if "uso" not in tun.offloads:
            pytest.skip("this kernel has no USO")
        host.ip("address add 10.66.0.1/24 dev tun-a")
        host.ip("link set tun-a up")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            ask = [(17, 103, struct.pack("=H", size))]  # UDP_SEGMENT
            sock.sendmsg([bytes(size * segments)], ask, 0, ("10.66.0.2", 7))
        packet = os.read(tun.fds[0], 65546)
        _flags, gso_type, _header, gso_size = struct.unpack_from("=BBHH", packet)
        assert (gso_type, gso_size) == (5, size)  # VIRTIO_NET_HDR_GSO_UDP_L4
        assert len(packet) == 10 + 28 + size * segments
        with pytest.raises(BlockingIOError):
            os.read(tun.fds[0], 65546)


def test_name_in_use_is_one_clear_line_and_leaks_nothing(host: hosts.Namespace) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with Tun.open("tun-a", 1, set(), 1420):
        with pytest.raises(MachineError, match=r"tun-a exists already.*--tun-name"):
            Tun.open("tun-a", 1, set(), 1420)
    with pytest.raises(MachineError, match="lo exists already"):
        Tun.open("lo", 1, set(), 1420)
    host.ip("tuntap add dev left mode tun")  # idle, but with addresses and routes of somebody else
    with pytest.raises(MachineError, match="left exists already"):
        Tun.open("left", 1, set(), 1420)
    assert len(os.listdir("/proc/self/fd")) == before


def test_bad_mtu_is_one_clear_line_and_leaves_no_device(host: hosts.Namespace) -> None:
    with pytest.raises(MachineError, match="MTU 20 "):
        Tun.open("tun-a", 1, set(), 20)
    assert "tun-a" not in [name for _, name in socket.if_nameindex()]


def test_close_twice_closes_no_foreign_descriptor(host: hosts.Namespace) -> None:
    tun = Tun.open("tun-a", 1, set(), 1420)
    tun.close()
    other = os.open("/dev/null", os.O_RDONLY)
    tun.close()
    os.close(other)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a b", "a\tb", "tun%d", "a:b", "a\x00b", "sixteen-bytes-xx", "é" * 8]
)
def test_bad_names_are_refused(name: str) -> None:
    with pytest.raises(MachineError, match="--tun-name") as caught:
        check_name(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["cryprq0", "fifteen-bytes-x", "a.b_c-d"])
def test_good_names_pass(name: str) -> None:
    check_name(name)


def test_no_device_file_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tun_module, "DEVICE", str(tmp_path / "tun"))
    with pytest.raises(MachineError, match="modprobe tun"):
        Tun.open("tun-a", 1, set(), 1420)


@pytest.mark.parametrize(("call", "text"), [("open", "no right to open"), ("ioctl", "no right to make")])
def test_no_right_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, call: str, text: str, tmp_path: Path) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    (tmp_path / "tun").touch()
    monkeypatch.setattr(tun_module, "DEVICE", str(tmp_path / "tun"))
    monkeypatch.setattr(os if call == "open" else fcntl, call, refuse)
    with pytest.raises(MachineError, match=f"{text}.*CAP_NET_ADMIN"):
        Tun.open("tun-a", 1, set(), 1420)


def test_device_is_known_by_its_descriptor(host: hosts.Namespace, lab: hosts.Lab) -> None:
    with Tun.open("tun-a", 2, set(), 1420) as tun:
        assert tun.name_now() == "tun-a"
        host.ip("link set tun-a name other")
        assert tun.name_now() == "other"
        host.ip(f"link set other netns {lab.namespace('elsewhere').name}")
        assert tun.name_now() == "other"
    with Tun.open("tun-b", 2, set(), 1420) as tun:
        host.ip("link delete tun-b")
        assert tun.name_now() is None


def test_what_cannot_be_asked_has_not_changed(host: hosts.Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> bytes:
        raise OSError(24, "Too many open files")

    with Tun.open("tun-a", 1, set(), 1420) as tun:
        monkeypatch.setattr(fcntl, "ioctl", exhausted)
        assert tun.name_now() == "tun-a"
