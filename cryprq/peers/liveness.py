"""Is the peer still there? Told by the data plane's counters, without a packet of its own when traffic flows both ways.

Data that goes out and nothing that comes back is a silence: the peer is asked, by a ping, which its data plane answers
whatever its control plane is busy with; and who does not answer is dialled afresh beside the live session.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, NamedTuple

from cryprq._fastpath import PeerStats
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import ANSWER_ROUND_TRIPS

PATIENCE_MAX: Final = 8
"""A silence that a little more patience would have sat out doubles the patience, up to so many times; ..."""
PATIENCE_FORGET: Final = 300.0
"""... seconds after which it is as if there had been none."""
ANSWER_AFTER: Final = 3.0
"""Seconds after which received data, that nothing was sent in return for, is answered with an empty record: for peers
that do not ask. Shorter than ``LEISURELY.ask_after``: else every one-way flow would look like a dead peer to them."""
_ASK_ROUND_TRIPS: Final = 1.5
"""Of which one is no silence but the way."""

_NEVER: Final = Boottime(float("-inf"))


class Pace(NamedTuple):
    """When a silence becomes a question, and the question a verdict; in seconds, or longer if the way is."""

    ask_after: float
    """Data was sent and nothing authentic came back for so long: ask."""
    answer_within: float
    """Nothing came back in so much more: silent."""
    questions: int
    """At equal distances in that time: a lost one is no silence."""

    def stretched(self, round_trip: float, patience: int = 1) -> "Pace":
        """The same on a way whose round trip is so many seconds, and so many times as patient."""
        return Pace(
            patience * max(self.ask_after, _ASK_ROUND_TRIPS * round_trip),
            patience * max(self.answer_within, ANSWER_ROUND_TRIPS * round_trip),
            self.questions,
        )

    @property
    def whole(self) -> float:
        """From the beginning of a silence to the verdict."""
        return self.ask_after + self.answer_within


HURRIED: Final = Pace(0.5, 1.0, 3)
"""Towards a peer that answers pings, and that this node can dial."""
LEISURELY: Final = Pace(5.0, 5.0, 1)
"""Towards any other."""
IDLE: Final = Pace(0.0, 6.0, 3)
"""From a keepalive on, while no data goes out: nobody waits for it, and a peer that stands still for seconds costs no
handshakes of all that are idle."""


class Verdict(Enum):
    """What a look at the counters asks for."""

    QUIET = auto()
    """Nothing to do."""
    SEND_EMPTY = auto()
    """Send an empty record now."""
    ASK = auto()
    """Send a ping now."""
    SILENT = auto()
    """Data went out, and nothing authentic came back although the peer was asked: dial afresh."""


@dataclass
class Liveness:
    """The silence rule for one peer. Times are seconds of CLOCK_BOOTTIME, like those of ``PeerStats``."""

    rx_packets: int = 0
    unheard_since: Boottime | None = None
    """When data was first seen to go out after the last authenticated record."""
    unheard_after_ns: int = 0
    owes_since: Boottime | None = None
    """When received data was first seen that nothing was sent after."""
    silent: bool = False
    """True from the moment a look said SILENT until the peer is heard again."""
    due: Boottime | None = None
    """When to look again, if that is to be before the next second; else None."""
    patience: int = 1
    """By how much a hurried look takes longer."""
    _asked: int = 0
    _idle: bool = False
    """The silence began with a keepalive."""
    _suspected: bool = False
    _silent_since: Boottime = _NEVER
    _impatient_at: Boottime = _NEVER
    _pace: Pace = LEISURELY

    @property
    def at_rest(self) -> bool:
        """Whether a look at counters that stand still finds nothing but a keepalive that is due."""
        return self.unheard_since is None and self.owes_since is None

    def reset(self) -> None:
        """A new session begins with a clean slate; the packet count and the patience go on."""
        self.owes_since = None
        self._end_silence()

    def look(
        self,
        stats: PeerStats,
        now: Boottime,
        round_trip: float = 0.0,
        *,
        hurried: bool = False,
        keepalive: int | None = None,
        asks: bool = False,
    ) -> Verdict:
        """Judges the counters; called once a second, and when ``due``. ``round_trip`` in seconds, 0 if it is not known.

        SEND_EMPTY is said once per unanswered burst, and when nothing was sent for ``keepalive`` seconds (the peer's
        wish; 0 or None: never). With ``asks`` the latter is ASK: an idle peer that is gone is noticed by that."""
        self._listen(stats, now)
        due = keepalive is not None and 0 < keepalive <= now - stats.last_tx_ns / 1e9
        if due and asks and self.unheard_since is None:
            self.suspect(stats, now)
            self._idle = True
        if self.unheard_since is not None:
            if now - self._impatient_at > PATIENCE_FORGET:
                self.patience = 1
            verdict = self._doubt(now, self.unheard_since, self._pace_for(round_trip, hurried=hurried))
            if verdict is not Verdict.QUIET:
                return verdict
        owed = self._owes_answer(stats, now)
        return Verdict.SEND_EMPTY if owed or due else Verdict.QUIET

    def suspect(self, stats: PeerStats, now: Boottime) -> None:
        """There is a reason to ask at once, whatever was sent; the next look does."""
        self._end_silence()
        self._suspected = True
        self.unheard_since = self.due = now
        self.unheard_after_ns = stats.last_rx_ns

    def _pace_for(self, round_trip: float, *, hurried: bool) -> Pace:
        if self._idle:
            return Pace(0.0, IDLE.stretched(round_trip).answer_within, IDLE.questions)
        return HURRIED.stretched(round_trip, self.patience) if hurried else LEISURELY.stretched(round_trip)

    def _listen(self, stats: PeerStats, now: Boottime) -> None:
        if self._idle and not self.silent and stats.last_tx_data_ns > stats.last_rx_ns:
            self._end_silence()  # somebody waits now
        unheard = self._suspected or stats.last_tx_data_ns > stats.last_rx_ns
        if not unheard or stats.last_rx_ns != self.unheard_after_ns:
            if self.silent and now - self._silent_since < self._pace.whole:
                self.patience = min(2 * self.patience, PATIENCE_MAX)
                self._impatient_at = now
            self._end_silence()
            self.unheard_after_ns = stats.last_rx_ns
            unheard = stats.last_tx_data_ns > stats.last_rx_ns
        if unheard and self.unheard_since is None:
            self.unheard_since = now

    def _doubt(self, now: Boottime, since: Boottime, pace: Pace) -> Verdict:
        """What a silence asks for. However late this is called, the peer has its time to answer each question."""
        self._pace = pace
        if self.silent:
            return Verdict.SILENT
        if self.due is None:
            self.due = Boottime(since + pace.ask_after)
        if now < self.due:
            return Verdict.QUIET
        if self._asked < pace.questions:
            self._asked += 1
            self.due = Boottime(now + pace.answer_within / pace.questions)
            return Verdict.ASK
        self.silent, self._silent_since, self.due = True, now, None
        return Verdict.SILENT

    def _end_silence(self) -> None:
        self.unheard_since = self.due = None
        self.silent = self._suspected = self._idle = False
        self._asked = 0

    def _owes_answer(self, stats: PeerStats, now: Boottime) -> bool:
        arrived, self.rx_packets = stats.rx_packets != self.rx_packets, stats.rx_packets
        if self.owes_since is not None and stats.last_tx_ns > self.owes_since * 1e9:
            self.owes_since = None
        if arrived and self.owes_since is None and stats.last_tx_ns < stats.last_rx_ns:
            self.owes_since = now
        if self.owes_since is None or now - self.owes_since < ANSWER_AFTER:
            return False
        self.owes_since = None
        return True
