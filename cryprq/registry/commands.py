"""What an operator asks of the registry: one request, one answer; by the admin socket, or on the store while no node
runs."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

from cryprq import expiry
from cryprq.errors import CryprqError
from cryprq.multiaddr import Multiaddr
from cryprq.networks import Network
from cryprq.peer_id import PeerId
from cryprq.peer_name import peer_name, resolve, similar
from cryprq.registry.entries import PeerEntry, Source
from cryprq.registry.fleet import Fleet
from cryprq.registry.invitation_desk import InvitationDesk
from cryprq.registry.mirror import NAME_PREFIX
from cryprq.registry.store import ABSENT, Conflict, Delete, Expect, Note, Op, Put

CHANGES: Final = ("add", "remove", "disable", "enable", "rename", "expire")
"""What of it changes something."""
LOG_MAX: Final = 1000
"""Lines of the audit trail in an answer."""
PEERS_MAX: Final = 65_536
"""Entries in the registry: as many as the data plane has room for."""
NETWORKS_MAX: Final = 256
"""Of one peer."""
GROUPS_MAX: Final = 32


class Refused(CryprqError):
    """The request makes no sense as things are; one line."""


class Desk:
    """Takes requests for one fleet."""

    def __init__(
        self,
        fleet: Fleet,
        *,
        now: float,
        who: str,
        own: PeerId | None = None,
        addresses: Sequence[Multiaddr] = (),
        check_psk: Callable[[Path], None] = lambda _: None,
    ) -> None:
        """``now`` is Unix time; ``who`` asks, for the audit trail; ``own``: who this node is, and ``addresses`` where
        it listens. ``check_psk`` raises CryprqError for a file that has no key of use."""
        self._fleet = fleet
        self._now = now
        self._who = who
        self._own = own
        self._check_psk = check_psk
        self._invitations = InvitationDesk(fleet, now=now, who=who, own=own, addresses=addresses)

    async def answer(self, request: Mapping[str, Any]) -> Any:
        """What ``do`` asks for: ``list``, ``show``, ``log``, or one of ``CHANGES``. Refused, or StoreError."""
        try:
            return await self._answer(request)
        except (LookupError, ValueError) as error:
            raise Refused(str(error.args[0]) if error.args else "the request is not understood") from None
        except TypeError:
            raise Refused("the request is not understood: a field has the wrong type") from None
        except Conflict:
            raise Refused("somebody else has changed the same thing just now: look, and try again") from None

    async def _answer(self, request: Mapping[str, Any]) -> Any:
        match request.get("do"):
            case "list":
                return [self._row(peer) for peer in self._fleet.named]
            case "show":
                return self._row(self._known(request))
            case "log":
                notes = await self._fleet.store.notes(LOG_MAX)
                return [{"at": note.at, "who": note.who, "did": note.did} for note in notes]
            case "add":
                return await self._add(request)
            case "remove":
                return await self._remove(request)
            case "disable":
                return await self._change(request, "disabled", disabled=True)
            case "enable":
                return await self._change(request, "enabled", disabled=False)
            case "rename":
                name = peer_name(_text(request, "name"))
                return await self._change(request, "renamed", name=name)
            case "expire":
                return await self._change(request, "changed the expiry of", expires=_time(request))
            case "invitations":
                return self._invitations.list()
            case "withdraw":
                return await self._invitations.withdraw(_text(request, "name"))
            case "invite":
                return await self._invite(request)
        raise Refused(f"unknown request; expected list, show, log, {', '.join(CHANGES)}")

    # ---- what changes something ----

    async def _add(self, request: Mapping[str, Any]) -> Any:
        peer = self._new_id(_text(request, "peer"))
        before = self._fleet.registered.get(peer)
        if self._declared(peer):
            raise Refused(self._stands(peer))
        if before is not None and not request.get("update"):
            raise Refused(f"{_called(before)} is known already; --update changes what is known of it")
        if before is None and len(self._fleet.registered) >= PEERS_MAX:
            raise Refused(f"{PEERS_MAX} peers are known, and that is the most")
        given_up = next((old for old, new in self._fleet.successors.items() if new == peer), None)
        if before is None and given_up is not None and given_up in self._fleet.registered:
            return await self._succeed(self._fleet.registered[given_up], peer, request)
        entry = before if before is not None else PeerEntry(peer_id=peer, invited_by=self._who)
        await self._put(before, self._said(entry, request), "added" if before is None else "changed")
        return self._row(peer)

    def _said(self, entry: PeerEntry, request: Mapping[str, Any]) -> PeerEntry:
        """The entry with what the request says of the peer. ValueError, Refused."""
        if request.get("name") is not None:
            entry = replace(entry, name=peer_name(_text(request, "name")))
        if request.get("networks") is not None:
            entry = replace(entry, networks=self._networks(request["networks"]))
        if request.get("groups") is not None:
            entry = replace(entry, groups=_groups(request["groups"]))
        if "expires" in request:
            entry = replace(entry, expires=_time(request))
        if "psk_file" in request:
            entry = replace(entry, psk_file=None if request["psk_file"] is None else self._psk_file(request))
        if "successor" in request:
            new = None if request["successor"] is None else self._successor(entry, _text(request, "successor"))
            entry = replace(entry, successor=new)
        return entry

    async def _succeed(self, before: PeerEntry, peer: PeerId, request: Mapping[str, Any]) -> Any:
        """The successor is the peer from now on, with all that was said of the one before, which is forgotten."""
        entry = self._said(replace(before, peer_id=peer, successor=None), request)
        ops: list[Op] = [Expect(before.key, self._fleet.version(before.key)), Delete(before.key)]
        ops += [Expect(entry.key, ABSENT), Put(entry.key, entry.encode())]
        if entry.name != before.name:
            ops += self._name_ops(before, entry)
        elif entry.name:
            ops.append(Put(NAME_PREFIX + entry.name, str(peer).encode()))
        what = f"gave the place of {_called(before)} to {peer}{_details(replace(before, successor=None), entry)}"
        await self._fleet.commit(*ops, note=self._note(what))
        return self._row(peer)

    async def _invite(self, request: Mapping[str, Any]) -> Any:
        expires, addresses = _time(request), request.get("addresses", [])
        if expires is None or not isinstance(addresses, list):
            raise Refused("the request lacks expires, or its addresses are no list")
        return await self._invitations.make(
            peer_name(_text(request, "name")),
            self._networks(request.get("networks") or []),
            _groups(request.get("groups") or []),
            expires,
            _time(request, "peer_expires"),
            [str(address) for address in addresses],
        )

    async def _remove(self, request: Mapping[str, Any]) -> Any:
        entry = self._registered(request)
        row = self._row(entry.peer_id)
        key = entry.key
        ops: list[Op] = [Expect(key, self._fleet.version(key)), Delete(key)]
        if entry.name:
            ops.append(Delete(NAME_PREFIX + entry.name))
        await self._fleet.commit(*ops, note=self._note(f"removed {_called(entry)}"))
        return row

    async def _change(self, request: Mapping[str, Any], did: str, **fields: Any) -> Any:
        before = self._registered(request)
        if self._declared(before.peer_id):
            raise Refused(self._stands(before.peer_id))
        await self._put(before, replace(before, **fields), did)
        return self._row(before.peer_id)

    async def _put(self, before: PeerEntry | None, entry: PeerEntry, did: str) -> None:
        key, old = entry.key, "" if before is None else before.name
        ops: list[Op] = [Expect(key, self._fleet.version(key)), Put(key, entry.encode())]
        if entry.name != old:
            ops += self._name_ops(before, entry)
        what = f"{did} {_called(before if before is not None else entry)}"
        if before is not None and entry.name != old:
            what += f" to {entry.name}"
        await self._fleet.commit(*ops, note=self._note(f"{what}{_details(before, entry)}"))

    def _name_ops(self, before: PeerEntry | None, entry: PeerEntry) -> list[Op]:
        """The peer's name is the one that it has now. Refused if that is another's."""
        owner = self._fleet.names.get(entry.name)
        name_key = NAME_PREFIX + entry.name
        if (owner is not None and owner != entry.peer_id) or self._fleet.version(name_key) != ABSENT:
            whose = f"{owner}'s name" if owner is not None else "taken"
            raise Refused(f"{entry.name} is {whose} already; names are of one peer each")
        ops: list[Op] = [Expect(name_key, ABSENT), Put(name_key, str(entry.peer_id).encode())]
        if before is not None and before.name:
            ops.append(Delete(NAME_PREFIX + before.name))
        return ops

    def _note(self, did: str) -> Note:
        return Note(at=self._now, who=self._who, did=did)

    # ---- whom a request means ----

    def _new_id(self, text: str) -> PeerId:
        """The ID to be added: typed by somebody, who may have meant another."""
        try:
            peer = PeerId.parse(text)
        except ValueError as error:
            if (meant := similar(text, self._fleet.named)) is not None:
                raise Refused(f"{text} is not a peer ID; {self._show(meant)} is nearly the same") from None
            raise Refused(str(error)) from None
        if peer == self._own:
            raise Refused(f"{peer} is this node's own peer ID")
        if peer not in self._fleet.named and (meant := similar(text, self._fleet.named)) is not None:
            raise Refused(f"{peer} differs from {self._show(meant)} by a character or two: one of them is mistyped")
        return peer

    def _known(self, request: Mapping[str, Any]) -> PeerId:
        peer = resolve(_text(request, "peer"), self._fleet.names, self._fleet.named)
        if peer not in self._fleet.named:
            if (meant := similar(str(peer), self._fleet.named)) is not None:
                raise Refused(f"no peer is {peer}; did you mean {self._show(meant)}?")
            raise Refused(f"no peer is {peer}; `cryprq peer list` shows those that there are")
        return peer

    def _registered(self, request: Mapping[str, Any]) -> PeerEntry:
        """The entry to be changed. Refused for what stands in the configuration alone."""
        peer = self._known(request)
        entry = self._fleet.registered.get(peer)
        if entry is None:
            raise Refused(self._stands(peer))
        return entry

    def _declared(self, peer: PeerId) -> bool:
        entry = self._fleet.entry(peer)
        return peer in self._fleet.dialled or (entry is not None and entry.source is Source.CONFIG)

    def _stands(self, peer: PeerId) -> str:
        entry = self._fleet.entry(peer)
        if entry is not None and entry.source is Source.REGISTRY and peer not in self._fleet.dialled:
            old = next((old for old, new in self._fleet.successors.items() if new == peer), peer)
            return f"{peer} is the successor of {self._show(old)}: change that one"
        origin = (entry.origin if entry is not None else "") or "--peer"
        return (
            f"{self._show(peer)} stands in the configuration ({origin}), which commands do not change: change it there,"
            " and send SIGHUP"
        )

    def _show(self, peer: PeerId) -> str:
        entry = self._fleet.entry(peer)
        return str(peer) if entry is None else _called(entry)

    # ---- values ----

    def _networks(self, words: Any) -> tuple[Network, ...]:
        if not isinstance(words, list) or len(words) > NETWORKS_MAX:
            raise ValueError(f"networks are a list of up to {NETWORKS_MAX} CIDRs")
        networks = tuple(dict.fromkeys(ip_network(str(word)) for word in words))
        own = {ip_network(gateway.ip) for gateway in self._fleet.gateways}
        for network in networks:
            if network in own:
                raise ValueError(f"{network} is this node's own --tun-address")
        return networks

    def _psk_file(self, request: Mapping[str, Any]) -> Path:
        path = Path(_text(request, "psk_file"))
        if not path.is_absolute():
            raise ValueError(f"psk_file {path} is not an absolute path")
        self._check_psk(path)
        return path

    def _successor(self, entry: PeerEntry, text: str) -> PeerId:
        """The next ID of a peer. Refused for one that can have nobody's place."""
        new, old = self._new_id(text), entry.peer_id
        known, taken = self._fleet.entry(new), self._fleet.successors
        if new == old:
            raise Refused(f"{new} is the peer's ID as it is; its successor is the ID that it is about to have")
        if new in taken or old in taken.values():
            raise Refused(f"{new if new in taken else old} is to have a place and to give it up")
        if (other := next((one for one, next_ in taken.items() if next_ == new and one != old), None)) is not None:
            raise Refused(f"{new} is the successor of {self._show(other)} already")
        if new in self._fleet.dialled or (known is not None and taken.get(old) != new):
            raise Refused(f"{self._show(new)} is a peer already, and has a place")
        return new

    def _row(self, peer: PeerId) -> dict[str, Any]:
        """What `cryprq peer` prints as JSON."""
        fleet = self._fleet
        entry = fleet.entry(peer) or PeerEntry(peer_id=peer, source=Source.CONFIG, origin="--peer")
        lease = fleet.leased(peer) if not entry.networks and peer not in fleet.dialled else None
        return {
            "peer_id": str(peer),
            "name": entry.name,
            "networks": list(map(str, entry.networks)),
            "groups": list(entry.groups),
            "expires": entry.expires,
            "disabled": entry.disabled,
            "permitted": fleet.permits(peer),
            "dialled": peer in fleet.dialled,
            "addresses": list(map(str, lease.addresses)) if lease is not None else [],
            "invited_by": entry.invited_by,
            "psk_file": str(entry.psk_file) if entry.psk_file is not None else None,
            "successor": str(entry.successor) if entry.successor is not None else None,
            "source": str(entry.source),
            "origin": entry.origin,
        }


def _called(entry: PeerEntry) -> str:
    return f"{entry.name} ({entry.peer_id})" if entry.name else str(entry.peer_id)


def _details(before: PeerEntry | None, entry: PeerEntry) -> str:
    """What else is different, for the audit trail."""
    old = before if before is not None else PeerEntry(peer_id=entry.peer_id)
    found = []
    for field in ("networks", "groups"):
        if (value := getattr(entry, field)) != getattr(old, field):
            found.append(f"{field}={','.join(map(str, value))}")
    if entry.expires != old.expires:
        found.append(f"expires={expiry.show(entry.expires).replace(' ', 'T')}")
    for field in ("psk_file", "successor"):
        if (value := getattr(entry, field)) != getattr(old, field):
            found.append(f"{field}={value if value is not None else 'none'}")
    return f": {' '.join(found)}" if found else ""


def _text(request: Mapping[str, Any], field: str) -> str:
    value = request.get(field)
    if not isinstance(value, str) or not value:
        raise ValueError(f"the request lacks {field}")
    return value


def _time(request: Mapping[str, Any], field: str = "expires") -> float | None:
    value = request.get(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e11:
        raise ValueError(f"{field} is a Unix time, or nothing")
    return float(value)


def _groups(words: Any) -> tuple[str, ...]:
    if not isinstance(words, list) or len(words) > GROUPS_MAX:
        raise ValueError(f"groups are a list of up to {GROUPS_MAX} names")
    return tuple(dict.fromkeys(peer_name(str(word)) for word in words))
