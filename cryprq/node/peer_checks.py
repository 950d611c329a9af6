"""What may be wrong between a node and its peers: as ``cryprq.node.host_checks``."""

from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final

from cryprq.linux.surroundings import Way
from cryprq.node.findings import FAULT, NOTE, OK, Facts, Finding, Peer, says
from cryprq.node.reach import Reach

_SHARED: Final = ip_network("100.64.0.0/10")
"""Addresses behind a carrier's NAT (RFC 6598)."""
_PRIVATE: Final = tuple(map(ip_network, ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")))
"""Addresses that everybody may use inside (RFC 1918, RFC 4193)."""
_RECORD: Final = 32
_OUTER: Final = {4: 20 + 8, 6: 40 + 8}
"""What is around an inner packet: header and tag of the record, and IP and UDP headers by IP version."""


def sessions(facts: Facts) -> Iterator[Finding]:
    say = says("peer")
    for peer in facts.peers:
        sample = peer.sample
        if sample is None:
            continue
        if sample["barred"]:
            todo = (
                f"cryprq peer enable {peer.label}"
                if sample["barred"] == "disabled"
                else f"cryprq peer expire {peer.label} 30d"
            )
            yield say(FAULT if peer.wanted else NOTE, f"may not connect: {sample['barred']}", todo, peer.label)
        elif peer.connected and sample["silent"]:
            yield say(FAULT, "has a session, and does not answer", "is it up? is UDP let through to it?", peer.label)
        elif peer.connected:
            yield say(OK, f"is up, {sample['direction']}, at {sample['endpoint']}", about=peer.label)
        elif peer.trouble:
            yield say(FAULT, "is not there", peer.trouble, peer.label)
        elif sample["dialled_at"]:
            yield say(
                FAULT, "is not there yet, and is being dialled", f"cryprq doctor {peer.label}, in a minute", peer.label
            )
        else:
            where = "it has to dial this node, and has not come since that started"
            yield say(FAULT if peer.wanted else NOTE, where, "at the peer: cryprq doctor", peer.label)
    if facts.status is not None:
        yield from _of_nobody(facts, say)


def _of_nobody(facts: Facts, say: Callable[..., Finding]) -> Iterator[Finding]:
    denied = facts.status["denied"] if facts.status is not None else ""
    if denied:
        yield say(NOTE, f"{denied} was refused: it is not on the list", f"if you know it: cryprq peer add {denied}")
    if not facts.peers:
        yield say(FAULT, "there is no peer at all", "cryprq invite NAME, cryprq peer add ID, or --peer MULTIADDR")


def reachable(facts: Facts) -> Iterator[Finding]:
    say = says("port reachable")
    for peer in facts.peers:
        for reach in peer.reach:
            yield from _reachable(peer, reach, say)


def _reachable(peer: Peer, reach: Reach, say: Callable[..., Finding]) -> Iterator[Finding]:
    port = reach.where.rpartition(":")[2]
    fault = NOTE if peer.connected else FAULT  # it is up by another of its addresses
    match reach.answer:
        case "quic":
            yield say(OK, f"a listener answers at {reach.where}", about=peer.label)
        case "refused":
            yield say(
                fault,
                f"{reach.where} says that nobody listens there",
                f"there: cryprq doctor, ss -ulnp 'sport = :{port}'; a firewall may answer so, too",
                peer.label,
            )
        case "blocked":
            yield say(
                fault,
                f"this host's firewall lets no UDP out to {reach.where}",
                f"nft list ruleset; let udp dport {port} out",
                peer.label,
            )
        case "silent":
            yield say(
                fault,
                f"nothing comes back from {reach.where}: UDP is lost on the way, or nobody is there",
                f"there: cryprq doctor; on the way: open and forward UDP {port}",
                peer.label,
            )
        case why:
            yield say(fault, f"there is no way to {reach.where}: {why}", "ip route; is the network up?", peer.label)


def knock(facts: Facts) -> Iterator[Finding]:
    """Whether a listener takes this host for one that has business there: by its peer ID, and the time."""
    for peer in facts.peers:
        for reach in peer.reach:
            if reach.knock == "taken":
                yield says("clock")(OK, "agrees with that of the peer to half a minute", about=peer.label)
            elif reach.knock == "silent":
                yield says("port reachable")(
                    NOTE, f"{reach.where} does not listen to this host for a while, after failures", "wait", peer.label
                )
            elif reach.knock == "strange":
                yield _strange(peer, reach)


def _strange(peer: Peer, reach: Reach) -> Finding:
    if peer.connected:  # so the ID is right
        text = f"differs by more than half a minute from that of {peer.label}, which takes this host for a stranger"
        return says("clock")(FAULT, text, "date -u at both hosts; timedatectl set-ntp true", peer.label)
    text = f"the listener at {reach.where} takes this host for a stranger: by its ID, or by the time"
    todo = "compare its ID with its listener_ready line (cryprq id there), and date -u at both hosts"
    return says("peer")(FAULT, text, todo, peer.label)


def nat(facts: Facts) -> Iterator[Finding]:
    say = says("nat")
    for peer in facts.peers:
        if isinstance(peer.way, Way):
            yield say(OK, _nat_of(peer, peer.way), about=peer.label)
    for host in facts.listening:
        address = ip_address(host)
        if address in _SHARED:
            yield say(NOTE, f"listens at {host}, behind a carrier's NAT: nobody outside reaches it", "dial from here")
        elif _is_inside(address):
            yield say(NOTE, f"listens at {host}: dialers from elsewhere need a port forward to it, UDP")


def _is_inside(address: IPv4Address | IPv6Address) -> bool:
    """Whether an address means something in networks of its owner's, or a carrier's, alone."""
    return any(address in network for network in (_SHARED, *_PRIVATE))


def _nat_of(peer: Peer, way: Way) -> str:
    own = ip_address(way.source)
    there = _host_of(peer)
    if there is None or _is_inside(there) or not _is_inside(own):
        return f"this host sends as {own}, and no NAT is known of"
    kind = "a carrier's NAT" if own in _SHARED else "a NAT"
    return f"this host is behind {kind} ({own}): it has to dial, and keeps the way open every 10 s"


def _host_of(peer: Peer) -> IPv4Address | IPv6Address | None:
    where = (peer.sample or {}).get("endpoint") or next((each.where for each in peer.reach), "")
    return ip_address(where.rpartition(":")[0].strip("[]").partition("%")[0]) if where else None


def loops(facts: Facts) -> Iterator[Finding]:
    """Records that would go into the tunnel that they come out of."""
    say = says("routes")
    if facts.status is None:
        return
    own = {address.partition("/")[0] for address in facts.status["addresses"]}
    for peer in facts.peers:
        if isinstance(peer.way, Way) and peer.way.source in own:
            where = (peer.sample or {}).get("endpoint") or "it"
            yield say(
                FAULT,
                f"the way to {where} leads into the tunnel itself",
                f"ip rule; ip route get {where.rpartition(':')[0]}: an own route or rule is in the way",
                peer.label,
            )


def path_mtu(facts: Facts) -> Iterator[Finding]:
    say = says("path mtu")
    for peer in facts.peers:
        if not peer.connected or peer.sample is None or not isinstance(peer.way, Way):
            continue
        found, link = peer.sample["path_mtu"], peer.way.mtu
        around = _RECORD + _OUTER[ip_address(peer.way.source).version]
        wanted = min(facts.mtu + around, link)
        if not found:
            yield say(
                NOTE, "is not known yet, or is less than 1280: records may be fragmented", "wait a minute", peer.label
            )
        elif found < wanted:
            yield say(
                NOTE,
                f"the path carries {found} bytes and no more, where this host's link takes {link}: a narrow link, or a"
                " black hole",
                f"the tunnel keeps to it; --mtu {found - around} at both ends spares senders the search",
                peer.label,
            )
        else:
            yield say(OK, f"{found} bytes", about=peer.label)


def names(facts: Facts) -> Iterator[Finding]:
    """The gateway's name servers, and the names at which peers are dialled."""
    say, status = says("dns"), facts.status
    for peer in facts.peers:
        for name, fault in peer.names.items():
            if fault:
                yield say(
                    FAULT,
                    f"{name} has no address: {fault}",
                    f"getent hosts {name}; resolvectl query {name}",
                    peer.label,
                )
            else:
                yield say(OK, f"{name} has an address", about=peer.label)
    if status is not None and status["name_servers"] and not status["dns_by"]:
        servers = ", ".join(status["name_servers"])
        yield say(
            FAULT,
            f"the gateway's name servers {servers} are not in use here: nothing here takes them",
            "apt install systemd-resolved, or resolvconf; or --on-change",
        )
