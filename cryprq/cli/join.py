"""``cryprq join``: makes a host a peer of the gateway that has invited it, in one step."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from cryprq.cli.up import start
from cryprq.config.identity_file import create_identity, is_there, load_identity
from cryprq.config.invitation_file import forget_invitation, keep_invitation
from cryprq.config.paths import DEFAULT_CONFIG, default_identity
from cryprq.config.private_file import remedy, write_new
from cryprq.errors import ConfigError, MachineError
from cryprq.peer_id import KIND_MLDSA65
from cryprq.protocol.invitation import Token


def run(arguments: argparse.Namespace, tun_name: str) -> str:
    """Joins, and returns what is to be said. ConfigError for a token that is none, MachineError for what cannot be
    done: then nothing is left that was not there before."""
    token = _token(arguments.token)
    config = Path(arguments.config) if arguments.config else DEFAULT_CONFIG
    given = arguments.identity or os.environ.get("CRYPRQ_IDENTITY")
    identity = Path(given) if given else default_identity(os.environ)
    if os.path.lexists(config):
        raise MachineError(f"{config} is there already: name another file with --config, or move it away")
    peer_id, made = _identity(identity)
    if peer_id == token.responder:
        raise MachineError(f"this host is the one that invites: {peer_id} is its own peer ID")
    invitation = identity.with_name(f"{identity.name}.invitation")
    try:
        keep_invitation(invitation, token)
        try:
            _write(config, _configuration(token, identity, invitation, tun_name))
        except BaseException:
            forget_invitation(invitation)
            raise
    except BaseException:
        if made:
            identity.unlink(missing_ok=True)
        raise
    told = f"this host is {peer_id}; its configuration is {config}"
    if arguments.no_start:
        return f"{told}; start it with: cryprq up --config {config}"
    print(told, file=sys.stderr)
    return start(config, arguments.wait)


def _token(text: str) -> Token:
    if text == "-":
        text = sys.stdin.readline()
    try:
        return Token.parse(text)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _identity(path: Path) -> tuple[Any, bool]:
    """The peer ID of the identity there, and whether it was made for this."""
    if is_there(path):
        return load_identity(path).peer_id, False
    _make_directory(path.parent, 0o700)
    return create_identity(path, KIND_MLDSA65).peer_id, True


def _make_directory(path: Path, mode: int) -> None:
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"cannot make the directory {path}: {error.strerror}{remedy(error)}") from None


def _write(path: Path, text: str) -> None:
    _make_directory(path.parent, 0o755)
    try:
        write_new(path, text.encode())
        path.chmod(0o644)  # no secret is in it, and the service's user reads it (deploy/cryprq-node.service)
    except OSError as error:
        raise MachineError(f"cannot write {path}: {error.strerror}{remedy(error)}") from None


def _configuration(token: Token, identity: Path, invitation: Path, tun_name: str) -> str:
    """TOML. The gateway says the rest: addresses, routes, name servers."""
    peers = [f"{address}/p2p/{token.responder}" for address in token.addresses]
    lines = [
        "# Written by cryprq join. `cryprq-node --help` lists what else there is.",
        "peer = [",
        *(f'    "{peer}",' for peer in peers),
        "]",
        f"identity = {_quoted(identity.absolute())}",
        f"invitation-file = {_quoted(invitation.absolute())}  # deleted when it has been used",
        f"tun-name = {_quoted(tun_name)}",
    ]
    return "\n".join(lines) + "\n"


def _quoted(value: object) -> str:
    """A basic string of TOML."""
    text = str(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
