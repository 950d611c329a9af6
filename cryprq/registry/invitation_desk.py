"""What an operator asks about invitations: one is made, those that are open are shown, one is withdrawn."""

from collections.abc import Sequence
from typing import Any, Final

from cryprq.errors import CryprqError
from cryprq.multiaddr import Multiaddr
from cryprq.networks import Network
from cryprq.peer_id import PeerId
from cryprq.peer_name import peer_name
from cryprq.protocol.invitation import Token
from cryprq.registry.fleet import Fleet
from cryprq.registry.invitations import Invitation
from cryprq.registry.mirror import NAME_PREFIX
from cryprq.registry.store import ABSENT, Note

INVITATIONS_MAX: Final = 4096
"""Open ones at a time."""


class NotInvited(CryprqError):
    """The request makes no sense as things are; one line."""


class InvitationDesk:
    """Takes requests for one fleet."""

    def __init__(
        self, fleet: Fleet, *, now: float, who: str, own: PeerId | None, addresses: Sequence[Multiaddr]
    ) -> None:
        """``now`` is Unix time; ``who`` asks; ``own`` is who this node is, and ``addresses`` where it listens."""
        self._fleet = fleet
        self._now = now
        self._who = who
        self._own = own
        self._addresses = addresses

    async def make(
        self,
        name: str,
        networks: tuple[Network, ...],
        groups: tuple[str, ...],
        expires: float,
        peer_expires: float | None,
        addresses: Sequence[str],
    ) -> dict[str, Any]:
        """A new one; its token is in the answer and nowhere else. ``addresses`` say where the new node is to dial, if
        not where this one listens. NotInvited, ValueError, StoreError."""
        await self._forget_expired()
        where = [Multiaddr.parse(address) for address in addresses] or list(self._addresses)
        if self._own is None or not where:
            raise NotInvited(
                "this node does not listen, so nobody can join it; or --address says where it can be dialled"
            )
        if any(address.peer_id not in (None, self._own) for address in where):
            raise NotInvited(f"an --address names another node; this one is {self._own}")
        if any(address.port == 0 for address in where):
            raise NotInvited("an --address needs the port that the new node is to dial")
        if expires <= self._now:
            raise NotInvited("the invitation would have expired already")
        if peer_expires is not None and peer_expires <= self._now:
            raise NotInvited("the new peer would have expired already")
        if len(self._fleet.invitations) >= INVITATIONS_MAX:
            raise NotInvited(f"{INVITATIONS_MAX} invitations are open, and that is the most; withdraw some")
        if name in self._fleet.names or self._fleet.version(NAME_PREFIX + name) != ABSENT:
            raise NotInvited(f"{name} is taken already, by a peer or an open invitation")
        token = Token.make(self._own, where)
        invitation = Invitation(
            identifier=token.keys.invitation,
            key=token.keys.key,
            name=name,
            networks=networks,
            groups=groups,
            expires=expires,
            peer_expires=peer_expires,
            invited_by=self._who,
            made=self._now,
        )
        await self._fleet.commit(*invitation.offer_ops(NAME_PREFIX + name), note=self._note(f"invited {name}"))
        return {**_row(invitation, self._now), "addresses": list(map(str, token.addresses)), "token": token.spell()}

    def list(self) -> list[dict[str, Any]]:
        """Those that were not used, as `cryprq invite --list` has them; without their secrets, which nobody keeps."""
        return [_row(each, self._now) for each in sorted(self._fleet.invitations.values(), key=lambda each: each.name)]

    async def withdraw(self, name: str) -> dict[str, Any]:
        """It is worth nothing from now on. NotInvited, StoreError; Conflict if somebody has just used it."""
        name = peer_name(name)
        found = next((each for each in self._fleet.invitations.values() if each.name == name), None)
        if found is None:
            used = (
                f"; a peer is called so: `cryprq peer remove {name}` cuts it off" if name in self._fleet.names else ""
            )
            raise NotInvited(f"there is no open invitation for {name}{used}")
        await self._withdraw(found, f"withdrew the invitation for {name}")
        return _row(found, self._now)

    async def _forget_expired(self) -> None:
        for each in list(self._fleet.invitations.values()):
            if not each.usable(self._now):
                await self._withdraw(each, f"forgot the invitation for {each.name}, which had expired")

    async def _withdraw(self, invitation: Invitation, did: str) -> None:
        version = self._fleet.version(invitation.store_key)
        await self._fleet.commit(*invitation.withdraw_ops(version, NAME_PREFIX + invitation.name), note=self._note(did))

    def _note(self, did: str) -> Note:
        return Note(at=self._now, who=self._who, did=did)


def _row(invitation: Invitation, now: float) -> dict[str, Any]:
    return {
        "name": invitation.name,
        "networks": list(map(str, invitation.networks)),
        "groups": list(invitation.groups),
        "expires": invitation.expires,
        "expired": not invitation.usable(now),
        "peer_expires": invitation.peer_expires,
        "invited_by": invitation.invited_by,
        "made": invitation.made,
    }
