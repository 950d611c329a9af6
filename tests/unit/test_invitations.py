"""Invitations in the registry: stored, used once, withdrawn; and the file of the node that was invited."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from cryprq.config.invitation_file import InvitationError, keep_invitation, load_invitation
from cryprq.errors import CryprqError
from cryprq.multiaddr import Multiaddr
from cryprq.node.invited import Invited
from cryprq.peer_id import PeerId
from cryprq.protocol.invitation import Token
from cryprq.registry.commands import Desk
from cryprq.registry.fleet import Fleet
from cryprq.registry.invitations import Invitation
from cryprq.registry.memory import MemoryStore
from cryprq.registry.store import Batch, Contents, Damaged, Put

OWN, ALICE, BOB, CAROL = (PeerId(bytes((number,)) * 32) for number in range(1, 5))
ADDRESS = Multiaddr.parse("/ip4/192.0.2.1/udp/9999/quic-v1")
NOW = 1_800_000_000.0
INVITATION = Invitation(
    identifier=b"12345678",
    key=bytes(range(32)),
    name="alice",
    networks=(ip_network("10.7.0.0/24"), ip_network("fd07::/64")),
    groups=("staff",),
    expires=NOW + 60,
    peer_expires=NOW + 3600,
    invited_by="root (uid 0) by the control socket",
    made=NOW,
)


class Gateway:
    """A fleet on a store in memory, with a clock by hand, and the desk in front of it."""

    def __init__(self) -> None:
        self.now = NOW
        self.store = MemoryStore()
        self.fleet = Fleet(self.store, clock=lambda: self.now)

    async def ask(self, **request: Any) -> Any:
        return await Desk(self.fleet, now=self.now, who="root", own=OWN, addresses=[ADDRESS]).answer(request)

    async def invite(self, name: str = "alice", **more: Any) -> Token:
        answer = await self.ask(do="invite", name=name, **{"expires": self.now + 60, **more})
        return Token.parse(answer["token"])

    async def redeem(self, token: Token, peer: PeerId) -> str | None:
        done: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self.fleet.redeem(token.keys.invitation, peer, done.set_result)
        return await done


def play(world: "Coroutine[Any, Any, None]") -> None:
    asyncio.run(asyncio.wait_for(world, 30))


async def started() -> Gateway:
    gateway = Gateway()
    await gateway.fleet.start()
    return gateway


# ---- stored ----


def test_what_is_stored_is_read_again() -> None:
    assert Invitation.decode(INVITATION.store_key, INVITATION.encode()) == INVITATION
    plain = replace(INVITATION, networks=(), groups=(), peer_expires=None)
    assert Invitation.decode(plain.store_key, plain.encode()) == plain


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{}",
        b"[]",
        b"7",
        INVITATION.encode()[:-1],
        INVITATION.encode().replace(b'"alice"', b'"no name"'),
        INVITATION.encode().replace(b'"alice"', b"7"),
        INVITATION.encode().replace(b"10.7.0.0/24", b"10.7.0.1/24"),
        INVITATION.encode().replace(INVITATION.key.hex().encode(), b"00"),
        INVITATION.encode().replace(INVITATION.key.hex().encode(), b"zz"),
        INVITATION.encode().replace(b'"expires":1', b'"expires":"soon","x":1'),
    ],
)
def test_a_damaged_one_is_a_value_error_and_stops_a_registry_from_being_served(damage: bytes) -> None:
    with pytest.raises(ValueError):
        Invitation.decode(INVITATION.store_key, damage)

    async def world() -> None:
        gateway = Gateway()
        await gateway.store.commit(Put(INVITATION.store_key, damage))
        with pytest.raises(Damaged):
            await gateway.fleet.start()

    play(world())


@pytest.mark.parametrize("key", ["invite/", "invite/00", "invite/zz", f"invite/{'00' * 9}"])
def test_a_key_that_is_none_is_damage(key: str) -> None:
    with pytest.raises(ValueError):
        Invitation.decode(key, INVITATION.encode())


def test_neither_token_nor_key_is_shown() -> None:
    async def world() -> None:
        gateway = await started()
        token = await gateway.invite()
        key = token.keys.key
        shown = f"{await gateway.ask(do='invitations')} {await gateway.ask(do='log')} {gateway.fleet.invitations}"
        assert token.spell() not in shown
        assert key.hex() not in shown
        assert repr(key) not in shown
        contents: Contents = await gateway.store.load()
        assert not any(token.secret in entry.value for entry in contents.entries.values())
        assert not any(token.secret.hex().encode() in entry.value for entry in contents.entries.values())
        await gateway.fleet.close()

    play(world())


# ---- used ----


def test_who_is_first_becomes_the_peer_and_nobody_else() -> None:
    async def world() -> None:
        gateway = await started()
        token = await gateway.invite(networks=["10.7.0.0/24"], groups=["staff"], peer_expires=NOW + 3600)
        assert gateway.fleet.invitation_key(token.keys.invitation) == token.keys.key
        assert not gateway.fleet.permits(ALICE)
        answers = await asyncio.gather(*(gateway.redeem(token, peer) for peer in (ALICE, BOB, CAROL)))
        assert answers.count(None) == 1
        assert all("quicker" in why or "was used" in why for why in answers if why is not None)
        joined = (ALICE, BOB, CAROL)[answers.index(None)]
        assert [peer for peer in (ALICE, BOB, CAROL) if gateway.fleet.permits(peer)] == [joined]
        row = await gateway.ask(do="show", peer="alice")
        assert row["peer_id"] == str(joined)
        assert (row["networks"], row["groups"]) == (["10.7.0.0/24"], ["staff"])
        assert row["expires"] == NOW + 3600
        assert gateway.fleet.invitation_key(token.keys.invitation) is None
        assert await gateway.redeem(token, CAROL) is not None
        await gateway.fleet.close()

    play(world())


def test_it_is_worth_nothing_once_its_time_is_over() -> None:
    async def world() -> None:
        gateway = await started()
        token = await gateway.invite()
        gateway.now += 60
        assert gateway.fleet.invitation_key(token.keys.invitation) is None
        assert "expired" in str(await gateway.redeem(token, ALICE))
        assert not gateway.fleet.permits(ALICE)
        assert [row["expired"] for row in await gateway.ask(do="invitations")] == [True]
        await gateway.invite()  # forgets the old one, whose name it takes
        assert [row["expired"] for row in await gateway.ask(do="invitations")] == [False]
        await gateway.fleet.close()

    play(world())


def test_it_is_worth_nothing_once_the_peer_would_have_expired() -> None:
    async def world() -> None:
        gateway = await started()
        token = await gateway.invite(expires=NOW + 60, peer_expires=NOW + 30)
        gateway.now += 30
        assert gateway.fleet.invitation_key(token.keys.invitation) is None
        assert "expired" in str(await gateway.redeem(token, ALICE))
        assert not gateway.fleet.registered
        await gateway.fleet.close()

    play(world())


async def silence(_: int) -> AsyncIterator[Batch]:
    await asyncio.Event().wait()
    yield Batch(0, ())


def test_who_has_joined_is_known_though_the_watch_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    async def world() -> None:
        gateway = Gateway()
        monkeypatch.setattr(gateway.store, "watch", silence)
        await gateway.fleet.start()
        token = Token.make(OWN, [ADDRESS])
        invitation = replace(INVITATION, identifier=token.keys.invitation, key=token.keys.key)
        await gateway.store.commit(*invitation.offer_ops("name/alice"))
        await gateway.fleet._load_again()
        assert await gateway.redeem(token, ALICE) is None
        assert gateway.fleet.permits(ALICE)
        await gateway.fleet.close()

    monkeypatch.setattr("cryprq.registry.fleet.CATCH_UP", 0.01)
    play(world())


def test_who_may_not_connect_any_more_is_not_let_in_by_it() -> None:
    async def world() -> None:
        gateway = await started()
        await gateway.ask(do="add", peer=str(BOB), name="bob")
        await gateway.ask(do="disable", peer="bob")
        token = await gateway.invite()
        assert await gateway.redeem(token, BOB) == "this peer is known, and may not connect"
        assert not gateway.fleet.permits(BOB)
        assert await gateway.redeem(token, ALICE) is None  # which has not used it up
        await gateway.fleet.close()

    play(world())


def test_names_are_kept_for_who_was_invited() -> None:
    async def world() -> None:
        gateway = await started()
        await gateway.ask(do="add", peer=str(BOB), name="bob")
        token = await gateway.invite("alice")
        for request in (
            {"do": "invite", "name": "alice", "expires": NOW + 60},
            {"do": "invite", "name": "bob", "expires": NOW + 60},
            {"do": "add", "peer": str(CAROL), "name": "alice"},
            {"do": "rename", "peer": "bob", "name": "alice"},
        ):
            with pytest.raises(CryprqError, match="already"):
                await gateway.ask(**request)
        await gateway.ask(do="withdraw", name="alice")
        await gateway.ask(do="rename", peer="bob", name="alice")
        assert "withdrawn" in str(await gateway.redeem(token, ALICE))
        await gateway.fleet.close()

    play(world())


def test_it_is_open_after_a_restart() -> None:
    async def world() -> None:
        gateway = await started()
        token = await gateway.invite()
        contents = await gateway.store.load()
        again = Gateway()
        await again.store.commit(*(Put(key, entry.value) for key, entry in contents.entries.items()))
        await again.fleet.start()
        assert await again.redeem(token, ALICE) is None
        await gateway.fleet.close()
        await again.fleet.close()

    play(world())


@pytest.mark.parametrize(
    ("request_", "says"),
    [
        ({"name": "no name"}, "no name for a peer"),
        ({"expires": None}, "lacks expires"),
        ({"expires": True}, "Unix time"),
        ({"expires": NOW}, "expired already"),
        ({"peer_expires": NOW}, "expired already"),
        ({"networks": ["10.7.0.1/24"]}, "host bits"),
        ({"networks": 7}, "list"),
        ({"addresses": "x"}, "no list"),
        ({"addresses": ["x"]}, "multiaddr"),
        ({"addresses": ["/ip4/192.0.2.1/udp/0/quic-v1"]}, "port"),
        ({"addresses": [f"{ADDRESS}/p2p/{BOB}"]}, "another node"),
        ({"addresses": [str(ADDRESS)] * 5}, "1 to 4"),
    ],
)
def test_requests_that_make_no_sense_get_one_line(request_: dict[str, Any], says: str) -> None:
    async def world() -> None:
        gateway = await started()
        with pytest.raises(CryprqError, match=says) as caught:
            await gateway.ask(**{"do": "invite", "name": "alice", "expires": NOW + 60, **request_})
        assert "\n" not in str(caught.value)
        assert not gateway.fleet.invitations
        await gateway.fleet.close()

    play(world())


# ---- at the node that was invited ----


class Told:
    def __init__(self) -> None:
        self.said: list[str] = []

    def invitation_used(self, peer_id: PeerId) -> None:
        self.said.append("used")

    def invitation_kept(self, peer_id: PeerId, error: str) -> None:
        self.said.append(error)


def test_the_file_is_shown_to_its_gateway_alone_and_deleted_when_it_was_used(tmp_path: Path) -> None:
    path, token, told = tmp_path / "invitation", Token.make(OWN, [ADDRESS]), Told()
    keep_invitation(path, token)
    assert path.stat().st_mode & 0o777 == 0o600
    invited = Invited(path, told)
    assert invited.keys == {OWN: token.keys}
    invited.connected(BOB)
    assert path.exists()
    invited.connected(OWN)
    invited.connected(OWN)
    assert not path.exists()
    assert not invited.keys
    assert told.said == ["used"]
    assert Invited(path, told).keys == {}
    assert Invited(None, told).keys == {}


def test_a_file_that_cannot_be_deleted_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, told = tmp_path / "invitation", Told()
    keep_invitation(path, Token.make(OWN, [ADDRESS]))
    invited = Invited(path, told)

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "unlink", refuse)
    invited.connected(OWN)
    assert told.said == [f"cannot delete the used invitation {path}: Permission denied"]


@pytest.mark.parametrize("contents", [b"", b"cryprq1", b"\xff" * 5000, b"cryprq1" + b"2" * 90])
def test_a_file_that_holds_none_is_one_line(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "invitation"
    path.write_bytes(contents)
    path.chmod(0o600)
    with pytest.raises(InvitationError) as caught:
        load_invitation(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_others_may_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "invitation"
    keep_invitation(path, Token.make(OWN, [ADDRESS]))
    path.chmod(0o644)
    with pytest.raises(InvitationError, match="chmod 600"):
        load_invitation(path)
    with pytest.raises(InvitationError, match="another invitation"):
        keep_invitation(path, Token.make(OWN, [ADDRESS]))
