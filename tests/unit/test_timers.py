"""The agenda against the obvious thing: a dict, and the least of its values."""

from hypothesis import given
from hypothesis import strategies as st

from cryprq.peers.timers import Timers

KEYS = st.integers(0, 7)
TIMES = st.none() | st.integers(0, 50).map(float)
STEPS = st.lists(st.tuples(KEYS, TIMES) | st.integers(0, 60).map(float), max_size=200)


@given(STEPS)
def test_agenda_agrees_with_a_dict(steps: list[tuple[int, float | None] | float]) -> None:
    agenda, model = Timers[int](), dict[int, float]()
    for step in steps:
        if isinstance(step, float):
            taken = []
            while (key := agenda.take(step)) is not None:
                taken.append(key)
            due = [key for key, at in model.items() if at <= step]
            assert sorted(taken) == sorted(due)
            assert [model[key] for key in taken] == sorted(model[key] for key in due)
            for key in due:
                del model[key]
        else:
            key, at = step
            agenda.set(key, at)
            if at is None:
                model.pop(key, None)
            else:
                model[key] = at
        assert agenda.next() == min(model.values(), default=None)
        assert len(agenda) == len(model)


def test_entries_that_change_for_ever_do_not_pile_up() -> None:
    agenda = Timers[str]()
    agenda.set("soon", 1.0)
    for number in range(10_000):
        agenda.set("often", 1e6 - number)
        assert len(agenda._heap) <= 65
    assert agenda.next() == 1.0
