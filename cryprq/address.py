"""UDP addresses as the rest of the package sees them: never IPv4-mapped, comparable, printable. And our own end."""

import errno
import socket
from ipaddress import IPv6Address
from typing import Any, Final, NamedTuple

_MAPPED: Final = "::ffff:"


class Address(NamedTuple):
    """A UDP address. ``host`` is a numeric IPv4 or IPv6 address, ``scope`` an interface index (link-local) or 0."""

    host: str
    port: int
    scope: int = 0

    @classmethod
    def from_sockaddr(cls, sockaddr: Any) -> "Address":
        """From what recvmsg returns on an AF_INET or AF_INET6 socket; an IPv4-mapped host becomes plain IPv4."""
        host = sockaddr[0]
        if len(sockaddr) == 2:
            return cls(host, sockaddr[1])
        if host.startswith(_MAPPED) and "." in host:
            return cls(host[len(_MAPPED) :], sockaddr[1])
        return cls(host, sockaddr[1], sockaddr[3])

    @property
    def is_ipv6(self) -> bool:
        return ":" in self.host

    @property
    def is_link_local(self) -> bool:
        return self.is_ipv6 and IPv6Address(self.host).is_link_local

    def to_sockaddr(self, family: int) -> tuple[str, int] | tuple[str, int, int, int]:
        """For sendto and sendmsg on a socket of that family. OSError if the family cannot reach the address."""
        if family == socket.AF_INET:
            if self.is_ipv6:
                raise OSError(errno.EAFNOSUPPORT, f"an IPv4 socket cannot reach {self}")
            return self.host, self.port
        host = self.host if self.is_ipv6 else _MAPPED + self.host
        return host, self.port, 0, self.scope

    def __str__(self) -> str:
        if not self.is_ipv6:
            return f"{self.host}:{self.port}"
        if not self.scope:
            return f"[{self.host}]:{self.port}"
        return f"[{self.host}%{self.scope}]:{self.port}"


class Local(NamedTuple):
    """By what of this node a peer's datagrams come in, and those to it leave."""

    host: str | None = None
    """A numeric address of this host; None: the kernel's choice."""
    group: int = 0
    """Which of the node's socket groups, and so which UDP port."""
