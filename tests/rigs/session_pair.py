"""Two sessions and the world between them, in memory: a stream that keeps its order, a network that loses records, a
clock that jumps from event to event. Every action is carried out on a stand-in for the data plane that knows, for each
epoch, exactly what the real one would: the keys, the index, which epoch sends."""

import functools
import heapq
import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cryprq.peer_id import PeerId
from cryprq.protocol.actions import (
    Action,
    Activate,
    CloseConnection,
    Dead,
    Established,
    Install,
    Promote,
    Remove,
    Rotated,
    SendEmpty,
    SendFrame,
)
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import AEAD_AES_256_GCM, ANSWER_PERIOD, KEM_X25519_MLKEM768
from cryprq.protocol.frames import FrameReader, FrameType
from cryprq.protocol.session import Role, Session, SessionSetup

Frame = tuple[FrameType, bytes, bytes]

ROOT = bytes(range(32))


def sessions(
    *, rotate_secs: int = 300, kem: int = KEM_X25519_MLKEM768, root: bytes = ROOT, lanes: tuple[int, int] = (1, 2)
) -> tuple[Session, Session]:
    """An initiator's and a responder's session of the same root at time 0, without a handshake."""
    indices = itertools.count(100)
    made = []
    for role, (rx, tx), (own, other) in (
        (Role.INITIATOR, (1, 2), lanes),
        (Role.RESPONDER, (2, 1), lanes[::-1]),
    ):
        setup = SessionSetup(
            role=role,
            peer_id=PeerId(bytes(32)),
            suite=AEAD_AES_256_GCM,
            kem=kem,
            rotate_secs=rotate_secs,
            tx_lanes=own,
            rx_lanes=other,
            new_index=lambda: next(indices),
        )
        made.append(Session(setup, bytearray(root), rx, tx, Boottime(0.0)))
    return made[0], made[1]


def established(rotate_secs: int = 300, kem: int = KEM_X25519_MLKEM768) -> tuple[Session, Session]:
    """The same at time 0, started and promoted on both sides."""
    initiator, responder = sessions(rotate_secs=rotate_secs, kem=kem)
    initiator.start(Boottime(0.0))
    responder.start(Boottime(0.0))
    responder.first_record(2, Boottime(0.0))
    initiator.first_record(1, Boottime(0.0))
    # The responder's repeated answers, which most tests are not about, are over: a late timer only drops them.
    assert responder.handle_timer(Boottime(ANSWER_PERIOD + 0.5)) == []
    return initiator, responder


def frame(actions: Sequence[Action]) -> Frame:
    """The one frame among the actions."""
    (sent,) = (action for action in actions if isinstance(action, SendFrame))
    (received,) = FrameReader().feed(sent.data)
    return received


def kinds(actions: Sequence[Action]) -> list[type[Action]]:
    return [type(action) for action in actions]


def install(actions: Sequence[Action]) -> Install:
    """The one Install among the actions."""
    (found,) = (action for action in actions if isinstance(action, Install))
    return found


@dataclass
class StandIn:
    """What the data plane would hold."""

    epochs: dict[int, Install] = field(default_factory=dict)
    sending: int | None = None
    promoted: int | None = None
    heard: set[int] = field(default_factory=set)
    most_epochs: int = 0


class End:
    """A session with its stand-in for the plane."""

    def __init__(self, session: Session, name: str) -> None:
        self.session = session
        self.name = name
        self.plane = StandIn()
        self.log: list[Action] = []
        self.connected = True
        self.dead = False
        self.established = False

    @property
    def rotations(self) -> int:
        return sum(isinstance(action, Rotated) for action in self.log)


class World:
    """Runs two ends against each other. ``check`` is called after every single action."""

    def __init__(self, *, rotate_secs: int, seed: int, loss: float = 0.0, latency: float = 0.05) -> None:
        self.random = random.Random(seed)
        self.loss = loss
        self.latency = latency
        self.now = Boottime(0.0)
        initiator, responder = sessions(rotate_secs=rotate_secs)
        self.initiator, self.responder = End(initiator, "initiator"), End(responder, "responder")
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = itertools.count()
        self._stream_at = {"initiator": 0.0, "responder": 0.0}
        self.frames_sent = 0
        self.cut_after_frame: int | None = None

    def other(self, end: End) -> End:
        return self.responder if end is self.initiator else self.initiator

    def start(self) -> None:
        """As after a handshake: the responder installs, then the initiator sees M4."""
        self.execute(self.responder, self.responder.session.start(self.now))
        self.at(self.delay(), lambda: self.execute(self.initiator, self.initiator.session.start(self.now)))

    def at(self, delay: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + delay, next(self._serial), what))

    def delay(self) -> float:
        return self.random.uniform(0.1, 2.0) * self.latency

    def run(self, until: float) -> None:
        while True:
            timers = [
                (due, end) for end in (self.initiator, self.responder) if (due := end.session.next_timer()) is not None
            ]
            timer, end = min(timers, key=lambda item: item[0], default=(float("inf"), self.initiator))
            event = self._events[0][0] if self._events else float("inf")
            if min(timer, event) > until:
                self.now = Boottime(until)
                return
            self.now = Boottime(max(self.now, min(timer, event)))
            if event <= timer:
                heapq.heappop(self._events)[2]()
            else:
                actions = end.session.handle_timer(self.now)
                after = end.session.next_timer()
                assert after is None or after > timer, f"{end.name}: a timer that does not advance"
                self.execute(end, actions)

    # ---- the stream ----

    def cut(self) -> None:
        """QUIC is gone: frames in flight with it, and both ends notice at some point."""
        for end in (self.initiator, self.responder):
            if end.connected:
                end.connected = False
                self.at(self.delay(), functools.partial(self._lost, end))

    def _lost(self, end: End) -> None:
        self.execute(end, end.session.connection_lost(self.now))

    def _send_frame(self, end: End, data: bytes) -> None:
        if not end.connected:
            return
        self.frames_sent += 1
        target = self.other(end)
        arrival = max(self._stream_at[target.name], self.now + self.delay())
        self._stream_at[target.name] = arrival
        self.at(arrival - self.now, lambda: self._frame_arrives(target, data))
        if self.frames_sent == self.cut_after_frame:
            self.cut()

    def _frame_arrives(self, end: End, data: bytes) -> None:
        if end.connected:
            (received,) = FrameReader().feed(data)
            self.execute(end, end.session.receive_frame(*received, self.now))

    # ---- the data plane ----

    def send_record(self, end: End) -> None:
        """A record of the end, if it has a key to send under; the network may lose it."""
        if end.plane.sending is None:
            return
        keys = end.plane.epochs[end.plane.sending].keys
        if self.random.random() >= self.loss:
            self.at(self.delay(), lambda: self.record_arrives(self.other(end), keys.tx_index, bytes(keys.tx_secrets)))

    def record_arrives(self, end: End, rx_index: int, secrets: bytes) -> None:
        epoch = end.plane.epochs.get(rx_index)
        if epoch is None or bytes(epoch.keys.rx_secrets) != secrets:
            return
        if rx_index not in end.plane.heard:
            end.plane.heard.add(rx_index)
            self.execute(end, end.session.first_record(rx_index, self.now))

    def can_reach(self, end: End) -> bool:
        """Whether a record that the end sends now would be opened if it arrived now."""
        if end.plane.sending is None:
            return False
        keys = end.plane.epochs[end.plane.sending].keys
        there = self.other(end).plane.epochs.get(keys.tx_index)
        return there is not None and there.keys.rx_secrets == keys.tx_secrets

    # ---- actions ----

    def execute(self, end: End, actions: Sequence[Action]) -> None:
        for action in actions:
            end.log.append(action)
            self._carry_out(end, action)
            self.check(end, action)

    def check(self, end: End, action: Action) -> None:
        """What must hold after every action."""
        assert len(end.plane.epochs) <= 3, "more than three epochs"
        assert set(end.plane.epochs) <= end.session.rx_indices() | set(end.plane.epochs)
        if (
            self.initiator.established
            and self.responder.established
            and not (self.initiator.dead or self.responder.dead)
        ):
            assert self.can_reach(self.initiator), f"the initiator cannot be heard at {self.now} after {action}"
            assert self.can_reach(self.responder), f"the responder cannot be heard at {self.now} after {action}"

    def _carry_out(self, end: End, action: Action) -> None:
        plane = end.plane
        match action:
            case SendFrame(data):
                self._send_frame(end, data)
            case Install(keys, lifetime):
                assert keys.rx_index not in plane.epochs
                assert lifetime > 0
                plane.epochs[keys.rx_index] = action
                plane.most_epochs = max(plane.most_epochs, len(plane.epochs))
            case Activate(rx_index):
                assert rx_index in plane.epochs
                plane.sending = rx_index
            case Promote(rx_index):
                assert rx_index in plane.epochs
                plane.promoted = rx_index
            case SendEmpty(rx_index):
                assert rx_index == plane.sending
                self.send_record(end)
            case Remove(rx_index):
                del plane.epochs[rx_index]
                if plane.sending == rx_index:
                    plane.sending = None
                end.dead = end.dead or not plane.epochs or plane.sending is None
            case Established():
                end.established = True
            case CloseConnection():
                end.connected = False
                self.cut()
            case Dead():
                assert not plane.epochs
                end.dead = True
            case _:
                pass
