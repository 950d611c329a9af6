"""A node whose log nobody reads: the pipe on stderr is full before it says its first word."""

import sys
import time
from collections.abc import Sequence

import pytest

from lab.hosts import CommandError, Lab
from lab.nodes import PROGRAMS, Node
from lab.tunnels import GATEWAY, OUTER, Tunnel, listen_address, make_tunnel

_UNREAD = """
import fcntl, os, sys
reader, writer = os.pipe()
fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
os.write(writer, bytes(4096))
os.set_inheritable(reader, True)  # it has a reader, which does not read
os.dup2(writer, 2)
os.execv(sys.argv[1], sys.argv[1:])
"""


class Unread(Node):
    """Its log goes nowhere; it is known by its metrics."""

    def command(self) -> Sequence[str]:
        return [sys.executable, "-c", _UNREAD, str(PROGRAMS / "cryprq-node")]

    def wait_metric(self, name: str, at_least: float, timeout: float = 60.0) -> None:
        end = time.monotonic() + timeout
        while True:
            try:
                if self.metric(name) >= at_least:
                    return
            except (OSError, CommandError):  # it has not started yet
                pass
            assert time.monotonic() < end, name
            time.sleep(0.05)


@pytest.fixture
def tunnel(lab: Lab) -> Tunnel:
    return make_tunnel(lab, up=False)


def test_node_rotates_answers_and_ends_though_nobody_reads_its_log(tunnel: Tunnel) -> None:
    dialer = tunnel.dialer
    flags = ("--listen", listen_address(4), "--tun-address", f"{GATEWAY[4]}/24", "--allow-peer", dialer.peer_id)
    listener = Unread(tunnel.listener.namespace, *flags, "--rotate-secs", "5", "--log-level", "debug", name="unread")
    listener.start()
    listener.wait_metric("healthy", 1)
    dialer.arguments[-1] = listener.multiaddr(OUTER[4][0])
    dialer.start().wait_event("peer_connected")
    listener.wait_metric("rotations_total", 2)
    assert dialer.events("key_rotation", status="success")
    assert listener.http("/healthz") == (200, "ok\n")
    assert dialer.namespace.measure("ping", GATEWAY[4], count=3, interval=0.1)["received"] == 3
    assert not listener.lines()
    assert listener.stop() == 0  # what is queued for nobody keeps it no longer
    assert dialer.wait_event("peer_disconnected")["reason"] == "peer_shutdown"
