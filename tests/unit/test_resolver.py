"""Where peers are: numeric addresses, and names that are looked up in the background."""

import asyncio
import socket
from typing import Any

from cryprq.address import Address
from cryprq.multiaddr import Multiaddr
from cryprq.peers.resolver import ADDRESSES_TRIED_MAX, REFRESH_AFTER, Resolver
from cryprq.protocol.clock import Boottime

GATEWAY = Multiaddr("dns", "gateway.example", 9999)
V4 = [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (f"192.0.2.{number}", 9999)) for number in (1, 2)]
V6 = [(socket.AF_INET6, socket.SOCK_DGRAM, 17, "", (f"2001:db8::{number}", 9999, 0, 0)) for number in (1, 2, 3)]


class Rig:
    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.asked: list[tuple[str, int, int]] = []
        self.changes = 0
        self.now = Boottime(0.0)
        self.resolver = Resolver(self.getaddrinfo, self.changed, lambda: self.now)

    async def getaddrinfo(self, host: str, port: int, family: int) -> Any:
        self.asked.append((host, port, family))
        await asyncio.sleep(0)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def changed(self) -> None:
        self.changes += 1


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def test_numeric_address_needs_no_look_up() -> None:
    rig = Rig([])
    assert rig.resolver.addresses(Multiaddr("ip4", "192.0.2.1", 9999)) == (Address("192.0.2.1", 9999),)
    assert rig.resolver.addresses(Multiaddr("ip6", "2001:db8::1", 5)) == (Address("2001:db8::1", 5),)
    assert not rig.asked


def test_name_gives_both_families_in_turn() -> None:
    async def scenario() -> None:
        rig = Rig(V6 + V4)
        assert rig.resolver.addresses(GATEWAY) == ()
        assert rig.resolver.error(GATEWAY) is None
        await settle()
        assert rig.changes == 1
        hosts = [address.host for address in rig.resolver.addresses(GATEWAY)]
        assert hosts == ["2001:db8::1", "192.0.2.1", "2001:db8::2", "192.0.2.2", "2001:db8::3"]
        assert rig.asked == [("gateway.example", 9999, socket.AF_UNSPEC)]

    asyncio.run(scenario())


def test_dns4_and_dns6_ask_for_their_family() -> None:
    async def scenario() -> None:
        rig = Rig(V4)
        rig.resolver.addresses(Multiaddr("dns4", "a.example", 1))
        rig.resolver.addresses(Multiaddr("dns6", "a.example", 1))
        await settle()
        assert [family for _, _, family in rig.asked] == [socket.AF_INET, socket.AF_INET6]

    asyncio.run(scenario())


def test_last_good_answer_survives_a_name_server_that_is_gone() -> None:
    async def scenario() -> None:
        rig = Rig(V4)
        rig.resolver.addresses(GATEWAY)
        await settle()
        rig.answer = socket.gaierror(-3, "Temporary failure in name resolution")
        rig.now = Boottime(REFRESH_AFTER)
        assert rig.resolver.addresses(GATEWAY)
        await settle()
        assert rig.resolver.error(GATEWAY) == "Temporary failure in name resolution"
        assert [address.host for address in rig.resolver.addresses(GATEWAY)] == ["192.0.2.1", "192.0.2.2"]
        rig.answer = V6
        await settle()
        await settle()
        rig.resolver.addresses(GATEWAY)
        await settle()
        assert rig.resolver.addresses(GATEWAY)[0].is_ipv6
        assert rig.resolver.error(GATEWAY) is None

    asyncio.run(scenario())


def test_one_look_up_at_a_time_and_not_for_every_dial() -> None:
    async def scenario() -> None:
        rig = Rig(V4)
        for _ in range(5):
            rig.resolver.addresses(GATEWAY)
        await settle()
        for _ in range(5):
            rig.resolver.addresses(GATEWAY)
        await settle()
        assert len(rig.asked) == 1
        rig.now = Boottime(REFRESH_AFTER)
        rig.resolver.addresses(GATEWAY)
        await settle()
        assert len(rig.asked) == 2

    asyncio.run(scenario())


def test_name_that_gives_no_or_too_many_addresses() -> None:
    async def scenario() -> None:
        rig = Rig([])
        rig.resolver.addresses(GATEWAY)
        await settle()
        assert rig.resolver.error(GATEWAY) == "no address"
        many = [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", (f"192.0.2.{number}", 1)) for number in range(50)]
        rig.answer = many + many
        rig.resolver.addresses(GATEWAY)
        await settle()
        assert len(set(rig.resolver.addresses(GATEWAY))) == ADDRESSES_TRIED_MAX

    asyncio.run(scenario())


def test_name_that_cannot_be_asked_for_is_an_error_and_no_crash() -> None:
    async def scenario() -> None:
        rig = Rig(UnicodeError("label too long"))
        rig.resolver.addresses(GATEWAY)
        await settle()
        assert rig.resolver.error(GATEWAY) == "label too long"
        await rig.resolver.close()

    asyncio.run(scenario())


def test_close_ends_a_look_up_that_hangs() -> None:
    async def scenario() -> None:
        async def hang(*_: Any) -> Any:
            await asyncio.sleep(3600)

        resolver = Resolver(hang, lambda: None, lambda: Boottime(0.0))
        resolver.addresses(GATEWAY)
        await settle()
        await asyncio.wait_for(resolver.close(), 1)

    asyncio.run(scenario())
