"""The two clocks of a node, told apart by type: a time of one means nothing on the other.

Both are seconds since some moment, and the difference of two times is a plain ``float``. Nothing here reads a clock:
times come in from outside (``cryprq.linux.clock``).
"""

from typing import NewType

Monotonic = NewType("Monotonic", float)
"""CLOCK_MONOTONIC, which stands still while the machine is suspended: the time of connections, and of what strangers
cost. A peer is not taken for silent because this machine slept."""

Boottime = NewType("Boottime", float)
"""CLOCK_BOOTTIME, which runs on during suspend, as keys must age: the time of sessions and of the data plane."""
