"""Allowed IPs: which peer owns which inner network, and what a gateway may add to that."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import collapse_addresses, ip_network

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


class AllowedIps:
    """The table of allowed IPs over all peers.

    A network belongs to one peer. Peers may own networks within each other's, the longest prefix decides; what a
    gateway announces may not even do that (``refusal``). What a change costs depends on the peer, not on how many there
    are.
    """

    def __init__(self) -> None:
        self._owned: dict[PeerId, tuple[Network, ...]] = {}
        self._owner: dict[Network, PeerId] = {}
        self._texts: dict[PeerId, tuple[str, ...]] = {}
        self._links: tuple[Network, ...] = ()
        self._beyond: set[Network] = set()  # the owned networks that no link covers

    def claim(self, peer: PeerId, networks: Iterable[Network]) -> tuple[Network, ...]:
        """Gives ``peer`` these networks in place of what it had. Returns those that another peer owns already and
        that it therefore did not get."""
        self.release(peer)
        wanted = tuple(dict.fromkeys(networks))
        owned = tuple(network for network in wanted if network not in self._owner)
        refused = tuple(network for network in wanted if network in self._owner)
        self._owned[peer] = owned
        self._texts[peer] = tuple(map(str, owned))
        self._owner.update(dict.fromkeys(owned, peer))
        self._beyond.update(self._not_covered(owned))
        return refused

    def release(self, peer: PeerId) -> None:
        """The peer owns nothing any more."""
        for network in self._owned.pop(peer, ()):
            del self._owner[network]
            self._beyond.discard(network)
        self._texts.pop(peer, None)

    def of(self, peer: PeerId) -> tuple[Network, ...]:
        """What the peer owns."""
        return self._owned.get(peer, ())

    def routes(self, handles: Mapping[PeerId, int]) -> list[tuple[str, int]]:
        """The table as the data plane takes it: ``(cidr, peer handle)``; peers without a handle are left out."""
        known = [(handles[peer], texts) for peer, texts in self._texts.items() if peer in handles]
        return [(text, handle) for handle, texts in known for text in texts]

    def interface_routes(self, connected: Iterable[Interface]) -> set[Network]:
        """The networks that need a route to the TUN: all that its own addresses' networks don't cover."""
        links = tuple(address.network for address in connected)
        if links != self._links:
            self._links = links
            self._beyond = self._not_covered(self._owner)
        return set(self._beyond)

    def _not_covered(self, networks: Iterable[Network]) -> set[Network]:
        return {network for network in networks if not any(within(network, link) for link in self._links)}

    def refusal(
        self,
        peer: PeerId,
        addresses: Iterable[Interface],
        routes: Iterable[Network],
        endpoint: str,
        dialled: Collection[str] = (),
    ) -> str | None:
        """Why what a gateway assigns and announces cannot be taken (one line), or None if it can.

        Refused are networks that overlap another peer's, that contain the gateway's own outer address (its records
        would be sent into the tunnel that they carry), another one at which it is dialled, or one of another gateway
        (which would lose its tunnel to this one), that have a meaning on every host, and what amounts to a default
        route. ``dialled`` has all of those.
        """
        others = [network for owner, owned in self._owned.items() if owner != peer for network in owned]
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
            if (other := overlapping(network, others)) is not None:
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
