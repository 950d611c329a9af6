"""What a host finds around it, in namespaces whose networks and ways are known."""

import errno
import sys

import pytest

from cryprq.linux.surroundings import Way, way_to
from lab.hosts import Lab


def test_networks_of_a_host_are_those_of_its_interfaces(lab: Lab) -> None:
    here, there = lab.namespace("here"), lab.namespace("there")
    lab.veth(here, ["192.0.2.1/24", "2001:db8::1/64"], there, ["192.0.2.2/24", "2001:db8::2/64"])
    here.ip("tuntap add dev own mode tun")
    here.ip("addr add 10.9.0.1/24 dev own")
    here.ip("link set own up")
    here.ip("route add 10.1.0.0/16 via 192.0.2.2")  # not the host's own network
    here.ip("route add default via 192.0.2.2")
    here.ip("route add unreachable 10.2.0.0/16")
    program = "from cryprq.linux.surroundings import local_networks as f; print(*(n for _, n in f(without='own')))"
    # /proc/net is that of the process's first thread: a process of its own shows the namespace's
    assert set(here.run(sys.executable, "-c", program).split()) == {"192.0.2.0/24", "2001:db8::/64"}


def test_way_is_as_narrow_as_its_route_says_or_there_is_none(lab: Lab) -> None:
    here, there = lab.namespace("here"), lab.namespace("there")
    lab.veth(here, ["192.0.2.1/24", "2001:db8::1/64"], there, ["192.0.2.2/24", "2001:db8::2/64"])
    here.ip("route add 198.51.100.0/24 via 192.0.2.2 mtu 1300")
    with here.entered():
        assert way_to("192.0.2.2") == Way("192.0.2.1", 1500)
        assert way_to("2001:db8::2") == Way("2001:db8::1", 1500)
        assert way_to("198.51.100.7", mark=7) == Way("192.0.2.1", 1300)
        for host in ("203.0.113.1", "2001:db8:ffff::1"):
            with pytest.raises(OSError, match="unreachable") as caught:
                way_to(host)
            assert caught.value.errno == errno.ENETUNREACH
