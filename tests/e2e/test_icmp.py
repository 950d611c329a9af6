"""What does not fit, or has no way, is told to who sent it: hosts behind a gateway and the gateway itself."""

import errno
import json
import random
import socket
import struct
import time

import pytest

from lab.hosts import Lab, Namespace
from lab.icmp import FRAGMENT, TOO_BIG, IcmpError, Probe
from lab.lans import HOSTS, MTU, UDP_OVERHEAD, Lans, counters, make_lans, transfer
from lab.traffic import family_of
from lab.tunnels import DIALER, GATEWAY, Tunnel, make_tunnel
from tests.rigs.planes import wait

NARROW = 1300
"""The MTU of the dialer: less than its listener's."""
NOBODY = {4: "10.66.0.77", 6: "fd66::77"}
"""In the tunnel's network, and no peer's."""
HOST_UNREACHABLE, PROHIBITED = {4: (3, 1), 6: (1, 3)}, {4: (3, 13), 6: (1, 1)}
SENT_ERRORS = "Icmp.OutDestUnreachs"
UDP_SEGMENT = 103


@pytest.fixture
def lans(lab: Lab) -> Lans:
    lans = make_lans(lab, dial=("--mtu", str(NARROW)))
    for gateway in lans.gateways:
        gateway.sysctl("net.ipv4.conf.all.rp_filter", 1)  # strict: what answers come from has to be right
    return lans


def answers(tunnel: Tunnel, reason: str, result: str, *, of_listener: bool = True) -> int:
    node = tunnel.listener if of_listener else tunnel.dialer
    return int(node.metric("icmp_answers_total", reason=reason, result=result))


def receiver(host: Namespace, address: str) -> socket.socket:
    with host.entered():
        sock = socket.socket(family_of(address), socket.SOCK_DGRAM)
    sock.settimeout(5)
    sock.bind((address, 5004))
    return sock


def test_gateways_of_different_mtu(lans: Lans) -> None:
    listener = lans.gateways[0]
    for version in (4, 6):
        # TCP first: both ends begin with segments that fit, so that nobody has to be told anything.
        transfer(lans.left, lans.right, HOSTS["left"][version])
        assert (
            answers(lans.tunnel, "too_big", "sent") == answers(lans.tunnel, "too_big", "sent", of_listener=False) == 0
        )
        lans.check()
        assert segment_size(lans.right, lans.left, HOSTS["right"][version]) <= NARROW - {4: 40, 6: 60}[version]
        assert segment_size(lans.left, lans.right, HOSTS["left"][version]) <= NARROW - {4: 40, 6: 60}[version]
    for version in (4, 6):
        for source, address in ((lans.left, HOSTS["right"][version]), (listener, DIALER[version])):
            target = lans.right if source is lans.left else lans.gateways[1]
            with receiver(target, address) as sock, Probe(source, address, 5004) as probe:
                first = MTU if source is listener else 1500
                assert probe.mtu() == first
                if source is lans.left:  # the gateway's kernel speaks for the tunnel device
                    probe.socket.send(bytes(1500 - UDP_OVERHEAD[version]))
                    assert probe.error().mtu == MTU
                probe.socket.send(bytes(MTU - UDP_OVERHEAD[version]))
                assert probe.error() == IcmpError(TOO_BIG[version], NARROW, address)
                assert probe.mtu() == NARROW
                with pytest.raises(OSError, match="Message too long"):
                    probe.socket.send(bytes(MTU - UDP_OVERHEAD[version]))
                probe.error()  # the kernel's own, about that
                payload = random.randbytes(NARROW - UDP_OVERHEAD[version])
                probe.socket.send(payload)
                assert sock.recv(2000) == payload
    assert answers(lans.tunnel, "too_big", "sent") == 4
    right = HOSTS["right"][4]
    with receiver(lans.right, right) as sock, Probe(lans.left, right, 5004, discover=FRAGMENT) as probe:
        for size in (NARROW - 27, MTU - 28, 4000, 60000):  # fragmented at the gateway, some by the host before
            payload = random.randbytes(size)
            probe.socket.send(payload)
            assert sock.recv(65535) == payload
    assert answers(lans.tunnel, "too_big", "sent") == 4
    assert not lans.corrupted()


def test_a_super_packet_is_one_packet_for_the_kernel(lab: Lab) -> None:
    lans = make_lans(lab)
    gateway, count, size = lans.gateways[1], 40, 1000
    gateway.run("nft", "add table inet filter; add chain inet filter forward { type filter hook forward priority 0; }")
    gateway.run("nft", "add rule inet filter forward udp dport 5004 counter reject with icmpx type admin-prohibited")
    with Probe(lans.left, HOSTS["right"][4], 5004, discover=FRAGMENT) as probe:
        arrived, answered = lans.tunnel.dialer.status()["peers"][0]["rx_packets"], counters(gateway)[SENT_ERRORS]
        segments = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))]
        probe.socket.sendmsg([random.randbytes(count * size)], segments)
        assert probe.error().kind == PROHIBITED[4]
        assert wait(lambda: lans.tunnel.dialer.status()["peers"][0]["rx_packets"] - arrived == count)
        counter = wait_for_rest(gateway, count * size)
    assert counter["packets"] < count  # one, unless they arrived in several batches
    assert counters(gateway)[SENT_ERRORS] - answered == counter["packets"]


def wait_for_rest(gateway: Namespace, payload: int) -> dict[str, int]:
    """The counter of the only rule, when so many bytes of payload have passed it."""

    def counter() -> dict[str, int]:
        rules = json.loads(gateway.run("nft", "-j", "list", "chain", "inet", "filter", "forward"))["nftables"]
        expressions = next(entry["rule"]["expr"] for entry in rules if "rule" in entry)
        return next(expression["counter"] for expression in expressions if "counter" in expression)

    assert wait(lambda: counter()["bytes"] >= payload)
    return counter()


def segment_size(server: Namespace, client: Namespace, address: str) -> int:
    """The MSS with which a connection begins at the client."""
    with server.entered():
        listening = socket.create_server((address, 5005), family=family_of(address))
    with client.entered():
        sock = socket.socket(family_of(address))
    with listening, sock:
        sock.settimeout(5)
        sock.connect((address, 5005))
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)


def refusal(host: Namespace, address: str) -> tuple[int | None, float]:
    """The error of a connect(), and how long it took; None: there was none for 5 seconds."""
    with host.entered():
        sock = socket.socket(family_of(address))
    sock.settimeout(5)
    began = time.monotonic()
    with sock:
        try:
            error = sock.connect_ex((address, 5006))
        except TimeoutError:
            error = errno.EAGAIN
    return None if error == errno.EAGAIN else error, time.monotonic() - began


def test_no_way_is_told_at_once(lab: Lab) -> None:
    tunnel = make_tunnel(lab, listen=("--kill-switch",))
    host = tunnel.listener.namespace
    host.sysctl("net.ipv4.conf.all.rp_filter", 1)
    for version in (4, 6):
        error, took = refusal(host, NOBODY[version])
        assert error == errno.ENETUNREACH
        assert took < 1  # by the first SYN: the second follows after a second
    assert answers(tunnel, "no_route", "sent") == 2
    assert tunnel.dialer.stop() == 0
    tunnel.listener.wait_event("peer_disconnected")
    with Probe(host, DIALER[4]) as probe:  # in the first second packets wait and nobody is told: the peer may be back
        probe.socket.send(b"early")
        assert answers(tunnel, "unreachable", "sent") == 0

        def told() -> bool:
            try:
                probe.socket.send(b"later")
            except OSError as error:
                return error.errno == errno.EHOSTUNREACH
            return False

        assert wait(told)
        assert probe.error() == IcmpError(HOST_UNREACHABLE[4], 0, DIALER[4])
    for version in (4, 6):
        error, took = refusal(host, DIALER[version])
        assert error == errno.EHOSTUNREACH
        assert took < 1  # by the first SYN: the second follows after a second
    tunnel.dialer.start()
    tunnel.wait_up()
    for _ in range(30):
        with Probe(host, NOBODY[4]) as probe:
            probe.socket.send(b"probe")
    assert wait(lambda: sum(answers(tunnel, "no_route", result) for result in ("sent", "limited")) >= 32)
    assert answers(tunnel, "no_route", "sent") <= 2 + 6 + 5  # before, at once, and in 5 seconds
    tunnel.listener.kill()  # the kill switch takes over
    for version in (4, 6):
        error, took = refusal(host, DIALER[version])
        assert error == errno.EHOSTUNREACH
        assert took < 1  # by the first SYN: the second follows after a second


def test_gateway_that_died_is_told_at_once_and_found_again(lab: Lab) -> None:
    """The session lives on until its keys end; nobody has to wait for that."""
    tunnel = make_tunnel(lab)
    here = tunnel.dialer.namespace
    tunnel.listener.kill()
    with Probe(here, GATEWAY[4]) as probe:
        probe.socket.send(b"is there anybody")
        tunnel.dialer.wait_event("peer_silent")
        tunnel.dialer.wait_event("transport_error")
    for version in (4, 6):
        error, took = refusal(here, GATEWAY[version])
        assert error == errno.EHOSTUNREACH
        assert took < 1  # by the first SYN: the second follows after a second
    assert not tunnel.dialer.events("peer_disconnected")
    assert ("tx", "no_key") not in tunnel.drops(tunnel.dialer)
    tunnel.listener.start()
    tunnel.listener.wait_event("peer_connected")
    for version in (4, 6):
        assert refusal(here, GATEWAY[version])[0] == errno.ECONNREFUSED  # the gateway's kernel says so
