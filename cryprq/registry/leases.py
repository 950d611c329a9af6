"""Which peer has which address in each tunnel network, and which one a peer would get: a table in memory.

The search begins at a place that the peer's ID gives, so that nodes which share a store, and give addresses at the same
time, hardly ever choose the same one, and a peer that comes back most often finds its old one free.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, collapse_addresses
from itertools import islice
from typing import Any, Final

from cryprq.errors import MachineError
from cryprq.networks import Interface, Network, covering, overlapping, within
from cryprq.peer_id import PeerId
from cryprq.registry.entries import InnerAddress, Lease

_Number = tuple[int, int]
"""An address as IP version and integer: far quicker to look up."""

LEASES_MAX: Final = 65_536
"""Peers that have a lease; as many as the data plane has room for. An IPv6 network has no bound of its own, and where
any peer is let in (``--allow-any``) a stranger could make one identity after the other."""


class LeaseError(MachineError):
    """There is no address for a peer: a network is full, or it cannot be written down; one line."""


class LeasePending(LeaseError):
    """There would be one, and it has yet to be written down."""


class Blocks:
    """Networks, asked whether an address is in one of them, whatever their number."""

    def __init__(self, networks: Iterable[Network] = ()) -> None:
        self.networks = frozenset(networks)
        self._starts: dict[tuple[int, int], set[int]] = {}
        for network in self.networks:
            spare = network.max_prefixlen - network.prefixlen
            self._starts.setdefault((network.version, spare), set()).add(int(network.network_address) >> spare)

    def last_of(self, version: int, number: int) -> int | None:
        """The last address of a block that this one is in, both as integers; None: it is in none."""
        for (theirs, spare), starts in self._starts.items():
            if theirs == version and number >> spare in starts:
                return (((number >> spare) + 1) << spare) - 1
        return None


def capacity(gateway: Interface, avoid: Iterable[Network]) -> int:
    """How many peers can have an address in the network of ``gateway``: every host but itself and what is inside
    ``avoid``."""
    network = gateway.network
    inside: Any = (block for block in avoid if overlapping(network, [block]) is not None)  # of one IP version, then
    blocks: list[Network] = list(collapse_addresses(inside))
    if any(within(network, block) for block in blocks):
        return 0
    never = {gateway.ip}
    if network.max_prefixlen - network.prefixlen >= 2:
        never.add(network.network_address)
        if network.version == 4:
            never.add(network.broadcast_address)
    never = {address for address in never if covering(blocks, str(address)) is None}
    return network.num_addresses - len(never) - sum(block.num_addresses for block in blocks)


@dataclass(frozen=True, slots=True)
class Choice:
    """What a peer is to be given."""

    addresses: tuple[InnerAddress, ...]
    reclaimed: frozenset[PeerId]
    """Whose leases are taken back for it."""


class LeaseTable:
    """Leases by peer and by address."""

    def __init__(self, gateways: Iterable[Interface]) -> None:
        """``gateways`` are the listener's own addresses, with the prefix lengths of the tunnel networks."""
        self._gateways = tuple(gateways)
        self._leases: dict[PeerId, Lease] = {}
        self._holders: dict[_Number, PeerId] = {}
        self._used: dict[PeerId, float] = {}
        self._promised: dict[_Number, PeerId] = {}
        self.avoid = Blocks()
        """What other peers were given by hand, none of which is given here."""

    def __len__(self) -> int:
        return len(self._leases)

    def __iter__(self) -> Iterator[PeerId]:
        return iter(tuple(self._leases))

    def get(self, peer: PeerId) -> Lease | None:
        """The peer's lease, whether it is of use or not."""
        return self._leases.get(peer)

    def record(self, peer: PeerId, lease: Lease | None) -> None:
        """The peer has this lease from now on; None: it has none."""
        before = self._leases.pop(peer, None)
        for number in _numbers(before):
            if self._holders.get(number) == peer:
                del self._holders[number]
        if lease is None:
            self._used.pop(peer, None)
            return
        self._leases[peer] = lease
        self._used[peer] = max(lease.used, self._used.get(peer, lease.used))
        for number in _numbers(lease):
            self._holders[number] = peer

    def note_use(self, peer: PeerId, now: float) -> None:
        """The peer needs its lease, if it has one."""
        if peer in self._leases:
            self._used[peer] = now

    def used_at(self, peer: PeerId) -> float:
        """When the peer last needed it; LookupError if it has none."""
        return self._used[peer]

    def usable(self, peer: PeerId) -> tuple[Interface, ...] | None:
        """The peer's address in every tunnel network, with the network's prefix length; None: it has to be given one,
        in one of them at least."""
        lease = self._leases.get(peer)
        if lease is None or len(lease.addresses) != len(self._gateways):
            return None
        found = []
        for gateway, address in zip(self._gateways, lease.addresses, strict=True):
            if not self._fits(address, gateway):
                return None
            make = IPv4Interface if address.version == 4 else IPv6Interface
            found.append(make((int(address), gateway.network.prefixlen)))  # of an address it would parse the text
        return tuple(found)

    def choose(
        self,
        peer: PeerId,
        *,
        permitted: Callable[[PeerId], bool] = lambda _: True,
        absent_guest: Callable[[PeerId], bool] = lambda _: False,
    ) -> Choice:
        """What the peer would be given: what it has, as far as that is of use, else what is free.

        A network that is full takes back the addresses of peers that are not ``permitted`` any more, and then that of
        the ``absent_guest`` that has not been here for the longest time. LeaseError if it is full.
        """
        lease = self._leases.get(peer)
        held = lease.addresses if lease is not None else ()
        chosen: list[InnerAddress] = []
        reclaimed: set[PeerId] = set()
        if not held and len(self._leases) >= LEASES_MAX:
            reclaimed = self._unused(peer, permitted) or set(islice(self._guests(peer, absent_guest), 1))
            if len(self._leases) - len(reclaimed) >= LEASES_MAX:
                raise LeaseError(f"no address for {peer}: {LEASES_MAX} peers have one")
        for gateway in self._gateways:
            mine = next((address for address in held if self._fits(address, gateway)), None)
            if mine is None:
                mine = self._free(gateway, peer, reclaimed)
            if mine is None:
                reclaimed |= self._unused(peer, permitted)
                mine = self._free(gateway, peer, reclaimed)
            if mine is None:
                guests = self._guests(peer, absent_guest)
                reclaimed |= set(islice((other for other in guests if self._holds(other, gateway.network)), 1))
                mine = self._free(gateway, peer, reclaimed)
            if mine is None:
                raise LeaseError(
                    f"no free address in {gateway.network} for {peer}: allow fewer peers or use a wider --tun-address"
                )
            chosen.append(mine)
        return Choice(tuple(chosen), frozenset(reclaimed))

    def promise(self, peer: PeerId, addresses: Iterable[InnerAddress]) -> None:
        """Nobody else is given these while they are written down; none: nothing is promised to it any more."""
        self._promised = {number: other for number, other in self._promised.items() if other != peer}
        self._promised |= dict.fromkeys(_pairs(addresses), peer)

    def pools(self) -> tuple[tuple[Network, int], ...]:
        """Each tunnel network, and how many peers can have an address there."""
        return tuple((gateway.network, capacity(gateway, self.avoid.networks)) for gateway in self._gateways)

    def used(self, network: Network, permitted: Callable[[PeerId], bool]) -> int:
        """How many peers that are ``permitted`` have an address in the network; the others give theirs back when it is
        needed."""
        return sum(self._holds(peer, network) for peer in self._leases if permitted(peer))

    def inside(self, networks: Collection[Network]) -> bool:
        """Whether any lease is in one of these."""
        blocks = Blocks(networks)
        return any(blocks.last_of(*number) is not None for number in self._holders)

    def _holds(self, peer: PeerId, network: Network) -> bool:
        addresses = self._leases[peer].addresses
        return any(address.version == network.version and address in network for address in addresses)

    def _guests(self, peer: PeerId, absent_guest: Callable[[PeerId], bool]) -> Iterator[PeerId]:
        """Those who have not been here for the longest time first."""
        order = sorted(self._leases, key=self._used.__getitem__)
        return (other for other in order if other != peer and absent_guest(other))

    def _unused(self, peer: PeerId, permitted: Callable[[PeerId], bool]) -> set[PeerId]:
        return {other for other in self._leases if other != peer and not permitted(other)}

    def _fits(self, address: InnerAddress, gateway: Interface) -> bool:
        network = gateway.network
        if address.version != network.version or address not in network:
            return False
        return self._is_host(int(address), gateway) and self.avoid.last_of(address.version, int(address)) is None

    def _is_host(self, number: int, gateway: Interface) -> bool:
        """Whether a host of the network can have it that is not this node."""
        network = gateway.network
        if any(network.version == own.version and number == int(own.ip) for own in self._gateways):
            return False
        if network.max_prefixlen - network.prefixlen < 2:
            return True  # RFC 3021 and RFC 6164: both addresses of a point-to-point network are hosts
        # IPv6 has no broadcast; its first address is the routers' anycast address (RFC 4291, 2.6.1).
        edges = (int(network.network_address), *([int(network.broadcast_address)] if network.version == 4 else []))
        return number not in edges

    def _free(self, gateway: Interface, peer: PeerId, reclaimed: Collection[PeerId]) -> InnerAddress | None:
        """The first free address from the peer's place on, going round at the end of the network."""
        network = gateway.network
        first, last = int(network.network_address), int(network.broadcast_address)
        begin = first + int.from_bytes(peer.digest[:16]) % network.num_addresses
        make = IPv4Address if network.version == 4 else IPv6Address
        for start, end in ((begin, last), (first, begin - 1)):
            number = start
            while number <= end:
                block = self.avoid.last_of(network.version, number)
                if block is not None:
                    number = block + 1  # a whole block at once: it may hold 2**64 addresses
                elif self._is_taken((network.version, number), peer, reclaimed) or not self._is_host(number, gateway):
                    number += 1
                else:
                    return make(number)
        return None

    def _is_taken(self, number: _Number, peer: PeerId, reclaimed: Collection[PeerId]) -> bool:
        holder = self._holders.get(number)
        return (holder is not None and holder not in reclaimed) or self._promised.get(number, peer) != peer


def _pairs(addresses: Iterable[InnerAddress]) -> Iterator[_Number]:
    return ((address.version, int(address)) for address in addresses)


def _numbers(lease: Lease | None) -> tuple[_Number, ...]:
    return () if lease is None else tuple(_pairs(lease.addresses))


def leases_fault(leases: Mapping[PeerId, Lease]) -> str | None:
    """What is wrong with all leases together: an address that two peers have; None: nothing."""
    seen: dict[InnerAddress, PeerId] = {}
    for peer, lease in leases.items():
        for address in lease.addresses:
            if seen.setdefault(address, peer) != peer:
                return f"{address} is given to {seen[address]} and to {peer}"
    return None
