"""Who may reach what: rules of a gateway for the peers that come to it, with LANs behind both, and as they change."""

import select
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field

import pytest

from lab.hosts import Lab, Namespace
from lab.lans import HOSTS, make_lans
from lab.nodes import Node
from lab.tunnels import DIALER, GATEWAY, make_tunnel
from tests.rigs.planes import wait

DENIED = ("rx", "access")


@dataclass
class Ends:
    """Sockets of a test, which it closes."""

    stack: ExitStack = field(default_factory=ExitStack)

    def _new(self, host: Namespace, address: str, kind: socket.SocketKind) -> socket.socket:
        with host.entered():
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        self.stack.enter_context(closing(sock))
        sock.settimeout(10)
        return sock

    def serve(self, host: Namespace, address: str, port: int) -> socket.socket:
        sock = self._new(host, address, socket.SOCK_STREAM)
        sock.bind((address, port))
        sock.listen()
        return sock

    def connect(self, host: Namespace, address: str, port: int) -> socket.socket:
        """Begins to; it is writable when it has a connection."""
        sock = self._new(host, address, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.connect_ex((address, port))
        return sock

    def pair(self, here: socket.socket, host: Namespace) -> tuple[socket.socket, socket.socket]:
        """A connection to that server, its end and that of whoever connects."""
        address, port = here.getsockname()[:2]
        there = self.connect(host, address, port)
        accepted, _ = here.accept()
        self.stack.enter_context(closing(accepted))
        for end in (accepted, there):
            end.settimeout(10)
        return accepted, there

    def udp(self, host: Namespace, address: str, port: int = 0) -> socket.socket:
        sock = self._new(host, address, socket.SOCK_DGRAM)
        sock.bind((address, port))
        return sock


@pytest.fixture
def ends() -> Iterator[Ends]:
    opened = Ends()
    with opened.stack:
        yield opened


def says(one: socket.socket, other: socket.socket, word: bytes) -> bool:
    one.sendall(word)
    return other.recv(100) == word


def heard(end: socket.socket) -> bool:
    return bool(select.select([end], [], [], 0)[0])


class Gateway:
    """What a gateway has refused so far."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self._seen = 0.0

    def refuses(self) -> bool:
        """Something more, by now or soon."""
        metric = "dropped_packets_total"
        found = wait(lambda: self.node.metric(metric, direction="rx", reason="access") > self._seen)
        self._seen = self.node.metric(metric, direction="rx", reason="access")
        return found


def test_a_lan_is_reached_where_rules_say_and_answers_come_back(lab: Lab, ends: Ends) -> None:
    rules = [f"*={HOSTS['left'][4]}:443/tcp,{HOSTS['left'][4]}:53/udp,[{HOSTS['left'][6]}]:443/tcp,any:*/icmp"]
    lans = make_lans(lab, listen=("--access", *rules))
    gateway = Gateway(lans.tunnel.listener)
    for version in (4, 6):
        left, right = HOSTS["left"][version], HOSTS["right"][version]
        assert says(*ends.pair(ends.serve(lans.left, left, 443), lans.right), b"allowed")
        ends.serve(lans.left, left, 25)
        refused = ends.connect(lans.right, left, 25)
        assert gateway.refuses()
        assert not select.select([], [refused], [], 0)[1]
        refused.close()
        # Begun from this side: both ways, whatever the port.
        inside, outside = ends.pair(ends.serve(lans.right, right, 2222), lans.left)
        assert says(outside, inside, b"question") and says(inside, outside, b"answer")
        asker, asked = ends.udp(lans.left, left), ends.udp(lans.right, right, 99)
        asked.sendto(b"unasked", asker.getsockname())
        assert gateway.refuses() and not heard(asker)
        asker.sendto(b"question", asked.getsockname())
        assert asked.recv(100) == b"question"
        asked.sendto(b"answer", asker.getsockname())
        assert asker.recv(100) == b"answer"
        for host, address in ((lans.left, right), (lans.right, left)):
            assert host.measure("ping", address, count=2, interval=0.02, timeout=5.0)["received"] == 2
    server, client = ends.udp(lans.left, HOSTS["left"][4], 53), ends.udp(lans.right, HOSTS["right"][4])
    client.sendto(b"name?", server.getsockname())
    assert server.recv(100) == b"name?"
    server.sendto(b"address", client.getsockname())
    assert client.recv(100) == b"address"
    told = lans.tunnel.listener.wait_event("access_denied", protocol="tcp", to=HOSTS["left"][4], port=25)
    assert told["peer_id"] == lans.tunnel.dialer.peer_id


def test_reload_tightens_what_runs_and_leaves_what_is_allowed(lab: Lab, ends: Ends) -> None:
    config = lab.directory / "listener.toml"
    config.write_text("")
    tunnel = make_tunnel(lab, listen=("--config", str(config)))
    node, here, there = tunnel.listener, tunnel.listener.namespace, tunnel.dialer.namespace
    gateway = Gateway(node)
    web, mail = (ends.pair(ends.serve(here, GATEWAY[4], port), there) for port in (443, 25))
    ours = ends.pair(ends.serve(there, DIALER[4], 2222), here)
    for server, client in (web, mail, ours):
        assert says(client, server, b"before")
    # No packet is lost to the change: what leaves while it comes is heard.
    ping = here.traffic("ping", DIALER[4], count=100, interval=0.02)
    config.write_text('[access]\n"*" = ["any:443/tcp"]\n')
    node.reload()
    for server, client in (web, ours):
        assert says(client, server, b"after") and says(server, client, b"answer")
    mail[1].sendall(b"refused")
    assert gateway.refuses() and not heard(mail[0])
    mail[0].sendall(b"the server's own words make it none of its connections")
    mail[1].sendall(b"refused")
    assert gateway.refuses() and not heard(mail[0])
    assert ping.result()["received"] == 100
    config.write_text("")
    node.reload()
    assert mail[0].recv(7) == b"refused"
    config.write_text('[access]\n"*" = ["any:443/tpc"]\n')
    node.running().signal(signal.SIGHUP)
    assert "did you mean tcp?" in node.wait_event("config_rejected")["error"]
    assert not node.events("peer_disconnected")


def test_groups_that_change_count_at_once(lab: Lab, ends: Ends) -> None:
    tunnel = make_tunnel(lab, up=False)
    node, dialer = tunnel.listener, tunnel.dialer
    flag = node.arguments.index("--allow-peer")
    del node.arguments[flag : flag + 2]
    node.arguments += ["--access", "group:staff=any:443/tcp", "--access", "*=any:*/icmp", "--access", "group:stuff="]
    node.start().wait_event("listener_ready")
    doubts = [event["doubt"] for event in node.events("config_doubtful")]
    assert "--access group:staff: no peer is in that group" in doubts
    node.tool("peer", "add", dialer.peer_id, "--name", "alice", "--groups", "staff")
    dialer.start()
    tunnel.wait_up(timeout=30)
    gateway = Gateway(node)
    server, client = ends.pair(ends.serve(node.namespace, GATEWAY[4], 443), dialer.namespace)
    assert says(client, server, b"as staff")
    assert "any:443/tcp (group:staff)\n           any:*/icmp (*)" in node.tool("peer", "show", "alice")
    node.tool("peer", "add", dialer.peer_id, "--update", "--groups", "guests")
    assert "reaches:   any:*/icmp (*)" in node.tool("peer", "show", "alice")
    client.sendall(b"as a guest")
    assert gateway.refuses() and not heard(server)
    (peer,) = node.status()["peers"]
    assert peer["limited"] and peer["access"] == ["*"] and peer["denied_packets"] > 0
    node.tool("peer", "add", dialer.peer_id, "--update", "--groups", "staff")
    assert server.recv(100) == b"as a guest"
    assert not node.events("peer_disconnected")
