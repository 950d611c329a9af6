"""Whether a descriptor is the systemd journal, and how a line tells it its priority (sd-daemon(3))."""

import os
from collections.abc import Mapping
from typing import Final

PRIORITIES: Final[Mapping[str, str]] = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>"}
"""What a line begins with; the journal takes it off."""


def is_journal(descriptor: int, environ: Mapping[str, str]) -> bool:
    """``JOURNAL_STREAM`` names device and inode of the stream that systemd made. A program that was started with
    another one in its place inherits the variable all the same."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM", "") == f"{status.st_dev}:{status.st_ino}"
