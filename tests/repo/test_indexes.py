"""Each finding and each decision is in the index of its folder, and a finding stands alone."""

import os
import re
from pathlib import Path

import pytest

from lab import ROOT

FINDINGS = sorted((ROOT / "findings").glob("*.sh"))
DECISIONS = sorted(path for path in (ROOT / "docs" / "decisions").glob("*.md") if path.name != "README.md")


@pytest.mark.parametrize("pages", [FINDINGS, DECISIONS], ids=["findings", "decisions"])
def test_indexes_are_complete(pages: list[Path]) -> None:
    index = (pages[0].parent / "README.md").read_text()
    assert sorted(re.findall(r"^\| \[[^\]]+\]\((\S+)\)", index, re.MULTILINE)) == [page.name for page in pages]


@pytest.mark.parametrize("script", FINDINGS, ids=lambda script: script.stem)
def test_findings_stand_alone(script: Path) -> None:
    """Who has only the script can run it, reads first what it is about, and needs nothing of ours."""
    text = script.read_text()
    assert os.access(script, os.X_OK)
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert "cryprq" not in text.lower()
    assert "\nset -euo pipefail\n" in text


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_decisions_have_all_their_parts(page: Path) -> None:
    text = page.read_text()
    parts = [text.find(part) for part in ("# ", "**Question.**", "**Decision.**", "## What else was considered")]
    parts += [text.find(part) for part in ("## What it costs", "## When to think again")]
    assert -1 not in parts
    assert parts == sorted(parts)
