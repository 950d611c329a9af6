"""The rtnetlink client, checked against what iproute2 reports of the same kernel."""

import errno
import json
import socket
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from cryprq.linux import netlink
from cryprq.linux.netlink import NetlinkError
from cryprq.linux.rtnetlink import PROTOCOL, Link, Route, RtNetlink, Rule
from lab import hosts


@pytest.fixture
def host(lab: hosts.Lab) -> hosts.Namespace:
    """A namespace with an interface ``port`` that is down."""
    host = lab.namespace("host")
    host.ip("link add port type bridge")
    return host


def shown(host: hosts.Namespace, arguments: str) -> Any:
    return json.loads(host.ip(f"-j -d {arguments}") or "[]")


def open_in(host: hosts.Namespace) -> tuple[RtNetlink, int]:
    with host.entered():
        return RtNetlink(), socket.if_nametoindex("port")


def test_set_link_changes_what_is_given_and_nothing_else(host: hosts.Namespace) -> None:
    client, index = open_in(host)
    with client:
        client.set_link(index, mtu=1380, txqueuelen=1234)
        (link,) = shown(host, "link show dev port")
        assert (link["mtu"], link["txqlen"]) == (1380, 1234)
        assert "UP" not in link["flags"]
        client.set_link(index, up=True)
        (link,) = shown(host, "link show dev port")
        assert (link["mtu"], link["txqlen"]) == (1380, 1234)
        assert "UP" in link["flags"]
        client.set_link(index, up=False)
        assert "UP" not in shown(host, "link show dev port")[0]["flags"]


def test_no_link_local_leaves_the_interface_without_address(host: hosts.Namespace) -> None:
    client, index = open_in(host)
    with client:
        client.set_no_link_local(index)
        client.set_link(index, up=True)
    assert shown(host, "link show dev port")[0]["inet6_addr_gen_mode"] == "none"
    assert shown(host, "address show dev port")[0]["addr_info"] == []


def test_addresses_come_with_their_network_and_go(host: hosts.Namespace) -> None:
    client, index = open_in(host)
    with client:
        client.set_no_link_local(index)
        client.set_link(index, up=True)
        for text in ("10.66.0.1/24", "fd66::1/64"):
            client.add_address(index, ip_interface(text))
        four, six = shown(host, "address show dev port")[0]["addr_info"]
        assert (four["local"], four["prefixlen"]) == ("10.66.0.1", 24)
        assert (six["local"], six["prefixlen"], six.get("nodad")) == ("fd66::1", 64, True)
        assert [route["dst"] for route in shown(host, "route show dev port")] == ["10.66.0.0/24"]
        for text in ("10.66.0.1/24", "fd66::1/64"):
            client.remove_address(index, ip_interface(text))
        assert shown(host, "address show dev port")[0]["addr_info"] == []


@pytest.mark.parametrize("text", ["10.77.0.0/16", "10.77.1.2/32", "fd77::/48", "fd77::5/128"])
def test_routes_come_and_go(host: hosts.Namespace, text: str) -> None:
    client, index = open_in(host)
    network = ip_network(text)
    show = f"-{network.version} route show dev port proto {PROTOCOL}"
    with client:
        client.set_link(index, up=True)
        client.add_route(Route(network, index))
        (route,) = shown(host, show)
        assert ip_network(route["dst"]) == network
        with pytest.raises(NetlinkError) as caught:
            client.add_route(Route(network, index))
        assert caught.value.errno == errno.EEXIST
        client.remove_route(Route(network, index))
        assert shown(host, show) == []
        with pytest.raises(NetlinkError) as caught:
            client.remove_route(Route(network, index))
        assert caught.value.errno == errno.ESRCH


def test_errors_carry_the_kernels_own_words(host: hosts.Namespace) -> None:
    client, index = open_in(host)
    with client:
        with pytest.raises(NetlinkError) as caught:
            client.set_link(index, mtu=0x7FFFFFFF)
        assert caught.value.errno == errno.EINVAL
        assert "mtu" in str(caught.value.strerror)  # from the extended acknowledgement
        with pytest.raises(NetlinkError) as caught:
            client.set_link(0x7FFFFFF0, up=True)
        assert (caught.value.errno, caught.value.strerror) == (errno.ENODEV, "No such device")
        with pytest.raises(NetlinkError) as caught:
            client.remove_address(index, ip_interface("10.0.0.9/24"))
        assert caught.value.errno == errno.EADDRNOTAVAIL


def test_attributes_are_padded_and_damaged_ones_end_the_list() -> None:
    first, second = netlink.attribute(3, b"abcde"), netlink.u32(4, 7)
    assert len(first) == 12
    assert list(netlink.attributes(first + second)) == [(3, b"abcde"), (4, b"\x07\x00\x00\x00")]
    assert list(netlink.attributes(first + b"\xff\xff\x01\x00")) == [(3, b"abcde")]
    assert list(netlink.attributes(b"\x00\x00\x01\x00")) == []


def test_link_is_read_by_its_index(host: hosts.Namespace) -> None:
    client, index = open_in(host)
    with client:
        client.set_link(index, mtu=1380)
        assert client.link(index) == Link(index, "port", False, 1380)
        client.set_link(index, up=True)
        host.ip("link set port name harbour")
        assert client.link(index) == Link(index, "harbour", True, 1380)
        assert client.link(0x7FFFFFF0) is None


def test_what_was_added_is_read_again(host: hosts.Namespace) -> None:
    client, index = open_in(host)
    routes = {
        Route(ip_network("10.77.0.0/16"), index),
        Route(ip_network("10.78.0.0/16"), index, table=14000),
        Route(ip_network("0.0.0.0/0"), index, table=14000),
        Route(ip_network("10.77.0.0/16"), None, metric=2_000_000_007),
        Route(ip_network("fd77::/48"), index, metric=1),
        Route(ip_network("::/0"), None, table=14000, metric=2_000_000_007),
    }
    rules = [
        Rule(4, 27999, 254, endpoint=(ip_address("192.0.2.1"), 9999)),
        Rule(4, 27999, 254, lookups_of=0),
        Rule(4, 27999, 254, own_port=9999),
        Rule(4, 28000, 254, suppressed=0),
        Rule(4, 28001, 14000, unmarked=0x3401),
        Rule(6, 28001, 14000, unmarked=0x3401),
    ]
    with client:
        client.set_no_link_local(index)
        client.set_link(index, up=True)
        client.add_address(index, ip_interface("10.66.0.1/24"))
        assert (index, ip_interface("10.66.0.1/24")) in list(client.addresses())
        for route in routes:
            client.add_route(route)
        assert set(client.routes(protocol=PROTOCOL)) == routes
        of_port = {route for route in client.routes(interface=index) if route.protocol == PROTOCOL}
        assert of_port == {route for route in routes if route.interface == index}
        for rule in rules:
            client.add_rule(rule)
        assert [rule for rule in client.rules() if rule.protocol == PROTOCOL] == rules
        shown_rules = host.ip("rule show")
        assert "27999:\tfrom all to 192.0.2.1 ipproto udp dport 9999 lookup main proto 113" in shown_rules
        (lookups,) = (line for line in shown_rules.splitlines() if "uidrange" in line)
        assert "uidrange 0-0" in lookups and "ipproto udp" in lookups and "dport 53" in lookups
        assert "27999:\tfrom all iif lo ipproto udp sport 9999 lookup main proto 113" in shown_rules
        assert "28000:\tfrom all lookup main suppress_prefixlength 0 proto 113" in shown_rules
        assert "28001:\tnot from all fwmark 0x3401 lookup 14000 proto 113" in shown_rules
        for rule in rules:
            client.remove_rule(rule)
        for route in routes:
            client.remove_route(route)
        assert not [rule for rule in client.rules() if rule.protocol == PROTOCOL]
        assert not list(client.routes(protocol=PROTOCOL))


def test_many_routes_come_in_several_datagrams(host: hosts.Namespace) -> None:
    client, index = open_in(host)
    wanted = {Route(ip_network((0x0A000000 + number * 256, 24)), index) for number in range(2000)}
    with client:
        client.set_link(index, up=True)
        for route in wanted:
            client.add_route(route)
        assert {route for route in client.routes(interface=index) if route.protocol == PROTOCOL} == wanted
