"""Allowed IPs: which peer owns which inner network, and what a gateway may add to that."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import collapse_addresses, ip_network
from typing import NamedTuple

from cryprq.networks import Interface, Network, amounts_to_default, covering, overlapping, within
from cryprq.peer_id import PeerId

NEVER_ANNOUNCED: Sequence[Network] = tuple(
    ip_network(text)
    for text in (
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/4",
        "255.255.255.255/32",
        "::/127",
        "fe80::/10",
        "ff00::/8",
    )
)
"""Networks that mean something else on every host; nobody may draw them into a tunnel by announcing them."""

PRIVATE: Sequence[Network] = tuple(
    ip_network(text) for text in ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)
"""Networks that are nobody's on the Internet (RFC 1918, RFC 6598, RFC 4193): a gateway may announce all of them."""

MOST_PUBLIC: Mapping[int, int] = {4: 2**24, 6: 2**112}
"""How many other addresses one gateway may announce in all, by IP version: an IPv4 /8, an IPv6 /16. Many narrow routes
make a default route as well."""


def announced(routes: Iterable[Network]) -> tuple[Network, ...]:
    """The announced routes without the default routes, whole or in pieces: those need local configuration."""
    return tuple(route for route in routes if not amounts_to_default(route))


class Change(NamedTuple):
    """A network has another owner."""

    network: Network
    before: PeerId
    owner: PeerId


class AllowedIps:
    """The table of allowed IPs over all peers.

    A network belongs to one peer at a time. Others that claim the same one stand by, and ``elect`` gives it to one of
    them when its owner is not there. Peers may own networks within each other's, the longest prefix decides; what a
    gateway announces may not even do that (``refusal``). What a change costs depends on the peer, not on how many there
    are.
    """

    def __init__(self) -> None:
        self._claims: dict[PeerId, tuple[Network, ...]] = {}
        self._owner: dict[Network, PeerId] = {}
        self._standbys: dict[Network, list[PeerId]] = {}  # of networks that have some; the first claim first
        self._owned: dict[PeerId, tuple[Network, ...]] = {}
        self._moved: set[Network] = set()  # networks whose owner was another when ``told`` was called
        self._links: tuple[Network, ...] = ()
        self._beyond: set[Network] = set()  # the owned networks that no link covers
        self._crossed: set[Network] = set()  # what has become one of those since, or ceased to be one

    def claim(self, peer: PeerId, networks: Iterable[Network]) -> tuple[Network, ...]:
        """Gives ``peer`` these networks in place of what it had. Returns those that another peer owns, for which it
        stands by; what it owned and claims again it keeps."""
        wanted = tuple(dict.fromkeys(networks))
        self._give_up(peer, [network for network in self._claims.get(peer, ()) if network not in wanted])
        self._claims[peer] = wanted
        for network in wanted:
            owner = self._owner.get(network)
            if owner is None:
                self._give(network, peer)
            elif owner != peer and peer not in (waiting := self._standbys.setdefault(network, [])):
                waiting.append(peer)
        self._note(peer)
        return self.standing_by(peer)

    def release(self, peer: PeerId) -> None:
        """The peer owns nothing any more, and claims nothing."""
        self._give_up(peer, self._claims.pop(peer, ()))
        self._owned.pop(peer, None)

    def elect(
        self,
        present: Callable[[PeerId], bool],
        rank: Callable[[PeerId], int],
        succeeds: Callable[[PeerId, PeerId], bool] = lambda new, old: False,
    ) -> list[Change]:
        """Each network whose owner is not present goes to the claimant that is, the one of the least rank of several.
        Who has a network keeps it for as long as it is present, whoever comes back meanwhile, but for who ``succeeds``
        it."""
        changes = []
        for network, waiting in self._standbys.items():
            owner = self._owner[network]
            gone = not present(owner)
            there = [peer for peer in waiting if (gone or succeeds(peer, owner)) and present(peer)]
            if there:
                next_owner = min(there, key=rank)
                waiting[waiting.index(next_owner)] = owner
                self._give(network, next_owner)
                changes.append(Change(network, owner, next_owner))
        for peer in {peer for change in changes for peer in (change.before, change.owner)}:
            self._note(peer)
        return changes

    def of(self, peer: PeerId) -> tuple[Network, ...]:
        """What the peer owns."""
        return self._owned.get(peer, ())

    def claims(self, peer: PeerId) -> tuple[Network, ...]:
        """What the peer owns or stands by for."""
        return self._claims.get(peer, ())

    def standing_by(self, peer: PeerId) -> tuple[Network, ...]:
        """What the peer claims and another one owns."""
        return tuple(network for network in self._claims.get(peer, ()) if self._owner[network] != peer)

    def contested(self, peer: PeerId) -> bool:
        """Whether another peer stands by for a network that this one owns."""
        return bool(self._standbys) and any(network in self._standbys for network in self._owned.get(peer, ()))

    def _give(self, network: Network, owner: PeerId) -> None:
        self._owner[network] = owner
        self._moved.add(network)
        if network not in self._beyond and not self._is_covered(network):
            self._beyond.add(network)
            self._crossed ^= {network}

    def _give_up(self, peer: PeerId, networks: Iterable[Network]) -> None:
        for network in networks:
            waiting = self._standbys.get(network, [])
            if self._owner[network] != peer:
                waiting.remove(peer)
            elif waiting:
                self._give(network, waiting.pop(0))
                self._note(self._owner[network])
            else:
                del self._owner[network]
                self._moved.add(network)
                if network in self._beyond:
                    self._beyond.remove(network)
                    self._crossed ^= {network}
            if not waiting:
                self._standbys.pop(network, None)

    def _note(self, peer: PeerId) -> None:
        """What the peer owns has changed."""
        self._owned[peer] = tuple(network for network in self._claims[peer] if self._owner[network] == peer)

    def changes(self) -> list[tuple[Network, PeerId | None]]:
        """Since ``told`` was called: the networks that others own now, and who does."""
        return [(network, self._owner.get(network)) for network in self._moved]

    def interface_changes(self, connected: Iterable[Interface]) -> tuple[set[Network], set[Network]]:
        """Likewise the networks that need a route to the TUN now, and those that need none any more. One needs it that
        its addresses' networks don't cover."""
        links = tuple(address.network for address in connected)
        if links != self._links:
            self._links = links
            beyond = {network for network in self._owner if not self._is_covered(network)}
            self._crossed ^= beyond ^ self._beyond
            self._beyond = beyond
        return self._crossed & self._beyond, self._crossed - self._beyond

    def told(self) -> None:
        """Those changes are where they belong."""
        self._moved, self._crossed = set(), set()

    def beyond(self) -> frozenset[Network]:
        """All that need a route to the TUN."""
        return frozenset(self._beyond)

    def _is_covered(self, network: Network) -> bool:
        return any(within(network, link) for link in self._links)

    def refusal(
        self,
        peer: PeerId,
        addresses: Iterable[Interface],
        routes: Iterable[Network],
        endpoint: str,
        dialled: Collection[str] = (),
        shared: Collection[Network] = (),
    ) -> str | None:
        """Why what a gateway assigns and announces cannot be taken (one line), or None if it can.

        Refused are networks that overlap another peer's, that contain the gateway's own outer address (its records
        would be sent into the tunnel that they carry), another one at which it is dialled, or one of another gateway
        (which would lose its tunnel to this one), that have a meaning on every host, and what amounts to a default
        route. ``dialled`` has all of those. One of ``shared`` may be claimed by several, as it is.
        """
        others = [network for other, claims in self._claims.items() if other != peer for network in claims]
        networks = (*(address.network for address in addresses), *routes)
        for network in networks:
            if amounts_to_default(network):
                return f"the gateway assigns an address in {network}, which amounts to a default route"
            if covering((network,), endpoint) is not None:
                return f"the gateway announces {network}, which contains its own address {endpoint}"
            for host in dialled:
                if covering((network,), host) is not None:
                    return f"the gateway announces {network}, which contains the address {host} of a dialled peer"
            if (other := overlapping(network, NEVER_ANNOUNCED)) is not None:
                return f"the gateway announces {network}, which overlaps {other}"
            foreign = (other for other in others if other != network or network not in shared)
            if (other := overlapping(network, foreign)) is not None:
                return f"the gateway announces {network}, which overlaps {other} of another peer"
        for version, most in MOST_PUBLIC.items():
            if _public_addresses(networks, version) > most:
                return f"the gateway announces so many IPv{version} networks that they amount to a default route"
        return None


def _public_addresses(networks: Iterable[Network], version: int) -> int:
    """How many addresses of that IP version the networks have that are not private."""
    public = [n for n in networks if n.version == version and not any(within(n, private) for private in PRIVATE)]
    merged: Iterable[Network] = collapse_addresses(public)  # type: ignore[type-var]  # all of one version
    return sum(network.num_addresses for network in merged)
