"""Has Grype look at a bill of materials, and writes what it found as text. The first line of the report says with which
data, and what came of it. Grype's answer is judged by its contents: its exit statuses differ between versions, and a
report that is not whole is none.

    python release/scan_grype.py LEVEL GRYPE... sbom:BILL      GRYPE: the program, or a command that runs its image

Exit status, as scan_fallback.py: 0 nothing at LEVEL or above, 1 something, 3 not scanned.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

SEVERITIES = ("unknown", "negligible", "low", "medium", "high", "critical")
FOUND, NO_DATA = 1, 3
ABOVE = 2
"""Grype's own exit status for the same; it was 1, as for any failure."""


@dataclass(frozen=True, order=True)
class Finding:
    """One vulnerability of one package; the worst sorts first."""

    rank: int
    package: str
    version: str
    identifier: str
    fix: str

    def __str__(self) -> str:
        return f"{SEVERITIES[-self.rank]:<10} {self.package} {self.version}: {self.identifier}, {self.fix}"

    @classmethod
    def parse(cls, match: dict[str, Any]) -> "Finding":
        fault, artifact = match["vulnerability"], match["artifact"]
        severity = str(fault.get("severity", "unknown")).lower()
        rank = SEVERITIES.index(severity) if severity in SEVERITIES else 0
        fix = fault.get("fix", {})
        cure = f"fixed in {', '.join(fix['versions'])}" if fix.get("versions") else fix.get("state") or "no fix known"
        return cls(-rank, artifact["name"], artifact["version"], fault["id"], cure)


def data_of(descriptor: dict[str, Any]) -> str:
    """Grype's version and the date of its database."""
    database = descriptor["db"]
    built = (database.get("status") or database)["built"]  # one level deeper in later versions
    return f"Grype {descriptor['version']} with the data of {built}"


def judge(level: str, status: int, output: str, said: str) -> tuple[int, list[str]]:
    """The exit status and the lines of the report."""
    notes = [f"grype: {line}" for line in said.splitlines() if line.strip()]
    try:
        document = json.loads(output)
        data = data_of(document["descriptor"])
        findings = sorted({Finding.parse(match) for match in document["matches"]})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        why = f"Grype ended with status {status}" if status else f"Grype's answer is no report ({error!r})"
        return NO_DATA, [f"not scanned: {why}", *notes]
    worst = sum(-finding.rank >= SEVERITIES.index(level) for finding in findings)
    if status not in (0, ABOVE) and not worst:
        return NO_DATA, [f"not scanned: Grype ended with status {status}", *notes]
    found = worst > 0 or status == ABOVE
    title = f"scanned by {data}: {len(findings)} findings, {worst} of them {level} or above"
    return FOUND if found else 0, [title, *map(str, findings), *notes]


def main(level: str, *command: str) -> int:
    if level not in SEVERITIES[1:]:
        print(f"scan_grype: {level} is none of {', '.join(SEVERITIES[1:])}", file=sys.stderr)
        return 2
    words = [*command, "--output", "json", "--fail-on", level]
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=1800)
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"not scanned: {error}")
        return NO_DATA
    status, lines = judge(level, done.returncode, done.stdout, done.stderr)
    print(*lines, sep="\n")
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
