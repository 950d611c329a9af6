"""The silence rule: who is asked, who is answered, and who is dialled afresh."""

from itertools import pairwise

import pytest

from cryprq._fastpath import PeerStats
from cryprq.peers.liveness import (
    ANSWER_AFTER,
    HURRIED,
    IDLE,
    LEISURELY,
    PATIENCE_FORGET,
    PATIENCE_MAX,
    Liveness,
    Verdict,
)
from cryprq.protocol.clock import Boottime as at
from cryprq.protocol.constants import ANSWER_ROUND_TRIPS, ROUND_TRIP_MAX


def stats(*, rx: float = 0, tx: float = 0, data: float | None = None, packets: int = 0) -> PeerStats:
    """Counters with these times (seconds); ``data`` is when data was sent last, ``tx`` unless given."""
    sent = tx if data is None else data
    return PeerStats(packets, 0, 0, 0, int(rx * 1e9), int(tx * 1e9), int(sent * 1e9))


def looks(liveness: Liveness, start: int, end: int, **times: int) -> list[Verdict]:
    return [liveness.look(stats(**times), at(float(now))) for now in range(start, end)]


class Flow:
    """A peer that gets data all the time and is looked at as a node does: once a second, and when it is due."""

    def __init__(self, *, hurried: bool = True, round_trip: float = 0.02) -> None:
        self.now = 100.0
        self.heard = 99.5
        self.liveness = Liveness()
        self.answered = True
        """Whether pings are; nothing else is."""
        self.asked: list[float] = []
        self._hurried, self._round_trip = hurried, round_trip
        self._answers: list[float] = []

    def run(self, seconds: float) -> float | None:
        """Until the peer counts as silent; when that was. None: it never did."""
        end, tick = self.now + seconds, int(self.now) + 1.0
        while self.now < end:
            self.now = min(at for at in (tick, self.liveness.due, *self._answers) if at is not None and at > self.now)
            tick += self.now >= tick
            self.heard = max([self.heard, *(answer for answer in self._answers if answer <= self.now)])
            self._answers = [answer for answer in self._answers if answer > self.now]
            counters = stats(rx=self.heard, tx=self.now)
            verdict = self.liveness.look(counters, at(self.now), self._round_trip, hurried=self._hurried)
            if verdict is Verdict.ASK:
                self.asked.append(self.now)
                self._answers += [self.now + self._round_trip] if self.answered else []
            if verdict is Verdict.SILENT:
                return self.now
        return None


def test_one_way_flow_to_a_peer_that_answers_pings_is_no_silence() -> None:
    flow = Flow()
    assert flow.run(600) is None
    assert 300 < len(flow.asked) < 1300


def test_peer_that_is_gone_is_noticed_in_two_and_a_half_seconds() -> None:
    for beginning in (0.0, 0.3, 0.7):
        flow = Flow()
        flow.run(10 + beginning)
        flow.answered, gone = False, flow.now
        flow.asked.clear()
        silent = flow.run(60)
        assert silent is not None
        assert silent - gone <= 1 + HURRIED.whole + 0.001
        assert len(flow.asked) >= HURRIED.questions


@pytest.mark.parametrize("hurried", [True, False])
@pytest.mark.parametrize("round_trip", [0.5, 2.4, ROUND_TRIP_MAX])
def test_long_way_is_no_silence(round_trip: float, hurried: bool) -> None:
    flow = Flow(round_trip=round_trip, hurried=hurried)
    flow.heard = flow.now
    assert flow.run(600) is None


def test_lost_questions_are_no_silence() -> None:
    flow = Flow()
    flow.answered = False
    while len(flow.asked) < HURRIED.questions - 1:
        flow.run(0.1)
    flow.answered = True
    assert flow.run(3) is None


def test_long_way_gets_its_time() -> None:
    flow = Flow(round_trip=ROUND_TRIP_MAX)
    flow.answered = False
    silent = flow.run(60)
    assert silent is not None
    assert silent - 100 > (1 + ANSWER_ROUND_TRIPS) * ROUND_TRIP_MAX


def test_peer_that_is_only_slow_is_given_more_time_and_later_less_again() -> None:
    liveness, now, whole = Liveness(), 1000.0, []
    for _ in range(6):
        began, heard = now, now - 0.5
        while liveness.look(stats(rx=heard, tx=now), at(now), hurried=True) is not Verdict.SILENT:
            now += 0.125
        whole.append(now - began)
        now += 0.5
        assert liveness.look(stats(rx=now, tx=now), at(now), hurried=True) is Verdict.QUIET
    assert whole[0] < whole[1] < whole[2] < whole[3] == whole[4] == whole[5]
    assert whole[5] < PATIENCE_MAX * (HURRIED.whole + 1)
    now += PATIENCE_FORGET + 1
    liveness.look(stats(rx=now - 0.5, tx=now), at(now), hurried=True)
    assert liveness.patience == 1


def test_outage_that_no_patience_would_have_sat_out_costs_none() -> None:
    liveness = Liveness()
    for tenth in range(60):
        liveness.look(stats(rx=99, tx=100), at(100 + tenth / 10), hurried=True)
    assert liveness.silent
    liveness.look(stats(rx=106, tx=106), at(106.0), hurried=True)
    assert liveness.patience == 1


def test_host_that_slept_asks_before_it_judges() -> None:
    """Its clock goes on, and it looks when it wakes up."""
    liveness = Liveness()
    liveness.look(stats(rx=99, tx=100), at(100.0), hurried=True)
    verdicts = [liveness.look(stats(rx=99, tx=100), at(4000.0), hurried=True) for _ in range(5)]
    assert verdicts == [Verdict.ASK, *[Verdict.QUIET] * 4]
    assert liveness.due is not None and liveness.due > 4000


def test_answered_traffic_needs_no_empty_records() -> None:
    liveness = Liveness()
    for now in range(100, 160):
        assert liveness.look(stats(rx=now, tx=now, packets=now), at(float(now))) is Verdict.QUIET


def test_idle_link_is_not_silent() -> None:
    assert set(looks(Liveness(), 100, 160, rx=90, tx=80, packets=0)) == {Verdict.QUIET}


def test_unanswered_data_is_asked_about_once_and_then_silent() -> None:
    liveness = Liveness()
    verdicts = looks(liveness, 100, 115, rx=90, tx=100)
    probe = int(LEISURELY.ask_after)
    silent = int(LEISURELY.whole)
    assert verdicts[probe] is Verdict.ASK
    assert verdicts.count(Verdict.ASK) == 1
    assert Verdict.SILENT not in verdicts[:silent]
    assert set(verdicts[silent:]) == {Verdict.SILENT}
    assert liveness.silent


def test_anything_authenticated_ends_the_silence() -> None:
    liveness = Liveness()
    looks(liveness, 100, 115, rx=90, tx=100)
    assert liveness.look(stats(rx=115, tx=114), at(115.0)) is Verdict.QUIET
    assert not liveness.silent
    # and the next silence is counted from its own beginning
    asked = int(LEISURELY.ask_after)
    assert looks(liveness, 116, 116 + asked, rx=115, tx=116) == [Verdict.QUIET] * asked


def test_silence_is_measured_from_the_data_that_was_not_answered() -> None:
    liveness = Liveness()
    assert looks(liveness, 100, 200, rx=90, tx=80) == [Verdict.QUIET] * 100
    assert looks(liveness, 200, 205, rx=90, tx=200) == [Verdict.QUIET] * 5


def test_idle_peer_that_is_suspected_is_asked_at_once() -> None:
    liveness = Liveness()
    idle = stats(rx=90, tx=80)
    assert liveness.look(idle, at(100.0), hurried=True) is Verdict.QUIET
    liveness.suspect(idle, at(100.5))
    now, verdicts = 100.5, []
    while Verdict.SILENT not in verdicts:
        verdicts.append(liveness.look(idle, at(now), hurried=True))
        assert liveness.due is not None or liveness.silent
        now = liveness.due or now
    assert verdicts.count(Verdict.ASK) == HURRIED.questions
    assert now - 100.5 == pytest.approx(HURRIED.answer_within)


def test_suspicion_ends_with_whatever_is_authentic() -> None:
    liveness = Liveness()
    liveness.suspect(stats(rx=90, tx=80), at(100.0))
    assert liveness.look(stats(rx=90, tx=80), at(100.0), hurried=True) is Verdict.ASK
    for now in range(101, 120):
        assert liveness.look(stats(rx=100.1, tx=80), at(float(now)), hurried=True) is Verdict.QUIET
    assert liveness.due is None


def test_keepalives_that_this_node_sent_are_not_data() -> None:
    assert Verdict.SILENT not in looks(Liveness(), 100, 130, rx=90, tx=100, data=0)


def test_one_way_flow_is_answered_with_an_empty_record_now_and_then() -> None:
    liveness = Liveness()
    last_sent, answers = 0.0, []
    for now in range(100, 130):
        if liveness.look(stats(rx=now, tx=last_sent, data=0, packets=now), at(float(now))) is Verdict.SEND_EMPTY:
            answers.append(now)
            last_sent = now
    gaps = [later - earlier for earlier, later in pairwise(answers)]
    assert answers
    assert max(gaps) < LEISURELY.ask_after


def test_keepalive_that_arrives_is_not_answered() -> None:
    # Two ends that answered each other's empty records would never stop.
    verdicts = [Liveness().look(stats(rx=now, tx=50, data=0, packets=0), at(float(now))) for now in range(100, 130)]
    assert set(verdicts) == {Verdict.QUIET}


def test_traffic_of_its_own_is_answer_enough() -> None:
    liveness = Liveness()
    for now in range(100, 130):
        tx = now if now % 2 else now - 1
        verdict = liveness.look(stats(rx=now, tx=tx, data=tx, packets=now), at(float(now)))
        assert verdict is Verdict.QUIET, f"at {now}"
    assert LEISURELY.ask_after > ANSWER_AFTER


def test_keepalive_comes_when_nothing_was_sent_for_so_long() -> None:
    liveness, last_sent, sent = Liveness(), 95.0, []
    for now in range(100, 140):
        if liveness.look(stats(rx=now, tx=last_sent, data=0), at(float(now)), keepalive=10) is Verdict.SEND_EMPTY:
            last_sent = now
            sent.append(now)
    assert sent == [105, 115, 125, 135]


def test_keepalive_asks_and_an_answer_is_the_end_of_it() -> None:
    liveness, heard, sent, asked = Liveness(), 95.0, 95.0, []
    for now in range(100, 160):
        if liveness.look(stats(rx=heard, tx=sent, data=0), at(float(now)), keepalive=10, asks=True) is Verdict.ASK:
            heard, sent = now + 0.02, now
            asked.append(now)
    assert asked == [105, 115, 125, 135, 145, 155]
    assert not liveness.silent
    assert liveness.due is None


def test_idle_peer_that_answers_no_keepalive_is_silent() -> None:
    liveness, sent, asked = Liveness(), 95.0, []
    now = 100.0
    while not liveness.silent:
        if liveness.look(stats(rx=95, tx=sent, data=0), at(now), keepalive=10, asks=True) is Verdict.ASK:
            sent = now
            asked.append(now)
        now += 0.5
    assert asked == [105, 107, 109]
    assert now - 0.5 == 105 + IDLE.whole


def test_data_during_a_keepalive_makes_it_hurried() -> None:
    liveness = Liveness()
    assert liveness.look(stats(rx=95, tx=95, data=0), at(105.0), 0.02, hurried=True, keepalive=10, asks=True)
    now, data = 105.1, 105.1
    while not liveness.silent:
        liveness.look(stats(rx=95, tx=data), at(now), 0.02, hurried=True, keepalive=10, asks=True)
        now += 0.1
    assert now - data < HURRIED.whole + 0.5


@pytest.mark.parametrize("keepalive", [None, 0])
def test_no_keepalive_where_none_is_wanted(keepalive: int | None) -> None:
    liveness = Liveness()
    assert {liveness.look(stats(rx=90, tx=80), at(float(now)), keepalive=keepalive) for now in range(100, 160)} == {
        Verdict.QUIET
    }


def test_traffic_is_keepalive_enough() -> None:
    liveness = Liveness()
    for now in range(100, 160):
        assert (
            liveness.look(stats(rx=now - 4, tx=now - 3, packets=now), at(float(now)), keepalive=10)
            is not Verdict.SEND_EMPTY
        )
