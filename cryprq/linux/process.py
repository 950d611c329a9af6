"""What of this process others may read: nothing, where that can be had."""

import contextlib
import ctypes
import resource
from typing import Final

_PR_SET_DUMPABLE: Final = 4  # <linux/prctl.h>


def keep_memory_private() -> None:
    """No core dump, and no look into the memory by anyone but root (prctl(2), PR_SET_DUMPABLE; ptrace(2)).

    As ssh-agent and gpg-agent do. Where neither can be had, that is no reason not to run.
    """
    with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid to ask; then the other one has to do
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
