"""Tunnels whose ends have several workers, as many or not: the kernel's flows spread over the lanes, and none is
reordered on its way through a real TUN."""

import socket
import struct
from contextlib import ExitStack

import pytest

from lab.capture import Capture
from lab.hosts import Lab
from lab.lans import counters
from lab.nodes import Node
from lab.traffic import family_of, make_room
from lab.tunnels import DIALER, GATEWAY, make_tunnel

UNDER_WAY = 256
"""Datagrams at once, which the queue of the TUN holds."""
FLOWS = 64
"""The TUN's hash puts each on some lane: that one of four lanes gets none of so many has a chance of 4e-8."""
_MARK = struct.Struct(">HI")  # flow, number


def workers(count: int) -> tuple[str, str]:
    return ("--workers", str(count))


def numbered_flows(source: Node, target: Node, address: str, count: int) -> list[list[int]]:
    """So many datagrams on each of ``FLOWS`` flows at once; the numbers that arrived, per flow, as they arrived."""
    arrived: list[list[int]] = [[] for _ in range(FLOWS)]
    with ExitStack() as stack:
        with target.namespace.entered():
            receiver = stack.enter_context(socket.socket(family_of(address), socket.SOCK_DGRAM))
            make_room(receiver, 64 << 20)
        receiver.bind((address, 5000))
        with source.namespace.entered():
            senders = [stack.enter_context(socket.socket(family_of(address), socket.SOCK_DGRAM)) for _ in range(FLOWS)]
        for sender in senders:
            sender.connect((address, 5000))
        receiver.settimeout(5)
        for number in range(count + UNDER_WAY // FLOWS):
            for flow, sender in enumerate(senders):
                if number < count:
                    sender.send(_MARK.pack(flow, number) + bytes(50 * (flow % 20)))
                if number >= UNDER_WAY // FLOWS:
                    back, at = _MARK.unpack_from(receiver.recv(2000))
                    arrived[back].append(at)
    return arrived


def transfers(server: Node, client: Node, size: int) -> None:
    """TCP connections both ways at once, whose ends check what they get."""
    ports = [(GATEWAY[4 + 2 * (n % 2)], 5001 + n) for n in range(6)]
    servers = [server.namespace.traffic("tcp_serve", *port, size=size) for port in ports]
    clients = [client.namespace.traffic("tcp_transfer", *port, size=size) for port in ports]
    results = [end.result() for end in clients] + [end.result()["connections"][0] for end in servers]
    assert all(result["ok"] and result["received"] == size for result in results)


@pytest.mark.parametrize(("listener", "dialer"), [(2, 2), (4, 1)])
def test_flows_spread_over_the_lanes_and_keep_their_order(lab: Lab, listener: int, dialer: int) -> None:
    tunnel = make_tunnel(lab, listen=workers(listener), dial=workers(dialer))
    ends = ((tunnel.listener, listener, DIALER, tunnel.dialer), (tunnel.dialer, dialer, GATEWAY, tunnel.listener))
    for source, lanes, addresses, target in ends:
        for version in (4, 6):
            with Capture(source.namespace) as capture:
                arrived = numbered_flows(source, target, addresses[version], 16)
            assert arrived == [list(range(16))] * FLOWS
            used = {datagram.payload[1] for datagram in capture.sent if not datagram.is_quic}
            assert capture.lost == 0
            assert used == set(range(lanes))
    transfers(tunnel.listener, tunnel.dialer, 4 << 20)
    for node in (tunnel.listener, tunnel.dialer):
        assert tunnel.drops(node) == {}
        tcp = counters(node.namespace)
        # Nothing was lost or overtaken: what an impatient timer sends once more is never early.
        assert tcp["TcpExt.TCPOFOQueue"] == tcp["TcpExt.TCPFastRetrans"] == 0
