"""``--access SUBJECT=DEST:PORTS/PROTO``: what peers may reach, in every notation."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from cryprq.config import values
from cryprq.networks import Network
from cryprq.peer_id import PeerId
from cryprq.peer_name import peer_name

EVERYONE: Final = "*"
GROUP: Final = "group:"
PEER: Final = "peer:"
TCP: Final = 6
UDP: Final = 17
ICMP: Final = -1
"""Of either IP version: 1, or 58."""
PROTOCOL_MAX: Final = 255
PORT_MAX: Final = 65_535

_PROTOCOLS: Final = {"tcp": TCP, "udp": UDP, "icmp": ICMP, "*": None}
_SHOWN: Final = {number: name for name, number in _PROTOCOLS.items()}
_FORM: Final = "DEST:PORTS/PROTO, such as 10.0.0.0/8:443/tcp"
_RULE: Final = re.compile(r"(?P<to>.+):(?P<ports>[^:/]+)/(?P<protocol>[^:/]+)")
_PORTS: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class AccessRule:
    """What a rule allows; its ``str`` is what a configuration says."""

    to: Network | None
    """Where; None: anywhere."""
    protocol: int | None
    """Its number, or ``ICMP``; None: any."""
    ports: tuple[tuple[int, int], ...] = ()
    """First and last port of each range; none: any port, and protocols that have none."""

    def __str__(self) -> str:
        to = "any" if self.to is None else f"[{self.to}]" if self.to.version == 6 else str(self.to)
        ports = ",".join(str(low) if low == high else f"{low}-{high}" for low, high in self.ports)
        return f"{to}:{ports or '*'}/{_SHOWN.get(self.protocol, self.protocol)}"


Entry = tuple[str, tuple[AccessRule, ...]]
Access = Mapping[str, tuple[AccessRule, ...]]
"""Rules by subject: ``*``, ``group:NAME``, or ``peer:NAME`` with a peer's ID or its name. None at all: no limits."""


def parse(text: str) -> Entry:
    """ValueError says what is wrong with it."""
    who, equals, rules = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} says nothing of where to: the form is SUBJECT={_FORM}")
    return subject(who.strip()), tuple(map(_rule, _rules(rules)))


def subject(text: str) -> str:
    """Whom a rule is about, in one way of writing. ValueError."""
    if text.lower() in (EVERYONE, "everyone"):
        return EVERYONE
    kind, colon, name = text.partition(":")
    if not colon and text.startswith("Qm") and len(text) > 40:
        return f"{PEER}{PeerId.parse(text)}"
    if not colon or kind.lower() not in ("group", "peer"):
        near = get_close_matches(kind.lower(), ("group", "peer", "everyone"), n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{text!r} is nobody: group:NAME, peer:NAME, a peer's ID, or * for everyone{hint}")
    if kind.lower() == "group":
        return GROUP + _named(name, "group")
    return PEER + (str(PeerId.parse(name)) if name.startswith("Qm") and len(name) > 40 else _named(name, "peer"))


def _named(name: str, what: str) -> str:
    try:
        return peer_name(name)
    except ValueError as error:
        raise ValueError(str(error).replace("no name for a peer", f"no name for a {what}")) from None


def _rules(text: str) -> Iterator[str]:
    """The rules of a comma separated list, in which ports have commas, too."""
    rule = ""
    for item in values.comma_list(text):
        rule = f"{rule},{item}" if rule else item
        if "/" in rule.rpartition(":")[2]:
            yield rule
            rule = ""
    if rule:
        yield rule


def _rule(text: str) -> AccessRule:
    found = _RULE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no rule: the form is {_FORM}")
    try:
        protocol = _protocol(found["protocol"])
        ports = _port_ranges(found["ports"])
        if ports and protocol not in (TCP, UDP):
            raise ValueError("ports are of tcp and udp alone; write * for them, or a rule for each of the two")
        return AccessRule(_destination(found["to"]), protocol, ports)
    except ValueError as error:
        raise ValueError(f"{text}: {error}") from None


def _destination(text: str) -> Network | None:
    if text.lower() in ("any", "*"):
        return None
    return values.network(text[1:-1] if text.startswith("[") and text.endswith("]") else text)


def _protocol(text: str) -> int | None:
    word = text.lower()
    if word in _PROTOCOLS:
        return _PROTOCOLS[word]
    if not word.isascii() or not word.isdigit():
        near = get_close_matches(word, _PROTOCOLS, n=1)
        hint = f"did you mean {near[0]}?" if near else "valid are tcp, udp, icmp, a number and *"
        raise ValueError(f"the protocol {text!r} is unknown; {hint}")
    if len(word) > 3 or int(word) > PROTOCOL_MAX:
        raise ValueError(f"{text} is no protocol: 0 to {PROTOCOL_MAX}")
    return int(word)


def _port_ranges(text: str) -> tuple[tuple[int, int], ...]:
    if text.strip() == "*":
        return ()
    return tuple(dict.fromkeys(map(_port_range, values.comma_list(text))))


def _port_range(text: str) -> tuple[int, int]:
    found = _PORTS.fullmatch(text)
    low, high = (int(found[1]), int(found[2] or found[1])) if found is not None else (0, 0)
    if not 1 <= low <= high <= PORT_MAX:
        raise ValueError(f"{text!r} is no port: 1 to {PORT_MAX}, two of them as FIRST-LAST, or *")
    return low, high


def show(entry: Entry) -> str:
    who, rules = entry
    return f"{who}={','.join(map(str, rules))}" if rules else f"{who}= (nothing)"


def split(text: str) -> tuple[str, ...]:
    """The entries of a comma separated list: a rule without ``SUBJECT=`` is of the subject before it."""
    entries: list[str] = []
    for item in values.comma_list(text):
        if entries and "=" not in item:
            entries[-1] += f",{item}"
        else:
            entries.append(item)
    return tuple(entries)


def from_table(who: str, rules: object, _: Path) -> str:
    """The entry ``SUBJECT = ["RULE", ...]`` of a file's table as the flag would spell it."""
    if not isinstance(rules, list) or not all(isinstance(rule, str) for rule in rules):
        raise ValueError(f"must be a list of {_FORM}, which may be empty")
    if "=" in who:
        raise ValueError("is nobody: group:NAME, peer:NAME, a peer's ID, or * for everyone")
    return f"{who}={','.join(rules)}"


def collect(entries: Sequence[Entry]) -> Access:
    """The entries of one source: what it says of one subject adds up."""
    result: dict[str, tuple[AccessRule, ...]] = {}
    for who, rules in entries:
        result[who] = tuple(dict.fromkeys((*result.get(who, ()), *rules)))
    return result
