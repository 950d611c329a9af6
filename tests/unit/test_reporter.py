"""What the reporter makes of what happens, where it is more than passing it on."""

import io
import json
from typing import Any

from cryprq.address import Address
from cryprq.telemetry.logs import LIMIT, Log
from cryprq.telemetry.reporter import Reporter


def test_source_that_has_to_wait_is_told_in_milliseconds_and_not_without_end() -> None:
    stream = io.StringIO()
    metrics: Any = None
    reporter = Reporter(Log("info", "json", stream), metrics)
    for _ in range(LIMIT + 5):
        reporter.inbound_backoff(Address("192.0.2.7", 4000), 0.3)
    lines = stream.getvalue().splitlines()
    assert len(lines) == LIMIT
    entry = json.loads(lines[0])
    del entry["time"]
    assert entry == {"event": "inbound_backoff", "remote": "192.0.2.7:4000", "wait_ms": 300, "level": "warning"}
