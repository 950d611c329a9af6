"""When something is over, as people write it: ``24h``, ``2027-01-31``, ``never``; and as it is shown to them."""

import re
from datetime import UTC, datetime
from typing import Final

_UNITS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SPAN: Final = re.compile(r"([1-9][0-9]{0,8})([smhdw])", re.ASCII)
_YEAR_MAX: Final = 9000  # what datetime can show in every time zone


def parse(text: str, now: float) -> float | None:
    """The Unix time that ``text`` means at ``now``; None for ``never``.

    A span from now on with its unit (s, m, h, d, w), ``now``, or a date or time of ISO 8601, in the local time zone
    unless it names another; a date means its beginning. ValueError with one line for anything else.
    """
    word = text.strip().lower()
    if word == "never":
        return None
    if word == "now":
        return now
    if (span := _SPAN.fullmatch(word)) is not None:
        when = now + int(span[1]) * _UNITS[span[2]]
    else:
        try:
            when = datetime.fromisoformat(text.strip()).timestamp()
        except (ValueError, OverflowError, OSError):
            raise ValueError(
                f"{text!r} is no time: write 24h, 30d, 2027-01-31, 2027-01-31T18:00, now or never"
            ) from None
    if not 0 <= when < datetime(_YEAR_MAX, 1, 1, tzinfo=UTC).timestamp():
        raise ValueError(f"{text!r} is too far away")
    return when


def show(expires: float | None) -> str:
    """In the local time zone, to the minute."""
    return "never" if expires is None else datetime.fromtimestamp(expires).strftime("%Y-%m-%d %H:%M")
