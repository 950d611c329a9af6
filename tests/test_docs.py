"""The pages of the repository hang together: links lead somewhere, and each finding and decision is in its index."""

import os
import re
from pathlib import Path

import pytest
from netns import ROOT

PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "findings").glob("*.md")])
FINDINGS = sorted((ROOT / "findings").glob("*.sh"))


def prose(page: Path) -> str:
    """Without blocks of code, in which brackets mean other things."""
    return re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """Of the headings, as forges make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        to = page.parent / name if name else page
        assert to.exists(), target
        assert not anchor or anchor in anchors(to), target


def test_indexes_are_complete() -> None:
    for folder, pattern in (("docs/decisions", "*.md"), ("findings", "*.sh")):
        names = sorted(path.name for path in (ROOT / folder).glob(pattern) if path.name != "README.md")
        assert names
        assert sorted(re.findall(r"^\| \[.*?\]\((\S+)\)", (ROOT / folder / "README.md").read_text(), re.M)) == names


@pytest.mark.parametrize("script", FINDINGS, ids=lambda script: script.stem)
def test_findings_stand_alone(script: Path) -> None:
    """Somebody who has only the script can run it, and sees what it is about."""
    text = script.read_text()
    assert os.access(script, os.X_OK)
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert "\n# Seen " in text
    assert "cryprq" not in text.lower()
