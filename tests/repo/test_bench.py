"""The benchmarks' own arithmetic, their traffic program over loopback, and what they write into the documentation."""

import json
import socket
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from bench import chart, compare, figures, loads, report
from lab import ROOT

BENCH = ROOT / "bench"

ROUNDS: list[figures.Round] = [
    {"bare": {"tcp_1_bits_per_second": 10e9, "p50_us": 20.0}, "cryprq": {"tcp_1_bits_per_second": 5e9, "p50_us": 70.0}},
    {"bare": {"tcp_1_bits_per_second": 2e9, "p50_us": 90.0}, "cryprq": {"tcp_1_bits_per_second": 1e9, "p50_us": 120.0}},
    {"bare": {"tcp_1_bits_per_second": 8e9, "p50_us": 30.0}, "cryprq": {"tcp_1_bits_per_second": 2e9, "p50_us": 90.0}},
]


def test_ratios_are_taken_within_each_round() -> None:
    tunnel = figures.summarise(ROUNDS)["cryprq"]
    assert tunnel["share"]["tcp_1_bits_per_second"]["rounds"] == [0.5, 0.5, 0.25]
    assert tunnel["share"]["tcp_1_bits_per_second"]["median"] == 0.5
    assert tunnel["added"]["p50_us"]["median"] == 50.0
    assert tunnel["figures"]["tcp_1_bits_per_second"] == {
        "median": 2e9, "min": 1e9, "max": 5e9, "rounds": [5e9, 1e9, 2e9],
    }  # fmt: skip


def test_figure_that_a_round_lacks_is_left_out() -> None:
    rounds: list[figures.Round] = [{"bare": {"p50_us": 1.0}}, {"bare": {"p50_us": None}}]
    assert figures.summarise(rounds)["bare"]["figures"] == {}


@pytest.mark.parametrize(
    ("key", "base", "change", "worse"),
    [
        ("tcp_1_bits_per_second", 10e9, 8e9, True),
        ("tcp_1_bits_per_second", 10e9, 9e9, False),
        ("tcp_1_bits_per_second", 8e9, 10e9, False),
        ("p50_us", 50.0, 60.0, True),
        ("p50_us", 60.0, 50.0, False),
        ("p99_us", 50.0, 500.0, False),  # no gate: it does not repeat
    ],
)
def test_regression_is_a_ratio_in_the_bad_direction(key: str, base: float, change: float, worse: bool) -> None:
    rounds: list[figures.Round] = [{"base": {key: base}, "change": {key: change}}] * 3
    found = compare.regressions(figures.summarise(rounds, "base"), 15)
    assert list(found) == ([key] if worse else [])


def test_every_gate_can_be_measured_again() -> None:
    for key in compare.GATES:
        assert set(compare.loads_of([key])) <= set(loads.LOADS)


def test_chart_is_xml_with_a_bar_of_each_way_in_proportion() -> None:
    bars = [chart.Bar("bare", 10, 8, 12, "10"), chart.Bar("a<b", 5, 5, 5, "5 & more")]
    root = ElementTree.fromstring(chart.draw([chart.Panel("T", bars)], "caption"))
    space = {"s": "http://www.w3.org/2000/svg"}
    widths = [float(r.attrib["width"]) for r in root.findall("s:rect", space) if r.attrib["height"] == str(chart.BAR)]
    assert widths == pytest.approx([2 * widths[1], widths[1]], abs=0.2)
    assert len(root.findall("s:line", space)) == 1  # a spread of nothing has no line
    assert "a<b" in [text.text for text in root.findall("s:text", space)]


def test_report_replaces_the_figures_between_the_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = {
        "environment": {"cpus": 2, "cpu": "A CPU", "kernel": "6.1"},
        "settings": {"rounds": 3, "seconds": 1.0, "congestion": "cubic"},
        "paths": figures.summarise(ROUNDS),
        "facts": {"bare": {}, "cryprq": {"aead": "aes-256-gcm"}},
    }
    (tmp_path / "run.json").write_text(json.dumps(run))
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{report.marks('tunnel')[0]}\nold figures\n{report.marks('tunnel')[1]}\nafter\n")
    monkeypatch.setattr(sys, "argv", ["report.py", str(tmp_path / "run.json"), "--docs", str(tmp_path)])
    for _ in range(2):  # the second time changes nothing
        assert report.main() == 0
        text = page.read_text()
        assert text.startswith("before\n") and text.endswith("\nafter\n") and "old figures" not in text
        assert (
            text.count("| One TCP flow, cubic, Gbit/s | 8.00 (2.00 to 10.00) | 2.00 (1.00 to 5.00)<br>0.5 of bare |")
            == 1
        )
    assert json.loads((tmp_path / "performance-data.json").read_text()) == run
    ElementTree.fromstring((tmp_path / "performance.svg").read_text())


def test_page_of_the_documentation_has_the_marks() -> None:
    text = (report.DOCS / "performance.md").read_text()
    for section in report.SECTIONS:
        begin, end = report.marks(section)
        assert text.index(begin) < text.index(end)


# ---- traffic.c ----


def free_port(kind: socket.SocketKind) -> str:
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


def exchange(sink: list[str], source: list[str], kind: socket.SocketKind) -> tuple[loads.Result, loads.Result]:
    """What the sink and the source say."""
    program, port = loads.build(), free_port(kind)
    name, *flags = sink
    with subprocess.Popen([program, name, "127.0.0.1", port, *flags], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        name, *flags = source
        client = subprocess.run(
            [program, name, "127.0.0.1", port, *flags], capture_output=True, text=True, timeout=30, check=True
        )
        return json.loads(server.stdout.readline()), json.loads(client.stdout)


def test_tcp_traffic_counts_bytes_of_all_connections() -> None:
    sink, source = exchange(["tcp-sink", "-c", "3"], ["tcp-blast", "-c", "3", "-t", "0.1"], socket.SOCK_STREAM)
    assert source["flows"] == 3
    assert sink["bits_per_second"] == pytest.approx(sink["bytes"] * 8 / sink["seconds"], rel=0.01)


@pytest.mark.parametrize("flags", [[], ["-c", "64"]])
def test_paced_datagrams_all_arrive_at_their_rate(flags: list[str]) -> None:
    source = ["udp-blast", "-t", "0.3", "-r", "2000", "-s", "300", *flags]
    got, sent = exchange(["udp-sink"], source, socket.SOCK_DGRAM)
    assert got["received"] == sent["sent"] <= 600
    assert got["bytes"] == 300 * got["received"]
    assert sent["sent"] > 300  # a busy machine may owe some, not most


def test_super_packets_are_counted_by_their_datagrams() -> None:
    got, sent = exchange(["udp-sink", "-g"], ["udp-blast", "-t", "0.1", "-r", "4000", "-g", "20"], socket.SOCK_DGRAM)
    assert got["received"] == sent["sent"] > 0
    assert sent["sent"] % 20 == 0
