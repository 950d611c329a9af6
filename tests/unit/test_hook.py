"""The program of ``--on-change``: which one is taken, what waits for it, and how it ends with the node."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from cryprq.errors import MachineError
from cryprq.node import hook
from cryprq.node.hook import Hook, check
from cryprq.telemetry.changes import WAITING_MAX, Change, ChangeQueue, encode
from tests.rigs.fakes import Recorder


def change(subject: str, event: str = "peer_connected") -> Change:
    return Change("peer", event, subject, {"peer_id": subject}, time="2026-01-31T12:00:00Z")


# ---- the queue ----


def test_object_is_a_line_of_json_with_its_version() -> None:
    odd = 'a\n"\u00e9'
    data = encode(Change("route", "tunnel_routes", "", {"networks": ["10.0.0.0/8"], "odd": odd}), {"tun": "t0"})
    assert data.endswith(b"\n") and data.count(b"\n") == 1 and data.isascii()
    document = json.loads(data)
    assert list(document) == ["version", "change", "event", "time", "tun", "networks", "odd"]
    assert (document["version"], document["change"], document["odd"]) == (1, "route", odd)
    assert document["time"].endswith("Z")


def test_newer_change_of_the_same_takes_the_place_of_one_that_waits() -> None:
    queue = ChangeQueue()
    first, second, third = change("a"), change("b"), change("a", "peer_disconnected")
    assert [queue.put(each) for each in (first, second, third)] == [None, None, first]
    assert [queue.take() for _ in range(3)] == [second, third, None]


def test_what_waits_is_bounded_and_the_oldest_goes() -> None:
    queue = ChangeQueue()
    lost = [queue.put(change(str(number))) for number in range(WAITING_MAX + 2)]
    assert [each for each in lost if each is not None] == [change("0"), change("1")]
    assert len(queue) == WAITING_MAX
    assert queue.clear() == WAITING_MAX
    assert queue.take() is None


# ---- the program ----


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "hook"
    path.write_text(f"#!/bin/sh\ncat >> {tmp_path}/told\n")
    path.chmod(0o755)
    return path


def test_program_that_nobody_else_can_change_is_taken(program: Path) -> None:
    check(program)
    (program.parent / "link").symlink_to(program)
    check(program.parent / "link")


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda path: path.chmod(0o644), "it is not executable"),
        (lambda path: path.chmod(0o775), "can be written by others (mode 0775); chmod go-w"),
        (lambda path: path.chmod(0o757), "can be written by others (mode 0757)"),
        (lambda path: path.parent.chmod(0o777), "can be written by others (mode 0777)"),
        (lambda path: path.unlink(), "No such file or directory"),
        (lambda path: (path.unlink(), path.mkdir()), "not a regular file"),
        (lambda path: os.chown(path, 12345, -1), "belongs to another user (uid 12345)"),
    ],
    ids=["no x", "group", "world", "directory", "nothing", "no file", "owner"],
)
def test_any_other_is_refused_in_one_line(program: Path, damage: Callable[[Path], object], says: str) -> None:
    try:
        damage(program)
    except OSError:
        pytest.skip("this user cannot give files away")
    with pytest.raises(MachineError) as caught:
        check(program)
    assert str(caught.value).startswith(f"--on-change {program}: ")
    assert says in str(caught.value)


def test_sticky_directory_of_everybody_is_none_to_mind(program: Path) -> None:
    program.parent.chmod(0o1777)
    check(program)


# ---- calls ----


def play(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 20))


def told(program: Path) -> list[str]:
    lines = (program.parent / "told").read_text().splitlines()
    return [json.loads(line)["event"] for line in lines]


def test_calls_are_made_in_order_and_the_last_one_is_down(program: Path) -> None:
    async def scene() -> None:
        observer = Recorder()
        calls = Hook(program, observer, {"tun": "tun0"})
        for number in range(20):
            calls.tell(change(str(number), f"event_{number}"))
        await calls.stop(Change("down", "node_stopped"))
        calls.tell(change("late"))
        assert told(program) == [*(f"event_{number}" for number in range(20)), "node_stopped"]
        assert observer.names == ["hook_called"] * 21

    play(scene)


def test_without_a_program_nothing_happens() -> None:
    async def scene() -> None:
        calls = Hook(None, Recorder(), {})
        calls.tell(change("a"))
        await calls.stop(Change("down", "node_stopped"))

    play(scene)


def test_node_that_never_was_up_tells_no_down(program: Path) -> None:
    async def scene() -> None:
        await Hook(program, Recorder(), {}).stop(None)
        assert not (program.parent / "told").exists()

    play(scene)


def test_stop_has_a_bound_and_counts_what_it_leaves_out(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hook, "DRAIN_LIMIT", 0.2)
    monkeypatch.setattr(hook, "DOWN_LIMIT", 0.2)
    program.write_text("#!/bin/sh\nexec sleep 60\n")

    async def scene() -> None:
        observer = Recorder()
        calls = Hook(program, observer, {})
        for subject in "abc":
            calls.tell(change(subject))
        start = time.monotonic()
        await calls.stop(Change("down", "node_stopped"))
        assert 0.4 <= time.monotonic() - start < 50  # not those 60 s
        assert observer.last("hook_behind")[1] == 2
        ended, fault = observer.last("hook_called")
        assert ended.event == "node_stopped" and fault.startswith("killed after ")
        assert observer.fields("hook_called") == {"killed": True}

    play(scene)
