"""What every store promises: one suite over all of them; and what the database of a single node does besides."""

import asyncio
import errno
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest

from cryprq.peer_id import PeerId
from cryprq.registry.database import MIGRATIONS, Database
from cryprq.registry.entries import PeerEntry
from cryprq.registry.memory import MemoryStore
from cryprq.registry.sqlite import SqliteStore, registry_path
from cryprq.registry.store import (
    ABSENT,
    Batch,
    Change,
    Compacted,
    Conflict,
    Damaged,
    Delete,
    Denied,
    Expect,
    Note,
    Put,
    Store,
    Unavailable,
    Unknown,
)
from lab.hosts import tmpfs

Make = Callable[..., Store]


@pytest.fixture(params=["memory", "sqlite"])
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Makes a store; of those on disk, always the same one."""
    if request.param == "memory":
        return MemoryStore
    return lambda **bounds: SqliteStore(tmp_path / "registry", poll_interval=0.01, **bounds)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "registry"


def run(body: Awaitable[None]) -> None:
    async def whole() -> None:
        async with asyncio.timeout(20):
            await body

    asyncio.run(whole())


@asynccontextmanager
async def opened(store: Store) -> AsyncIterator[Store]:
    try:
        yield store
    finally:
        await store.close()


async def told(store: Store, after: int, until: int) -> list[Batch]:
    """What a watch tells of these revisions."""
    found = []
    async for batch in store.watch(after):
        if batch.changes:
            found.append(batch)
        if batch.revision >= until:
            return found
    raise AssertionError("the watch ended")


# ---- every store ----


def test_nothing_is_there_at_first(make: Make) -> None:
    async def body() -> None:
        async with opened(make()) as store:
            contents = await store.load()
            assert (contents.revision, dict(contents.entries)) == (0, {})
            assert await store.notes(10) == []

    run(body())


def test_commit_is_there_when_it_returns(make: Make) -> None:
    async def body() -> None:
        async with opened(make()) as store:
            revision = await store.commit(Put("a", b"1"), Put("b", b"2"))
            contents = await store.load()
            assert contents.revision == revision
            assert {key: (e.value, e.version) for key, e in contents.entries.items()} == {
                "a": (b"1", revision),
                "b": (b"2", revision),
            }
            later = await store.commit(Put("a", b"3"), Delete("b"), Delete("never"))
            assert later > revision
            contents = await store.load()
            assert {key: (e.value, e.version) for key, e in contents.entries.items()} == {"a": (b"3", later)}

    run(body())


def test_watch_tells_every_commit_in_order_and_once(make: Make) -> None:
    async def body() -> None:
        async with opened(make()) as store:
            first = await store.commit(Put("x", b"0"))
            watch = asyncio.create_task(told(store, first, first + 50))
            await asyncio.sleep(0)
            for number in range(50):
                await store.commit(Put(f"k{number % 7}", b"%d" % number), *([Delete("x")] if number == 20 else []))
            batches = await watch
            assert [batch.revision for batch in batches] == list(range(first + 1, first + 51))
            assert batches[20].changes == (Change("k6", b"20"), Change("x", None))
            state = {"x": b"0"}
            for batch in batches:
                for change in batch.changes:
                    state.pop(change.key, None)
                    if change.value is not None:
                        state[change.key] = change.value
            contents = await store.load()
            assert state == {key: entry.value for key, entry in contents.entries.items()}
            assert await told(store, first + 48, first + 50) == batches[48:], "it begins where one asks it to"

    run(body())


def test_commit_that_changes_nothing_leaves_no_gap(make: Make) -> None:
    async def body() -> None:
        async with opened(make()) as store:
            await store.commit(Put("a", b"1"))
            await store.commit(Expect("a", 1))
            await store.commit(Put("a", b"2"))
            assert [batch.revision for batch in await told(store, 0, 3)] == [1, 3]

    run(body())


def test_of_commits_that_expect_the_same_one_is_done(make: Make) -> None:
    async def body() -> None:
        async with opened(make()) as store:
            results = await asyncio.gather(
                *(
                    store.commit(Expect("lease", ABSENT), Put("lease", b"%d" % i), Put(f"own{i}", b""))
                    for i in range(8)
                ),
                return_exceptions=True,
            )
            assert sum(isinstance(result, int) for result in results) == 1
            assert sum(isinstance(result, Conflict) for result in results) == 7
            contents = await store.load()
            winner = contents.entries["lease"]
            assert set(contents.entries) == {"lease", f"own{winner.value.decode()}"}, "all or nothing"
            with pytest.raises(Conflict) as caught:
                await store.commit(Expect("lease", winner.version + 1), Expect("no", ABSENT), Delete("lease"))
            assert caught.value.entries == {"lease": winner, "no": None}
            await store.commit(Expect("lease", winner.version), Delete("lease"))

    run(body())


def test_what_is_compacted_is_not_told_as_if_it_were_all(make: Make) -> None:
    async def body() -> None:
        async with opened(make(log_max=3)) as store:
            for number in range(8):
                await store.commit(Put("k", b"%d" % number))
            with pytest.raises(Compacted):
                await told(store, 4, 8)
            assert [batch.revision for batch in await told(store, 5, 8)] == [6, 7, 8]
            with pytest.raises(Compacted):
                await told(store, 9, 10)  # of another history: a copy was restored

    run(body())


def test_audit_trail_keeps_the_newest_lines_in_order(make: Make) -> None:
    async def body() -> None:
        async with opened(make(notes_max=4)) as store:
            for number in range(9):
                await store.commit(Put("k", b""), note=Note(at=float(number), who="root", did=f"{number}"))
            assert [note.did for note in await store.notes(100)] == ["5", "6", "7", "8"]
            assert await store.notes(1) == [Note(at=8.0, who="root", did="8")]
            with pytest.raises(Conflict):
                await store.commit(Expect("k", ABSENT), note=Note(at=9.0, who="root", did="never"))
            assert [note.did for note in await store.notes(1)] == ["8"]

    run(body())


def test_all_that_is_known_of_a_peer_comes_back_as_it_was(make: Make) -> None:
    old, new = (PeerId(bytes([number]) * 32) for number in (1, 2))
    entry = PeerEntry(
        peer_id=old,
        name="alice",
        networks=(ip_network("10.1.0.0/16"),),
        expires=2e9,
        disabled=True,
        successor=new,
        psk_file=Path("/etc/cryprq/alice.psk"),
    )
    plain = PeerEntry(peer_id=new)

    async def body() -> None:
        async with opened(make()) as store:
            await store.commit(Put(entry.key, entry.encode()), Put(plain.key, plain.encode()))
            entries = (await store.load()).entries
        assert [PeerEntry.decode(key, entries[key].value) for key in (entry.key, plain.key)] == [entry, plain]

    run(body())


def test_presence_is_held_until_it_is_closed(make: Make) -> None:
    async def body() -> None:
        async with opened(make()) as store:
            presence = await store.present("gw/a", b"", 1.0)
            assert not presence.lost
            await presence.close()

    run(body())


# ---- the database of a single node ----


def commit(path: Path, *ops: Put | Delete | Expect) -> int:
    database = Database(path)
    try:
        return database.commit(ops, None)
    finally:
        database.close()


def held(path: Path) -> dict[str, bytes]:
    database = Database(path)
    try:
        return {key: entry.value for key, entry in database.load().entries.items()}
    finally:
        database.close()


def test_file_is_made_by_the_first_commit_for_its_owner_alone(path: Path) -> None:
    previous = os.umask(0)
    try:
        assert held(path) == {}
        assert os.listdir(path.parent) == []
        database = Database(path)
        database.commit((Put("a", b"1"),), None)
        assert {name: os.stat(path.parent / name).st_mode & 0o777 for name in os.listdir(path.parent)} == {
            "registry": 0o600,
            "registry-wal": 0o600,
            "registry-shm": 0o600,
        }
        database.close()
    finally:
        os.umask(previous)
    assert os.listdir(path.parent) == ["registry"], "a node that stops leaves one file"
    assert held(path) == {"a": b"1"}


def test_file_that_others_may_write_is_refused(path: Path) -> None:
    commit(path, Put("a", b"1"))
    path.chmod(0o620)
    with pytest.raises(Denied, match=r"others may write the registry .* \(mode 0620\): chmod 600") as caught:
        held(path)
    assert "\n" not in str(caught.value)
    path.chmod(0o600)
    assert held(path) == {"a": b"1"}


def test_registry_lies_beside_the_identity_or_where_it_can_be_written() -> None:
    credential = Path("/run/credentials/cryprq-node.service/identity")
    assert registry_path(credential, "tun1", Path("/var/lib/x")) == Path("/var/lib/x/identity.tun1.registry")
    assert registry_path(Path("/var/lib/cryprq/identity"), "tun1") == Path("/var/lib/cryprq/identity.tun1.registry")


def test_commit_of_another_process_is_told(path: Path) -> None:
    async def body() -> None:
        async with opened(SqliteStore(path, poll_interval=0.01)) as store:
            await store.commit(Put("a", b"1"))
            watch = asyncio.create_task(told(store, 1, 3))
            await asyncio.to_thread(commit, path, Put("b", b"2"))
            await asyncio.to_thread(commit, path, Put("c", b"3"))
            assert [batch.changes for batch in await watch] == [(Change("b", b"2"),), (Change("c", b"3"),)]

    run(body())


def test_commit_is_told_when_the_time_of_a_poll_is_up_in_the_same_turn_of_the_loop(path: Path) -> None:
    """The connection's own commits do not move ``data_version``: what the wake-up says must not be lost."""

    async def body() -> None:
        async with opened(SqliteStore(path, poll_interval=0.05)) as store:
            batches = store.watch(0)
            for revision in range(1, 11):
                waiting = asyncio.ensure_future(_told_next(batches))
                await asyncio.sleep(0.01)  # it waits
                job = asyncio.ensure_future(store.commit(Put("key", b"value")))
                await asyncio.sleep(0)  # the thread has it
                time.sleep(0.1)  # noqa: ASYNC251  # the loop stands still: commit and poll are both due when it goes on
                assert await job == revision
                assert (await asyncio.wait_for(waiting, 10)).revision == revision

    run(body())


async def _told_next(batches: AsyncIterator[Batch]) -> Batch:
    """The next commit; what only says that there was none is passed over."""
    async for batch in batches:
        if batch.changes:
            return batch
    raise AssertionError("the watch has ended")


def test_database_that_another_process_makes_first_is_told(path: Path) -> None:
    async def body() -> None:
        async with opened(SqliteStore(path, poll_interval=0.01)) as store:
            assert (await store.load()).revision == 0
            watch = asyncio.create_task(told(store, 0, 1))
            await asyncio.sleep(0)
            await asyncio.to_thread(commit, path, Put("b", b"2"))
            assert [batch.changes for batch in await watch] == [(Change("b", b"2"),)]

    run(body())


def test_file_that_was_replaced_is_not_mistaken_for_the_old_one(path: Path, tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(SqliteStore(path, poll_interval=0.01)) as store:
            await store.commit(Put("a", b"1"))
            commit(tmp_path / "other", Put("z", b"1"))
            os.replace(tmp_path / "other", path)
            for _ in range(2):
                with pytest.raises(Unavailable, match="was replaced or removed"):
                    await told(store, 1, 2)
                with pytest.raises(Unavailable, match="was replaced or removed"):
                    await store.commit(Put("b", b"2"))
            os.unlink(path)
            with pytest.raises(Unavailable, match="was replaced or removed"):
                await store.load()

    run(body())


def test_busy_database_is_unavailable_and_late_answer_is_unknown(path: Path) -> None:
    commit(path, Put("a", b"1"))
    other = sqlite3.connect(path, isolation_level=None)

    async def body() -> None:
        async with opened(SqliteStore(path)) as store:
            await store.load()
            other.execute("BEGIN IMMEDIATE")
            slow = asyncio.create_task(store.commit(Put("a", b"2"), timeout=0.05))
            behind = asyncio.create_task(store.commit(Put("b", b"2"), timeout=0.05))
            with pytest.raises(Unknown, match="has not answered"):
                await slow
            with pytest.raises(Unavailable, match="is busy"):
                await behind
            other.execute("ROLLBACK")
            # What is unknown is found out by looking, and what was told not to have happened has not.
            watch = [batch.changes async for batch in _until(store, 1, 2)]
            assert watch[0] == (Change("a", b"2"),)
            assert {k: e.value for k, e in (await store.load()).entries.items()} == {"a": b"2"}

    try:
        run(body())
    finally:
        other.close()


async def _until(store: Store, after: int, until: int) -> AsyncIterator[Batch]:
    for batch in await told(store, after, until):
        yield batch


def test_newer_schema_is_refused_in_one_line_and_kept(path: Path) -> None:
    commit(path, Put("a", b"1"))
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={len(MIGRATIONS) + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(Damaged, match="is of a newer CrypRQ") as caught:
        held(path)
    assert "\n" not in str(caught.value)
    with pytest.raises(Damaged, match="is of a newer CrypRQ"):
        commit(path, Put("b", b"2"))
    assert path.read_bytes() == before


def test_first_schema_is_taken_over_with_all_that_is_in_it(path: Path) -> None:
    """What an entry can say is more since then: the version from before, which would not mind a pre-shared key, does
    not open the file any more."""
    entry = PeerEntry(peer_id=PeerId(bytes(32)), name="alice")
    with sqlite3.connect(path) as connection:
        connection.executescript(MIGRATIONS[0])
        row = (entry.key, entry.encode(), 1, zlib.crc32(b"%b\0%d\0%b" % (entry.key.encode(), 1, entry.encode())))
        connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", row)
        connection.execute("UPDATE state SET value = 1 WHERE name = 'revision'")
        connection.execute("PRAGMA user_version=1")
    connection.close()
    path.chmod(0o600)
    assert held(path) == {entry.key: entry.encode()}
    commit(path, Put("a", b"1"))
    assert held(path) == {entry.key: entry.encode(), "a": b"1"}
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(MIGRATIONS),)
    connection.close()
    assert len(MIGRATIONS) == 2


def test_database_of_another_program_is_refused(path: Path) -> None:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (x)")
    connection.close()
    with pytest.raises(Damaged, match="is damaged"):
        held(path)


@pytest.mark.parametrize("data", [b"hello\n" * 2000, b"\0" * 8192])
def test_what_is_no_database_is_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(Damaged, match="is damaged"):
        held(path)
    assert path.read_bytes() == data


def test_damage_is_found_or_does_no_harm(path: Path) -> None:
    """Wherever bytes have rotted: the registry is refused, or it is what it was."""
    commit(path, *(Put(f"peer/{number}", b'{"name":"peer-%d"}' % number) for number in range(40)))
    good, whole = held(path), path.read_bytes()
    rng = random.Random(7)
    refused = 0
    for _ in range(300):
        place = rng.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << rng.randrange(8)]) + whole[place + 1 :])
        try:
            assert held(path) == good
        except Damaged:
            refused += 1
        for rest in ("-wal", "-shm"):
            path.with_name(path.name + rest).unlink(missing_ok=True)
    assert refused > 10
    for size in (len(whole) // 2, 4096, 100):
        path.write_bytes(whole[:size])
        with pytest.raises(Damaged):
            held(path)


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond what is there, as on a disk that is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (131_072, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_what_does_not_fit_is_not_done_and_all_else_stays(path: Path) -> None:
    database = Database(path)
    database.commit((Put("a", b"1"),), None)
    with pytest.raises((Unavailable, Unknown)):
        database.commit((Put("a", b"2"), Put("big", bytes(300_000))), None)
    assert {key: entry.value for key, entry in database.load().entries.items()} == {"a": b"1"}
    database.commit((Put("b", b"2"),), None)
    database.close()
    assert held(path) == {"a": b"1", "b": b"2"}


@pytest.mark.netns
def test_full_disk_loses_nothing_and_is_written_again_when_there_is_room(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "state", "size=400k,mode=700"):
        path, ballast = tmp_path / "state" / "registry", tmp_path / "state" / "ballast"
        database, done, refusal = Database(path), 0, ""
        ballast.write_bytes(bytes(150_000))
        while not refusal:
            try:
                database.commit((Put(f"k{done}", bytes(2000)),), None)
                done += 1
            except Unavailable as error:
                refusal = str(error)
        assert refusal == f"cannot write the registry {path}: database or disk is full"
        assert done > 5
        with pytest.raises(Unavailable, match="No space left on device"):
            database.probe()
        assert set(database.load().entries) == {f"k{number}" for number in range(done)}
        ballast.unlink()
        database.probe()
        database.commit((Put(f"k{done}", b""),), None)
        database.close()
        assert set(held(path)) == {f"k{number}" for number in range(done + 1)}


WRITER = """
import sys
from pathlib import Path
from cryprq.registry.database import Database
from cryprq.registry.store import Expect, Note, Put
database = Database(Path(sys.argv[1]))
number = len(database.load().entries) // 2
while True:
    keys = f"a/{number}", f"b/{number}"
    database.commit((Expect(keys[0], 0), *(Put(key, b"%d" % number) for key in keys)), Note(at=0.0, who="w", did="d"))
    print(number, flush=True)
    number += 1
"""


def test_killed_at_any_moment_nothing_acknowledged_is_lost_and_nothing_is_half_there(path: Path) -> None:
    """The short one of ``bench/registry.py --kills 1000``."""
    rng = random.Random(11)
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            wanted = rng.randrange(1, 30)
            acknowledged = [int(writer.stdout.readline()) for _ in range(wanted)][-1]
            time.sleep(rng.random() * 0.005)  # else it would always be at the beginning of the next one
            writer.kill()
            rest = writer.stdout.read().splitlines()
        if rest and rest[-1].isdigit():
            acknowledged = max(acknowledged, int(rest[-1]))
        found = held(path)
        for number in range(acknowledged + 1):
            assert found.get(f"a/{number}") == found.get(f"b/{number}") == b"%d" % number
        assert {key[2:] for key in found if key.startswith("a/")} == {key[2:] for key in found if key.startswith("b/")}


@pytest.mark.netns
def test_read_only_directory_is_read_and_not_written(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    commit(folder / "registry", Put("a", b"1"))
    code = f"""
from pathlib import Path
from cryprq.registry.database import Database
from cryprq.registry.store import Put, Unavailable
database = Database(Path({str(folder / "registry")!r}))
print(sorted(database.load().entries))
for act in (lambda: database.commit((Put("b", b"2"),), None), database.probe):
    try:
        act()
        print("written")
    except Unavailable as error:
        print(error)
"""
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True)
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    finally:
        subprocess.run(["umount", folder], check=True)
    lines = done.stdout.splitlines()
    assert lines[0] == "['a']"
    assert lines[1].startswith(f"cannot write the registry {folder}/registry: attempt to write a readonly database")
    assert lines[2] == f"cannot write the registry {folder}/registry: {os.strerror(errno.EROFS)}"
