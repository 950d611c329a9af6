"""``cryprq invite``: a token for a host that is to become a peer; and which tokens are open."""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from cryprq import expiry
from cryprq.cli import admin_client, qr
from cryprq.cli.peer import networks_of
from cryprq.config.peer_entries import group_name
from cryprq.errors import ConfigError
from cryprq.multiaddr import Multiaddr
from cryprq.peer_name import peer_name

EXPIRES: Final = "24h"


def add_command(commands: Any) -> None:
    """Declares ``invite``."""
    invite = commands.add_parser("invite", help="let a new host join: prints a token for `cryprq join` there")
    what = invite.add_mutually_exclusive_group(required=True)
    what.add_argument("name", metavar="NAME", nargs="?", help="what the new peer will be called")
    what.add_argument("--list", action="store_true", help="invitations that were not used yet")
    what.add_argument("--withdraw", metavar="NAME", help="make an invitation worthless")
    invite.add_argument("--networks", metavar="CIDR,...", action="append", help="networks behind it; else an address")
    invite.add_argument("--groups", metavar="NAME,...", action="append", help="groups that it is in")
    invite.add_argument(
        "--expires", metavar="WHEN", default=EXPIRES, help=f"when the token is worth nothing [{EXPIRES}]"
    )
    invite.add_argument("--peer-expires", metavar="WHEN", help="when the new peer is to be cut off [never]")
    invite.add_argument(
        "--address", metavar="MULTIADDR", action="append", help="where it can dial this node, if not where that listens"
    )
    invite.add_argument("--qr", action="store_true", help="draw the token as a QR code as well")
    invite.add_argument("--json", action="store_true", help="as JSON")
    invite.add_argument("--control-socket", metavar="PATH", help="the node's socket [CRYPRQ_CONTROL_SOCKET]")
    invite.add_argument("--tun-name", metavar="NAME", help="the node by its TUN device [CRYPRQ_TUN_NAME]")


def run(arguments: argparse.Namespace, socket_path: Path) -> None:
    """Carries one out and prints the answer. The node has to run: it knows where it can be dialled."""
    if arguments.qr:
        qr.require()  # before there is a token that nobody sees
    answer = admin_client.request(socket_path, "peer", **_request(arguments, time.time()))
    if arguments.json:
        print(json.dumps(answer, indent=2))
    elif arguments.list:
        print(_table(answer))
    elif arguments.withdraw is not None:
        print(f"the invitation for {answer['name']} is worth nothing any more")
    else:
        print(answer["token"])
        if arguments.qr:
            print(qr.draw(answer["token"]))


def _request(arguments: argparse.Namespace, now: float) -> dict[str, Any]:
    if arguments.list:
        return {"do": "invitations"}
    try:
        if arguments.withdraw is not None:
            return {"do": "withdraw", "name": peer_name(arguments.withdraw)}
        return {
            "do": "invite",
            "name": peer_name(arguments.name),
            "networks": networks_of(_words(arguments.networks)),
            "groups": [group_name(word) for word in _words(arguments.groups)],
            "expires": _soon(arguments.expires, now),
            "peer_expires": expiry.parse(arguments.peer_expires, now) if arguments.peer_expires else None,
            "addresses": [str(Multiaddr.parse(text)) for text in arguments.address or ()],
        }
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _soon(text: str, now: float) -> float:
    when = expiry.parse(text, now)
    if when is None:
        raise ValueError(
            "an invitation expires: whoever finds an old one could still join; --expires 30d is long enough"
        )
    return when


def _words(given: Sequence[str] | None) -> list[str]:
    return [word.strip() for text in given or () for word in text.split(",") if word.strip()]


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "no open invitations; `cryprq invite NAME` makes one"
    head = ("NAME", "EXPIRES", "NETWORKS", "INVITED BY")
    lines = [
        (
            row["name"],
            "expired" if row["expired"] else expiry.show(row["expires"]),
            ", ".join(row["networks"]) or "-",
            row["invited_by"],
        )
        for row in rows
    ]
    widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]
    return "\n".join(
        "  ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *lines)
    )
