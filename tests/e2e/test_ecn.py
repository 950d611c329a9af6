"""Congestion on the way between the nodes, and what the flows in the tunnel hear of it (RFC 6040).

The router is one with an AQM: of every few packets it marks one, if that is ECN-capable, and drops it if not.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lab.hosts import Lab, Namespace
from lab.narrow import NarrowPath, narrow_path
from lab.nodes import Node
from lab.tunnels import GATEWAY

SIZE = 3_000_000
"""Bytes of a transfer each way: hundreds of packets, or dozens of super-packets."""
MARKS = {4: "ip ecn", 6: "ip6 ecn"}


@contextmanager
def rules(router: Namespace, *lines: str) -> Iterator[None]:
    """What the router does with packets for the cable in the middle."""
    router.run("nft", "add table inet aqm")
    router.run("nft", "add chain inet aqm out { type filter hook postrouting priority 0; }")
    for line in lines:
        router.run("nft", f"add rule inet aqm out oifname middle {line}")
    try:
        yield
    finally:
        router.run("nft", "delete table inet aqm")


@contextmanager
def congested(path: NarrowPath, outer: int) -> Iterator[None]:
    now, field = "numgen inc mod 8 0", MARKS[outer]
    lines = (f"{field} != not-ect {now} {field} set ce", f"{field} not-ect meta length > 1000 {now} counter drop")
    with rules(path.routers[0], *lines), rules(path.routers[1], *lines):
        yield


def lost(router: Namespace) -> int:
    """Packets that the router has dropped for what it could not tell, since its rules are there."""
    (packets,) = re.findall(r"counter packets (\d+) ", router.run("nft", "list table inet aqm"))
    return int(packets)


def marked(node: Node, where: str = "path") -> float:
    return node.metric("ecn_marked_packets_total", where=where)


def dropped(node: Node) -> float:
    return node.metric("dropped_packets_total", direction="rx", reason="congestion")


def transfer(path: NarrowPath, inner: int) -> dict[str, int]:
    """Both ways at once; what the dialer's end says of it."""
    listener, dialer = path.ends
    server = listener.traffic("tcp_serve", GATEWAY[inner], 5001, size=SIZE)
    result = dialer.measure("tcp_transfer", GATEWAY[inner], 5001, size=SIZE)
    server.result()
    assert result["ok"], result
    return result


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("inner", [4, 6])
def test_flows_are_told_of_congestion_before_they_lose(lab: Lab, outer: int, inner: int) -> None:
    path = narrow_path(lab, outer, 1500)
    for end in path.ends:
        end.sysctl("net.ipv4.tcp_ecn", 1)
    with congested(path, outer):
        result = transfer(path, inner)
    # Not none: a sender repeats its last segments when an answer is late, and what it repeats is not ECN-capable (RFC
    # 3168, 6.1.5), so the router may drop that.
    assert result["told_of_congestion"] > 10 * result["retransmits"]
    assert all(marked(node) > 0 and dropped(node) == 0 for node in path.nodes)


def test_flows_that_cannot_be_told_lose(lab: Lab) -> None:
    """The same router, and the same tunnel."""
    path = narrow_path(lab, 4, 1500)
    for end in path.ends:
        end.sysctl("net.ipv4.tcp_ecn", 0)
    with congested(path, 4):
        result = transfer(path, 4)
        assert all(lost(router) > 0 for router in path.routers)
    assert result["retransmits"] > 0 == result["told_of_congestion"]
    assert all(marked(node) == dropped(node) == 0 for node in path.nodes)


def test_mark_for_who_would_not_see_it_is_a_loss(lab: Lab) -> None:
    path = narrow_path(lab, 4, 1500)
    listener, dialer = path.nodes
    with rules(path.routers[0], "ip ecn set ce"):  # whatever it was
        assert dialer.namespace.measure("ping", GATEWAY[4], count=3, timeout=0.3)["received"] == 0
    assert dropped(dialer) == 3 and marked(dialer) == 0
    assert dropped(listener) == 0
    assert dialer.namespace.measure("ping", GATEWAY[4], count=1, timeout=5.0)["received"] == 1
