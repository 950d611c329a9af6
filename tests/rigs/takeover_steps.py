"""The steps of docs/model/takeover.pml, and two real peers on which each of them is taken.

The handshake is not there: what ``Inbound`` and ``Outbound`` ask a peer at M3 and M4 is asked here. A timer goes off
because its deadline is moved to now: time itself stands still.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from cryprq._fastpath import EVENT_FIRST_RECORD, EVENT_KEY_EXPIRED
from cryprq.networks import Network
from cryprq.peer_id import PeerId
from cryprq.peers.indices import IndexLease, IndexPool
from cryprq.peers.link import Link
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import AEAD_AES_256_GCM, KEM_X25519_MLKEM768, MTU_SEALABLE_MAX
from cryprq.protocol.frames import CloseCode, FrameReader, FrameType
from cryprq.protocol.parameters import Parameters, Serial
from cryprq.protocol.session import Role, Session, SessionSetup
from lab import ROOT
from tests.rigs import spin_steps
from tests.rigs.fakes import INNER, FakeConnection, FakePlane, Recorder
from tests.rigs.spin_steps import Disagreement, Step

MODEL: Final = ROOT / "docs" / "model" / "takeover.pml"
NOW: Final = Boottime(1000.0)
NONE: Final = 15
M3, ACCEPTED, DUPLICATE, OVER = 1, 2, 3, 4
"""Of a handshake, as the model numbers them."""
IDS: Final = (PeerId(bytes(32)), PeerId(b"\1" * 32))
TIMERS: Final = {"NOT_PROMOTED": "_promoted_by", "DRAINED": "_retire_at"}
EVENTS: Final = (
    *("DIAL", "FRAME_M3", "FRAME_M4", "FRAME_CLOSE", "RECORD", "LOST", "EXPIRED"),
    *("CRASH", "REMOVE", "RESTORE", "RENEW"),
    *TIMERS,
)


def explore(directory: Path, *, dials: int) -> list[Step]:
    """Every step that the model can take; ``dials`` says who dials: 1 is node 0, 2 node 1, 3 both."""
    return spin_steps.explore(MODEL, directory, [f"DIALS={dials}"], EVENTS)


class Plane(FakePlane):
    """Keeps which epochs were ever sent on; what arrives of that is a step of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[int] = set()

    def send_empty(self, rx_index: int) -> None:
        self.used.add(rx_index)


@dataclass
class End:
    """One end of a session, from its dial on."""

    connection: FakeConnection
    lease: IndexLease
    index: int
    lost: bool = False
    link: Link | None = None
    order: int = 0
    heard: bool = False
    inbox: list[bytes] = field(default_factory=list)

    @property
    def held(self) -> bool:
        return self.link is not None and not self.link.ended

    @property
    def connected(self) -> bool:
        if self.link is not None:
            return self.held and self.link.carrier is not None
        return not self.lost and self.connection.closed_with is None


@dataclass
class Pair:
    """A session at both ends."""

    dialler: int
    ends: list[End]
    handshake: int = M3
    number: int = 0
    life: int = 0
    """Which of the listener's this is, and in which of its lives, as the model counts them."""
    serial: Serial | None = None
    """The same, as M4 says."""


class Node:
    """One node, whose one peer is the other."""

    def __init__(self, number: int, module: ModuleType) -> None:
        self.number = number
        self.barred = False
        self.lives = 0
        self.pool = IndexPool()
        self._module = module
        self.forget()

    def forget(self) -> None:
        """Nothing of what was is known here any more."""
        self.plane = Plane()
        self.peer = self._module.Peer(
            IDS[1 - self.number],
            own_id=IDS[self.number],
            plane=self.plane,
            observer=Recorder(),
            permits=self._permits,
            allowed=_allowed,
            records_soft=2**26,
            reauth_secs=lambda: 3600,
            mtu=lambda: MTU_SEALABLE_MAX,
            way=lambda _: ("192.0.2.9", 1500),
            changed=lambda: None,
            later=lambda _, close: close(),
        )

    def _permits(self, _: PeerId) -> bool:
        return not self.barred


def _allowed(_: PeerId) -> tuple[Network, ...]:
    return (INNER,)


class World:
    """Two nodes, of which the model's node 0 has the smaller ID, and their sessions."""

    def __init__(self, module: ModuleType) -> None:
        self.nodes = tuple(Node(number, module) for number in (0, 1))
        self.pairs: list[Pair] = []

    # ---- what is so ----

    def text(self) -> str:
        """The state as the model prints it."""
        return "".join(map(self._pair_text, self.pairs)) + "".join(map(self._node_text, self.nodes))

    def _pair_text(self, pair: Pair) -> str:
        ends = ""
        for node, end in zip(self.nodes, pair.ends, strict=True):
            state = end.link.session.state.value - 1 if end.held and end.link is not None else 0
            sent = end.held and end.index in node.plane.used
            values = (state, end.order if end.held else 0, end.connected, sent, end.held and end.heard)
            ends += ":" + ",".join(str(int(value)) for value in (*values, bool(end.connected and end.inbox)))
        return f"{pair.dialler},{pair.handshake},{pair.number},{pair.life}{ends}/"

    def _node_text(self, node: Node) -> str:
        current, active = node.peer.current, node.plane.active.get(node.peer.handle)
        of = {pair.ends[node.number].index: number for number, pair in enumerate(self.pairs)}
        numbers = (
            NONE if current is None else of[next(iter(current.indices))],
            NONE if active is None else of[active],
            node.barred,
            node.lives,
            node.peer.wants_dial(),
        )
        return ",".join(str(int(number)) for number in numbers) + "/"

    def check(self) -> None:
        """What no state says: the plane has the epochs of the sessions that there are, and no other."""
        for node in self.nodes:
            held = {pair.ends[node.number].index for pair in self.pairs if pair.ends[node.number].held}
            if held != set(node.plane.epochs) or len(node.peer.links) != len(held):
                raise Disagreement(f"node {node.number} has sessions {held}, its plane {set(node.plane.epochs)}")

    # ---- what happens ----

    def take(self, step: Step) -> None:
        """Lets happen what the step says."""
        node = self.nodes[step.end]
        match step.event:
            case "DIAL":
                self._dial(node)
            case "CRASH":
                self._crash(node)
            case "REMOVE":
                self._carry(node, lambda: node.peer.close(CloseCode.REFUSED, "not_allowlisted", NOW))
                node.barred = True
                self._crash(node)
            case "RESTORE":
                node.barred = False
            case "RENEW":
                self._carry(node, lambda: node.peer.renew("another network", NOW))
            case event:
                self._happens(node, event, self.pairs[step.number], self.pairs[step.number].ends[step.end])

    def _dial(self, node: Node) -> None:
        node.peer.liveness.silent = True  # or the ends are to prove anew who they are
        if not node.peer.wants_dial():
            raise Disagreement(f"node {node.number} does not dial")
        node.peer.liveness.silent = False
        leases = [IndexLease(node.pool) for node in self.nodes]
        self.pairs.append(Pair(node.number, [End(FakeConnection(), lease, lease()) for lease in leases]))

    def _crash(self, node: Node) -> None:
        node.forget()
        node.lives += any(self._in_life(node, pair) and pair.number for pair in self.pairs)
        for pair in self.pairs:
            end = pair.ends[node.number]
            if end.link is not None:
                end.link.ended = True
            end.lost = True

    def _happens(self, node: Node, event: str, pair: Pair, end: End) -> None:
        peer, link = node.peer, end.link
        if event == "FRAME_M3":
            self._carry(node, lambda: self._message3(node, pair, end))
        elif event == "FRAME_M4":
            self._carry(node, lambda: self._message4(node, pair, end))
        elif event == "LOST" and (link is None or link.ended):
            end.lost = True
        else:
            if link is None:
                raise Disagreement(f"{event} without a session")
            self._carry(node, lambda: self._to_session(peer, event, end, link))

    def _to_session(self, peer: Any, event: str, end: End, link: Link) -> None:
        match event:
            case "FRAME_CLOSE":
                (frame,) = FrameReader().feed(end.inbox.pop(0))
                peer.receive(link, *frame, NOW)
            case "RECORD":
                end.heard = True
                peer.event(end.index, EVENT_FIRST_RECORD, NOW)
            case "EXPIRED":
                peer.event(end.index, EVENT_KEY_EXPIRED, NOW)
            case "LOST":
                peer.carrier_lost(link, "lost", NOW)
            case timer:
                if getattr(link.session, TIMERS[timer]) is None:
                    raise Disagreement(f"{timer} is not armed")
                setattr(link.session, TIMERS[timer], NOW)
                peer.handle_timers(NOW)

    def _message3(self, node: Node, pair: Pair, end: End) -> None:
        """As ``Inbound._third``."""
        if node.barred:
            pair.handshake = OVER
            end.connection.close(CloseCode.REFUSED)
        elif node.peer.outranks_inbound():
            pair.handshake = DUPLICATE
        else:
            pair.handshake = ACCEPTED
            pair.life, pair.serial = node.lives, node.peer.next_serial()
            pair.number = 1 + max(each.number for each in self.pairs if self._in_life(node, each))
            self._adopt(node, pair, end)

    def _in_life(self, node: Node, pair: Pair) -> bool:
        return pair.dialler != node.number and pair.life == node.lives

    def _message4(self, node: Node, pair: Pair, end: End) -> None:
        """As ``Outbound._accepted``."""
        if pair.handshake == DUPLICATE or node.peer.outranks_outbound():
            end.connection.close(CloseCode.DUPLICATE)
        else:
            self._adopt(node, pair, end)
        pair.handshake = OVER

    def _adopt(self, node: Node, pair: Pair, end: End) -> None:
        end.order = 1 + max((p.ends[node.number].order for p in self.pairs if p.ends[node.number].held), default=0)
        setup = SessionSetup(
            role=Role.INITIATOR if pair.dialler == node.number else Role.RESPONDER,
            peer_id=IDS[1 - node.number],
            suite=AEAD_AES_256_GCM,
            kem=KEM_X25519_MLKEM768,
            rotate_secs=300,
            tx_lanes=1,
            rx_lanes=1,
            new_index=end.lease,
        )
        other = pair.ends[1 - node.number]
        session = Session(setup, bytearray(32), end.index, other.index, NOW)
        end.link = node.peer.adopt(session, end.connection, end.lease, NOW, told=Parameters(), serial=pair.serial)

    def _carry(self, node: Node, act: Any) -> None:
        """Does it, and puts what is said to the other node on its way."""
        act()
        for pair in self.pairs:
            here, there = pair.ends[node.number], pair.ends[1 - node.number]
            sent, here.connection.sent = here.connection.sent, []
            there.inbox += [frame for frame in sent if there.connected and frame[0] == FrameType.CLOSE]
            if not here.connected:
                here.inbox.clear()


def replay(steps: Sequence[Step], module: ModuleType, *, anywhere: bool = False) -> None:
    """Takes every step on peers of ``module`` (``cryprq.peers.peer``, or a copy of it). Disagreement as soon as they
    are elsewhere than the model; ``anywhere`` finds a fault sooner, and finds that there is none later."""
    for way in spin_steps.ways(steps, anywhere=anywhere):
        world = World(module)
        for number, step in enumerate(way.steps):
            where = f"{step.event} of session {step.number} at node {step.end} in {step.before}"
            try:
                world.take(step)
                found = step.after if number < way.known else world.text()
            except (AssertionError, AttributeError, LookupError) as error:
                raise Disagreement(f"{where}: {error!r}") from error
            if found != step.after:
                raise Disagreement(f"{where}: {found}, not {step.after}")
            if number >= way.known:
                world.check()
