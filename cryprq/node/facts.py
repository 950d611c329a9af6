"""Gathers what ``cryprq doctor`` goes by: asks the kernel, files, name servers and listeners. Changes nothing."""

import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from cryprq.address import Address
from cryprq.config import psk_file
from cryprq.config.identity_file import load_identity
from cryprq.config.node_config import NodeConfig
from cryprq.errors import CryprqError
from cryprq.linux.host_address import reachable_address
from cryprq.linux.host_facts import HostFacts, host_facts
from cryprq.linux.route_plan import Numbers
from cryprq.linux.sockets import bind_fault
from cryprq.linux.surroundings import Way, way_to
from cryprq.multiaddr import Multiaddr
from cryprq.node import firewall
from cryprq.node.doubts import of_configuration, of_machine
from cryprq.node.findings import Facts, Peer
from cryprq.node.hook import check as check_hook
from cryprq.node.reach import ask
from cryprq.peer_id import PeerId
from cryprq.peer_name import resolve
from cryprq.protocol.key_schedule import wipe
from cryprq.registry.database import Database
from cryprq.registry.entries import PEER_PREFIX, PeerEntry
from cryprq.registry.sqlite import registry_path

PEERS_MAX: Final = 20
"""Peers that are all looked at; of more, those that are dialled, or that something is wrong with."""
TARGETS_MAX: Final = 8
"""Addresses of one peer that are asked: as many as are dialled."""
THREADS: Final = 16
_FAMILIES: Final = {"dns": socket.AF_UNSPEC, "dns4": socket.AF_INET, "dns6": socket.AF_INET6}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where to look."""

    tun_name: str
    identity: Path
    status: Mapping[str, Any] | None = None
    """What the node says."""
    not_asked: str = ""
    config: NodeConfig | None = None
    config_fault: str = ""


def gather(source: Source, word: str | None) -> Facts:
    """All facts about the node, and about the peer that a word means, or all. LookupError, one line, if it means none.
    Takes some seconds where nobody answers."""
    config = source.config
    mark = config.fwmark if config is not None and config.fwmark is not None else Numbers.of(source.tun_name).mark
    host = host_facts(source.tun_name)
    facts = Facts(
        host=host,
        tun_name=source.tun_name,
        status=source.status,
        not_asked=source.not_asked,
        identity_time=_made(source.identity),
    )
    if source.status is not None:
        facts = replace(facts, **_of_status(source.status), peers=_running(source.status, word))
    elif not source.not_asked:
        facts = replace(facts, config_fault=source.config_fault, **_of_files(source))
        if config is not None:
            facts = replace(facts, **_of_config(config, host), peers=_configured(config, _registered(config), word))
    with ThreadPoolExecutor(THREADS) as pool:
        looked = tuple(pool.map(lambda peer: _looked_at(peer, config, mark), facts.peers))
    own, theirs = _ports(facts, config, looked)
    rules = firewall.ruleset()
    return replace(facts, peers=looked, blocks=None if rules is None else firewall.blocks(rules, own, theirs))


def _made(identity: Path) -> float | None:
    try:
        return identity.stat().st_mtime
    except OSError:
        return None


# ---- the node ----


def _of_status(status: Mapping[str, Any]) -> dict[str, Any]:
    listening = [Multiaddr.parse(each).host for each in status["listen_addrs"]]
    return {"announced": status["announced"], "mtu": status["mtu"], "listening": listening}


def _of_config(config: NodeConfig, host: HostFacts) -> dict[str, Any]:
    faults = [(str(each), bind_fault(each)) for each in config.listen]
    addresses = [
        reachable_address(socket.AF_INET6 if each.protocol == "ip6" else socket.AF_INET, without=config.tun_name)
        if each.host in ("::", "0.0.0.0")
        else each.host
        for each in config.listen
    ]
    return {
        "doubts": (*config.peer_faults, *of_machine(config), *of_configuration(config, _registered(config))),
        "ports": dict(faults),
        "listening": addresses,
        "announced": list(map(str, config.routes)),
        "mtu": config.mtu,
    }


def _of_files(source: Source) -> dict[str, Any]:
    """What is wrong with the identity, the keys, the hook and the registry."""
    found: dict[str, Any] = {}
    try:
        if os.path.lexists(source.identity):
            load_identity(source.identity)
    except CryprqError as error:
        found["identity_fault"] = str(error)
    if (config := source.config) is None:
        return found
    try:
        wipe(*psk_file.load_all(config.psk_files).values())
        if config.on_change is not None:
            check_hook(config.on_change)
    except CryprqError as error:
        found["config_fault"] = str(error)
    database = Database(registry_path(config.identity, config.tun_name, config.lease_dir))
    try:
        database.load()
    except CryprqError as error:
        found["registry_fault"] = str(error)
    finally:
        database.close()
    return found


def _registered(config: NodeConfig) -> dict[PeerId, PeerEntry]:
    database = Database(registry_path(config.identity, config.tun_name, config.lease_dir))
    try:
        entries = database.load().entries
        found = (PeerEntry.decode(key, entry.value) for key, entry in entries.items() if key.startswith(PEER_PREFIX))
        return {entry.peer_id: entry for entry in found}
    except (CryprqError, ValueError):
        return {}  # told already
    finally:
        database.close()


# ---- peers ----


def _running(status: Mapping[str, Any], word: str | None) -> tuple[Peer, ...]:
    samples: Sequence[Mapping[str, Any]] = status["peers"]
    if word is not None:
        wanted = str(resolve(word, *_known((each["peer_id"], each["name"]) for each in samples)))
        samples = [each for each in samples if each["peer_id"] == wanted]
        if not samples:
            raise LookupError(f"the node knows no peer {word}; `cryprq peer list` shows those that there are")
    elif len(samples) > PEERS_MAX:
        samples = [each for each in samples if each["dialled_at"] or each["trouble"] or each["silent"]][:PEERS_MAX]
    return tuple(
        Peer(peer_id=each["peer_id"], name=each["name"], wanted=word is not None, sample=each) for each in samples
    )


def _configured(config: NodeConfig, registered: Mapping[PeerId, PeerEntry], word: str | None) -> tuple[Peer, ...]:
    """Those that are dialled: of the others nothing can be known while no node runs."""
    dialled = dict.fromkeys(each.peer_id for each in config.peers if each.peer_id is not None)
    peers = dict.fromkeys((*dialled, *config.allow_peers, *registered))
    called = {
        peer: config.peer_names.get(peer) or (registered[peer].name if peer in registered else "") for peer in peers
    }
    if word is not None:
        wanted = resolve(word, *_known((str(peer), name) for peer, name in called.items()))
        if wanted not in peers:
            raise LookupError(f"the configuration knows no peer {word}")
        dialled = {wanted: None}
    return tuple(Peer(peer_id=str(peer), name=called[peer], wanted=word is not None) for peer in dialled)


def _known(peers: Iterable[tuple[str, str]]) -> tuple[dict[str, PeerId], list[PeerId]]:
    pairs = [(PeerId.parse(peer), name) for peer, name in peers]
    return {name: peer for peer, name in pairs if name}, [peer for peer, _ in pairs]


def _looked_at(peer: Peer, config: NodeConfig | None, mark: int) -> Peer:
    """With what name servers, routes and the peer's addresses say of it."""
    if peer.sample is not None:
        targets = [Multiaddr.parse(each) for each in peer.sample["dialled_at"]]
    else:
        targets = [each for each in config.peers if str(each.peer_id) == peer.peer_id] if config is not None else []
    names: dict[str, str] = {}
    addresses: dict[Address, None] = {}
    for target in targets:
        if target.is_numeric:
            addresses[Address(target.host, target.port)] = None
            continue
        found, names[target.host] = _resolved(target)
        addresses.update(dict.fromkeys(found))
    identifier = PeerId.parse(peer.peer_id)
    reach = tuple(ask(address, identifier, mark) for address in tuple(addresses)[:TARGETS_MAX])
    at = peer.sample["endpoint"] if peer.connected and peer.sample is not None else str(next(iter(addresses), ""))
    return replace(peer, names=names, reach=reach, way=_way(at, mark))


def _resolved(target: Multiaddr) -> tuple[list[Address], str]:
    try:
        found = socket.getaddrinfo(target.host, target.port, _FAMILIES[target.protocol], socket.SOCK_DGRAM)
    except (OSError, UnicodeError) as error:
        return [], getattr(error, "strerror", None) or str(error)
    return [Address.from_sockaddr(sockaddr) for *_, sockaddr in found], ""


def _way(endpoint: str, mark: int) -> Way | str | None:
    host = endpoint.rpartition(":")[0].strip("[]")
    if not host or "%" in host:
        return None
    try:
        return way_to(host, mark)
    except PermissionError:
        return None  # no mark without rights, and without one the answer may be about another way
    except OSError as error:
        return error.strerror or str(error)


def _ports(facts: Facts, config: NodeConfig | None, peers: Iterable[Peer]) -> tuple[set[int], set[int]]:
    """Those at which this node listens, and those at which it dials others."""
    if facts.status is not None:
        own = {Multiaddr.parse(each).port for each in facts.status["listen_addrs"]}
    else:
        own = {each.port for each in config.listen} if config is not None else set()
    return own, {int(each.where.rpartition(":")[2]) for peer in peers for each in peer.reach}
