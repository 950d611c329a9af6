"""Who may connect, and with which inner addresses. Default deny."""

from collections.abc import Callable, Iterable, Mapping
from functools import cached_property
from types import MappingProxyType

from cryprq.inner.leases import Leases
from cryprq.networks import Interface, Network, host_networks
from cryprq.peer_id import PeerId


class Allowlist:
    """The allowlist of one configuration; a reload makes a new one."""

    def __init__(
        self,
        entries: Mapping[PeerId, tuple[Network, ...]],
        *,
        dialled: Iterable[PeerId] = (),
        allow_any: bool = False,
        tunnel_networks: Iterable[Network] = (),
        leases: Leases | None = None,
        successors: Mapping[PeerId, PeerId] = MappingProxyType({}),
        is_here: Callable[[PeerId], bool] = lambda _: False,
    ) -> None:
        """``leases`` is None for a node that does not listen, which assigns no addresses; ``is_here`` says who has a
        session. Whom ``allow_any`` alone lets in is a guest: its address goes to another one when there is no other
        left and it is not here."""
        self._entries = entries
        self._allow_any = allow_any
        self._tunnel_networks = tuple(tunnel_networks)
        self._leases = leases
        self._successors = successors
        self._predecessors = {new: old for old, new in successors.items()}
        self._is_here = is_here
        self._by_hand = {network for networks in entries.values() for network in networks}
        self.dialled: frozenset[PeerId] = frozenset(dialled)
        """Peers that are allowed by being dialled."""

    @cached_property
    def pools(self) -> tuple[tuple[Network, int], ...]:
        """The networks that addresses are given from, and how many peers there is room for in each."""
        return () if self._leases is None else self._leases.pools(self._by_hand)

    def used(self, network: Network) -> int:
        """How many of these have an address."""
        return 0 if self._leases is None else self._leases.used(network, self.permits)

    @property
    def named(self) -> frozenset[PeerId]:
        """Every peer that is allowed by name or by being dialled (``--allow-any`` allows more)."""
        return self.dialled | self._entries.keys()

    def permits(self, peer: PeerId) -> bool:
        """Whether the peer may connect."""
        return self._allow_any or peer in self._entries or peer in self.dialled

    def networks_for(self, peer: PeerId) -> tuple[Network, ...]:
        """The peer's allowed IPs; empty for a peer that is not permitted.

        Those of its entry, if it has any; for a dialled peer, the networks of this node's tunnel addresses (a gateway
        may announce more); for any other, just the assigned addresses. LeaseError as from ``assignment_for``.
        """
        if not self.permits(peer):
            return ()
        if networks := self._entries.get(peer):
            return networks
        if peer in self.dialled:
            return self._tunnel_networks
        return host_networks(self.assignment_for(peer))

    def assignment_for(self, peer: PeerId) -> tuple[Interface, ...]:
        """The tunnel addresses to assign to the peer, the same across restarts; empty for a peer with networks of its
        own, for a dialled one, and where this node does not listen. LeaseError if a tunnel network is full."""
        if self._leases is None or not self.permits(peer) or self._entries.get(peer) or peer in self.dialled:
            return ()
        holder = self._successors.get(peer, peer)  # two IDs of one peer have one lease
        if (old := self._predecessors.get(holder)) is not None:
            self._leases.pass_on(old, holder)
        return self._leases.address_for(
            holder, avoid=self._by_hand, permitted=self.permits, absent_guest=self._is_absent_guest
        )

    def _is_absent_guest(self, peer: PeerId) -> bool:
        return peer not in self._entries and peer not in self.dialled and not self._is_here(peer)

    def difference(self, other: "Allowlist") -> set[PeerId]:
        """The named peers that this allowlist permits and ``other`` does not. (Peers that only ``--allow-any`` let in
        have no name here: ask ``permits`` about those that are connected.)"""
        return {peer for peer in self.named if not other.permits(peer)}
