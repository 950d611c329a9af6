"""When a node tries whether it could write a lease, and what its health makes of it."""

from cryprq.errors import MachineError
from cryprq.node.lease_check import INTERVAL, INTERVAL_FAILING, LeaseCheck
from cryprq.protocol.clock import Boottime
from cryprq.telemetry.health import Health


class Disk:
    """Where leases go, the clock, and whether anybody needs one."""

    def __init__(self) -> None:
        self.fault: str | None = None
        self.needed = True
        self.tries = 0
        self.now = 1000.0
        self.check = LeaseCheck(self.try_to_write, lambda: self.needed, lambda: Boottime(self.now))

    def try_to_write(self) -> None:
        self.tries += 1
        if self.fault is not None:
            raise MachineError(self.fault)


def test_tries_at_once_then_seldom_and_oftener_while_it_fails() -> None:
    disk = Disk()
    assert disk.check() is None
    disk.fault = "full"
    disk.now += INTERVAL - 1
    assert disk.check() is None
    assert disk.tries == 1
    disk.now += 1
    assert disk.check() == "full"
    disk.fault = None
    disk.now += INTERVAL_FAILING - 1
    assert disk.check() == "full"
    disk.now += 1
    assert disk.check() is None
    assert disk.tries == 3


def test_is_no_fault_where_nobody_gets_an_address() -> None:
    disk = Disk()
    disk.fault = "read-only"
    assert disk.check() == "read-only"
    disk.needed = False
    assert disk.check() is None
    assert disk.tries == 1
    disk.needed = True  # by a reload: at once
    assert disk.check() == "read-only"


def test_is_bad_health_but_no_reason_to_restart() -> None:
    disk, health, dead = Disk(), Health(), [""]
    assert health.wants_restart()  # it starts
    health.watch(lambda: dead[0] or None)
    health.watch(disk.check, restart_helps=False)
    health.ready()
    assert (health.reason(), health.wants_restart()) == (None, False)
    disk.fault = "read-only"
    disk.now += INTERVAL
    assert (health.reason(), health.wants_restart()) == ("read-only", False)
    dead[0] = "the TUN is gone"
    assert (health.reason(), health.wants_restart()) == ("the TUN is gone", True)
    dead[0] = ""
    health.failed("stopping")
    assert health.wants_restart()
