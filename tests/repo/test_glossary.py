"""docs/glossary.md: in order, short, and about what is there."""

import re

from lab import ROOT

ENTRIES = (ROOT / "docs" / "glossary.md").read_text().split("\n- ")[1:]
PLACE = re.compile(r"\((?:`([\w. ]+)`, )?`([\w/.-]+)`(?:, `([\w/.-]+)`)?\)")
"""In parentheses: perhaps a name, and the file or files that have it."""


def test_entries_are_in_order_and_have_two_lines_at_most() -> None:
    words = [re.findall(r"\*\*(.+?)\*\*", entry)[0].lower() for entry in ENTRIES]
    assert len(words) > 80
    assert words == sorted(words)
    assert [entry for entry in ENTRIES if entry.strip().count("\n") > 1] == []


def test_names_are_in_the_files_that_are_named() -> None:
    wrong = []
    for entry in ENTRIES:
        for name, *files in PLACE.findall(entry):
            for file in filter(None, files):
                path = ROOT / file
                if not path.is_file() or name.rpartition(".")[2] not in path.read_text():
                    wrong.append((name, file))
    assert wrong == []
