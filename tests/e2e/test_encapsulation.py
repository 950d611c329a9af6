"""Tunnels of others through ours: the kernel leaves the inner packet's checksum to the interface, where only the TUN's
``csum_start`` says so, and the far end verifies inner and outer checksums."""

from dataclasses import dataclass

import pytest

from lab.hosts import CommandError, Lab, Namespace
from lab.icmp import answers
from lab.lans import HOSTS, MTU, TUN, Packets, every_size, make_lans, transfer
from lab.tunnels import DIALER, GATEWAY

INNER = {"left": {4: "172.16.1.1", 6: "fd99:1::1"}, "right": {4: "172.16.2.1", 6: "fd99:2::1"}}
SIDES = ("left", "right")


@dataclass(frozen=True)
class Kind:
    """An encapsulation: the IP version outside and the bytes that it takes of the MTU, outer IP header included."""

    name: str
    outer: int
    overhead: int
    link: str
    """For ``ip link add``, or empty for a route that encapsulates."""
    versions: tuple[int, ...] = (4, 6)
    """IP versions inside."""


VXLAN = "vxlan id 42 dstport 4789 local {local} remote {remote}"
KINDS = (
    Kind("vxlan", 4, 50, f"{VXLAN} udpcsum"),
    Kind("vxlan-without-checksum", 4, 50, f"{VXLAN} noudpcsum"),
    Kind("vxlan-over-ipv6", 6, 70, VXLAN),
    Kind("vxlan-over-ipv6-without-checksum", 6, 70, f"{VXLAN} udp6zerocsumtx udp6zerocsumrx"),
    Kind("gre", 4, 24, "gre local {local} remote {remote}"),
    Kind("ipip", 4, 20, "ipip local {local} remote {remote}", versions=(4,)),
    Kind("ip6tnl", 6, 48, "ip6tnl local {local} remote {remote} mode any"),
    Kind("seg6", 6, 64, ""),
)


def encapsulate(kind: Kind, ends: tuple[Namespace, Namespace], addresses: tuple[str, str], device: str) -> None:
    """Joins two namespaces, which reach each other at the addresses over the device, by inner addresses and routes."""
    for index, namespace in enumerate(ends):
        own, other = INNER[SIDES[index]], INNER[SIDES[1 - index]]
        local, remote = addresses[index], addresses[1 - index]
        inner, way = "lo", f"encap seg6 mode encap segs {remote} dev {device} mtu {MTU}"  # less the overhead
        if kind.link:
            inner = "inner0"
            way = f"dev {inner}"
            namespace.ip(f"link add {inner} type {kind.link.format(local=local, remote=remote)}")
            namespace.ip(f"link set {inner} up mtu {MTU - kind.overhead}")
        else:
            for interface in ("all", device):
                namespace.sysctl(f"net.ipv6.conf.{interface}.seg6_enabled", 1)
        for version in kind.versions:
            namespace.ip(f"address add {own[version]} dev {inner}{' nodad' if version == 6 else ''}")
            namespace.ip(f"-{version} route add {other[version]} {way} src {own[version]}")


def available(namespace: Namespace, kind: Kind) -> str | None:
    """None if the kernel has it, else why not."""
    if not kind.link:
        return None
    addresses = ("192.0.2.1", "192.0.2.9") if kind.outer == 4 else ("2001:db8::1", "2001:db8::9")
    try:
        namespace.ip(f"link add probe0 type {kind.link.format(local=addresses[0], remote=addresses[1])}")
    except CommandError as error:
        return str(error).splitlines()[-1]
    namespace.ip("link delete probe0")
    return None


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_encapsulated_traffic(lab: Lab, kind: Kind) -> None:
    if (reason := available(lab.namespace("probe"), kind)) is not None:
        pytest.skip(f"this kernel has no {kind.name}: {reason}")
    lans = make_lans(lab)
    hosts = (HOSTS["left"][kind.outer], HOSTS["right"][kind.outer])
    gateways = (GATEWAY[kind.outer], DIALER[kind.outer])
    for ends, addresses, device, sizes_of in ((lans.hosts, hosts, "eth0", 4), (lans.gateways, gateways, TUN, 6)):
        encapsulate(kind, ends, addresses, device)
        for version in kind.versions:
            assert answers(ends[1], INNER["left"][version])
        lans.forget()  # what the one end sent before the other was there
        for version in kind.versions:
            address = INNER["left"][version]
            with Packets(lans.gateways[0], "eth0") as records:
                transfer(ends[0], ends[1], address, 2 << 20)
            assert records.vouched(1200) == {False}  # the sending gateway has completed inner checksums
            if version == sizes_of or len(kind.versions) == 1:
                every_size(ends[0], ends[1], address, MTU - kind.overhead)
    lans.check()
