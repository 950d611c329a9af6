"""``cryprq``: makes identities, asks a running node, and measures the machine."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from cryprq import version
from cryprq.cli import admin_client, deploy, import_wireguard, run_program
from cryprq.cli.down import down
from cryprq.cli.status import render
from cryprq.config.command_line import OneLineParser
from cryprq.config.identity_file import create_identity, load_identity
from cryprq.config.node_config import DEFAULT_TUN_NAME
from cryprq.config.paths import default_control_socket, default_identity
from cryprq.config.psk_file import create_psk, generate
from cryprq.errors import ConfigError, MachineError
from cryprq.peer_id import PeerId
from cryprq.protocol.identity import KINDS

PROGRAM = "cryprq"
REGISTRARS = (import_wireguard.register, deploy.register)
"""Commands that are files of their own: each adds its parser, with the function that runs it under ``run``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    return run_program(PROGRAM, lambda: _run(arguments))


def _run(argv: Sequence[str]) -> int:
    arguments = command_parser().parse_args(argv)
    if arguments.version:
        print(version.describe(PROGRAM))
    elif arguments.command is None:
        raise ConfigError(f"nothing to do: give {', '.join(_commands())}; see cryprq --help")
    elif "run" in arguments:
        run: Callable[[argparse.Namespace], int] = arguments.run
        return run(arguments)
    elif arguments.command == "keygen":
        kind = next(kind.number for kind in KINDS.values() if kind.signature == arguments.signature)
        print(create_identity(_identity_path(arguments.out, "--out"), kind).peer_id)
    elif arguments.command == "genpsk":
        if arguments.out is None:
            print(generate())
        else:
            create_psk(Path(arguments.out))
    elif arguments.command == "id":
        print(load_identity(_identity_path(arguments.file, "FILE")).peer_id)
    elif arguments.command == "status":
        answer = admin_client.request(_socket_path(arguments), "status")
        print(json.dumps(answer, indent=2) if arguments.json else render(answer))
    elif arguments.command == "bench":
        _bench(arguments)
    elif arguments.command == "down":
        print(down(_socket_path(arguments), _tun_name(arguments)))
    else:
        _rotate(arguments)
    return 0


def _rotate(arguments: argparse.Namespace) -> None:
    peer = {}
    if arguments.peer is not None:
        try:
            peer = {"peer": str(PeerId.parse(arguments.peer))}
        except ValueError as error:
            raise ConfigError(str(error)) from None
    started = admin_client.request(_socket_path(arguments), "rotate", **peer)
    print("\n".join(f"rotation started with {name}" for name in started) or "no peer has a session")


def _bench(arguments: argparse.Namespace) -> None:
    from cryprq._fastpath import PlaneError  # the compiled data plane is nothing that the other commands need
    from cryprq.cli import bench

    try:
        results = bench.run()
    except PlaneError as error:
        raise MachineError(str(error)) from None
    print(json.dumps(results, indent=2) if arguments.json else bench.render(results))


def command_parser() -> OneLineParser:
    """The parser of ``cryprq``, with all commands."""
    parser = OneLineParser(
        prog=PROGRAM, description="Makes CrypRQ identities, asks a running node, measures this machine."
    )
    parser.add_argument("--version", action="store_true", help="print version and build and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    keygen = commands.add_parser("keygen", help="make an identity file and print its peer ID")
    keygen.add_argument("--out", metavar="FILE", help="where; by default where cryprq-node looks for it")
    signatures = [kind.signature for kind in KINDS.values()]
    keygen.add_argument(
        "--signature",
        metavar="|".join(signatures),
        choices=signatures,
        default=signatures[0],
        help=f"what it signs with, beside Ed25519 ({signatures[0]})",
    )
    genpsk = commands.add_parser("genpsk", help="make a key that two peers share, beside all others (--psk-file)")
    genpsk.add_argument("--out", metavar="FILE", help="a new file, for its owner only; else it is printed")
    identity = commands.add_parser("id", help="print the peer ID of an identity file")
    identity.add_argument("file", metavar="FILE", nargs="?", help="by default where cryprq-node looks for it")
    show = commands.add_parser("status", help="show the running node and its peers")
    show.add_argument("--json", action="store_true", help="as JSON")
    rotate = commands.add_parser("rotate", help="rotate the keys with one peer, or with all")
    rotate.add_argument("peer", metavar="PEER", nargs="?", help="a peer ID")
    stop = commands.add_parser("down", help="stop the node for good, and lift its kill switch")
    bench = commands.add_parser("bench", help="what this machine can do: cipher back ends and a tunnel in memory")
    bench.add_argument("--json", action="store_true", help="as JSON")
    for command in (show, rotate, stop):
        command.add_argument("--control-socket", metavar="PATH", help="the node's socket [CRYPRQ_CONTROL_SOCKET]")
        command.add_argument("--tun-name", metavar="NAME", help="the node by its TUN device [CRYPRQ_TUN_NAME]")
    for register in REGISTRARS:
        register(commands)
    return parser


def _commands() -> list[str]:
    """The names of all commands."""
    return [name for action in command_parser()._actions if action.dest == "command" for name in action.choices or ()]


def _identity_path(given: str | None, flag: str) -> Path:
    if given == "":
        raise ConfigError(f"{flag} is empty")
    text = given or os.environ.get("CRYPRQ_IDENTITY")
    return Path(text) if text else default_identity(os.environ)


def _socket_path(arguments: argparse.Namespace) -> Path:
    """A flag beats the environment, and a socket beats a TUN's name."""
    if arguments.control_socket:
        return Path(arguments.control_socket)
    if not arguments.tun_name and (path := os.environ.get("CRYPRQ_CONTROL_SOCKET")):
        return Path(path)
    return default_control_socket(os.environ, _tun_name(arguments))


def _tun_name(arguments: argparse.Namespace) -> str:
    return arguments.tun_name or os.environ.get("CRYPRQ_TUN_NAME") or DEFAULT_TUN_NAME
