"""When a peer is dialled, and at which of its addresses."""

from collections.abc import Callable, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import pytest

from cryprq.address import Address
from cryprq.multiaddr import Multiaddr
from cryprq.peers.dialer import (
    BACKOFF_JITTER,
    CONTEST_FORGET,
    NEXT_ADDRESS_AFTER,
    REDIAL_FAST_INTERVAL,
    REDIAL_FAST_TIMEOUT,
    REDIAL_FAST_WINDOW,
    REDIAL_PATIENT,
    TELL_EVERY,
    Dialer,
    DialSchedule,
)
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import DIAL_TIMEOUT, DIAL_TIMEOUT_MAX
from tests.rigs.fakes import Recorder, identity

FIRST, SECOND = Address("2001:db8::1", 9999), Address("192.0.2.1", 9999)


class Attempt:
    def __init__(self, remote: Address, timeout: float, now: float) -> None:
        self.remote = remote
        self.timeout = timeout
        self.started = now
        self.answered = False
        self.over = False
        self.detail = "no answer"

    def abandon(self) -> None:
        self.over = True


class Target:
    def __init__(self) -> None:
        self.peer_id = identity(1).peer_id
        self.up = False
        self.wanted = True
        self.round_trip = 0.02
        self.failures = 0

    def wants_dial(self) -> bool:
        return self.wanted

    def dial_failed(self) -> None:
        self.failures += 1


class Rig:
    """A dialer whose attempts end when the test, or their timeout, says so."""

    name = Multiaddr("dns", "gateway.example", 9999)

    def __init__(
        self,
        *,
        base: float = 0.5,
        maximum: float = 30.0,
        others: Mapping[Multiaddr, tuple[Address, ...]] = MappingProxyType({}),
    ) -> None:
        """``others``: where else the peer is."""
        self.others = others
        self.now = Boottime(1000.0)
        self.target = Target()
        self.observer = Recorder()
        self.found: tuple[Address, ...] = (SECOND,)
        self.error: str | None = None
        self.refuse: set[Address] = set()
        self.attempts: list[Attempt] = []
        self.unanswered: list[float] = []
        self.schedule = DialSchedule(base, maximum, lambda low, high: (low + high) / 2)
        self.dialer = Dialer(
            self.target,
            (self.name, *self.others),
            self.schedule,
            addresses=lambda target: self.found if target == self.name else self.others[target],
            resolve_error=lambda target: self.error,
            connect=self.connect,
            unanswered=self.unanswered.append,
            observer=self.observer,
        )

    def connect(self, _: Dialer, remote: Address, timeout: float) -> Any:
        if remote in self.refuse:
            raise OSError(97, "Address family not supported")
        self.attempts.append(Attempt(remote, timeout, self.now))
        return self.attempts[-1]

    @property
    def running(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts if not attempt.over]

    def run(self, seconds: float, *, until: Callable[[], bool] = lambda: False) -> None:
        """Polls as the node does: when asked to, and when an attempt times out."""
        end = self.now + seconds
        due = self.dialer.poll(self.now)
        while not until():
            timeouts = [attempt.started + attempt.timeout for attempt in self.running if not attempt.answered]
            self.now = Boottime(min(at for at in (due, *timeouts, end) if at is not None))
            for attempt in self.running:
                attempt.over = attempt.over or (not attempt.answered and self.now >= attempt.started + attempt.timeout)
            if self.now >= end:
                return
            due = self.dialer.poll(self.now)
            assert due is None or due > self.now

    @property
    def starts(self) -> list[float]:
        return [round(attempt.started - 1000, 3) for attempt in self.attempts]


@pytest.fixture
def rig() -> Rig:
    return Rig()


def test_backoff_doubles_between_dials_up_to_the_maximum() -> None:
    rig = Rig(base=1.0, maximum=6.0)
    rig.run(90)
    timeouts = [attempt.timeout for attempt in rig.attempts]
    gaps = [
        later - earlier - timeout for (earlier, later), timeout in zip(pairwise(rig.starts), timeouts, strict=False)
    ]
    assert gaps[:4] == pytest.approx([1, 2, 4, 6])
    assert timeouts[:4] == [DIAL_TIMEOUT, 2 * DIAL_TIMEOUT, DIAL_TIMEOUT_MAX, DIAL_TIMEOUT_MAX]


def test_way_that_is_known_to_be_long_is_given_its_time(rig: Rig) -> None:
    rig.target.up, rig.target.wanted, rig.target.round_trip = True, False, 4.0
    rig.dialer.poll(rig.now)
    rig.target.up, rig.target.wanted = False, True
    rig.run(30)
    assert min(attempt.timeout for attempt in rig.attempts) == 12.0
    gaps = [later - earlier for earlier, later in pairwise(rig.starts)]
    assert all((1 - BACKOFF_JITTER) * 2 <= gap <= 2.001 for gap in gaps)  # not ever more beside each other


def test_way_that_has_become_long_is_found_within_seconds(rig: Rig) -> None:
    """All that is known is a short one."""
    rig.schedule.tunnel_up(rig.now, 0.02)
    rig.run(REDIAL_PATIENT + 1)
    patient = [attempt for attempt in rig.attempts if attempt.timeout == DIAL_TIMEOUT_MAX]
    assert len(patient) == 1


def test_jitter_keeps_peers_from_dialling_in_step() -> None:
    waits = {DialSchedule(10, 100).failed(Boottime(0.0)) for _ in range(50)}
    assert len(waits) > 40
    assert all(10 * (1 - BACKOFF_JITTER) <= wait <= 10 * (1 + BACKOFF_JITTER) for wait in waits)


def test_no_dial_while_the_peer_does_not_want_one(rig: Rig) -> None:
    rig.target.wanted = False
    assert rig.dialer.poll(rig.now) is None
    assert not rig.attempts


def test_after_a_tunnel_dials_once_a_second_for_three_seconds_each(rig: Rig) -> None:
    rig.target.up, rig.target.wanted = True, False
    rig.dialer.poll(rig.now)
    rig.target.up, rig.target.wanted = False, True
    rig.run(20)
    gaps = [later - earlier for earlier, later in pairwise(rig.starts)]
    assert all((1 - BACKOFF_JITTER) * REDIAL_FAST_INTERVAL <= gap <= REDIAL_FAST_INTERVAL + 0.001 for gap in gaps)
    impatient = [attempt.timeout for number, attempt in enumerate(rig.attempts, 1) if number % REDIAL_PATIENT]
    assert set(impatient) == {REDIAL_FAST_TIMEOUT}
    assert len(impatient) >= 15
    assert len(rig.running) <= 4 + DIAL_TIMEOUT_MAX / REDIAL_PATIENT


def test_hurry_ends_after_five_minutes(rig: Rig) -> None:
    rig.schedule.tunnel_up(rig.now)
    rig.run(REDIAL_FAST_WINDOW + 100)
    late = [start for start in rig.starts if start > REDIAL_FAST_WINDOW]
    hurried = [start for start in rig.starts if start <= REDIAL_FAST_WINDOW]
    assert REDIAL_FAST_WINDOW <= len(hurried) <= REDIAL_FAST_WINDOW / (1 - BACKOFF_JITTER) + 1
    assert len(late) < 12


def test_refusal_ends_the_hurry_at_once(rig: Rig) -> None:
    rig.schedule.tunnel_up(rig.now)
    rig.run(0.5)
    rig.attempts[0].answered = rig.attempts[0].over = True
    rig.schedule.failed(rig.now, refused=True)
    rig.run(30)
    assert len(rig.attempts) < 10  # in a hurry it would be 30
    assert "dial_unanswered" not in rig.observer.names[: rig.observer.names.index("dial_started") + 2]


def test_way_that_opens_ends_a_long_wait(rig: Rig) -> None:
    rig.run(200)
    before = len(rig.attempts)
    rig.run(20)
    for attempt in rig.running:
        attempt.over = True
    rig.dialer.poll(rig.now)
    rig.dialer.hurry(rig.now)
    rig.run(0.01)
    assert len(rig.attempts) - before <= 2
    assert rig.attempts[-1].started == pytest.approx(rig.now, abs=0.02)


def test_way_that_opens_starts_a_dial_beside_one_that_got_lost(rig: Rig) -> None:
    rig.run(2)
    assert len(rig.attempts) == 1
    rig.dialer.hurry(rig.now)
    rig.run(0.01)
    assert len(rig.running) == 2


def test_ways_that_open_all_the_time_cost_a_dial_a_second(rig: Rig) -> None:
    for _ in range(1000):
        rig.dialer.hurry(rig.now)
        rig.run(0.1)
    assert 80 <= len(rig.attempts) <= 100 / (1 - BACKOFF_JITTER) + 2
    hurried = len(rig.attempts)
    rig.run(100)
    assert len(rig.attempts) - hurried < 15  # and then it is as before


def test_refused_dialer_is_not_hurried(rig: Rig) -> None:
    rig.run(0.1)
    rig.attempts[0].answered = rig.attempts[0].over = True
    for _ in range(6):
        due = rig.schedule.failed(rig.now, refused=True) + rig.now
    rig.dialer.hurry(rig.now)
    assert rig.schedule.due == due


def test_way_to_a_peer_that_is_there_is_no_reason_to_dial(rig: Rig) -> None:
    rig.target.up, rig.target.wanted = True, False
    rig.dialer.hurry(rig.now)
    rig.run(5)
    assert not rig.attempts


def test_session_that_another_host_takes_away_is_taken_back_ever_more_slowly(rig: Rig) -> None:
    """Each time the tunnel was up in between, as it is in the race of two hosts with one identity."""
    waits = []
    for _ in range(9):
        rig.schedule.tunnel_up(rig.now)
        waits.append(rig.schedule.replaced(rig.now))
        assert rig.schedule.due == rig.now + waits[-1]
        rig.now = rig.schedule.due
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    rig.target.wanted = True
    rig.schedule.tunnel_up(rig.now)
    rig.schedule.replaced(rig.now)
    rig.run(29.5)
    assert not rig.attempts  # although a tunnel was up not long ago


def test_host_that_was_alone_for_long_starts_afresh(rig: Rig) -> None:
    for _ in range(5):
        rig.schedule.replaced(rig.now)
    rig.now = Boottime(rig.now + CONTEST_FORGET * 30 + 1)
    rig.schedule.tunnel_up(rig.now)
    assert rig.schedule.replaced(rig.now) == 0.5


def test_second_address_is_tried_beside_the_first(rig: Rig) -> None:
    rig.found = (FIRST, SECOND)
    rig.run(0.1)
    assert [attempt.remote for attempt in rig.running] == [FIRST]
    rig.run(NEXT_ADDRESS_AFTER)
    assert [attempt.remote for attempt in rig.running] == [FIRST, SECOND]
    rig.attempts[1].answered = True
    rig.dialer.poll(rig.now)
    assert [attempt.remote for attempt in rig.running] == [SECOND]  # the first answer ends the others


def test_address_that_answers_at_once_keeps_the_others_from_being_tried(rig: Rig) -> None:
    rig.found = (FIRST, SECOND)
    rig.dialer.poll(rig.now)
    rig.attempts[0].answered = True
    rig.run(5)
    assert len(rig.attempts) == 1


def test_dial_that_nobody_answered_is_told_with_its_beginning(rig: Rig) -> None:
    rig.found = (FIRST, SECOND)
    rig.run(DIAL_TIMEOUT + 1)
    assert rig.unanswered == [1000]
    assert rig.target.failures == 1


def test_dial_that_could_not_be_tried_is_not_unanswered(rig: Rig) -> None:
    rig.refuse = {SECOND}
    rig.run(20)
    assert rig.unanswered == []
    assert rig.target.failures > 0


def test_addresses_of_one_peer_are_tried_in_their_order() -> None:
    third = Address("198.51.100.1", 9999)
    rig = Rig(others={Multiaddr("ip4", third.host, 9999): (third,), Multiaddr("ip4", SECOND.host, 9999): (SECOND,)})
    rig.found = (FIRST, SECOND)
    rig.run(4 * NEXT_ADDRESS_AFTER)
    assert [attempt.remote for attempt in rig.attempts] == [FIRST, SECOND, third]  # each once
    assert rig.starts == pytest.approx([0, NEXT_ADDRESS_AFTER, 2 * NEXT_ADDRESS_AFTER])


def test_name_that_is_not_known_keeps_no_other_address_from_being_tried() -> None:
    rig = Rig(others={Multiaddr("ip4", SECOND.host, 9999): (SECOND,)})
    rig.found, rig.error = (), "Name or service not known"
    rig.dialer.poll(rig.now)
    assert [attempt.remote for attempt in rig.attempts] == [SECOND]
    assert rig.observer.last("dial_unresolved")[1] == rig.name


def test_family_that_is_not_there_costs_no_time(rig: Rig) -> None:
    rig.found, rig.refuse = (FIRST, SECOND), {FIRST}
    rig.dialer.poll(rig.now)
    assert [attempt.remote for attempt in rig.running] == [SECOND]


def test_no_address_of_a_usable_family_is_reported_with_the_reason(rig: Rig) -> None:
    rig.found, rig.refuse = (FIRST,), {FIRST}
    rig.run(1)
    assert rig.observer.last("dial_unanswered")[2] == "Address family not supported"


def test_peer_that_does_not_answer_is_told_about_at_once_and_then_seldom(rig: Rig) -> None:
    rig.schedule.tunnel_up(rig.now)
    rig.run(70)
    told = [kwargs["again"] for name, _, kwargs in rig.observer.calls if name == "dial_unanswered"]
    assert told[0] is False
    assert len(told) > 50
    assert told.count(False) == 1 + int(67 / TELL_EVERY)
    started = [kwargs["again"] for name, _, kwargs in rig.observer.calls if name == "dial_started"]
    assert started[0] is False
    assert started[-1] is True


def test_name_without_an_address_is_reported_and_tried_again(rig: Rig) -> None:
    rig.found, rig.error = (), "Name or service not known"
    rig.run(0.2)
    assert rig.observer.last("dial_unresolved")[2] == "Name or service not known"
    assert rig.target.failures == 1
    rig.found = (SECOND,)
    rig.run(5)
    assert rig.attempts


def test_dial_waits_for_a_name_that_is_being_looked_up(rig: Rig) -> None:
    rig.found = ()
    due = rig.dialer.poll(rig.now)
    assert due is not None
    assert due > rig.now
    rig.found = (SECOND,)
    rig.dialer.poll(Boottime(rig.now + 0.01))  # the look-up has ended
    assert len(rig.attempts) == 1
    assert "dial_unresolved" not in rig.observer.names


def test_peer_that_is_there_again_ends_unanswered_attempts(rig: Rig) -> None:
    rig.run(0.1)
    rig.target.wanted, rig.target.up = False, True
    rig.dialer.poll(rig.now)
    assert not rig.running
    assert not rig.dialer.dialling
    assert "dial_unanswered" not in rig.observer.names


def test_handshake_under_way_is_left_alone(rig: Rig) -> None:
    rig.schedule.tunnel_up(rig.now)
    rig.run(0.1)
    rig.attempts[0].answered = True
    rig.run(10)
    assert len(rig.attempts) == 1
    assert rig.running


def test_stopped_dialer_gives_everything_up(rig: Rig) -> None:
    rig.run(0.1)
    rig.attempts[0].answered = True
    rig.dialer.stop()
    assert not rig.running
    assert rig.dialer.poll(Boottime(rig.now + 100)) is None
    assert len(rig.attempts) == 1
