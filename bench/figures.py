"""What a run measures: names and units of the figures, and how rounds become medians with a spread."""

import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Result = dict[str, Any]
Round = dict[str, dict[str, float | None]]
"""Figures by way, then by key; None where a way could not carry what was asked."""


@dataclass(frozen=True)
class Figure:
    """One figure; ``unit`` is what is shown, ``scale`` the number of the stored unit in one of it."""

    key: str
    title: str
    unit: str
    scale: float = 1.0
    digits: int = 2
    more_is_better: bool = True
    compared: bool = True
    """Whether a ratio to the bare link says anything."""


FIGURES = [
    Figure("tcp_1_bits_per_second", "One TCP flow, cubic", "Gbit/s", 1e9),
    Figure("tcp_1_bbr_bits_per_second", "One TCP flow, BBR", "Gbit/s", 1e9),
    Figure("tcp_1_lost", "Segments that this flow lost", "number", 1, 0, False, compared=False),
    Figure("tcp_4_bits_per_second", "Four TCP flows", "Gbit/s", 1e9),
    Figure("tcp_both_bits_per_second", "TCP both ways at once, summed", "Gbit/s", 1e9),
    Figure("udp_1400_per_second", "UDP, 1400-byte packets, flat out", "kpps", 1e3, 1),
    Figure("udp_64_per_second", "UDP, 64 bytes, flat out", "kpps", 1e3, 1),
    Figure("udp_64_flows_64_per_second", "UDP, 64 bytes, 64 flows, flat out", "kpps", 1e3, 1),
    Figure("udp_1400_clean_per_second", "UDP, 1400-byte packets, loss < 0.1 %", "kpps", 1e3, 1),
    Figure("udp_64_clean_per_second", "UDP, 64 bytes, loss < 0.1 %", "kpps", 1e3, 1),
    Figure("p50_us", "Round trip, idle, p50", "µs", 1, 1, False),
    Figure("p99_us", "Round trip, idle, p99", "µs", 1, 1, False),
    Figure("loaded_p50_us", "Round trip under a TCP flow, p50", "µs", 1, 0, False),
    Figure("loaded_p99_us", "Round trip under a TCP flow, p99", "µs", 1, 0, False),
    Figure("cpu_seconds_per_gigabyte", "CPU seconds per GB, whole machine", "s", 1, 2, False),
    Figure("tunnel_cpu_seconds_per_gigabyte", "CPU seconds per GB, tunnel's processes", "s", 1, 2, False),
    Figure("rss_kib", "Resident memory of an end", "MiB", 1024, 1, False),
]
BY_KEY = {figure.key: figure for figure in FIGURES}


def summary(values: Sequence[float]) -> Result:
    """Median, least and greatest, and all of them in the order of the rounds."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values), "rounds": list(values)}


def summarise(rounds: Sequence[Round], base: str = "bare") -> Result:
    """By way: each figure, ``share`` (its ratio to the base way's, taken within each round), and for round trips
    ``added`` (the difference, also within each round). A figure that some round lacks is left out."""
    report: Result = {}
    for name in rounds[0]:
        figures: Result = {}
        share: Result = {}
        added: Result = {}
        for key in rounds[0][name]:
            mine = [value for each in rounds if (value := each[name][key]) is not None]
            if len(mine) < len(rounds):
                continue
            figures[key] = summary(mine)
            theirs = [value for each in rounds if (value := each[base].get(key))]
            if name == base or len(theirs) < len(rounds):
                continue
            pairs = list(zip(mine, theirs, strict=True))
            share[key] = summary([round(a / b, 4) for a, b in pairs])
            if key.endswith("_us"):
                added[key] = summary([round(a - b, 1) for a, b in pairs])
        report[name] = {"figures": figures, "share": share, "added": added}
    return report


def show(key: str, value: float) -> str:
    """A value in the unit of its figure, without the unit's name."""
    figure = BY_KEY[key]
    return f"{value / figure.scale:.{figure.digits}f}"


def table(report: Result) -> str:
    """Medians with spread, ways as columns, as fixed-width text."""
    ways = list(report)
    lines = [f"{'':<50}" + "".join(f"{way:>32}" for way in ways)]
    for figure in FIGURES:
        cells = []
        for way in ways:
            value = report[way]["figures"].get(figure.key)
            cell = "-"
            if value:
                low, high = show(figure.key, value["min"]), show(figure.key, value["max"])
                cell = f"{show(figure.key, value['median'])} ({low}..{high})"
            if figure.compared and (share := report[way]["share"].get(figure.key)):
                cell += f" {share['median']:.2f}x"
            cells.append(f"{cell:>32}")
        if any(cell.strip() != "-" for cell in cells):
            lines.append(f"{figure.title + ', ' + figure.unit:<50}" + "".join(cells))
    return "\n".join(lines)


def environment() -> Result:
    """The machine that the figures are of."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.split(":", 1)[1].strip()
    return {
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": model,
        "cpus": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
    }
