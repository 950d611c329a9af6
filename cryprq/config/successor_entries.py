"""``--successor OLD=NEW``: the peer ID that an allowed peer is about to have, in every notation."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from cryprq.config import values
from cryprq.config.allow_entries import Allowed
from cryprq.config.psk_file import Files
from cryprq.errors import ConfigError
from cryprq.peer_id import PeerId

Entry = tuple[PeerId, PeerId]
Successors = Mapping[PeerId, PeerId]


def parse(text: str) -> Entry:
    """ValueError says what is wrong with it."""
    old, equals, new = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} names no successor: the form is OLD=NEW")
    return PeerId.parse(old.strip()), PeerId.parse(new.strip())


def show(entry: Entry) -> str:
    old, new = entry
    return f"{old}={new}"


def split(text: str) -> tuple[str, ...]:
    """The entries of a comma separated list."""
    return values.comma_list(text)


def from_table(old: str, new: object, _: Path) -> str:
    """The entry ``OLD = "NEW"`` of a file's table as the flag would spell it."""
    if not isinstance(new, str):
        raise ValueError("must be a peer ID")
    return f"{old}={new}"


def collect(entries: Sequence[Entry]) -> Successors:
    """The entries of one source. ConfigError if a peer is to have two successors."""
    result: dict[PeerId, PeerId] = {}
    for old, new in entries:
        if result.setdefault(old, new) != new:
            raise ConfigError(f"--successor: {old} is given two, {result[old]} and {new}")
    return result


def join(weaker: Successors, stronger: Successors) -> Successors:
    """Both together; for a peer that is in both the stronger source counts."""
    return {**weaker, **stronger}


def inherit(allowed: Allowed, successors: Successors) -> Allowed:
    """The allowlist in which a successor has what its predecessor has. ConfigError for one that can have no such
    thing."""
    for old, new in successors.items():
        if old not in allowed:
            raise ConfigError(f"--successor: {old} is no --allow-peer, so nobody can have its place")
        if new in successors or new == old:
            raise ConfigError(f"--successor: {new} is to have a place and to give it up")
        if list(successors.values()).count(new) > 1:
            raise ConfigError(f"--successor: {new} is given to two peers")
        if allowed.get(new, allowed[old]) != allowed[old]:
            raise ConfigError(f"--successor: {new} is an --allow-peer with other networks than {old}")
    return {**allowed, **{new: allowed[old] for old, new in successors.items()}}


def inherit_keys(files: Files, successors: Successors) -> Files:
    """The pre-shared keys, where a successor without one has that of its predecessor."""
    return {**{new: files[old] for old, new in successors.items() if old in files}, **files}
