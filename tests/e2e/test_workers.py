"""Tunnels whose ends have several workers, as many or not: the kernel's flows spread over the lanes, and none is
reordered on its way through a real TUN."""

import socket
import struct
import time
from collections import Counter
from contextlib import ExitStack
from typing import Any

import pytest

from lab.capture import Capture
from lab.hosts import Lab
from lab.lans import counters
from lab.nat import UPLINKS, Natted, make_natted
from lab.nodes import PORT, Node
from lab.traffic import family_of, make_room
from lab.tunnels import DIALER, GATEWAY, LISTEN_FLAGS, listen_address, make_tunnel

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


def ports_of(capture: Capture) -> dict[int, set[tuple[int, int]]]:
    """By lane, from which port to which its records went."""
    found: dict[int, set[tuple[int, int]]] = {}
    for datagram in capture.sent:
        if not datagram.is_quic:
            found.setdefault(datagram.payload[1], set()).add((datagram.source_port, datagram.destination_port))
    return found


@pytest.mark.parametrize("outer", [4, 6])
def test_each_lane_of_a_dialer_has_a_port_and_is_answered_there(lab: Lab, outer: int) -> None:
    tunnel = make_tunnel(lab, outer, listen=workers(2), dial=(*workers(2), "--lane-ports"))
    found = []
    for source, addresses, target in (
        (tunnel.dialer, GATEWAY, tunnel.listener), (tunnel.listener, DIALER, tunnel.dialer),
    ):  # fmt: skip
        with Capture(source.namespace) as capture:
            arrived = numbered_flows(source, target, addresses[4], 16)
        assert arrived == [list(range(16))] * FLOWS
        assert capture.lost == 0
        found.append(ports_of(capture))
    ((main, there),), ((other, _),) = (tuple(found[0][lane]) for lane in (0, 1))
    assert found == [{0: {(main, PORT)}, 1: {(other, PORT)}}, {0: {(PORT, main)}, 1: {(PORT, other)}}]
    assert there == PORT and main != other
    (peer,) = tunnel.listener.status()["peers"]
    assert peer["endpoint"].endswith(f":{main}") and peer["lane_ports"] == [other]
    assert tunnel.drops(tunnel.listener) == tunnel.drops(tunnel.dialer) == {}
    assert tunnel.listener.events("endpoint_moved") == []


def heard_by(natted: Natted, uplink: str) -> dict[str, Any]:
    """The dialer at the listener, as soon as both of its lanes are heard by that uplink. The first packet of each is
    the router's, which learns by it that its entry is stale."""
    end = time.monotonic() + 30
    while time.monotonic() < end:
        with natted.dialer.namespace.entered(), ExitStack() as stack:
            for _ in range(FLOWS):
                sender = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                sender.sendto(b"here", (GATEWAY[4], 9))
        (peer,) = natted.listener.status()["peers"]
        if peer["endpoint"].startswith(f"{UPLINKS[uplink]}.2:") and peer["lane_ports"]:
            return dict(peer)
    raise TimeoutError(f"the lanes are not heard by the {uplink} uplink: {peer}")


def test_lanes_behind_a_nat_roam_together(lab: Lab) -> None:
    """The router takes other ports than the dialer's, and later goes over to another uplink, with other ones again."""
    natted = make_natted(lab)
    for name in UPLINKS:
        chain = natted.router.run("nft", "-a", "list chain ip nat postrouting")
        (rule,) = (line.rpartition("handle ")[2] for line in chain.splitlines() if f'oifname "{name}" snat' in line)
        natted.router.run("nft", f"delete rule ip nat postrouting handle {rule}")
        natted.router.run("nft", f"add rule ip nat postrouting oifname {name} masquerade random")
    natted.dialer.arguments += [*workers(2), "--lane-ports"]
    natted.listener.arguments += workers(2)
    natted.listener.grant(natted.dialer.peer_id, *DIALER.values())
    natted.start()
    seen = set()
    for uplink in ("first", "second"):
        natted.use(uplink)
        heard_by(natted, uplink)
        for source, target, address in (
            (natted.dialer, natted.listener, GATEWAY[4]), (natted.listener, natted.dialer, DIALER[4]),
        ):  # fmt: skip
            assert numbered_flows(source, target, address, 16) == [list(range(16))] * FLOWS
        peer = heard_by(natted, uplink)
        assert len(peer["lane_ports"]) == 1
        seen |= {peer["endpoint"], *peer["lane_ports"]}
    assert len(seen) == 4
    assert natted.listener.metric("handshakes_success_total") == 1


def test_dialers_with_one_worker_share_those_of_their_gateway_while_keys_rotate(lab: Lab) -> None:
    """Each keeps its worker and its order, in both directions: the TUN sends a flow's packets where it has got the
    flow's last one from."""
    here, dialling = lab.namespace("gateway"), [lab.namespace(f"dialer{number}") for number in range(4)]
    outer = {host: f"192.0.2.{10 + number}" for number, host in enumerate(dialling)}
    lab.switch("switch", {here: ["192.0.2.1/24"], **{host: [f"{address}/24"] for host, address in outer.items()}})
    gateway = Node(here, "--listen", listen_address(4), *LISTEN_FLAGS, *workers(2))
    dialers = [Node(host, *workers(1), "--peer", gateway.multiaddr("192.0.2.1")) for host in dialling]
    for dialer in dialers:
        gateway.arguments += ["--allow-peer", dialer.peer_id]
    gateway.start().wait_event("listener_ready")
    for dialer in dialers:
        dialer.start()
    for dialer in dialers:
        dialer.wait_event("peer_connected")
    gateway.wait_event("peer_connected", count=len(dialers))
    transfer = {"size": 10_000_000, "rate": 2.5e6}
    with Capture(here) as capture:
        servers = [here.traffic("tcp_serve", GATEWAY[4], 5001 + n, **transfer) for n in range(4)]
        clients = [host.traffic("tcp_transfer", GATEWAY[4], 5001 + n, **transfer) for n, host in enumerate(dialling)]
        for turn in (1, 2):
            gateway.tool("rotate")
            gateway.wait_event("key_rotation", count=turn * len(dialers))
        assert all(client.running for client in clients)
        assert all(end.result()["ok"] for end in (*clients, *servers))
    assert capture.lost == 0
    lanes = {address: Counter[int]() for address in outer.values()}
    for datagram in capture.sent:
        if not datagram.is_quic:
            lanes[datagram.destination][datagram.payload[1]] += 1
    # Lane 0 has besides what is no packet: empty records, probes of the path.
    assert sorted(used.most_common(1)[0][0] for used in lanes.values()) == [0, 0, 1, 1]
    assert all(min(used[0], used[1]) < sum(used.values()) // 50 for used in lanes.values()), lanes
    for node in (gateway, *dialers):
        assert node.metric("dropped_packets_total") == 0
        tcp = counters(node.namespace)
        assert tcp["TcpExt.TCPOFOQueue"] == tcp["TcpExt.TCPFastRetrans"] == 0
