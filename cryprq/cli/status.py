"""The table that ``cryprq status`` prints: as wide as the terminal, and with everything where there is none."""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from cryprq.cli import admin_client
from cryprq.cli.paint import Paint, paint_for, plain
from cryprq.telemetry.samples import NodeStatus, PeerSample, as_json

LABEL_USUAL: Final = 12
"""Characters of a peer's name or ID for which columns move together, ..."""
LABEL_MIN: Final = 8
"""... and that are shown however narrow the terminal is; ..."""
ADDRESS_MIN: Final = 10
"""... likewise of an address."""

WATCHED: Final = "\x1b[H\x1b[J"
"""To the top of the screen, and all below it away (ECMA-48: CUP, ED)."""

_NODE: Final = as_json(NodeStatus(version="", peer_id="", tun_name="", uptime_secs=0.0, healthy=True))
_PEER: Final = asdict(PeerSample(peer_id="", connected=False))

Peer = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class _Column:
    head: str
    cells: Callable[[Peer, float], Sequence[str]]
    """Of one peer at a Unix time: one, or several below each other."""
    optional: bool = False
    """Whether it gives way where there is no room, the last one first."""


def show(path: Path, *, json_form: bool, every: float | None) -> None:
    """Prints the status of the node behind an admin socket, again every so many seconds if that is given: as a table,
    or as JSON, then an object a line. MachineError, one line."""
    terminal = sys.stdout.isatty()
    while True:
        status = admin_client.request(path, "status", measure=True)
        if json_form:
            text = json.dumps(status, indent=2 if every is None else None)
        else:
            width = shutil.get_terminal_size().columns if terminal else None
            text = render(status, width=width, paint=paint_for(sys.stdout, os.environ))
        print(WATCHED + text if terminal and every is not None and not json_form else text, flush=True)
        if every is None:
            return
        time.sleep(every)


def render(status: Mapping[str, Any], *, width: int | None = None, paint: Paint = plain) -> str:
    """The table, from the JSON form of a NodeStatus; no wider than ``width`` characters where that is given, and
    is 68 or more."""
    status = completed(status)
    lines = _head(status, paint)
    peers = status["peers"]
    lines += _table(peers, status["time"], width, paint) if peers else ["no peers"]
    return "\n".join([*lines, "", f"dropped   {_drops(status)}"])


def completed(status: Mapping[str, Any]) -> dict[str, Any]:
    """A status with the fields that an older node, which still runs, does not have."""
    filled = {**_NODE, "time": time.time(), **status}
    return {**filled, "peers": [{**_PEER, **peer} for peer in filled["peers"]]}


def _head(status: Mapping[str, Any], paint: Paint) -> list[str]:
    fault = "" if status["healthy"] else paint("bad", f", NOT HEALTHY: {status['unhealthy']}")
    lines = [
        f"node      {status['peer_id']}",
        f"version   {status['version']}, up {duration(status['uptime_secs'])}{fault}",
    ]
    lines += [f"listening {address}" for address in status["listen_addrs"]]
    addresses = ", ".join(status["addresses"]) or "no address yet"
    lines.append(f"tunnel    {status['tun_name']}, {addresses}, MTU {status['mtu']}")
    if status["name_servers"]:
        lines.append(f"names     {_names(status)}")
    return [*lines, *(paint("bad", f"missing   {fault}") for fault in status["faults"]), ""]


# ---- the table of peers ----


def state(peer: Peer) -> str:
    """How a peer is, in a word."""
    if peer["connected"]:
        return "silent" if peer["silent"] else "up"
    return peer["barred"] or "down"


_STATE_KINDS: Final = {"up": "good", "silent": "bad", "disabled": "faint", "expired": "faint"}


def label(peer: Peer) -> str:
    """A peer's name, or its ID where it has none."""
    return str(peer["name"] or peer["peer_id"])


def round_trip(peer: Peer) -> str:
    """Of a peer, with its unit; - if it is unknown."""
    seconds = peer["round_trip_secs"]
    if seconds is None:
        return "-"
    return f"{seconds * 1e6:.0f}us" if seconds < 1e-3 else f"{seconds * 1e3:.{1 if seconds < 0.1 else 0}f}ms"


def loss(peer: Peer) -> str:
    """The share of a peer's records that did not arrive; - where there were none."""
    lost, sent = peer["epoch_lost"], peer["epoch_arrived"] + peer["epoch_lost"]
    return "-" if not sent else f"{100 * lost / sent:.{1 if 0 < lost * 10 < sent else 0}f}%"


def rate(count: float) -> str:
    """Bytes a second in at most four characters: powers of 1024, bytes without a unit."""
    for unit in ("", "K", "M", "G"):
        if count < 999.5:
            return f"{count:.1f}{unit}" if unit and count < 9.95 else f"{count:.0f}{unit}"
        count /= 1024
    return f"{count:.0f}T"


def _one(show: Callable[[Peer], object]) -> Callable[[Peer, float], Sequence[str]]:
    return lambda peer, _: (str(show(peer)),)


def _networks(peer: Peer, _: float) -> Sequence[str]:
    # One a line: a site with ten of them must not push the other columns off the screen.
    return [*peer["allowed_ips"], *(f"{network} (standby)" for network in peer["standby_for"])]


def _since(peer: Peer, now: float) -> Sequence[str]:
    return ("-" if peer["since"] is None else duration(max(0.0, now - peer["since"])),)


def _seen(peer: Peer) -> str:
    heard = peer["last_heard_secs"]
    return "never" if heard is None else duration(heard)


def _age(peer: Peer) -> str:
    age = peer["epoch_age_secs"]
    return "-" if age is None else duration(age)


_COLUMNS: Final = (
    _Column("STATE", _one(state)),
    _Column("SINCE", _since),
    _Column("SEEN", _one(_seen)),
    _Column("ADDRESS", lambda peer, _: [address.partition("/")[0] for address in peer["addresses"]]),
    _Column("RTT", _one(round_trip)),
    _Column("LOSS", _one(loss)),
    _Column("PMTU", _one(lambda peer: peer["path_mtu"] or "-")),
    _Column("IN/s", _one(lambda peer: rate(peer["rx_rate"]))),
    _Column("OUT/s", _one(lambda peer: rate(peer["tx_rate"]))),
    _Column("ENDPOINT", _one(lambda peer: peer["endpoint"] or "-"), optional=True),
    _Column("ALLOWED IPS", _networks, optional=True),
    _Column("RECEIVED", _one(lambda peer: size(peer["rx_bytes"])), optional=True),
    _Column("SENT", _one(lambda peer: size(peer["tx_bytes"])), optional=True),
    _Column("EPOCH", _one(lambda peer: peer["epoch"] if peer["connected"] else "-"), optional=True),
    _Column("AGE", _one(_age), optional=True),
)
_ADDRESS: Final = 4
"""Its place, behind that of the peer."""
_ID: Final = _Column("ID", _one(lambda peer: peer["peer_id"]), optional=True)


def _table(peers: Sequence[Peer], now: float, width: int | None, paint: Paint) -> list[str]:
    columns = [_Column("PEER", _one(label)), *_COLUMNS]
    if any(peer["name"] for peer in peers):
        columns.append(_ID)
    cells = [[list(column.cells(peer, now)) or ["-"] for column in columns] for peer in peers]
    widths = [
        max(len(column.head), *(len(cell) for row in cells for cell in row[at])) for at, column in enumerate(columns)
    ]
    gap = 2 if width is None else _fit(columns, widths, width)
    lines = [_line([column.head for column in columns[: len(widths)]], widths, gap)]
    for peer, row in zip(peers, cells, strict=True):
        shown = row[: len(widths)]
        for depth in range(max(map(len, shown))):
            line = _line([each[depth] if depth < len(each) else "" for each in shown], widths, gap)
            word = state(peer)
            if depth == 0 and word in _STATE_KINDS:
                at = widths[0] + gap
                line = line[:at] + paint(_STATE_KINDS[word], word) + line[at + len(word) :]
            lines.append(line)
    return lines


def _fit(columns: Sequence[_Column], widths: list[int], width: int) -> int:
    """Makes ``widths`` shorter, and fewer from their end, until the columns fit; returns the gap between two."""

    def excess(gap: int) -> int:
        return sum(widths) + gap * (len(widths) - 1) - width

    needed = sum(not column.optional for column in columns)
    while len(widths) > needed and excess(2) > 0:
        widths.pop()
    gap = 2 if excess(2) <= widths[0] - LABEL_USUAL else 1
    for at, least in ((0, LABEL_MIN), (_ADDRESS, ADDRESS_MIN)):
        widths[at] -= max(0, min(widths[at] - least, excess(gap)))
    return gap


def _line(cells: Sequence[str], widths: Sequence[int], gap: int) -> str:
    fitted = (_cut(cell, width).ljust(width) for cell, width in zip(cells, widths, strict=True))
    return (" " * gap).join(fitted).rstrip()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


# ---- the rest ----


def _drops(status: Mapping[str, Any]) -> str:
    drops = [
        f"{direction}/{reason} {count}"
        for direction, reasons in sorted(status["drops"].items())
        for reason, count in sorted(reasons.items())
        if count
    ]
    return ", ".join(drops) or "nothing"


def _names(status: Mapping[str, Any]) -> str:
    about = "all names" if status["dns_everything"] else ", ".join(status["search"])
    told = {"": "NOT in use here", "on-change": "left to --on-change"}.get(status["dns_by"], f"by {status['dns_by']}")
    return f"{', '.join(status['name_servers'])} for {about}, {told}"


def duration(seconds: float) -> str:
    """In at most six characters, up to ten years."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    if whole < 100 * 86400:
        return f"{whole // 86400}d{whole % 86400 // 3600:02}h"
    return f"{whole // 86400}d"


def size(count: int) -> str:
    """Bytes, in powers of 1024."""
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:.1f} {'KMGT'[power - 1]}iB"
