"""Silent mistakes speak: each of them is made on a real host, and told once at the start, and by ``--check``."""

import os

import pytest

from lab.hosts import Lab
from lab.nodes import PROGRAMS, Node
from lab.tunnels import listen_address

OTHER = "QmQUYyhzsSZYHSZSfLcGQhCcLKLaCMwNmVZSDHBTXtBCZD"


@pytest.fixture
def node(lab: Lab) -> Node:
    """A host in 10.1.0.0/24, on a cable that takes 1400 bytes, without IPv6; nothing about the node is right."""
    here, there = lab.namespace("listener"), lab.namespace("dialer")
    lab.veth(here, ["10.1.0.1/24"], there, ["10.1.0.2/24"], mtu=1400)
    here.ip("route add default via 10.1.0.2")
    flags = ("--listen", listen_address(4), "--tun-address", "10.1.0.9/30", "--workers", "2", "--workers", "1")
    return Node(here, *flags, env={"CRYPRQ_ALLOW_PEER": OTHER})


DOUBTS = (
    "--tun-address 10.1.0.9/30 is in 10.1.0.0/24, where eth0 is",
    "--mtu 1420 makes datagrams of 1480 bytes, and the way to dialers takes 1400",
    "--workers is given more than once; only the last one counts, 1",
    "nobody reads the variable CRYPRQ_ALLOW_PEER; did you mean CRYPRQ_ALLOW_PEERS?",
    "nobody may connect: name the dialers with --allow-peer ID, or add them with cryprq peer add ID",
)


def test_each_is_told_once_at_the_start_and_by_check(node: Node) -> None:
    node.start().wait_event("listener_ready")
    told = [event["doubt"] for event in node.events("config_doubtful", level="warning")]
    unset = [word for name in os.environ if name.startswith("CRYPRQ_") for word in ("-u", name)]
    variables = [f"{name}={value}" for name, value in node.env.items() if name.startswith("CRYPRQ_")]
    checked = node.namespace.run("env", *unset, *variables, str(PROGRAMS / "cryprq-node"), *node.arguments, "--check")
    assert told == [line.removeprefix("# warning: ") for line in checked.splitlines() if line.startswith("#")]
    assert len(told) == len(DOUBTS)
    for doubt, expected in zip(told, DOUBTS, strict=True):
        assert doubt.startswith(expected)


def test_peer_by_ipv6_on_a_host_without(lab: Lab) -> None:
    here = lab.namespace("dialer")
    flags = ("--peer", f"/ip6/2001:db8::1/udp/9999/quic-v1/p2p/{OTHER}")
    said = here.run(str(PROGRAMS / "cryprq-node"), *flags, "--check")
    assert "there is no way to 2001:db8::1" in said and "no IPv6 address or route" in said
