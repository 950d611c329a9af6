"""Interfaces that merge what arrives: GRO keeps QUIC and lanes apart by their TTL; where the network has made that the
same for all, batches are mixed, and nothing is lost."""

import random
import select
import socket
import threading
from typing import Self

import pytest

from cryprq.cli.admin_client import request
from lab.hosts import CommandError, Lab, Namespace
from lab.lans import counters
from lab.nodes import Node
from lab.traffic import family_of
from lab.tunnels import DIALER, GATEWAY, LISTEN_FLAGS, Tunnel, listen_address
from tests.rigs.planes import wait

OUTER = {
    4: (("192.0.2.1", "192.0.2.254"), ("198.51.100.1", "198.51.100.254")),
    6: (("2001:db8:1::1", "2001:db8:1::2"), ("2001:db8:2::1", "2001:db8:2::2")),
}
"""Of the listener and of the dialer: own address, and the router's."""
PREFIX = {4: 24, 6: 64}
DEFERRED = {"threaded": 1, "gro_flush_timeout": 20_000_000, "napi_defer_hard_irqs": 1}
"""An interface merges in a thread, as a busy one does, and keeps a packet up to 20 ms to merge others with it."""
TICK = 0.001
"""Seconds between datagrams."""
ENOUGH = 2
"""Mixed batches that a test waits for, at either node."""
ROTATIONS_MAX = 30


ONE_TTL = (
    "table inet ttl { chain forward { type filter hook forward priority 0; ip ttl set 60; ip6 hoplimit set 60; }; }"
)
"""What some mobile networks do."""


def merging_tunnel(lab: Lab, outer: int, flags: tuple[str, ...], *, one_ttl: bool = False) -> Tunnel:
    """A tunnel over a router whose cables deliver single datagrams, which both nodes' interfaces merge as they arrive.

    Without the router nothing would mix: GRO keeps packets apart that still belong to different sockets of this
    machine, and the kernel forgets whose they are only where it forwards them.
    """
    router = lab.namespace("router")
    router.sysctl("net.ipv4.ip_forward", 1)
    router.sysctl("net.ipv6.conf.all.forwarding", 1)
    if one_ttl:
        router.run("nft", ONE_TTL)
    hosts = []
    for name, (own, gateway) in zip(("listener", "dialer"), OUTER[outer], strict=True):
        host = lab.namespace(name)
        hosts.append(host)
        lab.veth(host, [f"{own}/{PREFIX[outer]}"], router, [f"{gateway}/{PREFIX[outer]}"], names=("eth0", name))
        host.ip(f"-{outer} route add default via {gateway}")
        host.ip("link set eth0 gso_max_segs 1")  # super-packets are cut before they leave
        router.ethtool(name, tso=False)  # only then the other end of a veth does GRO
        router.run("tc", "qdisc", "replace", "dev", name, "root", "pfifo", "limit", "10000")
        host.ethtool("eth0", gro=True)
        try:
            for setting, value in DEFERRED.items():
                host.sysfs(f"class/net/eth0/{setting}", value)
        except CommandError as error:
            pytest.skip(f"deferred GRO is for root of the machine: {setting}: {str(error).splitlines()[-1]}")
    dialer = Node(hosts[1], *flags)
    listener = Node(hosts[0], "--listen", listen_address(outer), *LISTEN_FLAGS, "--allow-peer", dialer.peer_id, *flags)
    dialer.arguments += ["--peer", listener.multiaddr(OUTER[outer][0][0])]
    listener.grant(dialer.peer_id, *DIALER.values())
    listener.start().wait_event("listener_ready")
    dialer.start()
    tunnel = Tunnel(lab, listener, dialer, outer)
    tunnel.wait_up()
    return tunnel


class Flow:
    """Numbered UDP datagrams of one size from one namespace to another."""

    def __init__(self, source: Namespace, target: Namespace, address: str, size: int, port: int = 5000) -> None:
        self.sent = 0
        self.received: list[int] = []
        self._padding = bytes(size - 8)
        with target.entered():
            self.receiver = socket.socket(family_of(address), socket.SOCK_DGRAM)
        self.receiver.bind((address, port))
        with source.entered():
            self._sender = socket.socket(family_of(address), socket.SOCK_DGRAM)
        self._sender.connect((address, port))

    def send(self) -> None:
        self._sender.send(self.sent.to_bytes(8) + self._padding)
        self.sent += 1

    def receive(self) -> None:
        self.received.append(int.from_bytes(self.receiver.recv(65535)[:8]))

    def close(self) -> None:
        self.receiver.close()
        self._sender.close()


class Traffic:
    """Sends on some flows, a datagram every tick in random order, while the context lasts; on the way out it receives
    what is still under way, until nothing came for a second."""

    def __init__(self, flows: list[Flow]) -> None:
        self.flows = flows
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._send), threading.Thread(target=self._receive)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        for flow in self.flows:
            flow.close()

    def _send(self) -> None:
        generator = random.Random(1)
        while not self._ended.wait(TICK):
            generator.choice(self.flows).send()

    def _receive(self) -> None:
        sockets = {flow.receiver: flow for flow in self.flows}
        while True:
            ended = self._ended.is_set()
            ready, _, _ = select.select(list(sockets), [], [], 1.0)
            for sock in ready:
                sockets[sock].receive()
            if ended and not ready:
                return


def mixed(node: Node, kind: str) -> float:
    """How many QUIC packets came to a worker (``quic``), or records to the control plane (``record``)."""
    return node.metric("rerouted_datagrams_total", kind=kind)


def wait_rotated(node: Node, times: int) -> bool:
    """Whether its keys have rotated so often in time. Of more than ten in a minute the log does not tell each."""
    return wait(lambda: node.metric("rotations_total") == times)


def test_quic_packets_and_records_in_one_batch(lab: Lab) -> None:
    """Over IPv6: over IPv4 GRO keeps records, which have the Don't Fragment bit once the path is known, apart from
    QUIC, which has it not."""
    tunnel = merging_tunnel(lab, 6, (), one_ttl=True)
    nodes = (tunnel.listener, tunnel.dialer)
    rotations = 0
    # A batch begins with the longest: QUIC packets end batches of long records, and begin those of short ones.
    for size, kind in ((1392, "quic"), (20, "record")):
        flows = [
            Flow(source.namespace, target.namespace, address, size)
            for source, target, address in ((*nodes, DIALER[4]), (*nodes[::-1], GATEWAY[4]))
        ]
        with Traffic(flows):
            while any(mixed(node, kind) < ENOUGH for node in nodes):
                rotations += 1
                assert rotations < ROTATIONS_MAX, f"GRO has put no {kind} into the wrong batch"
                request(tunnel.dialer.control, "rotate")
                assert all(wait_rotated(node, rotations) for node in nodes)
        for flow in flows:
            assert sorted(flow.received) == list(range(flow.sent))
    for node in nodes:
        assert tunnel.drops(node) == {}
        assert all(event["status"] == "success" for event in node.events("key_rotation"))
        found = counters(node.namespace)
        assert found["Udp.RcvbufErrors"] == found["Udp6RcvbufErrors"] == 0


@pytest.mark.parametrize(
    ("outer", "flags"), [pytest.param(4, ("--no-offload", "udp_segment"), id="ipv4"), pytest.param(6, (), id="ipv6")]
)
def test_ttl_keeps_quic_and_lanes_apart(lab: Lab, outer: int, flags: tuple[str, ...]) -> None:
    tunnel = merging_tunnel(lab, outer, ("--workers", "2", *flags))
    nodes = (tunnel.listener, tunnel.dialer)
    flows = [
        Flow(source.namespace, target.namespace, address, size, port)
        for source, target, address in ((*nodes, DIALER[4]), (*nodes[::-1], GATEWAY[4]))
        for port, size in enumerate((1392, 1392, 20, 20), start=5000)
    ]
    with Traffic(flows):
        for epoch in range(1, 11):
            request(tunnel.dialer.control, "rotate")
            for node in nodes:
                node.wait_event("key_rotation", status="success", epoch=epoch)
    for flow in flows:
        assert flow.received == list(range(flow.sent))
    for node in nodes:
        assert mixed(node, "quic") == mixed(node, "record") == 0
