"""Calls that block, in threads that an event loop does not wait for: not when it gives up, and not when it ends.

An event loop's own threads are joined when the program ends, however long what they call takes.
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")


async def call(work: Callable[[], T], name: str) -> T:
    """What ``work`` returns or raises, from a thread of that name. OSError if there can be none. A call that is
    cancelled leaves the thread behind: it ends when ``work`` does, or with the process."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, failure: Exception | None) -> None:
        if done.done():
            return
        if failure is not None:
            done.set_exception(failure)
        else:
            done.set_result(cast(T, result))

    def run() -> None:
        result, failure = None, None
        try:
            result = work()
        except Exception as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
            loop.call_soon_threadsafe(settle, result, failure)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError as error:
        raise OSError(f"no thread for the {name}: {error}") from None
    return await done
