"""``cryprq``: makes identities, asks a running node, and measures the machine."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from cryprq import version
from cryprq.cli import admin_client, deploy, doctor, import_command, invite, peer, run_program
from cryprq.config.command_line import OneLineParser
from cryprq.config.paths import DEFAULT_CONFIG, DEFAULT_TUN_NAME, default_control_socket, default_identity
from cryprq.errors import ConfigError, MachineError
from cryprq.peer_id import SIGNATURE_NAMES

PROGRAM = "cryprq"
PATIENCE: Final = 15
"""Seconds that a tunnel may take to come up before the user is told that it has not."""
_WAIT_HELP: Final = f"seconds that the tunnel may take to come up [{PATIENCE}]"
REGISTRARS = (import_command.register, deploy.register)
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
        from cryprq.config.identity_file import create_identity  # what asks a node need not wait for cryptography

        kind = next(number for number, name in SIGNATURE_NAMES.items() if name == arguments.signature)
        print(create_identity(_identity_path(arguments.out, "--out"), kind).peer_id)
    elif arguments.command == "genpsk":
        from cryprq.config.psk_file import create_psk, generate

        if arguments.out is None:
            print(generate())
        else:
            create_psk(Path(arguments.out))
    elif arguments.command == "id":
        from cryprq.config.identity_file import load_identity

        print(load_identity(_identity_path(arguments.file, "FILE")).peer_id)
    elif arguments.command == "status":
        from cryprq.cli.status import show

        show(_socket_path(arguments), json_form=arguments.json, every=arguments.watch)
    elif arguments.command == "doctor":
        return doctor.run(arguments, _socket_path(arguments), _tun_name(arguments))
    elif arguments.command == "events":
        from cryprq.cli.events import follow

        follow(_socket_path(arguments))
    elif arguments.command == "top":
        _top(arguments)
    elif arguments.command == "peer":
        peer.run(arguments, _socket_path(arguments), _tun_name(arguments))
    elif arguments.command == "invite":
        invite.run(arguments, _socket_path(arguments))
    elif arguments.command == "join":
        from cryprq.cli import join

        print(join.run(arguments, _tun_name(arguments)))
    elif arguments.command == "up":
        from cryprq.cli import up

        print(up.run(arguments))
    elif arguments.command == "bench":
        _bench(arguments)
    elif arguments.command == "down":
        from cryprq.cli.down import down  # which knows the kernel: what asks a node need not wait for that

        print(down(_socket_path(arguments), _tun_name(arguments)))
    else:
        _rotate(arguments)
    return 0


def _top(arguments: argparse.Namespace) -> None:
    try:
        from cryprq.cli import top
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("rich", "textual"):
            raise
        raise MachineError(
            "cryprq top needs Textual: pip install 'cryprq[top]'; cryprq status --watch does not"
        ) from None
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise MachineError("cryprq top needs a terminal; cryprq events and cryprq status --json are for programs")
    top.run(_socket_path(arguments), arguments.every)


def _rotate(arguments: argparse.Namespace) -> None:
    word = arguments.peer
    started = admin_client.request(_socket_path(arguments), "rotate", **({} if word is None else {"peer": word}))
    called = f" ({word})" if word is not None and [word] != started else ""
    print("\n".join(f"rotation started with {peer_id}{called}" for peer_id in started) or "no peer has a session")


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
    signatures = list(SIGNATURE_NAMES.values())
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
    peer.add_commands(commands)
    invite.add_command(commands)
    join = commands.add_parser(
        "join", help="become a peer of a gateway, by the token that `cryprq invite` printed there"
    )
    join.add_argument("token", metavar="TOKEN", help="the token, or - to read it from standard input")
    join.add_argument("--config", metavar="FILE", help=f"the configuration to write [{DEFAULT_CONFIG}]")
    join.add_argument(
        "--identity", metavar="FILE", help="this host's identity, made if it is not there [CRYPRQ_IDENTITY]"
    )
    join.add_argument("--tun-name", metavar="NAME", help="name of the TUN device [CRYPRQ_TUN_NAME]")
    join.add_argument("--no-start", action="store_true", help="write the files, and leave it to you to start the node")
    up = commands.add_parser("up", help="start the node in the background, and wait until its tunnel is up")
    up.add_argument("--config", metavar="FILE", help=f"its configuration [CRYPRQ_CONFIG, {DEFAULT_CONFIG}]")
    for command in (join, up):
        command.add_argument("--wait", metavar="SECONDS", type=_seconds, default=PATIENCE, help=_WAIT_HELP)
    status = commands.add_parser("status", help="show the running node, and who may connect to it or is connected")
    status.add_argument("--json", action="store_true", help="as JSON (docs/status.schema.json)")
    status.add_argument(
        "--watch", metavar="SECONDS", nargs="?", const=2.0, type=_seconds, help="again and again, every 2 seconds"
    )
    doctor.add_command(commands)
    events = commands.add_parser("events", help="print what happens, a JSON object a line, until the node stops")
    top = commands.add_parser("top", help="peers and their traffic, live (needs cryprq[top])")
    top.add_argument("--every", metavar="SECONDS", type=_seconds, default=1.0, help="how often it looks (1)")
    rotate = commands.add_parser("rotate", help="rotate the keys with one peer, or with all")
    rotate.add_argument("peer", metavar="PEER", nargs="?", help="a name, a peer ID, or the beginning of one")
    stop = commands.add_parser("down", help="stop the node for good, and lift its kill switch")
    bench = commands.add_parser("bench", help="what this machine can do: cipher back ends and a tunnel in memory")
    bench.add_argument("--json", action="store_true", help="as JSON")
    for command in (status, events, top, rotate, stop):
        command.add_argument("--control-socket", metavar="PATH", help="the node's socket [CRYPRQ_CONTROL_SOCKET]")
        command.add_argument("--tun-name", metavar="NAME", help="the node by its TUN device [CRYPRQ_TUN_NAME]")
    for register in REGISTRARS:
        register(commands)
    return parser


def _commands() -> list[str]:
    """The names of all commands."""
    return [name for action in command_parser()._actions if action.dest == "command" for name in action.choices or ()]


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds") from None
    if not 0.2 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text} seconds are not between 0.2 and 3600")
    return seconds


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
