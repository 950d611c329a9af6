"""What Markdown pages point at is there: files, headings, and diagrams that a forge can draw."""

import re
import subprocess
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab import ROOT

TRACKED = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True).stdout.split()
"""Empty outside a checkout, as in an unpacked sdist."""

FENCED = re.compile(r"^(`{3,})(\w*)\n(.*?)^\1$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
INLINE = re.compile(r"\[(?:[^\[\]]|\[[^\]]*\])*\]\(([^()\s]+)\)")
REFERENCE = re.compile(r"^\[[^\]]+\]:\s+(\S+)", re.MULTILINE)

NAME = r"(?:\[\*\]|\w+)"
LABEL = r"[^:;#\n]+"
ARROW = rf"{NAME} --> {NAME}(?: : {LABEL})?"
STATE_DIAGRAM = re.compile(rf"    (?:{ARROW}|state \"{LABEL}\" as \w+|note right of \w+ : {LABEL}|direction (?:LR|TB))")
"""The lines of a state diagram that we use. Mermaid has more, and takes none of these characters in a label."""


def anchors(text: str) -> set[str]:
    """What ``#...`` may name: the headings in lower case, blanks as hyphens, without punctuation; repeated ones have a
    number."""
    found: set[str] = set()
    seen: Counter[str] = Counter()
    for heading in HEADING.findall(FENCED.sub("", text)):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading.strip()).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def links(text: str) -> list[str]:
    """The targets of all links and images; code is none."""
    prose = CODE.sub("", FENCED.sub("", text))
    return [*INLINE.findall(prose), *REFERENCE.findall(prose)]


def broken_links(page: Path) -> Iterator[str]:
    """Those that lead nowhere in this checkout. What is on the network is not looked at."""
    for target in links(page.read_text()):
        if urllib.parse.urlsplit(target).scheme:
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / urllib.parse.unquote(name) if name else page
        if not path.exists() or (anchor and (path.suffix != ".md" or anchor not in anchors(path.read_text()))):
            yield target


def bad_diagrams(text: str) -> Iterator[str]:
    """Lines of Mermaid blocks that are no line of a diagram, and diagrams of another kind."""
    for _, language, body in FENCED.findall(text):
        if language != "mermaid":
            continue
        kind, *lines = body.splitlines()
        if kind != "stateDiagram-v2":
            yield kind
            continue
        for line in lines:
            if not STATE_DIAGRAM.fullmatch(line):
                yield line


@pytest.mark.skipif(not TRACKED, reason="not a git checkout")
def test_links_lead_somewhere() -> None:
    broken = {f"{name}: {target}" for name in TRACKED for target in broken_links(ROOT / name)}
    assert not broken


@pytest.mark.skipif(not TRACKED, reason="not a git checkout")
def test_diagrams_are_diagrams() -> None:
    bad = {f"{name}: {line}" for name in TRACKED for line in bad_diagrams((ROOT / name).read_text())}
    assert not bad


PAGE = """# One page, `a_b` and [more](other.md)
## Twice
## Twice
```sh
# no heading [no link](nowhere.md)
```
[a file](other.md) `[code](nowhere.md)` [here](#twice-1) [there](other.md#its-heading)
![a picture](picture.svg) [elsewhere](https://example.org/nowhere#at-all) [[nested] text](other.md)

[by name]: other.md#its-heading
"""


def test_good_links_and_anchors_pass(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(PAGE)
    (tmp_path / "other.md").write_text("# Its heading\n")
    (tmp_path / "picture.svg").touch()
    assert anchors(PAGE) == {"one-page-a_b-and-more", "twice", "twice-1"}
    assert len(links(PAGE)) == 8
    assert list(broken_links(page)) == []


@pytest.mark.parametrize(
    "target", ["nowhere.md", "#nothing", "other.md#nothing", "other.md#its-heading-1", "picture.svg#a", "../x/"]
)
def test_planted_link_is_seen(tmp_path: Path, target: str) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"{PAGE}[planted]({target})\n")
    (tmp_path / "other.md").write_text("# Its heading\n")
    (tmp_path / "picture.svg").touch()
    assert list(broken_links(page)) == [target]


DIAGRAM = "```mermaid\nstateDiagram-v2\n    [*] --> A\n    A --> B : a label, with 2 words\n{}\n```\n"


@pytest.mark.parametrize("line", ["    A -> B", "    A --> B : it: fails", "    A --> B :", "  A --> B", "    A B"])
def test_planted_line_of_a_diagram_is_seen(line: str) -> None:
    assert list(bad_diagrams(DIAGRAM.format("    B --> [*]"))) == []
    assert list(bad_diagrams(DIAGRAM.format(line))) == [line]
    assert list(bad_diagrams("```mermaid\npie\n```\n")) == ["pie"]
