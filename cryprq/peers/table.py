"""All peers of a node, and who gets which event and which timer."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Protocol

from cryprq._fastpath import Event
from cryprq.inner.network import InnerNetwork
from cryprq.networks import Network
from cryprq.peer_id import PeerId
from cryprq.peers.peer import Peer
from cryprq.peers.ports import EpochPlane, PeerObserver
from cryprq.peers.timers import Timers
from cryprq.protocol.clock import Boottime
from cryprq.protocol.frames import CloseCode

CLOSE_REASONS = {CloseCode.SHUTDOWN: "shutdown", CloseCode.REFUSED: "not_allowlisted"}
"""What a sealed CLOSE says, by the code that ends the connection."""


class _TablePlane(EpochPlane, Protocol):
    def events(self) -> Sequence[Event]: ...


class PeerTable:
    """The peers that may have a session, by ID and by the handle that the data plane knows them by."""

    def __init__(
        self,
        *,
        own_id: PeerId,
        plane: _TablePlane,
        network: InnerNetwork,
        observer: PeerObserver,
        permits: Callable[[PeerId], bool],
        records_soft: int,
        reauth_secs: Callable[[], int],
        way: Callable[[str, int], tuple[str, int]],
        changed: Callable[[], None],
        later: Callable[[float, Callable[[], None]], object],
        added: Callable[[Peer], None] = lambda _: None,
    ) -> None:
        """The arguments are those of ``Peer``; ``added`` is called with each that the data plane knows from then on."""
        self._own_id = own_id
        self._plane = plane
        self._network = network
        self._observer = observer
        self._permits = permits
        self._records_soft = records_soft
        self._reauth_secs = reauth_secs
        self._way = way
        self._changed = changed
        self._later = later
        self._added = added
        self._by_id: dict[PeerId, Peer] = {}
        self._by_handle: dict[int, Peer] = {}
        self._timers = Timers[PeerId]()
        self._touched: set[PeerId] = set()

    def __iter__(self) -> Iterator[Peer]:
        return iter(tuple(self._by_id.values()))

    def __len__(self) -> int:
        return len(self._by_id)

    def get(self, peer_id: PeerId) -> Peer | None:
        """The peer, if the table has it."""
        return self._by_id.get(peer_id)

    def obtain(self, peer_id: PeerId, networks: Sequence[Network]) -> Peer:
        """The peer, made if need be, with these allowed IPs from now on (less what other peers own)."""
        peer = self._by_id.get(peer_id)
        if peer is None:
            peer = Peer(
                peer_id,
                own_id=self._own_id,
                plane=self._plane,
                observer=self._observer,
                permits=self._permits,
                allowed=self._network.allowed,
                records_soft=self._records_soft,
                reauth_secs=self._reauth_secs,
                mtu=lambda: self._network.mtu,
                way=self._way,
                changed=partial(self._touch, peer_id),
                later=self._later,
            )
            self._by_id[peer_id] = self._by_handle[peer.handle] = peer
            self._added(peer)
        if set(self._network.claims(peer_id)) != set(networks):
            self._network.claim(peer_id, peer.handle, networks)
        return peer

    def remove(self, peer_id: PeerId, code: CloseCode, now: Boottime) -> None:
        """Cuts the peer off: it is told, its keys are wiped, its allowed IPs and routes go.

        Whatever fails on the way, the rest is done: nobody who was removed may keep a key or a route.
        """
        peer = self._by_id.pop(peer_id, None)
        if peer is None:
            return
        self._guard(peer, lambda: peer.close(code, CLOSE_REASONS.get(code, "removed"), now))
        del self._by_handle[peer.handle]
        self._timers.set(peer_id, None)
        self._guard(peer, lambda: self._network.release(peer_id))
        self._guard(peer, lambda: self._plane.remove_peer(peer.handle))

    def close(self, now: Boottime) -> None:
        """The node stops: every peer is told and every key wiped. The peers stay, their routes too."""
        for peer in self:
            self._guard(peer, partial(peer.close, CloseCode.SHUTDOWN, CLOSE_REASONS[CloseCode.SHUTDOWN], now))

    def forsake(self, reason: str) -> int:
        """All keys are wiped without a word (``Peer.forsake``). Returns how many peers had some."""
        had = [peer for peer in self if not peer.idle]
        for peer in had:
            self._guard(peer, partial(peer.forsake, reason))
        return len(had)

    def dispatch(self, events: Iterable[Event], now: Boottime) -> None:
        """Events of the data plane. Those of a peer that was removed meanwhile are nobody's."""
        for event in events:
            peer = self._by_handle.get(event.peer)
            if peer is not None:
                self._guard(peer, partial(peer.event, event.rx_index, event.flags, now))

    # ---- timers: only peers that something happened to are asked for theirs ----

    def next_timer(self) -> Boottime | None:
        """When ``handle_timers`` is due."""
        self._note_timers()
        return self._timers.next()

    def handle_timers(self, now: Boottime) -> None:
        """Lets every session act whose time has come."""
        self._note_timers()
        due = []
        while (peer_id := self._timers.take(now)) is not None:
            due.append(peer_id)
            self._touched.add(peer_id)  # whatever becomes of it, it is asked again
        for peer_id in due:
            if (peer := self._by_id.get(peer_id)) is not None:
                self._guard(peer, partial(peer.handle_timers, now))

    def _touch(self, peer_id: PeerId) -> None:
        self._touched.add(peer_id)
        self._changed()

    def _note_timers(self) -> None:
        while self._touched:
            peer_id = self._touched.pop()
            if (peer := self._by_id.get(peer_id)) is not None:
                self._timers.set(peer_id, peer.next_timer())

    def present(self, peer_id: PeerId) -> bool:
        """Whether there is a session with the peer, and it is heard."""
        peer = self._by_id.get(peer_id)
        return peer is not None and peer.present

    def heard_at(self, group: int) -> Boottime:
        """When the last authentic record came of any of them that uses this socket group; 0 for never."""
        heard = 0
        for peer in self:
            endpoint = self._plane.endpoint(peer.handle)
            if endpoint is not None and endpoint[1].group == group:
                heard = max(heard, self._plane.peer_stats(peer.handle).last_rx_ns)
        return Boottime(heard / 1e9)

    def look(self, now: Boottime) -> None:
        """Once a second: is every peer still there?"""
        for peer in self:
            peer.contested = self._network.contested(peer.peer_id)
            self._guard(peer, partial(peer.look, now))

    def _guard(self, peer: Peer, act: Callable[[], None]) -> None:
        """A fault with one peer, ours to mend, costs that peer its sessions and nobody else an event or a timer."""
        try:
            act()
        except Exception as error:
            self._observer.internal_error(error, peer_id=peer.peer_id)
            with contextlib.suppress(Exception):
                peer.fail()
