"""Texts and the values that they mean. Every parser raises ValueError with what is wrong with the text."""

import re
from ipaddress import ip_address, ip_interface, ip_network
from typing import Final, Literal

from cryprq.dns import NameServerAddress
from cryprq.networks import Interface, Network

LOG_LEVELS: Final = ("debug", "info", "warn", "error", "off")
INHERIT: Final = "inherit"

_LEVEL_WORDS: Final = {**{level: level for level in LOG_LEVELS}, "trace": "debug", "warning": "warn"}
_MARK: Final = re.compile(r"0|[1-9][0-9]{0,19}|0[xX][0-9a-fA-F]{1,16}", re.ASCII)
_NUMBER: Final = re.compile(r"-?[0-9]{1,9}", re.ASCII)


def comma_list(text: str) -> tuple[str, ...]:
    """The entries of a comma separated list, without empty ones."""
    return tuple(filter(None, (part.strip() for part in text.split(","))))


def boolean(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise ValueError(f"{text!r} is neither true nor false")
    return text.lower() == "true"


def number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise ValueError(f"{text!r} is not a whole number")
    return int(text)


def mark(text: str) -> int:
    """A mark as firewalls write it: decimal, or hexadecimal with 0x."""
    if not _MARK.fullmatch(text):
        raise ValueError(f"{text!r} is not a number such as 51820 or 0xca6c")
    return int(text, 0)


def route_table(text: str) -> int | str:
    """``auto``, ``main``, ``off``, or a table's number."""
    word = text.lower()
    return number(word) if _NUMBER.fullmatch(word) else word


def dscp(text: str) -> int | Literal["inherit"]:
    """``inherit``, or a code point. ValueError for what is neither."""
    return "inherit" if text.lower() == INHERIT else number(text)


def network(text: str) -> Network:
    """A CIDR; without a prefix length it is one address, and host bits are cleared, as ``wg`` and ``ip route`` users
    expect."""
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is not a network such as 10.9.0.0/24 or fd00:9::/64") from None


def narrowed(text: str) -> Network | None:
    """The network that ``network`` makes of a text by clearing host bits; None: it clears none, or it is no network."""
    try:
        written = ip_interface(text)
    except ValueError:
        return None
    return None if written.ip == written.network.network_address else written.network


def name_server(text: str) -> NameServerAddress:
    """An address; name servers are asked on port 53."""
    try:
        if "%" not in text:
            return ip_address(text)
    except ValueError:
        pass
    raise ValueError(f"{text!r} is not an address such as 10.9.0.1 or fd00:9::1")


def interface(text: str) -> Interface:
    """An address with its prefix length; without one it would silently be a network of one address."""
    try:
        if "/" in text:
            return ip_interface(text)
    except ValueError:
        pass
    raise ValueError(f"{text!r} is not an address with its prefix length, such as 10.9.0.1/24 or fd00:9::1/64")


def host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or not _NUMBER.fullmatch(port) or not 0 <= int(port) <= 0xFFFF:
        raise ValueError(f"{text!r} is not HOST:PORT, such as 127.0.0.1:9464 or [::1]:9464")
    return host, int(port)


def show_host_port(value: tuple[str, int]) -> str:
    host, port = value
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def log_level(text: str) -> str:
    """The level that a word stands for."""
    level = _LEVEL_WORDS.get(text.lower())
    if level is None:
        raise ValueError(f"{text!r} is not a log level; use one of {', '.join(LOG_LEVELS)}")
    return level


def rust_log_level(text: str) -> str | None:
    """The last plain level word of RUST_LOG, which may also hold directives for other programs."""
    words = [word.lower() for word in comma_list(text)]
    return next((word for word in reversed(words) if word in _LEVEL_WORDS), None)
