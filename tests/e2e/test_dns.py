"""Name servers of a gateway, as the programs on a dialer's host get their answers."""

import sys
from collections.abc import Iterator

import pytest

from lab.hosts import Lab
from lab.name_server import NameServer
from lab.nodes import PROGRAMS, Node
from lab.tunnels import GATEWAY
from lab.uplink import OUTER, SERVER, Uplink, make_uplink, soon
from tests.rigs.resolvers import Resolvers, ResolvingNode, nothing, openresolv, resolved

LOCAL = "192.0.2.1"
"""The name server of the dialer's own network."""
LOCAL_SAYS, GATEWAY_SAYS = "192.0.2.77", "192.168.50.1"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("dns")) as lab:
        yield lab


@pytest.fixture(scope="module")
def uplink(lab: Lab) -> Iterator[Uplink]:
    """With two name servers: everybody has an answer of its own."""
    uplink = make_uplink(lab)
    with NameServer(uplink.router, LOCAL, LOCAL_SAYS), NameServer(uplink.gateway, GATEWAY[4], GATEWAY_SAYS):
        yield uplink


_ASK = """import asyncio, socket
from cryprq.linux.resolved import look_up
print(asyncio.run(look_up("gateway.example", 9999, socket.AF_INET, "cryprq0")))
"""


def announce(uplink: Uplink, *lines: str) -> None:
    """The gateway's settings of name servers, from now on."""
    config = uplink.lab.directory / "gateway.toml"
    peers = config.read_text().partition("[allow-peer]\n")[2]
    config.write_text("".join(f"{line}\n" for line in (*lines, "[allow-peer]")) + peers)
    before = len(uplink.listener.events("config_reloaded"))
    uplink.listener.reload()
    uplink.listener.wait_event("config_reloaded", count=before + 1)


def dialer(uplink: Uplink, resolvers: Resolvers, name: str, *flags: str, full: bool = False) -> Node:
    node = ResolvingNode(uplink.dialer, *flags, name=name)
    node.resolvers = resolvers
    uplink.allow(node)
    node.arguments += ["--peer", uplink.listener.multiaddr("198.51.100.1")]
    if full:
        node.arguments += ["--allow-peer", f"{uplink.listener.peer_id}=0.0.0.0/0,::/0"]
    return node


def connect(node: Node) -> Node:
    node.start().wait_event("peer_connected", timeout=15)
    return node


@pytest.fixture(scope="module")
def with_resolved(uplink: Uplink) -> Resolvers:
    return resolved(uplink.dialer, LOCAL)


def test_domains_of_a_gateway_are_asked_there_and_others_are_not(uplink: Uplink, with_resolved: Resolvers) -> None:
    host = with_resolved
    announce(uplink, f'dns = ["{GATEWAY[4]}", "9.9.9.9"]', 'search = ["corp.example", "50.168.192.in-addr.arpa"]')
    assert host.look_up("www.corp.example") == LOCAL_SAYS
    node = connect(dialer(uplink, host, "split"))
    node.wait_event("tunnel_dns", servers=GATEWAY[4], everything=False, by="resolvectl")
    assert node.wait_event("dns_refused", what="9.9.9.9")["reason"] == "it is not in a network of this gateway"
    assert host.look_up("www.corp.example") == GATEWAY_SAYS
    assert host.look_up("www.other.example") == LOCAL_SAYS
    host.run("resolvectl", "revert", "cryprq0")  # somebody else
    node.wait_event("dns_restored", by="resolvectl")
    assert host.look_up("www.corp.example") == GATEWAY_SAYS
    assert node.http("/healthz") == (200, "ok\n")
    status = node.status()
    assert (status["name_servers"], status["dns_by"], status["faults"]) == ([GATEWAY[4]], "resolvectl", [])
    assert f"names     {GATEWAY[4]} for corp.example, 50.168.192.in-addr.arpa, by resolvectl" in node.tool("status")
    announce(uplink)
    node.wait_event("tunnel_dns", servers=None)
    assert host.look_up("www.corp.example") == LOCAL_SAYS
    announce(uplink, f'dns = "{GATEWAY[4]}"', 'search = "lab.example"')
    node.wait_event("tunnel_dns", search="lab.example")
    assert host.look_up("www.lab.example") == GATEWAY_SAYS
    assert node.stop() == 0
    assert host.look_up("www.lab.example") == LOCAL_SAYS
    assert not node.events("peer_disconnected", reason="dns_changed")


def test_full_tunnel_asks_everything_there_and_nothing_when_the_node_is_gone(
    uplink: Uplink, with_resolved: Resolvers
) -> None:
    host = with_resolved
    announce(uplink, f'dns = "{GATEWAY[4]}"')
    node = dialer(uplink, host, "full", full=True)
    for end in (node.kill, node.stop):
        connect(node).wait_event("tunnel_dns", everything=True)
        assert host.look_up("www.other.example") == GATEWAY_SAYS
        end()
        assert soon(lambda: host.look_up("www.other.example") == LOCAL_SAYS)


def test_name_of_a_gateway_is_found_by_a_far_name_server_of_a_link_while_the_tunnel_is_down(
    uplink: Uplink, with_resolved: Resolvers
) -> None:
    host = with_resolved
    announce(uplink, f'dns = "{GATEWAY[4]}"')
    node = connect(dialer(uplink, host, "down", full=True))
    node.wait_event("tunnel_dns", everything=True)
    with NameServer(uplink.server, SERVER[4], OUTER[4]) as far:
        host.run("resolvectl", "dns", "eth0", SERVER[4])
        uplink.listener.kill()
        found = host.run(sys.executable, "-c", _ASK)
        host.run("resolvectl", "revert", "eth0")
    assert f"('{OUTER[4]}', 9999)" in found
    assert set(far.asked) == {"192.0.2.2"}
    node.stop()
    uplink.listener.start().wait_event("listener_ready")


def test_without_a_full_tunnel_everything_is_asked_there_only_if_this_end_says_so(
    uplink: Uplink, with_resolved: Resolvers
) -> None:
    host = with_resolved
    announce(uplink, f'dns = "{GATEWAY[4]}"')
    node = connect(dialer(uplink, host, "auto"))
    assert "--accept-dns all" in node.wait_event("dns_refused", what=GATEWAY[4])["reason"]
    assert host.look_up("www.other.example") == LOCAL_SAYS
    assert not node.events("tunnel_dns")
    node.stop()
    node = connect(dialer(uplink, host, "all", "--accept-dns", "all"))
    node.wait_event("tunnel_dns", everything=True)
    assert host.look_up("www.other.example") == GATEWAY_SAYS
    uplink.listener.stop()  # with the session the settings go
    node.wait_event("tunnel_dns", servers=None)
    assert host.look_up("www.other.example") == LOCAL_SAYS
    uplink.listener.start().wait_event("listener_ready")
    node.wait_event("tunnel_dns", count=2, everything=True)
    node.stop()


def test_openresolv_is_told_and_what_a_killed_node_left_goes_at_its_next_start(uplink: Uplink) -> None:
    host = openresolv(uplink.dialer, LOCAL)
    before = host.resolv_conf.read_text()
    announce(uplink, f'dns = "{GATEWAY[4]}"', 'search = "corp.example"')
    node = connect(dialer(uplink, host, "records", full=True))
    node.wait_event("tunnel_dns", by="resolvconf")
    assert host.look_up("www.other.example") == GATEWAY_SAYS
    assert host.resolv_conf.read_text().splitlines()[1:] == ["search corp.example", f"nameserver {GATEWAY[4]}"]
    assert node.stop() == 0
    assert host.resolv_conf.read_text() == before
    connect(node).wait_event("tunnel_dns", by="resolvconf")
    node.kill()
    assert GATEWAY[4] in host.resolv_conf.read_text()
    host.run(str(PROGRAMS / "cryprq"), "down", "--control-socket", str(node.control))
    assert host.resolv_conf.read_text() == before
    connect(node).wait_event("tunnel_dns", by="resolvconf")
    node.kill()
    node.start("--accept-dns", "off").wait_event("peer_connected", timeout=15)
    assert soon(lambda: host.resolv_conf.read_text() == before)
    assert host.look_up("www.other.example") == LOCAL_SAYS
    node.stop()
    assert host.resolv_conf.read_text() == before
    assert not list(node.directory.glob("*.resolvconf"))
    split = connect(dialer(uplink, host, "one-list"))
    assert "resolvconf cannot ask different servers" in split.wait_event("dns_unavailable")["reason"]
    split.stop()


def test_host_without_a_way_says_so_once_and_is_well(uplink: Uplink) -> None:
    host = nothing(uplink.dialer, LOCAL)
    announce(uplink, f'dns = "{GATEWAY[4]}"', 'search = "corp.example"')
    node = connect(dialer(uplink, host, "bare"))
    told = node.wait_event("dns_unavailable")
    assert told["reason"] == "this host has neither systemd-resolved nor resolvconf"
    assert host.look_up("www.corp.example") == LOCAL_SAYS
    assert node.http("/healthz") == (200, "ok\n")
    assert node.status()["dns_by"] == ""
    assert f"names     {GATEWAY[4]} for corp.example, NOT in use here" in node.tool("status")
    node.stop()
