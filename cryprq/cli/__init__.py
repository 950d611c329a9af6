"""The programs: ``cryprq-node``, the daemon, and ``cryprq``, the tool."""

import errno
import os
import sys
from collections.abc import Callable
from typing import Final

from cryprq.errors import CryprqError
from cryprq.telemetry.defects import describe_exception
from cryprq.telemetry.journal import PRIORITIES, is_journal

_CANNOT_WRITE: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What a full or broken disk says, where the output goes."""


def run_program(name: str, body: Callable[[], int]) -> int:
    """Runs a program's body and returns the exit status; whatever goes wrong becomes one line on stderr."""
    try:
        status = body()
        sys.stdout.flush()
        return status
    except CryprqError as error:
        return _complain(name, str(error), error.exit_status)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _mute()  # the reader of our output has gone (`| head`)
        return 1
    except OSError as error:
        if error.errno not in _CANNOT_WRITE or error.filename is not None:
            return _internal(name, error)
        _mute()
        return _complain(name, f"cannot write what there is to say: {error.strerror}", 1)
    except Exception as error:
        return _internal(name, error)


def _mute() -> None:
    """Keeps the interpreter's last flush from complaining once more."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _internal(name: str, error: Exception) -> int:
    fields = describe_exception(error)
    return _complain(name, f"internal error, please report it: {fields['error']} ({fields.get('where')})", 1)


def _complain(name: str, message: str, status: int) -> int:
    priority = PRIORITIES["error"] if _stderr_is_journal() else ""
    print(f"{priority}{name}: {' '.join(message.split())}", file=sys.stderr)
    return status


def _stderr_is_journal() -> bool:
    try:
        return is_journal(sys.stderr.fileno(), os.environ)
    except (AttributeError, OSError, ValueError):  # a program has put something else there
        return False
