"""What each peer may reach: the rules of the configuration, for the groups and names that peers have, in the plane."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from ipaddress import ip_network
from typing import Final, Protocol
from weakref import WeakValueDictionary

from cryprq._fastpath import Rules
from cryprq.config.access_entries import EVERYONE, GROUP, ICMP, PEER, PORT_MAX, PROTOCOL_MAX, Access, AccessRule
from cryprq.networks import Network
from cryprq.peer_id import PeerId
from cryprq.peers.peer import Peer
from cryprq.registry.fleet import Fleet

_ANYWHERE: Final = (ip_network("0.0.0.0/0"), ip_network("::/0"))
_ICMP: Final = {4: 1, 6: 58}
"""ICMP's number by IP version."""
_UNREADABLE: Final = PROTOCOL_MAX + 1
"""CQ_FLOW_UNREADABLE: only a rule for every protocol has packets whose headers do not say which it is."""


class AccessPlane(Protocol):
    """What is needed of the data plane (``cryprq._fastpath.Plane``)."""

    def set_access(self, peers: Mapping[int, Rules | None], newcomers: Rules | None) -> None: ...


def compiled(rules: Iterable[AccessRule]) -> Rules:
    """Rules as the data plane has them."""
    return Rules(each for rule in rules for each in services(rule))


def services(rule: AccessRule) -> Iterator[tuple[Network, int, int]]:
    """The entries of ``Rules`` that a rule is."""
    for network in _ANYWHERE if rule.to is None else (rule.to,):
        protocol = _ICMP[network.version] if rule.protocol == ICMP else rule.protocol
        if protocol is None:
            yield network, 0, _service(_UNREADABLE, PORT_MAX)
            continue
        for low, high in rule.ports or ((0, PORT_MAX),):
            yield network, _service(protocol, low), _service(protocol, high)


def _service(protocol: int, port: int) -> int:
    return protocol << 16 | port


class AccessKeeper:
    """Keeps what the plane holds peers to as configuration and registry have it."""

    def __init__(self, plane: AccessPlane, fleet: Fleet, peers: Iterable[Peer], access: Access) -> None:
        """``peers`` are those that the plane knows, now and later."""
        self._plane = plane
        self._fleet = fleet
        self._peers = peers
        self._access = access
        self._compiled: WeakValueDictionary[tuple[str, ...], Rules] = WeakValueDictionary()
        self._newcomers: Rules | None = None
        if access:
            self.change(access)

    # ---- questions ----

    def subjects(self, peer_id: PeerId) -> tuple[str, ...] | None:
        """Of the rules those that are about the peer, in the order of the configuration; None: there are no rules."""
        if not self._access:
            return None
        words = {EVERYONE, *self._words(peer_id)}
        words.update(word for old, new in self._fleet.successors.items() if new == peer_id for word in self._words(old))
        return tuple(subject for subject in self._access if subject in words)

    def _words(self, peer_id: PeerId) -> Iterator[str]:
        yield f"{PEER}{peer_id}"
        entry = self._fleet.entry(peer_id)
        if entry is not None:
            yield from (GROUP + group for group in entry.groups)
            if entry.name:
                yield PEER + entry.name

    def describe(self, peer_id: PeerId) -> list[str] | None:
        """A line for each rule about the peer, with whom it is about; None: there are no rules."""
        subjects = self.subjects(peer_id)
        if subjects is None:
            return None
        return [f"{rule} ({subject})" for subject in subjects for rule in self._access[subject]]

    # ---- changes ----

    def change(self, access: Access) -> None:
        """These are the rules from now on, for all at once."""
        self._access = access
        self._compiled = WeakValueDictionary()
        self._newcomers = self._rules((EVERYONE,) if EVERYONE in access else ()) if access else None
        self._set(self._peers)

    def revise(self, peer_ids: Collection[PeerId]) -> None:
        """Something else is known of these peers."""
        if self._access:
            self._set([peer for peer in self._peers if peer.peer_id in peer_ids])

    def added(self, peer: Peer) -> None:
        """The plane knows it from now on. Until then it had what everyone has."""
        if self._access:
            self._set([peer])

    def _set(self, peers: Iterable[Peer]) -> None:
        wanted = {peer.handle: self._of(peer.peer_id) for peer in peers} if self._access else {}
        self._plane.set_access(wanted, self._newcomers)

    def _of(self, peer_id: PeerId) -> Rules:
        return self._rules(self.subjects(peer_id) or ())

    def _rules(self, subjects: tuple[str, ...]) -> Rules:
        """Peers of the same subjects have the same rules, once."""
        found = self._compiled.get(subjects)
        if found is None:
            found = compiled(rule for subject in subjects for rule in self._access[subject])
            self._compiled[subjects] = found
        return found
