"""The inner network of a node: the TUN's addresses and routes, and the table of allowed IPs, kept in step."""

from collections.abc import Callable, Collection, Sequence
from ipaddress import ip_network
from pathlib import Path
from typing import Final, Protocol

from cryprq.errors import MachineError
from cryprq.inner.allowed_ips import AllowedIps, announced
from cryprq.networks import Interface, Network
from cryprq.peer_id import PeerId
from cryprq.protocol.constants import MTU_MIN_IPV6
from cryprq.protocol.parameters import Parameters

_FORWARDING: Final = {4: "/proc/sys/net/ipv4/ip_forward", 6: "/proc/sys/net/ipv6/conf/all/forwarding"}
_SYSCTL: Final = {4: "net.ipv4.ip_forward", 6: "net.ipv6.conf.all.forwarding"}


class TunDevice(Protocol):
    """What the inner network needs of the device (``cryprq.linux.interface_state.InterfaceState``)."""

    def add_address(self, address: Interface) -> None: ...
    def remove_address(self, address: Interface) -> None: ...
    def change_routes(self, added: Collection[Network], removed: Collection[Network]) -> None: ...
    def set_mtu(self, mtu: int) -> None: ...


class RoutePlane(Protocol):
    """What the inner network needs of the data plane (``cryprq._fastpath.Plane``)."""

    def change_routes(self, changes: Sequence[tuple[Network, int | None]]) -> None: ...


class NetworkObserver(Protocol):
    """Who is told about the inner network (``cryprq.telemetry.reporter.Reporter``)."""

    def network_standby(self, peer_id: PeerId, networks: Sequence[Network]) -> None: ...
    def network_taken_over(self, peer_id: PeerId, networks: Sequence[Network], before: PeerId) -> None: ...
    def peer_succeeded(self, peer_id: PeerId, networks: Sequence[Network], before: PeerId) -> None: ...
    def other_address(self, peer_id: PeerId, assigned: Sequence[Network], own: Sequence[Interface]) -> None: ...
    def tunnel_addresses(self, peer_id: PeerId, addresses: Sequence[Interface]) -> None: ...
    def no_tunnel_address(self, peer_id: PeerId) -> None: ...
    def tunnel_mtu(self, mtu: int) -> None: ...
    def forwarding_off(self, sysctl: str) -> None: ...


class InnerNetwork:
    """Which inner addresses are this node's, and which are whose.

    Every change goes to the data plane and to the TUN's routes at once. Routes stay when a peer is down: its packets
    are dropped in the data plane, and never take another way.
    """

    def __init__(
        self, device: TunDevice, plane: RoutePlane, observer: NetworkObserver, addresses: Sequence[Interface], mtu: int
    ) -> None:
        """``addresses`` are the configured ones, which are on the device already."""
        self._device = device
        self._plane = plane
        self._observer = observer
        self._configured = tuple(addresses)
        self._assigned: dict[PeerId, tuple[Interface, ...]] = {}
        self._announced: dict[PeerId, tuple[Network, ...]] = {}
        self._mtus: dict[PeerId, int] = {}
        self._allowed = AllowedIps()
        self._handles: dict[PeerId, int] = {}
        self._forwarding_told: set[int] = set()
        self._configured_mtu = mtu
        self.mtu = mtu
        """The TUN's MTU: the configured one, or less if no gateway takes as much."""
        self._routes: frozenset[Network] | None = None

    @property
    def routes(self) -> frozenset[Network]:
        """The networks routed into the tunnel, besides those of its addresses; another object if they change."""
        if self._routes is None:
            self._routes = self._allowed.beyond()
        return self._routes

    @property
    def addresses(self) -> tuple[Interface, ...]:
        """What the TUN has: the configured addresses, or those that gateways assigned."""
        return self._configured + tuple(address for each in self._assigned.values() for address in each)

    def allowed(self, peer_id: PeerId) -> tuple[Network, ...]:
        """The peer's allowed IPs."""
        return self._allowed.of(peer_id)

    def claims(self, peer_id: PeerId) -> tuple[Network, ...]:
        """The same, and those for which it stands by: another peer owns them."""
        return self._allowed.claims(peer_id)

    def standing_by(self, peer_id: PeerId) -> tuple[Network, ...]:
        """Those for which it stands by alone."""
        return self._allowed.standing_by(peer_id)

    def contested(self, peer_id: PeerId) -> bool:
        """Whether another peer stands by for one of its allowed IPs."""
        return self._allowed.contested(peer_id)

    def elect(
        self,
        present: Callable[[PeerId], bool],
        rank: Callable[[PeerId], int],
        succeeds: Callable[[PeerId, PeerId], bool] = lambda new, old: False,
    ) -> None:
        """Networks whose owner is not present go to a peer that stands by for them and is (``AllowedIps.elect``)."""
        changes = self._allowed.elect(present, rank, succeeds)
        if changes:
            self._apply()
        for before, owner in dict.fromkeys((change.before, change.owner) for change in changes):
            networks = [change.network for change in changes if change[1:] == (before, owner)]
            if succeeds(owner, before) or succeeds(before, owner):
                self._observer.peer_succeeded(owner, networks, before)
            else:
                self._observer.network_taken_over(owner, networks, before)

    def assigned_by(self, peer_id: PeerId) -> tuple[Interface, ...]:
        """The addresses that this gateway assigned to this node."""
        return self._assigned.get(peer_id, ())

    def claim(self, peer_id: PeerId, handle: int, networks: Sequence[Network]) -> tuple[Network, ...]:
        """Makes ``networks`` the peer's allowed IPs. It stands by for what another peer owns: that is logged, and
        returned."""
        before = self._allowed.standing_by(peer_id)
        waiting = self._allowed.claim(peer_id, networks)
        self._handles[peer_id] = handle
        if waiting and waiting != before:
            self._observer.network_standby(peer_id, waiting)
        self._apply()
        return waiting

    def release(self, peer_id: PeerId) -> None:
        """The peer is no more: its allowed IPs, the routes to them and the addresses that it assigned go."""
        self._allowed.release(peer_id)
        self._handles.pop(peer_id, None)
        self._announced.pop(peer_id, None)
        self._mtus.pop(peer_id, None)
        self._set_mtu()
        self._assign(peer_id, ())
        self._apply()

    def dialled_networks(self, peer_id: PeerId) -> tuple[Network, ...]:
        """The allowed IPs of a dialled peer that has no CIDRs of its own: the networks of this node's TUN addresses
        (configured, or assigned by that peer) and what the peer announced, never a default route."""
        own = self._configured or self._assigned.get(peer_id, ())
        routes = self._announced.get(peer_id, ())
        return tuple(dict.fromkeys((*(address.network for address in own), *routes)))

    def take(
        self,
        peer_id: PeerId,
        handle: int,
        parameters: Parameters,
        endpoint: str,
        configured: Sequence[Network],
        dialled: Collection[str] = (),
    ) -> str | None:
        """Takes over what a gateway's M4 says. Returns None, or in one line why it is refused.

        ``endpoint`` is the gateway's outer address, ``dialled`` are all at which this node dials any peer.
        ``configured`` are the CIDRs that this node's own configuration gives the peer: they take the place of what the
        gateway announces. Assigned addresses are used where none is configured, and replace earlier ones. Where some
        are configured, gateways may announce the same network: one owns it, the others stand by.
        """
        addresses = () if self._configured else parameters.addresses
        routes = () if configured else announced(parameters.routes)
        mtu = self._configured_mtu if parameters.mtu is None else parameters.mtu
        others = (theirs for other, theirs in self._announced.items() if other != peer_id)
        # An address that one gateway assigned is of no use by way of another: only with one of its own can a node go
        # over from the one to the other.
        shared = {network for theirs in others for network in theirs} if self._configured else set()
        shared.update(address.network for address in self._configured)
        if (reason := self._allowed.refusal(peer_id, addresses, routes, endpoint, dialled, shared)) is not None:
            return reason
        if mtu < MTU_MIN_IPV6 and any(address.version == 6 for address in (*self._configured, *addresses)):
            return f"the gateway's MTU {mtu} is too small for IPv6 in the tunnel"
        clash = next((a for a in addresses for p, own in self._assigned.items() if p != peer_id and a in own), None)
        if clash is not None:
            return f"the gateway assigns {clash}, which another gateway has assigned"
        try:
            self._assign(peer_id, addresses)
            self._mtus[peer_id] = mtu
            self._set_mtu()
        except MachineError as error:
            return str(error)
        if not self.addresses:
            self._observer.no_tunnel_address(peer_id)
        own = {address.ip for address in self._configured}
        if foreign := [ip_network(a.ip) for a in parameters.addresses if self._configured and a.ip not in own]:
            self._observer.other_address(peer_id, foreign, self._configured)
        self._announced[peer_id] = routes
        self.claim(peer_id, handle, configured or self.dialled_networks(peer_id))
        return None

    def _assign(self, peer_id: PeerId, addresses: Sequence[Interface]) -> None:
        before = self._assigned.get(peer_id, ())
        if tuple(addresses) == before:
            return
        for address in before:
            if address not in addresses:
                self._device.remove_address(address)
        for address in addresses:
            self._device.add_address(address)
        if addresses:
            self._assigned[peer_id] = tuple(addresses)
        else:
            self._assigned.pop(peer_id, None)
        self._observer.tunnel_addresses(peer_id, addresses)

    def _set_mtu(self) -> None:
        # A peer that takes less than others is looked after by the data plane, packet by packet.
        mtu = min(self._configured_mtu, max(self._mtus.values(), default=self._configured_mtu))
        if mtu != self.mtu:
            self._device.set_mtu(mtu)
            self.mtu = mtu
            self._observer.tunnel_mtu(mtu)

    def _apply(self) -> None:
        """Tells plane and device what has changed. What either does not take is told again next time."""
        handles = self._handles
        changes = [
            (network, None if owner is None else handles.get(owner)) for network, owner in self._allowed.changes()
        ]
        added, removed = self._allowed.interface_changes(self.addresses)
        if changes:
            self._plane.change_routes(changes)
        if added or removed:
            self._routes = None
            self._device.change_routes(added, removed)
        self._allowed.told()

    def check_forwarding(self, networks: Sequence[Network]) -> None:
        """Says, once for each IP version, that packets to ``networks`` need forwarding where the kernel does none."""
        for version in {network.version for network in networks} - self._forwarding_told:
            if not _forwards(version):
                self._forwarding_told.add(version)
                self._observer.forwarding_off(_SYSCTL[version])


def _forwards(version: int) -> bool:
    try:
        return Path(_FORWARDING[version]).read_text().strip() != "0"
    except OSError:
        return True  # no way to know: say nothing
