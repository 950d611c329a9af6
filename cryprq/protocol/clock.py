"""The clocks of a node, told apart by type: a time of one means nothing on the other.

All are seconds since some moment, and the difference of two times of one clock is a plain ``float``. Nothing here reads
a clock: times come in from outside (``cryprq.linux.clock``).
"""

from typing import NewType

Monotonic = NewType("Monotonic", float)
"""CLOCK_MONOTONIC, which stands still while the machine is suspended: the time of connections, and of what strangers
cost. A peer is not taken for silent because this machine slept."""

Boottime = NewType("Boottime", float)
"""CLOCK_BOOTTIME, which runs on during suspend, as keys must age: the time of sessions and of the data plane."""

Realtime = NewType("Realtime", float)
"""CLOCK_REALTIME: Unix time, which may be wrong, and may be set. Only what two nodes, or two runs of one, have to agree
on goes by it, and nothing that could not do without: knocks, and the age of tokens."""
