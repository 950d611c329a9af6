"""How a host is told whom to ask about names: by systemd-resolved, or by resolvconf. Decides only; nothing runs here.

systemd-resolved keeps settings for each interface and forgets them with the interface. It asks different servers about
different domains. resolvconf(8), Debian's or openresolv's, keeps records by a name of the caller's choice and makes one
list for everything of them; a record stays until it is taken out. Nobody here writes to /etc/resolv.conf.
"""

import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from cryprq.dns import DnsSettings
from cryprq.linux.program import find

_RESOLVED: Final = Path("/run/systemd/resolve")
"""Is there from the first start of systemd-resolved on."""
_INTERFACE_ORDER: Final = Path("/etc/resolvconf/interface-order")
"""Of Debian's resolvconf: it goes by the names of interfaces, and tunnels that are called so come before all others."""


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run."""

    words: tuple[str, ...]
    data: bytes = b""
    """Its standard input."""


class Way(Protocol):
    """One way to tell the host."""

    @property
    def name(self) -> str:
        """As the log has it."""

    @property
    def leaves_record(self) -> bool:
        """Whether settings outlive the interface that they came with."""

    def refusal(self, settings: DnsSettings) -> str | None:
        """Why it cannot do what these ask for, in one line, or None."""

    def apply(self, interface: str, settings: DnsSettings) -> tuple[Command, ...]:
        """What puts settings in force, in the place of earlier ones of this interface."""

    def undo(self, interface: str) -> tuple[Command, ...]:
        """What takes them back."""

    def trace(self, interface: str) -> bytes | None:
        """What is another when somebody else has changed or removed them; always None where nothing shows that."""


@dataclass(frozen=True, slots=True)
class Resolvectl:
    """systemd-resolved, by its own tool."""

    program: str
    name: str = "resolvectl"
    leaves_record: bool = False

    def refusal(self, settings: DnsSettings) -> str | None:
        return None

    def apply(self, interface: str, settings: DnsSettings) -> tuple[Command, ...]:
        # "~." makes this the interface for whatever no other one has a domain for. Without a domain of its own there is
        # still one to be named, or the domains of earlier settings would stay.
        domains = (*settings.search, "~.") if settings.everything else settings.search
        return (
            Command((self.program, "domain", "--", interface, *(domains or ("",)))),
            Command((self.program, "default-route", "--", interface, "yes" if settings.everything else "no")),
            Command((self.program, "dns", "--", interface, *map(str, settings.servers))),
        )

    def undo(self, interface: str) -> tuple[Command, ...]:
        return (Command((self.program, "revert", "--", interface)),)

    def trace(self, interface: str) -> bytes | None:
        # Its own note of what it was told, to be found again after a restart. What is in it is its affair; whether it
        # is the same as before tells enough.
        try:
            return (_RESOLVED / "netif" / str(socket.if_nametoindex(interface))).read_bytes()
        except OSError:
            return None


@dataclass(frozen=True, slots=True)
class Resolvconf:
    """resolvconf, Debian's or openresolv's. Its records are named after the interface."""

    program: str
    prefix: str = ""
    name: str = "resolvconf"
    leaves_record: bool = True

    def refusal(self, settings: DnsSettings) -> str | None:
        if settings.everything:
            return None
        return "resolvconf cannot ask different servers about different domains; --accept-dns all asks these everything"

    def apply(self, interface: str, settings: DnsSettings) -> tuple[Command, ...]:
        lines = [f"nameserver {server}" for server in settings.servers]
        if settings.search:
            lines.append(f"search {' '.join(settings.search)}")
        data = "".join(f"{line}\n" for line in lines).encode("ascii")
        # For openresolv: before all others (-m 0), and these servers alone (-x). Debian's minds neither.
        return (Command((self.program, "-a", self._record(interface), "-m", "0", "-x"), data),)

    def undo(self, interface: str) -> tuple[Command, ...]:
        return (Command((self.program, "-d", self._record(interface), "-f")),)

    def trace(self, interface: str) -> bytes | None:
        return None

    def _record(self, interface: str) -> str:
        return f"{self.prefix}{interface}.inet"


def resolvectl() -> str | None:
    """The tool of systemd-resolved, where that runs."""
    tool = find("resolvectl") if _RESOLVED.is_dir() else None
    return None if tool is None else str(tool)


def ways() -> tuple[Way, ...]:
    """Those that this host has, the better one first."""
    found: list[Way] = []
    if (tool := resolvectl()) is not None:
        found.append(Resolvectl(tool))
    program = find("resolvconf")
    # systemd has a resolvconf, too, which is resolvectl by another name.
    if program is not None and os.path.basename(os.path.realpath(program)) != "resolvectl":
        found.append(Resolvconf(str(program), "tun." if _INTERFACE_ORDER.exists() else ""))
    return tuple(found)
