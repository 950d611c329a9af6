"""Which rules of nftables are in the way of a node's UDP. Judged by what they say, so it errs where they jump about; a
rule that depends on more than protocol and port is only counted where it names one of the node's ports.
"""

import json
import shutil
import subprocess
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

PATIENCE: Final = 5.0
"""Seconds that nft may take."""
_HOOKS: Final = ("prerouting", "input", "output")
_DROPS: Final = ("drop", "reject")


@dataclass(frozen=True, slots=True)
class Block:
    """A rule that drops, or a chain that does so with what no rule accepts."""

    where: str
    """Family, table and chain."""
    hook: str
    what: str
    todo: str


def ruleset() -> list[dict[str, Any]] | None:
    """All that nftables has in this network namespace; None: it cannot be asked."""
    program = shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "-j", "list", "ruleset"],
            capture_output=True,
            timeout=PATIENCE,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        found = json.loads(done.stdout)["nftables"]
    except (OSError, subprocess.SubprocessError, ValueError, KeyError):
        return None
    return list(found)


def blocks(rules: Sequence[Mapping[str, Any]], own: Collection[int], theirs: Collection[int]) -> tuple[Block, ...]:
    """Those in the way of datagrams to this node's ports (``own``) and to those of peers that it dials (``theirs``)."""
    chains = {_key(each["chain"]): each["chain"] for each in rules if "chain" in each}
    by_chain: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for each in rules:
        if "rule" in each:
            by_chain.setdefault(_key(each["rule"], "chain"), []).append(each["rule"])
    found: list[Block] = []
    for key, chain in chains.items():
        if chain.get("hook") in _HOOKS:
            ports = theirs if chain["hook"] == "output" else own
            answers = own if chain["hook"] == "output" else theirs
            found += _of_chain(key, chain, by_chain, ports, answers)
    return tuple(found)


def _key(entry: Mapping[str, Any], name: str = "name") -> tuple[str, ...]:
    return entry["family"], entry["table"], entry[name]


def _of_chain(
    key: tuple[str, ...],
    chain: Mapping[str, Any],
    by_chain: Mapping[tuple[str, ...], Sequence[Mapping[str, Any]]],
    ports: Collection[int],
    answers: Collection[int],
) -> Iterator[Block]:
    accepted = False
    for rule in _flat(key, by_chain, {key}):
        verdict = _verdict(rule)
        concerns = _concerns(rule, ports, answers)
        if verdict == "accept" and concerns in (True, "all"):
            accepted = True
        if verdict not in _DROPS or concerns is False or (concerns == "all" and (accepted or not ports)):
            continue
        where = " ".join(_key(rule, "chain"))
        told = "drops" if verdict == "drop" else "rejects"
        yield Block(
            where,
            chain["hook"],
            f"{told} the node's UDP (handle {rule['handle']})",
            f"nft -a list chain {where}; nft delete rule {where} handle {rule['handle']}",
        )
        return
    if chain.get("policy") == "drop" and ports and not accepted:
        where = " ".join(key)
        port = min(ports)
        yield Block(
            where,
            chain["hook"],
            f"drops what no rule accepts, and none accepts UDP port {port}",
            f"nft insert rule {where} udp dport {port} accept",
        )


def _flat(
    key: tuple[str, ...], by_chain: Mapping[tuple[str, ...], Sequence[Mapping[str, Any]]], seen: set[tuple[str, ...]]
) -> Iterator[Mapping[str, Any]]:
    """The rules of a chain and of those that it jumps to, in their order, each chain once."""
    for rule in by_chain.get(key, ()):
        target = next(
            (each[word]["target"] for each in rule["expr"] for word in ("jump", "goto") if word in each), None
        )
        if target is None:
            yield rule
        elif (further := (*key[:2], target)) not in seen:
            seen.add(further)
            yield from _flat(further, by_chain, seen)


def _verdict(rule: Mapping[str, Any]) -> str:
    return next((word for each in rule["expr"] for word in ("accept", *_DROPS) if word in each), "")


def _concerns(rule: Mapping[str, Any], ports: Collection[int], answers: Collection[int]) -> bool | str:
    """``True``: it names UDP, and none of the other ports; ``all``: it is about every packet."""
    udp = named = other = False
    for match in (each["match"] for each in rule["expr"] if "match" in each):
        left, right = match["left"], match["right"]
        field = left.get("payload", {}) if isinstance(left, dict) else {}
        if field.get("protocol") in ("udp", "th") and field.get("field") in ("dport", "sport"):
            wanted = ports if field["field"] == "dport" else answers
            if match.get("op") == "!=" or not any(_holds(right, port) for port in wanted):
                return False
            udp = named = True
        elif field.get("protocol") in ("tcp", "icmp", "icmpv6"):
            return False
        elif field.get("field") == "protocol" or left.get("meta", {}).get("key") == "l4proto":
            if not _holds(right, "udp"):
                return False
            udp = True
        else:
            other = True
    if named or (udp and not other):
        return True
    return False if other or udp else "all"


def _holds(right: Any, value: int | str) -> bool:
    """Whether a value is what a match has on its right: itself, in a set, or in a range."""
    if isinstance(right, dict):
        if "range" in right and isinstance(value, int):
            low, high = right["range"]
            return bool(low <= value <= high)
        return any(_holds(each, value) for each in right.get("set", ()))
    if isinstance(right, list):
        return any(_holds(each, value) for each in right)
    return bool(right == value)
