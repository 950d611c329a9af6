"""When a node tries whether it could write its registry, and what its health makes of it."""

import asyncio
from collections.abc import Awaitable

from cryprq.errors import MachineError
from cryprq.node.registry_check import INTERVAL, INTERVAL_FAILING, RegistryCheck
from cryprq.protocol.clock import Boottime
from cryprq.telemetry.health import Health


class Disk:
    """Where the registry lies, the clock, and whether anybody needs an address."""

    def __init__(self) -> None:
        self.fault: str | None = None
        self.unreadable: str | None = None
        self.needed = True
        self.tries = 0
        self.now = 1000.0
        self.check = RegistryCheck(self.probe, lambda: self.needed, lambda: self.unreadable, lambda: Boottime(self.now))

    async def probe(self) -> None:
        self.tries += 1
        if self.fault is not None:
            raise MachineError(self.fault)

    async def asked(self) -> str | None:
        """What the check says when a try that it began is over."""
        self.check()
        for _ in range(3):
            await asyncio.sleep(0)
        return self.check()


def run(body: Awaitable[None]) -> None:
    async def whole() -> None:
        await body

    asyncio.run(whole())


def test_tries_at_once_then_seldom_and_oftener_while_it_fails() -> None:
    async def body() -> None:
        disk = Disk()
        assert await disk.asked() is None
        disk.fault = "full"
        disk.now += INTERVAL - 1
        assert await disk.asked() is None
        assert disk.tries == 1
        disk.now += 1
        assert await disk.asked() == "full"
        disk.fault = None
        disk.now += INTERVAL_FAILING - 1
        assert await disk.asked() == "full"
        disk.now += 1
        assert await disk.asked() is None
        assert disk.tries == 3

    run(body())


def test_is_no_fault_where_nobody_gets_an_address() -> None:
    async def body() -> None:
        disk = Disk()
        disk.fault = "read-only"
        assert await disk.asked() == "read-only"
        disk.needed = False
        assert await disk.asked() is None
        assert disk.tries == 1
        disk.needed = True  # by a reload: at once
        assert await disk.asked() == "read-only"

    run(body())


def test_registry_that_cannot_be_followed_is_a_fault_whoever_needs_it() -> None:
    async def body() -> None:
        disk = Disk()
        disk.needed, disk.unreadable = False, "the registry is damaged"
        assert await disk.asked() == "the registry is damaged"
        assert disk.tries == 0
        disk.unreadable = None
        assert await disk.asked() is None

    run(body())


def test_is_bad_health_but_no_reason_to_restart() -> None:
    async def body() -> None:
        disk, health, dead = Disk(), Health(), [""]
        assert health.wants_restart()  # it starts
        health.watch(lambda: dead[0] or None)
        health.watch(disk.check, restart_helps=False)
        health.ready()
        await disk.asked()
        assert (health.reason(), health.wants_restart()) == (None, False)
        disk.fault = "read-only"
        disk.now += INTERVAL
        await disk.asked()
        assert (health.reason(), health.wants_restart()) == ("read-only", False)
        dead[0] = "the TUN is gone"
        assert (health.reason(), health.wants_restart()) == ("the TUN is gone", True)
        dead[0] = ""
        health.failed("stopping")
        assert health.wants_restart()

    run(body())
