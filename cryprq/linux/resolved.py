"""Asks systemd-resolved about a name on one link of this host after the other.

With a full tunnel resolved's queries go into it, as those of all programs do. But a query for one link goes to the name
servers of that link, and leaves by it: resolved binds it there, and a route that leads elsewhere does not match. So a
gateway's name is found while the tunnel to it is down. Not so servers that belong to no link (``DNS=`` of
resolved.conf), nor with a kill switch, whose routes stop whatever is not the node's.
"""

import asyncio
import socket
from collections.abc import Mapping, Sequence
from ipaddress import ip_address
from typing import Any, Final

from cryprq.linux import program
from cryprq.linux.resolver_settings import resolvectl

LINKS_MAX: Final = 8
"""Links that are tried; those without name servers answer at once."""
TIME_LIMIT: Final = 5.0
"""Seconds for one query, ..."""
TIME_LIMIT_ALL: Final = 10.0
"""... and for all of them."""

_VERSIONS: Final[Mapping[int, tuple[int, ...]]] = {
    socket.AF_INET: (4,),
    socket.AF_INET6: (6,),
    socket.AF_UNSPEC: (6, 4),
}
_FAMILIES: Final = {4: socket.AF_INET, 6: socket.AF_INET6}


async def look_up(host: str, port: int, family: int, without: str) -> Sequence[tuple[Any, ...]]:
    """An address of each version, as ``socket.getaddrinfo`` has them, from the first link but ``without`` that knows
    the name; empty if none does, or there is no resolved."""
    if (tool := resolvectl()) is None:
        return ()
    links = [name for _, name in socket.if_nameindex() if name not in ("lo", without)]
    try:
        async with asyncio.timeout(TIME_LIMIT_ALL):
            for link in links[:LINKS_MAX]:
                queries = (_query(tool, host, version, link) for version in _VERSIONS[family])
                if found := [address for address in await asyncio.gather(*queries) if address is not None]:
                    return [_entry(address, port) for address in found]
    except TimeoutError:
        pass
    return ()


async def _query(tool: str, host: str, version: int, link: str) -> str | None:
    command = (tool, "query", f"-{version}", "--legend=no", f"--interface={link}", "--", host)
    try:
        ended = await program.run(command, timeout=TIME_LIMIT)
    except OSError:
        return None
    return _address(ended.output, version) if ended.fault is None else None


def _address(line: str, version: int) -> str | None:
    """The first address in what resolvectl prints: ``NAME: ADDRESS    -- link: LINK``."""
    for word in line.split():
        try:
            address = ip_address(word)
        except ValueError:
            continue
        if address.version == version:
            return str(address)
    return None


def _entry(address: str, port: int) -> tuple[Any, ...]:
    version = 6 if ":" in address else 4
    return _FAMILIES[version], socket.SOCK_DGRAM, 0, "", (address, port, 0, 0) if version == 6 else (address, port)
