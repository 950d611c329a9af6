"""Reads the machine's clocks."""

import time

from cryprq.protocol.clock import Boottime, Monotonic, Realtime


def monotonic() -> Monotonic:
    """Seconds of CLOCK_MONOTONIC: the clock of connections."""
    return Monotonic(time.monotonic())


def boottime() -> Boottime:
    """Seconds of CLOCK_BOOTTIME: the clock of sessions and of the data plane, which runs on during suspend."""
    return Boottime(time.clock_gettime(time.CLOCK_BOOTTIME))


def realtime() -> Realtime:
    """Unix time, as this machine has it."""
    return Realtime(time.time())
