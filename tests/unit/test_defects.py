"""What is said of exceptions that should not have been, and that everybody who catches one says it."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import cryprq
from cryprq._fastpath import EVENT_KEY_EXPIRED, Event, PlaneError
from cryprq.address import Address, Local
from cryprq.peer_id import PeerId
from cryprq.protocol.frames import FrameType, encode
from cryprq.telemetry.defects import TRACEBACK_MAX, describe_exception, whole_traceback
from cryprq.telemetry.logs import VALUE_MAX, Log
from cryprq.telemetry.metrics import Metrics
from cryprq.telemetry.reporter import Reporter
from tests.rigs import fakes
from tests.rigs.endpoints import Rigs, rigs, run, until
from tests.unit import test_node, test_table

PACKAGE = str(Path(cryprq.__file__).parent)

# ---- describing ----


def raised(by: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:
        by()
    return caught.value


def test_exception_is_described_where_it_happened() -> None:
    def inner() -> None:
        raise ValueError("no")

    fields = describe_exception(raised(inner))
    assert fields["error"] == "ValueError: no"
    assert str(fields["where"]).startswith(__file__)
    assert describe_exception(ValueError("x")) == {"error": "ValueError: x"}


def test_where_is_inside_the_package_and_says_who_else_raised() -> None:
    ours = describe_exception(raised(lambda: PeerId.parse("no ID")))
    assert re.fullmatch(re.escape(PACKAGE) + r"/peer_id\.py:\d+", str(ours["where"]))
    theirs = describe_exception(raised(lambda: Address(":", 1).is_link_local))
    assert re.fullmatch(re.escape(PACKAGE) + r"/address\.py:\d+ \(\S*/ipaddress\.py:\d+\)", str(theirs["where"]))


def test_traceback_has_causes_and_no_values_and_an_end() -> None:
    def outer(secret: str) -> None:
        try:
            secret.index("?")
        except ValueError as error:
            raise RuntimeError("at last") from error

    text = whole_traceback(raised(lambda: outer("hunter2")))
    assert "hunter2" not in text.replace('outer("hunter2")', "")
    assert "ValueError" in text
    assert text.endswith("RuntimeError: at last\n")


def deep(left: int, message: str = "no") -> None:
    if left:
        deep_again(left, message)
    raise ValueError(message)


def deep_again(left: int, message: str) -> None:
    """Python abbreviates what only repeats itself."""
    deep(left - 1, message)


def test_of_a_long_traceback_the_end_is_kept() -> None:
    frames = whole_traceback(raised(lambda: deep(300)))
    assert len(re.findall(r", in deep(_again)?\n", frames)) == 60
    assert frames.endswith("ValueError: no\n")
    message = "x" * TRACEBACK_MAX + "end"
    text = whole_traceback(raised(lambda: deep(0, message)))
    assert text == message[-TRACEBACK_MAX + 1 :] + "\n"


def test_log_says_it_in_one_line_and_whole_at_debug_only() -> None:
    for level, log_format in (("info", "logfmt"), ("debug", "logfmt"), ("debug", "json")):
        stream = io.StringIO()
        log = Log(level, log_format, stream)
        log.defect("error", "internal_error", raised(lambda: PeerId.parse("no ID")), peer_id="Qm")
        (line,) = stream.getvalue().splitlines()
        assert "peer_id.py:" in line
        assert ("traceback" in line) == (level == "debug")
        if log_format == "json":
            entry = json.loads(line)
            assert (entry["level"], entry["peer_id"]) == ("error", "Qm")
            assert entry["traceback"].startswith("Traceback (most recent call last):\n  File ")
        elif level == "debug":
            assert ' traceback="Traceback (most recent call last):\\n  File ' in line


def test_traceback_is_not_cut_like_other_values() -> None:
    stream = io.StringIO()
    error = raised(lambda: deep(300))
    Log("debug", "json", stream).defect("error", "internal_error", error)
    entry = json.loads(stream.getvalue())
    assert entry["traceback"] == whole_traceback(error)
    assert len(entry["traceback"]) > VALUE_MAX


def test_level_decides_at_the_time() -> None:
    stream = io.StringIO()
    log = Log("debug", "json", stream)
    for level in ("info", "debug"):
        log.set_level(level)
        log.defect("error", "internal_error", ValueError(level))
    assert ["traceback" in json.loads(line) for line in stream.getvalue().splitlines()] == [False, True]


def test_defects_that_somebody_repeats_are_limited() -> None:
    stream = io.StringIO()
    log = Log("error", "json", stream, clock=lambda: 5.0)
    for _ in range(100):
        log.defect("error", "internal_error", ValueError("again"))
    assert len(stream.getvalue().splitlines()) == 10


# ---- everybody who catches one ----


class Told:
    """A reporter as a node has it, and the ``internal_error`` lines that come of it."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        nothing: Any = dict
        metrics = Metrics(
            peers=lambda: (), drops=nothing, offloads=nothing, healthy=lambda: True, rotate_secs=lambda: 300
        )
        self.log = Log("debug", "json", self.stream)
        self.reporter = Reporter(self.log, metrics)

    @property
    def lines(self) -> list[dict[str, Any]]:
        entries = [json.loads(line) for line in self.stream.getvalue().splitlines()]
        return [entry for entry in entries if entry["event"] == "internal_error"]


def check(entry: dict[str, Any], where: str, error: str = "ZeroDivisionError") -> None:
    """``where``: the file of the package in which the entry says that it happened."""
    assert entry["error"].startswith(error)
    path, _, line = entry["where"].partition(" ")[0].rpartition(":")
    assert path == f"{PACKAGE}/{where}"
    assert f'File "{path}", line {line}, in ' in entry["traceback"]
    assert error in entry["traceback"].splitlines()[-1]


def fail(*_: object, **__: object) -> Any:
    return 1 // 0


@pytest.fixture
def told() -> Told:
    return Told()


async def _quic_handler(make: Rigs, told: Told) -> None:
    server = make.make(on_frame=fail)
    server.endpoint._observer = told.reporter
    make.make(dial_only=True).dial(server, on_connected=lambda conn: conn.send(encode(FrameType.REKEY, b"")))
    await until(lambda: told.lines)
    server.endpoint.counters.pop("fault")


async def _quic_record(make: Rigs, told: Told) -> None:
    server = make.make()
    server.endpoint._observer = told.reporter
    server.endpoint._on_record = fail
    server.endpoint.receive(b"\x01", Address("127.0.0.1", 4), Local())
    server.endpoint.counters.pop("fault")


def _quic_part(method: str) -> Callable[[Rigs, Told], Any]:
    async def scenario(make: Rigs, told: Told) -> None:
        server = make.make()
        client = make.make(dial_only=True)
        client.endpoint._observer = told.reporter
        dialled = client.dial(server)
        await until(lambda: dialled.conn is not None)
        assert dialled.conn is not None
        setattr(dialled.conn, method, fail)
        if method == "timer_at":
            client.endpoint._table._timer(dialled.conn)
        else:
            cid = min(dialled.conn.cids)
            client.endpoint.receive(b"\x40" + cid + bytes(30), server.address, Local())
        client.endpoint._table.flush()
        assert dialled.closes == 1
        client.endpoint.counters.pop("fault")

    return scenario


async def _quic_gate(make: Rigs, told: Told) -> None:
    server = make.make()
    server.endpoint._observer = told.reporter
    server.gate.next_in_line = fail  # type: ignore[method-assign]
    server.endpoint._serve(server.endpoint.clock())
    server.endpoint.counters.pop("fault")


@pytest.mark.parametrize(
    ("scenario", "where"),
    [
        pytest.param(_quic_handler, "connection.py", id="handler"),
        pytest.param(_quic_record, "endpoint.py", id="record"),
        pytest.param(_quic_part("receive"), "table.py", id="receive"),
        pytest.param(_quic_part("process_events"), "connection.py", id="events"),
        pytest.param(_quic_part("timer_at"), "table.py", id="timer"),
        pytest.param(_quic_gate, "endpoint.py", id="gate"),
    ],
)
def test_quic_endpoint_says_where(scenario: Callable[[Rigs, Told], Any], where: str, told: Told) -> None:
    @run
    async def test() -> None:
        async with rigs() as make:
            await scenario(make, told)

    test()
    check(told.lines[0], f"quic/{where}")
    assert ("remote" in told.lines[0]) == (where != "endpoint.py")


def test_peer_whose_keys_the_plane_refuses_says_where(told: Told) -> None:
    world = fakes.World()
    world.right.peer._observer = told.reporter
    world.right.plane.install_error = PlaneError("no")
    world.connect(world.left, world.right, answer=False)
    check(told.lines[0], "peers/peer.py", error="PlaneError")
    assert told.lines[0]["peer_id"] == str(world.left.identity.peer_id)


def test_table_of_peers_says_where(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    rig = test_table.Rig()
    rig.peers._observer = told.reporter
    peer = rig.obtain(test_table.ONE)
    monkeypatch.setattr(peer, "event", fail)
    rig.peers.dispatch([Event(peer.handle, 7, EVENT_KEY_EXPIRED)], rig.now)
    check(told.lines[0], "peers/table.py")
    assert told.lines[0]["peer_id"] == str(test_table.ONE)


def test_roster_says_where(told: Told, tmp_path: Path) -> None:
    rig = test_table.Dialling(tmp_path)
    rig.roster._observer = told.reporter
    rig.roster._connect = fail
    rig.roster.poll(rig.now)
    check(told.lines[0], "node/roster.py")


def test_node_says_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = test_node.Lab(tmp_path)

    async def scenario() -> None:
        async with lab.node(lab.listener()) as node:
            monkeypatch.setattr(node._peers, "handle_timers", fail)
            node._poll()
            monkeypatch.undo()
            monkeypatch.setattr(node._endpoint, "stop", fail)
        driving, stopping = lab.events(node, "internal_error")
        for entry in (driving, stopping):
            check(entry, "node/node.py")

    test_node.run(scenario())


def test_nobody_else_makes_such_a_line() -> None:
    """Whoever catches a defect hands it to the reporter, which alone names the event."""
    makers = {
        str(path.relative_to(PACKAGE))
        for path in Path(PACKAGE).rglob("*.py")
        if re.search(r'\(\s*("\w+", )?"internal_error"', path.read_text())
    }
    assert makers == {"telemetry/reporter.py"}
