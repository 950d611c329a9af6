"""The table of ``cryprq status``, and the schema of its JSON form."""

import json
import runpy
from dataclasses import asdict, replace
from pathlib import Path

import jsonschema
import pytest

from cryprq.cli.paint import coloured, paint_for
from cryprq.cli.status import duration, loss, rate, render, round_trip, size
from cryprq.telemetry.samples import NodeStatus, PeerSample, as_json
from tests.unit.test_admin_socket import STATUS, UP, A, B

ROOT = Path(__file__).parents[2]
NOW = 1_800_000_000.0
ALICE = replace(
    UP,
    name="alice",
    since=NOW - 7200,
    round_trip_secs=0.0234,
    epoch_arrived=997,
    epoch_lost=3,
    rx_rate=1234567.8,
    tx_rate=33,
)
DOWN = PeerSample(peer_id=str(B), connected=False)


def table(*peers: PeerSample, width: int | None = None) -> list[str]:
    """Its lines from the head of the columns on."""
    lines = render(as_json(replace(STATUS, time=NOW, peers=peers)), width=width).splitlines()
    return lines[next(at for at, line in enumerate(lines) if line.startswith("PEER")) :]


def test_head() -> None:
    assert render(asdict(STATUS)).splitlines()[:4] == [
        f"node      {B}",
        "version   0.1.0, up 1d01h",
        f"listening /ip4/192.0.2.1/udp/9999/quic-v1/p2p/{B}",
        "tunnel    cryprq0, 10.9.0.1/24, MTU 1420",
    ]


def test_everything_where_there_is_no_terminal() -> None:
    head, alice, second, third, down, empty, dropped = table(ALICE, DOWN)
    columns = "PEER STATE SINCE SEEN ADDRESS RTT LOSS PMTU IN/s OUT/s ENDPOINT ALLOWED_IPS RECEIVED SENT EPOCH AGE ID"
    assert head.replace("ALLOWED IPS", "ALLOWED_IPS").split() == columns.split(" ")
    assert alice.split() == [
        *("alice", "up", "2h00m", "2s", "10.9.0.2", "23.4ms", "0.3%", "1480", "1.2M", "33", "[2001:db8::1]:9999"),
        *("10.9.0.2/32", "5.0", "MiB", "1023", "B", "3", "1m15s", str(A)),
    ]
    assert second.split() == ["fd00:9::2", "fd00:9::2/128"]
    assert third.split() == ["10.5.0.0/16"]
    assert third.index("10.5.0.0/16") == head.index("ALLOWED IPS")
    assert down.split() == f"{B} down - never - - - - 0 0 - - 0 B 0 B - - {B}".split()
    assert (empty, dropped) == ("", "dropped   rx/replay 1, tx/no_key 2")
    assert not any(line.endswith(" ") for line in table(ALICE, DOWN))


def test_id_is_there_once_where_nobody_has_a_name() -> None:
    head, down, *_ = table(DOWN)
    assert " ID" not in head and down.count(str(B)) == 1


WIDEST = replace(
    ALICE,
    name="",
    silent=True,
    since=NOW - 99.9 * 86400,
    last_heard_secs=23.99 * 3600,
    addresses=("10.200.100.200/24",),
    round_trip_secs=0.0999,
    epoch_lost=1000,
    rx_rate=999 * 1024.0,
    tx_rate=999 * 1024.0,
)


@pytest.mark.parametrize("width", [80, 100, 132, 200])
@pytest.mark.parametrize("peer", [ALICE, DOWN, WIDEST], ids=["named", "down", "widest"])
def test_columns_fit_the_terminal(peer: PeerSample, width: int) -> None:
    head, first, *_ = table(peer, replace(DOWN, barred="disabled", name="a" * 63), width=width)
    assert max(map(len, table(peer, DOWN, width=width))) <= width
    for column in ("STATE", "SINCE", "SEEN", "ADDRESS", "RTT", "LOSS", "PMTU", "IN/s", "OUT/s"):
        assert column in head.split()
    assert first.split()[0].rstrip("…") in (peer.name or peer.peer_id)
    assert len(first.split()[0]) >= min(8, len(peer.name or peer.peer_id))


def test_states() -> None:
    for peer, word in (
        (replace(UP, silent=True), "silent"),
        (replace(DOWN, barred="disabled"), "disabled"),
        (replace(DOWN, barred="expired"), "expired"),
    ):
        assert table(peer)[1].split()[1] == word


def test_colours_stand_around_words_and_move_nothing() -> None:
    status = as_json(replace(STATUS, time=NOW, peers=(ALICE, DOWN)))
    painted = render(status, width=80, paint=coloured)
    assert "\x1b[32mup\x1b[0m" in painted
    assert painted.replace("\x1b[32m", "").replace("\x1b[0m", "") == render(status, width=80)


@pytest.mark.parametrize(
    ("terminal", "environ", "colours"),
    [(True, {}, True), (False, {}, False), (True, {"NO_COLOR": "1"}, False), (True, {"TERM": "dumb"}, False)],
)
def test_who_gets_colours(terminal: bool, environ: dict[str, str], colours: bool, tmp_path: Path) -> None:
    with open(tmp_path / "out", "w") as stream:
        stream.isatty = lambda: terminal  # type: ignore[method-assign]
        assert (paint_for(stream, environ) is coloured) is colours


def test_table_of_an_empty_node() -> None:
    empty = NodeStatus(
        version="0.1.0", peer_id=str(B), tun_name="tun1", uptime_secs=3, healthy=False, unhealthy="no TUN"
    )
    lines = render(asdict(empty)).splitlines()
    assert "version   0.1.0, up 3s, NOT HEALTHY: no TUN" in lines
    assert "tunnel    tun1, no address yet, MTU 0" in lines
    assert "no peers" in lines
    assert lines[-1] == "dropped   nothing"


def test_status_of_an_older_node_that_still_runs() -> None:
    old = as_json(replace(STATUS, peers=(UP,)))
    del old["time"], old["routes"]
    for peer in old["peers"]:
        for name in ("name", "since", "round_trip_secs", "epoch_arrived", "epoch_lost", "rx_rate", "tx_rate", "barred"):
            del peer[name]
    assert str(A) in render(old)


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1536, "1.5 KiB"), (2**20, "1.0 MiB"), (2**30 * 3, "3.0 GiB"),
     (2**40, "1.0 TiB"), (2**60, "1048576.0 TiB")],
)  # fmt: skip
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (0.4, "0"), (999, "999"), (999.6, "1.0K"), (1536, "1.5K"), (9.96 * 1024, "10K"), (2**20, "1.0M"),
     (999.4 * 2**30, "999G"), (2**40, "1.0T"), (2**40 * 3, "3T")],
)  # fmt: skip
def test_rates(count: float, text: str) -> None:
    assert rate(count) == text.replace("1.0T", "1T")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.9, "0s"), (59, "59s"), (60, "1m00s"), (3599, "59m59s"), (3600, "1h00m"), (86400, "1d00h"), (8640000, "100d")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_round_trips_and_losses() -> None:
    for seconds, text in ((None, "-"), (0.000345, "345us"), (0.0012, "1.2ms"), (0.25, "250ms"), (1.5, "1500ms")):
        assert round_trip({"round_trip_secs": seconds}) == text
    for arrived, lost, text in ((0, 0, "-"), (5, 0, "0%"), (999, 1, "0.1%"), (3, 1, "25%"), (0, 4, "100%")):
        assert loss({"epoch_arrived": arrived, "epoch_lost": lost}) == text


# ---- JSON ----


def test_schema_is_that_of_the_fields_and_what_is_printed_keeps_to_it() -> None:
    text = (ROOT / "docs/status.schema.json").read_text()
    schema = runpy.run_path(str(ROOT / "scripts/make_schemas.py"))["schema"]()
    assert json.loads(text) == schema, "run scripts/make_schemas.py"
    jsonschema.Draft202012Validator.check_schema(schema)
    for peers in ((), (ALICE, DOWN)):
        printed = json.loads(json.dumps(as_json(replace(STATUS, peers=peers))))
        jsonschema.validate(printed, schema)
    del printed["peers"][0]["since"]
    with pytest.raises(jsonschema.ValidationError, match="'since' is a required property"):
        jsonschema.validate(printed, schema)
