"""The steps of docs/model/session.pml, and two real sessions on which each of them is taken.

A timer goes off because its deadline is moved to now: time itself stands still, so whatever else is armed stays armed.
"""

import copy
import itertools
import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

from cryprq.peer_id import PeerId
from cryprq.protocol.actions import Action, Activate, CloseConnection, Install, Remove, SendEmpty, SendFrame
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import AEAD_AES_256_GCM, KEM_X25519_MLKEM768, ROTATE_MIN_INTERVAL
from cryprq.protocol.frames import CloseCode, FrameReader, FrameType
from cryprq.protocol.session import Role, Session
from lab import ROOT

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


class Step(NamedTuple):
    """One step of the model: what is so before it, what happens to which end and with which epoch, what is so after."""

    before: str
    event: str
    end: int
    epoch: int
    after: str


def numbers() -> dict[str, int]:
    """The constants of the model, by name."""
    return {name: int(value) for name, value in re.findall(r"^#define (\w+) (\d+)\b", MODEL.read_text(), re.MULTILINE)}


TIMERS: Final = {
    "NOT_PROMOTED": "_promoted_by",
    "NO_RESPONSE": "_response_by",
    "GRACE": "_grace_until",
    "DRAINED": "_retire_at",
}
EVENTS: Final = ("FRAME", "RECORD", "ROTATE", "DUE", "LOST", "RETIRE", "STOP", "EXPIRED", *TIMERS)


def explore(directory: Path, *, epochs: int) -> list[Step]:
    """Every step that the model can take, each once, those of a state before those of the states that follow it."""
    subprocess.run(["spin", "-DEDGES", f"-DEPOCHS={epochs}", "-a", MODEL], cwd=directory, check=True)
    subprocess.run(["gcc", "-O0", "-w", "-DSAFETY", "-o", "pan", "pan.c"], cwd=directory, check=True)
    said = subprocess.run(["./pan", "-m100000"], cwd=directory, check=True, capture_output=True, text=True).stdout
    assert "errors: 0" in said, said
    names = {numbers()[name]: name for name in EVENTS}
    found: dict[str, list[Step]] = {}
    for line in dict.fromkeys(said.splitlines()):
        if line.startswith("STEP "):
            _, before, event, after = _FRAMES.sub(_without_epochs, line).split()
            what, end, epoch = map(int, event.split(","))
            found.setdefault(before, []).append(Step(before, names[what], end, epoch, after))
    ordered, seen = [], {(first := next(iter(found)))}
    waiting = [first]
    for state in waiting:
        for step in found.get(state, ()):
            ordered.append(step)
            if step.after not in seen:
                seen.add(step.after)
                waiting.append(step.after)
    return ordered


_FRAMES: Final = re.compile(r":([\d,]+)/")


def _without_epochs(frames: re.Match[str]) -> str:
    return ":" + "".join(f"{int(frame) & ~NONE}," for frame in frames[1].split(",")[:-1]) + "/"


class Disagreement(AssertionError):
    """The sessions do not do what the model does."""


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
                side.heard |= 1 << step.epoch
                return session.first_record(side.index_of(step.epoch), NOW)
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
                return session.key_expired(side.index_of(step.epoch), NOW)
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


def only(steps: Sequence[Step], taken: Callable[[Step], bool]) -> list[Step]:
    """The steps that are left if those that are not ``taken`` never happen."""
    seen, kept = {steps[0].before}, []
    for step in steps:
        if step.before in seen and taken(step):
            kept.append(step)
            seen.add(step.after)
    return kept
