"""What is wrong with a node and its tunnels, and what to do about it: all checks, in the order in which to look."""

from collections.abc import Sequence
from typing import Final

from cryprq.node import host_checks as host
from cryprq.node import peer_checks as peers
from cryprq.node.findings import Check, Facts, Finding

CHECKS: Final[Sequence[Check]] = (
    *(host.node, host.configuration, host.identity, host.registry, host.rights, host.tun, host.ports),
    *(peers.sessions, peers.reachable, peers.knock, peers.nat, peers.names, peers.path_mtu, peers.loops),
    *(host.clock, host.entropy, host.offloads, host.routes, host.forwarding, host.reverse_path),
    *(host.firewall, host.conntrack),
)


def diagnose(facts: Facts) -> tuple[Finding, ...]:
    """All lines."""
    return tuple(finding for check in CHECKS for finding in check(facts))
