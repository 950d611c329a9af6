"""A process whose memory is private: no core dump, and none of its user's other processes may look into it."""

import subprocess
import sys

PROGRAM = """
import ctypes, resource
from cryprq.linux.process import keep_memory_private
PR_GET_DUMPABLE = 3
print(ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0))
keep_memory_private()
print(ctypes.CDLL(None).prctl(PR_GET_DUMPABLE, 0, 0, 0, 0), *resource.getrlimit(resource.RLIMIT_CORE))
"""


def test_is_neither_dumped_nor_read() -> None:
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == ["1", "0 0 0"]
