"""What others do to the TUN while it runs, and what becomes of it. (One network for all tests, to be quick.)"""

import json
import time
from collections.abc import Iterator

import pytest

from lab.hosts import Lab, Namespace
from lab.nodes import Node
from lab.tunnels import GATEWAY
from lab.uplink import BEHIND, NETWORK, SERVER, Uplink, answers, make_uplink, soon


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("kernel")) as lab:
        yield lab


@pytest.fixture(scope="module")
def uplink(lab: Lab) -> Uplink:
    return make_uplink(lab)


@pytest.fixture(scope="module")
def dialer(uplink: Uplink) -> Node:
    """Connected, with routes that it was told."""
    node = uplink.node("laptop").start()
    node.wait_event("peer_connected")
    assert soon(lambda: answers(node.namespace, BEHIND[4]))
    return node


def way(host: Namespace, address: str) -> str:
    """The device that a packet would leave by."""
    version = 6 if ":" in address else 4
    found = json.loads(host.ip(f"-j -{version} route get {address}"))
    return str(found[0]["dev"])


COMMANDS = [
    ("route flush dev cryprq0 proto 113", "route_restored"),
    ("-6 route flush dev cryprq0", "route_restored"),
    ("addr flush dev cryprq0", "address_restored"),
    ("link set cryprq0 down", "link_restored"),
    ("link set cryprq0 mtu 9000", "link_restored"),
    ("link set cryprq0 mtu 1000", "link_restored"),  # less than IPv6 needs: the kernel takes it off
]


@pytest.mark.parametrize(("command", "event"), COMMANDS, ids=[command for command, _ in COMMANDS])
def test_what_is_taken_away_is_put_back(dialer: Node, command: str, event: str) -> None:
    """At once, since the kernel tells of it: tests/unit/test_monitor.py and test_interface_state.py."""
    host = dialer.namespace
    told = len(dialer.events(event))
    host.ip(command)
    dialer.wait_event(event, count=told + 1)
    assert soon(lambda: all(way(host, BEHIND[version]) == "cryprq0" for version in (4, 6)))
    assert soon(lambda: all(answers(host, address) for address in (*BEHIND.values(), *GATEWAY.values())))
    link = json.loads(host.ip("-j link show dev cryprq0"))[0]
    assert link["mtu"] == 1420 and "UP" in link["flags"]
    assert dialer.http("/healthz") == (200, "ok\n")
    assert dialer.status()["routes_missing"] == 0


def test_many_routes_of_others_do_not_hide_that_ours_are_gone(dialer: Node) -> None:
    """More notices than the socket holds are lost; then everything is read again."""
    host = dialer.namespace
    batch = host.directory / "routes"
    routes = [f"10.{number >> 8}.{number & 255}.0/24 dev eth0" for number in range(4000)]
    batch.write_text("".join(f"route add {route}\n" for route in routes) + "route flush dev cryprq0 proto 113\n")
    told = len(dialer.events("route_restored"))
    host.ip(f"-batch {batch}")
    dialer.wait_event("route_restored", count=told + 1)
    assert soon(lambda: answers(host, BEHIND[4]))
    batch.write_text("".join(f"route del {route}\n" for route in routes))
    host.ip(f"-batch {batch}")
    told = len(dialer.events("route_restored"))
    host.ip("route flush dev cryprq0 proto 113")
    dialer.wait_event("route_restored", count=told + 1)


def test_lan_with_the_same_network_is_named_and_the_route_comes_back_when_it_is_left(dialer: Node) -> None:
    host = dialer.namespace
    host.ip("link add cafe type bridge")
    host.ip("link set cafe up")
    host.ip("address add 192.168.50.77/24 dev cafe")
    assert soon(lambda: dialer.http("/healthz")[0] == 503)
    assert way(host, BEHIND[4]) == "cafe" and way(host, BEHIND[6]) == "cryprq0"
    reason = "route 192.168.50.0/24 is missing: it is also the network of cafe, and its packets stay there"
    assert dialer.http("/healthz")[1] == f"{reason}\n"
    assert dialer.metric("routes_missing") == 1
    assert dialer.status()["faults"] == [
        "route 192.168.50.0/24: it is also the network of cafe, and its packets stay there"
    ]
    assert "missing   route 192.168.50.0/24: it is also the network of cafe" in dialer.tool("status")
    assert dialer.events("route_failed", network=NETWORK[4])
    assert "192.168.50.0/24 of the tunnel is the same as" in dialer.wait_event("network_overlaps")["hint"]
    time.sleep(1.5)
    assert len(dialer.events("network_overlaps")) == 1  # once, in words
    host.ip("link delete cafe")
    assert soon(lambda: dialer.http("/healthz")[0] == 200)
    assert way(host, BEHIND[4]) == "cryprq0" and answers(host, BEHIND[4], 10)


def test_renamed_device_works_on(dialer: Node) -> None:
    host = dialer.namespace
    host.ip("link set cryprq0 name office0")
    dialer.wait_event("tun_renamed", name="office0")
    assert dialer.status()["tun_name"] == "office0"
    host.ip("route flush dev office0 proto 113")
    assert soon(lambda: way(host, BEHIND[4]) == "office0" and answers(host, BEHIND[4]))
    host.ip("link set office0 name cryprq0")
    dialer.wait_event("tun_renamed", name="cryprq0")
    assert dialer.http("/healthz") == (200, "ok\n")


def test_device_in_another_namespace_works_there(dialer: Node, lab: Lab) -> None:
    host, jail = dialer.namespace, lab.namespace("jail")
    own = dialer.status()["addresses"]
    host.ip(f"link set cryprq0 netns {jail.name}")
    dialer.wait_event("tun_moved")
    for address in own:
        jail.ip(f"address add {address} dev cryprq0{' nodad' if ':' in address else ''}")
    jail.ip("link set cryprq0 up")
    jail.ip(f"route add {NETWORK[4]} dev cryprq0")
    assert soon(lambda: answers(jail, BEHIND[4]))
    time.sleep(4)  # longer than a look takes to come
    assert dialer.http("/healthz") == (200, "ok\n") and not dialer.events(
        "node_failed", reason="the TUN cryprq0 is gone"
    )
    assert answers(jail, GATEWAY[4], 10)
    jail.ip(f"link set cryprq0 netns {host.name}")
    dialer.wait_event("tun_moved", count=2)
    assert soon(lambda: all(answers(host, address) for address in BEHIND.values()))


def test_ipv6_default_route_beside_that_of_the_host(uplink: Uplink, dialer: Node) -> None:
    """The host's own has the kernel's metric, 1024."""
    host = uplink.dialer
    assert "metric 1024" in host.ip("-6 route show default")
    dialer.stop()
    dialer.start("--allow-peer", f"{uplink.listener.peer_id}=::/0").wait_event("peer_connected")
    assert not dialer.events("route_failed") and dialer.http("/healthz") == (200, "ok\n")
    assert way(host, SERVER[6]) == "cryprq0" and way(host, "2001:db8:2::9") == "eth0"
    assert soon(lambda: answers(host, BEHIND[6]))
    dialer.stop()
    assert way(host, SERVER[6]) == "eth0" and "proto 113" not in host.ip("-6 rule show")
    dialer.start().wait_event("peer_connected")


def test_peers_own_networks_are_not_announced_to_it(uplink: Uplink, dialer: Node) -> None:
    """The gateway announces 192.168.50.0/24 to all, and one of them owns it."""
    host = uplink.lab.namespace("branch")
    uplink.lab.veth(host, ["192.0.2.130/25"], uplink.router, ["192.0.2.129/25"], names=("eth0", "branch"))
    host.ip("route add default via 192.0.2.129")
    host.ip("link add lan0 type bridge")
    host.ip("link set lan0 up")
    host.ip("address add 192.168.60.1/24 dev lan0")
    node = Node(host, "--tun-address", "10.66.0.60/24", name="branch")
    config = uplink.lab.directory / "gateway.toml"
    before = config.read_text()
    config.write_text(before + f'{node.peer_id} = ["10.66.0.60/32", "192.168.60.0/24"]\n')
    config.write_text(f'route = ["192.168.60.0/24", "{NETWORK[4]}"]\n' + config.read_text())
    uplink.listener.arguments = [a for a in uplink.listener.arguments if a not in ("--route", *NETWORK.values())]
    uplink.listener.stop()
    uplink.listener.start().wait_event("listener_ready")
    node.arguments += ["--peer", uplink.listener.multiaddr("198.51.100.1")]
    node.start().wait_event("peer_connected")
    allowed = node.status()["peers"][0]["allowed_ips"]
    assert NETWORK[4] in allowed and "192.168.60.0/24" not in allowed
    assert not node.events("route_failed") and not node.events("network_overlaps")
    assert node.http("/healthz") == (200, "ok\n")
    dialer.wait_event("peer_connected", count=2, timeout=20)
    assert "192.168.60.0/24" in dialer.status()["peers"][0]["allowed_ips"]
