"""How far a long act is: a bar with the time taken and the time left on a terminal, elsewhere a line for each step.

For what runs minutes: scenarios, rounds of a benchmark, a soak. ``scripts/steps.sh`` is the same for shell scripts.
"""

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Final, Self, TextIO, TypeVar

REDRAW_SECS: Final = 1.0
"""On a terminal, so that a step that takes long is seen to go on."""
BAR: Final = 24
"""Characters of the bar."""


T = TypeVar("T")


def steps(items: Sequence[T], what: str, unit: str, *, every: float = 0.0) -> Iterator[T]:
    """The items one after another, each a step of that unit; one that is a word is what is being done."""
    with Progress(what, len(items), unit=unit, every=every) as progress:
        for item in items:
            progress.begin(item if isinstance(item, str) else "")
            yield item
            progress.done(item if isinstance(item, str) else "")


def lasting(seconds: float) -> str:
    """Minutes and seconds, from an hour on hours as well: ``4:07``, ``1:02:30``."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


class Progress:
    """Of one act, as a context manager. What else is written to the stream meanwhile goes through ``say``."""

    def __init__(
        self,
        what: str,
        total: float,
        *,
        unit: str = "",
        every: float = 0.0,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``total`` steps, or as many of ``unit`` (``rounds``, ``minutes``); elsewhere than on a terminal a line at
        most each ``every`` seconds, and the last; ``stream`` is standard error."""
        self._what = what
        self._total = total
        self._unit = f" {unit}" if unit else ""
        self._every = every
        self._stream = stream if stream is not None else sys.stderr
        self._clock = clock
        self.live: Final = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        """Whether there is a bar."""
        self._count = 0.0
        self._doing = ""
        self._began = self._stepped = self._told = clock()
        self._lock = threading.Lock()
        self._end = threading.Event()
        self._redraw = threading.Thread(target=self._keep_drawing, daemon=True)

    def __enter__(self) -> Self:
        self._began = self._stepped = self._told = self._clock()
        if self.live:
            self._draw()
            self._redraw.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end.set()
        if not self.live:
            return
        self._redraw.join()
        with self._lock:
            self._write(f"\r\x1b[K{self._line()}\n" if kind is None else "\r\x1b[K")

    def begin(self, doing: str) -> None:
        """What the next step is; for the bar alone."""
        self._doing = doing
        self._draw()

    def done(self, note: str = "") -> None:
        """One step more is done, and this is what came of it."""
        self.at(self._count + 1, note)

    def at(self, count: float, note: str = "") -> None:
        """So much of all is done by now."""
        now = self._clock()
        took, self._stepped, self._count = now - self._stepped, now, count
        if self.live:
            self._doing = note or self._doing
            self._draw()
            return
        if now - self._told < self._every and count < self._total:
            return
        self._told = now
        noted = f" ({note})" if note else ""
        self._write(f"{self._what}: {self.so_far()}{noted}, {took:.1f} s; {self.times()}\n")

    def say(self, line: str) -> None:
        """A line that stays."""
        with self._lock:
            self._write(f"\r\x1b[K{line}\n{self._line()}" if self.live else f"{line}\n")

    def so_far(self) -> str:
        """``3 of 7 rounds``."""
        return f"{round(self._count, 2):g} of {round(self._total, 2):g}{self._unit}"

    def times(self) -> str:
        """``1:24 so far, about 4:10 left``; what is left as what was done."""
        elapsed = self._clock() - self._began
        left = elapsed * (self._total - self._count) / self._count if round(self._count, 2) else 0.0
        return f"{lasting(elapsed)} so far" + (
            f", about {lasting(left)} left" if self._count < self._total and left else ""
        )

    # ---- the bar ----

    def _line(self) -> str:
        full = round(BAR * min(1.0, self._count / self._total)) if self._total else BAR
        line = f"{self._what} [{'#' * full}{'.' * (BAR - full)}] {self.so_far()}, {self.times()}"
        if self._doing:
            line += f"  {self._doing} {lasting(self._clock() - self._stepped)}"
        try:
            return line[: os.get_terminal_size(self._stream.fileno()).columns - 1]
        except OSError:
            return line

    def _draw(self) -> None:
        if self.live:
            with self._lock:
                self._write(f"\r\x1b[K{self._line()}")

    def _keep_drawing(self) -> None:
        while not self._end.wait(REDRAW_SECS):
            self._draw()

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
