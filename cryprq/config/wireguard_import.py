"""From a configuration file of WireGuard to one of ours, and what of it could not be carried over.

Keys do not go along: a peer of WireGuard is its Curve25519 key, a peer here is the ID of an identity that has other
keys (``PLACEHOLDER`` stands where the ID is still to be written). Pre-shared keys do, into files of their own.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_interface, ip_network
from typing import Final, TypeVar

from cryprq.config import checks, psk_file, values
from cryprq.config.wireguard_file import Remark, Section, Setting, WireGuardFile, shown
from cryprq.dns import domain
from cryprq.multiaddr import Multiaddr
from cryprq.networks import Interface, Network, amounts_to_default, covering, overlapping
from cryprq.peer_id import PeerId
from cryprq.peer_name import NAME_MAX as PEER_NAME_MAX
from cryprq.protocol.constants import ADDRESSES_MAX, MTU_MIN, MTU_MIN_IPV6, MTU_SEALABLE_MAX

T = TypeVar("T")

PLACEHOLDER: Final = "ID-OF-"
"""Before a peer's name: where its ID is to be written. ``--check`` refuses it, and says it."""
NAME_MAX: Final = 24
"""Characters of a comment that is a name: a longer one is a remark."""


def _spelled(*names: str) -> dict[str, str]:
    """Keys as people write them, by what the file's reader makes of them."""
    return {name.lower(): name for name in names}


_HOOKS: Final = _spelled("PreUp", "PostUp", "PreDown", "PostDown")
_OF_INTERFACE: Final = _HOOKS | _spelled(
    "Address", "DNS", "FwMark", "ListenPort", "MTU", "PrivateKey", "SaveConfig", "Table"
)  # fmt: skip
_OF_PEER: Final = _spelled("AllowedIPs", "Endpoint", "PersistentKeepalive", "PresharedKey", "PublicKey")
_OF_APPS: Final = _spelled("IncludedApplications", "ExcludedApplications")
_ENDPOINT: Final = re.compile(r"(?:\[([^\[\]]*)\]|([^:\[\]]*)):([0-9]{1,5})", re.ASCII)
_NAMED: Final = re.compile(r"(?:#|begin_peer|begin|client|peer|friendly_name|name|[:=\s])+\b", re.IGNORECASE)
_DISABLED: Final = re.compile(rf"({'|'.join(_OF_INTERFACE | _OF_PEER)})\s*=", re.IGNORECASE)

_COMMANDS: Final[Sequence[tuple[str, str]]] = (
    (r"iptables|ip6tables|nft\b|ufw|firewall-cmd", "firewall rules: keep them where this host's others are"),
    (r"masquerade|\bnat\b", "NAT: see \"Full tunnel\" in the operations guide"),
    (r"ip_forward|forwarding", "forwarding: set the sysctl in /etc/sysctl.d"),
    (r"\bip\b.*\b(route|rule)\b", "routes or rules: the node makes those to its peers' networks itself (route-table)"),
    (r"resolvectl|resolvconf|systemd-resolve", "name servers: the gateway tells them (dns, search)"),
    (r"\bwg\b.*\bset\b", "keys or peers of WireGuard"),
)  # fmt: skip
_KILL_SWITCH: Final = re.compile(r"OUTPUT.*(reject|drop)", re.IGNORECASE | re.DOTALL)


@dataclass(slots=True)
class Peer:
    """What becomes of a ``[Peer]``."""

    name: str
    line: int
    peer_id: str
    """Or what stands for it."""
    networks: list[Network] = field(default_factory=list)
    endpoint: Multiaddr | None = None
    psk: str | None = None

    @property
    def psk_file(self) -> str | None:
        return None if self.psk is None else f"{self.name}.psk"


@dataclass(slots=True)
class Imported:
    """Our settings, by their keys in the file, and the peers."""

    settings: dict[str, object] = field(default_factory=dict)
    """Texts, numbers, booleans, and lists of texts."""
    peers: list[Peer] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)

    def psks(self) -> dict[str, str]:
        """Pre-shared keys by the file that each of them belongs into, relative to the configuration."""
        return {peer.psk_file: peer.psk for peer in self.peers if peer.psk_file is not None and peer.psk is not None}

    def toml(self, source: str) -> str:
        """The configuration file, with all remarks at its beginning."""
        lines = [
            f"# Made from {source} by `cryprq import wireguard`.",
            "#",
            "# `cryprq keygen` makes this node's identity and prints its ID, which the other ends need.",
        ]
        if any(peer.peer_id.startswith(PLACEHOLDER) for peer in self.peers):
            lines.append(f"# Replace each {PLACEHOLDER}NAME by the ID that NAME has; `cryprq-node --check` finds them.")
        if self.remarks:
            lines += ["#", "# What could not be carried over, or not as it was:"]
            lines += [f"# {_place('', remark)}{remark.text}" for remark in self.remarks]
        lines.append("")
        lines += [f"{key} = {_toml(value)}" for key, value in self.settings.items()]
        for peer in self.peers:
            lines += ["", *_table(peer)]
        return "\n".join(lines) + "\n"

    def report(self, source: str) -> list[str]:
        """The remarks as lines for a terminal."""
        return [f"{_place(source, remark)}{remark.text}" for remark in self.remarks]


def _table(peer: Peer) -> Iterator[str]:
    """The peer as it stands in the file."""
    yield f"[peer.{peer.name}]"
    yield f"id = {_toml(peer.peer_id)}"
    yield f"networks = {_toml([str(network) for network in peer.networks])}"
    if peer.endpoint is not None:
        yield f"address = {_toml(str(peer.endpoint))}"
    if peer.psk_file is not None:
        yield f"psk-file = {_toml(peer.psk_file)}"


def _place(source: str, remark: Remark) -> str:
    if not source:
        return f"line {remark.line}: " if remark.line else ""
    return f"{source}:{remark.line}: " if remark.line else f"{source}: "


def _toml(value: object) -> str:
    """Texts are names, addresses and numbers: none has a character that TOML wants escaped."""
    if isinstance(value, list):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


# ---- the translation ----


def translate(file: WireGuardFile, ids: Mapping[str, PeerId]) -> Imported:
    """Our form of a file. ``ids`` has IDs of peers, by their name or their WireGuard public key."""
    return _Translation(file, ids).result


class _Translation:
    def __init__(self, file: WireGuardFile, ids: Mapping[str, PeerId]) -> None:
        self.interface = file.interface
        self.ids = ids
        self.result = Imported(remarks=list(file.remarks))
        self._unknown(self.interface, _OF_INTERFACE)
        sections = self._different(file.peers)
        for number, section in enumerate(sections, 1):
            self.result.peers.append(self._peer(section, number))
        self._owners()
        self.addresses = self._addresses()
        self.listens = self._listen()
        self._spare()
        self._dns()
        self._mtu()
        self._policy()
        self._hooks()
        self._keys()
        self.result.remarks.sort(key=lambda remark: remark.line)

    def _remark(self, where: Setting | Section | int, text: str) -> None:
        line = where if isinstance(where, int) else where.line
        self.result.remarks.append(Remark(line, text))

    def _read(self, setting: Setting, parse: Callable[[str], T], what: str) -> T | None:
        """What the setting's value means; None, with a remark, if nothing."""
        try:
            return parse(setting.value)
        except ValueError:
            self._remark(setting, f"{what}: {shown(setting.value)} is none, and left out")
            return None

    def _unknown(self, section: Section, known: Mapping[str, str]) -> None:
        for setting in section.settings:
            if setting.key in _OF_APPS:
                self._remark(setting, f"{_OF_APPS[setting.key]}: the tunnel is all programs'; left out")
            elif setting.key not in known:
                self._remark(setting, f"{setting.key} is nothing that WireGuard has here; left out")

    # ---- peers ----

    def _different(self, sections: Iterable[Section]) -> list[Section]:
        """Without those whose key comes once more: WireGuard has one peer of a key, as the last section says."""
        last: dict[str, Section] = {}
        result: list[Section] = []
        for section in sections:
            key = section.last("publickey")
            if key is not None and (earlier := last.get(key.value)) is not None:
                self._remark(earlier, f"the same peer is in line {section.line} again, which counts; this is left out")
                result.remove(earlier)
            if key is not None:
                last[key.value] = section
            result.append(section)
        return result

    def _peer(self, section: Section, number: int) -> Peer:
        self._unknown(section, _OF_PEER)
        key = section.last("publickey")
        if key is None:
            self._remark(section, "a peer without PublicKey, which WireGuard would not take")
        endpoint = section.last("endpoint")
        target = None if endpoint is None else self._read(endpoint, _endpoint, "Endpoint")
        called = _name(section) or (_slug(target.host) if target is not None else "") or f"peer{number}"
        name = _unique(called, {peer.name for peer in self.result.peers})
        known = self.ids.get(name) or (self.ids.get(key.value) if key is not None else None)
        peer = Peer(name, section.line, str(known or f"{PLACEHOLDER}{name}"), endpoint=target)
        if known is None:
            self._remark(
                key or section, f"PublicKey: a peer has an ID here: write that of {name} for {peer.peer_id} (or --id)"
            )
        for item in section.items("allowedips"):
            if (network := self._read(item, values.network, "AllowedIPs")) is not None:
                peer.networks.append(network)
        peer.networks = list(dict.fromkeys(peer.networks))
        if not peer.networks:
            self._remark(section, f"{name} has no AllowedIPs: nothing passes; here a listener gives it an address")
        peer.psk = self._psk(section.last("presharedkey"))
        keepalive = section.last("persistentkeepalive")
        if keepalive is not None and keepalive.value.lower() not in ("off", "0"):
            self._remark(keepalive, "PersistentKeepalive: a dialer keeps its way open by itself, every 10 seconds")
        return peer

    def _psk(self, setting: Setting | None) -> str | None:
        if setting is None:
            return None
        if not psk_file.is_psk(setting.value):
            # All zero is how WireGuard writes that there is none.
            if setting.value.strip("A=") != "":
                self._remark(setting, "PresharedKey: it is no key of 32 bytes in base64, and left out")
            return None
        return setting.value

    def _owners(self) -> None:
        """A network is the peer's that names it last; a node's own address is nobody else's."""
        own = {ip_network(address.ip) for address in self._written_addresses(quiet=True)}
        seen: set[Network] = set()
        for peer in reversed(self.result.peers):
            for network in list(peer.networks):
                if network in own:
                    self._remark(peer.line, f"{peer.name}: {network} is this node's own Address; left out")
                    peer.networks.remove(network)
                elif network in seen:
                    self._remark(
                        peer.line,
                        f"{peer.name}: {network} is a later peer's, too, which has it in WireGuard; left out",
                    )
                    peer.networks.remove(network)
                seen.add(network)

    # ---- this node ----

    def _written_addresses(self, *, quiet: bool = False) -> list[Interface]:
        found = []
        for item in self.interface.items("address"):
            try:
                address = ip_interface(item.value)
            except ValueError:
                if not quiet:
                    self._remark(item, f"Address: {shown(item.value)} is none, and left out")
                continue
            if (fault := checks.tun_address_fault(address)) is None:
                found.append(address)
            elif not quiet:
                self._remark(item, f"Address: {fault}; left out")
        return found

    def _addresses(self) -> list[Interface]:
        """Those that a node can have: of each network one, of an endpoint's none."""
        found: list[Interface] = []
        line = self.interface.line
        hosts = [peer.endpoint.host for peer in self.result.peers if peer.endpoint and peer.endpoint.is_numeric]
        for written in self._written_addresses():
            address = written
            if any(covering([address.network], host) is not None for host in hosts):
                address = ip_interface(address.ip)
                self._remark(line, f"Address: {written.network} has a peer's endpoint in it; taken as {address}")
            if overlapping(address.network, (other.network for other in found)) is not None:
                self._remark(line, f"Address: {address} is in the network of another one, and left out")
            elif len(found) == ADDRESSES_MAX:
                self._remark(line, f"Address: {address} is one more than the {ADDRESSES_MAX} that go; left out")
            else:
                found.append(address)
        if found:
            self.result.settings["tun-address"] = [str(address) for address in found]
        return found

    def _listen(self) -> bool:
        """Whether the node listens: it has a port, or peers that it cannot dial."""
        callers = [peer.name for peer in self.result.peers if peer.endpoint is None]
        port = None
        setting = self.interface.last("listenport")
        if setting is not None:
            port = self._read(setting, _port, "ListenPort")
        if port is None and callers:
            port = 9999
            self._remark(
                setting or self.interface,
                f"no ListenPort, and {callers[0]} has no Endpoint: it has to dial this node, at port {port}",
            )
        if port is None:
            return False
        self.result.settings = {"listen": f"/ip6/::/udp/{port}/quic-v1", **self.result.settings}
        if not self.addresses:
            self._remark(self.interface, 'no Address: a listener needs one, add tun-address = ["10.77.0.1/24"]')
        return True

    def _spare(self) -> None:
        """A peer's own endpoint is reached beside the tunnel."""
        for peer in self.result.peers:
            if peer.endpoint is None or not peer.endpoint.is_numeric:
                continue
            inside = [network for network in peer.networks if not checks.spares_endpoint(network, self._route_table())]
            while (network := covering(inside, peer.endpoint.host)) is not None:
                self._remark(peer.line, f"{peer.name}: {network} has the peer's own Endpoint in it; left out")
                inside.remove(network)
                peer.networks.remove(network)

    def _full_tunnel(self) -> bool:
        return any(amounts_to_default(network) for peer in self.result.peers for network in peer.networks)

    def _dns(self) -> None:
        items = self.interface.items("dns")
        if not items:
            return
        servers: list[str] = []
        search: list[str] = []
        for item in items:
            if _is_address(item.value):
                servers.append(str(ip_address(item.value)))
            elif (name := self._read(item, domain, "DNS")) is not None:
                search.append(name)
        told = "".join(f" {key} = {_toml(value)}" for key, value in (("dns", servers), ("search", search)) if value)
        line = items[0].line
        if all(peer.endpoint is None for peer in self.result.peers):
            self._remark(line, f"DNS: set this host's resolver elsewhere; what its dialers are to ask is{told}")
            return
        self._remark(line, f"DNS: gateways tell their dialers: there, add{told}")
        networks = [network for peer in self.result.peers for network in peer.networks]
        for server in servers:
            if covering(networks, server) is None:
                self._remark(line, f"DNS: {server} is in no peer's networks, and is not asked")
        if servers and not self._full_tunnel():
            self.result.settings["accept-dns"] = "all"

    def _mtu(self) -> None:
        setting = self.interface.last("mtu")
        if setting is None or (mtu := self._read(setting, values.number, "MTU")) is None:
            return
        least = MTU_MIN_IPV6 if any(address.version == 6 for address in self.addresses) else MTU_MIN
        if least <= mtu <= MTU_SEALABLE_MAX:
            self.result.settings["mtu"] = mtu
        else:
            self._remark(setting, f"MTU: {mtu} does not go here: {least} to {MTU_SEALABLE_MAX}; left out")

    def _route_table(self) -> int | str:
        setting = self.interface.last("table")
        try:
            table = "auto" if setting is None else values.route_table(setting.value)
        except ValueError:
            return "auto"
        return "auto" if checks.route_table_fault(table) else table

    def _policy(self) -> None:
        """Table and FwMark."""
        table = self._route_table()
        if table != "auto":
            self.result.settings["route-table"] = table
        setting = self.interface.last("table")
        if setting is not None and table == "auto" and setting.value.lower() != "auto":
            self._remark(setting, f"Table: {shown(setting.value)} is not a number, main or off; left out")
        if table not in ("auto", "off") and self._full_tunnel():
            self._remark(
                setting or self.interface, "Table: the rules that lead a full tunnel's packets there are yours to make"
            )
        setting = self.interface.last("fwmark")
        if setting is None or setting.value.lower() in ("off", "0", "0x0"):
            return
        mark = self._read(setting, values.mark, "FwMark")
        if mark is not None and checks.mark_fault(mark) is None:
            self.result.settings["fwmark"] = hex(mark)

    def _hooks(self) -> None:
        """What the commands are for, as far as they tell: they themselves may have keys in them."""
        for setting in self.interface.settings:
            if setting.key not in _HOOKS:
                continue
            name = _HOOKS[setting.key]
            if setting.key in ("preup", "postup") and _is_kill_switch(setting.value):
                self.result.settings["kill-switch"] = True
                self._remark(setting, f"{name}: rejects what leaves beside the tunnel; kill-switch = true does that")
                continue
            about = [text for pattern, text in _COMMANDS if re.search(pattern, setting.value, re.IGNORECASE)]
            what = "; ".join(about) or "run it by on-change, or a unit of its own"
            device = ". The device is cryprq0 now (tun-name)" if re.search(r"%i\b|\bwg\d", setting.value) else ""
            self._remark(setting, f"{name} is not run: {what}{device}")
        saves = self.interface.last("saveconfig")
        if saves is not None and saves.value.lower() == "true":
            self._remark(saves, "SaveConfig: a node never writes to its configuration")

    def _keys(self) -> None:
        setting = self.interface.last("privatekey")
        if setting is not None:
            self._remark(setting, "PrivateKey: keys of WireGuard are of no use here; `cryprq keygen` makes an identity")
        if not self.interface.line:
            self._remark(0, "there is no [Interface]: what it says of this node is missing")
        if not self.result.peers:
            self._remark(0, "there is no [Peer]: add a table [peer.NAME] for who may connect or is to be dialled")
        used = {peer.peer_id for peer in self.result.peers}
        for name, peer_id in self.ids.items():
            if str(peer_id) not in used:
                self._remark(0, f"--id {name}: no peer has that name or key; there are {', '.join(self._names())}")

    def _names(self) -> list[str]:
        return [peer.name for peer in self.result.peers] or ["none"]


# ---- values ----


def _endpoint(text: str) -> Multiaddr:
    """ValueError if it is no HOST:PORT that can be dialled."""
    found = _ENDPOINT.fullmatch(text)
    if found is None:
        raise ValueError(text)
    host = found[1] if found[1] is not None else found[2]
    protocol = "dns"
    if _is_address(host):
        address = ip_address(host)
        protocol = f"ip{address.version}"
        if address.is_unspecified or address.is_multicast:
            raise ValueError(text)
    result = Multiaddr.parse(f"/{protocol}/{host}/udp/{int(found[3])}/quic-v1")
    if result.port == 0:
        raise ValueError(text)
    return result


def _port(text: str) -> int:
    port = values.number(text)
    if not 0 < port <= 0xFFFF:
        raise ValueError(text)
    return port


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_kill_switch(command: str) -> bool:
    """The rule of wg-quick(8): whatever leaves otherwise, and has not WireGuard's mark, is rejected."""
    return _KILL_SWITCH.search(command) is not None and "!" in command and "mark" in command.lower()


def _name(section: Section) -> str | None:
    """What a comment calls the peer: the last one above its section, or the first one in it."""
    for comment in (*reversed(section.above), *section.comments):
        if shown(comment) == "(a key)" or _DISABLED.search(comment):
            continue
        text = _NAMED.sub("", comment, count=1) if _NAMED.match(comment) else comment
        if "=" in text:
            continue
        slug = _slug(text.partition("(")[0])
        if slug and len(slug) <= NAME_MAX and slug.count("-") <= 3:
            return slug
    return None


def _slug(text: str) -> str:
    """What of it can be a name (``cryprq.peer_name``); empty: nothing, or too much."""
    slug = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    return slug if len(slug) < PEER_NAME_MAX - len("-99999") else ""


def _unique(name: str, taken: set[str]) -> str:
    number = 1
    result = name
    while result in taken:
        number += 1
        result = f"{name}-{number}"
    return result
