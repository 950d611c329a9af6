"""How large a packet the path to a peer carries whole: DPLPMTUD (RFC 8899), its probes being padded records.

Without I/O and without a clock, like ``session``: acknowledgements, the word that large records are under way and
``now`` go in; probes to send and what is worth telling come out. Sizes are those of IP packets on the path, in bytes. A
path that no probe has measured, be it that the peer is older than they are, has no size: its records may be fragmented.

ICMP moves nothing here. What the kernel believes of the path, which anybody's ICMP may have told it, only chooses what
is asked next (RFC 8899, 4.6); and what it says is exact is doubted at once, by a probe that is a little larger.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from cryprq.protocol.clock import Boottime

BASE: Final = 1280
"""BASE_PLPMTU: what every IPv6 path carries (RFC 8200, 5), and nearly every IPv4 one. Nothing smaller is searched."""
MAX_PROBES: Final = 3
"""Probes of a size that stay without an answer, one after the other, until the path does not carry it."""
PROBE_TIMEOUT: Final = 0.3
"""Seconds to wait for an answer: three round trips, but no less than this, ..."""
VERIFY_TIMEOUT: Final = 0.5
"""... and than this while there is traffic, whose queues an answer may have to wait in. With ``VERIFY_INTERVAL`` it
makes 2.5 s until a black hole is found: sooner than the fourth time that TCP sends a segment again, after 3 s."""
VERIFY_INTERVAL: Final = 1.0
"""CONFIRMATION_TIMER: while large records leave, the size is asked for again this often."""
RAISE_INTERVAL: Final = 600.0
"""PMTU_RAISE_TIMER: a path may have grown; ..."""
RAISE_SOON: Final = 60.0
"""... and the first time after a change it is looked at sooner: what was lost in a row may just have been losses, and a
detour of the network's may be over."""
RESTART_INTERVAL: Final = 1.0
"""Least time between two beginnings: a peer that moves with each record costs no more probes than that."""
PRECISION: Final = 8
"""The search ends when so little is left: half a percent of what is usual."""
SETTLED_AFTER: Final = 8.0
"""Seconds of a search after which senders are told what it has found so far. A host remembers for ten minutes what it
was told (RFC 1191, 6.3), so it had better not be the base. Where round trips are not long a search is over before."""
LATE: Final = 10.0
"""Seconds for which an answer still counts; it may have stood in a queue for longer than was waited for it."""
AWAITED_MAX: Final = 16
"""Probes whose answers are waited for; as many as ``CQ_PROBES_MAX`` of the data plane."""

COMMON: Final = (
    1300, 1340, 1360, 1380, 1400, 1420, 1428, 1440, 1450, 1460, 1472, 1480, 1492, 1500,
    1508, 1600, 2000, 4000, 9000,
)  # fmt: skip
"""What paths have, where tunnels are on the way: WireGuard 1420, VXLAN 1450, GRE and IPIP 1472 and 1480, PPPoE 1492."""


class State(Enum):
    """The phases of RFC 8899, section 5.2."""

    DISABLED = auto()
    """No session; or no probe was answered, since the peer is older than they are, or does not hear us."""
    BASE = auto()
    """A path that is new: does the peer answer, does the path carry the base, does it carry all that is wanted?"""
    SEARCHING = auto()
    """More than the base, less than what is wanted."""
    COMPLETE = auto()
    """Found; verified while there is traffic."""
    ERROR = auto()
    """The peer answers, and the path carries less than the base."""


@dataclass(frozen=True)
class Probe:
    """Send a record with this token that makes a packet of this size, whole or not at all."""

    token: int
    size: int


@dataclass(frozen=True)
class Found:
    """The size of the path is another one: tell. 0: unknown, records may be fragmented. ``reason`` says what made us
    look: ``session``, ``moved``, ``link``, ``black_hole``, ``search``, which goes on where that ended, or ``raise``."""

    old: int
    new: int
    reason: str


Output = Probe | Found


@dataclass
class _Question:
    """A size that is asked for, up to ``MAX_PROBES`` times."""

    size: int
    less: bool
    """Asks, too, what the path carries if not this."""
    timeout: float
    due: Boottime
    rounds: int = 0
    best: int = 0
    """The largest size that was acknowledged since."""


class PathMtu:
    """The path to one peer, in the direction in which we send."""

    def __init__(
        self,
        *,
        draw: Callable[[], int],
        round_trip: Callable[[], float],
        hint: Callable[[], int | None],
    ) -> None:
        """``draw`` makes a token, which nobody can guess; ``round_trip`` is the path's in seconds, 0 if unknown;
        ``hint`` is what the kernel believes that the path carries."""
        self.state = State.DISABLED
        self.size: int | None = None
        """What the path carries; None: unknown."""
        self.settled = True
        """Whether senders may be told so; False: a search is under way that may find more in a moment."""
        self._draw = draw
        self._round_trip = round_trip
        self._hint = hint
        self._smallest = self._ceiling = 0
        self._failed = 0  # the smallest size that the path is known not to carry, or one more than the ceiling
        self._told = 0
        self._reason = ""
        self._question: _Question | None = None
        self._awaited: dict[int, tuple[int, Boottime]] = {}  # by token: size, and when it left; the oldest first
        self._begun: Boottime | None = None
        self._search_begun: Boottime | None = None
        self._verified: Boottime | None = None
        self._begin_at: Boottime | None = None  # a new beginning, that came too soon
        self._raise_at: Boottime | None = None
        self._raise_in = RAISE_SOON

    # ---- what happens ----

    def begin(self, smallest: int, ceiling: int, reason: str, now: Boottime) -> list[Output]:
        """The path is a new one, or may be. ``smallest`` is the size of a probe without padding, ``ceiling`` the
        largest packet that is of use. What was known counts until something else is; answers that are under way do
        not, being of before."""
        if (smallest, ceiling) != (self._smallest, self._ceiling):
            self._smallest, self._ceiling, self._told, self.size = smallest, ceiling, ceiling, None
        self._reason = reason
        if self._begun is not None and now - self._begun < RESTART_INTERVAL:
            self._begin_at = Boottime(self._begun + RESTART_INTERVAL)
            return []
        self._awaited.clear()
        return self._begin(now)

    def _begin(self, now: Boottime) -> list[Output]:
        self._begun, self._begin_at, self._raise_at, self._raise_in = now, None, None, RAISE_SOON
        self.state = State.BASE
        self._failed = self._ceiling + 1
        return self._ask(self._ceiling, now, less=True)

    def end(self) -> None:
        """There is no session any more: nothing is asked. What was found is remembered for the next one."""
        self.state, self.settled = State.DISABLED, True
        self._question = self._begin_at = self._raise_at = self._begun = None
        self._awaited.clear()

    def acknowledged(self, token: int, now: Boottime) -> list[Output]:
        """The peer says that a probe has arrived, as large as it was."""
        size, left = self._awaited.pop(token, (0, now))
        if size == 0 or now - left > LATE:
            return []
        if self.size is None and self._question is None:  # given up too soon: a long way, or many losses
            if size >= min(BASE, self._ceiling):
                return self._carried(size, now)
            return self._begin(now) if self.state is State.DISABLED else []
        question = self._question
        if question is not None:
            question.best = max(question.best, size)
            if size >= question.size:
                self._question = None
                return self._carried(size, now)
        elif size > (self.size or 0):
            return self._carried(size, now)
        return []

    def large_sent(self, last: Boottime, now: Boottime) -> list[Output]:
        """When a record that shows what the path carries was last sent; to be called once a second. While there are
        some, the size is verified: all that a black hole shows is that nothing comes of them."""
        if self.state is not State.COMPLETE or self._question is not None or self.size is None:
            return []
        if self._verified is not None and (last <= self._verified or now - self._verified < VERIFY_INTERVAL / 2):
            return []
        return self._verify(now)

    def refused(self, now: Boottime) -> list[Output]:
        """This host could not send a record of the size: its own link has become smaller."""
        if self.state is not State.COMPLETE or self._question is not None or self.size is None:
            return []
        return self._verify(now)

    def next_timer(self) -> Boottime | None:
        """When ``handle_timer`` is due."""
        due = self._question.due if self._question is not None else self._raise_at
        if due is None or (self._begin_at is not None and self._begin_at < due):
            return self._begin_at
        return due

    def handle_timer(self, now: Boottime) -> list[Output]:
        """Whatever is due; harmless when nothing is."""
        if self._begin_at is not None and self._begin_at <= now:
            self._awaited.clear()
            return self._begin(now)
        if self._question is not None:
            if self._question.due > now:
                return []
            if self._question.rounds < MAX_PROBES:
                return self._round(self._question, now)
            return self._unanswered(now)
        if self._raise_at is not None and self._raise_at <= now:
            self._raise_at = None
            if self.state is not State.COMPLETE:
                self._reason = "raise"
                return self._begin(now)
            self._reason, self._failed, self._raise_in = "raise", self._ceiling + 1, RAISE_INTERVAL
            return self._search(now)
        return []

    # ---- asking ----

    def _ask(self, size: int, now: Boottime, *, less: bool = False, timeout: float = PROBE_TIMEOUT) -> list[Output]:
        self._question = _Question(size, less, max(timeout, 3 * self._round_trip()), now)
        return self._round(self._question, now)

    def _verify(self, now: Boottime) -> list[Output]:
        assert self.size is not None
        self._verified = now
        # Three round trips as of a search would be too long to wait here: an answer that is late still counts.
        timeout = max(VERIFY_TIMEOUT, 1.5 * self._round_trip())
        self._question = _Question(self.size, True, timeout, now)
        return self._round(self._question, now)

    def _round(self, question: _Question, now: Boottime) -> list[Output]:
        # To doubt what was verified takes more than the losses that a busy path has anyway: twice, after the first.
        sizes = [question.size] * (2 if self.state is State.COMPLETE and question.rounds else 1)
        if question.less and (question.rounds or self.state is State.BASE):
            best = question.best
            known = [BASE, self.size or 0, self._hinted() if question.rounds else 0]
            sizes += {size for size in known if max(best, BASE - 1) < size < question.size}
            sizes += [self._smallest] if best == 0 else []
        question.rounds += 1
        question.due = Boottime(now + question.timeout)
        return [self._probe(size, now) for size in sorted(sizes, reverse=True)]

    def _probe(self, size: int, now: Boottime) -> Probe:
        token = self._draw()
        while len(self._awaited) >= AWAITED_MAX:
            del self._awaited[next(iter(self._awaited))]
        self._awaited[token] = (size, now)
        return Probe(token, size)

    def _hinted(self) -> int:
        return self._hint() or 0

    # ---- judging ----

    def _carried(self, size: int, now: Boottime) -> list[Output]:
        """The path carries a size that was asked for, or more."""
        verified = self.state is State.COMPLETE and size == self.size
        self.size = size
        self._failed = max(self._failed, size + 1)
        return [] if verified else self._search(now)

    def _unanswered(self, now: Boottime) -> list[Output]:
        question, self._question = self._question, None
        assert question is not None
        if not question.less:
            self._failed = question.size
            return self._search(now)
        verifying = self.state is State.COMPLETE
        if question.best == 0:  # not even a small one: that says nothing of the size
            return [] if verifying else self._give_up(State.DISABLED, now)
        if verifying:
            self._reason = "black_hole"
        if question.best < BASE:
            return self._give_up(State.ERROR, now)
        self.size, self._failed = question.best, question.size
        self._raise_in = RAISE_SOON
        told = self._tell() if verifying else []
        if verifying:
            self._reason = "search"
        return told + self._search(now)

    def _give_up(self, state: State, now: Boottime) -> list[Output]:
        self.state, self.size, self.settled = state, None, True
        self._raise_at = Boottime(now + RAISE_INTERVAL)
        return self._tell() if state is State.ERROR else []

    def _search(self, now: Boottime) -> list[Output]:
        if self.state is not State.SEARCHING or self._search_begun is None:
            self._search_begun = now
        self.state = State.SEARCHING
        self._raise_at = None
        if (size := self._candidate()) is not None:
            # What a search for more begins with was found by one that was over: it may be told.
            self.settled = self._reason == "raise" or now - self._search_begun >= SETTLED_AFTER
            return self._ask(size, now)
        self.state, self.settled = State.COMPLETE, True
        self._verified = now
        if self.size is not None and self.size < self._ceiling:
            self._raise_at = Boottime(now + self._raise_in)
        return self._tell()

    def _candidate(self) -> int | None:
        """The size to ask for next: above what the path carries, below what it does not."""
        low, high = self.size or BASE, self._failed
        if high > self._ceiling:
            return self._ceiling if low < self._ceiling else None
        if high - low <= PRECISION:
            return None
        hint = self._hinted()
        if low < hint < high:
            return hint
        if hint == low:
            return low + PRECISION
        common = [size for size in COMMON if low < size < high]
        return common[len(common) // 2] if common else (low + high) // 2

    def _tell(self) -> list[Output]:
        old, new = self._told, self.size or 0
        self._told = new
        return [Found(old, new, self._reason)] if new != old else []
