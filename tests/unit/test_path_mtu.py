"""The search for the path's MTU over paths that lose, that shrink, that grow, and that swallow what is too big."""

import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from cryprq.protocol.clock import Boottime
from cryprq.protocol.path_mtu import (
    AWAITED_MAX,
    BASE,
    COMMON,
    MAX_PROBES,
    PRECISION,
    RAISE_INTERVAL,
    RAISE_SOON,
    SETTLED_AFTER,
    VERIFY_INTERVAL,
    VERIFY_TIMEOUT,
    Found,
    Output,
    PathMtu,
    Probe,
    State,
)

SMALLEST, CEILING = 71, 1480
START = Boottime(1000.0)


@dataclass
class World:
    """A path and its clock. ``carries`` is its MTU now; None: nothing gets through."""

    carries: int | None = CEILING
    round_trip: float = 0.02
    loss: float = 0.0
    hint: int | None = None
    answers: bool = True
    """False: the peer is older than probes."""
    now: Boottime = START
    probes: list[tuple[float, int]] = field(default_factory=list)
    found: list[Found] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._tokens = itertools.count(2, 2)
        self._random = random.Random(7)
        self._coming: list[tuple[Boottime, int]] = []
        self.path = PathMtu(draw=lambda: next(self._tokens), round_trip=lambda: self.round_trip, hint=lambda: self.hint)

    def take(self, outputs: list[Output]) -> None:
        for output in outputs:
            if isinstance(output, Found):
                self.found.append(output)
                continue
            self.probes.append((self.now, output.size))
            arrives = self.carries is not None and output.size <= self.carries and self.answers
            if arrives and self._random.random() >= self.loss:
                self._coming.append((Boottime(self.now + self.round_trip), output.token))

    def begin(self, reason: str = "session", ceiling: int = CEILING) -> None:
        self.take(self.path.begin(SMALLEST, ceiling, reason, self.now))

    def run(self, seconds: float, *, traffic: bool = False, until: Callable[[], bool] = lambda: False) -> float:
        """Lets time pass, with large records or without; returns how much of it until the condition came true."""
        start, look = self.now, self.now
        while self.now < start + seconds and not until():
            coming = min((at for at, _ in self._coming), default=None)
            due = [at for at in (coming, self.path.next_timer(), look) if at is not None]
            self.now = max(self.now, min([*due, Boottime(start + seconds)]))
            for at, token in [one for one in self._coming if one[0] <= self.now]:
                self._coming.remove((at, token))
                self.take(self.path.acknowledged(token, self.now))
            for _ in range(3):
                self.take(self.path.handle_timer(self.now))
            assert (self.path.next_timer() or self.now + 1) > self.now, "a timer that is never over"
            if look <= self.now:
                look = Boottime(look + 1.0)
                self.take(self.path.large_sent(self.now if traffic else Boottime(0.0), self.now))
        return self.now - start


def exact(size: int, carries: int) -> bool:
    return carries - PRECISION < size <= carries


def test_path_that_carries_all_that_is_wanted_takes_one_round_trip_and_tells_nothing() -> None:
    world = World()
    world.begin()
    assert [size for _, size in world.probes] == [CEILING, BASE, SMALLEST]
    took = world.run(5, until=lambda: world.path.state is State.COMPLETE)
    assert took == pytest.approx(world.round_trip)
    assert (world.path.size, world.found, world.path.next_timer()) == (CEILING, [], None)


@pytest.mark.parametrize("carries", [*(size for size in COMMON if size < CEILING), BASE, 1281, 1399, 1407, 1479])
@pytest.mark.parametrize("hinted", [False, True])
def test_narrow_path_is_found(carries: int, hinted: bool) -> None:
    world = World(carries=carries, hint=carries if hinted else None)
    world.begin()
    usable = world.run(30, until=lambda: world.path.size is not None)
    assert usable <= MAX_PROBES * 0.3 + 0.1, "TCP stands for so long where fragments are dropped"
    took = usable + world.run(30, until=lambda: world.path.state is State.COMPLETE)
    assert took < (3 if hinted else 7)
    assert world.path.size is not None
    assert exact(world.path.size, carries)
    if hinted or carries in COMMON:
        assert world.path.size == carries
    assert world.found == [Found(CEILING, world.path.size, "session")]
    assert world.path.next_timer() == pytest.approx(world.now + RAISE_SOON)


@pytest.mark.parametrize("carries", [1500, 1600, 4352, 8000, 8960])
def test_jumbo_frames(carries: int) -> None:
    world = World(carries=carries)
    world.begin(ceiling=8960)
    world.run(30, until=lambda: world.path.state is State.COMPLETE)
    assert world.path.size is not None
    assert exact(world.path.size, carries)


@pytest.mark.parametrize("hint", [1300, 1500, 100, 0, 65535])
def test_what_the_kernel_was_told_decides_nothing(hint: int) -> None:
    """Anybody may send ICMP: a wrong hint costs probes, and the result is the same."""
    world = World(carries=1400, hint=hint)
    world.begin()
    world.run(30, until=lambda: world.path.state is State.COMPLETE)
    if hint == 1300:
        assert world.path.size is not None
        assert exact(world.path.size, 1400)
    else:
        assert world.path.size == 1400


def test_hint_below_what_is_verified_moves_nothing() -> None:
    world = World(carries=CEILING)
    world.begin()
    world.run(1)
    world.hint = 600
    world.run(60, traffic=True)
    assert (world.path.size, world.found) == (CEILING, [])


@pytest.mark.parametrize("loss", [0.05, 0.2])
@pytest.mark.parametrize("carries", [CEILING, 1400])
def test_losses_cost_time_and_no_size(loss: float, carries: int) -> None:
    """An answer that is lost is asked for again; a size that was given up wrongly is found at the next look."""
    right = 0
    for _ in range(40):
        world = World(carries=carries, loss=loss)
        world._random.seed(_)
        world.begin()
        world.run(200, traffic=True)
        right += world.path.size is not None and exact(world.path.size, carries)
    assert right >= (38 if loss < 0.1 else 28)


def test_idle_path_is_left_alone() -> None:
    world = World()
    world.begin()
    world.run(1)
    world.probes.clear()
    world.run(3600)
    assert world.probes == []


def test_traffic_verifies_the_size_once_a_second() -> None:
    world = World()
    world.begin()
    world.run(1)
    world.probes.clear()
    world.run(60, traffic=True)
    assert {size for _, size in world.probes} == {CEILING}
    assert 55 <= len(world.probes) <= 61


@pytest.mark.parametrize("hinted", [False, True])
@pytest.mark.parametrize("round_trip", [0.001, 0.05, 0.3])
def test_black_hole_is_found_before_tcp_has_waited_long(round_trip: float, hinted: bool) -> None:
    world = World(round_trip=round_trip)
    world.begin()
    world.run(10.3, traffic=True)
    world.carries, world.hint = 1400, 1400 if hinted else None
    took = world.run(60, traffic=True, until=lambda: (world.path.size or 0) <= 1400)
    assert took <= VERIFY_INTERVAL + MAX_PROBES * VERIFY_TIMEOUT + 0.01
    assert world.found == [Found(CEILING, 1400 if hinted else BASE, "black_hole")]
    world.run(10, traffic=True)
    assert world.path.size == 1400
    assert world.found[1:] == ([] if hinted else [Found(BASE, 1400, "search")])


def test_path_on_which_nothing_arrives_has_not_become_narrow() -> None:
    """Neither an outage nor a queue that holds answers up says anything of the size."""
    world = World()
    world.begin()
    world.run(5, traffic=True)
    world.carries = None
    world.run(30, traffic=True)
    assert (world.path.state, world.path.size, world.found) == (State.COMPLETE, CEILING, [])
    world.carries = CEILING
    world.run(5, traffic=True)
    world.round_trip = 2.5
    world.run(60, traffic=True)
    assert (world.path.size, world.found) == (CEILING, [])


def test_path_that_grows_is_noticed_by_the_raise_timer() -> None:
    """Once after a minute, then every ten minutes."""
    world = World(carries=1400)
    world.begin()
    world.run(RAISE_SOON + 10)
    world.probes.clear()
    world.run(RAISE_INTERVAL - 20)
    assert world.probes == []
    world.carries = CEILING
    world.run(20)
    assert world.path.size == CEILING
    assert world.found[1:] == [Found(1400, CEILING, "raise")]
    assert world.path.next_timer() is None


def test_raise_of_a_path_that_has_not_grown_costs_a_few_probes_and_no_traffic() -> None:
    world = World(carries=1400)
    world.begin()
    world.run(RAISE_SOON + 10)
    world.probes.clear()
    sizes: set[int | None] = set()

    def note() -> bool:
        sizes.add(world.path.size)
        return False

    world.run(RAISE_INTERVAL + 20, until=note)
    assert sizes == {1400}
    assert len(world.probes) <= 20
    assert len(world.found) == 1


@pytest.mark.parametrize("reason", ["moved", "link", "session"])
def test_new_path_is_measured_while_the_old_size_counts(reason: str) -> None:
    world = World(carries=1400)
    world.begin()
    world.run(10)
    world.probes.clear()
    world.begin(reason)
    assert world.path.size == 1400
    assert [size for _, size in world.probes] == [CEILING, 1400, BASE, SMALLEST]
    lowest = 1400

    def dips() -> bool:
        nonlocal lowest
        lowest = min(lowest, world.path.size or 0)
        return False

    world.run(20, until=dips)
    assert lowest == 1400
    world.carries = CEILING
    world.begin(reason)
    world.run(1)
    assert world.path.size == CEILING
    world.carries = 1300
    world.begin(reason)
    world.run(10)
    assert world.path.size == 1300
    assert [found.reason for found in world.found] == ["session", reason, reason]


def test_peer_that_moves_with_every_record_costs_a_round_of_probes_a_second() -> None:
    world = World()
    world.begin()
    for _ in range(1000):
        world.run(0.01)
        world.begin("moved")
    assert len(world.probes) <= 11 * 4
    world.run(2)
    assert world.path.state is State.COMPLETE


def test_older_peer_is_asked_again_now_and_then_and_nothing_is_known() -> None:
    world = World(answers=False)
    world.begin()
    world.run(10)
    assert (world.path.state, world.path.size, world.found) == (State.DISABLED, None, [])
    assert len(world.probes) == 3 * MAX_PROBES
    world.run(30, traffic=True)
    assert len(world.probes) == 3 * MAX_PROBES
    world.answers = True
    world.run(RAISE_INTERVAL)
    assert (world.path.state, world.path.size) == (State.COMPLETE, CEILING)


@pytest.mark.parametrize("carries", [1000, 71, 1279])
def test_path_below_the_base(carries: int) -> None:
    world = World(carries=carries)
    world.begin()
    world.run(10)
    assert (world.path.state, world.path.size) == (State.ERROR, None)
    assert world.found == [Found(CEILING, 0, "session")]
    world.carries = CEILING
    world.run(RAISE_INTERVAL + 10)
    assert world.path.size == CEILING
    assert world.found[1:] == [Found(0, CEILING, "raise")]
    world.carries = carries
    world.run(10, traffic=True)
    assert world.path.state is State.ERROR
    assert world.found[2:] == [Found(CEILING, 0, "black_hole")]


def test_answers_that_come_late_count() -> None:
    """The round trip is five times as long as was known: the peer is given up first, and found all the same."""
    world = World(carries=1400)
    world.round_trip = 0.02
    world.begin()
    world.round_trip = 4.0
    world.run(60)
    assert world.path.size == 1400


def test_small_ceiling_needs_no_base() -> None:
    world = World(carries=1000)
    world.begin(ceiling=636)
    world.run(5, traffic=True)
    assert (world.path.state, world.path.size) == (State.COMPLETE, 636)
    world.carries = 600
    world.begin("moved", ceiling=636)
    world.run(5)
    assert (world.path.state, world.path.size) == (State.ERROR, None)


def test_other_ip_version_is_another_path() -> None:
    world = World(carries=1400)
    world.begin()
    world.run(10)
    world.take(world.path.begin(SMALLEST + 20, CEILING + 20, "moved", world.now))
    assert world.path.size is None
    world.run(10)
    assert world.path.size == 1400


def test_own_link_that_became_smaller_is_looked_at_at_once() -> None:
    world = World()
    world.begin()
    world.run(5)
    world.carries = world.hint = 1400
    world.take(world.path.refused(world.now))
    world.take(world.path.refused(world.now))
    took = world.run(10, until=lambda: world.path.size == 1400)
    assert took <= MAX_PROBES * VERIFY_TIMEOUT + 0.01
    assert world.found == [Found(CEILING, 1400, "black_hole")]


def test_end_stops_everything_and_the_next_session_begins_with_what_was_known() -> None:
    world = World(carries=1400)
    world.begin()
    world.run(10)
    world.begin("moved")
    world.path.end()
    assert world.path.next_timer() is None
    world.run(700, traffic=True)
    assert world.path.size == 1400
    world.begin()
    world.run(10)
    assert (world.path.state, len(world.found)) == (State.COMPLETE, 1)


def test_unknown_and_repeated_answers_say_nothing() -> None:
    world = World(carries=1400)
    world.begin()
    assert world.path.acknowledged(999, world.now) == []
    world.run(10)
    for token in range(2, 200, 2):
        world.take(world.path.acknowledged(token, Boottime(world.now + 60)))
    assert world.path.size == 1400


@pytest.mark.parametrize("seed", range(20))
def test_random_life(seed: int) -> None:
    """Whatever happens in whatever order: a bounded number of probes on their way, no size above what is of use, and in
    the end the right one."""
    dice, world = random.Random(seed), World()
    world.begin()
    for _ in range(60):
        match dice.randrange(6):
            case 0:
                world.carries = dice.choice([None, 1000, 1280, 1350, 1400, 1480, 9000])
            case 1:
                world.loss = dice.choice([0, 0, 0.3, 0.9])
            case 2:
                world.begin(dice.choice(["moved", "link", "session"]))
            case 3:
                world.hint = dice.choice([None, 576, 1400, 1500])
            case 4:
                world.round_trip = dice.choice([0.001, 0.1, 1.0, 6.0])
            case 5:
                world.take(world.path.refused(world.now))
        world.run(dice.random() * 20, traffic=dice.random() < 0.5)
        assert world.path.size is None or BASE <= world.path.size <= CEILING
        assert len(world.path._awaited) <= AWAITED_MAX
    world.carries, world.loss, world.round_trip = 1400, 0.0, 0.02
    world.run(20)
    world.begin("moved")
    world.run(20)
    assert world.path.size is not None
    assert exact(world.path.size, 1400)


def test_probe_says_size_and_token() -> None:
    world = World()
    first, *_ = world.path.begin(SMALLEST, CEILING, "session", world.now)
    assert first == Probe(2, CEILING)


def test_senders_are_told_when_the_search_is_over() -> None:
    """What they are told in between they would keep for ten minutes."""
    world = World(carries=1400)
    world.begin()
    world.run(30, until=lambda: world.path.size == BASE)
    assert world.path.state is State.SEARCHING and not world.path.settled
    world.begin("moved")  # the path that is another one is no better known
    world.run(0.01)
    assert not world.path.settled
    world.run(30, until=lambda: world.path.state is State.COMPLETE)
    assert (world.path.size, world.path.settled) == (1400, True)
    world.carries = 1300
    world.run(30, traffic=True, until=lambda: world.path.state is State.SEARCHING)
    assert not world.path.settled
    world.run(30, until=lambda: world.path.state is State.COMPLETE)
    assert (world.path.size, world.path.settled) == (1300, True)


def test_search_for_more_leaves_what_was_told() -> None:
    world = World(carries=1400)
    world.begin()
    world.run(30, until=lambda: world.path.state is State.COMPLETE)
    world.run(RAISE_SOON + 1, until=lambda: world.path.state is State.SEARCHING)
    assert world.path.state is State.SEARCHING and world.path.settled


def test_search_that_takes_long_is_told_from() -> None:
    world = World(carries=1400, round_trip=2.0)
    world.begin()
    world.run(60, until=lambda: world.path.state is State.SEARCHING)
    began = world.now
    world.run(SETTLED_AFTER - 1)
    assert not world.path.settled
    world.run(60, until=lambda: world.path.settled)
    assert world.path.state is State.SEARCHING
    assert SETTLED_AFTER <= world.now - began < SETTLED_AFTER + MAX_PROBES * 3 * world.round_trip


def test_path_that_is_given_up_leaves_nothing_to_wait_for() -> None:
    world = World(carries=1400)
    world.begin()
    world.run(30, until=lambda: not world.path.settled)
    world.path.end()
    assert world.path.settled
