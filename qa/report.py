"""What a scenario found: its checks, each with what was measured, and a verdict that needs all of them to hold."""

import json
import platform
import time
from pathlib import Path
from typing import Any, Final


class Report:
    """The checks of one run of a scenario. A check that does not hold fails the scenario and does not end it."""

    def __init__(self, scenario: str, runtime: str, fault: str | None) -> None:
        self.scenario: Final = scenario
        self.checks: list[dict[str, Any]] = []
        self.measured: dict[str, Any] = {}
        """Figures that are worth knowing and are no condition."""
        self.error: str | None = None
        """What ended the scenario before its end."""
        self.builds: dict[str, dict[str, str]] = {}
        """By node, what ran there."""
        self._head = {"scenario": scenario, "runtime": runtime, "fault": fault}
        self._started = time.time()
        self._clock = time.monotonic()

    def check(self, what: str, holds: bool, **found: object) -> None:
        """States one condition and what was found."""
        self.checks.append({"check": what, "ok": bool(holds), **found})

    def equal(self, what: str, found: object, expected: object) -> None:
        """``found`` must be ``expected``."""
        self.check(what, found == expected, found=found, expected=expected)

    def at_least(self, what: str, found: float, expected: float) -> None:
        """``found`` must not be less than ``expected``."""
        self.check(what, found >= expected, found=found, at_least=expected)

    def at_most(self, what: str, found: float, expected: float) -> None:
        """``found`` must not be more than ``expected``."""
        self.check(what, found <= expected, found=found, at_most=expected)

    @property
    def passed(self) -> bool:
        """Whether it came to its end, checked something, and everything held."""
        return self.error is None and bool(self.checks) and all(check["ok"] for check in self.checks)

    def failures(self) -> list[str]:
        """One line for each check that did not hold, and for what ended the scenario early."""
        lines = []
        for check in self.checks:
            if not check["ok"]:
                found = ", ".join(f"{key}={value}" for key, value in check.items() if key not in ("check", "ok"))
                lines.append(f"{check['check']}: {found}" if found else check["check"])
        if self.error is not None:  # of a traceback, or a log, the first line and the last; the verdict has all of it
            first, *rest = self.error.strip().splitlines()
            lines.append(f"{first} ... {rest[-1]}" if rest else first)
        return lines

    def verdict(self) -> dict[str, Any]:
        """All of it, as JSON takes it."""
        return {
            **self._head,
            "passed": self.passed,
            "failures": self.failures(),
            "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self._started)),
            "seconds": round(time.monotonic() - self._clock, 1),
            "kernel": platform.release(),
            "builds": self.builds,
            "checks": self.checks,
            "measured": self.measured,
            "error": self.error,
        }

    def write(self, path: Path) -> None:
        """Writes the verdict."""
        path.write_text(json.dumps(self.verdict(), indent=2, default=str) + "\n")
