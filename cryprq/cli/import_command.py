"""What `cryprq import` takes. What it does is loaded when it is asked for: other commands need not wait for that."""

import argparse
from typing import Any


def register(commands: "argparse._SubParsersAction[Any]") -> None:
    """Adds the command to those of ``cryprq``."""
    imports = commands.add_parser("import", help="turn another program's configuration into ours")
    formats = imports.add_subparsers(dest="format", metavar="FORMAT", required=True)
    wireguard = formats.add_parser("wireguard", help="a file of wg-quick; what could not be carried over is said")
    wireguard.add_argument("file", metavar="FILE", help="such as /etc/wireguard/wg0.conf")
    wireguard.add_argument(
        "--out", metavar="FILE", help="a new file, with pre-shared keys in files beside it; else it is printed"
    )
    wireguard.add_argument(
        "--id",
        metavar="NAME=ID",
        action="append",
        default=[],
        help="the ID of a peer, by the name that it gets, or by its public key; repeatable",
    )
    wireguard.set_defaults(run=_wireguard)


def _wireguard(arguments: argparse.Namespace) -> int:
    from cryprq.cli.import_wireguard import run

    return run(arguments)
