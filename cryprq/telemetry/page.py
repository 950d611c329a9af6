"""The page at ``/`` of ``--metrics-addr``, and ``/status.json``, which it asks every two seconds. It only reads.

Whoever reaches the address sees both, as with ``/metrics``. So the document has what metrics say of a node and its
peers, and figures beside it; addresses and networks inside the tunnel, routes, name servers and groups are not in it. A
page of elsewhere is kept from them: nothing is shared across origins, and a name that somebody else's DNS points here
is refused.
"""

import hashlib
import json
import re
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from ipaddress import ip_address
from typing import Any, Final

from cryprq.telemetry.samples import NodeStatus

FRESH_SECS: Final = 1.0
"""A document is made at most so often, however many ask: with thousands of peers it takes its time."""
NODE_FIELDS: Final = ("version", "time", "peer_id", "tun_name", "uptime_secs", "healthy", "unhealthy", "drops")
PEER_FIELDS: Final = (
    "peer_id",
    "name",
    "barred",
    "connected",
    "direction",
    "endpoint",
    "aead",
    "kem",
    "epoch",
    "epoch_age_secs",
    "silent",
    "path_mtu",
    "round_trip_secs",
    "epoch_arrived",
    "epoch_lost",
    "rx_bytes",
    "tx_bytes",
)
"""What of ``cryprq status --json`` is told here, by name: a new field is not until somebody has thought of it."""

_ELSEWHERE: Final = b"this page answers to an IP address, localhost, or the name that --metrics-addr has\n"
_COMMON: Final = (
    "X-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer\r\nCross-Origin-Resource-Policy: same-origin\r\n"
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What HTTP needs for a response; ``extra`` is further lines of its head."""

    status: HTTPStatus
    body: bytes
    content_type: str
    extra: str = _COMMON


class Page:
    """Answers for the paths of the page."""

    PATHS: Final = ("/", "/status.json")

    def __init__(
        self,
        status: Callable[[], NodeStatus],
        figures: Callable[[], Mapping[str, float]],
        host: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``figures`` of the node go into the document as they are; ``host`` is that of ``--metrics-addr``."""
        self._status = status
        self._figures = figures
        self._host = host.lower()
        self._clock = clock
        self._made = b""
        self._fresh_until = float("-inf")

    def answer(self, path: str, hosts: list[str]) -> Answer:
        """For one of ``PATHS``; ``hosts`` are the values of the request's Host fields, of which there must be one."""
        if len(hosts) != 1 or not self._means_us(hosts[0]):
            return Answer(HTTPStatus.MISDIRECTED_REQUEST, _ELSEWHERE, "text/plain; charset=utf-8")
        if path == "/":
            content, policy = _page()
            return Answer(HTTPStatus.OK, content, "text/html; charset=utf-8", f"{policy}{_COMMON}")
        return Answer(HTTPStatus.OK, self._document(), "application/json")

    def _means_us(self, host: str) -> bool:
        """A browser that was led here by somebody else's name says that name, and thinks this is their site."""
        match = re.fullmatch(r"(?:\[([0-9a-f:.]+)\]|([^:\[\]]+))(?::[0-9]{1,5})?", host.lower())
        if match is None:
            return False
        name = match[1] or match[2].removesuffix(".")
        try:
            ip_address(name)
        except ValueError:
            return name in ("localhost", self._host.removesuffix("."))
        return True

    def _document(self) -> bytes:
        now = self._clock()
        if now >= self._fresh_until:
            document = {**as_public(self._status()), **self._figures()}
            self._made = json.dumps(document, separators=(",", ":")).encode()
            self._fresh_until = now + FRESH_SECS
        return self._made


def as_public(status: NodeStatus) -> dict[str, Any]:
    """The part of a status that everybody may know who reaches ``--metrics-addr``."""
    node = {name: getattr(status, name) for name in NODE_FIELDS}
    return {**node, "peers": [{name: getattr(peer, name) for name in PEER_FIELDS} for peer in status.peers]}


@cache
def _page() -> tuple[bytes, str]:
    """The page and the line with its policy: this script and this style run, and nothing comes from elsewhere."""
    content = files(__package__).joinpath("page.html").read_bytes()
    hashes = {tag: _hash_of(content, tag) for tag in (b"style", b"script")}
    policy = (
        f"default-src 'none'; script-src {hashes[b'script']}; style-src {hashes[b'style']}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    return content, f"Content-Security-Policy: {policy}\r\n"


def _hash_of(content: bytes, tag: bytes) -> str:
    text = content.split(b"<%s>" % tag)[1].split(b"</%s>" % tag)[0]
    return f"'sha256-{b64encode(hashlib.sha256(text).digest()).decode()}'"
