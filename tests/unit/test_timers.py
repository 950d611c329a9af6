"""Timers against the obvious thing: a dict, and the least of its values."""

from hypothesis import given
from hypothesis import strategies as st

from cryprq.peers.timers import Timers
from cryprq.protocol.clock import Boottime

KEYS = st.integers(0, 7)
TIMES = st.none() | st.integers(0, 50).map(float)
STEPS = st.lists(st.tuples(KEYS, TIMES) | st.integers(0, 60).map(float), max_size=200)


@given(STEPS)
def test_timers_agree_with_a_dict(steps: list[tuple[int, float | None] | float]) -> None:
    timers, model = Timers[int](), dict[int, float]()
    for step in steps:
        if isinstance(step, float):
            taken = []
            while (key := timers.take(Boottime(step))) is not None:
                taken.append(key)
            due = [key for key, at in model.items() if at <= step]
            assert sorted(taken) == sorted(due)
            assert [model[key] for key in taken] == sorted(model[key] for key in due)
            for key in due:
                del model[key]
        else:
            key, at = step
            timers.set(key, None if at is None else Boottime(at))
            if at is None:
                model.pop(key, None)
            else:
                model[key] = at
        assert timers.next() == min(model.values(), default=None)
        assert len(timers) == len(model)


def test_entries_that_change_for_ever_do_not_pile_up() -> None:
    timers = Timers[str]()
    timers.set("soon", Boottime(1.0))
    for number in range(10_000):
        timers.set("often", Boottime(1e6 - number))
        assert len(timers._heap) <= 65
    assert timers.next() == 1.0
