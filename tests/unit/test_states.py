"""docs/states.md keeps its word: its diagrams of a session and of a rotation have every way that a session can take,
and no other."""

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

from cryprq.protocol.actions import Action
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import GRACE, PROMOTE_TIMEOUT, ROTATE_RESPONSE_TIMEOUT
from cryprq.protocol.session import Role, Rotation, Session, State
from lab import ROOT
from tests.rigs.session_pair import End, World, established, frame, install, sessions

Way = tuple[str, str]

DIAGRAMS = re.findall(r"^```mermaid\n(.*?)^```$", (ROOT / "docs" / "states.md").read_text(), re.MULTILINE | re.DOTALL)


def ways_of(diagram: str) -> set[Way]:
    """From where to where; the beginning and the end are no states."""
    return {(one, other) for one, other in re.findall(r"(\S+) --> (\S+)", diagram) if "[*]" not in (one, other)}


SESSION, INITIATOR, RESPONDER = map(ways_of, DIAGRAMS[:3])


class Taken:
    """The ways that sessions have taken since it was made."""

    def __init__(self) -> None:
        self.session: set[Way] = set()
        self.rotation: dict[Role, set[Way]] = {Role.INITIATOR: set(), Role.RESPONDER: set()}

    def note(self, session: Session, name: str, value: Any) -> None:
        """An attribute is about to change."""
        before = getattr(session, name, None)
        if name == "state" and before not in (None, value):
            self.session.add((before.name, value.name))
        if name == "rotation" and before not in (None, value):
            self.rotation[session.role].add((before.name, value.name))


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> Taken:
    taken = Taken()
    plain = Session.__setattr__

    def noting(session: Session, name: str, value: Any) -> None:
        taken.note(session, name, value)
        plain(session, name, value)

    monkeypatch.setattr(Session, "__setattr__", noting)
    return taken


def test_diagrams_have_the_states_of_the_code() -> None:
    for ways, states in ((SESSION, State), (INITIATOR | RESPONDER, Rotation)):
        assert {state for way in ways for state in way} == {state.name for state in states}


def live_and_die(end: Callable[[Session], object], *, proven: bool) -> None:
    initiator, responder = established() if proven else sessions()
    for session in (initiator, responder):
        session.start(Boottime(0.0))
        end(session)


def rotate(*, record_first: bool = False, answered: bool = True) -> None:
    """One rotation, in the order that was asked for."""
    initiator, responder = established()
    answer = responder.receive_frame(*frame(initiator.rotate(Boottime(1.0))), Boottime(1.0))
    if not answered:
        initiator.handle_timer(Boottime(1.0 + ROTATE_RESPONSE_TIMEOUT))
        return
    done = initiator.receive_frame(*frame(answer), Boottime(1.0))
    if record_first:
        responder.first_record(install(answer).keys.rx_index, Boottime(1.0))
    responder.receive_frame(*frame(done), Boottime(1.0))
    initiator.first_record(install(done).keys.rx_index, Boottime(1.0))


def test_every_way_of_the_diagrams_is_taken(taken: Taken) -> None:
    for session in sessions():
        session.wipe()
    live_and_die(lambda session: session.handle_timer(Boottime(PROMOTE_TIMEOUT)), proven=False)
    for proven in (False, True):
        live_and_die(
            lambda session: (session.retire(Boottime(1.0)), session.handle_timer(Boottime(1.0 + GRACE))), proven=proven
        )
    live_and_die(lambda session: session.close("shutdown", Boottime(1.0)), proven=True)
    rotate()
    rotate(record_first=True)
    rotate(answered=False)
    assert taken.session == SESSION
    assert taken.rotation == {Role.INITIATOR: INITIATOR, Role.RESPONDER: RESPONDER}


class Rough(World):
    """A world in which ends are cut off while the other one goes on, so that nothing need reach anybody."""

    def check(self, end: End, action: Action) -> None:
        pass

    def ask(self, end: End, what: Callable[[Session, Boottime], list[Action]]) -> None:
        self.execute(end, what(end.session, self.now))


def stop(session: Session, now: Boottime) -> list[Action]:
    return session.close("shutdown", now)


@pytest.mark.parametrize("seed", range(24))
def test_no_other_way_is_taken_whatever_happens(seed: int, taken: Taken) -> None:
    """Records are lost, connections too, and either end is asked to rotate, to retire or to stop at any time."""
    world = Rough(rotate_secs=5, seed=seed, loss=(0.0, 0.4)[seed % 2], latency=(0.01, 0.6)[seed % 3 == 0])
    world.cut_after_frame = world.random.choice((None, 1, 2, 3, 4, 5, 6))
    world.start()
    ends = (world.initiator, world.responder)
    for _ in range(6):
        world.at(world.random.uniform(0.0, 60.0), partial(world.ask, world.random.choice(ends), Session.rotate))
    for end in ends:
        last = world.random.choice((Session.retire, stop, None))
        if last is not None:
            world.at(world.random.uniform(0.0, 60.0), partial(world.ask, end, last))
    world.run(400.0)
    assert {way[1] for way in taken.session} >= {"PROVISIONAL", "DEAD"}
    assert taken.session <= SESSION
    assert taken.rotation[Role.INITIATOR] <= INITIATOR
    assert taken.rotation[Role.RESPONDER] <= RESPONDER
