"""Who may connect, with which inner addresses: what the configuration declares and what a store holds, as one. Default
deny.

Questions are answered at once, from memory; what has to be written is awaited. What the configuration says of a peer
counts, and the store's entry of the same peer is not looked at as long as it says something.
"""

import asyncio
import contextlib
import math
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from cryprq.networks import Interface, Network, host_networks
from cryprq.peer_id import PeerId
from cryprq.registry.entries import InnerAddress, Lease, PeerEntry, address_keys, lease_key
from cryprq.registry.invitations import Invitation
from cryprq.registry.leases import Blocks, LeaseError, LeasePending, LeaseTable
from cryprq.registry.mirror import NAME_PREFIX, Mirror
from cryprq.registry.store import (
    ABSENT,
    Compacted,
    Conflict,
    Delete,
    Expect,
    Note,
    Op,
    Put,
    Store,
    StoreError,
    Unavailable,
    Unknown,
)

CONFLICTS_MAX: Final = 8
"""Times that a lease is chosen anew because somebody else was quicker."""
CATCH_UP: Final = 2.0
"""Seconds that what was committed may take to come back by the watch."""
WATCH_AGAIN: Final = 1.0
"""Seconds before a store that failed is asked again."""
SWEEP_INTERVAL: Final = 3600.0
"""Seconds between two looks for leases that nobody uses; the first comes when peers have had time to come back."""
USE_NOTED: Final = 86_400.0
"""Seconds after which it is written down again that a lease is used: a write a peer and day."""
ADOPT_TIMEOUT: Final = 60.0
"""Seconds that it may take to write down all the leases of a node that was there before."""
BATCH_MAX: Final = 256
"""Operations in a commit of a sweep."""
DAY: Final = 86_400.0
LOOK_AGAIN: Final = 60.0
"""Seconds: an entry that expires sooner has a timer of its own."""


@dataclass(frozen=True, kw_only=True)
class Declaration:
    """What the configuration says of peers."""

    peers: Mapping[PeerId, PeerEntry] = field(default_factory=dict)
    """``source`` is ``CONFIG``."""
    dialled: frozenset[PeerId] = frozenset()
    """Peers that are allowed by being dialled."""
    allow_any: bool = False
    tunnel_networks: tuple[Network, ...] = ()
    """Those of this node's tunnel addresses: what a dialled peer has if nothing else is said."""
    lease_days: int = 0
    """Days after which a lease that is not used is taken back; 0: never."""


class Fleet:
    """Answers for the event loop that it was started on."""

    def __init__(
        self,
        store: Store,
        declaration: Declaration = Declaration(),
        *,
        gateways: Sequence[Interface] | None = None,
        clock: Callable[[], float],
        is_here: Callable[[PeerId], bool] = lambda _: False,
        failed: Callable[[Exception], None] = lambda _: None,
    ) -> None:
        """``gateways`` are the listener's own tunnel addresses; None for a node that does not listen, which gives no
        addresses. ``clock`` is Unix time; ``is_here`` says who has a session; ``failed`` is told of defects."""
        self._store = store
        self._clock = clock
        self.is_here = is_here
        self._failed = failed
        self.gateways = tuple(gateways or ())
        """The listener's own tunnel addresses."""
        self._gives = gateways is not None
        self._leases = LeaseTable(self.gateways)
        self._mirror = Mirror(self._leases)
        self._listeners: list[Callable[[frozenset[PeerId]], None]] = []
        self._reached: list[tuple[int, asyncio.Future[None]]] = []
        self._tasks: set[asyncio.Task[Any]] = set()
        self._making: dict[PeerId, asyncio.Task[tuple[Interface, ...]]] = {}
        self._refused: dict[PeerId, LeaseError] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._expired: frozenset[PeerId] = frozenset()
        self._look_at = math.inf
        self._looked_at = 0.0
        self._pools: tuple[tuple[Network, int], ...] | None = None
        self.fault: str | None = None
        """Why the store cannot be followed, in one line; what is in memory holds on."""
        self._merge(declaration)

    # ---- life ----

    async def start(self) -> None:
        """Loads the store and follows it from there. StoreError: then it has not started."""
        self._mirror.load(await self._store.load())
        self._merge(self._declaration)
        self._spawn(self._follow())
        self._spawn(self._sweep_on())
        self._set_timer()

    async def close(self) -> None:
        """Ends all that it has begun, and closes the store."""
        if self._timer is not None:
            self._timer.cancel()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._store.close()

    def declare(self, declaration: Declaration) -> frozenset[PeerId]:
        """The configuration says this from now on. Returns the peers of which something else is known."""
        before = self._entries
        self._merge(declaration)
        self._set_timer()
        return frozenset(i for i in before.keys() | self._entries.keys() if before.get(i) != self._entries.get(i))

    # ---- questions ----

    @property
    def store(self) -> Store:
        """What keeps it."""
        return self._store

    @property
    def dialled(self) -> frozenset[PeerId]:
        """Peers that are allowed by being dialled."""
        return self._declaration.dialled

    @property
    def named(self) -> frozenset[PeerId]:
        """Every peer that is known by its ID or by being dialled, whether it may connect now or not."""
        return self.dialled | self._entries.keys()

    @property
    def entries(self) -> Mapping[PeerId, PeerEntry]:
        """What is known of each peer; another object whenever that changes. Read only."""
        return self._entries

    @property
    def registered(self) -> Mapping[PeerId, PeerEntry]:
        """What the store alone holds."""
        return self._mirror.peers

    @property
    def names(self) -> Mapping[str, PeerId]:
        """Whose each name is. Read only."""
        return self._names

    @property
    def successors(self) -> Mapping[PeerId, PeerId]:
        """Peers that are about to have another ID, and which."""
        return self._successors

    def entry(self, peer: PeerId) -> PeerEntry | None:
        """What is known of the peer; None: nothing."""
        return self._entries.get(peer)

    def name(self, peer: PeerId) -> str:
        """What the peer is called; empty: nothing."""
        entry = self._entries.get(peer)
        return entry.name if entry is not None else ""

    def permits(self, peer: PeerId) -> bool:
        """Whether the peer may connect, now."""
        entry = self._entries.get(peer)
        if entry is not None:
            return entry.active(self._clock())
        return self._declaration.allow_any or peer in self._declaration.dialled

    def by_hand(self, peer: PeerId) -> tuple[Network, ...]:
        """The networks that somebody has given the peer; empty: none, or it is not known."""
        entry = self._entries.get(peer)
        return entry.networks if entry is not None else ()

    def networks(self, peer: PeerId) -> tuple[Network, ...]:
        """The peer's allowed IPs; empty for a peer that is not permitted.

        Those that it was given by hand, if it has any; for a dialled peer, the networks of this node's tunnel addresses
        (a gateway may announce more); for any other, just the assigned addresses. LeaseError as from ``lease``.
        """
        if not self.permits(peer):
            return ()
        if networks := self.by_hand(peer):
            return networks
        if peer in self.dialled:
            return self._declaration.tunnel_networks
        return host_networks(self.lease(peer))

    def leases(self, peer: PeerId) -> bool:
        """Whether the peer is one to be given an address."""
        return self._gives and self.permits(peer) and not self.by_hand(peer) and peer not in self.dialled

    def lease(self, peer: PeerId) -> tuple[Interface, ...]:
        """The tunnel addresses that the peer was given, the same across restarts; empty for one that is to have none
        (``leases``). LeasePending: it has to be given some (``ensure_lease``); LeaseError: there are none."""
        if not self.leases(peer):
            return ()
        holder = self._holder(peer)
        self._leases.note_use(holder, self._clock())
        if (held := self._leases.usable(holder)) is not None:
            return held
        if (refused := self._refused.get(holder)) is not None:
            raise refused
        raise LeasePending(f"{peer} has no address yet")

    def leased(self, peer: PeerId) -> Lease | None:
        """The lease that is written down for the peer, of use or not."""
        return self._leases.get(self._holder(peer))

    @property
    def pools(self) -> tuple[tuple[Network, int], ...]:
        """The networks that addresses are given from, and how many peers there is room for in each."""
        if self._pools is None:
            self._pools = self._leases.pools() if self._gives else ()
        return self._pools

    def used(self, network: Network) -> int:
        """How many of these have an address."""
        return self._leases.used(network, self.permits)

    def has_leases_in(self, networks: Collection[Network]) -> bool:
        """Whether an address that was given is in one of these."""
        return bool(networks) and self._leases.inside(networks)

    def on_change(self, callback: Callable[[frozenset[PeerId]], None]) -> None:
        """It is called with the peers of which something else is known, or whose time is over, at once."""
        self._listeners.append(callback)

    # ---- invitations ----

    @property
    def invitations(self) -> Mapping[bytes, Invitation]:
        """Those that were not used yet, expired ones too, by their ID. Read only."""
        return self._mirror.invitations

    def invitation_key(self, invitation: bytes) -> bytes | None:
        """By which the invitation with that ID is proven; None if there is none that is worth anything."""
        found = self._mirror.invitations.get(invitation)
        return found.key if found is not None and found.usable(self._clock()) else None

    def redeem(self, invitation: bytes, peer: PeerId, done: Callable[[str | None], None]) -> None:
        """The peer, which has proven the invitation, is known from now on, and nobody else can use it. ``done`` is
        called when that is written down, with None, or with why it is not so."""
        self._spawn(self._redeem(invitation, peer, done))

    async def _redeem(self, invitation: bytes, peer: PeerId, done: Callable[[str | None], None]) -> None:
        found = self._mirror.invitations.get(invitation)
        why: str | None = None
        if found is None or not found.usable(self._clock()):
            why = "the invitation was used, withdrawn or has expired"
        elif peer in self._entries:
            why = "this peer is known, and may not connect"
        else:
            ops = found.redeem_ops(self.version(found.store_key), NAME_PREFIX + found.name, peer)
            note = Note(at=self._clock(), who=str(peer), did=f"joined as {found.name}, invited by {found.invited_by}")
            try:
                await self.commit(*ops, note=note)
                if peer not in self._entries:  # the watch is late, and who has joined is not to be refused for it
                    await self._settle_doubt()
            except Conflict:
                why = "somebody else was quicker with this invitation"
            except Unknown:
                await self._settle_doubt()
                why = None if self.permits(peer) else "it could not be written down"
            except StoreError as error:
                why = str(error)
        try:
            done(why)
        except Exception as error:
            self._failed(error)

    async def _settle_doubt(self) -> None:
        with contextlib.suppress(StoreError):
            await self._load_again()

    # ---- leases ----

    def prepare(self, peer: PeerId, ready: Callable[[], None]) -> bool:
        """Whether ``lease`` can answer for the peer now. If not, ``ready`` is called when it can, if only with what is
        in the way."""
        holder = self._holder(peer)
        self._refused.pop(holder, None)
        try:
            self.lease(peer)
            return True
        except LeasePending:
            self._spawn(self._prepare(peer, holder, ready))
            return False

    async def _prepare(self, peer: PeerId, holder: PeerId, ready: Callable[[], None]) -> None:
        try:
            await self.ensure_lease(peer)
        except LeaseError as error:
            self._refused[holder] = error
        try:
            ready()
        except Exception as error:
            self._failed(error)
        finally:
            self._refused.pop(holder, None)

    async def ensure_lease(self, peer: PeerId) -> tuple[Interface, ...]:
        """As ``lease``, after the peer was given addresses if it had none, and they are written down. LeaseError if
        there are none, or they cannot be."""
        with contextlib.suppress(LeasePending):
            return self.lease(peer)
        holder = self._holder(peer)
        task = self._making.get(holder)
        if task is None:
            task = self._making[holder] = self._spawn(self._make_lease(peer, holder))
            task.add_done_callback(lambda _: self._making.pop(holder, None))
        return await asyncio.shield(task)

    async def _make_lease(self, peer: PeerId, holder: PeerId) -> tuple[Interface, ...]:
        try:
            for _ in range(CONFLICTS_MAX):
                with contextlib.suppress(LeasePending):
                    return self.lease(peer)
                try:
                    await self.commit(*self._lease_ops(holder))
                except (Conflict, Unknown):
                    await self._load_again()
        except StoreError as error:
            raise LeaseError(f"no address for {peer}: {error}") from None
        finally:
            self._leases.promise(holder, ())
        raise LeaseError(f"no address for {peer}: others were quicker {CONFLICTS_MAX} times")

    def _lease_ops(self, holder: PeerId) -> list[Op]:
        ops: list[Op] = []
        given_up: set[PeerId] = set()
        old = next((old for old, new in self._successors.items() if new == holder), None)
        inherited = self._leases.get(old) if old is not None else None
        if old is not None and inherited is not None and self._leases.get(holder) is None:
            addresses = inherited.addresses  # two IDs of one peer have one lease
            given_up.add(old)
        else:
            choice = self._leases.choose(holder, permitted=self.permits, absent_guest=self._is_absent_guest)
            addresses = choice.addresses
            given_up |= choice.reclaimed
        self._leases.promise(holder, addresses)
        kept = set(address_keys(addresses))
        for other in (holder, *given_up):
            if (lease := self._leases.get(other)) is not None:
                ops.append(Expect(lease_key(other), self._mirror.version(lease_key(other))))
                gone = [key for key in address_keys(lease.addresses) if key not in kept]
                ops += map(Delete, gone if other == holder else [*gone, lease_key(other)])
        if self._leases.get(holder) is None:
            ops.append(Expect(lease_key(holder), ABSENT))
        ops += [Expect(key, self._mirror.version(key)) for key in kept]
        ops += [Put(key, str(holder).encode()) for key in kept]
        ops.append(Put(lease_key(holder), Lease(addresses, self._clock()).encode()))
        return ops

    async def adopt(self, leases: Mapping[PeerId, tuple[InnerAddress, ...]], mark: str) -> None:
        """Leases that were kept elsewhere, before there was a registry, are this one's, once: ``mark`` is a key that is
        there from then on. Where they cannot be written down they hold until the node stops. StoreError."""
        if not leases or self._mirror.version(mark) != ABSENT:
            return
        ops: list[Op] = [Expect(mark, ABSENT), Put(mark, b"{}")]
        new = {peer: Lease(addresses, self._clock()) for peer, addresses in leases.items() if peer not in self._leases}
        for peer, lease in new.items():
            keys = address_keys(lease.addresses)
            if any(self._mirror.version(key) != ABSENT for key in keys):
                continue  # somebody else has one of them by now
            ops += [Put(lease_key(peer), lease.encode()), *(Put(key, str(peer).encode()) for key in keys)]
        try:
            await self._store.commit(*ops, timeout=ADOPT_TIMEOUT)
        except Unavailable:
            for peer, lease in new.items():
                self._leases.record(peer, lease)
            return
        await self._load_again()

    def _holder(self, peer: PeerId) -> PeerId:
        return self._successors.get(peer, peer)

    def _is_absent_guest(self, peer: PeerId) -> bool:
        """Whom ``allow_any`` alone lets in is a guest: its address goes to another one when there is no other left and
        it is not here."""
        return peer not in self._entries and peer not in self.dialled and not self.is_here(peer)

    async def sweep(self) -> None:
        """Writes down which leases are used, and takes back those that have not been for ``lease_days``. StoreError."""
        now, days = self._clock(), self._declaration.lease_days
        ops: list[Op] = []
        for peer in self._leases:
            lease, key = self._leases.get(peer), lease_key(peer)
            if lease is None:
                continue
            if self.is_here(peer):
                self._leases.note_use(peer, now)
            used = self._leases.used_at(peer)
            expected = Expect(key, self._mirror.version(key))
            if days and now - used > days * DAY and not self.is_here(peer):
                ops += [expected, Delete(key), *map(Delete, address_keys(lease.addresses))]
            elif used - lease.used >= USE_NOTED:
                ops += [expected, Put(key, replace(lease, used=used).encode())]
            if len(ops) >= BATCH_MAX:
                await self.commit(*ops)
                ops = []
        if ops:
            await self.commit(*ops)

    async def _sweep_on(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_INTERVAL)
            try:
                await self.sweep()
            except StoreError:
                continue  # the next one finds the same; whether the store takes anything is looked at elsewhere
            except Exception as error:
                self._failed(error)

    # ---- the store ----

    async def commit(self, *ops: Op, note: Note | None = None) -> int:
        """Commits, and returns the revision when it is in force here. StoreError."""
        revision = await self._store.commit(*ops, note=note)
        if self._mirror.revision < revision:
            reached = asyncio.get_running_loop().create_future()
            self._reached.append((revision, reached))
            with contextlib.suppress(TimeoutError):  # it is written; the watch brings it when it can
                await asyncio.wait_for(reached, CATCH_UP)
        return revision

    def version(self, key: str) -> int:
        """The version of a key, for ``Expect``."""
        return self._mirror.version(key)

    async def _follow(self) -> None:
        while True:
            try:
                async for batch in self._store.watch(self._mirror.revision):
                    self.fault = None
                    if batch.changes:
                        self._take(self._mirror.apply(batch))
                    self._tell_reached()
            except Compacted:
                with contextlib.suppress(StoreError):
                    await self._load_again()
                    continue
            except StoreError as error:
                self.fault = str(error)
            except Exception as error:
                self._failed(error)
            await asyncio.sleep(WATCH_AGAIN)

    async def _load_again(self) -> None:
        try:
            contents = await self._store.load()
        except StoreError as error:
            self.fault = str(error)
            raise
        if contents.revision != self._mirror.revision:
            self._take(self._mirror.load(contents))
        self._tell_reached()

    def _tell_reached(self) -> None:
        revision = self._mirror.revision
        for wanted, reached in self._reached:
            if wanted <= revision and not reached.done():
                reached.set_result(None)
        self._reached = [each for each in self._reached if not each[1].done()]

    # ---- both together ----

    def _take(self, changed: frozenset[PeerId]) -> None:
        if not changed:
            return
        before = self._entries
        self._merge(self._declaration)
        self._set_timer()
        every = before.keys() | self._entries.keys()
        self._tell(frozenset(i for i in every if before.get(i) != self._entries.get(i)))

    def _merge(self, declaration: Declaration) -> None:
        self._declaration = declaration
        entries = {**declaration.peers, **self._mirror.peers, **declaration.peers}  # in that order, too
        successors = {old: entry.successor for old, entry in entries.items() if entry.successor is not None}
        for old, new in successors.items():
            if new not in entries:
                entries[new] = replace(entries[old], peer_id=new, name="", successor=None)
        self._entries: Mapping[PeerId, PeerEntry] = entries
        self._successors: Mapping[PeerId, PeerId] = successors
        self._names: Mapping[str, PeerId] = {
            entry.name: peer
            for part in (self._mirror.peers, declaration.peers)  # where both have a name, the configuration counts
            for peer, entry in part.items()
            if entry.name and entries[peer] is entry
        }
        self._note_expired()
        blocks = frozenset(network for entry in entries.values() for network in entry.networks)
        if blocks != self._leases.avoid.networks:
            self._leases.avoid = Blocks(blocks)
            self._pools = None

    def _tell(self, changed: frozenset[PeerId]) -> None:
        for listener in self._listeners if changed else ():
            try:
                listener(changed)
            except Exception as error:  # ours to mend; the store is followed all the same
                self._failed(error)

    # ---- time ----

    def tick(self) -> None:
        """Once a second, since the wall clock may have been set: time may be over for somebody, or not any more."""
        now = self._clock()
        if now >= self._look_at or now < self._looked_at:
            self.look()

    def look(self) -> None:
        """Those whose time is over since the last look are told, and those who have some again."""
        before = self._expired
        self._note_expired()
        self._tell(before ^ self._expired)
        self._set_timer()

    def _note_expired(self) -> None:
        now = self._looked_at = self._clock()
        self._expired = frozenset(i for i, e in self._entries.items() if e.expires is not None and e.expires <= now)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._clock()
        times = (e.expires for e in self._entries.values() if e.expires is not None and e.expires > now)
        self._look_at = min(times, default=math.inf)
        if self._look_at - now < LOOK_AGAIN:  # later ones are found by ``tick``
            with contextlib.suppress(RuntimeError):  # not started yet
                self._timer = asyncio.get_running_loop().call_later(self._look_at - now, self.look)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task
