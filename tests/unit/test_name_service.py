"""Look-ups in threads: their answers, their errors, and that nobody waits for those that hang."""

import asyncio
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from cryprq.linux import name_service
from cryprq.linux.name_service import NameService, lookup_uid


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    def run(scenario: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(asyncio.wait_for(scenario, 20))

    return run


def test_answers_as_the_system_does(run: Callable[[Coroutine[Any, Any, None]], None]) -> None:
    async def scenario() -> None:
        found = await NameService().getaddrinfo("localhost", 9999, socket.AF_INET, socket.SOCK_DGRAM)
        assert found == socket.getaddrinfo("localhost", 9999, socket.AF_INET, socket.SOCK_DGRAM)
        with pytest.raises(socket.gaierror):
            await NameService().getaddrinfo("a name with blanks", 9999, socket.AF_INET, socket.SOCK_DGRAM)
        with pytest.raises(UnicodeError):
            await NameService().getaddrinfo("x" * 64 + ".test", 9999, socket.AF_INET, socket.SOCK_DGRAM)

    run(scenario())


def test_sockets_of_look_ups_belong_to_a_user_that_rules_may_go_by(
    run: Callable[[Coroutine[Any, Any, None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    owners = []

    def ask(*_: object) -> list[Any]:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            owners.append(os.fstat(sock.fileno()).st_uid)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", ask)

    async def scenario() -> None:
        for uid in (lookup_uid(), None):
            await NameService().getaddrinfo("gateway.example", 9999, socket.AF_INET, socket.SOCK_DGRAM, uid)

    wanted = lookup_uid()
    run(scenario())
    ask()
    own = os.geteuid()
    assert owners == [own if wanted is None else wanted, own, own]  # not every root may be somebody else


def test_look_up_that_hangs_keeps_neither_the_loop_nor_the_others(
    run: Callable[[Coroutine[Any, Any, None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = threading.Event()
    ask = socket.getaddrinfo

    def hang(host: str, *rest: Any) -> Any:
        if host == "silent.test":
            answered.wait(60)
        return ask("127.0.0.1", *rest)

    monkeypatch.setattr(name_service.socket, "getaddrinfo", hang)  # type: ignore[attr-defined]

    async def scenario() -> None:
        names = NameService()
        silent = asyncio.ensure_future(names.getaddrinfo("silent.test", 1, socket.AF_INET, socket.SOCK_DGRAM))
        await asyncio.sleep(0)
        assert await names.getaddrinfo("other.test", 1, socket.AF_INET, socket.SOCK_DGRAM)
        silent.cancel()

    before = time.monotonic()
    run(scenario())
    assert time.monotonic() - before < 50
    answered.set()  # to a loop that is closed: nothing comes of it
    time.sleep(0.05)


def test_only_so_many_at_a_time(
    run: Callable[[Coroutine[Any, Any, None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(name_service, "LOOKUPS_MAX", 3)
    lock, now, most = threading.Lock(), 0, 0

    def count(*_: Any) -> Any:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        time.sleep(0.02)
        with lock:
            now -= 1
        return []

    monkeypatch.setattr(name_service.socket, "getaddrinfo", count)  # type: ignore[attr-defined]

    async def scenario() -> None:
        names = NameService()
        await asyncio.gather(*(names.getaddrinfo(f"{n}.test", 1, 0, 0) for n in range(12)))

    run(scenario())
    assert most == 3


def test_no_thread_is_an_error_of_the_machine(
    run: Callable[[Coroutine[Any, Any, None]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async def scenario() -> None:
        names = NameService()
        monkeypatch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(OSError, match="no thread for the look-up"):
            await names.getaddrinfo("localhost", 1, 0, 0)

    run(scenario())


def test_program_ends_while_a_look_up_hangs() -> None:
    program = """
import asyncio, socket, time
from cryprq.linux.name_service import NameService
socket.getaddrinfo = lambda *_: time.sleep(60)
async def main():
    asyncio.ensure_future(NameService().getaddrinfo("silent.test", 1, 0, 0))
    await asyncio.sleep(0.1)
asyncio.run(main())
print("done", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=55)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
