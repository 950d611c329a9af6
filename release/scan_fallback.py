"""Looks for known vulnerabilities where Grype is not at hand: pip-audit over the Python packages that come with a wheel
when it is installed. The first line of the report says whether that was all that is shipped, a part, or nothing: what
no data was had about is not clear.

    python release/scan_fallback.py RELEASE VENV

Exit status: 0 nothing known of anything, 1 something known (pip-audit has no severities, so anything counts), 3 nothing
known, but there was no data about some or all of what is shipped.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

OWN = "cryprq"
NO_DATA = 3


def beyond(release: Path) -> list[str]:
    """What the bill of materials names and pip-audit cannot judge."""
    bill = json.loads(next((release / "security").glob("sbom-*.spdx.json")).read_text())
    references = {
        reference["referenceLocator"]
        for package in bill["packages"]
        for reference in package.get("externalRefs", [])
        if reference["referenceType"] == "purl"
    }
    return sorted(reference for reference in references if not reference.startswith("pkg:pypi/"))


def judge(dependencies: list[dict[str, Any]], others: list[str]) -> tuple[int, list[str]]:
    """The exit status and the lines of the report, from pip-audit's findings and what it cannot judge."""
    lines, found, clear, unknown = [], 0, 0, len(others)
    for entry in sorted(dependencies, key=lambda entry: str(entry["name"])):
        if entry["name"] == OWN:
            continue
        if "skip_reason" in entry:
            unknown += 1
            lines.append(f"no data  {entry['skip_reason']}")
            continue
        for fault in entry["vulns"]:
            lines.append(
                f"FOUND    {entry['name']} {entry['version']}: {fault['id']}, fixed in {fault['fix_versions']}"
            )
        if entry["vulns"]:
            found += 1
        else:
            clear += 1
            lines.append(f"clear    {entry['name']} {entry['version']}")
    lines += [f"no data  {reference}: not a Python package" for reference in others]
    if not found and not clear:
        title = "not scanned: Grype was not at hand, and pip-audit had no data about anything that is shipped"
    elif unknown:
        title = "scanned in part: Grype was not at hand, and pip-audit knows Python packages only"
    else:
        title = "scanned by pip-audit; Grype was not at hand"
    return (1 if found else NO_DATA if unknown or not clear else 0), [title, *lines]


def report(release: Path, environment: Path) -> int:
    site = next((environment / "lib").glob("python*/site-packages"), None)
    if site is None:
        print(f"not scanned: Grype was not at hand, and {environment} is no environment that pip-audit could look at")
        return NO_DATA
    command = [sys.executable, "-m", "pip_audit", "--progress-spinner", "off", "--format", "json", "--path", str(site)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    try:
        dependencies = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        print(f"not scanned: Grype was not at hand, and pip-audit could not get its data\n{reason}")
        return NO_DATA
    status, lines = judge(dependencies, beyond(release))
    print(*lines, sep="\n")
    return status


if __name__ == "__main__":
    sys.exit(report(Path(sys.argv[1]), Path(sys.argv[2])))
