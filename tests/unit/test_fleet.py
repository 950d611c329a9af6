"""Who is permitted, with which networks and addresses: what the configuration declares and what a store holds."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from cryprq.config.node_config import NodeConfig
from cryprq.config.psk_file import PskError
from cryprq.errors import CryprqError
from cryprq.multiaddr import Multiaddr
from cryprq.node.roster import declaration_of
from cryprq.peer_id import PeerId
from cryprq.registry.commands import Desk, Refused
from cryprq.registry.database import Database
from cryprq.registry.entries import Lease, PeerEntry, address_keys, lease_key
from cryprq.registry.fleet import DAY, Declaration, Fleet
from cryprq.registry.leases import LeaseError, LeasePending
from cryprq.registry.memory import MemoryStore
from cryprq.registry.sqlite import SqliteStore
from cryprq.registry.store import Compacted, Contents, Damaged, Note, Op, Put, Store, Unavailable, Unknown

LISTEN = Multiaddr.parse("/ip6/::/udp/9999/quic-v1")
V4, V6 = ip_interface("10.9.0.1/24"), ip_interface("fd00:9::1/64")


def peer(number: int) -> PeerId:
    """One whose addresses begin at the beginning of a network."""
    return PeerId(bytes(16) + hashlib.sha256(bytes([number])).digest()[:16])


A, B, C, D = (peer(number) for number in range(1, 5))


def text(addresses: tuple[object, ...]) -> list[str]:
    return [str(address) for address in addresses]


def config(**changes: Any) -> NodeConfig:
    base: dict[str, Any] = {"listen": LISTEN, "tun_addresses": (V4, V6)}
    return NodeConfig(**(base | changes))


def dial(*peers: PeerId) -> tuple[Multiaddr, ...]:
    return tuple(Multiaddr("ip4", "192.0.2.1", 9999, name) for name in peers)


class Rig:
    """A fleet that runs, on a store that outlives it; ``now`` is the time."""

    def __init__(self, store: Store | None = None) -> None:
        self.store = store if store is not None else MemoryStore()
        self.now = 1_000_000.0
        self.here: set[PeerId] = set()
        self.told: list[frozenset[PeerId]] = []
        self.defects: list[Exception] = []

    async def start(self, config: NodeConfig, store: Store | None = None) -> Fleet:
        self.fleet = Fleet(
            store if store is not None else self.store,
            declaration_of(config),
            gateways=config.tun_addresses if config.listen else None,
            clock=lambda: self.now,
            is_here=lambda peer_id: peer_id in self.here,
            failed=self.defects.append,
        )
        self.fleet.on_change(self.told.append)
        await self.fleet.start()
        return self.fleet

    async def ask(self, do: str, peer_id: object = None, **fields: Any) -> Any:
        request = {"do": do, **({} if peer_id is None else {"peer": str(peer_id)}), **fields}
        return await Desk(self.fleet, now=self.now, who="tester", own=D).answer(request)


def run(body: Callable[[Rig], Awaitable[None]], rig: Rig | None = None) -> None:
    async def whole() -> None:
        used = rig if rig is not None else Rig()
        try:
            async with asyncio.timeout(20):
                await body(used)
        finally:
            if hasattr(used, "fleet"):
                await used.fleet.close()
        assert used.defects == []

    asyncio.run(whole())


# ---- what the configuration declares ----


def test_default_deny() -> None:
    async def body(rig: Rig) -> None:
        fleet = await rig.start(config())
        assert not fleet.permits(A)
        assert fleet.networks(A) == fleet.lease(A) == await fleet.ensure_lease(A) == ()
        assert (await rig.store.load()).revision == 0, "a stranger gets no lease"

    run(body)


def test_peer_with_networks_gets_no_address() -> None:
    async def body(rig: Rig) -> None:
        networks = (ip_network("10.1.0.0/16"), ip_network("fd00:1::/64"))
        fleet = await rig.start(config(allow_peers={A: networks}))
        assert fleet.permits(A)
        assert fleet.networks(A) == networks
        assert await fleet.ensure_lease(A) == ()

    run(body)


def test_peer_without_networks_gets_an_address_once_it_is_written_down_and_may_use_only_that() -> None:
    async def body(rig: Rig) -> None:
        fleet = await rig.start(config(allow_peers={A: ()}))
        with pytest.raises(LeasePending):
            fleet.networks(A)
        assert text(await fleet.ensure_lease(A)) == ["10.9.0.2/24", "fd00:9::2/64"]
        assert text(fleet.networks(A)) == ["10.9.0.2/32", "fd00:9::2/128"]
        entries = (await rig.store.load()).entries
        assert set(entries) == {lease_key(A), "lease/a/10.9.0.2", "lease/a/fd00:9::2"}
        await fleet.close()
        assert text((await rig.start(config(allow_peers={A: ()}))).lease(A)) == ["10.9.0.2/24", "fd00:9::2/64"]

    run(body)


def test_assigned_address_is_never_in_a_network_given_by_hand() -> None:
    async def body(rig: Rig) -> None:
        allow = {A: (), B: (ip_network("10.9.0.2/32"), ip_network("fd00:9::/120"))}
        fleet = await rig.start(config(allow_peers=allow))
        assert text(await fleet.ensure_lease(A)) == ["10.9.0.3/24", "fd00:9::100/64"]
        fleet.declare(declaration_of(config(allow_peers={**allow, C: (ip_network("10.9.0.3/32"),)})))
        with pytest.raises(LeasePending):
            fleet.lease(A)
        assert text(await fleet.ensure_lease(A)) == ["10.9.0.4/24", "fd00:9::100/64"]
        assert "lease/a/10.9.0.3" not in (await rig.store.load()).entries

    run(body)


def test_dialled_peer_is_allowed_by_being_dialled() -> None:
    async def body(rig: Rig) -> None:
        fleet = await rig.start(config(peers=dial(A, B), allow_peers={B: (ip_network("10.1.0.0/16"),)}))
        assert fleet.dialled == fleet.named == {A, B}
        assert fleet.permits(A)
        assert text(fleet.networks(A)) == ["10.9.0.0/24", "fd00:9::/64"]
        assert text(fleet.networks(B)) == ["10.1.0.0/16"]
        assert await fleet.ensure_lease(A) == await fleet.ensure_lease(B) == ()

    run(body)


def test_pool_counts_those_that_may_connect_and_have_an_address() -> None:
    async def body(rig: Rig) -> None:
        fleet = await rig.start(config(allow_peers={A: (), B: (), C: (ip_network("10.9.0.64/26"),)}))
        assert fleet.pools == ((V4.network, 253 - 64), (V6.network, 2**64 - 2))
        assert [fleet.used(network) for network, _ in fleet.pools] == [0, 0]
        await fleet.ensure_lease(A)
        await fleet.ensure_lease(C)
        assert [fleet.used(network) for network, _ in fleet.pools] == [1, 1]
        fleet.declare(declaration_of(config(allow_peers={B: ()})))
        assert fleet.used(V4.network) == 0
        assert fleet.pools[0] == (V4.network, 253)

    run(body)


def test_pure_dialer_gives_no_addresses() -> None:
    async def body(rig: Rig) -> None:
        fleet = await rig.start(NodeConfig(peers=dial(A), allow_peers={B: ()}))
        assert fleet.networks(A) == fleet.pools == ()
        assert fleet.permits(B)
        assert fleet.networks(B) == await fleet.ensure_lease(B) == ()

    run(body)


def test_many_that_come_at_once_have_an_address_each() -> None:
    async def body(rig: Rig) -> None:
        fleet = await rig.start(config(allow_any=True))
        found = await asyncio.gather(*(fleet.ensure_lease(peer(number % 60)) for number in range(120)))
        assert len(set(found)) == 60
        assert found[:60] == found[60:]

    run(body)


def test_two_nodes_with_one_store_never_give_one_address_twice() -> None:
    async def body(rig: Rig) -> None:
        gateway = config(tun_addresses=(V4,), allow_any=True)
        one = await rig.start(gateway)
        other = Fleet(rig.store, declaration_of(gateway), gateways=(V4,), clock=lambda: rig.now)
        await other.start()
        found = await asyncio.gather(
            *(fleet.ensure_lease(peer(2 * i + n)) for i in range(40) for n, fleet in enumerate((one, other)))
        )
        assert len(set(found)) == 80
        await other.close()

    run(body)


def test_addresses_of_guests_who_are_not_here_go_to_others_when_there_is_no_other() -> None:
    async def body(rig: Rig) -> None:
        gateway = ip_interface("10.9.0.1/29")  # five hosts besides
        fleet = await rig.start(config(tun_addresses=(gateway,), allow_peers={A: ()}, allow_any=True))
        rig.here |= {peer(10), peer(12)}
        given = {}
        for guest in (A, *map(peer, range(10, 14))):
            rig.now += 1
            given[guest] = await fleet.ensure_lease(guest)
        assert len(set(given.values())) == 5
        rig.now += 1
        fleet.lease(peer(11))  # it was here once more, after 13
        assert await fleet.ensure_lease(peer(20)) == given[peer(13)]
        assert await fleet.ensure_lease(peer(13)) == given[peer(11)]
        for number in range(30, 40):  # whoever comes, A, 10 and 12 keep theirs
            rig.now += 1
            taken = await fleet.ensure_lease(peer(number))
            assert taken not in (given[A], given[peer(10)], given[peer(12)])
        rig.here |= {peer(38), peer(39)}
        with pytest.raises(LeaseError, match="no free address"):
            await fleet.ensure_lease(peer(50))

    run(body)


def test_removed_peers_give_their_addresses_back_when_needed() -> None:
    async def body(rig: Rig) -> None:
        one = {"tun_addresses": (ip_interface("10.9.0.1/30"),)}
        fleet = await rig.start(config(**one, allow_peers={A: ()}))
        assert text(await fleet.ensure_lease(A)) == ["10.9.0.2/30"]
        fleet.declare(declaration_of(config(**one, allow_peers={A: (), B: ()})))
        with pytest.raises(LeaseError, match="no free address"):
            await fleet.ensure_lease(B)
        fleet.declare(declaration_of(config(**one, allow_peers={B: ()})))
        assert text(await fleet.ensure_lease(B)) == ["10.9.0.2/30"]

    run(body)


def test_successor_has_the_lease_for_good() -> None:
    async def body(rig: Rig) -> None:
        fleet = await rig.start(config(allow_peers={A: (), C: ()}))
        address, other = await fleet.ensure_lease(A), await fleet.ensure_lease(C)
        fleet.declare(declaration_of(config(allow_peers={A: (), C: ()}, successors={A: B})))
        assert fleet.permits(B)
        assert await fleet.ensure_lease(A) == await fleet.ensure_lease(B) == address
        assert fleet.networks(A) == fleet.networks(B)
        assert fleet.lease(C) == other
        fleet.declare(declaration_of(config(allow_peers={B: (), C: ()})))
        assert fleet.lease(B) == address
        assert lease_key(A) not in (await rig.store.load()).entries

    run(body)


# ---- leases that nobody uses ----


def test_lease_that_is_not_used_is_taken_back_and_use_is_written_down_once_a_day() -> None:
    async def body(rig: Rig) -> None:
        fleet = await rig.start(config(allow_any=True, allow_peers={A: ()}, lease_days=30))
        for number in (A, B, C):
            await fleet.ensure_lease(number)
        revision = (await rig.store.load()).revision
        rig.now += 0.9 * DAY
        rig.here.add(B)
        await fleet.sweep()
        assert (await rig.store.load()).revision == revision, "nothing is written for less than a day"
        rig.now += 0.2 * DAY
        await fleet.sweep()
        assert (await rig.store.load()).revision == revision + 1
        rig.now += 29 * DAY
        fleet.lease(C)
        await fleet.sweep()
        entries = (await rig.store.load()).entries
        assert {lease_key(number) in entries for number in (B, C)} == {True}
        assert lease_key(A) not in entries and "lease/a/10.9.0.2" not in entries
        fleet.declare(replace(declaration_of(config(allow_any=True)), lease_days=0))
        rig.here.clear()
        rig.now += 1000 * DAY
        await fleet.sweep()
        assert lease_key(B) in (await rig.store.load()).entries

    run(body)


def test_leases_from_before_are_adopted_once() -> None:
    async def body(rig: Rig) -> None:
        fleet = await rig.start(config(allow_any=True))
        old = {A: (ip_address("10.9.0.77"), ip_address("fd00:9::77")), B: (ip_address("10.9.0.78"),)}
        await fleet.adopt(old, "done/x")
        assert text(fleet.lease(A)) == ["10.9.0.77/24", "fd00:9::77/64"]
        assert text(await fleet.ensure_lease(B)) == ["10.9.0.78/24", "fd00:9::2/64"]
        await fleet.adopt({C: (ip_address("10.9.0.79"), ip_address("fd00:9::79"))}, "done/x")
        with pytest.raises(LeasePending):
            fleet.lease(C)

    run(body)


# ---- what the store holds ----


def test_peer_that_is_added_may_connect_at_once_and_is_told_of() -> None:
    async def body(rig: Rig) -> None:
        fleet = await rig.start(config())
        row = await rig.ask("add", A, name="Alice", networks=["10.1.0.0/16"], groups=["staff"])
        assert fleet.permits(A)
        assert (row["name"], row["source"], row["permitted"], row["invited_by"]) == (
            "alice",
            "registry",
            True,
            "tester",
        )
        assert text(fleet.networks(A)) == ["10.1.0.0/16"]
        assert rig.told == [frozenset({A})]
        await rig.ask("disable", "alice")
        assert not fleet.permits(A) and fleet.networks(A) == ()
        await rig.ask("enable", str(A)[:12])
        assert fleet.permits(A)
        await rig.ask("rename", "alice", name="bob")
        assert fleet.names == {"bob": A}
        await rig.ask("add", B, name="alice")
        await rig.ask("remove", "bob")
        assert not fleet.permits(A) and fleet.entry(A) is None
        log = [(line["who"], line["did"]) for line in await rig.ask("log")]
        assert log[0] == ("tester", f"added alice ({A}): networks=10.1.0.0/16 groups=staff")
        assert [did.partition(" (")[0] for _, did in log[1:]] == [
            "disabled alice",
            "enabled alice",
            "renamed alice",
            "added alice",
            "removed bob",
        ]

    run(body)


def test_everything_is_there_after_a_restart_and_unknown_fields_are_kept(tmp_path: Path) -> None:
    store_path = tmp_path / "registry"

    async def body(rig: Rig) -> None:
        await rig.start(config(), SqliteStore(store_path))
        await rig.ask("add", A, name="alice", groups=["staff"], expires=2e9)
        key = PeerEntry(peer_id=A).key
        newer = rig.fleet.registered[A].encode().replace(b'{"name"', b'{"colour":"blue","name"')
        await rig.fleet.commit(Put(key, newer))
        await rig.ask("disable", "alice")
        await rig.fleet.close()
        fleet = await rig.start(config(), SqliteStore(store_path))
        entry = fleet.entry(A)
        assert entry is not None and (entry.name, entry.groups, entry.expires, entry.disabled) == (
            *("alice", ("staff",), 2e9, True),
        )
        assert entry.extra == {"colour": "blue"}

    run(body)


def test_configuration_counts_and_cannot_be_changed_by_commands() -> None:
    async def body(rig: Rig) -> None:
        fleet = await rig.start(config(allow_peers={A: (ip_network("10.1.0.0/16"),)}, peers=dial(C)))
        for do, fields in (("remove", {}), ("disable", {}), ("rename", {"name": "x"}), ("expire", {"expires": 1.0})):
            for declared in (A, C):
                with pytest.raises(Refused, match="stands in the configuration"):
                    await rig.ask(do, declared, **fields)
        with pytest.raises(Refused, match="stands in the configuration"):
            await rig.ask("add", A, name="alice")
        assert {row["peer_id"]: (row["source"], row["origin"]) for row in await rig.ask("list")} == {
            str(A): ("config", "--allow-peer"),
            str(C): ("config", "--peer"),
        }
        await rig.ask("add", B, networks=["10.2.0.0/16"])
        fleet.declare(declaration_of(config(allow_peers={B: (ip_network("10.3.0.0/16"),)})))
        assert text(fleet.networks(B)) == ["10.3.0.0/16"]
        with pytest.raises(Refused, match="stands in the configuration"):
            await rig.ask("disable", B)
        await rig.ask("remove", B)  # what the registry has of it can go
        assert fleet.permits(B)

    run(body)


def test_names_are_of_one_peer_each_and_ids_are_checked_for_slips() -> None:
    async def body(rig: Rig) -> None:
        await rig.start(config(allow_peers={C: ()}))
        await rig.ask("add", A, name="alice")
        wrong = str(A)[:20] + ("x" if str(A)[20] != "x" else "y") + str(A)[21:]
        for do, who, fields, told in (
            ("add", B, {"name": "ALICE"}, "alice is .* already"),
            ("add", A, {}, "is known already"),
            ("add", B, {"name": "-no-"}, "is no name for a peer"),
            ("add", B, {"networks": ["10.1.0.1/16"]}, "has host bits set"),
            ("add", B, {"networks": ["10.9.0.1/32"]}, "this node's own --tun-address"),
            ("add", B, {"networks": "10.0.0.0/8"}, "networks are a list"),
            ("add", B, {"expires": "soon"}, "expires is a Unix time"),
            ("add", D, {}, "this node's own peer ID"),
            ("add", wrong, {}, rf"alice \({A}\)"),
            ("add", str(A)[:-1], {}, "is nearly the same"),
            ("add", "alice", {}, "is not a peer ID"),
            ("show", wrong, {}, "did you mean alice|differs|did you mean"),
            ("show", "nobody", {}, "no peer is called 'nobody'"),
            ("show", str(B), {}, "no peer is"),
            ("rename", "alice", {"name": ""}, "lacks name"),
            ("remove", None, {}, "lacks peer"),
            ("dance", None, {}, "unknown request"),
        ):
            with pytest.raises(Refused, match=told) as caught:
                await rig.ask(do, who, **fields)
            assert "\n" not in str(caught.value)
        assert list(rig.fleet.registered) == [A]

    run(body)


def test_successor_in_the_registry_has_the_place_and_then_is_the_peer() -> None:
    async def body(rig: Rig) -> None:
        fleet = await rig.start(config())
        await rig.ask("add", A, name="alice", networks=["10.1.0.0/16"], successor=str(B))
        assert fleet.successors == {A: B} and fleet.permits(B)
        assert text(fleet.networks(B)) == ["10.1.0.0/16"]
        row = await rig.ask("show", A)
        assert row["successor"] == str(B)
        with pytest.raises(Refused, match=f"is the successor of alice .{A}.: change that one"):
            await rig.ask("disable", B)
        await rig.ask("disable", A)
        assert not fleet.permits(A) and not fleet.permits(B)
        await rig.ask("enable", A)
        await rig.ask("add", B)  # it has changed
        assert (fleet.names, dict(fleet.successors)) == ({"alice": B}, {})
        assert not fleet.permits(A) and text(fleet.networks(B)) == ["10.1.0.0/16"]
        assert f"gave the place of alice ({A}) to {B}" in [line["did"] for line in await rig.ask("log")]
        await rig.ask("add", A, name="old")  # both the ID and the name are free
        await rig.ask("rename", "alice", name="bob")
        await rig.ask("rename", "old", name="alice")

    run(body)


def test_nobody_is_a_successor_who_can_have_no_such_place() -> None:
    async def body(rig: Rig) -> None:
        await rig.start(config(allow_peers={C: ()}))
        await rig.ask("add", A, name="alice", successor=str(B))
        E = peer(5)
        for who, new, told in (
            (A, A, "is the peer's ID as it is"),
            (A, C, "is a peer already"),
            (A, D, "this node's own peer ID"),
            (A, "alice", "is not a peer ID"),
            (E, B, "is the successor of alice"),
            (E, A, "is to have a place and to give it up"),
        ):
            with pytest.raises(Refused, match=told):
                await rig.ask("add", who, successor=str(new), update=True)
        await rig.ask("add", A, update=True, successor=None)
        assert dict(rig.fleet.successors) == {} and not rig.fleet.permits(B)

    run(body)


def test_file_of_a_pre_shared_key_is_looked_at_and_remembered() -> None:
    async def body(rig: Rig) -> None:
        fleet = await rig.start(config())
        looked: list[Path] = []

        def check(path: Path) -> None:
            looked.append(path)
            if path.name == "none":
                raise PskError("no pre-shared key /none")

        desk = Desk(fleet, now=rig.now, who="tester", check_psk=check)
        request = {"do": "add", "peer": str(A), "psk_file": "/keys/alice"}
        assert (await desk.answer(request))["psk_file"] == "/keys/alice"
        for path, told in (("/none", "no pre-shared key"), ("alice", "not an absolute path"), (7, "lacks psk_file")):
            with pytest.raises(CryprqError, match=told):
                await desk.answer({**request, "update": True, "psk_file": path})
        assert fleet.registered[A].psk_file == Path("/keys/alice") and len(looked) == 2
        await desk.answer({**request, "update": True, "psk_file": None})
        assert fleet.registered[A].psk_file is None
        assert (await rig.ask("log"))[0]["did"] == f"added {A}: psk_file=/keys/alice"

    run(body)


def test_beginning_of_an_id_means_the_one_peer_that_has_it() -> None:
    async def body(rig: Rig) -> None:
        await rig.start(config(allow_peers={A: (), B: ()}))
        shared = next(n for n in range(46, 0, -1) if str(A)[:n] == str(B)[:n])
        assert (await rig.ask("show", str(A)[: shared + 1]))["peer_id"] == str(A)
        with pytest.raises(Refused, match="the beginning of 2 peer IDs"):
            await rig.ask("show", str(A)[:shared])

    run(body)


def test_time_is_over_when_it_is_also_if_the_clock_is_set() -> None:
    async def body(rig: Rig) -> None:
        fleet = await rig.start(config())
        await rig.ask("add", A, expires=rig.now + 0.05)
        rig.told.clear()
        assert fleet.permits(A)
        over = asyncio.Event()
        fleet.on_change(lambda _: over.set())
        rig.now += 0.05
        await over.wait()  # by the timer
        assert not fleet.permits(A)
        assert rig.told == [frozenset({A})]
        await rig.ask("expire", A, expires=rig.now + 10 * DAY)
        assert fleet.permits(A)
        rig.told.clear()
        rig.now += 11 * DAY
        fleet.tick()
        assert not fleet.permits(A) and rig.told == [frozenset({A})]
        rig.now -= 5 * DAY
        fleet.tick()
        assert fleet.permits(A) and rig.told == [frozenset({A})] * 2
        fleet.tick()
        assert len(rig.told) == 2

    run(body)


# ---- a store with troubles ----


class Troubled(MemoryStore):
    """Fails as it is told to: before a commit is done, or after."""

    def __init__(self) -> None:
        super().__init__()
        self.before: list[Exception] = []
        self.after: list[Exception] = []
        self.loads: list[Exception] = []

    async def load(self) -> Contents:
        if self.loads:
            raise self.loads.pop(0)
        return await super().load()

    async def commit(self, *ops: Op, note: Note | None = None, timeout: float = 2.0) -> int:
        if self.before:
            raise self.before.pop(0)
        revision = await super().commit(*ops, note=note, timeout=timeout)
        if self.after:
            raise self.after.pop(0)
        return revision


def test_lease_that_cannot_be_written_is_not_given() -> None:
    store = Troubled()

    async def body(rig: Rig) -> None:
        fleet = await rig.start(config(allow_any=True))
        store.before = [Unavailable("the disk is full")]
        ready = asyncio.Event()
        assert not fleet.prepare(A, partial(note, fleet, ready))
        await ready.wait()
        assert said == [f"no address for {A}: the disk is full"]
        assert (await store.load()).revision == 0
        with pytest.raises(LeasePending):
            fleet.lease(A)
        assert await fleet.ensure_lease(A)
        assert fleet.prepare(A, lambda: None)

    said: list[str] = []

    def note(fleet: Fleet, ready: asyncio.Event) -> None:
        try:
            fleet.lease(A)
        except LeaseError as error:
            said.append(str(error))
        ready.set()

    run(body, Rig(store))


def test_outcome_that_is_unknown_is_found_out() -> None:
    store = Troubled()

    async def body(rig: Rig) -> None:
        fleet = await rig.start(config(allow_any=True))
        store.after = [Unknown("no answer")]
        assert text(await fleet.ensure_lease(A)) == ["10.9.0.2/24", "fd00:9::2/64"]
        assert (await store.load()).revision == 1, "it was done, and is not done again"
        store.before = [Unknown("no answer")]
        assert text(await fleet.ensure_lease(B)) == ["10.9.0.3/24", "fd00:9::3/64"]
        assert (await store.load()).revision == 2

    run(body, Rig(store))


def test_what_was_compacted_is_loaded_again_and_told() -> None:
    class Forgetful(MemoryStore):
        forgets = False

        async def watch(self, after: int) -> Any:
            async for batch in super().watch(after):
                if self.forgets:
                    self.forgets = False
                    raise Compacted("too long ago")
                yield batch

    store = Forgetful()

    async def body(rig: Rig) -> None:
        fleet = await rig.start(config())
        await rig.ask("add", A)
        store.forgets = True
        await rig.ask("add", B)
        assert fleet.permits(B)
        await rig.ask("remove", A)
        assert rig.told == [frozenset({A}), frozenset({B}), frozenset({A})]

    run(body, Rig(store))


def test_damaged_registry_starts_no_fleet(tmp_path: Path) -> None:
    path = tmp_path / "registry"
    database = Database(path)
    database.commit((Put(PeerEntry(peer_id=A).key, b'{"name": 7}'),), None)
    database.close()

    async def body(rig: Rig) -> None:
        with pytest.raises(Damaged, match="the registry is damaged: peer/"):
            await rig.start(config(), SqliteStore(path))

    run(body)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peer/nobody", b"{}"),
        (PeerEntry(peer_id=A).key, b"[]"),
        (PeerEntry(peer_id=A).key, b'{"disabled": false, "networks": ["10.1.0.1/8"], "groups": []}'),
        (PeerEntry(peer_id=A).key, b'{"disabled": "no", "networks": [], "groups": []}'),
        (lease_key(A), b'{"addresses": [7], "used": 1}'),
        (lease_key(A), b'{"addresses": ["10.9.0.2"]}'),
    ],
)
def test_what_does_not_decode_is_not_served(key: str, value: bytes) -> None:
    async def body(rig: Rig) -> None:
        fleet = await rig.start(config())
        await rig.ask("add", B)
        await rig.store.commit(Put(key, value))
        for _ in range(10):
            await asyncio.sleep(0)  # the watch has its turn
        assert fleet.fault is not None and fleet.fault.startswith("the registry is damaged")
        assert fleet.permits(B) and not fleet.permits(A)

    run(body)


def test_two_leases_of_one_address_are_damage() -> None:
    async def body(rig: Rig) -> None:
        lease = Lease((ip_address("10.9.0.2"),), 0.0)
        await rig.store.commit(Put(lease_key(A), lease.encode()), Put(lease_key(B), lease.encode()))
        with pytest.raises(Damaged, match=r"10\.9\.0\.2 is given to"):
            await rig.start(config())
        assert address_keys(lease.addresses) == ("lease/a/10.9.0.2",)

    run(body)


def test_fleet_needs_no_loop_to_be_asked() -> None:
    fleet = Fleet(MemoryStore(), Declaration(allow_any=True), clock=lambda: 0.0)
    assert fleet.permits(A)
