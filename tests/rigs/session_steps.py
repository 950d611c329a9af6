"""The steps of docs/model/session.pml, and two real sessions on which each of them is taken.

A timer goes off because its deadline is moved to now: time itself stands still, so whatever else is armed stays armed.
"""

import copy
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Final

from cryprq.peer_id import PeerId
from cryprq.protocol.actions import Action, Activate, CloseConnection, Install, Remove, SendEmpty, SendFrame
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import AEAD_AES_256_GCM, KEM_X25519_MLKEM768, ROTATE_MIN_INTERVAL
from cryprq.protocol.frames import CloseCode, FrameReader, FrameType
from cryprq.protocol.session import Role, Session
from lab import ROOT
from tests.rigs import spin_steps
from tests.rigs.spin_steps import Disagreement, Step

MODEL: Final = ROOT / "docs" / "model" / "session.pml"
NOW: Final = Boottime(0.0)
ROTATE_SECS: Final = 300
NONE: Final = 15
FRAMES: Final = {
    None: 16,  # M4, which is no frame of the session
    FrameType.REKEY_REQUEST: 32,
    FrameType.REKEY: 48,
    FrameType.REKEY_RESPONSE: 64,
    FrameType.REKEY_DONE: 80,
    FrameType.CLOSE: 96,
}
"""As the model numbers them. It adds the epoch whose key seals the frame; here, the real key is there or it is not."""
TIMERS: Final = {
    "NOT_PROMOTED": "_promoted_by",
    "NO_RESPONSE": "_response_by",
    "GRACE": "_grace_until",
    "DRAINED": "_retire_at",
}
EVENTS: Final = ("FRAME", "RECORD", "ROTATE", "DUE", "LOST", "RETIRE", "STOP", "EXPIRED", *TIMERS)


def explore(directory: Path, *, epochs: int) -> list[Step]:
    """Every step that the model can take with so many epochs."""
    return spin_steps.explore(MODEL, directory, [f"EPOCHS={epochs}"], EVENTS, _without_keys)


_FRAMES: Final = re.compile(r":([\d,]+)/")


def _without_keys(line: str) -> str:
    return _FRAMES.sub(
        lambda frames: ":" + "".join(f"{int(f) & ~NONE}," for f in frames[1].split(",")[:-1]) + "/", line
    )


@dataclass
class Side:
    """One end: its session, the epochs that its data plane has, and the frames that are under way to it."""

    session: Session
    number: int
    epochs: dict[int, Install] = field(default_factory=dict)
    active: int | None = None
    sent: int = 0
    heard: int = 0
    inbox: list[bytes | None] = field(default_factory=list)

    def index_of(self, number: int) -> int:
        """The receiver index of an epoch that the plane has."""
        return next(index for index, epoch in self.epochs.items() if epoch.keys.number == number)


class Pair:
    """Two sessions of ``module`` (``cryprq.protocol.session``, or a copy of it), at the point where the model begins:
    the responder has installed epoch 0, and M4 is under way."""

    def __init__(self, module: ModuleType) -> None:
        self._last_index = 100
        self.sides = tuple(
            Side(self._session(module, role, rx, tx), number)
            for number, (role, rx, tx) in enumerate(((module.Role.INITIATOR, 1, 2), (module.Role.RESPONDER, 2, 1)))
        )
        self.sides[0].session._rotation_started = NOW  # so that the next rotation has to wait for its second
        self.sides[0].inbox.append(None)
        self._carry_out(self.sides[1], self.sides[1].session.start(NOW))

    def _session(self, module: ModuleType, role: Role, rx_index: int, tx_index: int) -> Session:
        setup = module.SessionSetup(
            role=role,
            peer_id=PeerId(bytes(32)),
            suite=AEAD_AES_256_GCM,
            kem=KEM_X25519_MLKEM768,
            rotate_secs=ROTATE_SECS,
            tx_lanes=1,
            rx_lanes=1,
            new_index=self._new_index,
        )
        session: Session = module.Session(setup, bytearray(32), rx_index, tx_index, NOW)
        return session

    def _new_index(self) -> int:
        self._last_index += 1
        return self._last_index

    # ---- what is so ----

    def text(self) -> str:
        """The state as the model prints it."""
        sides = "".join(self._side_text(side) for side in self.sides)
        wanted = self.sides[0].session._rotation_wanted is not None
        return f"{sides}{wanted:d},{self.sides[1].session._requested:d}"

    def _side_text(self, side: Side) -> str:
        session = side.session
        epochs = (session._previous, session._current, session._pending)
        values = (
            session.state.value - 1,
            session.rotation.value - 1,
            *(NONE if epoch is None else epoch.number for epoch in epochs),
            session.connected,
            side.sent,
            side.heard,
        )
        frames = "".join(f"{FRAMES[_type(frame)]}," for frame in side.inbox)
        return ",".join(str(int(value)) for value in values) + f":{frames}/"

    def check(self) -> None:
        """What no state says: the plane has the epochs of the session and no other, both ends of an epoch have the same
        keys, and what the session says it sends on is what it told the plane to send on."""
        for side in self.sides:
            held = {epoch.rx_index for epoch in side.session._epochs()} if side.session.state.name != "NEW" else set()
            if held != set(side.epochs) or len(held) > 3:
                raise Disagreement(f"end {side.number} holds {held}, its plane {set(side.epochs)}")
            if side.session.sending_index not in (None, side.active):
                raise Disagreement(
                    f"end {side.number} says {side.session.sending_index}, its plane sends on {side.active}"
                )
        for epoch in self.sides[0].epochs.values():
            there = self.sides[1].epochs.get(epoch.keys.tx_index)
            if there is not None and there.keys.rx_secrets != epoch.keys.tx_secrets:
                raise Disagreement(f"both ends have an epoch {epoch.keys.number}, each with keys of its own")

    # ---- what happens ----

    def copy(self) -> "Pair":
        """The same, apart: keys, frames and all."""
        return copy.deepcopy(self)

    def take(self, step: Step) -> None:
        """Lets happen what the step says."""
        side = self.sides[step.end]
        self._carry_out(side, self._happens(side, step))

    def _happens(self, side: Side, step: Step) -> Sequence[Action]:
        session = side.session
        match step.event:
            case "FRAME":
                return self._frame(side)
            case "RECORD":
                side.heard |= 1 << step.number
                return session.first_record(side.index_of(step.number), NOW)
            case "ROTATE":
                return session.rotate(NOW)
            case "DUE":
                session._rotation_started = Boottime(NOW - ROTATE_MIN_INTERVAL)
                if session._rotation_wanted is None and session._current is not None:
                    session._current.derived_at = Boottime(NOW - ROTATE_SECS)
                return session.handle_timer(NOW)
            case "LOST":
                return session.connection_lost(NOW)
            case "RETIRE":
                return session.retire(NOW)
            case "STOP":
                return session.close("shutdown", NOW)
            case "EXPIRED":
                return session.key_expired(side.index_of(step.number), NOW)
            case timer:
                return self._goes_off(side, TIMERS[timer])

    def _goes_off(self, side: Side, timer: str) -> Sequence[Action]:
        if getattr(side.session, timer) is None:
            raise Disagreement(f"{timer} of end {side.number} is not armed")
        setattr(side.session, timer, NOW)
        return side.session.handle_timer(NOW)

    def _frame(self, side: Side) -> Sequence[Action]:
        data = side.inbox.pop(0)
        if data is None:
            return side.session.start(NOW)
        (frame,) = FrameReader().feed(data)
        return side.session.receive_frame(*frame, NOW)

    def _carry_out(self, side: Side, actions: Sequence[Action]) -> None:
        other = self.sides[1 - side.number]
        for action in actions:
            match action:
                case SendFrame(data):
                    if other.session.connected:
                        other.inbox.append(data)
                case Install(keys, _):
                    side.epochs[keys.rx_index] = action
                case Activate(rx_index):
                    side.active = rx_index
                    side.sent |= 1 << side.epochs[rx_index].keys.number
                case SendEmpty(rx_index):
                    if rx_index != side.session.sending_index:
                        raise Disagreement(f"end {side.number} sends a record on another epoch than its own")
                case Remove(rx_index):
                    del side.epochs[rx_index]
                case CloseConnection(code, reason):
                    if code in (CloseCode.MALFORMED, CloseCode.INTERNAL):
                        raise Disagreement(f"end {side.number} refuses an honest frame: {reason}")
                case _:
                    pass
        if not side.session.connected:
            side.inbox.clear()


def _type(frame: bytes | None) -> FrameType | None:
    return None if frame is None else FrameType(frame[0])


def replay(steps: Sequence[Step], module: ModuleType) -> None:
    """Takes every step on sessions of ``module``, from each state that there is, and sees that what the model has no
    step for does nothing. Disagreement as soon as the sessions are elsewhere than the model."""
    pairs = {steps[0].before: Pair(module)}
    if pairs[steps[0].before].text() != steps[0].before:
        raise Disagreement(f"the model begins at {steps[0].before}, the sessions at {pairs[steps[0].before].text()}")
    events = {step.event for step in steps}
    for before, ways in itertools.groupby(steps, key=lambda step: step.before):
        possible = tuple(ways)
        pair = pairs.pop(before)
        _nothing_else(pair, before, events, {(step.event, step.end) for step in possible})
        for step in possible:
            there = pair.copy()
            _take(there, step)
            pairs.setdefault(step.after, there)


def _take(pair: Pair, step: Step) -> None:
    try:
        pair.take(step)
    except (AssertionError, AttributeError, LookupError, StopIteration) as error:
        raise Disagreement(f"{step.event} at {step.end} in {step.before}: {error!r}") from error
    if pair.text() != step.after:
        raise Disagreement(f"{step.event} at {step.end} in {step.before}: {pair.text()}, not {step.after}")
    pair.check()


def _nothing_else(pair: Pair, before: str, events: set[str], possible: set[tuple[str, int]]) -> None:
    """What anybody may ask of a session at any time changes nothing where the model has no step for it."""
    for side in pair.sides:
        session = side.session
        for event, ask in (("ROTATE", session.rotate), ("LOST", session.connection_lost), ("RETIRE", session.retire)):
            if event not in events or (event, side.number) in possible:
                continue
            if ask(NOW) or pair.text() != before:
                raise Disagreement(f"{event} at {side.number} in {before} does something: {pair.text()}")
