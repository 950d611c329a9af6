"""The documentation site can be built: of this checkout without a fault, and of one with a fault not at all."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lab import ROOT

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("sphinx") is None, reason="no Sphinx: pip install 'cryprq[docs]'"),
    pytest.mark.skipif(shutil.which("dot") is None, reason="no dot (package graphviz)"),
]

SMALL = {
    "README.md": "# README\n",
    "CHANGELOG.md": "# Changes\n",
    "CONTRIBUTING.md": "# Contributing\n",
    "SECURITY.md": "# Security\n",
    "findings/README.md": "# Findings\n",
    "docs/operations.md": "# Operations\n## Observability\n## Names, and a file for each peer\n",
    "docs/debugging.md": "# Debugging\n## A session in the log\n",
    "docs/decisions/README.md": "# Decisions\n",
    "docs/decisions/one.md": "# One\n",
    "docs/reference/README.md": "# Reference\n",
    "docs/model/README.md": "# Models\n",
}
"""A checkout with next to nothing in it: what the build and the reference name."""


def make(root: Path, output: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "make_docs.py"), "--root", str(root), "--output", str(output)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    menu = [
        "troubleshooting",
        "security",
        "performance",
        "python-api",
        "protocol",
        "states",
        "glossary",
        "architecture",
    ]
    guides = ["install", "site-to-site", "road-warrior", "docker", "from-wireguard"]
    pages = {f"docs/{name}.md": f"# {name}\n" for name in (*menu, *(f"guides/{name}" for name in guides))}
    for name, text in {**pages, **SMALL, "docs/index.md": "# Index\n\n[a page](states.md#states)\n"}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_site_of_this_checkout(tmp_path: Path) -> None:
    done = make(ROOT, tmp_path / "site")
    assert (done.returncode, done.stderr) == (0, "")
    site = tmp_path / "site"
    for page in ("index", "docs/index", "docs/guides/site-to-site", "docs/reference/cryprq-node", "README"):
        assert (site / f"{page}.html").is_file(), page
    assert "--tun-address" in (site / "docs/reference/cryprq-node.html").read_text()
    assert "cryprq_current_peers" in (site / "docs/reference/metrics.html").read_text()
    assert "listener_ready" in (site / "docs/reference/events.html").read_text()
    assert (site / "docs/states.html").read_text().count("<object") + len(list(site.rglob("graphviz-*.svg"))) >= 5
    assert (site / "searchindex.js").is_file()


def test_planted_faults_end_the_build(checkout: Path, tmp_path: Path) -> None:
    """All at once, since each build takes some seconds: each is named, and there is no site."""
    planted = {
        "[dead](nowhere.md)": "nowhere.md",
        "[dead](states.md#nothing)": "'nothing'",
        "[dead](../deploy/nowhere.yaml)": "nowhere.yaml",
        "```{no-such-directive}\n```": "no-such-directive",
    }
    with (checkout / "docs" / "index.md").open("a") as index:
        index.write("\n" + "\n\n".join(planted) + "\n")
    (checkout / "docs" / "lost.md").write_text("# A page that no menu has\n")
    done = make(checkout, tmp_path / "site")
    assert done.returncode == 1
    assert [said for said in (*planted.values(), "lost.md") if said not in done.stderr] == []
    assert len(done.stderr.splitlines()) == len(planted) + 1, done.stderr  # and nothing else is wrong
    assert not (tmp_path / "site").exists()


def run(code: str, *arguments: str) -> str:
    """What a few lines print that import the parts of ``make_docs.py``."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT / "scripts", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("planted", "said"),
    [
        ('<a href="other.html#there">good</a> <a href="https://example.org/">elsewhere</a>', ""),
        ('<a href="nowhere.html">dead</a>', "page.html: nowhere.html leads nowhere\n"),
        ('<a href="other.html#nothing">dead</a>', "page.html: other.html#nothing leads nowhere\n"),
        ('<img src="nowhere.svg">', "page.html: nowhere.svg is not there\n"),
        ('<script src="//example.org/a.js"></script>', "page.html: //example.org/a.js is fetched from the network\n"),
    ],
    ids=["good", "page", "anchor", "picture", "network"],
)
def test_output_is_looked_at(tmp_path: Path, planted: str, said: str) -> None:
    (tmp_path / "page.html").write_text(f"<html>{planted}</html>")
    (tmp_path / "other.html").write_text('<h1 id="there">There</h1>')
    code = (
        "import pathlib, sys; from docsite import output; print(*output.faults(pathlib.Path(sys.argv[1])), sep='\\n')"
    )
    assert run(code, str(tmp_path)) == (said or "\n")


def test_diagrams_are_drawn_by_graphviz() -> None:
    lines = '[*] --> A\nA --> B : a label, with 2 words\nB --> [*]\nstate "Long name" as B\nnote right of A : that\n'
    source = run("import sys; from docsite import diagrams; print(diagrams.graph(sys.argv[1]))", lines)
    drawn = subprocess.run(
        ["dot", "-Tplain"], input=source, capture_output=True, text=True, timeout=60, check=True
    ).stdout
    assert {line.split()[1] for line in drawn.splitlines() if line.startswith("node")} == {
        "begin", "end", "A", "B", "note_A",
    }  # fmt: skip
    refused = (
        "import sys; from docsite import diagrams\ntry: diagrams.graph('A ->> B')\nexcept ValueError as e: print(e)"
    )
    assert "A ->> B" in run(refused)
