"""The programs: ``cryprq-node``, the daemon, and ``cryprq``, the tool."""

import os
import sys
from collections.abc import Callable

from cryprq.errors import CryprqError
from cryprq.telemetry.defects import describe_exception
from cryprq.telemetry.journal import PRIORITIES, is_journal


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
        # The reader of our output has gone (`| head`); keep the interpreter's last flush from saying so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
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
