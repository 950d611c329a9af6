"""What is said of a peer besides its networks: its name, groups, when its time is over, whether it is switched off; in
every notation. Each entry is about one ID."""

import re
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Final, TypeVar

from cryprq import expiry
from cryprq.config import allow_entries, psk_file, successor_entries, values
from cryprq.errors import ConfigError
from cryprq.peer_id import PeerId
from cryprq.peer_name import peer_name

T = TypeVar("T")
Names = Mapping[PeerId, str]
Groups = Mapping[PeerId, tuple[str, ...]]
Expiries = Mapping[PeerId, float]

_ABOUT: Final = {
    "id": "peer-name",
    "networks": "allow-peer",
    "address": "peer",
    "groups": "peer-groups",
    "expires": "peer-expires",
    "disabled": "disable-peer",
    "psk-file": "psk-file",
    "successor": "successor",
}
KEYS: Final = tuple(_ABOUT)
"""Of a peer's table in a file, and the options that they are about."""
_DATE: Final = re.compile(r"[0-9]{4}-?[0-9]")
_GROUPS_FORM: Final = re.compile(r"[^=]*")


# ---- ``--peer-name NAME=ID`` ----


def parse_name(text: str) -> tuple[PeerId, str]:
    """ValueError says what is wrong with it."""
    name, equals, peer = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} names no peer: the form is NAME=ID")
    if _is_id(name.strip()) and not _is_id(peer.strip()):
        raise ValueError(f"{text!r} is the wrong way round: the form is NAME=ID")
    return PeerId.parse(peer.strip()), peer_name(name.strip())


def _is_id(text: str) -> bool:
    try:
        PeerId.parse(text)
    except ValueError:
        return False
    return True


def show_name(entry: tuple[PeerId, str]) -> str:
    peer, name = entry
    return f"{name}={peer}"


def collect_names(entries: Sequence[tuple[PeerId, str]]) -> Names:
    """The entries of one source. ConfigError if a name is given to two peers, or two to one."""
    names: dict[PeerId, str] = {}
    holders: dict[str, PeerId] = {}
    for peer, name in entries:
        if names.setdefault(peer, name) != name:
            raise ConfigError(f"{peer} is given two names, {names[peer]} and {name}")
        if holders.setdefault(name, peer) != peer:
            raise ConfigError(f"the name {name} is given to two peers, {holders[name]} and {peer}")
    return names


def join(weaker: Mapping[PeerId, T], stronger: Mapping[PeerId, T]) -> Mapping[PeerId, T]:
    """Both together; for a peer that is in both the stronger source counts."""
    return {**weaker, **stronger}


# ---- ``--peer-groups ID=GROUP,...`` ----


def parse_groups(text: str) -> tuple[PeerId, tuple[str, ...]]:
    """ValueError says what is wrong with it."""
    peer, _, groups = text.partition("=")
    found = tuple(dict.fromkeys(map(group_name, values.comma_list(groups))))
    if not found:
        raise ValueError(f"{text!r} names no group: the form is ID=GROUP,GROUP")
    return PeerId.parse(peer.strip()), found


def group_name(text: str) -> str:
    """As ``cryprq.peer_name``, for a group. ValueError."""
    try:
        return peer_name(text)
    except ValueError as error:
        raise ValueError(str(error).replace("no name for a peer", "no name for a group")) from None


def show_groups(entry: tuple[PeerId, tuple[str, ...]]) -> str:
    peer, groups = entry
    return f"{peer}={','.join(groups)}"


def split_groups(text: str) -> tuple[str, ...]:
    """The entries of a comma separated list. Groups after ``ID=GROUP,`` belong to that ID."""
    entries: list[str] = []
    for item in values.comma_list(text):
        if entries and _GROUPS_FORM.fullmatch(item):
            entries[-1] += f",{item}"
        else:
            entries.append(item)
    return tuple(entries)


# ---- ``--peer-expires ID=TIME`` ----


def parse_expiry(text: str) -> tuple[PeerId, float]:
    """ValueError says what is wrong with it."""
    peer, _, when = text.partition("=")
    return PeerId.parse(peer.strip()), moment(when.strip())


def moment(text: str) -> float:
    """Unix time of a date, whose beginning is meant, or of a date and time; as ``cryprq.expiry``, but that a span would
    begin anew with each reading. ValueError."""
    try:
        when = expiry.parse(text, 0.0) if _DATE.match(text) else None
    except ValueError:
        when = None
    if when is None:
        raise ValueError(f"{text!r} is no time: write 2027-01-31, 2027-01-31T18:00 or 2027-01-31T18:00:00Z")
    return when


def show_expiry(entry: tuple[PeerId, float]) -> str:
    peer, when = entry
    return f"{peer}={datetime.fromtimestamp(when, UTC).isoformat(timespec='seconds').replace('+00:00', 'Z')}"


# ---- a peer's table in a file ----


def from_table(name: str, table: Mapping[str, object], directory: Path) -> Iterator[tuple[str, str, str]]:
    """What a table ``[peer.NAME]`` says: an option, the key that is about it, and the text as its flag would spell it.
    ValueError, which begins with the key that is wrong."""
    given: dict[str, object] = {key.replace("_", "-"): value for key, value in table.items()}
    for key in given:
        if key not in KEYS:
            raise ValueError(f"{key}: unknown key; known are {', '.join(KEYS)}")
    peer = given.get("id")
    if not isinstance(peer, str):
        raise ValueError("id: must be there, the peer's ID as `cryprq id` prints it on that host")
    try:
        PeerId.parse(peer)
    except ValueError as error:
        raise ValueError(f"id: {error}") from None
    yield "peer-name", "id", f"{name}={peer}"
    for key in KEYS[1:]:
        try:
            texts = _entries(key, peer, given, directory)
        except ValueError as error:
            raise ValueError(f"{key}: {error}") from None
        yield from ((_ABOUT[key], key, text) for text in texts)


def _entries(key: str, peer: str, given: Mapping[str, object], directory: Path) -> list[str]:
    value = given.get(key)
    if key == "networks":
        return [allow_entries.from_table(peer, given.get(key, []), directory)]
    if value is None or value is False:
        return []
    match key:
        case "address":
            return [f"{address}/p2p/{peer}" for address in _texts(value)]
        case "groups":
            return [f"{peer}={','.join(_texts(value))}"] if value else []
        case "expires":
            return [f"{peer}={_moment_text(value)}"]
        case "disabled":
            if value is not True:
                raise ValueError("must be true or false")
            return [peer]
        case "psk-file":
            return [psk_file.from_table(peer, value, directory)]
    return [successor_entries.from_table(peer, value, directory)]


def _texts(value: object) -> list[str]:
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str) for item in items):
        raise ValueError("must be a string, or a list of strings")
    return list(map(str, items))


def _moment_text(value: object) -> str:
    """A date of TOML's own kinds, or a string."""
    if isinstance(value, date):  # a datetime is one, too
        return value.isoformat()
    if not isinstance(value, str):
        raise ValueError("must be a date, or a date and time, such as 2027-01-31T18:00:00Z")
    return value
