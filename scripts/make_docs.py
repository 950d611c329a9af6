"""Builds the documentation site into build/docs (``make docs``).

    .venv/bin/python scripts/make_docs.py [--root DIRECTORY] [--output DIRECTORY]

Exit status 1, with what is wrong, if a page has a mistake or a link that leads nowhere, or if showing one would fetch
anything from the network. What is in the output directory is replaced.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from docsite import output, sources

ROOT: Final = Path(__file__).resolve().parent.parent
_CONF: Final = Path(__file__).resolve().parent / "docsite"
_FIRST: Final = "docs/index.html"


def build(root: Path, target: Path) -> list[str]:
    """Builds the pages of a checkout; what is wrong with them. The site is there only if nothing is."""
    shutil.rmtree(target, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix="cryprq-docs-") as directory:
        staged, made = Path(directory, "pages"), Path(directory, "site")
        try:
            sources.stage(root, staged)
        except (OSError, ValueError) as error:
            return [str(error)]
        command = (sys.executable, "-m", "sphinx", "--fail-on-warning", "--quiet", "--jobs", "auto")
        places = ("-b", "html", "-c", str(_CONF), "-d", str(Path(directory, "read")), str(staged), str(made))
        done = subprocess.run(
            (*command, *places), capture_output=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
        )
        faults = [line.replace(f"{staged}/", "") for line in done.stderr.splitlines() if line.strip()]
        if done.returncode != 0:
            return faults or [f"sphinx ended with {done.returncode}"]
        (made / "index.html").write_text(output.redirect(_FIRST))
        faults += output.faults(made)
        if not faults:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(made, target, ignore=shutil.ignore_patterns(".buildinfo", ".doctrees"))
    return faults


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout [this one]")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "docs", help="where the site goes [build/docs]")
    arguments = parser.parse_args()
    if shutil.which("dot") is None:
        print("make_docs: no dot, which draws the diagrams: install graphviz", file=sys.stderr)
        return 1
    faults = build(arguments.root.resolve(), arguments.output.resolve())
    for fault in faults:
        print(fault, file=sys.stderr)
    if not faults:
        print(f"{arguments.output / 'index.html'}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
