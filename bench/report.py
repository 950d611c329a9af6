"""Puts a run of bench/tunnel.py into the documentation: the data, a chart, and a table of docs/performance.md.

bench/tunnel.py > build/run.json && bench/report.py build/run.json
bench/report.py build/variants.json --section parts        the table of variants of cryprq
"""

import argparse
import json
import sys
from pathlib import Path

from bench.chart import Bar, Panel, draw
from bench.figures import BY_KEY, FIGURES, Result, show
from bench.options import file
from lab import ROOT

DOCS = ROOT / "docs"
SECTIONS = ("tunnel", "parts", "rotation", "workers", "waiting")
CHARTED = (
    "tcp_1_bits_per_second",
    "tcp_both_bits_per_second",
    "udp_64_per_second",
    "udp_64_clean_per_second",
    "p50_us",
    "cpu_seconds_per_gigabyte",
)


def marks(section: str) -> tuple[str, str]:
    """What stands before and after the figures of a section."""
    return f"<!-- figures: {section}, by bench/report.py -->", f"<!-- end of {section} -->"


def caption(run: Result) -> str:
    """What was measured where, in one line."""
    machine, settings = run["environment"], run["settings"]
    return (
        f"Medians of {settings['rounds']} alternating rounds of {settings['seconds']:g} s a run, least and greatest. "
        f"{machine['cpus']} CPUs ({machine['cpu']}), Linux {machine['kernel']}. "
        f"TCP has {settings['congestion']} unless a row says BBR."
    )


def markdown(run: Result) -> str:
    """The table, ways as columns: median, spread, and the ratio to the bare link within the rounds."""
    ways = run["paths"]
    lines = [caption(run), "", "| | " + " | ".join(ways) + " |", "|---|" + "---:|" * len(ways)]
    for figure in FIGURES:
        cells = []
        for way in ways.values():
            value, share = way["figures"].get(figure.key), way["share"].get(figure.key)
            if value is None:
                cells.append("")
                continue
            low, high = show(figure.key, value["min"]), show(figure.key, value["max"])
            cell = f"{show(figure.key, value['median'])} ({low} to {high})"
            cells.append(cell + (f"<br>{share['median']:.3g} of bare" if share and figure.compared else ""))
        if any(cells):
            lines.append(f"| {figure.title}, {figure.unit} | " + " | ".join(cells) + " |")
    versions = [
        f"{name}: {', '.join(f'{key} {value}' for key, value in facts.items() if key in ('version', 'cipher', 'aead'))}"
        for name, facts in run["facts"].items()
        if facts and not facts.get("flags") and not facts.get("env")
    ]
    return "\n".join([*lines, "", "; ".join(versions) + "."])


def chart(run: Result) -> str:
    panels = []
    for key in CHARTED:
        figure = BY_KEY[key]
        bars = []
        for name, way in run["paths"].items():
            if value := way["figures"].get(key):
                median, low, high = (value[part] / figure.scale for part in ("median", "min", "max"))
                bars.append(Bar(name, median, low, high, show(key, value["median"])))
        if bars:
            note = "" if figure.more_is_better else " (less is better)"
            panels.append(Panel(f"{figure.title}, {figure.unit}{note}", bars))
    return draw(panels, caption(run))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=file, help="what bench/tunnel.py wrote to stdout")
    parser.add_argument("--section", choices=SECTIONS, default=SECTIONS[0])
    parser.add_argument("--docs", type=Path, default=DOCS, help="where performance.md is")
    options = parser.parse_args()
    run = json.loads(options.run.read_text())
    page = options.docs / "performance.md"
    begin, end = marks(options.section)
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        print(f"report: {page} lacks the lines {begin} and {end}", file=sys.stderr)
        return 1
    stem = "performance" if options.section == "tunnel" else f"performance-{options.section}"
    picture = f"![Bars of the figures below]({stem}.svg)"
    page.write_text(f"{before}{begin}\n\n{picture}\n\n{markdown(run)}\n\n{end}{after}")
    (options.docs / f"{stem}.svg").write_text(chart(run))
    (options.docs / f"{stem}-data.json").write_text(json.dumps(run, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
