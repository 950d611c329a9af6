"""What a log says of an exception that should not have been: enough for a bug report, in one line."""

import traceback
from typing import Final

TRACEBACK_MAX: Final = 16_000
"""Characters of a traceback; of a longer one the end is kept, where it happened."""
_FRAMES_MAX: Final = 60
_PACKAGE: Final = __name__.partition(".")[0]


def describe_exception(error: BaseException) -> dict[str, object]:
    """Fields ``error`` and ``where``: file and line of the innermost frame inside this package, and behind it, if
    somebody else raised, of the innermost one of all. No ``where`` for an exception that was never raised."""
    fields: dict[str, object] = {"error": f"{type(error).__name__}: {error}"}
    places = [
        (frame.f_globals.get("__name__", ""), f"{frame.f_code.co_filename}:{line}")
        for frame, line in traceback.walk_tb(error.__traceback__)
    ]
    if places:
        raised = places[-1][1]
        ours = next((place for name, place in reversed(places) if name.partition(".")[0] == _PACKAGE), raised)
        fields["where"] = ours if ours == raised else f"{ours} ({raised})"
    return fields


def whole_traceback(error: BaseException) -> str:
    """The traceback, and those of its causes, as Python prints it: places and source lines, no values of variables."""
    return "".join(traceback.format_exception(error, limit=-_FRAMES_MAX))[-TRACEBACK_MAX:]
