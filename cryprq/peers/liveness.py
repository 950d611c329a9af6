"""Is the peer still there? Told by the data plane's counters once a second, without a packet of its own when traffic
flows both ways."""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from cryprq._fastpath import PeerStats
from cryprq.protocol.clock import Boottime

SILENCE_PROBE: Final = 5.0
"""Data was sent and nothing authenticated came back for so long: send an empty record; ..."""
SILENCE_REDIAL: Final = 5.0
"""... after so much more, dial afresh beside the live session."""
ANSWER_AFTER: Final = 3.0
"""Seconds after which received data, that nothing was sent in return for, is answered with an empty record. Shorter
than ``SILENCE_PROBE``: else every one-way flow would look like a dead peer to its sender."""


class Verdict(Enum):
    """What a look at the counters asks for."""

    QUIET = auto()
    """Nothing to do."""
    SEND_EMPTY = auto()
    """Send an empty record now."""
    SILENT = auto()
    """Data went out, nothing authenticated came back for ten seconds: dial afresh."""


@dataclass
class Liveness:
    """The silence rule for one peer. Times are seconds of CLOCK_BOOTTIME, like those of ``PeerStats``."""

    rx_packets: int = 0
    unheard_since: Boottime | None = None
    """When data was first seen to go out after the last authenticated record."""
    unheard_after_ns: int = 0
    probed: bool = False
    owes_since: Boottime | None = None
    """When received data was first seen that nothing was sent after."""
    silent: bool = False
    """True from the moment a look said SILENT until the peer is heard again."""

    def reset(self) -> None:
        """A new session begins with a clean slate; the packet count goes on."""
        self.unheard_since = self.owes_since = None
        self.probed = self.silent = False

    def look(self, stats: PeerStats, now: Boottime, keepalive: int | None = None) -> Verdict:
        """Judges the counters of one second. SEND_EMPTY is said once per silence, once per unanswered burst, and when
        nothing was sent for ``keepalive`` seconds (the peer's wish; 0 or None: never)."""
        if stats.last_tx_data_ns <= stats.last_rx_ns or stats.last_rx_ns != self.unheard_after_ns:
            self.unheard_since, self.probed, self.silent = None, False, False
            self.unheard_after_ns = stats.last_rx_ns
        if stats.last_tx_data_ns > stats.last_rx_ns and self.unheard_since is None:
            self.unheard_since = now
        owed = self._owes_answer(stats, now)
        owed = owed or (keepalive is not None and 0 < keepalive <= now - stats.last_tx_ns / 1e9)
        if self.unheard_since is None:
            return Verdict.SEND_EMPTY if owed else Verdict.QUIET
        silence = now - self.unheard_since
        if silence >= SILENCE_PROBE + SILENCE_REDIAL and self.probed:
            self.silent = True
            return Verdict.SILENT
        if silence >= SILENCE_PROBE and not self.probed:
            self.probed = True
            return Verdict.SEND_EMPTY
        return Verdict.SEND_EMPTY if owed else Verdict.QUIET

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
