"""Which address a listener on all addresses names."""

import socket

from cryprq.linux.host_address import reachable_address
from lab import hosts


def address(host: hosts.Namespace, family: int = socket.AF_INET6) -> str:
    with host.entered():
        return reachable_address(family, without="cryprq0")


def test_host_without_a_network_names_loopback(lab: hosts.Lab) -> None:
    host = lab.namespace("alone")
    assert address(host) == "::1"
    assert address(host, socket.AF_INET) == "127.0.0.1"


def test_interface_address_does_without_a_default_route(lab: hosts.Lab) -> None:
    host, other = lab.namespace("host"), lab.namespace("other")
    lab.veth(host, ["192.0.2.1/24", "fd00::1/64"], other, ["192.0.2.2/24"])
    assert address(host) == "192.0.2.1"
    host.ip("address del 192.0.2.1/24 dev eth0")
    assert address(host) == "fd00::1"
    assert address(host, socket.AF_INET) == "127.0.0.1"


def test_way_to_everywhere_comes_first_and_the_tunnel_never(lab: hosts.Lab) -> None:
    host, inside, outside = (lab.namespace(name) for name in ("host", "inside", "outside"))
    lab.veth(host, ["10.7.0.1/24"], inside, ["10.7.0.2/24"])
    lab.veth(host, ["198.51.100.1/24"], outside, ["198.51.100.2/24"], names=("wan0", "eth0"))
    host.ip("route add default via 198.51.100.2")
    assert address(host) == "198.51.100.1"
    lab.veth(host, ["10.9.0.1/24"], inside, [], names=("cryprq0", "eth1"))
    host.ip("route replace default dev cryprq0")
    assert address(host) == "10.7.0.1"
