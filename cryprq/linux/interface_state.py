"""What the TUN is to have: up, with its MTU, addresses, routes, rules. Kept, not assumed.

Others change the same things: network managers, scripts, people. ``compare`` holds what is wanted against what the
kernel has, puts back what is missing, and remembers what could not be put back, which is tried again each time.

A device that was moved into another network namespace is its mover's to configure; here it is left alone until it is
back. A network that this host has elsewhere is not taken from it, however much a peer owns it.
"""

import errno
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from typing import Final, NamedTuple, Protocol

from cryprq.errors import MachineError
from cryprq.linux.netlink import NetlinkError
from cryprq.linux.route_plan import Endpoint, Numbers, RoutePlan
from cryprq.linux.rtnetlink import PROTOCOL, TABLE_MAIN, Held, Link, Route, RtNetlink, Rule
from cryprq.networks import Interface, Network, within

_ABSENT: Final = (errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL, errno.ENOENT)
_ENDPOINTS_MAX: Final = 64  # those dialled last; a name may yield ever new ones
_MTU_IPV6: Final = 1280  # RFC 8200; below it the kernel takes IPv6 off the interface


class Part(NamedTuple):
    """One thing that the kernel is to have."""

    kind: str
    """``link``, ``address``, ``route``, ``guard`` (an unreachable route of the kill switch) or ``rule``."""
    what: str
    """``up``, ``mtu 1420``, a network, an address, a rule as ``ip rule`` shows it."""


class Device(Protocol):
    """What is needed of the TUN (``cryprq.linux.tun.Tun``)."""

    @property
    def index(self) -> int: ...
    @property
    def mtu(self) -> int: ...
    def name_now(self) -> str | None: ...


class StateObserver(Protocol):
    """Who is told (``cryprq.telemetry.reporter.Reporter``)."""

    def part_restored(self, kind: str, what: str) -> None: ...
    def part_failed(self, kind: str, what: str, error: str) -> None: ...
    def network_overlaps(self, network: Network, local: Network, interface: str) -> None: ...
    def tun_renamed(self, name: str) -> None: ...
    def tun_moved(self, *, away: bool) -> None: ...


class InterfaceState:
    """The wanted state of one TUN, and how the kernel's differs from it.

    Setters act at once and raise MachineError where the caller can do something about it; a route or rule that cannot
    be added is a fault that ``faults`` has until it can.
    """

    def __init__(self, device: Device, plan: RoutePlan, kernel: RtNetlink | None = None) -> None:
        self.observer: StateObserver | None = None
        """Who is told; nobody yet."""
        self.before_rules: Callable[[int], None] = lambda mark: None
        """Called with the mark that exempts the node's own packets, before rules need it."""
        self.release = False
        """Whether ``close`` takes the kill switch away too."""
        self._device = device
        self._plan = plan
        self._kernel = RtNetlink() if kernel is None else kernel
        self._name = device.name_now() or ""
        self._up = False
        self._mtu = device.mtu
        self._addresses: list[Interface] = []
        self._networks: set[Network] = set()
        self._by_policy: set[Network] = set()
        self._rules: tuple[Rule, ...] = ()
        self._endpoints: dict[Endpoint, None] = {}
        self._listen_ports: tuple[int, ...] = ()
        self._locals: dict[Network, int] = {}
        self._told_overlaps: set[tuple[Network, Network]] = set()
        self._faults: dict[Part, str] = {}
        self._told_faults: dict[Part, str] = {}
        self._away = False
        self._closed = False

    # ---- questions ----

    @property
    def index(self) -> int:
        """The interface's."""
        return self._device.index

    @property
    def name(self) -> str:
        """What the interface is called now."""
        return self._name

    @property
    def faults(self) -> Mapping[Part, str]:
        """What is missing, and why, as of the last look."""
        return dict(self._faults)

    @property
    def routes_missing(self) -> int:
        """How many routes the last look found missing and could not put back."""
        return sum(part.kind in ("route", "guard") for part in self._faults)

    @property
    def addresses(self) -> tuple[Interface, ...]:
        """The addresses that are wanted, in order."""
        return tuple(self._addresses)

    @property
    def networks(self) -> frozenset[Network]:
        """The peers' networks that are to be routed into the tunnel."""
        return frozenset(self._networks)

    @property
    def lookup_uid(self) -> int | None:
        """Whose sockets reach name servers beside the tunnel; None: nobody's need to."""
        return self._plan.lookup_uid if self._rules else None

    @property
    def diverts(self) -> bool:
        """Whether rules lead what this host sends into the tunnel, unless it is spared."""
        return bool(self._rules)

    def failure(self) -> str | None:
        """Why packets do not go where they should, in one line; None: they do."""
        if not self._faults:
            return None
        part, reason = next(iter(self._faults.items()))
        more = f" (and {len(self._faults) - 1} more)" if len(self._faults) > 1 else ""
        return f"{part.kind} {part.what} is missing: {reason}{more}"

    # ---- what is wanted ----

    def begin(self) -> None:
        """Looks at what is there: this host's networks, and what an earlier run with this TUN left behind. Without the
        kill switch that goes; with it, it stays until its place is taken (``settle``). Raises MachineError, also where
        another node's TUN has a name that gives the same numbers."""
        self._do(self._look_around, "cannot read this host's networks and routes")

    def _look_around(self) -> None:
        self._locals = self._local_networks(self._kernel.addresses())
        refuse_namesake(self._kernel, self._name)
        if not self._plan.kill_switch:
            remove_leftovers(self._kernel, self._plan.numbers)

    def settle(self) -> None:
        """The configured networks are known: what an earlier run left for others, that would draw everything into the
        tunnel, goes. Networks that a gateway has yet to announce stay blocked. Raises MachineError."""
        self._do(self._remove_stale, "cannot read this host's rules")

    def _remove_stale(self) -> None:
        for rule in tuple(self._kernel.rules()):
            if self._plan.numbers.owns_rule(rule) and rule not in self._rules:
                self._without(partial(self._kernel.remove_rule, rule), "remove a rule")
        for guard in tuple(self._kernel.routes(protocol=PROTOCOL)):
            stale = self._plan.by_policy(guard.network) and guard.network not in self._by_policy
            if stale and self._plan.numbers.owns_guard(guard):
                self._without(partial(self._kernel.remove_route, guard), "remove a route")

    def up(self) -> None:
        """Brings the interface up. Raises MachineError."""
        self._do(partial(self._kernel.set_link, self._device.index, up=True), "cannot bring it up")
        self._up = True

    def set_mtu(self, mtu: int) -> None:
        """Lowers the MTU, or raises it again up to what the device was opened with, which is what the readers' buffers
        and the bound on super-packets were made for. Raises MachineError."""
        mtu = min(mtu, self._device.mtu)
        self._do(partial(self._kernel.set_link, self._device.index, mtu=mtu), f"cannot set MTU {mtu}")
        self._faults.pop(Part("link", f"mtu {self._mtu}"), None)
        self._mtu = mtu

    def add_address(self, address: Interface) -> None:
        """Adds an address; its network is routed into the tunnel from then on. A second time changes nothing.

        Raises MachineError; then it is not wanted."""
        if address in self._addresses:
            return
        hints = _ipv6_hints(self._name) if address.version == 6 else {}
        add = partial(self._kernel.add_address, self._device.index, address)
        self._do(add, f"cannot add address {address}", hints)
        self._addresses.append(address)
        self._warn_of_overlaps([address.network])
        self._add_guard(address.network)
        self._tell_faults()

    def remove_address(self, address: Interface) -> None:
        """Removes an address and the route of its network; what is not there is none to remove."""
        if address not in self._addresses:
            return
        self._addresses.remove(address)
        self._faults.pop(Part("address", str(address)), None)
        self._faults.pop(Part("route", str(address.network)), None)
        remove = partial(self._kernel.remove_address, self._device.index, address)
        self._without(remove, f"remove address {address}")
        self._remove_guard(address.network)

    def set_routes(self, networks: Collection[Network]) -> None:
        """Routes these networks into the tunnel and no others, but for those of its addresses. A route that the kernel
        does not take is tried again at each ``compare``. Raises MachineError only where one cannot be removed."""
        wanted = set(networks)
        self.change_routes(wanted - self._networks, self._networks - wanted)

    def change_routes(self, added: Collection[Network], removed: Collection[Network]) -> None:
        """Likewise: some more, and some no longer."""
        added = sorted(added, key=_narrowest_first)
        self._networks.update(added)
        self._networks.difference_update(removed)
        self._by_policy.difference_update(removed)
        self._by_policy.update(network for network in added if self._plan.by_policy(network))
        self._warn_of_overlaps(added)
        for network in removed:
            self._remove_route(network)
        for network in added:
            self._add_guard(network)
            self._add_route(network)
        self._set_rules()
        self._tell_faults()

    def listens(self, ports: Iterable[int]) -> None:
        """Peers dial this node there: answers to them are outside the tunnel, whatever networks they have. Raises
        MachineError."""
        self._listen_ports = tuple(dict.fromkeys(ports))
        self._set_rules()
        self._tell_faults()

    def spare(self, host: str, port: int) -> None:
        """A peer is dialled there: the way to it is outside the tunnel, whatever networks it has. MachineError."""
        endpoint = ip_address(host.partition("%")[0]), port
        self._endpoints.pop(endpoint, None)
        self._endpoints[endpoint] = None
        while len(self._endpoints) > _ENDPOINTS_MAX:
            self._endpoints.pop(next(iter(self._endpoints)))
        self._set_rules()
        self._tell_faults()

    def close(self) -> None:
        """Ends the keeping. Rules go, unless the kill switch needs them; routes go with the device. Idempotent."""
        if self._closed:
            return
        self._closed = True
        try:
            if self.release or not self._plan.kill_switch:
                remove_leftovers(self._kernel, self._plan.numbers)
        finally:
            self._kernel.close()

    # ---- comparing ----

    def compare(self) -> None:
        """Reads what the kernel has and puts back what is missing. OSError if it cannot be read: then nothing is known,
        and what was known stays."""
        if self._closed:
            return
        try:
            self._look_after_device()
            self._keep_rules()
            self._keep_guards()
        finally:
            self._tell_faults()

    def _look_after_device(self) -> None:
        name = self._device.name_now()
        if name is None:
            return  # it was removed: the machine's failure, nothing to mend
        if name != self._name:
            self._name = name
            self._tell(lambda observer: observer.tun_renamed(name))
        link = self._kernel.link(self._device.index)
        away = link is None or link.name != name
        if away != self._away:
            self._away = away
            self._tell(lambda observer: observer.tun_moved(away=away))
        if link is None or away:
            self._faults = {part: why for part, why in self._faults.items() if part.kind in ("rule", "guard")}
            return
        self._keep_link(link)
        held = tuple(self._kernel.addresses())
        self._see_locals(self._local_networks(held))
        self._keep_addresses({each.address for each in held if each.interface == self._device.index})
        self._keep_routes()

    def _see_locals(self, found: dict[Network, int]) -> None:
        if found != self._locals:
            self._locals = found
            self._warn_of_overlaps([*(address.network for address in self._addresses), *self._networks])

    def _keep_link(self, link: Link) -> None:
        index = self._device.index
        if link.mtu < _MTU_IPV6 <= self._mtu and link.up:
            # IPv6 was taken off and begins anew: while the link is down, or the kernel gives it a link-local address.
            self._kernel.set_link(index, up=False)
            link = replace(link, up=False)
        mtu = partial(self._kernel.set_link, index, mtu=self._mtu)
        self._keep(Part("link", f"mtu {self._mtu}"), link.mtu == self._mtu, mtu)
        if link.mtu < _MTU_IPV6 <= self._mtu:
            try:
                self._kernel.set_no_link_local(index)
            except NetlinkError:
                pass  # a kernel without IPv6
        self._keep(Part("link", "up"), link.up or not self._up, partial(self._kernel.set_link, index, up=True))

    def _keep_addresses(self, present: Collection[Interface]) -> None:
        for address in self._addresses:
            add = partial(self._kernel.add_address, self._device.index, address)
            hints = _ipv6_hints(self._name) if address.version == 6 else {}
            self._keep(Part("address", str(address)), address in present, add, hints)

    def _keep_routes(self) -> None:
        present: dict[tuple[Network, int], int] = {}
        for route in self._kernel.routes(interface=self._device.index):
            key = route.network, route.table
            present[key] = min(route.metric, present.get(key, route.metric))
        for route in self._wanted_routes():
            part = Part("route", str(route.network))
            metric = present.get((route.network, route.table))
            if (local := self._local(route)) is not None:
                self._faults[part] = local
                if metric is not None and route.network in self._networks:
                    self._without(partial(self._kernel.remove_route, route), f"remove route {route.network}")
            else:
                there = metric is not None and metric <= route.metric
                self._keep(part, there, partial(self._kernel.add_route, route), _route_hints(route))

    def _wanted_routes(self) -> Iterator[Route]:
        """Those of the addresses, then those to peers. (The narrowest first: no packet takes a wider way meanwhile.)"""
        routes = [self._plan.connected(address, self._device.index) for address in self._addresses]
        for network in sorted(self._networks, key=_narrowest_first):
            if not self._is_own(network):
                routes.append(self._plan.route(network, self._device.index))
        return (route for route in routes if route is not None)

    def _keep_rules(self) -> None:
        if self._rules:
            present = set(self._kernel.rules())
            for rule in self._rules:
                self._keep(Part("rule", _shown(rule)), rule in present, partial(self._kernel.add_rule, rule))

    def _keep_guards(self) -> None:
        guards = [guard for network in self._guarded() if (guard := self._plan.guard(network)) is not None]
        if guards:
            present = set(self._kernel.routes(protocol=PROTOCOL))
            for guard in guards:
                part = Part("guard", str(guard.network))
                self._keep(part, guard in present, partial(self._kernel.add_route, guard))

    def _keep(
        self, part: Part, there: bool, put: Callable[[], None], hints: Mapping[int | None, str] | None = None
    ) -> None:
        """Puts a part back if it is not there, and tells of it; what cannot be put back is a fault."""
        if there:
            self._faults.pop(part, None)
        elif self._put(part, put, hints):
            self._tell(lambda observer: observer.part_restored(part.kind, part.what))

    def _put(self, part: Part, put: Callable[[], None], hints: Mapping[int | None, str] | None = None) -> bool:
        try:
            put()
        except NetlinkError as error:
            self._faults[part] = f"{error.strerror}{(hints or {}).get(error.errno, '')}"
            return False
        self._faults.pop(part, None)
        return True

    # ---- routes, rules and guards that are wanted from now on ----

    def _add_route(self, network: Network) -> None:
        route = self._plan.route(network, self._device.index)
        if route is None or self._is_own(network) or self._away:
            return
        part = Part("route", str(network))
        if (local := self._local(route)) is not None:
            self._faults[part] = local
        else:
            self._put(part, partial(self._kernel.add_route, route), _route_hints(route))

    def _remove_route(self, network: Network) -> None:
        route = self._plan.route(network, self._device.index)
        failed = self._faults.pop(Part("route", str(network)), None) is not None
        if route is not None and not failed and not self._is_own(network) and not self._away:
            self._without(partial(self._kernel.remove_route, route), f"remove route {network}")
        self._remove_guard(network)

    def _set_rules(self) -> None:
        wanted = self._plan.rules(self._by_policy, self._endpoints, self._listen_ports)
        if wanted == self._rules:
            return
        if wanted:
            self.before_rules(self._plan.mark)
        for rule in set(self._rules).difference(wanted):
            self._faults.pop(Part("rule", _shown(rule)), None)
            self._without(partial(self._kernel.remove_rule, rule), "remove a rule")
        for rule in wanted:
            if rule not in self._rules:
                self._put(Part("rule", _shown(rule)), _unless_there(partial(self._kernel.add_rule, rule)))
        self._rules = wanted

    def _add_guard(self, network: Network) -> None:
        if (guard := self._plan.guard(network)) is not None:
            self._put(Part("guard", str(network)), _unless_there(partial(self._kernel.add_route, guard)))

    def _remove_guard(self, network: Network) -> None:
        guard = self._plan.guard(network)
        if guard is not None and network not in self._networks and not self._is_own(network):
            self._faults.pop(Part("guard", str(network)), None)
            self._without(partial(self._kernel.remove_route, guard), f"remove the unreachable route {network}")

    def _guarded(self) -> set[Network]:
        """The networks whose packets have nowhere else to go."""
        return self._networks.union(address.network for address in self._addresses)

    # ---- the networks of this host ----

    def _local_networks(self, held: Iterable[Held]) -> dict[Network, int]:
        """By network the interface that has an address in it: not the TUN, not loopback, not what is one address."""
        return {
            each.address.network: each.interface
            for each in held
            if each.interface != self._device.index
            and each.address.network.num_addresses > 1
            and not (each.address.is_loopback or each.address.is_link_local)
        }

    def _local(self, route: Route) -> str | None:
        """Why the route must not be: the network is one of this host's own."""
        index = self._locals.get(route.network)
        if index is None or route.table != TABLE_MAIN:
            return None
        link = self._kernel.link(index)
        if link is None or not link.up:
            return None
        return f"it is also the network of {link.name}, and its packets stay there"

    def _warn_of_overlaps(self, networks: Iterable[Network]) -> None:
        """Says once that a network of the tunnel is the same as one of this host, or takes a part of it."""
        for network in networks if self._locals else ():
            for local, index in self._locals.items():
                if (network, local) in self._told_overlaps or network.version != local.version:
                    continue
                if within(network, local) and (link := self._kernel.link(index)) is not None:
                    self._told_overlaps.add((network, local))
                    name = link.name
                    self._tell(partial(_overlap, network, local, name))

    # ---- small things ----

    def _is_own(self, network: Network) -> bool:
        return any(network == address.network for address in self._addresses)

    def _tell(self, tell: Callable[[StateObserver], None]) -> None:
        if self.observer is not None:
            tell(self.observer)

    def _tell_faults(self) -> None:
        """Says what is newly missing, or for another reason."""
        if self.observer is None:
            return
        for part, reason in self._faults.items():
            if self._told_faults.get(part) != reason:
                self.observer.part_failed(part.kind, part.what, reason)
        self._told_faults = dict(self._faults)

    def _do(self, action: Callable[[], None], what: str, hints: Mapping[int | None, str] | None = None) -> None:
        try:
            action()
        except NetlinkError as error:
            if error.errno == errno.ENODEV and self._device.name_now() is not None:
                return  # it is in another network namespace; here it gets this when it is back
            hint = (hints or {}).get(error.errno, "")
            if error.errno == errno.EPERM:
                hint = "; needs root or CAP_NET_ADMIN"
            raise MachineError(f"{self._name}: {what}: {error.strerror}{hint}") from error

    def _without(self, action: Callable[[], None], what: str) -> None:
        """Removes something; that it is not there is no error."""
        try:
            action()
        except NetlinkError as error:
            if error.errno not in _ABSENT:
                raise MachineError(f"{self._name}: cannot {what}: {error.strerror}") from error


def remove_leftovers(kernel: RtNetlink, numbers: Numbers) -> int:
    """Removes the rules and unreachable routes of a node with this TUN, in the order in which nothing is drawn into an
    empty table. Returns how many there were. NetlinkError."""
    found = 0
    for rule in tuple(kernel.rules()):
        if numbers.owns_rule(rule):
            kernel.remove_rule(rule)
            found += 1
    for route in tuple(kernel.routes(protocol=PROTOCOL)):
        if numbers.owns_guard(route):
            kernel.remove_route(route)
            found += 1
    return found


def refuse_namesake(kernel: RtNetlink, name: str) -> None:
    """MachineError if a node runs here whose TUN has another name, and yet the same numbers: one in 1024 does. What is
    the one's would be taken for the other's. NetlinkError."""
    found = {route.interface for route in kernel.routes(protocol=PROTOCOL)}
    for index in sorted(index for index in found if index is not None):
        link = kernel.link(index)
        if link is not None and link.name != name and Numbers.of(link.name) == Numbers.of(name):
            raise MachineError(
                f"--tun-name {name} gives the same numbers of rules and tables as {link.name}, where a node runs: "
                "choose another name"
            )


def _unless_there(add: Callable[[], None]) -> Callable[[], None]:
    """An earlier run may have left it."""

    def put() -> None:
        try:
            add()
        except NetlinkError as error:
            if error.errno != errno.EEXIST:
                raise

    return put


def _narrowest_first(network: Network) -> int:
    return -network.prefixlen


def _overlap(network: Network, local: Network, interface: str, observer: StateObserver) -> None:
    observer.network_overlaps(network, local, interface)


def _route_hints(route: Route) -> Mapping[int | None, str]:
    return {errno.EEXIST: f"; another interface has that route, see: ip route show exact {route.network}"}


def _ipv6_hints(name: str) -> Mapping[int | None, str]:
    hint = f"; is IPv6 off? see sysctl net.ipv6.conf.{name}.disable_ipv6"
    return {errno.EACCES: hint, errno.EPERM: hint, errno.EOPNOTSUPP: hint}


def _shown(rule: Rule) -> str:
    """As ``ip rule`` writes it."""
    which = "" if rule.unmarked is None else f" not fwmark {rule.unmarked:#x}"
    less = "" if rule.suppressed is None else f" suppress_prefixlength {rule.suppressed}"
    family = " (IPv6)" if rule.version == 6 else ""
    if rule.endpoint is not None:
        which = f" to {rule.endpoint[0]} ipproto udp dport {rule.endpoint[1]}"
    if rule.own_port is not None:
        which = f" iif lo ipproto udp sport {rule.own_port}"
    if rule.lookups_of is not None:
        which = f" ipproto udp dport 53 uidrange {rule.lookups_of}-{rule.lookups_of}"
    return f"{rule.priority}: from all{which} lookup {rule.table}{less}{family}"
