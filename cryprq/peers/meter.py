"""What is shown of a peer's traffic and of the way to it: bytes a second, and the round trip.

Nothing acts on these; who decides something by a round trip takes that of the connection (``Link.round_trip``).
"""

from dataclasses import dataclass
from typing import Final

from cryprq._fastpath import PeerStats
from cryprq.protocol.clock import Boottime

INTERVAL_MIN: Final = 0.5
"""Seconds of which a rate is made at least: peers are looked at more often than once a second while they are silent."""
ANSWER_WITHIN: Final = 2.0
"""Seconds after which a probe, or its answer, is taken for lost."""
_NEVER: Final = Boottime(0.0)
_WEIGHT: Final = 1 / 8
"""Of a new sample in the smoothed round trip (RFC 6298, 2.3)."""


@dataclass(slots=True)
class Meter:
    """Of one peer."""

    rx_rate: float = 0.0
    tx_rate: float = 0.0
    """Bytes of inner packets a second, in the last interval."""
    round_trip: float | None = None
    """Seconds to the peer's data plane and back, smoothed; None: not measured on this path."""
    asked: Boottime | None = None
    """When a probe left, for nothing but its round trip, that is not answered yet."""
    since: Boottime | None = None
    """When the tunnel came up that there is, or, to a second, the last one ended; None: there was none."""
    _ended: bool = False
    _before: PeerStats | None = None
    _at: Boottime = _NEVER

    def begin(self, now: Boottime) -> None:
        """A tunnel is up where there was none."""
        self.since, self._ended = now, False

    def end(self) -> None:
        """There is no session any more: nothing comes and goes."""
        self._ended = self.since is not None
        self.rx_rate = self.tx_rate = 0.0
        self._before = None
        self.new_path()

    def away(self, now: Boottime) -> None:
        """To be called about once a second while there is no session."""
        if self._ended:
            self.since, self._ended = now, False

    def look(self, stats: PeerStats, now: Boottime) -> None:
        """Likewise while there is one."""
        before, seconds = self._before, now - self._at
        if before is not None:
            if seconds < INTERVAL_MIN:
                return
            self.rx_rate = (stats.rx_bytes - before.rx_bytes) / seconds
            self.tx_rate = (stats.tx_bytes - before.tx_bytes) / seconds
        self._before, self._at = stats, now

    @property
    def moving(self) -> bool:
        """Whether something came or went in the last interval."""
        return bool(self.rx_rate or self.tx_rate) or self._before is None

    def rests(self, now: Boottime) -> None:
        """Instead of ``look``: the counters are those of the last time."""
        if not self.moving:
            self._at = now

    def sample(self, round_trip_ns: int) -> None:
        """A probe was acknowledged after so many nanoseconds; 0: it is not known."""
        self.asked = None
        if round_trip_ns:
            seconds = round_trip_ns / 1e9
            known = self.round_trip
            self.round_trip = seconds if known is None else known + _WEIGHT * (seconds - known)

    def waits(self, now: Boottime) -> bool:
        """Whether an answer is still to come."""
        return self.asked is not None and now - self.asked < ANSWER_WITHIN

    def new_path(self) -> None:
        """What was measured says nothing of the path from now on."""
        self.round_trip = self.asked = None
