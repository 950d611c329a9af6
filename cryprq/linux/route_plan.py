"""Which routes and rules a node needs for its peers' networks: policy routing, and the kill switch. Decides only.

Four ways (``--route-table``): ``auto`` has a table of its own for what amounts to a default route, everything else
is in the main table; ``main`` and a number have one table for all; ``off`` leaves routes to a routing daemon.

With ``auto`` the rules are those that wg-quick(8) made known: the main table is asked first, but its default routes do
not count; then the tunnel's own table, except for packets with the mark that the node's own sockets have. So every
network that this host knows stays where it is, and records leave as if there were no tunnel. Further rules are for
answers: IPv4's strict reverse path filter (rp_filter 1) asks which way a packet to a gateway, or to somebody who dials
this node, would go, without a mark. One more lets the node ask name servers where a gateway is before there is a tunnel
to ask them through.
"""

from binascii import crc32
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import Final

from cryprq.linux.rtnetlink import PROTOCOL, TABLE_MAIN, Route, Rule
from cryprq.networks import Interface, Network, amounts_to_default

Endpoint = tuple[IPv4Address | IPv6Address, int]
"""An outer address and a UDP port."""

# One host may have several nodes. What each of them leaves behind is told apart by numbers made of its TUN's name.
_SLOTS: Final = 1024
_FIRST_MARK: Final = 0x3400  # up to 0x37FF: clear of the bits that container networks use, 0x4000 and 0x8000
_FIRST_PRIORITY: Final = 28_000  # before the kernel's own rule for the main table, 32766
_RULES: Final = 3
_HERE: Final = IPv4Address("127.0.0.1")
_FIRST_GUARD: Final = 2_000_000_000
"""Metric of an unreachable route: above whatever else a table may have for that network."""
_METRIC: Final = {4: 0, 6: 1}
"""Of a route into the tunnel: it wins over any other for that network. (IPv6 has no 0.)"""
_CONNECTED_METRIC: Final = {4: 0, 6: 256}
"""What the kernel gives to the network of an address."""


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers that belong to a TUN of this name."""

    mark: int
    """Also the number of its own table."""
    priority: int
    """Of the first of its rules."""
    guard: int
    """The metric of its unreachable routes."""

    @classmethod
    def of(cls, tun_name: str) -> "Numbers":
        slot = crc32(tun_name.encode()) % _SLOTS
        return cls(_FIRST_MARK + slot, _FIRST_PRIORITY + _RULES * slot, _FIRST_GUARD + slot)

    def owns_rule(self, rule: Rule) -> bool:
        """Whether a node with this TUN made the rule."""
        return rule.protocol == PROTOCOL and 0 <= rule.priority - self.priority < _RULES

    def owns_guard(self, route: Route) -> bool:
        """Whether the kill switch of a node with this TUN made the route."""
        return route.protocol == PROTOCOL and route.interface is None and route.metric == self.guard


class RoutePlan:
    """What the configuration makes of a network."""

    def __init__(
        self,
        tun_name: str,
        *,
        route_table: int | str = "auto",
        fwmark: int | None = None,
        kill_switch: bool = False,
        lookup_uid: int | None = None,
    ) -> None:
        """``lookup_uid``: the user whose sockets look up where peers are (``name_service``)."""
        self.numbers: Final = Numbers.of(tun_name)
        self.kill_switch: Final = kill_switch
        """Whether what keeps packets in the tunnel stays when the node goes."""
        self.lookup_uid: Final = lookup_uid
        self._way: Final = route_table
        self._own: Final = self.numbers.mark if fwmark is None else fwmark

    @property
    def mark(self) -> int:
        """What the node's sockets need where ``rules`` has any."""
        return self._own

    def by_policy(self, network: Network) -> bool:
        """Whether the network is in a table of its own, which rules lead to."""
        return self._way == "auto" and amounts_to_default(network)

    def table(self, network: Network) -> int | None:
        """Where its route is; None: that is left to others."""
        if self._way == "off":
            return None
        if isinstance(self._way, int):
            return self._way
        return self._own if self.by_policy(network) else TABLE_MAIN

    def route(self, network: Network, interface: int) -> Route | None:
        """The route of a peer's network into the tunnel."""
        table = self.table(network)
        return None if table is None else Route(network, interface, table, _METRIC[network.version])

    def connected(self, address: Interface, interface: int) -> Route | None:
        """The route that comes with an address; None if that is the address alone."""
        if address.network.num_addresses == 1:
            return None
        source = address.ip if address.version == 4 else None
        return Route(address.network, interface, TABLE_MAIN, _CONNECTED_METRIC[address.version], source)

    def guard(self, network: Network) -> Route | None:
        """What takes the place of the route when that is gone; None without the kill switch."""
        if not self.kill_switch:
            return None
        return Route(network, None, self.table(network) or TABLE_MAIN, self.numbers.guard)

    def rules(
        self, networks: Iterable[Network], endpoints: Iterable[Endpoint] = (), listen_ports: Sequence[int] = ()
    ) -> tuple[Rule, ...]:
        """The rules for these networks while peers at these endpoints are dialled, and others dial this node at these
        ports, in the order in which they have to be made: nothing is drawn into the tunnel before what must stay
        outside is spared."""
        rules = []
        for version in sorted({network.version for network in networks if self.by_policy(network)}):
            first = self.numbers.priority
            if version == 4:  # not bound to lo: for such rules the kernel does not look at an arriving packet's ports
                spared = [endpoint for endpoint in endpoints if endpoint[0].version == 4]
                rules += [Rule(version, first, TABLE_MAIN, endpoint=endpoint) for endpoint in spared]
                if listen_ports:
                    # Where dialers are, nobody knows beforehand, but answers to them are from these ports. What is
                    # forwarded from such a port is others', so these rules are bound to lo; the one before them, which
                    # nothing needs, makes the kernel look at ports all the same.
                    rules.append(Rule(version, first, TABLE_MAIN, endpoint=(_HERE, listen_ports[0])))
                    rules += [Rule(version, first, TABLE_MAIN, own_port=port) for port in listen_ports]
            if self.lookup_uid is not None:
                rules.append(Rule(version, first, TABLE_MAIN, lookups_of=self.lookup_uid))
            rules.append(Rule(version, first + 1, TABLE_MAIN, suppressed=0))
            rules.append(Rule(version, first + 2, self._own, unmarked=self._own))
        return tuple(rules)
