"""Nothing for the peers' networks leaves in clear, whatever becomes of the node: as the uplink sees it."""

import json
import socket
import threading
import time
from collections.abc import Iterable, Iterator, Sequence

import pytest

from cryprq.linux.name_service import lookup_uid
from lab.background import Background
from lab.capture import Capture
from lab.hosts import CommandError, Lab, Namespace
from lab.name_server import NameServer
from lab.nodes import Node
from lab.tunnels import GATEWAY
from lab.uplink import BEHIND, NETWORK, OUTER, SERVER, Uplink, answers, make_uplink, soon


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with Lab(tmp_path_factory.mktemp("killswitch")) as lab:
        yield lab


@pytest.fixture(scope="module")
def uplink(lab: Lab) -> Uplink:
    """With NAT at the gateway, as the operations page has it."""
    uplink = make_uplink(lab)
    for version in (4, 6):
        inner = ("10.66.0.0/24", "fd66::/64")[version == 6]
        family = ("ip", "ip6")[version == 6]
        uplink.gateway.run("nft", f"add table {family} nat")
        uplink.gateway.run("nft", f"add chain {family} nat post {{ type nat hook postrouting priority 100; }}")
        uplink.gateway.run("nft", f"add rule {family} nat post {family} saddr {inner} oifname eth0 masquerade")
    return uplink


class Chatter(Background):
    """Sends a datagram to each of some addresses a thousand times a second, whatever the kernel says to it."""

    def __init__(self, host: Namespace, *addresses: str) -> None:
        super().__init__()
        self.sent = self.refused = 0
        self._targets = addresses
        with host.entered():
            for address in addresses:
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                self._sockets.append(socket.socket(family, socket.SOCK_DGRAM))
        self._threads = [threading.Thread(target=self._run)]

    def wait_refused(self) -> None:
        """Until the kernel has refused a hundred more."""
        before = self.refused
        assert soon(lambda: self.refused > before + 100)

    def _run(self) -> None:
        while not self._end.is_set():
            for sock, address in zip(self._sockets, self._targets, strict=True):
                try:
                    sock.sendto(b"secret", (address, 7777))
                    self.sent += 1
                except OSError:
                    self.refused += 1
            time.sleep(0.001)


def way(host: Namespace, address: str) -> str:
    """The device that a packet would leave by, or the kind of route that forbids it."""
    try:
        found = json.loads(host.ip(f"-j -{6 if ':' in address else 4} route get {address}"))
    except CommandError as error:
        return "unreachable" if "No route to host" in str(error) else str(error)
    return str(found[0].get("type") if found[0].get("dev") in (None, "lo") else found[0]["dev"])


def left_behind(host: Namespace) -> str:
    """Rules and unreachable routes of a node that is gone."""
    shown = [host.ip(f"-{version} {what}") for version in (4, 6) for what in ("rule show", "route show table all")]
    return "".join(line for line in "\n".join(shown).splitlines() if "proto 113" in line)


def comes_up(node: Node, addresses: Iterable[str]) -> None:
    node.start().wait_event("peer_connected", timeout=15)
    assert soon(lambda: all(answers(node.namespace, address) for address in addresses))


def test_networks_of_a_peer_are_blocked_whenever_the_tunnel_is_not_there(uplink: Uplink) -> None:
    host = uplink.dialer
    node = uplink.node("learnt", "--kill-switch")
    inside = (*BEHIND.values(), *GATEWAY.values())
    comes_up(node, inside)
    with Capture(host) as capture, Chatter(host, *inside) as chatter:
        for command in ("route flush dev cryprq0", "addr flush dev cryprq0", "link set cryprq0 down"):
            host.ip(command)
            assert soon(lambda: all(answers(host, address) for address in inside))
        for end in (node.stop, node.kill):
            end()
            chatter.wait_refused()
            assert {way(host, address) for address in inside} == {"unreachable"}
            comes_up(node, inside)
        node.stop()
        time.sleep(0.2)
    assert chatter.sent > 100 and capture.lost == 0
    assert uplink.in_clear(capture) == []
    assert "removed 4 routes and rules that one with cryprq0 had left" in node.tool("down")
    assert left_behind(host) == ""
    with Capture(host) as capture, Chatter(host, *inside):
        assert soon(lambda: set(uplink.in_clear(capture)) == set(inside))  # what the capture would have seen


def test_down_stops_a_node_and_leaves_nothing(uplink: Uplink) -> None:
    node = uplink.node("down", "--kill-switch")
    comes_up(node, BEHIND.values())
    assert node.tool("down") == "the node has stopped; packets go their usual way\n"
    assert node.running().wait() == 0
    assert left_behind(uplink.dialer) == ""
    assert way(uplink.dialer, BEHIND[4]) == "eth0"


@pytest.mark.parametrize("outer", [4, 6])
def test_full_tunnel_as_typed_with_the_kill_switch(uplink: Uplink, outer: int) -> None:
    host, server = uplink.dialer, uplink.server
    node = uplink.node(f"full{outer}", "--kill-switch", outer=outer)
    node.arguments += ["--allow-peer", f"{uplink.listener.peer_id}=0.0.0.0/0,::/0"]
    lan = ("192.0.2.1", "2001:db8:2::1")
    comes_up(node, (*SERVER.values(), *BEHIND.values()))
    assert {way(host, address) for address in lan} == {"eth0"} and all(answers(host, address, 10) for address in lan)
    assert node.http("/healthz") == (200, "ok\n")
    everywhere = (*SERVER.values(), "198.18.0.1", "2001:db8:9::1")
    with Capture(host) as capture, Capture(server) as seen, Chatter(host, *everywhere) as chatter:
        time.sleep(0.3)
        for version in (4, 6):  # whoever flushes the rules
            host.ip(f"-{version} rule flush")
            host.ip(f"-{version} rule add lookup main priority 32766")
        assert soon(lambda: {way(host, address) for address in everywhere} == {"cryprq0"})
        assert all(answers(host, address, 10) for address in SERVER.values())
        flushed = uplink.in_clear(capture)  # the kernel's policy was gone for some milliseconds: that is no node's
        for end in (node.kill, node.stop):
            end()
            chatter.wait_refused()
            assert {way(host, address) for address in everywhere} == {"unreachable"}
            assert {way(host, address) for address in lan} == {"eth0"}
            comes_up(node, SERVER.values())
    assert uplink.in_clear(capture) == flushed
    assert capture.lost == seen.lost == 0
    came_from = {datagram.source for datagram in seen.datagrams if not datagram.outgoing}
    assert came_from >= set(OUTER.values())
    assert came_from <= {*OUTER.values(), *(d.source for d in capture.sent if d.destination in flushed)}
    node.tool("down")
    assert left_behind(host) == "" and {way(host, address) for address in everywhere} == {"eth0"}


class NodeWithNameServer(Node):
    """Its resolver asks one name server, whatever this machine's does."""

    name_server = SERVER[4]

    def command(self) -> Sequence[str]:
        file = self.directory / f"{self.name}.resolv"
        file.write_text(f"nameserver {self.name_server}\noptions timeout:1\n")
        script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        return ["unshare", "-m", "sh", "-c", script, str(file), *super().command()]


def test_gateway_by_its_name_is_found_without_the_tunnel(uplink: Uplink) -> None:
    """Far name servers need a user of their own for the look-ups; a user namespace of one user has none."""
    host = uplink.dialer
    node = NodeWithNameServer(host, "--kill-switch", name="named")
    asked_at = uplink.server
    if lookup_uid() is None:
        node.name_server, asked_at = "192.0.2.1", uplink.router
    uplink.allow(node)
    node.arguments += ["--peer", f"/dns4/gateway.example/udp/9999/quic-v1/p2p/{uplink.listener.peer_id}"]
    node.arguments += ["--allow-peer", f"{uplink.listener.peer_id}=0.0.0.0/0,::/0"]
    with NameServer(asked_at, node.name_server, OUTER[4]) as names:
        comes_up(node, SERVER.values())
        node.kill()
        comes_up(node, SERVER.values())  # with the kill switch of the last one in its way
        assert set(names.asked) == {"192.0.2.2"}
        with Capture(host) as capture, host.entered(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            before = len(names.asked)
            sock.sendto(bytes(12) + b"\0\0\1\0\1", (node.name_server, 53))  # another program asks
            assert soon(lambda: len(names.asked) > before)
        if asked_at is uplink.server:
            assert names.asked[-1] == OUTER[4] and uplink.in_clear(capture) == []
    assert way(host, SERVER[4]) == "cryprq0"
    node.tool("down")
    assert left_behind(host) == ""


def test_rules_of_a_killed_node_harm_nobody_and_go_at_its_next_end(uplink: Uplink) -> None:
    host = uplink.dialer
    node = uplink.node("plain")
    node.arguments += ["--allow-peer", f"{uplink.listener.peer_id}=0.0.0.0/0"]
    host.sysctl("net.ipv4.conf.all.rp_filter", 1)  # strict: answers must come the way that packets would go
    comes_up(node, [SERVER[4]])
    assert way(host, SERVER[4]) == "cryprq0" and way(host, SERVER[6]) == "eth0"
    node.kill()
    assert left_behind(host) != "" and way(host, SERVER[4]) == "eth0"
    comes_up(node, [SERVER[4]])
    assert node.stop() == 0
    assert left_behind(host) == ""
    host.sysctl("net.ipv4.conf.all.rp_filter", 0)


def test_marks_and_tables_of_the_operators_choice(uplink: Uplink) -> None:
    host = uplink.dialer
    node = uplink.node("tables", "--fwmark", "0x77")
    host.run("nft", "add table inet marks")
    host.run("nft", "add chain inet marks out { type filter hook output priority 0; }")
    host.run("nft", "add rule inet marks out udp dport 9999 meta mark != 0x77 counter drop")
    for table, shown in (("77", "table 77"), ("off", None)):
        node.start("--route-table", table).wait_event("peer_connected", timeout=15)
        assert way(host, BEHIND[4]) == "eth0" and answers(host, GATEWAY[4], 10)
        assert (NETWORK[4] in host.ip("route show table all dev cryprq0")) == (shown is not None)
        if shown is not None:
            assert f"{NETWORK[4]} dev cryprq0" in host.ip(f"route show {shown}")
        assert node.http("/healthz") == (200, "ok\n")
        assert node.stop() == 0
    host.run("nft", "delete table inet marks")
