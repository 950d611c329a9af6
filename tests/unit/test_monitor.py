"""Notices of the kernel: which of them make a node look."""

import select
import socket

import pytest

from cryprq.linux.monitor import Monitor
from lab import hosts


@pytest.fixture
def host(lab: hosts.Lab) -> hosts.Namespace:
    """A namespace with two interfaces that are up: ``port``, the node's, and ``other``."""
    host = lab.namespace("host")
    for name in ("port", "other"):
        host.ip(f"link add {name} type bridge")
        host.ip(f"link set {name} up")
    return host


def open_in(host: hosts.Namespace) -> tuple[Monitor, int]:
    with host.entered():
        return Monitor(), socket.if_nametoindex("port")


@pytest.mark.parametrize(
    ("command", "concerns"),
    [
        ("route add 10.7.0.0/16 dev port", True),
        ("route add 10.7.0.0/16 dev other", False),  # a router may have a million of these
        ("route add unreachable 10.7.0.0/16 proto 113", True),
        ("-6 route add fd07::/48 dev port", True),
        ("-6 route add fd07::/48 dev other", False),
        ("address add 10.7.0.1/16 dev other", True),  # may be the same network as a peer's
        ("-6 address add fd07::1/48 dev port", True),
        ("link set port down", True),
        ("link set port mtu 1400", True),
        ("link set port name harbour", True),
        ("rule add from 10.7.0.0/16 lookup main", True),
        ("-6 rule add from fd07::/48 lookup main", True),
    ],
)
def test_what_may_concern_a_node(host: hosts.Namespace, command: str, concerns: bool) -> None:
    monitor, index = open_in(host)
    try:
        assert not monitor.changed(index)
        host.ip(command)
        assert select.select([monitor], [], [], 1)[0]
        assert monitor.changed(index) is concerns and not monitor.overrun
        assert not monitor.changed(index)
    finally:
        monitor.close()


def test_notices_that_were_lost_may_have_concerned_it(host: hosts.Namespace) -> None:
    monitor, index = open_in(host)
    batch = host.directory / "routes"
    batch.write_text("".join(f"route add 10.{n >> 8}.{n & 255}.0/24 dev other\n" for n in range(3000)))
    try:
        host.ip(f"-batch {batch}")
        seen = [(monitor.changed(index), monitor.overrun)]
        while select.select([monitor], [], [], 0)[0]:
            seen.append((monitor.changed(index), monitor.overrun))
        assert (True, True) in seen and seen.count((True, True)) == 1
    finally:
        monitor.close()
