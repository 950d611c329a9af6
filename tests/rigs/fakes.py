"""Stand-ins for connection and data plane, so that two peers can talk in memory and a test holds the clock."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from ipaddress import ip_network
from typing import Any

from cryprq._fastpath import EVENT_FIRST_RECORD, EVENT_PROBE_ACKED, Event, PeerStats
from cryprq.address import Address, Local
from cryprq.peer_id import PeerId
from cryprq.peers.indices import IndexLease, IndexPool
from cryprq.peers.link import Link
from cryprq.peers.peer import Peer
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import MESSAGE_PING, MTU_SEALABLE_MAX
from cryprq.protocol.frames import CloseCode, FrameReader, FrameType
from cryprq.protocol.handshake import Initiator, Responder
from cryprq.protocol.identity import Identity
from cryprq.protocol.parameters import Parameters

ANY, LOCAL = Local(), Local("192.0.2.1")
LISTENER, DIALER = Address("192.0.2.1", 9999), Address("192.0.2.7", 40000)
INNER = ip_network("10.9.0.2/32")
SILENT = PeerStats(0, 0, 0, 0, 0, 0, 0)


@cache
def identity(number: int) -> Identity:
    """The same identities in every run, in the order of their peer IDs: identity(0) has the smallest digest."""
    return sorted((Identity.from_seed(bytes([seed]) * 32) for seed in range(4)), key=lambda each: each.peer_id)[number]


class Recorder:
    """Takes any call of an observer: ``("peer_connected", args, kwargs)`` in ``calls``, names in ``names``."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.calls]

    def last(self, name: str) -> tuple[Any, ...]:
        return next(args for called, args, _ in reversed(self.calls) if called == name)

    def fields(self, name: str) -> dict[str, Any]:
        return next(kwargs for called, _, kwargs in reversed(self.calls) if called == name)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


@dataclass
class Epoch:
    peer: int
    tx_index: int
    lifetime: float
    heard: bool = False


class FakePlane:
    """Epochs without keys. Records go to the plane that has the receiver's index, unless ``cut``."""

    def __init__(self) -> None:
        self.epochs: dict[int, Epoch] = {}
        self.active: dict[int, int] = {}
        self.mtus: dict[int, int] = {}
        self.told: dict[int, int] = {}
        self.lost: dict[int, int] = {}
        self.lanes: dict[int, tuple[bool, bool]] = {}
        self.promoted: dict[int, int] = {}
        self.endpoints: dict[int, tuple[Address, Local]] = {}
        self.stats: dict[int, PeerStats] = {}
        self.routes: list[tuple[str, int]] = []
        self.sent: list[int] = []
        self.pings: list[int] = []
        self.pending_events: list[Event] = []
        self.others: list[FakePlane] = []
        self.cut = False
        self.carries = 65_535
        self.probes: list[tuple[int, int]] = []
        self.acks: dict[int, list[int]] = {}
        self.whole_max: dict[int, int] = {}
        self.install_error: Exception | None = None
        self._handles = 0

    def add_peer(self) -> int:
        self._handles += 1
        return self._handles

    def remove_peer(self, peer: int) -> None:
        self.epochs = {index: epoch for index, epoch in self.epochs.items() if epoch.peer != peer}
        self.endpoints.pop(peer, None)

    def change_routes(self, changes: Any) -> None:
        owners = dict(self.routes) | {str(network): peer for network, peer in changes}
        self.routes = sorted((network, peer) for network, peer in owners.items() if peer is not None)

    def set_endpoint(self, peer: int, remote: Address, local: Local = ANY) -> None:
        self.endpoints[peer] = (remote, local)

    def set_peer_mtu(self, peer: int, mtu: int, told: int | None = None) -> None:
        self.mtus[peer] = mtu
        self.told[peer] = mtu if told is None else told

    def set_ecn(self, peer: int, minds: bool) -> None:
        pass

    def set_lanes(self, peer: int, *, apart: bool, spread: bool) -> None:
        self.lanes[peer] = (apart, spread)

    def set_lost(self, peer: int, last_rx_ns: int) -> None:
        self.lost[peer] = last_rx_ns

    def endpoint(self, peer: int) -> tuple[Address, Local] | None:
        return self.endpoints.get(peer)

    def install(self, peer: int, **keys: Any) -> None:
        if self.install_error is not None:
            raise self.install_error
        assert keys["rx_index"] not in self.epochs
        assert any(keys["tx_secrets"])
        for name in ("tx_secrets", "rx_secrets"):
            keys[name][:] = bytes(len(keys[name]))
        self.epochs[keys["rx_index"]] = Epoch(peer, keys["tx_index"], keys["lifetime"])

    def activate(self, rx_index: int) -> None:
        self.active[self.epochs[rx_index].peer] = rx_index

    def promote(self, rx_index: int) -> None:
        self.promoted[self.epochs[rx_index].peer] = rx_index

    def remove(self, rx_index: int) -> None:
        epoch = self.epochs.pop(rx_index)
        for table in (self.active, self.promoted):
            if table.get(epoch.peer) == rx_index:
                del table[epoch.peer]

    def has(self, rx_index: int) -> bool:
        return rx_index in self.epochs

    def send_empty(self, rx_index: int) -> None:
        epoch = self.epochs[rx_index]
        self.sent.append(rx_index)
        for other in self.others:
            if not self.cut and (there := other.epochs.get(epoch.tx_index)) is not None and not there.heard:
                there.heard = True
                other.pending_events.append(Event(there.peer, epoch.tx_index, EVENT_FIRST_RECORD))

    def send_ping(self, rx_index: int) -> None:
        self.pings.append(rx_index)

    def send_probe(self, rx_index: int, token: int, size: int) -> None:
        """Arrives and is acknowledged, if the path carries it and the other plane has the epoch."""
        epoch = self.epochs[rx_index]
        self.probes.append((rx_index, size))
        there = any(epoch.tx_index in other.epochs for other in self.others)
        if there and not self.cut and size <= self.carries:
            self.acks.setdefault(epoch.peer, []).append(token)
            self.pending_events.append(Event(epoch.peer, 0, EVENT_PROBE_ACKED))

    def set_whole_max(self, peer: int, size: int) -> None:
        self.whole_max[peer] = size

    def acknowledged(self, peer: int) -> list[int]:
        return self.acks.pop(peer, [])

    def events(self) -> list[Event]:
        events, self.pending_events = self.pending_events, []
        return events

    def peer_stats(self, peer: int) -> PeerStats:
        return self.stats.get(peer, SILENT)


@dataclass(eq=False)
class FakeConnection:
    """One end of a QUIC connection: keeps what is sent until ``frames`` takes it."""

    remote: Address = LISTENER
    local: Local = ANY
    channel_binding: bytes = b"b" * 32
    round_trip: float = 0.02
    sent: list[bytes] = field(default_factory=list)
    closed_with: CloseCode | None = None
    is_authenticated: bool = False
    failures: int = 0
    refused_identities: list[bytes] = field(default_factory=list)
    probes: int = 0

    def send(self, frame: bytes) -> None:
        if self.closed_with is None:
            self.sent.append(frame)

    def close(self, code: CloseCode, reason: str = "") -> None:
        if self.closed_with is None:
            self.closed_with = code

    def probe(self, within: float) -> None:
        self.probes += 1

    def authenticated(self) -> None:
        self.is_authenticated = True

    def failed(self) -> None:
        self.failures += 1

    def refused(self, identity: bytes) -> None:
        self.refused_identities.append(identity)

    def frames(self) -> list[tuple[FrameType, bytes, bytes]]:
        data, self.sent = b"".join(self.sent), []
        return FrameReader().feed(data)


class Side:
    """A node's end: its identity, its plane, and its one peer, the other side."""

    def __init__(self, number: int, other: int) -> None:
        self.identity = identity(number)
        self.plane = FakePlane()
        self.observer = Recorder()
        self.pool = IndexPool()
        self.permitted = True
        self.changes = 0
        self.way: tuple[str, int] | None = ("192.0.2.9", 1500)
        self.delayed: list[tuple[float, Callable[[], None]]] = []
        self.peer = Peer(
            identity(other).peer_id,
            own_id=self.identity.peer_id,
            plane=self.plane,
            observer=self.observer,
            permits=self.permits,
            allowed=lambda _: (INNER,),
            records_soft=2**26,
            reauth_secs=lambda: 3600,
            mtu=lambda: MTU_SEALABLE_MAX,
            way=self._way_to,
            changed=self._changed,
            later=lambda delay, call: self.delayed.append((delay, call)),
        )

    def _way_to(self, _host: str, _group: int) -> tuple[str, int]:
        if self.way is None:
            raise OSError("Network is unreachable")
        return self.way

    def permits(self, _: PeerId) -> bool:
        return self.permitted

    def _changed(self) -> None:
        self.changes += 1

    @property
    def active(self) -> int | None:
        return self.plane.active.get(self.peer.handle)


class World:
    """Two sides and the time. ``connect`` makes a session, ``run`` carries frames and records until all is quiet."""

    def __init__(self) -> None:
        self.now = Boottime(1000.0)
        self.left, self.right = Side(0, 1), Side(1, 0)
        self.left.plane.others, self.right.plane.others = [self.right.plane], [self.left.plane]
        self.wires: list[tuple[Side, FakeConnection, Link, Side, FakeConnection, Link]] = []

    def connect(
        self,
        dialer: Side,
        listener: Side,
        *,
        rotate_secs: int = 300,
        dialer_at: Address = DIALER,
        local: Local = LOCAL,
        answer: bool = True,
        quiet: bool = False,
        mtus: tuple[int | None, int | None] = (None, None),
        messages: tuple[int, ...] = (MESSAGE_PING,),
        numbered: bool = True,
    ) -> tuple[Link, Link]:
        """A whole handshake, in which dialer and listener tell their MTUs. Returns the links of dialer and listener;
        ``answer`` False: M4 is not opened yet, then ``open_m4`` does; ``quiet``: nothing is carried after it;
        ``messages``: what both act on; ``numbered`` False: the listener is of a version that numbers no sessions."""
        here, there = FakeConnection(LISTENER), FakeConnection(dialer_at, local)
        dialer_lease, listener_lease = IndexLease(dialer.pool, lambda: True), IndexLease(listener.pool, lambda: True)
        initiator = Initiator(
            dialer.identity,
            listener.identity.peer_id,
            b"b" * 32,
            lanes=1,
            aead_offer=(1, 2),
            kem=1,
            new_index=dialer_lease,
            parameters=Parameters(rotate_secs=rotate_secs, mtu=mtus[0], messages=messages),
        )
        responder = Responder(listener.identity, b"b" * 32, lanes=1, aead_preference=(1, 2), new_index=listener_lease)
        m3 = initiator.receive_message2(responder.receive_message1(initiator.message1()))
        auth = responder.receive_message3(m3, lambda _: True)
        serial = listener.peer.next_serial() if numbered else None
        told = Parameters(rotate_secs=rotate_secs, mtu=mtus[1], messages=messages, serial=serial)
        m4, session = responder.message4(0, told, self.now)
        assert session is not None
        listener_link = listener.peer.adopt(
            session, there, listener_lease, self.now, told=auth.parameters, serial=serial
        )

        def open_m4() -> Link:
            accepted = initiator.receive_message4(m4, self.now)
            assert accepted.session is not None
            told = accepted.parameters
            link = dialer.peer.adopt(accepted.session, here, dialer_lease, self.now, told=told, serial=told.serial)
            self.wires.append((dialer, here, link, listener, there, listener_link))
            return link

        self.open_m4 = open_m4
        if not answer:
            return listener_link, listener_link
        dialer_link = open_m4()
        if not quiet:
            self.run()
        return dialer_link, listener_link

    def run(self) -> None:
        """Until nothing moves any more. A connection that one side closed is lost to the other."""
        moved = True
        while moved:
            moved = False
            for wire in tuple(self.wires):
                moved = self._carry(*wire) or moved
            for side in (self.left, self.right):
                for event in side.plane.events():
                    side.peer.event(event.rx_index, event.flags, self.now)
                    moved = True

    def _carry(
        self, dialer: Side, here: FakeConnection, link: Link, listener: Side, there: FakeConnection, other: Link
    ) -> bool:
        moved = False
        for side, far, to, its in ((dialer, there, link, here), (listener, here, other, there)):
            for frame in far.frames():
                moved = True
                if its.closed_with is None:
                    side.peer.receive(to, *frame, self.now)
            if far.closed_with is not None and to.carrier is not None:
                moved = True
                side.peer.carrier_lost(to, far.closed_with.name.lower(), self.now)
        return moved

    def cut_wires(self) -> None:
        """Every QUIC connection is lost, at both ends."""
        for dialer, _, link, listener, _, other in self.wires:
            dialer.peer.carrier_lost(link, "idle timeout", self.now)
            listener.peer.carrier_lost(other, "idle timeout", self.now)
        self.wires.clear()

    def pass_time(self, seconds: float, step: float = 0.5) -> None:
        """Lets time pass in steps, with timers and traffic."""
        end = self.now + seconds
        while self.now < end:
            self.now = Boottime(min(end, self.now + step))
            for side in (self.left, self.right):
                side.peer.handle_timers(self.now)
            self.run()
