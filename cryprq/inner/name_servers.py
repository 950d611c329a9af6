"""Name servers that gateways name: which of them this host is to ask, and about what.

Who answers for names decides where connections go, so a gateway gets no more of that than this node's own configuration
gives it: all names where all packets go to it anyway, or where ``--accept-dns all`` says so; else those of the domains
that it tells, if such a domain is not a large part of all names.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from cryprq.dns import DnsSettings, is_public_top
from cryprq.networks import Network, amounts_to_default, covering
from cryprq.peer_id import PeerId
from cryprq.protocol.parameters import Parameters


@dataclass(frozen=True, slots=True)
class Refusal:
    """Something that a gateway told and that is not used."""

    peer_id: PeerId
    what: str
    reason: str


@dataclass(frozen=True, slots=True)
class Choice:
    """Whom to ask, as a gateway told it."""

    settings: DnsSettings | None = None
    peer_id: PeerId | None = None
    """The gateway; None with the settings."""
    refused: tuple[Refusal, ...] = ()


class NameServers:
    """What each gateway told in its last M4, and what comes of all that."""

    def __init__(self) -> None:
        self._told: dict[PeerId, DnsSettings] = {}

    def take(self, peer_id: PeerId, parameters: Parameters) -> None:
        """A gateway's M4 was taken over."""
        if parameters.name_servers:
            self._told[peer_id] = DnsSettings(parameters.name_servers, parameters.search)
        else:
            self._told.pop(peer_id, None)

    def choose(
        self, gateways: Iterable[PeerId], networks: Callable[[PeerId], Collection[Network]], accept: str
    ) -> Choice:
        """What to ask now. ``gateways``: those that there is a session with, the one that goes first first;
        ``networks``: what each owns; ``accept``: ``auto``, ``all`` or ``off``. An interface has one list of servers:
        that of the first gateway that may have all names, else of the first that may have any."""
        if accept == "off":
            return Choice()
        refused: list[Refusal] = []
        usable: list[tuple[PeerId, DnsSettings]] = []
        for peer_id in gateways:
            if (told := self._told.get(peer_id)) is not None:
                settings, reasons = _usable(told, networks(peer_id), accept)
                refused += (Refusal(peer_id, what, reason) for what, reason in reasons)
                if settings is not None:
                    usable.append((peer_id, settings))
        if not usable:
            return Choice(refused=tuple(refused))
        chosen = next((each for each in usable if each[1].everything), usable[0])
        others = (each for each in usable if each is not chosen)
        refused += (Refusal(i, _joined(s.servers), "those of another gateway are in use") for i, s in others)
        return Choice(chosen[1], chosen[0], tuple(refused))


def _usable(
    told: DnsSettings, networks: Collection[Network], accept: str
) -> tuple[DnsSettings | None, list[tuple[str, str]]]:
    """What of it may be used, and what not and why."""
    outside = [server for server in told.servers if covering(networks, str(server)) is None]
    public = [name for name in told.search if is_public_top(name)]
    refused = [(str(server), "it is not in a network of this gateway") for server in outside]
    refused += [(name, "that would be a large part of all names") for name in public]
    settings = replace(
        told,
        servers=tuple(server for server in told.servers if server not in outside),
        search=tuple(name for name in told.search if name not in public),
        everything=accept == "all" or any(map(amounts_to_default, networks)),
    )
    if not settings.servers:
        return None, refused
    if not (settings.everything or settings.search):
        reason = "without a full tunnel it is asked about its own domains, and has none; --accept-dns all asks it all"
        return None, [*refused, (_joined(settings.servers), reason)]
    return settings, refused


def _joined(values: Sequence[object]) -> str:
    return ",".join(map(str, values))
