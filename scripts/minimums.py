"""Prints constraints for pip that hold every runtime dependency at the lowest version that pyproject.toml allows."""

import re
import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"


def main() -> None:
    """One ``name==version`` a line; fails on a dependency without a lower bound."""
    for requirement in tomllib.loads(PROJECT.read_text())["project"]["dependencies"]:
        match = re.match(r"(?P<name>[\w.-]+)>=(?P<version>[\w.]+)", requirement)
        if match is None:
            raise SystemExit(f"{requirement!r} has no lower bound")
        print(f"{match['name']}=={match['version']}")


if __name__ == "__main__":
    main()
