"""Which address a peer gets: from the place that its ID gives, hosts alone, and never what somebody else has."""

import json
from collections.abc import Callable
from ipaddress import IPv4Interface, ip_address, ip_interface, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryprq.networks import Interface
from cryprq.peer_id import PeerId
from cryprq.registry import lease_file
from cryprq.registry.entries import Lease
from cryprq.registry.leases import Blocks, Choice, LeaseError, LeaseTable, capacity, leases_fault

V4, V6 = ip_interface("10.9.0.1/24"), ip_interface("fd00:9::1/64")


def peer(number: int, place: int = 0) -> PeerId:
    """A peer whose search begins at this place of a network."""
    return PeerId(place.to_bytes(16, "big") + number.to_bytes(16, "big"))


A, B, C = (peer(number) for number in range(1, 4))


def table(*gateways: Interface, avoid: tuple[str, ...] = ()) -> LeaseTable:
    leases = LeaseTable(gateways)
    leases.avoid = Blocks(map(ip_network, avoid))
    return leases


def give(leases: LeaseTable, to: PeerId, **who: Callable[[PeerId], bool]) -> list[str]:
    """What it gets, noted down."""
    choice = leases.choose(to, **who)
    for other in choice.reclaimed:
        leases.record(other, None)
    leases.record(to, Lease(choice.addresses, 0.0))
    assert leases.usable(to) is not None
    return list(map(str, choice.addresses))


def test_search_begins_where_the_id_says_and_goes_round() -> None:
    leases = table(V4, V6)
    assert give(leases, A) == ["10.9.0.2", "fd00:9::2"], "neither the network nor the gateway itself"
    assert give(leases, B) == ["10.9.0.3", "fd00:9::3"]
    assert give(leases, peer(7, 200)) == ["10.9.0.200", "fd00:9::c8"]
    assert give(leases, peer(8, 200)) == ["10.9.0.201", "fd00:9::c9"]
    assert give(leases, peer(9, 255)) == ["10.9.0.4", "fd00:9::ff"], "not the broadcast address"
    assert give(leases, A) == ["10.9.0.2", "fd00:9::2"], "it keeps what it has"


def test_peers_hardly_ever_begin_at_the_same_place() -> None:
    gateway = ip_interface("10.0.0.1/16")
    ids = [PeerId.of_record(bytes([1, number]) + bytes(1983)) for number in range(200)]
    assert len({table(gateway).choose(each).addresses for each in ids}) > 195


@pytest.mark.parametrize(
    ("gateway", "given"),
    [
        ("10.9.0.1/30", ["10.9.0.2"]),
        ("10.9.0.2/30", ["10.9.0.1"]),
        ("10.9.0.254/29", ["10.9.0.249", "10.9.0.250", "10.9.0.251", "10.9.0.252", "10.9.0.253"]),
        ("10.9.0.0/31", ["10.9.0.1"]),
        ("10.9.0.1/31", ["10.9.0.0"]),
        ("10.9.0.1/32", []),
        ("fd00::1/126", ["fd00::2", "fd00::3"]),
        ("fd00::3/126", ["fd00::1", "fd00::2"]),
        ("fd00::1/127", ["fd00::"]),
        ("fd00::1/128", []),
    ],
)
def test_only_hosts_are_given_and_then_the_network_is_full(gateway: str, given: list[str]) -> None:
    leases = table(ip_interface(gateway))
    assert [give(leases, peer(number)) for number in range(len(given))] == [[address] for address in given]
    with pytest.raises(LeaseError, match="no free address in") as caught:
        leases.choose(peer(99))
    assert "\n" not in str(caught.value)
    assert [give(leases, peer(number)) for number in range(len(given))] == [[address] for address in given]


def test_full_network_takes_back_what_nobody_may_use() -> None:
    leases = table(ip_interface("10.9.0.1/29"))
    for number in range(5):
        give(leases, peer(number))
    allowed = {peer(number) for number in range(2, 10)}
    choice = leases.choose(peer(5), permitted=allowed.__contains__)
    assert choice == Choice((ip_address("10.9.0.2"),), frozenset({peer(0), peer(1)}))


def test_of_guests_who_are_away_the_one_who_has_been_so_longest_gives_its_address() -> None:
    leases = table(ip_interface("10.9.0.1/29"))
    for number in range(5):
        give(leases, peer(number))
        leases.note_use(peer(number), 100.0 + number)
    leases.note_use(peer(1), 200.0)
    away = {peer(1), peer(2), peer(4)}
    assert leases.choose(peer(9), absent_guest=away.__contains__).reclaimed == {peer(2)}
    with pytest.raises(LeaseError):
        leases.choose(peer(9), absent_guest=lambda _: False)


def test_number_of_leases_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cryprq.registry.leases.LEASES_MAX", 3)
    leases = table(V6)
    for number in range(3):
        give(leases, peer(number))
    with pytest.raises(LeaseError, match="3 peers have one"):
        leases.choose(peer(3))
    assert give(leases, peer(0)) == ["fd00:9::2"]
    allowed = {peer(1), peer(2), peer(3)}
    assert give(leases, peer(3), permitted=allowed.__contains__) == ["fd00:9::2"]
    assert len(leases) == 3


def test_free_addresses_are_used_before_any_is_taken_back() -> None:
    leases = table(V4)
    give(leases, A)
    assert give(leases, B, permitted=lambda _: False) == ["10.9.0.3"]
    assert leases.get(A) is not None


def test_what_is_promised_goes_to_nobody_else() -> None:
    leases = table(V4)
    leases.promise(A, leases.choose(A).addresses)
    assert list(map(str, leases.choose(B).addresses)) == ["10.9.0.3"]
    assert list(map(str, leases.choose(A).addresses)) == ["10.9.0.2"]
    leases.promise(A, ())
    assert list(map(str, leases.choose(B).addresses)) == ["10.9.0.2"]


def test_networks_of_others_are_avoided_and_a_lease_there_is_of_no_use() -> None:
    avoid = ("10.9.0.0/25", "10.9.0.128/31", "fd00:9::/65", "10.5.0.0/16")
    assert give(table(V4, V6, avoid=avoid), A) == ["10.9.0.130", "fd00:9:0:0:8000::"]
    leases = table(V4, V6)
    give(leases, A)
    leases.avoid = Blocks([ip_network("10.9.0.2/32")])
    assert leases.usable(A) is None
    assert leases.inside([ip_network("10.9.0.0/29")]) and not leases.inside([ip_network("10.9.0.8/29")])
    assert give(leases, A) == ["10.9.0.3", "fd00:9::2"], "only what has to move does"


def test_another_gateway_address_and_another_network_are_taken_into_account() -> None:
    for gateways, wanted in (
        ([ip_interface("10.9.0.2/24")], ["10.9.0.1"]),
        ([V4, V6], ["10.9.0.2", "fd00:9::2"]),
        ([ip_interface("10.8.0.1/16"), V6], ["10.8.0.2", "fd00:9::2"]),
    ):
        leases = table(*gateways)
        leases.record(A, Lease((ip_address("10.9.0.2"),), 0.0))
        assert leases.usable(A) is None
        assert give(leases, A) == wanted


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
def test_addresses_are_unique_hosts_outside_what_is_avoided(data: st.DataObject) -> None:
    gateway = IPv4Interface(f"10.9.0.{data.draw(st.integers(1, 30))}/27")
    avoid = [
        ip_network((int(ip_network("10.9.0.0/27").network_address) + start, prefix), strict=False)
        for start, prefix in data.draw(st.lists(st.tuples(st.integers(0, 31), st.integers(29, 32)), max_size=3))
    ]
    free = {
        str(address)
        for address in gateway.network.hosts()
        if address != gateway.ip and not any(address in network for network in avoid)
    }
    leases = table(gateway, avoid=tuple(map(str, avoid)))
    places = data.draw(st.lists(st.integers(0, 31), min_size=len(free), max_size=len(free)))
    given_out = [give(leases, peer(number, place))[0] for number, place in enumerate(places)]
    assert len(set(given_out)) == len(given_out)
    assert set(given_out) == free
    assert capacity(gateway, avoid) == len(free)
    with pytest.raises(LeaseError):
        leases.choose(peer(99))


def test_an_address_that_two_peers_have_is_a_fault() -> None:
    one, two = Lease((ip_address("10.9.0.2"),), 0.0), Lease((ip_address("10.9.0.3"),), 0.0)
    assert leases_fault({A: one, B: two}) is None
    assert leases_fault({A: one, B: two, C: one}) == f"10.9.0.2 is given to {A} and to {C}"


# ---- the file from before ----

GOOD = json.dumps({"version": 1, "leases": {str(A): ["10.9.0.2", "fd00:9::2"], str(B): ["10.9.0.3"]}})


def test_file_from_before_is_read(tmp_path: Path) -> None:
    path = tmp_path / "leases.json"
    assert lease_file.read(path) == {}
    path.write_text(GOOD)
    assert lease_file.read(path) == {
        A: (ip_address("10.9.0.2"), ip_address("fd00:9::2")),
        B: (ip_address("10.9.0.3"),),
    }


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
def test_damaged_file_is_refused_and_kept(tmp_path: Path, number: int) -> None:
    path = tmp_path / "leases.json"
    data = DAMAGE[number](GOOD).encode("latin-1")
    path.write_bytes(data)
    with pytest.raises(LeaseError, match="are damaged") as caught:
        lease_file.read(path)
    assert caught.value.exit_status == 1
    assert path.read_bytes() == data


def test_unreadable_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(LeaseError, match="cannot read the leases"):
        lease_file.read(tmp_path)


def test_file_lies_beside_the_identity_or_where_it_can_be_written() -> None:
    credential = Path("/run/credentials/cryprq-node.service/identity")
    path = lease_file.lease_path(credential, "tun1", Path("/var/lib/x"))
    assert path == Path("/var/lib/x/identity.tun1.leases.json")
    assert lease_file.lease_path(Path("/x/identity"), "tun1") == Path("/x/identity.tun1.leases.json")
