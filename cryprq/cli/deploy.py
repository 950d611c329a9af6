"""``cryprq deploy --print NAME``: the files of ``deploy/`` that go with a node, for whoever has no checkout."""

import argparse
from pathlib import Path
from typing import Any, Final

from cryprq.errors import MachineError

FILES: Final = {
    "unit": "cryprq-node.service",
    "rules": "prometheus/cryprq.rules.yml",
    "dashboard": "grafana/cryprq.json",
    "compose": "compose.yaml",
}
"""What can be printed, and the name below ``deploy/``."""
_INSTALLED: Final = Path(__file__).resolve().parent / "deployed"
"""Where a wheel has them (``setup.py``)."""
_CHECKOUT: Final = Path(__file__).resolve().parents[2] / "deploy"


def register(commands: "argparse._SubParsersAction[Any]") -> None:
    """Adds the command to those of ``cryprq``."""
    command = commands.add_parser("deploy", help="print what goes with a node: systemd unit, alert rules, dashboard")
    command.add_argument(
        "--print",
        dest="what",
        metavar="|".join(FILES),
        choices=tuple(FILES),
        required=True,
        help="the systemd unit, Prometheus' rules, Grafana's dashboard, or the file of Docker Compose",
    )
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    print(text(arguments.what), end="")
    return 0


def text(what: str) -> str:
    """The file of that name. MachineError if the installation lacks it."""
    folder = _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT
    try:
        return (folder / FILES[what]).read_text()
    except OSError as error:
        raise MachineError(
            f"this installation lacks {folder / FILES[what]}: {error.strerror}; install it again"
        ) from None
