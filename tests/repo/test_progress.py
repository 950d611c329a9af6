"""How far long acts say they are: a bar on a terminal, a line for each step elsewhere; in Python and in shell."""

import io
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest

from lab import ROOT
from lab.progress import Progress, lasting, steps

ACT = """
import sys
from lab.progress import Progress
with Progress("act", 3, unit="rounds") as progress:
    for name in ("one", "two", "three"):
        progress.begin(name)
        sys.stdin.readline()
        progress.say(f"{name} was said")
        progress.done(name)
"""
SHELL = """
set -euo pipefail
. scripts/steps.sh
steps_in_all 2
step "one of them"
step two
steps_end "all of it"
"""


TIME = r"\d+:\d\d"


class Clock:
    """Moves when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def on_a_pipe(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, input="\n" * 3, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def on_a_terminal(command: Sequence[str], expect: Sequence[str] = (), columns: int = 100) -> str:
    """All that it writes; once it has written what is expected next, it is given a line."""
    ours, theirs = pty.openpty()
    size = {"COLUMNS": str(columns), "LINES": "24"}
    subprocess.run(["stty", "cols", str(columns), "rows", "24", "-echo"], stdin=theirs, check=True)
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=theirs,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm"} | size,
    ) as process:
        os.close(theirs)
        assert process.stdin is not None
        said, waiting, end = "", list(expect), time.monotonic() + 30
        while time.monotonic() < end:
            try:
                more = os.read(ours, 4096).decode()
            except OSError:  # nobody has the other side any more
                break
            said += more
            if waiting and re.search(waiting[0], said):
                waiting.pop(0)
                process.stdin.write(b"\n")
                process.stdin.flush()
        os.close(ours)
    assert process.returncode == 0 and not waiting, said
    return said.replace("\r\n", "\n")


def test_on_a_terminal_there_is_a_bar_that_goes_on_by_itself() -> None:
    said = on_a_terminal([sys.executable, "-c", ACT], expect=("one 0:0[1-9]", "two 0:", "three 0:"))
    shown = re.split(r"\r\x1b\[K", said)  # each is drawn over the one before
    for pattern in (
        rf"act \[\.{{24}}\] 0 of 3 rounds, {TIME} so far  one {TIME}",
        rf"act \[#{{8}}\.{{16}}\] 1 of 3 rounds, {TIME} so far, about {TIME} left  two {TIME}",
        r"two was said\nact \[#{8}\.{16}\] 1 of 3 rounds, .*",
    ):
        assert any(re.fullmatch(pattern, line) for line in shown), (pattern, shown)
    assert re.fullmatch(rf"act \[#{{24}}\] 3 of 3 rounds, {TIME} so far  three {TIME}\n", shown[-1])
    assert said.count("\n") == 4  # what was said, and the last


def test_line_of_a_narrow_terminal_is_not_longer_than_it() -> None:
    said = on_a_terminal([sys.executable, "-c", ACT], expect=("act", "1 of 3", "2 of 3"), columns=50)
    assert {len(line) for line in re.split(r"\r\x1b\[K", said) if line.startswith("act")} == {49, 50}  # and \n


def test_on_a_pipe_there_is_a_line_for_each_step() -> None:
    lines = on_a_pipe(sys.executable, "-c", ACT).splitlines()
    assert lines[::2] == ["one was said", "two was said", "three was said"]
    for number, (name, line) in enumerate(zip(("one", "two", "three"), lines[1::2], strict=True), start=1):
        left = rf", about {TIME} left" if number < 3 else ""
        assert re.fullmatch(rf"act: {number} of 3 rounds \({name}\), \d+\.\d s; {TIME} so far({left})?", line), line


def test_what_is_left_is_reckoned_from_what_was_done() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress("soak", 10, unit="minutes", stream=stream, clock=clock) as progress:
        clock.now += 150
        progress.at(2.5, "4000 KiB")
        clock.now += 450
        progress.at(10)
    assert stream.getvalue().splitlines() == [
        "soak: 2.5 of 10 minutes (4000 KiB), 150.0 s; 2:30 so far, about 7:30 left",
        "soak: 10 of 10 minutes, 450.0 s; 10:00 so far",
    ]


def test_many_quick_steps_are_a_line_now_and_then() -> None:
    clock, stream = Clock(), io.StringIO()
    with Progress("registry", 100, every=10, stream=stream, clock=clock) as progress:
        for _ in range(100):
            clock.now += 0.3
            progress.done()
    assert [line.split(",")[0] for line in stream.getvalue().splitlines()] == [
        "registry: 34 of 100",
        "registry: 68 of 100",
        "registry: 100 of 100",
    ]


def test_steps_count_what_was_done_and_not_what_failed(capsys: pytest.CaptureFixture[str]) -> None:
    def act() -> None:
        for name in steps(["one", "two"], "act", "rounds"):
            if name == "two":
                raise ValueError(name)

    with pytest.raises(ValueError, match="two"):
        act()
    assert [line.split(",")[0] for line in capsys.readouterr().err.splitlines()] == ["act: 1 of 2 rounds (one)"]


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (247.9, "4:07"), (3599, "59:59"), (3750, "1:02:30")])
def test_time_is_written_as_people_do(seconds: float, text: str) -> None:
    assert lasting(seconds) == text
    done = on_a_pipe("bash", "-c", f". scripts/steps.sh; steps_time {int(seconds)}")
    assert done == text


def test_steps_of_a_script() -> None:
    times = rf"\({TIME} so far(, about {TIME} left)?\)"
    piped = rf"\n== 1 of 2: one of them {times}\n\n== 2 of 2: two {times}\n\n== all of it \({TIME} in all\)\n"
    assert re.fullmatch(piped, on_a_pipe("bash", "-c", SHELL))
    bars = (rf"\n== \[\.{{24}}\] 1 of 2: one of them {times}", rf"\n== \[#{{12}}\.{{12}}\] 2 of 2: two {times}")
    assert re.match("\n".join(bars), on_a_terminal(["bash", "-c", SHELL]))
