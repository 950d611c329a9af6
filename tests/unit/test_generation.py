"""What the kernel says when the machine goes on from a snapshot, and what it says besides."""

import select
import socket

import pytest

from cryprq.linux.generation import GenerationMonitor, tells_of_copy
from lab import hosts, uevents

OTHER = b"change@/devices/virtual/net/eth0\0ACTION=change\0SUBSYSTEM=net\0"


@pytest.mark.parametrize(
    ("uevent", "expected"),
    [
        (uevents.VM_GENERATION, True),
        (uevents.VM_GENERATION + b"SEQNUM=2127\0", True),
        (OTHER, False),
        (uevents.VM_GENERATION.replace(b"=1", b"=0"), False),
        (uevents.VM_GENERATION.replace(b"ACTION=change", b"ACTION=add"), False),
        (b"change@NEW_VMGENID=1", False),
        (b"NEW_VMGENID=1\0ACTION=change", False),  # the first part is no variable
        (b"", False),
        (bytes(range(256)), False),
    ],
)
def test_which_uevents_tell_of_a_copy(uevent: bytes, expected: bool) -> None:
    assert tells_of_copy(uevent) is expected


@pytest.fixture
def host(lab: hosts.Lab) -> hosts.Namespace:
    return lab.namespace("host")


def test_monitor_hears_the_kernel(host: hosts.Namespace) -> None:
    with host.entered():
        monitor = GenerationMonitor()
    try:
        assert not monitor.changed()
        uevents.tell(host, OTHER)
        assert select.select([monitor.fileno()], [], [], 5)[0]
        assert not monitor.changed()
        uevents.tell(host)
        assert select.select([monitor.fileno()], [], [], 5)[0]
        assert monitor.changed()
        assert not monitor.changed()
    finally:
        monitor.close()


def test_monitor_does_not_listen_to_programs(host: hosts.Namespace) -> None:
    """Who sends a message itself, instead of asking the kernel to, has a port."""
    with host.entered():
        monitor = GenerationMonitor()
        port = monitor._socket.getsockname()[0]
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 15) as program:
            program.bind((0, 0))
            program.sendto(uevents.VM_GENERATION, (port, 0))
    try:
        assert select.select([monitor.fileno()], [], [], 5)[0]
        assert not monitor.changed()
    finally:
        monitor.close()


def test_monitor_survives_a_storm(host: hosts.Namespace) -> None:
    """Lost messages are none of copies."""
    with host.entered():
        monitor = GenerationMonitor()
    try:
        monitor._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        for _ in range(50):
            uevents.tell(host, OTHER)
        assert not monitor.changed()
        assert monitor.overrun
        uevents.tell(host)
        assert monitor.changed()
        assert not monitor.overrun
    finally:
        monitor.close()
