"""Notices of the kernel: which of them make a node look."""

import select
import socket
import time

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


HOSTS = {socket.inet_aton("203.0.113.7"), socket.inet_pton(socket.AF_INET6, "2001:db8::7")}


def wait_for_carrier(host: hosts.Namespace) -> None:
    """The kernel tells of it a little later, in a notice of its own."""
    end = time.monotonic() + 30
    while "state UP" not in host.ip("link show dev other") and time.monotonic() < end:
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("before", "command", "opens"),
    [
        ([], "address add 10.7.0.1/16 dev other", True),
        (["address add 10.7.0.1/16 dev other"], "address replace 10.7.0.1/16 dev other", False),  # a lease renewed
        ([], "address add 10.7.0.1/16 dev port", False),  # the node's own
        ([], "-6 address add fd07::1/48 dev other nodad", True),
        (["link set other up"], "link set other mtu 1400", False),
        (["link set other up", "link set other down"], "link set other up", True),
        (["link set port down"], "link set port up", False),
        (["link set other up"], "link set other down", False),
        ([], "route add default dev other", True),
        ([], "route add 203.0.113.0/24 dev other", True),
        ([], "route add 198.51.100.0/24 dev other", False),
        ([], "route add 203.0.113.0/24 dev port proto 113", False),
        ([], "route add unreachable 203.0.113.0/24", False),
        (["route add 203.0.113.0/24 dev other"], "route del 203.0.113.0/24 dev other", False),
        ([], "-6 route add 2001:db8::/32 dev other", True),
        ([], "-6 route add fd07::/48 dev other", False),
    ],
)
def test_what_opens_a_way(host: hosts.Namespace, before: list[str], command: str, opens: bool) -> None:
    host.ip("link add cable type veth peer name end")  # bridges have no carrier of their own
    host.ip("link set end up")
    host.ip("link del other")
    host.ip("link set cable name other")
    if "link" not in command:
        host.ip("link set other up")
        wait_for_carrier(host)
    monitor, index = open_in(host)
    try:
        for each in before:
            host.ip(each)
            if each == "link set other up":
                wait_for_carrier(host)
            monitor.changed(index, HOSTS)
        host.ip(command)
        if command == "link set other up":
            wait_for_carrier(host)
        monitor.changed(index, HOSTS)
        assert monitor.way_opened is opens
        monitor.changed(index, HOSTS)
        assert not monitor.way_opened
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
