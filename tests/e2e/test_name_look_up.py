"""A node whose name server is silent: it goes on, and it ends when it is told to."""

import socket
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from cryprq.protocol.identity import Identity
from lab.hosts import Lab, Namespace
from lab.nodes import PROGRAMS, Node

STOP_MAX = 25.0
"""Seconds from SIGTERM to the end: less than the look-up takes, which gives up the first time after 30."""


class Unanswered(Node):
    """Its only name server is one that the test holds the socket of."""

    def command(self) -> Sequence[str]:
        resolv_conf: Path = self.directory / "resolv.conf"
        resolv_conf.write_text("nameserver 127.0.0.1\noptions timeout:30 attempts:5\n")
        script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        return ["unshare", "-m", "sh", "-c", script, str(resolv_conf), str(PROGRAMS / "cryprq-node")]


@pytest.fixture
def host(lab: Lab) -> Namespace:
    return lab.namespace("dialer")


@pytest.fixture
def name_server(host: Namespace) -> Iterator[socket.socket]:
    with host.entered():
        server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with server:
        server.bind(("127.0.0.1", 53))
        server.settimeout(15)
        yield server


PEER = "/udp/9999/quic-v1/p2p/" + str(Identity.generate().peer_id)


@pytest.mark.parametrize(
    "flags",
    [
        ("--peer", f"/dns/gateway.example{PEER}"),
        ("--peer", f"/ip4/127.0.0.1{PEER}", "--metrics-addr", "gateway.example:9464"),
    ],
    ids=["of a peer", "of its own metrics address"],
)
def test_node_ends_in_time_while_a_look_up_hangs(
    host: Namespace, name_server: socket.socket, flags: tuple[str, ...]
) -> None:
    node = Unanswered(host, *flags).start()
    assert b"example" in name_server.recv(512)
    time.sleep(0.2)
    before = time.monotonic()
    assert node.stop() == 0
    assert time.monotonic() - before < STOP_MAX
