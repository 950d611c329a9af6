"""The path's MTU is found where nobody tells it: TCP flows again, and nothing is fragmented any more.

Each path stands for many networks: IPv4 and IPv6 underneath, routers that say nothing of what is too big, that drop
fragments, cables that become smaller while a transfer goes on, and hosts that move to a better one.
"""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.capture import Capture
from lab.hosts import Lab
from lab.lans import every_size, transfer
from lab.narrow import NarrowPath, narrow_path
from lab.tunnels import DIALER, GATEWAY, make_tunnel
from lab.uplink import soon

AROUND = {4: 28, 6: 48}


class Flow:
    """TCP streams that go on from either end to the other, ten thousand bytes at a time: when did they arrive?"""

    def __init__(self, path: NarrowPath) -> None:
        self.arrivals: list[list[float]] = []
        self._stop = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        for here, there, address in ((*path.ends, GATEWAY[4]), (*path.ends[::-1], DIALER[4])):
            with here.entered():
                accepting = socket.create_server((address, 5009))
            with there.entered():
                sender = socket.create_connection((address, 5009), timeout=10)
            receiver, _ = accepting.accept()
            arrivals = [time.monotonic()]
            self.arrivals.append(arrivals)
            self._sockets += [sender, receiver, accepting]
            self._threads += [
                threading.Thread(target=self._send, args=(sender,)),
                threading.Thread(target=self._receive, args=(receiver, arrivals)),
            ]
        for thread in self._threads:
            thread.start()

    def _send(self, sender: socket.socket) -> None:
        while not self._stop.wait(0.01):
            with contextlib.suppress(BlockingIOError):
                sender.send(bytes(10_000), socket.MSG_DONTWAIT)

    def _receive(self, receiver: socket.socket, arrivals: list[float]) -> None:
        receiver.settimeout(0.05)
        while not self._stop.is_set():
            with contextlib.suppress(TimeoutError):
                receiver.recv(1 << 20)
                arrivals.append(time.monotonic())

    def goes_on(self) -> None:
        """Whatever the path has done: both ways bytes arrive that were not sent before this was asked for."""
        now = time.monotonic()
        assert soon(lambda: all(times[-1] > now for times in self.arrivals))

    def close(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()


@contextmanager
def flowing(path: NarrowPath) -> Iterator[Flow]:
    flow = Flow(path)
    try:
        yield flow
    finally:
        flow.close()


def told(path: NarrowPath, old: int, new: int, reason: str) -> None:
    """Either node has told it, and shows it."""
    for node, other in zip(path.nodes, path.nodes[::-1], strict=True):
        event = node.wait_event("path_mtu_changed", old=old, new=new, reason=reason)
        assert event["peer_id"] == other.peer_id
        assert node.metric("peer_path_mtu", peer_id=other.peer_id) == new
        assert f" {new} " in node.tool("status")


def known(path: NarrowPath, version: int) -> set[int]:
    """The path MTUs that the kernels of the ends have learnt of each other."""
    addresses = DIALER[version], GATEWAY[version]
    routes = [end.ip(f"route get {address}") for end, address in zip(path.ends, addresses, strict=True)]
    return {int(mtu) for route in routes for mtu in re.findall(r" mtu (\d+)", route)}


@pytest.mark.parametrize(
    ("outer", "mtu", "silent", "drops_fragments"),
    [
        pytest.param(4, 1400, True, True, id="ipv4-black-hole"),
        pytest.param(6, 1492, True, False, id="ipv6-pppoe-silent"),
        pytest.param(6, 1400, False, True, id="ipv6-told"),
        pytest.param(6, 1340, True, True, id="ipv6-black-hole-below-what-ipv6-needs-inside"),
    ],
)
def test_narrow_path_is_found(lab: Lab, outer: int, mtu: int, silent: bool, drops_fragments: bool) -> None:
    path = narrow_path(lab, outer, mtu, silent=silent, drops_fragments=drops_fragments)
    transfer(*path.ends, GATEWAY[4])  # begins on a path that nobody knows yet
    told(path, 1420 + 32 + AROUND[outer], mtu, "session")
    assert path.path_mtus() == [mtu, mtu]
    inner = mtu - AROUND[outer] - 32
    assert all(known(path, version) <= {max(inner, least)} for version, least in ((4, 0), (6, 1280))), (
        "a host was told what the search had found so far"
    )
    with path.no_fragments(), Capture(path.routers[0], "middle") as capture:
        for version in (4, 6):
            transfer(*path.ends, GATEWAY[version], 1 << 20)
        every_size(*path.ends, GATEWAY[4], inner)
    records = [one for one in capture.datagrams if not one.is_quic and len(one.payload) > 1200]
    assert max(len(one.payload) for one in records) == mtu - AROUND[outer]
    assert all(one.dont_fragment or outer == 6 for one in records)


def test_path_that_shrinks_and_a_host_that_moves_to_a_wider_one(lab: Lab) -> None:
    """Every router is silent and drops fragments. The cable shrinks while TCP flows both ways; it grows again, which
    nobody tells; then the dialer gets another address, and both ends look anew."""
    path = narrow_path(lab, 4, 1500, silent=True, drops_fragments=True)
    assert path.found(1480)
    assert not any(node.events("path_mtu_changed") for node in path.nodes)
    with flowing(path) as flow:
        time.sleep(0.3)
        path.set_mtu(1400)
        for node in path.nodes:
            node.wait_event("path_mtu_changed", reason="black_hole", old=1480)
        assert path.found(1400)
        time.sleep(0.3)
        flow.goes_on()
        with path.no_fragments():
            time.sleep(0.5)
        path.set_mtu(1500)
        path.ends[1].sysctl("net.ipv4.conf.eth0.promote_secondaries", 1)
        path.ends[1].ip("address add 198.51.100.9/24 dev eth0")
        path.ends[1].ip("address del 198.51.100.1/24 dev eth0")
        assert path.found(1480)
        path.nodes[0].wait_event("path_mtu_changed", new=1480, reason="moved")
        path.nodes[1].wait_event("path_mtu_changed", new=1480, reason="link")
        flow.goes_on()
    assert all(node.running().running for node in path.nodes)


def test_jumbo_frames_where_the_path_has_them_and_where_not(lab: Lab) -> None:
    path = narrow_path(lab, 4, 9000, wide=9000, flags=("--mtu", "8900"))
    assert path.found(8960)
    with Capture(path.routers[0], "middle") as capture:
        transfer(*path.ends, GATEWAY[4])
    assert max(len(one.payload) for one in capture.datagrams) == 8932
    with flowing(path) as flow:
        time.sleep(0.2)
        path.set_mtu(1500)
        assert path.found(1500)
        flow.goes_on()
    with path.no_fragments():
        transfer(*path.ends, GATEWAY[4])


def test_own_link_that_becomes_smaller(lab: Lab) -> None:
    """The kernel refuses what is larger than its device takes (EMSGSIZE): such a record leaves in fragments until the
    smaller size is found, and none is lost."""
    tunnel = make_tunnel(lab)
    path = NarrowPath(tunnel, (tunnel.listener.namespace, tunnel.dialer.namespace))
    assert path.found(1480)
    with flowing(path) as flow:
        time.sleep(0.2)
        for end in path.ends:
            end.ip("link set eth0 mtu 1400")
        assert path.found(1400)
        flow.goes_on()
    for node in path.nodes:
        assert ("tx", "send_error") not in tunnel.drops(node)
