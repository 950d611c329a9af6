"""``cryprq peer``: who may connect. Asks the node that runs, and works on its registry itself while none does."""

import argparse
import json
import os
import pwd
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cryprq import expiry
from cryprq.cli import admin_client
from cryprq.config.paths import default_identity, is_credential, state_directory
from cryprq.config.peer_entries import group_name
from cryprq.config.values import narrowed, network
from cryprq.errors import ConfigError, MachineError
from cryprq.peer_name import peer_name

NONE: Final = "none"
"""Takes away what was said of a peer."""


def add_commands(commands: Any) -> None:
    """Declares ``peer`` and what it can do."""
    peer = commands.add_parser("peer", help="who may connect: add, remove, list, show, disable, enable, rename, expire")
    actions = peer.add_subparsers(dest="action", metavar="ACTION", required=True)
    add = actions.add_parser("add", help="let a peer connect")
    add.add_argument("peer", metavar="ID", help="its peer ID, as `cryprq id` prints it there")
    add.add_argument("--name", metavar="NAME", help="what it is called: letters, digits, hyphens")
    add.add_argument("--networks", metavar="CIDR,...", action="append", help="networks behind it; else an address")
    add.add_argument("--groups", metavar="NAME,...", action="append", help="groups that it is in")
    add.add_argument("--expires", metavar="WHEN", help="24h, 30d, 2027-01-31, never")
    add.add_argument("--psk-file", metavar="FILE", help="the key that it and this node share (cryprq genpsk), or none")
    add.add_argument("--successor", metavar="ID", help="the peer ID that it is about to have, or none")
    add.add_argument("--update", action="store_true", help="change what is known of it already")
    for name, text in (
        ("remove", "forget a peer, and cut it off"),
        ("show", "all that is known of a peer"),
        ("disable", "cut a peer off; it keeps its place and its address"),
        ("enable", "let it connect again"),
        ("rename", "give it another name"),
        ("expire", "when it is to be cut off"),
    ):
        action = actions.add_parser(name, help=text)
        action.add_argument("peer", metavar="PEER", help="a name, a peer ID, or the beginning of one")
        if name == "rename":
            action.add_argument("name", metavar="NAME")
        elif name == "expire":
            action.add_argument("when", metavar="WHEN", help="24h, 30d, 2027-01-31, now, never")
    actions.add_parser("list", help="all peers")
    actions.add_parser("log", help="who has changed what, and when")
    for action in actions.choices.values():
        action.add_argument("--json", action="store_true", help="as JSON")
        action.add_argument("--control-socket", metavar="PATH", help="the node's socket [CRYPRQ_CONTROL_SOCKET]")
        action.add_argument("--tun-name", metavar="NAME", help="the node by its TUN device [CRYPRQ_TUN_NAME]")
        action.add_argument(
            "--identity", metavar="FILE", help="the node's identity: its registry lies beside it [CRYPRQ_IDENTITY]"
        )


def run(arguments: argparse.Namespace, socket_path: Path, tun_name: str) -> None:
    """Carries one out and prints the answer. ConfigError for what makes no sense, MachineError for what cannot be."""
    request = _request(arguments)
    try:
        answer = admin_client.request(socket_path, "peer", **request)
    except admin_client.NoNode:
        import asyncio

        answer = asyncio.run(_by_hand(_registry(arguments, tun_name), request))
        if arguments.action in ("list", "show"):
            print("no node runs: this is its registry, without its configuration", file=sys.stderr)
    print(json.dumps(answer, indent=2) if arguments.json else _render(arguments, answer))


def _request(arguments: argparse.Namespace) -> dict[str, Any]:
    request: dict[str, Any] = {"do": arguments.action}
    if "peer" in arguments:
        request["peer"] = arguments.peer
    try:
        if getattr(arguments, "name", None) is not None:
            request["name"] = peer_name(arguments.name)
        if arguments.action == "add":
            request["update"] = arguments.update
            if arguments.networks is not None:
                request["networks"] = networks_of(_words(arguments.networks))
            if arguments.groups is not None:
                request["groups"] = [group_name(word) for word in _words(arguments.groups)]
            if arguments.expires is not None:
                request["expires"] = expiry.parse(arguments.expires, time.time())
            if arguments.psk_file is not None:
                request["psk_file"] = _psk_file(arguments.psk_file)
            if arguments.successor is not None:
                request["successor"] = None if arguments.successor == NONE else arguments.successor
        elif arguments.action == "expire":
            request["expires"] = expiry.parse(arguments.when, time.time())
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return request


def _psk_file(text: str) -> str | None:
    """As the node is told it, which has another working directory."""
    if not text:
        raise ValueError(f"--psk-file is empty; {NONE} takes the key away")
    return None if text == NONE else os.path.abspath(text)


def networks_of(words: Sequence[str]) -> list[str]:
    """The networks that are meant, and a line on stderr about each that is written with the address of a host in it (as
    a node tells it of its options). ValueError for what is none."""
    found = [str(network(word)) for word in words]
    for word in words:
        if (meant := narrowed(word)) is not None:
            print(f"--networks: {word} is an address in {meant}, which is taken as a whole", file=sys.stderr)
    return found


def _words(given: Sequence[str]) -> list[str]:
    return [word.strip() for text in given for word in text.split(",") if word.strip()]


def _registry(arguments: argparse.Namespace, tun_name: str) -> Path:
    from cryprq.registry.sqlite import registry_path

    environ = os.environ
    text = arguments.identity or environ.get("CRYPRQ_IDENTITY")
    identity = Path(text) if text else default_identity(environ)
    directory = state_directory(environ) if is_credential(identity, environ) else None
    path = registry_path(identity, tun_name, directory)
    try:
        there = path.parent.is_dir()
    except OSError as error:
        raise MachineError(f"cannot look into {path.parent}: {error.strerror}; use the node's user or root") from None
    if not there:
        raise ConfigError(f"no node runs, and there is no {path.parent} for its registry: give --identity FILE")
    return path


async def _by_hand(path: Path, request: Mapping[str, Any]) -> Any:
    """Straight on the store: SQLite keeps two of them apart, and a node that runs behind another socket notices."""
    from cryprq.config.psk_file import check_psk
    from cryprq.registry.commands import Desk
    from cryprq.registry.fleet import Fleet
    from cryprq.registry.sqlite import SqliteStore

    fleet = Fleet(SqliteStore(path), clock=time.time)
    try:
        await fleet.start()
        desk = Desk(fleet, now=time.time(), who=f"{_user()} by cryprq peer", check_psk=check_psk)
        return await desk.answer(request)
    finally:
        await fleet.close()


def _user() -> str:
    uid = os.getuid()
    try:
        return f"{pwd.getpwuid(uid).pw_name} (uid {uid})"
    except KeyError:
        return f"uid {uid}"


# ---- for people ----


def _render(arguments: argparse.Namespace, answer: Any) -> str:
    match arguments.action:
        case "list":
            return _table(answer)
        case "show":
            return _sheet(answer)
        case "log":
            return "\n".join(f"{expiry.show(line['at'])}  {line['who']}: {line['did']}" for line in answer)
    did = {"add": "may connect", "remove": "is removed", "disable": "is disabled", "enable": "is enabled"}
    what = did.get(arguments.action)
    if arguments.action == "rename":
        what = "has its name"
    elif arguments.action == "expire" or (what == "may connect" and not answer["permitted"]):
        what = f"expires: {expiry.show(answer['expires'])}"
    return f"{_called(answer)} {what}"


def _called(row: Mapping[str, Any]) -> str:
    return f"{row['name']} ({row['peer_id']})" if row["name"] else str(row["peer_id"])


def _state(row: Mapping[str, Any]) -> str:
    if row["disabled"]:
        return "disabled"
    return "allowed" if row["permitted"] else "expired"


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "no peers; `cryprq peer add ID --name NAME` lets one connect"
    head = ("NAME", "ID", "NETWORKS", "STATE", "EXPIRES", "SOURCE")
    lines = [
        (
            row["name"] or "-",
            f"{row['peer_id'][:10]}..",
            _networks(row),
            _state(row),
            expiry.show(row["expires"]).partition(" ")[0],
            row["source"],
        )
        for row in sorted(rows, key=lambda row: (not row["name"], row["name"], row["peer_id"]))
    ]
    widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *lines)
    )


def _networks(row: Mapping[str, Any]) -> str:
    """The first of them, and how many more there are."""
    all_of_them = row["networks"] or row["addresses"]
    if not all_of_them:
        return "-"
    more = len(all_of_them) - 1
    return f"{all_of_them[0]} +{more}" if more else str(all_of_them[0])


def _sheet(row: Mapping[str, Any]) -> str:
    stands = f"{row['source']}{' (' + row['origin'] + ')' if row['origin'] else ''}"
    lines = {
        "peer ID": row["peer_id"],
        "name": row["name"],
        "state": _state(row),
        "networks": ", ".join(row["networks"]),
        "address": ", ".join(row["addresses"]),
        "groups": ", ".join(row["groups"]),
        "expires": expiry.show(row["expires"]),
        "dialled": "yes" if row["dialled"] else "",
        "key": f"shared, in {row['psk_file']}" if row.get("psk_file") else "",
        "successor": row.get("successor") or "",
        "added by": row["invited_by"],
        "source": stands,
    }
    return "\n".join(f"{name + ':':<10} {value}" for name, value in lines.items() if value)
