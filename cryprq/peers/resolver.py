"""Addresses of the peers to dial: numeric ones as they are, names looked up in the background and remembered."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

from cryprq.address import Address
from cryprq.multiaddr import Multiaddr
from cryprq.protocol.clock import Boottime

REFRESH_AFTER: Final = 30.0
"""Seconds after which an answer is looked up again when the peer is dialled."""
ADDRESSES_TRIED_MAX: Final = 8
"""Addresses of one name that are tried."""

_FAMILIES: Final = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}

GetAddrInfo = Callable[[str, int, int], Awaitable[Sequence[tuple[Any, ...]]]]


@dataclass
class _Entry:
    addresses: tuple[Address, ...] = ()
    looked_up: Boottime | None = None
    error: str | None = None
    task: "asyncio.Task[None] | None" = None


class Resolver:
    """Answers at once with what is known, and looks names up meanwhile.

    The last good answer is kept when a look-up fails: the name server may be behind the very tunnel that is down.
    A look-up cannot be interrupted, so there is one at a time for a name.
    """

    def __init__(self, getaddrinfo: GetAddrInfo, changed: Callable[[], None], clock: Callable[[], Boottime]) -> None:
        """``changed`` is called when a look-up has ended, ``getaddrinfo`` gets (host, port, family)."""
        self._getaddrinfo = getaddrinfo
        self._changed = changed
        self._clock = clock
        self._entries: dict[tuple[str, str, int], _Entry] = {}

    def addresses(self, target: Multiaddr) -> tuple[Address, ...]:
        """Where the target is, IPv6 and IPv4 in turn beginning with the family that the system prefers; empty while
        nothing is known."""
        if target.is_numeric:
            return self.known(target)
        entry = self._entries.setdefault((target.protocol, target.host, target.port), _Entry())
        now = self._clock()
        if entry.task is None and (entry.looked_up is None or now - entry.looked_up >= REFRESH_AFTER or entry.error):
            entry.looked_up = now
            entry.task = asyncio.ensure_future(self._look_up(target, entry))
        return entry.addresses

    def known(self, target: Multiaddr) -> tuple[Address, ...]:
        """The same without looking anything up."""
        if target.is_numeric:
            return (Address(target.host, target.port),)
        entry = self._entries.get((target.protocol, target.host, target.port))
        return entry.addresses if entry is not None else ()

    def error(self, target: Multiaddr) -> str | None:
        """Why the last look-up failed, or None; also None while the first one runs."""
        entry = self._entries.get((target.protocol, target.host, target.port))
        return entry.error if entry is not None else None

    async def close(self) -> None:
        """Waits for no look-up any more."""
        tasks = [entry.task for entry in self._entries.values() if entry.task is not None]
        self._entries.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _look_up(self, target: Multiaddr, entry: _Entry) -> None:
        try:
            found = await self._getaddrinfo(target.host, target.port, _FAMILIES[target.protocol])
            entry.addresses = _in_turn(dict.fromkeys(Address.from_sockaddr(sockaddr) for *_, sockaddr in found))
            entry.error = None if entry.addresses else "no address"
        except (OSError, UnicodeError) as error:
            entry.error = getattr(error, "strerror", None) or str(error)
        finally:
            entry.task = None
        self._changed()


def _in_turn(found: dict[Address, None]) -> tuple[Address, ...]:
    """One address of each family in turn (RFC 8305, 4), in the order of the system otherwise (RFC 6724)."""
    addresses = list(found)
    if not addresses:
        return ()
    first = addresses[0].is_ipv6
    preferred = [address for address in addresses if address.is_ipv6 is first]
    others = [address for address in addresses if address.is_ipv6 is not first]
    mixed = (address for pair in zip_longest(preferred, others) for address in pair if address is not None)
    return tuple(mixed)[:ADDRESSES_TRIED_MAX]
