"""What has been built, as a browser finds it: every link leads somewhere, and nothing comes from the network."""

import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Final

_FETCHED: Final = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}
"""What a browser fetches to show a page, besides what ``link`` names."""


@dataclass
class _Page(HTMLParser):
    ids: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    fetched: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if name := given.get("id"):
            self.ids.add(name)
        if tag == "a" and (target := given.get("href")):
            self.links.append(target)
        if tag == "link" and (target := given.get("href")):
            self.fetched.append(target)
        if tag in _FETCHED and (target := given.get(_FETCHED[tag])):
            self.fetched.append(target)


def faults(site: Path) -> list[str]:
    """What is wrong with a site, a line each."""
    pages = {path.resolve(): _read(path) for path in sorted(site.rglob("*.html"))}
    return [f"{path.relative_to(site.resolve())}: {fault}" for path in pages for fault in _of(path, pages)]


def _read(path: Path) -> _Page:
    page = _Page()
    page.feed(path.read_text())
    return page


def _of(path: Path, pages: dict[Path, _Page]) -> Iterator[str]:
    page = pages[path]
    for target in page.fetched:
        if target == "#":
            continue
        if _is_elsewhere(target):
            yield f"{target} is fetched from the network"
        elif not (path.parent / urllib.parse.unquote(urllib.parse.urlsplit(target).path)).is_file():
            yield f"{target} is not there"
    for target in page.links:
        if _is_elsewhere(target) or target == "#":
            continue
        split = urllib.parse.urlsplit(target)
        to = (path.parent / urllib.parse.unquote(split.path)).resolve() if split.path else path
        anchor = urllib.parse.unquote(split.fragment)
        if not to.is_file() or (anchor and to in pages and anchor not in pages[to].ids):
            yield f"{target} leads nowhere"


def _is_elsewhere(target: str) -> bool:
    split = urllib.parse.urlsplit(target)
    return bool(split.scheme or split.netloc) and split.scheme != "data"


def redirect(to: str) -> str:
    """A page that leads on to another one."""
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>CrypRQ</title>'
        f'<meta http-equiv="refresh" content="0; url={to}"><a href="{to}">CrypRQ</a></html>\n'
    )
