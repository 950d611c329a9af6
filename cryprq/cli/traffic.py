"""What ``cryprq top`` shows, without a screen: peers with their traffic of late, the busiest first."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cryprq.cli.status import completed, label, loss, rate, round_trip, state

HISTORY: Final = 20
"""Moments that a sparkline has."""
_BARS: Final = " ▁▂▃▄▅▆▇█"
SORTS: Final = ("traffic", "name", "rtt")
COLUMNS: Final = ("PEER", "STATE", "ADDRESS", "RTT", "LOSS", "IN/s", "OUT/s", "TRAFFIC")


def sparkline(values: Sequence[float]) -> str:
    """A bar for each value, the highest as high as a line; what is not 0 is never as empty as 0 is."""
    most = max(values, default=0.0)
    steps = len(_BARS) - 1
    return "".join(_BARS[max(1, round(value / most * steps))] if value > 0 else _BARS[0] for value in values)


@dataclass(frozen=True, slots=True)
class Row:
    """One peer."""

    peer_id: str
    label: str
    state: str
    barred: str
    cells: tuple[str, ...]
    """As ``COLUMNS`` has them."""


@dataclass(slots=True)
class Traffic:
    """The status of a node now, and its rates before."""

    status: dict[str, Any] = field(default_factory=lambda: completed({"peers": ()}))
    _peers: dict[str, deque[float]] = field(default_factory=dict)
    _all: deque[float] = field(default_factory=lambda: deque([0.0] * HISTORY, HISTORY))

    def take(self, status: Mapping[str, Any]) -> None:
        """The next status; peers that it does not have are forgotten."""
        self.status = completed(status)
        rates = {peer["peer_id"]: _rate(peer) for peer in self.status["peers"]}
        self._peers = {peer_id: self._peers.get(peer_id, deque([0.0] * HISTORY, HISTORY)) for peer_id in rates}
        for peer_id, count in rates.items():
            self._peers[peer_id].append(count)
        self._all.append(sum(rates.values()))

    def rows(self, *, sort: str = SORTS[0], pattern: str = "") -> list[Row]:
        """Those in whose name, ID, address or state the pattern is, in whatever case; sorted as ``SORTS`` says."""
        peers = [peer for peer in self.status["peers"] if _matches(peer, pattern.lower())]
        keys: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
            "traffic": lambda peer: (-_rate(peer), not peer["connected"], label(peer)),
            "name": label,
            "rtt": lambda peer: (-(peer["round_trip_secs"] or 0.0), label(peer)),
        }
        return [self._row(peer) for peer in sorted(peers, key=keys[sort])]

    def head(self) -> str:
        """A line about the whole."""
        peers = self.status["peers"]
        there = sum(peer["connected"] for peer in peers)
        into, out = (sum(peer[name] for peer in peers) for name in ("rx_rate", "tx_rate"))
        health = "" if self.status["healthy"] else f"   NOT HEALTHY: {self.status['unhealthy']}"
        return (
            f"{self.status['tun_name']}   {there} of {len(peers)} peers   in {rate(into)}/s   out {rate(out)}/s   "
            f"{sparkline(self._all)}{health}"
        )

    def _row(self, peer: Mapping[str, Any]) -> Row:
        address = peer["addresses"][0].partition("/")[0] if peer["addresses"] else "-"
        shown = label(peer) if len(label(peer)) <= 24 else f"{label(peer)[:23]}…"
        cells = (
            *(shown, state(peer), address, round_trip(peer), loss(peer)),
            *(rate(peer["rx_rate"]), rate(peer["tx_rate"]), sparkline(self._peers[peer["peer_id"]])),
        )
        return Row(peer["peer_id"], label(peer), state(peer), peer["barred"], cells)


def _rate(peer: Mapping[str, Any]) -> float:
    return float(peer["rx_rate"] + peer["tx_rate"])


def _matches(peer: Mapping[str, Any], pattern: str) -> bool:
    words = (peer["name"], peer["peer_id"], state(peer), *peer["addresses"], *peer["groups"])
    return not pattern or any(pattern in word.lower() for word in words)
