"""Hosts behind both gateways: forwarded traffic with and without the kernel's offloads, fragments, ICMP errors."""

import random
import socket
import struct
from dataclasses import dataclass

import pytest

from lab.hosts import Lab, Namespace
from lab.icmp import FRAGMENT, PORT_UNREACHABLE, TIME_EXCEEDED, TOO_BIG, IcmpError, Probe
from lab.lans import HOSTS, MTU, ROUTERS, UDP_OVERHEAD, Lans, Packets, every_size, make_lans, transfer
from lab.traffic import family_of, make_room
from lab.tunnels import DIALER, GATEWAY

UDP_SEGMENT = 103


@dataclass(frozen=True)
class Offloads:
    """What the interfaces of the LANs do."""

    host_tx: bool
    """The hosts leave checksums and segmentation to the interface: the gateway gets NEEDS_CSUM and super-packets."""
    gateway_gro: bool
    gateway_tx: bool
    """Off: the gateway's kernel completes checksums where the tunnel says it should, and the host verifies them."""


OFFLOADS = {
    "all": Offloads(host_tx=True, gateway_gro=True, gateway_tx=True),
    "checksums-verified": Offloads(host_tx=True, gateway_gro=True, gateway_tx=False),
    "gateway-gro": Offloads(host_tx=False, gateway_gro=True, gateway_tx=False),
    "none": Offloads(host_tx=False, gateway_gro=False, gateway_tx=False),
}


@pytest.mark.parametrize("offloads", OFFLOADS.values(), ids=OFFLOADS.keys())
def test_hosts_behind_both_gateways(lab: Lab, offloads: Offloads) -> None:
    lans = make_lans(lab)
    for host, gateway in zip(lans.hosts, lans.gateways, strict=True):
        gateway.ethtool("lan0", gro=offloads.gateway_gro, tx=offloads.gateway_tx)
        if not offloads.host_tx:
            host.ethtool("eth0", tx=False, tso=False)
    listener, dialer = lans.gateways
    for version in (4, 6):
        with Packets(dialer, "lan0") as from_host, Packets(listener, "eth0") as records:
            transfer(lans.left, lans.right, HOSTS["left"][version])
        # The kernel of the sending gateway, or host, vouches for what it merges, or has not filled in.
        assert (from_host.longest > 1500) == (offloads.host_tx or offloads.gateway_gro)
        with Packets(listener, "eth0") as records:
            every_size(lans.left, lans.right, HOSTS["left"][version], MTU)
        assert records.vouched(1200) == {offloads.host_tx}
    lans.check()


@pytest.fixture
def lans(lab: Lab) -> Lans:
    return make_lans(lab)


def receiver(host: Namespace, address: str, port: int = 5004) -> socket.socket:
    """A bound UDP socket in the namespace of a host."""
    with host.entered():
        sock = socket.socket(family_of(address), socket.SOCK_DGRAM)
    sock.settimeout(5)
    make_room(sock, 4 << 20)
    sock.bind((address, port))
    return sock


def test_udp_super_packets_of_hosts(lans: Lans) -> None:
    """What an application sends with UDP_SEGMENT is one super-packet up to the far gateway, and up to the far host too
    where that gateway's interface takes it; else the kernel cuts it there, and the host verifies checksums."""
    for whole, version in ((True, 4), (True, 6), (False, 4), (False, 6)):
        lans.gateways[1].ethtool("lan0", tx=whole)
        address = HOSTS["right"][version]
        with receiver(lans.right, address) as sock, Probe(lans.left, address, 5004, discover=FRAGMENT) as probe:
            for size in (1, 100, 1000, 1232, MTU - UDP_OVERHEAD[version]):
                count = min(63, 65000 // size)  # and one more: at the tunnel's MTU two sends of the gateway's
                payloads = [random.randbytes(size) for _ in range(count)] + [random.randbytes(max(1, size // 3))]
                with Packets(lans.gateways[0], "lan0") as sent, Packets(lans.right, "eth0") as arrived:
                    probe.socket.sendmsg(
                        [b"".join(payloads)], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", size))]
                    )
                    assert [sock.recv(65535) for _ in payloads] == payloads
                assert sent.longest > count * size
                assert (arrived.longest > 1500) == (whole and size > 1)
    lans.check()


def test_fragmented_datagrams(lans: Lans) -> None:
    """IPv4: hosts fragment for their own MTU, gateways again for the tunnel's. IPv6: hosts learn the tunnel's first."""
    for version in (4, 6):
        for side, source, target in (("right", lans.left, lans.right), ("left", lans.right, lans.left)):
            address = HOSTS[side][version]
            with receiver(target, address) as sock, Probe(source, address, 5004, discover=FRAGMENT) as probe:
                if version == 6:
                    probe.socket.send(bytes(1452))
                    assert probe.error().kind == TOO_BIG[6]
                for size in (MTU - UDP_OVERHEAD[version] + 1, 1473, 4000, 65000):
                    payload = random.randbytes(size)
                    probe.socket.send(payload)
                    assert sock.recv(65535) == payload
    lans.check()


def test_traceroute_shows_every_hop(lans: Lans) -> None:
    for version in (4, 6):
        for source, far, near, tunnel in (
            (lans.left, HOSTS["right"], ROUTERS["left"], DIALER),
            (lans.right, HOSTS["left"], ROUTERS["right"], GATEWAY),
        ):
            with Probe(source, far[version]) as probe:
                for hops, kind, offender in (
                    (1, TIME_EXCEEDED, near),
                    (2, TIME_EXCEEDED, tunnel),
                    (3, PORT_UNREACHABLE, far),
                ):
                    probe.set_hops(hops)
                    probe.socket.send(b"probe")
                    assert probe.error() == IcmpError(kind[version], 0, offender[version])
    lans.check()


def test_path_mtu_is_found_at_the_tunnel_and_behind_it(lans: Lans) -> None:
    behind = 1300
    lans.gateways[1].ip(f"link set lan0 mtu {behind}")
    lans.right.ip(f"link set eth0 mtu {behind}")
    for version, mss in ((4, 1460), (6, 1440)):  # as if the narrow link were farther away
        lans.right.ip(f"-{version} route change default via {ROUTERS['right'][version]} advmss {mss}")
    for version in (4, 6):
        address = HOSTS["right"][version]
        with receiver(lans.right, address) as sock, Probe(lans.left, address, 5004) as probe:
            assert probe.mtu() == 1500
            for mtu, previous, offender in ((MTU, 1500, ROUTERS["left"]), (behind, MTU, DIALER)):
                probe.socket.send(bytes(previous - UDP_OVERHEAD[version]))
                assert probe.error() == IcmpError(TOO_BIG[version], mtu, offender[version])
                assert probe.mtu() == mtu
                with pytest.raises(OSError, match="Message too long"):
                    probe.socket.send(bytes(previous - UDP_OVERHEAD[version]))
                probe.error()  # the kernel's own, about that
            payload = random.randbytes(behind - UDP_OVERHEAD[version])
            probe.socket.send(payload)
            assert sock.recv(65535) == payload
        # TCP finds it too, since the host behind the narrow link asks for segments that are too long for it.
        transfer(lans.right, lans.left, address)
    lans.check()
