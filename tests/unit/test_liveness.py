"""The silence rule: who is asked, who is answered, and who is dialled afresh."""

from itertools import pairwise

import pytest

from cryprq._fastpath import PeerStats
from cryprq.peers.liveness import ANSWER_AFTER, SILENCE_PROBE, SILENCE_REDIAL, Liveness, Verdict
from cryprq.protocol.clock import Boottime as at


def stats(*, rx: float = 0, tx: float = 0, data: float | None = None, packets: int = 0) -> PeerStats:
    """Counters with these times (seconds); ``data`` is when data was sent last, ``tx`` unless given."""
    sent = tx if data is None else data
    return PeerStats(packets, 0, 0, 0, int(rx * 1e9), int(tx * 1e9), int(sent * 1e9))


def looks(liveness: Liveness, start: int, end: int, **times: int) -> list[Verdict]:
    return [liveness.look(stats(**times), at(float(now))) for now in range(start, end)]


def test_answered_traffic_needs_no_empty_records() -> None:
    liveness = Liveness()
    for now in range(100, 160):
        assert liveness.look(stats(rx=now, tx=now, packets=now), at(float(now))) is Verdict.QUIET


def test_idle_link_is_not_silent() -> None:
    assert set(looks(Liveness(), 100, 160, rx=90, tx=80, packets=0)) == {Verdict.QUIET}


def test_unanswered_data_is_asked_about_once_and_then_silent() -> None:
    liveness = Liveness()
    verdicts = looks(liveness, 100, 115, rx=90, tx=100)
    probe = int(SILENCE_PROBE)
    silent = probe + int(SILENCE_REDIAL)
    assert verdicts[probe] is Verdict.SEND_EMPTY
    assert verdicts.count(Verdict.SEND_EMPTY) == 1
    assert Verdict.SILENT not in verdicts[:silent]
    assert set(verdicts[silent:]) == {Verdict.SILENT}
    assert liveness.silent


def test_anything_authenticated_ends_the_silence() -> None:
    liveness = Liveness()
    looks(liveness, 100, 115, rx=90, tx=100)
    assert liveness.look(stats(rx=115, tx=114), at(115.0)) is Verdict.QUIET
    assert not liveness.silent
    # and the next silence is counted from its own beginning
    assert looks(liveness, 116, 116 + int(SILENCE_PROBE), rx=115, tx=116) == [Verdict.QUIET] * int(SILENCE_PROBE)


def test_silence_is_measured_from_the_data_that_was_not_answered() -> None:
    liveness = Liveness()
    assert looks(liveness, 100, 200, rx=90, tx=80) == [Verdict.QUIET] * 100
    assert looks(liveness, 200, 205, rx=90, tx=200) == [Verdict.QUIET] * 5


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
    assert max(gaps) < SILENCE_PROBE


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
    assert ANSWER_AFTER < SILENCE_PROBE


def test_keepalive_comes_when_nothing_was_sent_for_so_long() -> None:
    liveness, last_sent, sent = Liveness(), 95.0, []
    for now in range(100, 140):
        if liveness.look(stats(rx=now, tx=last_sent, data=0), at(float(now)), 10) is Verdict.SEND_EMPTY:
            last_sent = now
            sent.append(now)
    assert sent == [105, 115, 125, 135]


@pytest.mark.parametrize("keepalive", [None, 0])
def test_no_keepalive_where_none_is_wanted(keepalive: int | None) -> None:
    liveness = Liveness()
    assert {liveness.look(stats(rx=90, tx=80), at(float(now)), keepalive) for now in range(100, 160)} == {Verdict.QUIET}


def test_traffic_is_keepalive_enough() -> None:
    liveness = Liveness()
    for now in range(100, 160):
        assert liveness.look(stats(rx=now - 4, tx=now - 3, packets=now), at(float(now)), 10) is not Verdict.SEND_EMPTY
