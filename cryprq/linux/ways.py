"""Ways that open: the kernel's notices say that a link has a carrier, that there is an address, that a route leads to a
host, where there was none a moment ago. Repetitions, of which a router advertisement makes one each time, are no news.
"""

from collections.abc import Collection
from typing import Final

from cryprq.linux.rtnetlink import (
    RTM_DELADDR,
    RTM_DELLINK,
    RTM_NEWADDR,
    RTM_NEWLINK,
    RTM_NEWROUTE,
    held_address,
    leads_to,
    link_state,
)

KNOWN_MAX: Final = 4096
"""Links and addresses that are remembered; with one more it begins anew, and what comes then may be told once more."""


class Ways:
    """What is known of links and addresses, by notices only: the first notice of each is news."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bytes], int] = {}

    def opens(self, kind: int, body: bytes, interface: int, hosts: Collection[bytes]) -> bool:
        """Whether a notice tells of a way that has opened, through any interface but this one: by a link, an address,
        or a route to one of ``hosts`` (packed addresses)."""
        if kind in (RTM_NEWLINK, RTM_DELLINK):
            # The kernel tells of carriers once a second: one that was away for less is told by its count alone.
            index, carries, times = link_state(body)
            return index != interface and self._note((index, b""), kind == RTM_NEWLINK and carries, times)
        if kind in (RTM_NEWADDR, RTM_DELADDR):
            index, packed, usable = held_address(body)
            return index != interface and self._note((index, packed), kind == RTM_NEWADDR and usable)
        return kind == RTM_NEWROUTE and leads_to(body, hosts)

    def _note(self, what: tuple[int, bytes], there: bool, times: int = 0) -> bool:
        """Whether it is there now and was not before, or has come back meanwhile."""
        if not there:
            self._known.pop(what, None)
            return False
        if self._known.get(what) == times:
            return False
        if what not in self._known and len(self._known) >= KNOWN_MAX:
            self._known.clear()
        self._known[what] = times
        return True
