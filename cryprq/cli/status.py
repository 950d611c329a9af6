"""The table that ``cryprq status`` prints."""

from collections.abc import Mapping
from typing import Any


def render(status: Mapping[str, Any]) -> str:
    """The table that ``cryprq status`` prints, from the JSON form of a NodeStatus."""
    lines = [
        f"node      {status['peer_id']}",
        f"version   {status['version']}, up {_duration(status['uptime_secs'])}"
        + ("" if status["healthy"] else f", NOT HEALTHY: {status['unhealthy']}"),
    ]
    lines += [f"listening {address}" for address in status["listen_addrs"]]
    addresses = ", ".join(status["addresses"]) or "no address yet"
    lines.append(f"tunnel    {status['tun_name']}, {addresses}, MTU {status['mtu']}")
    if status["name_servers"]:
        lines.append(f"names     {_names(status)}")
    lines += [*(f"missing   {fault}" for fault in status["faults"]), ""]
    rows = [("PEER", "ENDPOINT", "ADDRESS", "ALLOWED IPS", "EPOCH", "AGE", "HEARD", "PATH MTU", "RECEIVED", "SENT")]
    for peer in status["peers"]:
        up = peer["connected"]
        age, heard = peer["epoch_age_secs"], peer["last_heard_secs"]
        # One network a line: a site with ten of them must not push the other columns off the screen.
        networks = [*peer["allowed_ips"], *(f"{network} (standby)" for network in peer["standby_for"])]
        lists = [list(peer["addresses"]) or ["-"], networks or ["-"]]
        rows.append(
            (
                peer["peer_id"],
                peer["endpoint"] or "-",
                lists[0].pop(0),
                lists[1].pop(0),
                "silent" if peer["silent"] else str(peer["epoch"]) if up else "down",
                "-" if age is None else _duration(age),
                "never" if heard is None else f"{_duration(heard)} ago",
                str(peer["path_mtu"] or "-"),
                _size(peer["rx_bytes"]),
                _size(peer["tx_bytes"]),
            )
        )
        while any(lists):
            address, network = (items.pop(0) if items else "" for items in lists)
            rows.append(("", "", address, network, "", "", "", "", "", ""))
    if len(rows) == 1:
        lines.append("no peers")
    else:
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            lines.append("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    drops = [
        f"{direction}/{reason} {count}"
        for direction, reasons in sorted(status["drops"].items())
        for reason, count in sorted(reasons.items())
        if count
    ]
    lines += ["", f"dropped   {', '.join(drops) or 'nothing'}"]
    return "\n".join(lines)


def _names(status: Mapping[str, Any]) -> str:
    about = "all names" if status["dns_everything"] else ", ".join(status["search"])
    told = {"": "NOT in use here", "on-change": "left to --on-change"}.get(status["dns_by"], f"by {status['dns_by']}")
    return f"{', '.join(status['name_servers'])} for {about}, {told}"


def _duration(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def _size(count: int) -> str:
    if count < 1024:
        return f"{count} B"
    power = min((count.bit_length() - 1) // 10, 4)
    return f"{count / 1024**power:.1f} {'KMGT'[power - 1]}iB"
