"""The state that a TUN is to have: with a kernel in memory for what others do to it, and with the real one."""

import errno
import json
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any, cast

import pytest

from cryprq.errors import MachineError
from cryprq.linux.interface_state import InterfaceState, refuse_namesake
from cryprq.linux.netlink import NetlinkError
from cryprq.linux.route_plan import Numbers, RoutePlan
from cryprq.linux.rtnetlink import PROTOCOL, TABLE_MAIN, Held, Link, Route, RtNetlink, Rule
from cryprq.linux.tun import Tun
from cryprq.networks import Interface, Network
from lab import hosts
from tests.rigs.fakes import Recorder

TUN, LAN = 7, 2


def nets(*texts: str) -> set[Network]:
    return {ip_network(text) for text in texts}


class FakeKernel:
    """Links, addresses, routes and rules as the kernel keeps them, as far as a TUN has to do with them."""

    def __init__(self) -> None:
        self.links = {TUN: Link(TUN, "cryprq0", False, 1420), LAN: Link(LAN, "eth0", True, 1500)}
        self.held: list[Held] = []
        self.table: set[Route] = set()
        self.policy: set[Rule] = set()
        self.refuse: dict[Any, int] = {}
        self.unreadable = False
        self.closed = False

    # ---- what a node asks for ----

    def link(self, index: int) -> Link | None:
        if self.unreadable:
            raise NetlinkError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
        return self.links.get(index)

    def set_link(self, index: int, *, up: bool | None = None, mtu: int | None = None) -> None:
        self._check("up" if up is not None else "mtu")
        if index not in self.links:
            raise NetlinkError(errno.ENODEV, "No such device")
        link = self.links[index]
        self.links[index] = replace(link, up=link.up if up is None else up, mtu=mtu or link.mtu)

    def set_no_link_local(self, index: int) -> None:
        pass

    def addresses(self) -> Iterator[Held]:
        return iter(self.held)

    def add_address(self, index: int, address: Interface) -> None:
        self._check(address)
        assert Held(index, address) not in self.held
        self.held.append(Held(index, address))
        metric = 0 if address.version == 4 else 256
        self.table.add(Route(address.network, index, metric=metric, protocol=2))

    def remove_address(self, index: int, address: Interface) -> None:
        if Held(index, address) not in self.held:
            raise NetlinkError(errno.EADDRNOTAVAIL, "Cannot assign requested address")
        self.held.remove(Held(index, address))
        self.table = {route for route in self.table if (route.network, route.interface) != (address.network, index)}

    def routes(self, *, interface: int | None = None, protocol: int = 0) -> Iterator[Route]:
        found = (route for route in self.table if not protocol or route.protocol == protocol)
        return iter([route for route in found if interface in (None, route.interface)])

    def add_route(self, route: Route) -> None:
        self._check(route.network)
        if any((r.network, r.table, r.metric) == (route.network, route.table, route.metric) for r in self.table):
            raise NetlinkError(errno.EEXIST, "File exists")
        if route.interface is not None and not self.links[route.interface].up:
            raise NetlinkError(errno.ENETDOWN, "Network is down")
        self.table.add(route)

    def remove_route(self, route: Route) -> None:
        if route not in self.table:
            raise NetlinkError(errno.ESRCH, "No such process")
        self.table.remove(route)

    def rules(self) -> Iterator[Rule]:
        return iter(sorted(self.policy, key=lambda rule: (rule.version, rule.priority)))

    def add_rule(self, rule: Rule) -> None:
        self._check(rule)
        if rule in self.policy:
            raise NetlinkError(errno.EEXIST, "File exists")
        self.policy.add(rule)

    def remove_rule(self, rule: Rule) -> None:
        if rule not in self.policy:
            raise NetlinkError(errno.ENOENT, "No such file or directory")
        self.policy.remove(rule)

    def close(self) -> None:
        self.closed = True

    def _check(self, what: object) -> None:
        if what in self.refuse:
            raise NetlinkError(self.refuse[what], os.strerror(self.refuse[what]))

    # ---- what others do ----

    def ours(self, table: int = TABLE_MAIN) -> set[Network]:
        """The networks that lead into the TUN."""
        return {route.network for route in self.table if route.interface == TUN and route.table == table}

    def unreachable(self, table: int = TABLE_MAIN) -> set[Network]:
        return {route.network for route in self.table if route.interface is None and route.table == table}

    def remove_tun(self) -> "FakeKernel":
        """Its node was killed."""
        self.flush_routes()
        self.held = [each for each in self.held if each.interface != TUN]
        self.links[TUN] = Link(TUN, "cryprq0", False, 1420)
        return self

    def flush_routes(self) -> None:
        self.table = {route for route in self.table if route.interface != TUN}

    def join_lan(self, text: str) -> None:
        self.held.append(Held(LAN, ip_interface(text)))

    def leave_lan(self) -> None:
        self.held = [each for each in self.held if each.interface != LAN]


@dataclass
class FakeTun:
    index: int = TUN
    mtu: int = 1420
    name: str | None = "cryprq0"

    def name_now(self) -> str | None:
        return self.name


class Rig:
    """An interface whose state is kept in a kernel in memory: up, with one address and one route."""

    def __init__(self, kernel: FakeKernel | None = None, **plan: Any) -> None:
        self.kernel = kernel or FakeKernel()
        self.tun = FakeTun()
        self.plan = RoutePlan("cryprq0", **plan)
        self.observer = Recorder()
        self.state = InterfaceState(self.tun, self.plan, cast(RtNetlink, self.kernel))
        self.state.observer = self.observer
        self.marks: list[int] = []
        self.state.before_rules = self.marks.append
        self.state.begin()
        self.state.add_address(ip_interface("10.66.0.2/24"))
        self.state.up()

    def restored(self) -> list[tuple[str, str]]:
        """What was put back since the last call."""
        found = [args for name, args, _ in self.observer.calls if name == "part_restored"]
        self.observer.calls.clear()
        return cast("list[tuple[str, str]]", found)


def test_nothing_is_done_and_nothing_said_while_all_is_there() -> None:
    rig = Rig()
    rig.state.set_routes(nets("192.168.50.0/24", "fd50::/64"))
    before = set(rig.kernel.table)
    rig.state.compare()
    assert rig.kernel.table == before
    assert rig.observer.calls == [] and rig.state.failure() is None and rig.state.routes_missing == 0


def test_routes_that_were_flushed_are_put_back() -> None:
    rig = Rig()
    rig.state.set_routes(nets("192.168.50.0/24", "fd50::/64"))
    rig.kernel.flush_routes()
    rig.state.compare()
    assert rig.kernel.ours() == nets("10.66.0.0/24", "192.168.50.0/24", "fd50::/64")
    assert sorted(rig.restored()) == [
        ("route", "10.66.0.0/24"),
        ("route", "192.168.50.0/24"),
        ("route", "fd50::/64"),
    ]


def test_addresses_that_were_flushed_are_put_back_with_their_network() -> None:
    rig = Rig()
    rig.kernel.remove_address(TUN, ip_interface("10.66.0.2/24"))
    rig.state.compare()
    assert rig.kernel.held == [Held(TUN, ip_interface("10.66.0.2/24"))]
    assert rig.restored() == [("address", "10.66.0.2/24")]


def test_link_down_and_changed_mtu_are_put_back_before_what_needs_them() -> None:
    rig = Rig()
    rig.state.set_routes(nets("192.168.50.0/24"))
    rig.kernel.links[TUN] = Link(TUN, "cryprq0", False, 1500)
    rig.kernel.flush_routes()
    rig.state.compare()
    assert rig.kernel.links[TUN] == Link(TUN, "cryprq0", True, 1420)
    assert rig.restored() == [
        ("link", "mtu 1420"),
        ("link", "up"),
        ("route", "10.66.0.0/24"),
        ("route", "192.168.50.0/24"),
    ]


def test_mtu_of_a_gateway_is_what_is_kept() -> None:
    rig = Rig()
    rig.state.set_mtu(1300)
    rig.kernel.set_link(TUN, mtu=1420)
    rig.state.compare()
    assert rig.kernel.links[TUN].mtu == 1300


def test_what_cannot_be_put_back_is_a_fault_until_it_can() -> None:
    rig = Rig()
    rig.state.set_routes(nets("192.168.50.0/24"))
    rig.kernel.flush_routes()
    rig.kernel.refuse[ip_network("192.168.50.0/24")] = errno.EPERM
    for _ in range(2):
        rig.state.compare()
    assert rig.state.failure() == "route 192.168.50.0/24 is missing: Operation not permitted"
    assert rig.state.routes_missing == 1
    assert rig.observer.names.count("part_failed") == 1  # told once, not at every look
    rig.kernel.refuse.clear()
    rig.observer.calls.clear()
    rig.state.compare()
    assert rig.restored() == [("route", "192.168.50.0/24")]
    assert rig.state.failure() is None and rig.state.routes_missing == 0


def test_several_faults_are_counted() -> None:
    rig = Rig()
    rig.kernel.refuse |= dict.fromkeys(nets("192.168.50.0/24", "192.168.51.0/24"), errno.EPERM)
    rig.state.set_routes(nets("192.168.50.0/24", "192.168.51.0/24"))
    assert "(and 1 more)" in (rig.state.failure() or "")
    rig.state.set_routes(nets("192.168.51.0/24"))
    assert (rig.state.failure() or "").startswith("route 192.168.51.0/24 is missing")
    rig.state.set_routes(())
    assert rig.state.failure() is None


def test_network_of_a_lan_stays_there_and_is_routed_when_the_lan_is_left() -> None:
    rig = Rig()
    rig.kernel.join_lan("192.168.50.7/24")
    rig.state.compare()
    rig.state.set_routes(nets("192.168.50.0/24"))
    assert rig.kernel.ours() == nets("10.66.0.0/24")
    assert "it is also the network of eth0" in (rig.state.failure() or "")
    rig.kernel.leave_lan()
    rig.state.compare()
    assert rig.kernel.ours() == nets("10.66.0.0/24", "192.168.50.0/24")
    assert rig.restored() == [("route", "192.168.50.0/24")]


def test_lan_that_is_joined_later_gets_its_network_back() -> None:
    rig = Rig()
    rig.state.set_routes(nets("192.168.50.0/24", "fd50::/64"))
    rig.kernel.join_lan("192.168.50.7/24")
    rig.kernel.join_lan("fd50::7/64")
    rig.state.compare()
    assert rig.kernel.ours() == nets("10.66.0.0/24")
    assert rig.state.routes_missing == 2
    said = [args for name, args, _ in rig.observer.calls if name == "network_overlaps"]
    assert {args[0] for args in said} == nets("192.168.50.0/24", "fd50::/64")
    rig.state.compare()
    assert rig.observer.names.count("network_overlaps") == 2


def test_network_of_an_interface_that_is_down_is_nobodys() -> None:
    rig = Rig()
    rig.kernel.join_lan("192.168.50.7/24")
    rig.kernel.links[LAN] = Link(LAN, "eth0", False, 1500)
    rig.state.compare()
    rig.state.set_routes(nets("192.168.50.0/24"))
    assert ip_network("192.168.50.0/24") in rig.kernel.ours()


@pytest.mark.parametrize(("lan", "told"), [("10.66.0.9/24", True), ("10.66.0.9/16", True), ("10.67.0.9/24", False)])
def test_tunnel_network_in_a_lan_is_named_once(lan: str, told: bool) -> None:
    kernel = FakeKernel()
    kernel.join_lan(lan)
    rig = Rig(kernel)
    for _ in range(2):
        rig.state.compare()
    local = ip_interface(lan).network
    said = [args for name, args, _ in rig.observer.calls if name == "network_overlaps"]
    assert said == ([(ip_network("10.66.0.0/24"), local, "eth0")] if told else [])
    assert (rig.state.failure() is None) == (lan != "10.66.0.9/24")


def test_renamed_device_is_told_and_kept() -> None:
    rig = Rig()
    rig.tun.name = "vpn"
    rig.kernel.links[TUN] = Link(TUN, "vpn", True, 1420)
    rig.kernel.flush_routes()
    rig.state.compare()
    assert rig.state.name == "vpn"
    assert rig.observer.last("tun_renamed") == ("vpn",)
    assert rig.kernel.ours() == nets("10.66.0.0/24")


@pytest.mark.parametrize("taken", [False, True], ids=["index free", "index of another"])
def test_device_in_another_namespace_is_left_alone_until_it_is_back(taken: bool) -> None:
    rig = Rig()
    rig.state.set_routes(nets("192.168.50.0/24"))
    rig.kernel.flush_routes()
    rig.kernel.held.clear()
    del rig.kernel.links[TUN]
    if taken:
        rig.kernel.links[TUN] = Link(TUN, "dummy0", True, 1500)
    for _ in range(2):
        rig.state.compare()
    assert rig.kernel.held == [] and rig.kernel.ours() == set()
    assert rig.state.failure() is None
    assert [name for name in rig.observer.names if name == "tun_moved"] == ["tun_moved"]
    # A gateway that answers now is no error, and is heeded when the device is back.
    if not taken:
        rig.state.set_mtu(1300)
        rig.state.set_routes(nets("192.168.50.0/24", "192.168.51.0/24"))
    rig.kernel.links[TUN] = Link(TUN, "cryprq0", False, 1420)
    rig.state.compare()
    assert rig.observer.fields("tun_moved") == {"away": False}
    assert rig.kernel.ours() >= nets("10.66.0.0/24", "192.168.50.0/24")
    assert rig.kernel.links[TUN].up and rig.kernel.links[TUN].mtu == (1420 if taken else 1300)


def test_error_of_a_look_is_not_its_answer() -> None:
    rig = Rig()
    rig.kernel.refuse[ip_network("192.168.50.0/24")] = errno.EPERM
    rig.state.set_routes(nets("192.168.50.0/24"))
    rig.kernel.unreadable = True
    with pytest.raises(OSError):
        rig.state.compare()
    assert rig.state.routes_missing == 1 and "tun_moved" not in rig.observer.names


# ---- policy routing and the kill switch ----


def test_default_route_gets_a_table_and_rules_and_the_sockets_their_mark() -> None:
    rig = Rig()
    rig.state.set_routes(nets("0.0.0.0/0", "192.168.50.0/24"))
    table = rig.plan.mark
    assert rig.kernel.ours(table) == nets("0.0.0.0/0")
    assert rig.kernel.ours() == nets("10.66.0.0/24", "192.168.50.0/24")
    assert [(rule.version, rule.table, rule.unmarked, rule.suppressed) for rule in rig.kernel.rules()] == [
        (4, TABLE_MAIN, None, 0),
        (4, table, table, None),
    ]
    assert rig.marks == [table]
    rig.kernel.policy.clear()
    rig.state.compare()
    assert len(rig.kernel.policy) == 2
    assert [kind for kind, _ in rig.restored()] == ["rule", "rule"]
    rig.state.set_routes(nets("192.168.50.0/24"))
    assert rig.kernel.policy == set() and rig.kernel.ours(table) == set()


@pytest.mark.parametrize(("way", "table"), [("main", TABLE_MAIN), (123, 123), ("off", None)])
def test_other_ways_have_no_rules(way: Any, table: int | None) -> None:
    rig = Rig(route_table=way)
    rig.state.set_routes(nets("0.0.0.0/0", "192.168.50.0/24"))
    rig.state.compare()
    assert rig.kernel.policy == set() and rig.marks == []
    found = {route.network for route in rig.kernel.table if route.protocol == PROTOCOL and route.table == table}
    assert found == (nets("0.0.0.0/0", "192.168.50.0/24") if table is not None else set())
    assert rig.state.failure() is None


def test_way_to_a_gateway_is_spared_for_answers_too() -> None:
    rig = Rig()
    rig.state.spare("192.0.2.1", 9999)
    assert rig.kernel.policy == set()  # nothing is drawn into the tunnel yet
    rig.state.set_routes(nets("0.0.0.0/0", "::/0"))
    rig.state.spare("2001:db8::1", 9999)
    first = next(rig.kernel.rules())
    assert first.endpoint == (ip_address("192.0.2.1"), 9999) and first.table == TABLE_MAIN
    assert [rule.version for rule in rig.kernel.rules()] == [4, 4, 4, 6, 6]
    rig.state.listens([9998, 9997, 9998])
    assert {rule.own_port: rule.version for rule in rig.kernel.policy if rule.own_port is not None} == {
        9998: 4,
        9997: 4,
    }
    for number in range(100):
        rig.state.spare(f"192.0.2.{number}", 9999)
    assert sum(rule.endpoint is not None for rule in rig.kernel.policy) == 64 + 1
    rig.state.close()
    assert rig.kernel.policy == set()


def test_rules_go_with_the_node_and_those_of_a_killed_one_at_the_next_start() -> None:
    rig = Rig()
    rig.state.set_routes(nets("0.0.0.0/0", "::/0"))
    assert len(rig.kernel.policy) == 4
    other = Rule(4, rig.plan.numbers.priority, 99, unmarked=99, protocol=4)
    rig.kernel.policy.add(other)
    after = Rig(rig.kernel.remove_tun())
    assert rig.kernel.policy == {other}
    after.state.set_routes(nets("0.0.0.0/0"))
    after.state.close()
    assert rig.kernel.policy == {other} and rig.kernel.closed


def test_kill_switch_outlives_the_node_and_is_lifted_when_asked() -> None:
    rig = Rig(kill_switch=True)
    rig.state.set_routes(nets("0.0.0.0/0", "192.168.50.0/24"))
    assert rig.kernel.unreachable() == nets("10.66.0.0/24", "192.168.50.0/24")
    assert rig.kernel.unreachable(rig.plan.mark) == nets("0.0.0.0/0")
    before = set(rig.kernel.table), set(rig.kernel.policy)
    rig.state.close()
    assert (rig.kernel.table, rig.kernel.policy) == before
    after = Rig(rig.kernel.remove_tun(), kill_switch=True)
    after.state.settle()  # what a gateway has yet to announce stays blocked; the default route is not configured now
    assert rig.kernel.unreachable() == nets("10.66.0.0/24", "192.168.50.0/24")
    assert rig.kernel.unreachable(rig.plan.mark) == set() and rig.kernel.policy == set()
    after.state.release = True
    after.state.close()
    assert rig.kernel.unreachable() == set()


def test_start_without_the_kill_switch_removes_what_one_left() -> None:
    rig = Rig(kill_switch=True)
    rig.state.set_routes(nets("192.168.50.0/24"))
    Rig(rig.kernel.remove_tun())
    assert rig.kernel.unreachable() == set()


def test_kill_switch_is_part_of_the_state() -> None:
    rig = Rig(kill_switch=True)
    rig.state.set_routes(nets("192.168.50.0/24"))
    rig.kernel.table = {route for route in rig.kernel.table if route.interface is not None}
    rig.state.compare()
    assert rig.kernel.unreachable() == nets("10.66.0.0/24", "192.168.50.0/24")
    assert sorted(rig.restored()) == [("guard", "10.66.0.0/24"), ("guard", "192.168.50.0/24")]
    rig.state.set_routes(())
    assert rig.kernel.unreachable() == nets("10.66.0.0/24")


def test_two_nodes_of_one_host_leave_each_other_alone() -> None:
    rig = Rig(kill_switch=True)
    rig.state.set_routes(nets("0.0.0.0/0", "192.168.50.0/24"))
    before = set(rig.kernel.table), set(rig.kernel.policy)
    rig.kernel.links[8] = Link(8, "cryprq1", True, 1420)
    other = InterfaceState(FakeTun(8, 1420, "cryprq1"), RoutePlan("cryprq1"), cast(RtNetlink, rig.kernel))
    other.begin()
    other.close()
    assert (rig.kernel.table, rig.kernel.policy) == before


NAMESAKE = "cryprq84"
"""Its numbers are those of cryprq0."""


def test_tun_whose_name_has_the_numbers_of_a_running_nodes_is_refused_with_nothing_changed() -> None:
    assert Numbers.of(NAMESAKE) == Numbers.of("cryprq0")
    rig = Rig()
    rig.state.set_routes(nets("0.0.0.0/0"))
    before = set(rig.kernel.table), set(rig.kernel.policy)
    rig.kernel.links[8] = Link(8, NAMESAKE, True, 1420)
    other = InterfaceState(FakeTun(8, 1420, NAMESAKE), RoutePlan(NAMESAKE), cast(RtNetlink, rig.kernel))
    with pytest.raises(MachineError, match=r"--tun-name cryprq84 gives the same numbers .* as cryprq0, where a node"):
        other.begin()
    with pytest.raises(MachineError, match=r"--tun-name cryprq84"):
        refuse_namesake(cast(RtNetlink, rig.kernel), NAMESAKE)
    assert (rig.kernel.table, rig.kernel.policy) == before
    refuse_namesake(cast(RtNetlink, rig.kernel), "cryprq0")
    rig.kernel.table.clear()  # that node has ended
    other.begin()


# ---- the real kernel ----


@pytest.fixture
def host(lab: hosts.Lab) -> Iterator[hosts.Namespace]:
    """A namespace that this thread is in during the test."""
    host = lab.namespace("host")
    with host.entered():
        yield host


@pytest.fixture
def tun(host: hosts.Namespace) -> Iterator[Tun]:
    with Tun.open("tun-a", 1, set(), 1420) as tun:
        yield tun


@pytest.fixture
def state(tun: Tun) -> Iterator[InterfaceState]:
    state = InterfaceState(tun, RoutePlan("tun-a"))
    yield state
    state.close()


def routes_of(host: hosts.Namespace, device: str = "tun-a") -> set[str]:
    found = json.loads(host.ip(f"-j -4 route show dev {device}") or "[]")
    found += json.loads(host.ip(f"-j -6 route show dev {device}") or "[]")
    return {route["dst"] for route in found}


def set_routes(state: InterfaceState, *texts: Iterable[str]) -> None:
    state.set_routes(nets(*cast("tuple[str, ...]", texts)))


def test_addresses_and_routes_come_and_go(host: hosts.Namespace, state: InterfaceState) -> None:
    for text in ("10.66.0.1/24", "fd66::1/64"):
        state.add_address(ip_interface(text))
        state.add_address(ip_interface(text))
    state.up()
    assert routes_of(host) == {"10.66.0.0/24", "fd66::/64"}
    set_routes(state, "10.66.0.0/24", "fd66::/64", "192.168.7.0/24", "10.66.0.9/32", "fd07::/48")
    assert routes_of(host) == {"10.66.0.0/24", "fd66::/64", "192.168.7.0/24", "10.66.0.9", "fd07::/48"}
    host.ip("route del 10.66.0.9/32")
    set_routes(state)  # somebody else was faster: no error
    assert routes_of(host) == {"10.66.0.0/24", "fd66::/64"}
    state.remove_address(ip_interface("10.66.0.1/24"))
    state.remove_address(ip_interface("10.99.0.1/24"))
    assert routes_of(host) == {"fd66::/64"}
    assert state.addresses == (ip_interface("fd66::1/64"),)


def test_route_of_another_interface_is_one_clear_line(host: hosts.Namespace, state: InterfaceState) -> None:
    host.ip("link add port type bridge")
    host.ip("link set port up")
    host.ip("route add 192.168.7.0/24 dev port")
    state.up()
    set_routes(state, "192.168.7.0/24")
    assert "192.168.7.0/24 is missing: File exists; another interface" in (state.failure() or "")
    assert routes_of(host) == set()
    host.ip("route del 192.168.7.0/24 dev port")
    state.compare()
    assert state.failure() is None and routes_of(host) == {"192.168.7.0/24"}


def test_ipv6_switched_off_is_named(host: hosts.Namespace, state: InterfaceState) -> None:
    host.sysctl("net.ipv6.conf.tun-a.disable_ipv6", 1)
    with pytest.raises(MachineError, match=r"fd66::1/64.*disable_ipv6"):
        state.add_address(ip_interface("fd66::1/64"))
    assert state.addresses == ()


def test_mtu_follows_but_never_above_that_of_the_opening(host: hosts.Namespace, state: InterfaceState) -> None:
    for asked, got in ((1300, 1300), (1420, 1420), (9000, 1420)):
        state.set_mtu(asked)
        assert json.loads(host.ip("-j link show dev tun-a"))[0]["mtu"] == got
    with pytest.raises(MachineError, match="tun-a: cannot set MTU 3: "):
        state.set_mtu(3)


FLUSHES = [
    "route flush dev tun-a proto 113",
    "route flush dev tun-a",
    "-6 route flush dev tun-a",
    "addr flush dev tun-a",
    "link set tun-a down",
    "link set tun-a mtu 9000",
    "link set tun-a mtu 1000",  # takes IPv6 off
]


@pytest.mark.parametrize("command", FLUSHES)
def test_what_people_do_to_it_is_undone(host: hosts.Namespace, state: InterfaceState, command: str) -> None:
    for text in ("10.66.0.2/24", "fd66::2/64"):
        state.add_address(ip_interface(text))
    state.up()
    set_routes(state, "192.168.50.0/24", "fd50::/64", "::/0")
    state.compare()
    observer = state.observer = Recorder()

    def shown() -> Any:
        link = json.loads(host.ip("-j address show dev tun-a"))[0]
        everything = "default table" in host.ip("-6 route show table all dev tun-a")
        addresses = sorted(each["local"] for each in link["addr_info"])
        return link["mtu"], "UP" in link["flags"], addresses, routes_of(host), everything

    before = shown()
    assert before[-1]
    host.ip(command)
    assert shown() != before
    state.compare()
    assert shown() == before
    assert set(observer.names) == {"part_restored"}
    observer.calls.clear()
    state.compare()
    assert observer.calls == [] and state.failure() is None


def test_ipv6_default_route_beside_one_of_the_host(host: hosts.Namespace, state: InterfaceState) -> None:
    host.ip("link add port type bridge")
    host.ip("link set port up")
    host.ip("-6 address add 2001:db8::1/64 dev port nodad")
    host.ip("-6 route add default via 2001:db8::9 metric 1024")
    state.add_address(ip_interface("fd66::2/64"))
    state.up()
    set_routes(state, "::/0")
    assert state.failure() is None
    assert "dev tun-a" in host.ip("-6 route get 2001:db8:5::1")
    assert "dev port" in host.ip(f"-6 route get 2001:db8:5::1 mark {RoutePlan('tun-a').mark}")
    assert "dev port" in host.ip("-6 route get 2001:db8::7")  # the host's own networks are spared


def test_check_needs_no_descriptor(host: hosts.Namespace, state: InterfaceState, tun: Tun) -> None:
    """All descriptors of the process are used up: the state is kept all the same, and nothing is taken for gone."""
    import resource

    state.up()
    set_routes(state, "192.168.50.0/24")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    host.ip("route flush dev tun-a")
    resource.setrlimit(resource.RLIMIT_NOFILE, (highest + 1, limit[1]))
    taken = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.dup(0))
        with pytest.raises(OSError):
            socket.if_nametoindex("tun-a")
        assert tun.name_now() == "tun-a"
        state.compare()
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert routes_of(host) == {"192.168.50.0/24"}
