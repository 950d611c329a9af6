"""Who is permitted, with which networks, and which addresses a listener gives out."""

import json
import os
import stat
from collections.abc import Callable
from ipaddress import IPv4Interface, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryprq.config.node_config import NodeConfig
from cryprq.inner.allowlist import Allowlist
from cryprq.inner.leases import LeaseError, Leases, capacity, lease_path
from cryprq.multiaddr import Multiaddr
from cryprq.node.roster import allowlist_of
from cryprq.peer_id import PeerId

LISTEN = Multiaddr.parse("/ip6/::/udp/9999/quic-v1")
V4, V6 = ip_interface("10.9.0.1/24"), ip_interface("fd00:9::1/64")


def peer(number: int) -> PeerId:
    return PeerId(number.to_bytes(32, "big"))


A, B, C, D = (peer(number) for number in range(1, 5))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "leases.json"


def text(addresses: tuple[object, ...]) -> list[str]:
    return [str(address) for address in addresses]


# ---- leases ----


def test_first_free_host_after_the_gateway_in_each_network(path: Path) -> None:
    leases = Leases(path, [V4, V6])
    assert text(leases.address_for(A)) == ["10.9.0.2/24", "fd00:9::2/64"]
    assert text(leases.address_for(B)) == ["10.9.0.3/24", "fd00:9::3/64"]
    assert text(leases.address_for(A)) == ["10.9.0.2/24", "fd00:9::2/64"]


def test_kept_across_restarts_whatever_the_order(path: Path) -> None:
    first = {number: Leases(path, [V4, V6]).address_for(peer(number)) for number in range(5)}
    again = Leases(path, [V4, V6])
    assert {number: again.address_for(peer(number)) for number in reversed(range(5))} == first


def test_file_is_private_complete_and_alone(path: Path) -> None:
    leases = Leases(path, [V4])
    assert not path.exists(), "nothing was given yet"
    leases.address_for(A)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert json.loads(path.read_text()) == {"version": 1, "leases": {str(A): ["10.9.0.2"]}}
    assert os.listdir(path.parent) == [path.name]


def test_unchanged_lease_writes_nothing(path: Path) -> None:
    leases = Leases(path, [V4])
    leases.address_for(A)
    path.unlink()  # a write would bring it back
    leases.address_for(A)
    assert not path.exists()


@pytest.mark.parametrize(
    ("gateway", "given"),
    [
        ("10.9.0.1/30", ["10.9.0.2"]),
        ("10.9.0.2/30", ["10.9.0.1"]),
        ("10.9.0.253/29", ["10.9.0.254", "10.9.0.249", "10.9.0.250", "10.9.0.251", "10.9.0.252"]),
        ("10.9.0.0/31", ["10.9.0.1"]),
        ("10.9.0.1/31", ["10.9.0.0"]),
        ("10.9.0.1/32", []),
        ("fd00::1/126", ["fd00::2", "fd00::3"]),
        ("fd00::3/126", ["fd00::1", "fd00::2"]),
        ("fd00::1/127", ["fd00::"]),
        ("fd00::1/128", []),
    ],
)
def test_only_hosts_are_given_and_then_the_network_is_full(path: Path, gateway: str, given: list[str]) -> None:
    leases = Leases(path, [ip_interface(gateway)])
    got = [str(leases.address_for(peer(number))[0].ip) for number in range(len(given))]
    assert got == given
    with pytest.raises(LeaseError, match="no free address in") as caught:
        leases.address_for(peer(99))
    assert "\n" not in str(caught.value)
    assert [str(leases.address_for(peer(number))[0].ip) for number in range(len(given))] == given


def test_full_network_takes_back_what_nobody_may_use(path: Path) -> None:
    leases = Leases(path, [ip_interface("10.9.0.1/29")])
    for number in range(5):
        leases.address_for(peer(number))
    allowed = {peer(number) for number in range(2, 10)}
    assert text(leases.address_for(peer(5), permitted=allowed.__contains__)) == ["10.9.0.2/29"]
    assert set(json.loads(path.read_text())["leases"]) == {str(peer(number)) for number in range(2, 6)}


def test_number_of_leases_is_bounded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryprq.inner.leases.LEASES_MAX", 3)
    leases = Leases(path, [V6])
    for number in range(3):
        leases.address_for(peer(number))
    with pytest.raises(LeaseError, match="3 peers have one"):
        leases.address_for(peer(3))
    assert text(leases.address_for(peer(0))) == ["fd00:9::2/64"]
    allowed = {peer(1), peer(2), peer(3)}
    assert text(leases.address_for(peer(3), permitted=allowed.__contains__)) == ["fd00:9::2/64"]
    assert len(json.loads(path.read_text())["leases"]) == 3


def test_free_addresses_are_used_before_any_is_taken_back(path: Path) -> None:
    leases = Leases(path, [V4])
    leases.address_for(A)
    assert text(leases.address_for(B, permitted=lambda _: False)) == ["10.9.0.3/24"]
    assert text(leases.address_for(A)) == ["10.9.0.2/24"]


def test_networks_of_others_are_avoided(path: Path) -> None:
    leases = Leases(path, [V4, V6])
    avoid = [ip_network(cidr) for cidr in ("10.9.0.0/25", "10.9.0.128/31", "fd00:9::/65", "10.5.0.0/16")]
    assert text(leases.address_for(A, avoid=avoid)) == ["10.9.0.130/24", "fd00:9:0:0:8000::/64"]


def test_lease_moves_out_of_a_network_that_another_peer_was_given(path: Path) -> None:
    leases = Leases(path, [V4, V6])
    leases.address_for(A)
    moved = leases.address_for(A, avoid=[ip_network("10.9.0.2/32")])
    assert text(moved) == ["10.9.0.3/24", "fd00:9::2/64"]
    assert Leases(path, [V4, V6]).address_for(A) == moved


def test_gateways_own_new_address_is_not_a_lease(path: Path) -> None:
    Leases(path, [V4]).address_for(A)
    assert text(Leases(path, [ip_interface("10.9.0.2/24")]).address_for(A)) == ["10.9.0.3/24"]


def test_another_tunnel_network_and_one_more(path: Path) -> None:
    Leases(path, [V4]).address_for(A)
    assert text(Leases(path, [V4, V6]).address_for(A)) == ["10.9.0.2/24", "fd00:9::2/64"]
    assert text(Leases(path, [ip_interface("10.8.0.1/16"), V6]).address_for(A)) == ["10.8.0.2/16", "fd00:9::2/64"]


DAMAGE: list[Callable[[str], str]] = [
    lambda good: "",
    lambda good: good[:-5],
    lambda good: "[]",
    lambda good: "null",
    lambda good: '{"version": 1}',
    lambda good: good.replace('"version": 1', '"version": 2'),
    lambda good: good.replace(str(A), "Qm123"),
    lambda good: good.replace("10.9.0.2", "10.9.0.256"),
    lambda good: good.replace("10.9.0.2", "10.9.0.3"),
    lambda good: good.replace('"10.9.0.2"', "5"),
    lambda good: '{"version": 1, "leases": []}',
    lambda good: "[" * 100_000,
    lambda good: "\xff",
]


@pytest.mark.parametrize("number", range(len(DAMAGE)))
def test_damaged_file_is_refused_and_kept(path: Path, number: int) -> None:
    leases = Leases(path, [V4])
    leases.address_for(A)
    leases.address_for(B)
    data = DAMAGE[number](path.read_text()).encode("latin-1")
    path.write_bytes(data)
    with pytest.raises(LeaseError, match="are damaged") as caught:
        Leases(path, [V4])
    assert caught.value.exit_status == 1
    assert path.read_bytes() == data


def test_unreadable_and_unwritable_files_say_so(tmp_path: Path) -> None:
    with pytest.raises(LeaseError, match="cannot read the leases"):
        Leases(tmp_path, [V4])
    leases = Leases(tmp_path / "missing" / "leases.json", [V4])
    with pytest.raises(LeaseError, match="cannot write the leases"):
        leases.address_for(A)


def test_trying_to_write_leaves_nothing_and_says_what_is_in_the_way(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leases = Leases(path, [V4])
    leases.try_to_write()
    assert os.listdir(path.parent) == []
    leases.address_for(A)
    before = path.read_bytes()
    leases.try_to_write()
    assert (path.read_bytes(), os.listdir(path.parent)) == (before, [path.name])

    def refuse(descriptor: int, *_: object, **__: object) -> None:
        os.close(descriptor)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("cryprq.inner.leases.open", refuse, raising=False)
        with pytest.raises(LeaseError, match=r"cannot write the leases .*: No space left on device"):
            leases.try_to_write()
    assert os.listdir(path.parent) == [path.name]
    missing = Leases(path.parent / "missing" / "leases.json", [V4])
    with pytest.raises(LeaseError, match="No such file or directory"):
        missing.try_to_write()


def test_failed_write_leaves_the_old_file_and_no_rubbish(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leases = Leases(path, [V4])
    leases.address_for(A)
    before = path.read_bytes()

    def fail(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(LeaseError, match="No space left on device"):
            leases.address_for(B)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]
    assert text(leases.address_for(B)) == ["10.9.0.3/24"]


def test_lease_path_lies_beside_the_identity_or_where_it_can_be_written() -> None:
    credential = Path("/run/credentials/cryprq-node.service/identity")
    assert lease_path(credential, "tun1", Path("/var/lib/x")) == Path("/var/lib/x/identity.tun1.leases.json")
    assert lease_path(Path("/var/lib/cryprq/identity"), "tun1") == Path("/var/lib/cryprq/identity.tun1.leases.json")


@pytest.mark.parametrize(
    ("gateway", "avoid", "room"),
    [
        ("10.9.0.1/24", [], 253),
        ("10.9.0.1/30", [], 1),
        ("10.9.0.0/31", [], 1),
        ("10.9.0.1/32", [], 0),
        ("10.9.0.1/24", ["10.9.0.0/25", "10.9.0.4/32", "192.168.0.0/16"], 127),
        ("10.9.0.1/24", ["10.0.0.0/8"], 0),
        ("fd00:9::1/120", [], 254),
        ("fd00:9::1/64", ["fd00:9::/65"], 2**63),
    ],
)
def test_capacity_is_every_host_that_can_be_given(gateway: str, avoid: list[str], room: int) -> None:
    assert capacity(ip_interface(gateway), [ip_network(block) for block in avoid]) == room


@given(st.data())
def test_addresses_are_unique_hosts_outside_what_is_avoided(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("leases") / "leases.json"
    host = data.draw(st.integers(1, 30))
    gateway = IPv4Interface(f"10.9.0.{host}/27")
    avoid = [
        ip_network((int(ip_network("10.9.0.0/27").network_address) + start, prefix), strict=False)
        for start, prefix in data.draw(st.lists(st.tuples(st.integers(0, 31), st.integers(29, 32)), max_size=3))
    ]
    free = [
        address
        for address in gateway.network.hosts()
        if address != gateway.ip and not any(address in network for network in avoid)
    ]
    leases = Leases(path, [gateway])
    given_out = []
    for number in range(len(free)):
        if number < 3 or number == len(free) - 1:  # every write is synced to the disk: a few are enough
            given_out.append(leases.address_for(peer(number), avoid=avoid)[0].ip)
    assert len(set(given_out)) == len(given_out)
    assert set(given_out) <= set(free)
    assert capacity(gateway, avoid) == len(free)
    order = sorted(free, key=lambda address: (address < gateway.ip, address))
    assert given_out == order[: len(given_out)]


# ---- the allowlist ----


def config(**changes: Any) -> NodeConfig:
    base: dict[str, Any] = {"listen": LISTEN, "tun_addresses": (V4, V6)}
    return NodeConfig(**(base | changes))


def dial(*peers: PeerId) -> tuple[Multiaddr, ...]:
    return tuple(Multiaddr("ip4", "192.0.2.1", 9999, name) for name in peers)


def test_default_deny(path: Path) -> None:
    allowlist = allowlist_of(config(), Leases(path, [V4, V6]))
    assert not allowlist.permits(A)
    assert allowlist.networks_for(A) == ()
    assert allowlist.assignment_for(A) == ()
    assert not path.exists(), "a stranger gets no lease"


def test_peer_with_networks_gets_no_address(path: Path) -> None:
    networks = (ip_network("10.1.0.0/16"), ip_network("fd00:1::/64"))
    allowlist = allowlist_of(config(allow_peers={A: networks}), Leases(path, [V4, V6]))
    assert allowlist.permits(A)
    assert allowlist.networks_for(A) == networks
    assert allowlist.assignment_for(A) == ()


def test_peer_without_networks_gets_an_address_and_may_use_only_that(path: Path) -> None:
    allowlist = allowlist_of(config(allow_peers={A: ()}), Leases(path, [V4, V6]))
    assert text(allowlist.assignment_for(A)) == ["10.9.0.2/24", "fd00:9::2/64"]
    assert text(allowlist.networks_for(A)) == ["10.9.0.2/32", "fd00:9::2/128"]


def test_assigned_address_is_never_in_a_network_given_by_hand(path: Path) -> None:
    allow = {A: (), B: (ip_network("10.9.0.2/32"), ip_network("fd00:9::/120"))}
    allowlist = allowlist_of(config(allow_peers=allow), Leases(path, [V4, V6]))
    assert text(allowlist.assignment_for(A)) == ["10.9.0.3/24", "fd00:9::100/64"]


def test_dialled_peer_is_allowed_by_being_dialled(path: Path) -> None:
    allowlist = allowlist_of(
        config(peers=dial(A, B), allow_peers={B: (ip_network("10.1.0.0/16"),)}), Leases(path, [V4, V6])
    )
    assert allowlist.dialled == {A, B}
    assert allowlist.permits(A)
    assert text(allowlist.networks_for(A)) == ["10.9.0.0/24", "fd00:9::/64"]
    assert text(allowlist.networks_for(B)) == ["10.1.0.0/16"]
    assert allowlist.assignment_for(A) == allowlist.assignment_for(B) == ()


def test_pool_counts_those_that_may_connect_and_have_an_address(path: Path) -> None:
    leases = Leases(path, [V4, V6])
    both = Allowlist({A: (), B: (), C: (ip_network("10.9.0.64/26"),)}, leases=leases)
    assert both.pools == ((V4.network, 253 - 64), (V6.network, 2**64 - 2))
    assert [both.used(network) for network, _ in both.pools] == [0, 0]
    both.networks_for(A)
    both.networks_for(C)
    assert [both.used(network) for network, _ in both.pools] == [1, 1]
    assert Allowlist({B: ()}, leases=leases).used(V4.network) == 0
    assert Allowlist({A: ()}).pools == ()


def test_pure_dialer_needs_no_leases() -> None:
    allowlist = allowlist_of(NodeConfig(peers=dial(A), allow_peers={B: ()}), None)
    assert allowlist.networks_for(A) == ()
    assert allowlist.permits(B)
    assert allowlist.networks_for(B) == allowlist.assignment_for(B) == ()


def test_allow_any_permits_and_assigns(path: Path) -> None:
    allowlist = allowlist_of(config(allow_any=True), Leases(path, [V4, V6]))
    assert allowlist.permits(D)
    assert text(allowlist.networks_for(D)) == ["10.9.0.2/32", "fd00:9::2/128"]


def test_addresses_of_guests_who_are_not_here_go_to_others_when_there_is_no_other(path: Path) -> None:
    gateway = ip_interface("10.9.0.1/29")  # five hosts besides
    leases, here = Leases(path, [gateway]), {peer(10), peer(12)}
    anybody = allowlist_of(
        config(tun_addresses=(gateway,), allow_peers={A: ()}, allow_any=True), leases, here.__contains__
    )
    given = {guest: anybody.assignment_for(guest) for guest in (A, *map(peer, range(10, 14)))}
    assert len(set(given.values())) == 5
    anybody.assignment_for(peer(11))  # it was here once more, after 13
    assert anybody.assignment_for(peer(20)) == given[peer(13)]
    assert Leases(path, [gateway]).address_for(peer(11)) == given[peer(11)]
    assert anybody.assignment_for(peer(13)) == given[peer(11)]
    for number in range(30, 40):  # whoever comes, A, 10 and 12 keep theirs
        taken = anybody.assignment_for(peer(number))
        assert taken not in (given[A], given[peer(10)], given[peer(12)])
    here |= {peer(38), peer(39)}
    with pytest.raises(LeaseError, match="no free address"):
        anybody.assignment_for(peer(50))


def test_difference_names_those_that_lost_permission(path: Path) -> None:
    leases = Leases(path, [V4, V6])
    old = allowlist_of(config(allow_peers={A: (), B: ()}, peers=dial(C)), leases)
    new = allowlist_of(config(allow_peers={B: (ip_network("10.1.0.0/16"),), D: ()}), leases)
    assert old.difference(new) == {A, C}
    assert new.difference(old) == {D}
    assert old.difference(allowlist_of(config(allow_any=True), leases)) == set()
    assert old.named == {A, B, C}


def test_reload_takes_back_the_addresses_of_removed_peers_when_needed(path: Path) -> None:
    gateway = ip_interface("10.9.0.1/30")
    leases = Leases(path, [gateway])
    old = allowlist_of(config(tun_addresses=(gateway,), allow_peers={A: ()}), leases)
    assert text(old.assignment_for(A)) == ["10.9.0.2/30"]
    both = allowlist_of(config(tun_addresses=(gateway,), allow_peers={A: (), B: ()}), leases)
    with pytest.raises(LeaseError):
        both.assignment_for(B)
    new = allowlist_of(config(tun_addresses=(gateway,), allow_peers={B: ()}), leases)
    assert text(new.assignment_for(B)) == ["10.9.0.2/30"]


# ---- successors ----


def test_successor_has_the_lease_for_good(path: Path) -> None:
    leases = Leases(path, [V4])
    before = Allowlist({A: (), C: ()}, leases=leases)
    address = before.assignment_for(A)
    other = before.assignment_for(C)
    during = Allowlist({A: (), B: (), C: ()}, leases=leases, successors={A: B})
    assert during.assignment_for(A) == during.assignment_for(B) == address
    assert during.networks_for(A) == during.networks_for(B)
    assert during.assignment_for(C) == other
    after = Allowlist({B: (), C: ()}, leases=Leases(path, [V4]))
    assert after.assignment_for(B) == address


def test_successor_without_a_lease_to_take_over(path: Path) -> None:
    both = Allowlist({A: (), B: ()}, leases=Leases(path, [V4]), successors={A: B})
    assert text(both.assignment_for(B)) == ["10.9.0.2/24"]
    assert text(both.assignment_for(A)) == ["10.9.0.2/24"]
