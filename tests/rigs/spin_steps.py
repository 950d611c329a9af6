"""The steps of a Spin model that prints them (``-DEDGES``), to be taken on what the model is a model of."""

import random
import re
import subprocess
import types
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple


class Step(NamedTuple):
    """One step of the model: what is so before it, what happens to which end and with which epoch or session, what is
    so after."""

    before: str
    event: str
    end: int
    number: int
    after: str


class Disagreement(AssertionError):
    """The code does not do what the model does."""


def numbers(model: Path) -> dict[str, int]:
    """The constants of a model, by name."""
    return {name: int(value) for name, value in re.findall(r"^#define (\w+) (\d+)\b", model.read_text(), re.MULTILINE)}


def explore(
    model: Path,
    directory: Path,
    definitions: Collection[str],
    events: Collection[str],
    rewritten: Callable[[str], str] = lambda line: line,
) -> list[Step]:
    """Every step that the model can take, each once, those of a state before those of the states that follow it.
    ``rewritten`` takes out of a line what the code does not have."""
    defined = [f"-D{definition}" for definition in ("EDGES", *definitions)]
    subprocess.run(["spin", *defined, "-a", model], cwd=directory, check=True)
    subprocess.run(["gcc", "-O0", "-w", "-DSAFETY", "-o", "pan", "pan.c"], cwd=directory, check=True)
    said = subprocess.run(["./pan", "-m100000"], cwd=directory, check=True, capture_output=True, text=True).stdout
    assert "errors: 0" in said, said
    known = numbers(model)
    names = {known[name]: name for name in events}
    found: dict[str, list[Step]] = {}
    for line in dict.fromkeys(said.splitlines()):
        if line.startswith("STEP "):
            _, before, event, after = rewritten(line).split()
            what, end, number = map(int, event.split(","))
            found.setdefault(before, []).append(Step(before, names[what], end, number, after))
    ordered, seen = [], {(first := next(iter(found)))}
    waiting = [first]
    for state in waiting:
        for step in dict.fromkeys(found.get(state, ())):
            ordered.append(step)
            if step.after not in seen:
                seen.add(step.after)
                waiting.append(step.after)
    return ordered


def only(steps: Sequence[Step], taken: Callable[[Step], bool]) -> list[Step]:
    """The steps that are left if those that are not ``taken`` never happen."""
    seen, kept = {steps[0].before}, []
    for step in steps:
        if step.before in seen and taken(step):
            kept.append(step)
            seen.add(step.after)
    return kept


class Way(NamedTuple):
    """Steps from the beginning on, of which the first ``known`` are in ways before this one, too."""

    steps: list[Step]
    known: int


def ways(steps: Sequence[Step], *, anywhere: bool = False) -> Iterator[Way]:
    """Ways that take every step at least once: those near to the beginning first, or now here and now there, always in
    the same order: which takes longer as a whole, and comes much sooner past each kind of state."""
    untaken: dict[str, list[Step]] = defaultdict(list)
    first_to: dict[str, Step] = {}
    for step in steps:
        untaken[step.before].append(step)
        if step.after != steps[0].before:
            first_to.setdefault(step.after, step)
    states = list(untaken)
    if anywhere:
        random.Random(1).shuffle(states)
    for state in states:
        while untaken[state]:
            way: list[Step] = []
            at = state
            while at != steps[0].before:
                way.insert(0, first_to[at])
                at = first_to[at].before
            at, known = state, 0 if anywhere else len(way)
            while untaken[at]:
                way.append(untaken[at].pop())
                at = way[-1].after
            yield Way(way, known)


def faulty(module: types.ModuleType, line: str, instead: str) -> types.ModuleType:
    """The module with that line changed, to see that its test fails then."""
    text = Path(str(module.__file__)).read_text()
    assert text.count(line) == 1, f"{line!r} is there {text.count(line)} times"
    changed = types.ModuleType(f"{module.__name__.rpartition('.')[2]}_with_a_fault")
    exec(compile(text.replace(line, instead), changed.__name__, "exec"), changed.__dict__)
    return changed
