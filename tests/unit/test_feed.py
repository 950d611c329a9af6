"""Those who read along: what they hear, in which order, and that a slow one costs nobody but itself."""

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import uvloop

from cryprq.telemetry.admin_socket import AdminSocket
from cryprq.telemetry.changes import Change
from cryprq.telemetry.feed import READERS_MAX, WAITING_MAX, Feed, Reader
from tests.unit.test_admin_socket import STATUS, measure, rotate

NODE = {"node": "QmNode", "tun": "cryprq0"}


class World:
    """A feed whose status is how many changes there were."""

    def __init__(self) -> None:
        self.changes = 0
        self.feed = Feed(lambda: {"changes": self.changes}, NODE)

    def tell(self, count: int = 1) -> None:
        for _ in range(count):
            self.changes += 1
            self.feed.tell(Change("peer", "peer_connected", fields={"number": self.changes}))


@cache
def loop() -> asyncio.AbstractEventLoop:
    """What waits belongs to one."""
    return asyncio.new_event_loop()


def lines(text: bytes | None) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (text or b"").splitlines()]


def read(reader: Reader) -> list[dict[str, Any]]:
    """All that there is without waiting."""

    async def every() -> list[dict[str, Any]]:
        found = []
        try:
            while (line := await asyncio.wait_for(reader.next(), 0.01)) is not None:
                found += lines(line)
        except TimeoutError:
            pass
        return found

    return loop().run_until_complete(every())


def shape(told: list[dict[str, Any]]) -> list[tuple[str, Any]]:
    """Of each line what it is, and the number in it."""
    number = {"snapshot": lambda line: line["status"]["changes"], "lost": lambda line: line["count"]}
    return [(line["change"], number.get(line["change"], lambda line: line.get("number"))(line)) for line in told]


def test_reader_begins_with_how_it_is_and_misses_nothing_after() -> None:
    world = World()
    world.tell()
    reader = world.feed.open()
    world.tell()  # before the snapshot is made, which has it in it
    assert shape(read(reader)) == [("snapshot", 2)]
    world.tell(2)
    told = read(reader)
    assert shape(told) == [("peer", 3), ("peer", 4)]
    assert all(line["version"] == 1 and line["node"] == "QmNode" and line["time"].endswith("Z") for line in told)


def test_slow_reader_is_told_what_it_lost_and_how_it_is_now_and_the_others_lose_nothing() -> None:
    world = World()
    slow, quick = world.feed.open(), world.feed.open()
    assert shape(read(slow)) == shape(read(quick)) == [("snapshot", 0)]
    for _ in range(4):
        world.tell(WAITING_MAX)
        assert len(read(quick)) == WAITING_MAX
    assert shape(read(slow)) == [("lost", 4 * WAITING_MAX), ("snapshot", 4 * WAITING_MAX)]
    world.tell()
    assert shape(read(slow)) == [("peer", 4 * WAITING_MAX + 1)]


def test_end_is_the_last_that_they_hear() -> None:
    world = World()
    reader = world.feed.open()
    read(reader)
    world.tell()
    world.feed.end(Change("down", "node_stopped"))
    assert [line["change"] for line in read(reader)] == ["peer", "down"]
    behind = world.feed.open()
    read(behind)
    world.tell(WAITING_MAX)
    world.feed.end(Change("down", "node_stopped"))
    assert shape(read(behind)) == [("lost", WAITING_MAX + 1)]


def test_there_are_so_many_readers() -> None:
    world = World()
    readers = [world.feed.open() for _ in range(READERS_MAX)]
    with pytest.raises(LookupError, match=f"{READERS_MAX} programs read"):
        world.feed.open()
    world.feed.drop(readers[0])
    world.feed.open()


# ---- through the socket ----


def serve(path: Path, world: World, body: Callable[[AdminSocket], Awaitable[None]]) -> None:
    async def run() -> None:
        server = AdminSocket(path, lambda: STATUS, rotate, lambda: None, measure=measure, feed=world.feed)
        await server.start()
        try:
            await body(server)
        finally:
            await server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(run(), 20))


async def subscribe(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)
    writer.write(b'{"command": "events"}\n')
    assert json.loads(await reader.readline()) == {"ok": True, "result": None}
    assert json.loads(await reader.readline())["change"] == "snapshot"
    return reader, writer


def test_stream_ends_with_the_node(tmp_path: Path) -> None:
    world, path = World(), tmp_path / "node.sock"

    async def body(server: AdminSocket) -> None:
        reader, writer = await subscribe(path)
        world.tell()
        assert json.loads(await reader.readline())["number"] == 1
        await server.close()
        assert json.loads(await reader.readline())["event"] == "node_stopped"
        assert await reader.read() == b""
        writer.close()

    serve(path, world, body)


def test_reader_that_leaves_is_forgotten_and_one_that_takes_nothing_holds_nobody_up(tmp_path: Path) -> None:
    world, path = World(), tmp_path / "node.sock"

    async def body(server: AdminSocket) -> None:
        for _ in range(2 * READERS_MAX):
            _, writer = await subscribe(path)
            writer.close()
            await writer.wait_closed()
        stuck = socket.socket(socket.AF_UNIX)  # nobody ever reads from it
        stuck.connect(str(path))
        stuck.send(b'{"command": "events"}\n')
        reader, writer = await subscribe(path)
        for number in range(1, 40 * WAITING_MAX, WAITING_MAX // 2):
            world.tell(WAITING_MAX // 2)
            for expected in range(number, number + WAITING_MAX // 2):
                assert json.loads(await reader.readline())["number"] == expected
        writer.close()
        stuck.close()

    serve(path, world, body)
