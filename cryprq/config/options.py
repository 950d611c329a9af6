"""Where a node's settings come from: command line, environment, TOML file. Text only; ``config`` gives it meaning.

A setting has one name everywhere: ``--rotate-secs``, and ``rotate-secs`` in the file (``rotate_secs`` is taken too).
"""

import argparse
import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

from cryprq.errors import ConfigError, MachineError

OFFLOAD_NAMES: Final = ("vnet_hdr", "tso4", "tso6", "uso", "udp_segment", "udp_gro", "coalesce", "packing")
"""What ``--no-offload`` takes; the same names as ``_fastpath.OFFLOADS``."""
AEAD_NAMES: Final = ("auto", "aes-256-gcm", "chacha20-poly1305")
LOG_LEVELS: Final = ("debug", "info", "warn", "error", "off")
LOG_LEVEL_WORDS: Final = {**{level: level for level in LOG_LEVELS}, "trace": "debug", "warning": "warn"}
"""Every word for a level, with the level that it means."""
LOG_FORMATS: Final = ("logfmt", "json")


@dataclass(frozen=True, slots=True)
class Option:
    """One setting: its name, its environment variable, whether it may be given more than once, and its help."""

    name: str
    env: str | None
    metavar: str | None
    help: str
    many: bool = False
    number: bool = False
    flag: bool = False


OPTIONS: Final = (
    Option("listen", "CRYPRQ_LISTEN", "MULTIADDR", "listen here, e.g. /ip6/::/udp/9999/quic-v1 (dual-stack)"),
    Option("peer", "CRYPRQ_PEERS", "MULTIADDR/p2p/ID", "dial this peer; repeatable", many=True),
    Option(
        "allow-peer",
        "CRYPRQ_ALLOW_PEERS",
        "ID[=CIDR,CIDR...]",
        "allow this peer, with these networks behind it or else one assigned address; repeatable, nobody by default",
        many=True,
    ),
    Option("allow-any", None, None, "allow every peer; for labs only", flag=True),
    Option("identity", "CRYPRQ_IDENTITY", "FILE", "the identity file, made at the first start"),
    Option("tun-name", "CRYPRQ_TUN_NAME", "NAME", "name of the TUN device (cryprq0)"),
    Option("tun-address", "CRYPRQ_TUN_ADDRESS", "CIDR", "this node's address in the tunnel; repeatable", many=True),
    Option("mtu", "CRYPRQ_MTU", "N", "MTU of the TUN device (1420)", number=True),
    Option("rotate-secs", "CRYPRQ_ROTATE_SECS", "N", "seconds between key rotations, 5 to 3600 (300)", number=True),
    Option("metrics-addr", "CRYPRQ_METRICS_ADDR", "HOST:PORT", "serve /metrics and /healthz here (off)"),
    Option("aead", "CRYPRQ_AEAD", "NAME", f"{', '.join(AEAD_NAMES)}; auto is AES where the CPU has it"),
    Option("workers", "CRYPRQ_WORKERS", "N", "threads per direction, 1 to 64 (half the CPUs, up to 4)", number=True),
    Option("busy-poll-us", "CRYPRQ_BUSY_POLL_US", "N", "time to look for packets before sleeping (50)", number=True),
    Option("max-inbound", "CRYPRQ_MAX_INBOUND", "N", "handshakes that may be pending at once (64)", number=True),
    Option("backoff-base-ms", "CRYPRQ_BACKOFF_BASE_MS", "N", "first wait after a failure (500)", number=True),
    Option("backoff-max-ms", "CRYPRQ_BACKOFF_MAX_MS", "N", "longest wait after failures (30000)", number=True),
    Option("log-level", "CRYPRQ_LOG", "LEVEL", f"{', '.join(LOG_LEVELS)} (info); RUST_LOG's plain words work too"),
    Option("log-format", "CRYPRQ_LOG_FORMAT", "FORMAT", f"{' or '.join(LOG_FORMATS)} (logfmt)"),
    Option("route", "CRYPRQ_ROUTES", "CIDR", "a network behind this listener, told to dialers; repeatable", many=True),
    Option("control-socket", "CRYPRQ_CONTROL_SOCKET", "PATH", "the Unix socket that `cryprq` talks to"),
    Option("no-offload", "CRYPRQ_NO_OFFLOAD", "NAME", f"do without {', '.join(OFFLOAD_NAMES)}; repeatable", many=True),
)
_CIDR_ONLY: Final = re.compile(r"[^=]*[./:][^=]*")  # what no peer ID contains
_BY_NAME: Final = {option.name: option for option in OPTIONS}


@dataclass(frozen=True, slots=True)
class Value:
    """What one source says about a setting."""

    source: str
    """For messages: ``--mtu``, ``CRYPRQ_MTU``, or ``mtu in FILE``."""
    items: tuple[str, ...]
    """As given; exactly one for a setting that is not repeatable. For a flag, ``true`` or ``false``."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Every setting that was given, by name, strongest source first: flag, environment, file."""

    values: Mapping[str, Sequence[Value]]
    config_file: Path | None

    def first(self, name: str) -> Value | None:
        """The value that counts, or None if nobody gave one."""
        found = self.values.get(name, ())
        return found[0] if found else None


class OneLineParser(argparse.ArgumentParser):
    """An argument parser whose errors are a ConfigError instead of usage text and an exit."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see {self.prog} --help")


def parser() -> OneLineParser:
    """The command line of ``cryprq-node``. Values stay text: ``config`` checks them wherever they came from."""
    result = OneLineParser(
        prog="cryprq-node",
        description="A post-quantum VPN node. A flag beats the environment, which beats the file.",
    )
    result.add_argument("--config", metavar="FILE", help="TOML file with these settings by name [CRYPRQ_CONFIG]")
    for option in OPTIONS:
        flag = f"--{option.name}"
        if option.flag:
            result.add_argument(flag, action="store_true", help=option.help)
        else:
            result.add_argument(
                flag,
                action="append" if option.many else "store",
                metavar=option.metavar,
                help=f"{option.help} [{option.env}]",
            )
    result.add_argument("--check", action="store_true", help="validate, print the effective configuration and exit")
    result.add_argument("--version", action="store_true", help="print version and build and exit")
    return result


def collect(arguments: argparse.Namespace, environ: Mapping[str, str]) -> Settings:
    """Reads every source. ConfigError for a bad file, MachineError for one that cannot be read.

    An empty environment variable counts as unset. A list in the environment is comma separated.
    """
    path_text = arguments.config or environ.get("CRYPRQ_CONFIG")
    config_file = Path(path_text) if path_text else None
    in_file = {} if config_file is None else _read_file(config_file)
    values: dict[str, list[Value]] = {}
    for option in OPTIONS:
        found: list[Value] = []
        given = getattr(arguments, option.name.replace("-", "_"))
        if option.flag:
            if given:
                found.append(Value(f"--{option.name}", ("true",)))
        elif given is not None:
            found.append(Value(f"--{option.name}", tuple(given) if option.many else (given,)))
        if option.env is not None and (text := environ.get(option.env, "").strip()):
            found.append(Value(option.env, _split(option, text) if option.many else (text,)))
        elif option.name == "log-level" and (word := _rust_log(environ)):
            found.append(Value("RUST_LOG", (word,)))
        if option.name in in_file:
            found.append(Value(f"{option.name} in {config_file}", in_file[option.name]))
        values[option.name] = found
    return Settings(values, config_file)


def _rust_log(environ: Mapping[str, str]) -> str | None:
    """The last plain level word of RUST_LOG, which may also hold directives for other programs."""
    words = [word.strip().lower() for word in environ.get("RUST_LOG", "").split(",")]
    return next((word for word in reversed(words) if word in LOG_LEVEL_WORDS), None)


def _split(option: Option, text: str) -> tuple[str, ...]:
    """The entries of a comma separated list. In a list of peers, CIDRs after ``ID=CIDR,`` belong to that ID."""
    entries: list[str] = []
    for item in (part.strip() for part in text.split(",")):
        if option.name == "allow-peer" and entries and "=" in entries[-1] and _CIDR_ONLY.fullmatch(item):
            entries[-1] += f",{item}"
        elif item:
            entries.append(item)
    return tuple(entries)


def _read_file(path: Path) -> dict[str, tuple[str, ...]]:
    try:
        with path.open("rb") as file:
            document = tomllib.load(file)
    except OSError as error:
        raise MachineError(f"cannot read the configuration file {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    values: dict[str, tuple[str, ...]] = {}
    for key, value in document.items():
        name = key.replace("_", "-")
        option = _BY_NAME.get(name)
        if option is None:
            near = difflib.get_close_matches(name, _BY_NAME, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(_BY_NAME)}"
            raise ConfigError(f"unknown key {key!r} in {path}{hint}")
        if name in values:
            raise ConfigError(f"{name!r} is given twice in {path}, with - and with _")
        items = _file_items(option, value, path)
        if name in ("identity", "control-socket"):
            items = (str(path.parent / items[0]),)  # a path in a file means the same wherever the node is started
        values[name] = items
    return values


def _file_items(option: Option, value: object, path: Path) -> tuple[str, ...]:
    """A TOML value as the flag would spell it; ConfigError that names the key if it has the wrong type."""
    if option.flag:
        if isinstance(value, bool):
            return ("true" if value else "false",)
        expected = "true or false"
    elif option.number:
        if isinstance(value, int) and not isinstance(value, bool):
            return (str(value),)
        expected = "a whole number"
    elif not option.many:
        if isinstance(value, str):
            return (value,)
        expected = "a string"
    elif option.name == "allow-peer" and isinstance(value, dict):
        return tuple(_allow_entry(peer, networks, path) for peer, networks in value.items())
    else:
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        expected = "a string or a list of strings"
    raise ConfigError(f"{option.name!r} in {path} must be {expected}")


def _allow_entry(peer: str, networks: object, path: Path) -> str:
    """``ID=CIDR,...`` from an entry of a table ``[allow-peer]`` with ``ID = ["CIDR", ...]``."""
    if not isinstance(networks, list) or not all(isinstance(network, str) for network in networks):
        raise ConfigError(f"{peer!r} under 'allow-peer' in {path} must be a list of CIDRs, which may be empty")
    return f"{peer}={','.join(networks)}" if networks else peer
