"""``--allow-peer ID[=CIDR,CIDR...]``: who may connect, and the networks behind that peer, in every notation."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cryprq.config import values
from cryprq.networks import Network
from cryprq.peer_id import PeerId

Entry = tuple[PeerId, tuple[Network, ...]]
Allowed = Mapping[PeerId, tuple[Network, ...]]

_CIDR_ONLY: Final = re.compile(r"[^=]*[./:][^=]*")  # what no peer ID contains


def parse(text: str) -> Entry:
    """ValueError says what is wrong with it."""
    name, equals, cidrs = text.partition("=")
    if "," in name:
        raise ValueError(f"{name.partition(',')[0]},...: one peer each: give it again for another, or ID=CIDR,CIDR")
    peer = PeerId.parse(name.strip())
    return peer, tuple(values.network(cidr.strip()) for cidr in cidrs.split(",")) if equals else ()


def show(entry: Entry) -> str:
    peer, networks = entry
    return f"{peer}={','.join(map(str, networks))}" if networks else f"{peer} (gets an address)"


def split(text: str) -> tuple[str, ...]:
    """The entries of a comma separated list. CIDRs after ``ID=CIDR,`` belong to that ID."""
    entries: list[str] = []
    for item in values.comma_list(text):
        if entries and "=" in entries[-1] and _CIDR_ONLY.fullmatch(item):
            entries[-1] += f",{item}"
        else:
            entries.append(item)
    return tuple(entries)


def from_table(peer: str, networks: object, _: Path) -> str:
    """The entry ``ID = ["CIDR", ...]`` of a file's table as the flag would spell it."""
    if not isinstance(networks, list) or not all(isinstance(network, str) for network in networks):
        raise ValueError("must be a list of CIDRs, which may be empty")
    return f"{peer}={','.join(networks)}" if networks else peer


def collect(entries: Sequence[Entry]) -> Allowed:
    """The entries of one source: what it says about one peer adds up."""
    result: dict[PeerId, tuple[Network, ...]] = {}
    for peer, networks in entries:
        result[peer] = tuple(dict.fromkeys((*result.get(peer, ()), *networks)))
    return result


def join(weaker: Allowed, stronger: Allowed) -> Allowed:
    """Who is allowed by either. Where both give one peer networks, the stronger source counts."""
    return {**weaker, **{peer: networks or weaker.get(peer, ()) for peer, networks in stronger.items()}}
