"""What ``cryprq doctor`` goes by, and what it says: facts about a node, its host and its peers, and findings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cryprq.linux.host_facts import HostFacts
from cryprq.linux.surroundings import Way
from cryprq.node.firewall import Block
from cryprq.node.reach import Reach

OK, NOTE, FAULT = "ok", "note", "fault"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the answer."""

    check: str
    """What was looked at."""
    level: str
    """``ok``; ``note``: worth knowing, nothing has to be done; or ``fault``."""
    about: str = ""
    """The peer that it is about, by name or ID; empty: the node, or this host."""
    text: str
    """What is so."""
    todo: str = ""
    """What to do about it; a command, where one does it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What ``cryprq doctor`` found; ``--json`` prints these names."""

    version: str
    time: float
    """Unix time of all this."""
    running: bool
    """Whether the node was asked; else the configuration was."""
    faults: int
    findings: Sequence[Finding]


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One peer that is looked at: as the node shows it (``PeerSample``), or as the configuration has it."""

    peer_id: str
    name: str = ""
    wanted: bool = False
    """Somebody has asked about this one."""
    sample: Mapping[str, Any] | None = None
    """None: no node runs."""
    names: Mapping[str, str] = field(default_factory=dict)
    """Host names at which it is dialled, and why they have no address (empty: they have)."""
    reach: Sequence[Reach] = ()
    """What the addresses at which it is dialled have answered."""
    way: Way | str | None = None
    """How records go to it, or why there is no way; None: nobody knows where it is."""

    @property
    def label(self) -> str:
        return self.name or self.peer_id

    @property
    def connected(self) -> bool:
        return self.sample is not None and bool(self.sample["connected"])

    @property
    def trouble(self) -> str:
        return str(self.sample["trouble"]) if self.sample is not None and not self.connected else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """All that is known when judging begins."""

    host: HostFacts
    tun_name: str
    status: Mapping[str, Any] | None = None
    """Of the node (``NodeStatus``); None: none answers."""
    not_asked: str = ""
    """Why the node could not be asked, if one seems to be there."""
    config_fault: str = ""
    """Why there is no configuration to go by, or it is wrong."""
    doubts: Sequence[str] = ()
    """What is doubtful about it (``cryprq-node --check``)."""
    identity_fault: str = ""
    identity_time: float | None = None
    """Unix time when the identity file was made; None: there is none."""
    registry_fault: str = ""
    ports: Mapping[str, str] = field(default_factory=dict)
    """Where the node is to listen, and why it cannot; while it runs, empty."""
    listening: Sequence[str] = ()
    """Hosts at which it listens, or would."""
    announced: Sequence[str] = ()
    mtu: int = 0
    blocks: Sequence[Block] | None = ()
    """Rules of the firewall that are in the way; None: it could not be looked at."""
    peers: Sequence[Peer] = ()

    @property
    def running(self) -> bool:
        return self.status is not None


Check = Callable[[Facts], Iterator[Finding]]


def says(check: str) -> Callable[..., Finding]:
    """Makes findings of that check: level, text, what to do, and whom it is about."""

    def say(level: str, text: str, todo: str = "", about: str = "") -> Finding:
        return Finding(check=check, level=level, about=about, text=text, todo=todo)

    return say
