"""Who may connect, with which networks, and who is dialled, as configuration and registry have it. Both change it."""

from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Protocol

from cryprq.address import Address
from cryprq.config.node_config import NodeConfig
from cryprq.errors import ConfigError, MachineError
from cryprq.inner.network import InnerNetwork
from cryprq.multiaddr import Multiaddr
from cryprq.networks import Network
from cryprq.peer_id import PeerId
from cryprq.peers.dialer import REDIAL_FAST_INTERVAL, Attempt, Dialer, DialObserver, DialSchedule
from cryprq.peers.peer import Peer
from cryprq.peers.resolver import Resolver
from cryprq.peers.table import PeerTable
from cryprq.protocol.clock import Boottime
from cryprq.protocol.frames import CloseCode
from cryprq.protocol.parameters import Parameters
from cryprq.registry.entries import PeerEntry, Source
from cryprq.registry.fleet import Declaration, Fleet
from cryprq.registry.leases import LeasePending


class RosterObserver(DialObserver, Protocol):
    """Who is told (``cryprq.telemetry.reporter.Reporter``)."""

    def peer_misplaced(self, peer_id: PeerId, error: str) -> None: ...
    def internal_error(self, error: Exception, *, peer_id: PeerId) -> None: ...


def declaration_of(config: NodeConfig) -> Declaration:
    """What a configuration says of peers."""
    origin = "--allow-peer" if config.config_file is None else f"--allow-peer or {config.config_file}"
    return Declaration(
        peers={
            peer_id: PeerEntry(
                peer_id=peer_id,
                networks=networks,
                successor=config.successors.get(peer_id),
                source=Source.CONFIG,
                origin=origin,
            )
            for peer_id, networks in config.allow_peers.items()
        },
        dialled=frozenset(peer.peer_id for peer in config.peers if peer.peer_id is not None),
        allow_any=config.allow_any,
        tunnel_networks=tuple(interface.network for interface in config.tun_addresses),
        lease_days=config.lease_days,
    )


@dataclass(frozen=True)
class Changes:
    """What is otherwise now for the peers that are named."""

    added: frozenset[PeerId]
    """They may connect now."""
    removed: frozenset[PeerId]
    """They may not any more."""
    changed: frozenset[PeerId]
    """Other networks, or dialled at another address, or no longer, or now."""


def _dialled(config: NodeConfig) -> dict[PeerId, tuple[Multiaddr, ...]]:
    """Who is dialled, and where: the preferred address first."""
    found: dict[PeerId, tuple[Multiaddr, ...]] = {}
    for target in config.peers:
        if target.peer_id is not None:
            found[target.peer_id] = (*found.get(target.peer_id, ()), target)
    return found


class Roster:
    """Keeps peers and dialers as the configuration in force and the registry have them."""

    def __init__(
        self,
        config: NodeConfig,
        own_id: PeerId,
        fleet: Fleet,
        *,
        peers: PeerTable,
        network: InnerNetwork,
        resolver: Resolver,
        connect: Callable[[Dialer, Peer, Address, float], Attempt],
        unanswered: Callable[[Boottime], None],
        observer: RosterObserver,
    ) -> None:
        """``connect`` and ``unanswered`` as for ``Dialer``. ConfigError if the configuration names this node itself."""
        _refuse_own_id(config, own_id)
        self.config = config
        self.fleet = fleet
        fleet.is_here = self._is_here
        self._own_id = own_id
        self._peers = peers
        self._network = network
        self._resolver = resolver
        self._connect = connect
        self._unanswered = unanswered
        self._observer = observer
        self._dialers: dict[PeerId, Dialer] = {}
        self._rank: dict[PeerId, int] = {}
        self._told = {peer_id: said for peer_id in fleet.named if (said := self._said(peer_id)) is not None}

    # ---- questions ----

    def permits(self, peer_id: PeerId) -> bool:
        """Whether the peer may have a session."""
        return self.fleet.permits(peer_id)

    def networks(self, peer_id: PeerId) -> tuple[Network, ...]:
        """The allowed IPs that a peer is to have now. LeaseError where there is no address for it."""
        if not self.fleet.by_hand(peer_id) and peer_id in self.fleet.dialled:
            return self._network.dialled_networks(peer_id)
        return self.fleet.networks(peer_id)

    def obtain(self, peer_id: PeerId) -> Peer:
        """The peer of an ID that is permitted, with its networks. LeaseError where there is no address for it."""
        return self._peers.obtain(peer_id, self.networks(peer_id))

    def gives_addresses(self) -> bool:
        """Whether this node has to give an address to any peer that may come."""
        fleet = self.fleet
        asking = (peer_id for peer_id, entry in fleet.entries.items() if not entry.networks)
        return self.config.allow_any or any(peer_id not in fleet.dialled for peer_id in asking)

    def leased_to(self, peer_id: PeerId) -> tuple[str, ...]:
        """The tunnel addresses that this node has given the peer."""
        if self.fleet.by_hand(peer_id) or peer_id in self.fleet.dialled:
            return ()
        return tuple(str(network.network_address) for network in self._network.allowed(peer_id))

    def take(self, peer: Peer, parameters: Parameters, remote: Address) -> str | None:
        """A gateway's M4: what is wrong with it, or None if it is taken over (``InnerNetwork.take``)."""
        configured = self.fleet.by_hand(peer.peer_id)
        dialled = {address.host for target in self.config.peers for address in self._resolver.known(target)}
        return self._network.take(peer.peer_id, peer.handle, parameters, remote.host, configured, dialled)

    def _is_here(self, peer_id: PeerId) -> bool:
        return self._peers.get(peer_id) is not None

    # ---- changes ----

    def change(self, config: NodeConfig, now: Boottime) -> Changes:
        """Goes over to another configuration: who is not permitted any more is cut off. ConfigError, with nothing
        changed."""
        _refuse_own_id(config, self._own_id)
        self.config = config
        self.fleet.declare(declaration_of(config))
        self.apply(now)
        return self._tell({*self._told, *self.fleet.named})

    def revise(self, peers: Collection[PeerId], now: Boottime) -> Changes:
        """Something else is known of these, and of nobody else."""
        changes = self._tell(peers)
        for peer_id in peers:
            if not self.permits(peer_id):
                self._peers.remove(peer_id, CloseCode.REFUSED, now)
        given = {network for peer_id in peers for network in self.fleet.by_hand(peer_id)}
        if self.fleet.dialled.isdisjoint(peers) and not self.fleet.has_leases_in(given):
            for peer_id in peers:
                self._rank.setdefault(peer_id, len(self._rank))
            self._settle(peers, now)
        else:
            self.apply(now)
        return changes

    def _tell(self, peers: Iterable[PeerId]) -> Changes:
        before, after = self._told, {peer_id: self._said(peer_id) for peer_id in peers}
        found = Changes(
            frozenset(i for i, said in after.items() if said is not None and i not in before),
            frozenset(i for i, said in after.items() if said is None and i in before),
            frozenset(i for i, said in after.items() if said is not None and i in before and said != before[i]),
        )
        for peer_id, said in after.items():
            if said is None:
                before.pop(peer_id, None)
            else:
                before[peer_id] = said
        return found

    def _said(self, peer_id: PeerId) -> tuple[object, ...] | None:
        """What is said of a peer that is named; None: it may not connect, or nothing is."""
        if peer_id not in self.fleet.named or not self.permits(peer_id):
            return None
        dialled = tuple(target for target in self.config.peers if target.peer_id == peer_id)
        return frozenset(self.fleet.by_hand(peer_id)), dialled

    def apply(self, now: Boottime) -> None:
        """Makes peers and dialers what configuration and registry say."""
        for known in self._peers:
            if not self.permits(known.peer_id):
                self._peers.remove(known.peer_id, CloseCode.REFUSED, now)
        wanted = _dialled(self.config)
        for peer_id in [known for known, dialer in self._dialers.items() if dialer.multiaddrs != wanted.get(known)]:
            self._dialers.pop(peer_id).stop()
        named = dict.fromkeys((*wanted, *self.fleet.entries))
        self._rank = {peer_id: at for at, peer_id in enumerate(named)}
        self._settle(dict.fromkeys((*named, *(known.peer_id for known in self._peers))), now)
        for peer_id, multiaddrs in wanted.items():
            peer = self._peers.get(peer_id)
            if peer is not None and peer_id not in self._dialers:
                self._dialers[peer_id] = Dialer(
                    peer,
                    multiaddrs,
                    DialSchedule(self.config.backoff_base_ms / 1000, self.config.backoff_max_ms / 1000),
                    addresses=self._resolver.addresses,
                    resolve_error=self._resolver.error,
                    connect=self._dial,
                    unanswered=self._unanswered,
                    observer=self._observer,
                )

    def _settle(self, peers: Collection[PeerId], now: Boottime) -> None:
        """Gives these the networks that they are to have, the first of them first."""
        known = [peer for peer_id in peers if (peer := self._peers.get(peer_id)) is not None]
        leased = {peer.peer_id: self.leased_to(peer.peer_id) for peer in known}
        self._give_up_networks(known)
        for peer_id in peers:
            # Whoever gets an address gets it when it comes; the others have their place from the start.
            if self._peers.get(peer_id) or self.fleet.by_hand(peer_id) or peer_id in self.fleet.dialled:
                self._place(peer_id, now)
        for peer_id, addresses in leased.items():
            peer = self._peers.get(peer_id)
            if peer is not None and addresses and self.leased_to(peer_id) != addresses:
                peer.close(CloseCode.OK, "address_changed", now)  # it dials again, and is told the new one

    def _give_up_networks(self, peers: Iterable[Peer]) -> None:
        """They lose what they are not to have any more before others get it."""
        for peer in peers:
            kept = set(self._network.claims(peer.peer_id))
            with suppress(MachineError):  # ``_place`` meets it again
                self._peers.obtain(peer.peer_id, tuple(kept.intersection(self._networks_now(peer.peer_id))))

    def _networks_now(self, peer_id: PeerId) -> tuple[Network, ...]:
        """As ``networks``; of a peer that has yet to be given another address, none: it is given one when it comes."""
        try:
            return self.networks(peer_id)
        except LeasePending:
            return ()

    def _place(self, peer_id: PeerId, now: Boottime) -> None:
        if not self.permits(peer_id):
            return
        try:
            self._peers.obtain(peer_id, self._networks_now(peer_id))
        except MachineError as error:  # there is no address for it any more
            self._observer.peer_misplaced(peer_id, str(error))
            self._peers.remove(peer_id, CloseCode.REFUSED, now)
            if (dialer := self._dialers.pop(peer_id, None)) is not None:
                dialer.stop()  # it would go on dialling for a peer that is no more

    def forget_idle(self, now: Boottime) -> None:
        """Peers that only --allow-any let in leave the table when their last session is over."""
        for peer in self._peers:
            if peer.idle and peer.peer_id not in self.fleet.named:
                self._peers.remove(peer.peer_id, CloseCode.OK, now)

    def elect(self) -> None:
        """Networks of peers that are not there go to those that stand by for them: of several, to the one that the
        configuration names first. A successor has them as soon as it is there."""
        self._network.elect(
            self._peers.present, lambda peer_id: self._rank.get(peer_id, len(self._rank)), self._succeeds
        )

    def _succeeds(self, new: PeerId, old: PeerId) -> bool:
        return self.fleet.successors.get(old) == new

    # ---- dialling ----

    def poll(self, now: Boottime) -> Boottime | None:
        """Dials whoever is due; returns when to call again at the latest."""
        times = [self._poll_one(dialer, now) for dialer in tuple(self._dialers.values())]
        return min((at for at in times if at is not None), default=None)

    def hurry(self, now: Boottime) -> None:
        """There is a new way to elsewhere: who is to be dialled is dialled, and who is there is asked whether it is
        still heard, and sees where this node is now."""
        for dialer in self._dialers.values():
            dialer.hurry(now)
        for peer in self._peers:
            peer.check(now)

    def dialled_hosts(self) -> set[bytes]:
        """The packed addresses at which peers are dialled, as far as they are known."""
        targets = (multiaddr for dialer in self._dialers.values() for multiaddr in dialer.multiaddrs)
        return {ip_address(address.host).packed for target in targets for address in self._resolver.known(target)}

    def _poll_one(self, dialer: Dialer, now: Boottime) -> Boottime | None:
        try:
            return dialer.poll(now)
        except Exception as error:  # a fault with one peer must not keep the others from being dialled
            self._observer.internal_error(error, peer_id=dialer.target.peer_id)
            return Boottime(now + REDIAL_FAST_INTERVAL)

    def stop(self) -> None:
        """Nobody is dialled any more."""
        for dialer in self._dialers.values():
            dialer.stop()

    def _dial(self, dialer: Dialer, remote: Address, timeout: float) -> Attempt:
        return self._connect(dialer, self.obtain(dialer.target.peer_id), remote, timeout)


def _refuse_own_id(config: NodeConfig, own: PeerId) -> None:
    if own in config.allow_peers or any(peer.peer_id == own for peer in config.peers):
        raise ConfigError(f"{own} is this node's own peer ID; name other nodes in --peer and --allow-peer")
