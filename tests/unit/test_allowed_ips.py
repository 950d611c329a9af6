"""Allowed IPs and the inner network: who owns what, what a gateway may announce, and what the TUN gets."""

from ipaddress import ip_interface, ip_network
from random import Random
from typing import Any

import pytest

from cryprq.errors import MachineError
from cryprq.inner.allowed_ips import AllowedIps, announced
from cryprq.inner.network import InnerNetwork
from cryprq.networks import covering, host_networks, within
from cryprq.protocol.parameters import Parameters
from tests.rigs.fakes import FakePlane, Recorder, identity

ONE, TWO, THREE = (identity(number).peer_id for number in (0, 1, 2))


def nets(*texts: str) -> tuple[Any, ...]:
    return tuple(ip_network(text) for text in texts)


def faces(*texts: str) -> tuple[Any, ...]:
    return tuple(ip_interface(text) for text in texts)


class FakeDevice:
    def __init__(self) -> None:
        self.addresses: list[Any] = []
        self.routes: set[Any] = set()
        self.mtu = 1420
        self.refuse: set[Any] = set()

    def add_address(self, address: Any) -> None:
        if address in self.refuse:
            raise MachineError(f"cannot add {address}")
        self.addresses.append(address)

    def remove_address(self, address: Any) -> None:
        self.addresses.remove(address)

    def change_routes(self, added: Any, removed: Any) -> None:
        assert not self.routes.intersection(added)
        assert self.routes.issuperset(removed)
        self.routes = self.routes.union(added).difference(removed)

    def set_mtu(self, mtu: int) -> None:
        self.mtu = mtu


class Follower:
    """What plane and device have, who are told of changes only."""

    def __init__(self, table: AllowedIps, *own: str) -> None:
        self.table = table
        self.own = faces(*own)
        self.owners: dict[Any, Any] = {}
        self.beyond: set[Any] = set()

    def follow(self) -> "Follower":
        for network, owner in self.table.changes():
            self.owners.pop(network, None)
            if owner is not None:
                self.owners[network] = owner
        added, removed = self.table.interface_changes(self.own)
        assert not added & self.beyond
        assert removed <= self.beyond
        self.beyond = (self.beyond | added) - removed
        assert self.beyond == self.table.beyond()
        self.table.told()
        assert self.table.changes() == []
        assert self.table.interface_changes(self.own) == (set(), set())
        return self


class Rig:
    def __init__(self, *own: str) -> None:
        self.device, self.plane, self.observer = FakeDevice(), FakePlane(), Recorder()
        self.network = InnerNetwork(self.device, self.plane, self.observer, faces(*own), 1420)

    def take(self, peer: Any = ONE, handle: int = 1, configured: tuple[Any, ...] = (), **parameters: Any) -> str | None:
        return self.network.take(peer, handle, Parameters(**parameters), "192.0.2.1", configured)


def test_network_belongs_to_one_peer() -> None:
    table = AllowedIps()
    assert table.claim(ONE, nets("10.0.0.0/24", "fd00::/64")) == ()
    assert table.claim(TWO, nets("10.0.0.0/24", "10.0.0.7/32")) == nets("10.0.0.0/24")
    assert table.of(TWO) == nets("10.0.0.7/32")
    assert table.standing_by(TWO) == nets("10.0.0.0/24")
    assert table.contested(ONE) and not table.contested(TWO)
    first, second, third = nets("10.0.0.0/24", "10.0.0.7/32", "fd00::/64")
    assert Follower(table).follow().owners == {first: ONE, second: TWO, third: ONE}
    table.release(ONE)
    assert table.of(TWO) == nets("10.0.0.0/24", "10.0.0.7/32")
    assert table.claim(TWO, nets("10.0.0.0/24")) == ()
    assert table.of(TWO) == nets("10.0.0.0/24")


def test_network_goes_to_who_stands_by_and_stays_there() -> None:
    table, lan = AllowedIps(), nets("10.0.0.0/24")
    present = {ONE: True, TWO: True, THREE: True}

    def elect() -> list[Any]:
        return table.elect(present.__getitem__, {THREE: 0, TWO: 1, ONE: 2}.__getitem__)

    for peer in (ONE, TWO, THREE):
        table.claim(peer, lan)
    assert elect() == []
    present[ONE] = False
    assert elect() == [(*lan, ONE, THREE)]  # of two that stand by, the one of the least rank
    assert elect() == []
    present[ONE] = True
    assert elect() == []  # nobody takes it back
    assert table.standing_by(ONE) == lan
    present[THREE] = present[TWO] = False
    assert elect() == [(*lan, THREE, ONE)]
    present[ONE] = False
    assert elect() == []  # where nobody is there, it stays
    assert table.of(ONE) == lan
    assert Follower(table).follow().owners == dict.fromkeys(lan, ONE)


def test_claim_that_is_repeated_or_changed_keeps_what_was_owned() -> None:
    table = AllowedIps()
    table.claim(ONE, nets("10.0.0.0/24", "10.1.0.0/24"))
    table.claim(TWO, nets("10.0.0.0/24"))
    table.elect(lambda peer: peer == TWO, lambda _: 0)
    assert table.of(TWO) == nets("10.0.0.0/24")
    table.claim(TWO, nets("10.0.0.0/24", "10.2.0.0/24"))
    table.claim(ONE, nets("10.0.0.0/24"))
    assert table.of(TWO) == nets("10.0.0.0/24", "10.2.0.0/24")
    assert table.of(ONE) == ()
    assert table.claims(ONE) == table.standing_by(ONE) == nets("10.0.0.0/24")
    told = Follower(table).follow()
    assert told.beyond == set(nets("10.0.0.0/24", "10.2.0.0/24"))
    table.claim(TWO, nets("10.2.0.0/24"))
    assert table.of(ONE) == nets("10.0.0.0/24")
    table.release(ONE)
    table.release(TWO)
    assert told.follow().beyond == set() and not table._standbys and not table._owner and not told.owners


def test_any_order_of_claims_leaves_each_network_one_owner() -> None:
    random, table = Random(7), AllowedIps()
    told = Follower(table)
    networks = nets(*(f"10.{n}.0.0/16" for n in range(6)))
    claims: dict[Any, set[Any]] = {}
    for _ in range(3000):
        peer = random.choice((ONE, TWO, THREE))
        match random.randrange(3):
            case 0:
                claims[peer] = set(random.sample(networks, random.randrange(5)))
                table.claim(peer, claims[peer])
            case 1:
                claims.pop(peer, None)
                table.release(peer)
            case _:
                there = {each for each in claims if random.random() < 0.5}
                table.elect(there.__contains__, lambda _: 0)
                for network in networks:
                    claimants = {each for each, wanted in claims.items() if network in wanted}
                    owners = {each for each in claimants if network in table.of(each)}
                    assert not claimants & there or owners <= there
        for network in networks:
            claimants = {each for each, wanted in claims.items() if network in wanted}
            owners = {each for each in claims if network in table.of(each)}
            assert len(owners) == bool(claimants) and owners <= claimants
            assert {each for each in claims if network in table.standing_by(each)} == claimants - owners
        if random.random() < 0.5:  # several changes may have come together
            told.own = faces("10.1.0.1/16") if random.random() < 0.2 else ()
            assert told.follow().owners == table._owner
            covered = set(nets("10.1.0.0/16")) if told.own else set()
            assert told.beyond == set().union(*claims.values()) - covered


def test_gateways_of_one_network_where_the_address_is_this_nodes_own() -> None:
    rig = Rig("10.9.0.5/24")
    assert rig.take(ONE, 1, routes=nets("10.9.0.0/24", "192.168.7.0/24")) is None
    assert rig.take(TWO, 2, routes=nets("10.9.0.0/24", "192.168.7.0/24")) is None
    assert rig.observer.last("network_standby") == (TWO, nets("10.9.0.0/24", "192.168.7.0/24"))
    assert "network_refused" not in rig.observer.names
    assert rig.plane.routes == [("10.9.0.0/24", 1), ("192.168.7.0/24", 1)]
    rig.network.elect(lambda peer: peer == TWO, lambda _: 0)
    assert rig.plane.routes == [("10.9.0.0/24", 2), ("192.168.7.0/24", 2)]
    assert rig.observer.last("network_taken_over") == (TWO, list(nets("10.9.0.0/24", "192.168.7.0/24")), ONE)
    assert rig.device.routes == set(nets("192.168.7.0/24"))
    assert "of another peer" in (rig.take(TWO, 2, routes=nets("192.168.7.0/25")) or "")  # a part of it is not the same
    assert "of another peer" in (rig.take(THREE, 3, routes=nets("192.168.0.0/16")) or "")


def test_second_gateway_comes_up_where_the_first_never_did() -> None:
    rig = Rig("10.9.0.5/24")
    for handle, peer in enumerate((ONE, TWO), 1):
        rig.network.claim(peer, handle, rig.network.dialled_networks(peer))
    assert rig.take(TWO, 2, routes=nets("10.9.0.0/24", "192.168.7.0/24")) is None
    rig.network.elect(lambda peer: peer == TWO, lambda _: 0)
    assert rig.plane.routes == [("10.9.0.0/24", 2), ("192.168.7.0/24", 2)]


def test_gateways_of_one_network_that_assign_addresses_are_refused() -> None:
    rig = Rig()
    assert rig.take(ONE, 1, addresses=faces("10.8.0.2/24"), routes=nets("192.168.7.0/24")) is None
    refusal = rig.take(TWO, 2, addresses=faces("10.7.0.2/24"), routes=nets("192.168.7.0/24"))
    assert "of another peer" in (refusal or "")


def test_networks_that_the_interface_has_need_no_route() -> None:
    table = AllowedIps()
    table.claim(ONE, nets("10.9.0.2/32", "192.168.7.0/24", "fd09::2/128", "fd77::/48"))
    told = Follower(table, "10.9.0.1/24", "fd09::1/64").follow()
    assert told.beyond == set(nets("192.168.7.0/24", "fd77::/48"))
    told.own = faces("10.9.0.1/24", "fd77::1/48")  # other addresses
    assert told.follow().beyond == set(nets("192.168.7.0/24", "fd09::2/128"))


def refuse(*_: Any) -> None:
    raise MachineError("cannot remove a route")


def test_what_the_device_did_not_take_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig("10.9.0.1/24")
    with monkeypatch.context() as patched:
        patched.setattr(rig.device, "change_routes", refuse)
        with pytest.raises(MachineError):
            rig.network.claim(ONE, 1, nets("192.168.7.0/24"))
    rig.network.claim(TWO, 2, nets("192.168.8.0/24"))
    assert rig.device.routes == set(nets("192.168.7.0/24", "192.168.8.0/24")) == rig.network.routes
    assert rig.plane.routes == [("192.168.7.0/24", 1), ("192.168.8.0/24", 2)]


@pytest.mark.parametrize(
    ("addresses", "routes", "part"),
    [
        ((), ("192.0.2.0/24",), "contains its own address"),
        (("192.0.2.9/24",), (), "contains its own address"),
        ((), ("10.1.2.0/24",), "of another peer"),
        (("10.1.0.9/8",), (), "of another peer"),
        ((), ("127.0.0.0/9",), "overlaps 127.0.0.0/8"),
        ((), ("224.0.0.0/8",), "overlaps 224.0.0.0/4"),
        ((), ("fe80::/64",), "overlaps fe80::/10"),
        ((), ("255.255.255.255/32",), "overlaps 255.255.255.255/32"),
        ((), ("203.0.113.0/24",), "the address 203.0.113.7 of a dialled peer"),
        (("2001:db8:5::2/64",), (), "the address 2001:db8:5::1 of a dialled peer"),
        # An address brings its network along: with a short prefix that is a default route.
        (("33.0.0.1/3",), (), "default route"),
        (("2000::1/3",), (), "default route"),
        # And so do many routes, none of which is wide.
        ((), tuple(f"{first}.0.0.0/8" for first in range(20, 100)), "so many IPv4 networks"),
        ((), tuple(f"{first}.0.0.0/9" for first in range(20, 23)), "so many IPv4 networks"),
        ((), ("2400::/12", "2600::/12"), "so many IPv6 networks"),
        (("2a00::1/12",), (), "so many IPv6 networks"),
    ],
)
def test_what_a_gateway_may_not_announce(addresses: tuple[str, ...], routes: tuple[str, ...], part: str) -> None:
    table = AllowedIps()
    table.claim(TWO, nets("10.1.0.0/16"))
    others = {"203.0.113.7", "2001:db8:5::1"}
    reason = table.refusal(ONE, faces(*addresses), nets(*routes), "192.0.2.1", others)
    assert reason is not None
    assert part in reason


def test_what_a_gateway_may_announce() -> None:
    table = AllowedIps()
    table.claim(TWO, nets("10.1.0.0/16"))
    table.claim(ONE, nets("10.9.0.0/24"))
    assert table.refusal(ONE, faces("10.9.0.2/24"), nets("10.9.0.0/24", "10.2.0.0/16", "fd00::/8"), "192.0.2.1") is None
    assert table.refusal(ONE, (), nets("192.0.2.0/24"), "fe80::1%eth0") is None
    private = nets("10.128.0.0/9", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
    public = nets("44.0.0.0/8", "2620::/16")
    assert table.refusal(ONE, (), private + public, "192.0.2.1", {"203.0.113.7"}) is None
    # The same networks twice, as address and as route, count once.
    assert table.refusal(ONE, faces("44.0.0.1/8"), nets("44.0.0.0/8", "44.1.0.0/16"), "192.0.2.1") is None


def test_default_routes_are_not_taken_from_a_gateway_whole_or_in_pieces() -> None:
    routes = nets("0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/2", "::/0", "2000::/3", "10.0.0.0/8", "fc00::/7")
    assert announced(routes) == nets("10.0.0.0/8", "fc00::/7")


def test_small_questions_about_networks() -> None:
    assert covering(nets("10.0.0.0/8"), "10.1.2.3") == ip_network("10.0.0.0/8")
    assert covering(nets("10.0.0.0/8", "::/0"), "192.0.2.1") is None
    assert within(ip_network("10.1.0.0/16"), ip_network("10.0.0.0/8"))
    assert not within(ip_network("10.1.0.0/16"), ip_network("::/0"))
    assert host_networks(faces("10.9.0.2/24", "fd09::2/64")) == nets("10.9.0.2/32", "fd09::2/128")


def test_assigned_addresses_come_go_and_change_with_the_gateway() -> None:
    rig = Rig()
    assert rig.take(addresses=faces("10.9.0.2/24"), routes=nets("10.9.0.0/24", "192.168.7.0/24")) is None
    assert rig.device.addresses == list(faces("10.9.0.2/24"))
    assert rig.device.routes == set(nets("192.168.7.0/24"))
    assert rig.plane.routes == [("10.9.0.0/24", 1), ("192.168.7.0/24", 1)]
    assert rig.network.assigned_by(ONE) == rig.network.addresses == faces("10.9.0.2/24")
    assert rig.take(addresses=faces("10.8.0.2/24"), routes=nets("10.8.0.0/24")) is None
    assert rig.device.addresses == list(faces("10.8.0.2/24"))
    assert rig.device.routes == set()
    assert rig.plane.routes == [("10.8.0.0/24", 1)]
    rig.network.release(ONE)
    assert rig.device.addresses == []
    assert rig.plane.routes == []


def test_configured_address_is_kept_and_a_different_assignment_told() -> None:
    rig = Rig("10.9.0.5/24")
    assert rig.take(addresses=faces("10.9.0.2/24"), routes=nets("192.168.7.0/24")) is None
    assert rig.device.addresses == []
    assert rig.network.allowed(ONE) == nets("10.9.0.0/24", "192.168.7.0/24")
    assert rig.observer.last("other_address")[1:] == (list(nets("10.9.0.2/32")), rig.network.addresses)
    rig.observer.calls.clear()
    assert rig.take(addresses=faces("10.9.0.5/24")) is None
    assert "network_refused" not in rig.observer.names


def test_networks_in_the_configuration_take_the_place_of_announced_ones() -> None:
    rig = Rig("10.9.0.5/24")
    configured = nets("10.9.0.1/32", "0.0.0.0/0")
    assert rig.take(routes=nets("192.168.7.0/24", "192.0.2.0/24"), configured=configured) is None
    assert rig.network.allowed(ONE) == configured


def test_refused_parameters_change_nothing() -> None:
    rig = Rig()
    assert rig.take(addresses=faces("10.9.0.2/24"), routes=nets("192.168.7.0/24")) is None
    before = rig.plane.routes, set(rig.device.routes), list(rig.device.addresses)
    assert rig.take(addresses=faces("10.8.0.2/24"), routes=nets("192.0.2.0/24")) is not None
    assert rig.take(TWO, 2, addresses=faces("172.16.0.2/24"), routes=nets("192.168.0.0/16")) is not None
    assert (rig.plane.routes, rig.device.routes, rig.device.addresses) == before


def test_two_gateways_with_the_same_network_do_not_mix() -> None:
    rig = Rig()
    assert rig.take(addresses=faces("10.9.0.2/24")) is None
    assert "of another peer" in (rig.take(TWO, 2, addresses=faces("10.9.0.3/24")) or "")
    assert rig.take(TWO, 2, addresses=faces("10.8.0.3/24")) is None
    assert rig.plane.routes == [("10.8.0.0/24", 2), ("10.9.0.0/24", 1)]


def test_peer_that_stands_by_is_told() -> None:
    rig = Rig("10.9.0.1/24")
    assert rig.network.claim(ONE, 1, nets("192.168.7.0/24")) == ()
    assert rig.network.claim(TWO, 2, nets("192.168.7.0/24", "192.168.8.0/24")) == nets("192.168.7.0/24")
    assert rig.observer.last("network_standby") == (TWO, nets("192.168.7.0/24"))
    told = rig.observer.names.count("network_standby")
    rig.network.claim(TWO, 2, nets("192.168.7.0/24", "192.168.8.0/24"))
    assert rig.observer.names.count("network_standby") == told
    assert rig.plane.routes == [("192.168.7.0/24", 1), ("192.168.8.0/24", 2)]


def test_mtu_follows_the_gateway_that_takes_most() -> None:
    rig = Rig()
    assert rig.take(addresses=faces("10.9.0.2/24"), mtu=1380) is None
    assert rig.device.mtu == rig.network.mtu == 1380
    assert rig.take(TWO, 2, addresses=faces("10.8.0.2/24"), mtu=9000) is None
    assert rig.device.mtu == 1420
    rig.network.release(TWO)
    assert rig.device.mtu == 1380
    rig.network.release(ONE)
    assert rig.device.mtu == 1420


def test_mtu_too_small_for_ipv6_is_refused() -> None:
    rig = Rig()
    assert "too small for IPv6" in (rig.take(addresses=faces("fd09::2/64"), mtu=1200) or "")
    assert rig.take(addresses=faces("10.9.0.2/24"), mtu=1200) is None


def test_kernel_that_refuses_an_address_is_no_crash() -> None:
    rig = Rig()
    rig.device.refuse = set(faces("10.9.0.2/24"))
    assert rig.take(addresses=faces("10.9.0.2/24")) == "cannot add 10.9.0.2/24"
    rig.network.claim(ONE, 1, nets("192.168.7.0/24", "192.168.8.0/24"))
    assert rig.device.routes == set(nets("192.168.7.0/24", "192.168.8.0/24"))


def test_gateway_without_an_address_for_a_dialer_without_one_is_told() -> None:
    rig = Rig()
    assert rig.take(routes=nets("10.9.0.0/24")) is None
    assert "no_tunnel_address" in rig.observer.names


def test_missing_forwarding_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryprq.inner.network._forwards", lambda version: version == 6)
    rig = Rig("10.9.0.1/24")
    rig.network.check_forwarding(nets("192.168.7.0/24", "fd77::/48"))
    rig.network.check_forwarding(nets("192.168.8.0/24"))
    assert [args for name, args, _ in rig.observer.calls if name == "forwarding_off"] == [("net.ipv4.ip_forward",)]


def test_successor_has_the_network_at_once_and_without_a_warning() -> None:
    """Whoever was there before, who has it again when the successor is gone."""
    rig = Rig("10.9.0.5/24")
    for handle, peer in enumerate((ONE, TWO), 1):
        rig.network.claim(peer, handle, nets("192.168.7.0/24"))
    there = {ONE}

    def elect() -> None:
        rig.network.elect(there.__contains__, lambda _: 0, lambda new, old: (new, old) == (TWO, ONE))

    elect()
    assert rig.plane.routes == [("192.168.7.0/24", 1)]
    there.add(TWO)
    elect()
    assert rig.plane.routes == [("192.168.7.0/24", 2)]
    assert rig.observer.last("peer_succeeded") == (TWO, list(nets("192.168.7.0/24")), ONE)
    elect()
    assert rig.plane.routes == [("192.168.7.0/24", 2)]
    there.remove(TWO)
    elect()
    assert rig.plane.routes == [("192.168.7.0/24", 1)]
    assert rig.observer.last("peer_succeeded") == (ONE, list(nets("192.168.7.0/24")), TWO)
    assert "network_taken_over" not in rig.observer.names
