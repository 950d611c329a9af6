"""Names to addresses, in threads that nobody has to wait for.

The system's look-up cannot be interrupted, and takes as long as name servers are silent. An event loop's own threads
for it are joined when the program ends; these are not.
"""

import asyncio
import contextlib
import socket
import threading
from collections.abc import Sequence
from typing import Any, Final

LOOKUPS_MAX: Final = 32
"""Look-ups at a time; others wait. Each is a thread."""


class NameService:
    """``getaddrinfo`` for an event loop. It belongs to the loop in which it is first used."""

    def __init__(self) -> None:
        self._places = asyncio.Semaphore(LOOKUPS_MAX)

    async def getaddrinfo(self, host: str, port: int, family: int, kind: int) -> Sequence[tuple[Any, ...]]:
        """As ``socket.getaddrinfo``; OSError or UnicodeError. A look-up that is cancelled leaves its thread behind,
        which ends when the system has its answer, or with the process."""
        async with self._places:
            loop = asyncio.get_running_loop()
            answer: asyncio.Future[Sequence[tuple[Any, ...]]] = loop.create_future()

            def settle(found: Sequence[tuple[Any, ...]] | None, error: Exception | None) -> None:
                if answer.done():
                    return
                if error is not None:
                    answer.set_exception(error)
                elif found is not None:
                    answer.set_result(found)

            def look_up() -> None:
                found: Sequence[tuple[Any, ...]] | None = None
                failure: Exception | None = None
                try:
                    found = socket.getaddrinfo(host, port, family, kind)
                except Exception as error:
                    failure = error
                with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                    loop.call_soon_threadsafe(settle, found, failure)

            try:
                threading.Thread(target=look_up, name="look-up", daemon=True).start()
            except RuntimeError as error:
                raise OSError(f"no thread for the look-up: {error}") from None
            return await answer
