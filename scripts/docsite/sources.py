"""What the site is made of: the pages as they lie in the repository, with what they link to, in a folder of their own.

The folder is laid out like the repository, so that a relative link leads to the same place on a forge and on the site.
"""

import re
import shutil
import urllib.parse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from docsite import diagrams, reference

_TOP: Final = ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "findings/README.md")
"""Pages outside of ``docs/``."""
_LINK: Final = re.compile(r"\]\(([^()\s#]+)(?:#[^()\s]*)?\)")

NAVIGATION: Final[Mapping[str, tuple[str, ...]]] = {
    "Guides": (
        "guides/install",
        "guides/site-to-site",
        "guides/road-warrior",
        "guides/docker",
        "guides/from-wireguard",
    ),
    "Running it": ("operations", "troubleshooting", "debugging", "security", "performance", "python-api"),
    "Reference": ("reference/README", "protocol", "states", "glossary"),
    "The project": (
        "/README",
        "/CHANGELOG",
        "/CONTRIBUTING",
        "/SECURITY",
        "architecture",
        "decisions/README",
        "model/README",
        "/findings/README",
    ),
}
"""The menu, from ``docs/``. A page that no menu has is an error of the build."""


def stage(root: Path, target: Path) -> None:
    """Puts all of it into an empty folder. That a page links to what is not there is for the build to say."""
    names = [*_TOP, *(str(path.relative_to(root)) for path in sorted((root / "docs").rglob("*.md")))]
    for name in names:
        text = (root / name).read_text()
        _write(target / name, diagrams.replaced(text))
        for linked in _linked(root / name, text):
            _copy(root, linked, target)
    for name, text in reference.pages().items():
        _write(target / "docs" / "reference" / name, text)
    _append(target / "docs/index.md", "\n".join(_menu(title, pages) for title, pages in NAVIGATION.items()))
    written = tuple(Path(name).stem for name in reference.pages())
    _append(target / "docs/reference/README.md", _menu(None, written, hidden=False))
    decisions = sorted(path.stem for path in (root / "docs/decisions").glob("*.md") if path.stem != "README")
    _append(target / "docs/decisions/README.md", _menu(None, tuple(decisions)))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _append(path: Path, text: str) -> None:
    path.write_text(f"{path.read_text()}\n{text}")


def _menu(title: str | None, pages: tuple[str, ...], *, hidden: bool = True) -> str:
    """Pages below the one that has this; hidden: in the menu alone."""
    options = [*([":hidden:"] if hidden else [":maxdepth: 1"]), *([f":caption: {title}"] if title else [])]
    return "\n".join(["```{toctree}", *options, "", *pages, "```"]) + "\n"


def _linked(page: Path, text: str) -> Iterator[Path]:
    """The files that the page links to and that are no pages."""
    for target in _LINK.findall(text):
        path = (page.parent / urllib.parse.unquote(target)).resolve()
        if not urllib.parse.urlsplit(target).scheme and path.is_file() and path.suffix != ".md":
            yield path


def _copy(root: Path, path: Path, target: Path) -> None:
    to = target / path.relative_to(root.resolve())
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, to)
