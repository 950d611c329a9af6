"""What an observer on the cable sees: QUIC, records as docs/protocol.md (section 4) has them, nothing of the inside."""

import os
import socket
import time
from collections import Counter, defaultdict
from ipaddress import ip_address

import pytest

from lab.capture import Capture, Datagram
from lab.hosts import Lab
from lab.nodes import PORT
from lab.oracle import FLAG_VOUCHED, HEADER_SIZE, OVERHEAD, RECORD_TYPE, TAG_SIZE, Header
from lab.tunnels import DIALER, GATEWAY, OUTER, Tunnel, make_tunnel

MARKER = b"the bird of the air would carry the voice"
"""In every payload that goes through the tunnel; long enough never to occur by chance."""
MTU = 1420
INNER = [ip_address(address).packed for address in (*GATEWAY.values(), *DIALER.values())]
PAIRS = [ip_address(one[version]).packed + ip_address(other[version]).packed
         for one, other in ((GATEWAY, DIALER), (DIALER, GATEWAY)) for version in (4, 6)]  # fmt: skip
"""As they stand in a header."""


def chatter(tunnel: Tunnel, version: int, tos: int = 0) -> None:
    """Datagrams both ways whose payload is the marker over and over, of several sizes, and a TCP stream of it."""
    here, there = GATEWAY[version], DIALER[version]
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    with tunnel.listener.namespace.entered():
        server = socket.socket(family, socket.SOCK_DGRAM)
        server.bind((here, 5004))
        accepting = socket.create_server((here, 5005), family=family)
    with tunnel.dialer.namespace.entered():
        client = socket.socket(family, socket.SOCK_DGRAM)
        client.bind((there, 5004))
    with server, accepting, client:
        for sock in (server, client):
            sock.settimeout(5)
            if version == 4:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
        for size in (len(MARKER), 500, MTU - 28 - 20):
            payload = (MARKER * 40)[:size]
            for sender, receiver, to in ((client, server, here), (server, client, there)):
                for _ in range(20):
                    sender.sendto(payload, (to, 5004))
                for _ in range(20):
                    data, _, _, _ = receiver.recvmsg(2000)
                    assert data == payload
        with tunnel.dialer.namespace.entered():
            stream = socket.create_connection((here, 5005), timeout=5)
        connection, _ = accepting.accept()
        with stream, connection:
            stream.sendall(MARKER * 5000)
            stream.shutdown(socket.SHUT_WR)
            left = 5000 * len(MARKER)
            while left and (data := connection.recv(65536)):
                left -= len(data)
            assert left == 0


@pytest.fixture(params=[4, 6], ids=["outer-ipv4", "outer-ipv6"])
def sent(lab: Lab, request: pytest.FixtureRequest) -> tuple[list[Datagram], ...]:
    """What the dialer and what the listener put on the cable, in order: the handshake, two rotations, and marked
    traffic all the time."""
    tunnel = make_tunnel(lab, request.param, up=False)
    with Capture(tunnel.dialer.namespace) as here, Capture(tunnel.listener.namespace) as there:
        tunnel.start()
        for epoch in (1, 2):
            chatter(tunnel, 4)
            chatter(tunnel, 6, tos=0xB9)
            tunnel.dialer.tool("rotate")
            for node in (tunnel.listener, tunnel.dialer):
                node.wait_event("key_rotation", status="success", epoch=epoch)
        chatter(tunnel, 4, tos=0xB9)
        chatter(tunnel, 6)
        assert tunnel.drops(tunnel.listener) == tunnel.drops(tunnel.dialer) == {}
    for capture, source, destination in ((here, *OUTER[request.param][::-1]), (there, *OUTER[request.param])):
        assert capture.lost == 0
        assert {(one.source, one.destination) for one in capture.sent} == {(source, destination)}
    return here.sent, there.sent


def test_capture_shows_records_as_specified_and_nothing_from_inside(sent: tuple[list[Datagram], ...]) -> None:
    nothing_in_clear([datagram for one_way in sent for datagram in one_way])
    records = [[datagram for datagram in one_way if not datagram.is_quic] for one_way in sent]
    for one_way, of_it in zip(sent, records, strict=True):
        outer_headers(one_way)
        assert 200 < len(of_it) < len(one_way), "too little traffic, or no handshake, was captured"
        assert len({datagram.flow_label for datagram in of_it}) == 1, "the flow label tells inner flows apart"
        record_headers([datagram.payload for datagram in of_it])
    sizes_and_randomness([datagram.payload for of_it in records for datagram in of_it])


def nothing_in_clear(traffic: list[Datagram]) -> None:
    for datagram in traffic:
        for start in range(0, len(MARKER) - 8, 4):
            assert MARKER[start : start + 8] not in datagram.payload
        assert not any(pair in datagram.payload for pair in PAIRS)
    # Four bytes of an inner IPv4 address alone turn up in random bytes once in a while; not often, and in the places
    # where they would be in clear once at most (which one run in ten thousand has).
    total = sum(len(datagram.payload) for datagram in traffic)
    for address in INNER:
        found = sum(datagram.payload.count(address) for datagram in traffic)
        assert found <= (3 + total / 2**32 * 10 if len(address) == 4 else 0)
        clear = sum(address in datagram.payload[HEADER_SIZE : HEADER_SIZE + 40] for datagram in traffic)
        assert clear <= (1 if len(address) == 4 else 0)


def outer_headers(traffic: list[Datagram]) -> None:
    for datagram in traffic:
        assert datagram.traffic_class & ~3 == 0, "DSCP of the inside, or of our own"
        assert not (datagram.traffic_class and datagram.is_quic)
        assert not (datagram.dont_fragment and datagram.is_quic)
        assert not datagram.fragment
        assert PORT in (datagram.source_port, datagram.destination_port)


def record_headers(records: list[bytes]) -> None:
    """The records of one sender, in the order in which it sent them."""
    headers = [Header.decode(record) for record in records]
    assert all(len(record) >= OVERHEAD for record in records)
    assert {header.type for header in headers} == {RECORD_TYPE}
    assert {header.lane for header in headers} == {0}, "this node announced one lane"
    assert {header.flags for header in headers} <= {0, FLAG_VOUCHED}
    # One index per epoch, and an epoch that was left does not come back: only an empty record may be a moment late.
    epochs = list(dict.fromkeys(header.index for header in headers))
    assert len(epochs) == 3
    assert 0 not in epochs
    order = [epochs.index(Header.decode(record).index) for record in records if len(record) > OVERHEAD]
    assert order == sorted(order)
    counters: dict[int, list[int]] = defaultdict(list)
    for header in headers:
        counters[header.index].append(header.counter)
    for sent in counters.values():
        assert sent == list(range(len(sent))), "a counter was skipped, repeated or sent out of order"


def sizes_and_randomness(records: list[bytes]) -> None:
    """No record is longer than one packet of the MTU needs, and no two have a tag or a beginning in common."""
    assert max(map(len, records)) == MTU + OVERHEAD
    assert len({record[-TAG_SIZE:] for record in records}) == len(records)
    assert len({record[HEADER_SIZE : HEADER_SIZE + 16] for record in records}) == len(records)
    body = b"".join(record[HEADER_SIZE:] for record in records)
    ones = sum(byte.bit_count() for byte in body) / (8 * len(body))
    assert abs(ones - 0.5) < 5 * 0.5 / (8 * len(body)) ** 0.5, "not what random bytes look like"


def test_idle_tunnel_sends_empty_records_and_asks_once_what_the_path_carries(lab: Lab) -> None:
    """What promotes an epoch, at the handshake and at a rotation, is an empty record: header and tag. Beside those
    there are three probes of the path at its beginning, and their acknowledgements."""
    tunnel = make_tunnel(lab, up=False)
    with Capture(tunnel.dialer.namespace) as here, Capture(tunnel.listener.namespace) as there:
        tunnel.start(ping=False)
        tunnel.dialer.tool("rotate")
        for node in (tunnel.listener, tunnel.dialer):
            node.wait_event("key_rotation", status="success", epoch=1)
        time.sleep(0.2)
    for capture in (here, there):
        records = [datagram.payload for datagram in capture.sent if not datagram.is_quic]
        assert len(records) >= 2
        assert Counter(len(record) for record in records if len(record) > OVERHEAD) == {
            MTU + OVERHEAD: 1, 1280 - 28: 1, OVERHEAD + 11: 1, OVERHEAD + 13: 3,
        }  # fmt: skip
        assert {datagram.dont_fragment for datagram in capture.sent if len(datagram.payload) in (1452, 1252, 43)} == {
            True
        }
        assert len({Header.decode(record).index for record in records}) == 2


@pytest.mark.parametrize("tos", [0xB8, 0x03, 0x01])
def test_inner_dscp_and_ecn_arrive_inside_and_do_not_show_outside(lab: Lab, tos: int) -> None:
    tunnel = make_tunnel(lab)
    receivers = {}
    with tunnel.listener.namespace.entered():
        for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6)):
            receivers[version] = socket.socket(family, socket.SOCK_DGRAM)
            receivers[version].bind((GATEWAY[version], 5006))
            receivers[version].settimeout(5)
    receivers[4].setsockopt(socket.IPPROTO_IP, 13, 1)  # IP_RECVTOS
    receivers[6].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
    with Capture(tunnel.dialer.namespace) as capture:
        for version, receiver in receivers.items():
            with tunnel.dialer.namespace.entered():
                sender = socket.socket(receiver.family, socket.SOCK_DGRAM)
            with sender, receiver:
                if version == 4:
                    sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
                else:
                    sender.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)
                for _ in range(10):
                    sender.sendto(os.urandom(100), (GATEWAY[version], 5006))
                for _ in range(10):
                    _, ancillary, _, _ = receiver.recvmsg(2000, 100)
                    assert [value[0] for _, _, value in ancillary] == [tos]
    assert capture.datagrams
    assert {datagram.traffic_class for datagram in capture.datagrams if not datagram.outgoing} <= {0, tos & 3}
    assert {datagram.traffic_class for datagram in capture.sent} <= {0, tos & 3}
