"""The store of a single node: one SQLite database beside its identity, worked on in one thread."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, TypeVar

from cryprq.registry.database import LOG_MAX, NOTES_MAX, Database
from cryprq.registry.memory import Held
from cryprq.registry.store import Batch, Contents, Note, Op, Presence, Unavailable, Unknown

POLL_INTERVAL: Final = 1.0
"""Seconds between looks at whether another process has committed: `cryprq peer` asks the node, so hardly any does."""

T = TypeVar("T")


def registry_path(identity: Path, tun_name: str, directory: Path | None = None) -> Path:
    """Where the registry of a node lies: one file for each tunnel, beside its identity or in a directory."""
    name = f"{identity.name}.{tun_name}.registry"
    return identity.with_name(name) if directory is None else directory / name


class SqliteStore:
    """Store, on disk. The event loop never waits for the disk."""

    def __init__(
        self,
        path: Path,
        *,
        poll_interval: float = POLL_INTERVAL,
        log_max: int = LOG_MAX,
        notes_max: int = NOTES_MAX,
    ) -> None:
        self.where = str(path)
        self._database = Database(path, log_max=log_max, notes_max=notes_max)
        self._poll_interval = poll_interval
        self._thread = ThreadPoolExecutor(1, "registry")
        self._news = asyncio.Event()

    async def load(self) -> Contents:
        return await self._run(self._database.load)

    async def watch(self, after: int) -> AsyncIterator[Batch]:
        seen: object = self  # nothing that the database says
        while True:
            news = self._news
            version = await self._run(self._database.data_version)
            if version != seen:
                seen = version
                for batch in await self._run(partial(self._database.batches, after)):
                    after = batch.revision
                    yield batch
            yield Batch(after)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_interval):
                    await news.wait()
            if news.is_set():  # also if time was up in the same turn of the loop
                seen = self  # by this connection, of which ``data_version`` does not tell

    async def commit(self, *ops: Op, note: Note | None = None, timeout: float = 2.0) -> int:
        loop = asyncio.get_running_loop()
        job = self._thread.submit(self._database.commit, ops, note)
        job.add_done_callback(partial(self._done, loop))
        try:
            async with asyncio.timeout(timeout):
                return await asyncio.shield(asyncio.wrap_future(job))
        except TimeoutError:
            if job.cancel():
                raise Unavailable(f"the registry {self.where} is busy") from None
            raise Unknown(f"the registry {self.where} has not answered within {timeout:g} s") from None

    async def notes(self, limit: int) -> list[Note]:
        return await self._run(lambda: self._database.notes(limit))

    async def present(self, key: str, value: bytes, ttl: float) -> Presence:
        return Held()

    async def probe(self) -> None:
        await self._run(self._database.probe)

    async def close(self) -> None:
        await self._run(self._database.close)
        self._thread.shutdown(wait=False)

    def _done(self, loop: asyncio.AbstractEventLoop, _: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(self._tell)

    def _tell(self) -> None:
        self._news.set()
        self._news = asyncio.Event()

    async def _run(self, work: Callable[[], T]) -> T:
        return await asyncio.wrap_future(self._thread.submit(work))
