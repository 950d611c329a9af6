"""Prints the section of the changelog for a version; that of what is unreleased if the version has none yet.

python3 release/notes.py VERSION CHANGELOG.md
"""

import re
import sys
from pathlib import Path


def notes(version: str, changelog: str) -> str:
    """Markdown with the version as its title. ValueError if the changelog has nothing to say about it."""
    sections = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    for wanted in (f"[{version}]", "[Unreleased]"):
        for section in sections:
            heading, _, body = section.partition("\n")
            if heading.startswith(wanted) and body.strip():
                date = heading.removeprefix(wanted).strip(" -")
                return f"# CrypRQ {version}{f', {date}' if date else ''}\n\n{body.strip()}\n"
    raise ValueError(f"the changelog has no section for {version}")


if __name__ == "__main__":
    try:
        sys.stdout.write(notes(sys.argv[1], Path(sys.argv[2]).read_text()))
    except ValueError as error:
        sys.exit(f"release_notes: {error}")
