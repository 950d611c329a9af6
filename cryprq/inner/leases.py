"""Tunnel addresses that a listener has given to peers, kept across restarts in a file beside the identity.

The file is JSON, ``{"version": 1, "leases": {"<peer ID>": ["10.9.0.2", "fd00:9::2"]}}``, a lease a line, those that
were used last at the end. It is replaced as a whole, so it is always complete; one that does not parse is reported and
never overwritten.
"""

import contextlib
import json
import os
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from ipaddress import IPv4Address, IPv6Address, collapse_addresses, ip_address, ip_interface
from itertools import islice
from pathlib import Path
from typing import Any, Final

from cryprq.errors import MachineError
from cryprq.networks import Interface, Network, covering, overlapping, within
from cryprq.peer_id import PeerId

InnerAddress = IPv4Address | IPv6Address
_Number = tuple[int, int]
"""An address as IP version and integer: far quicker to look up."""

_VERSION: Final = 1
_FRAME_SIZE: Final = 256  # what is around the leases, and room for one more
_FILE_MAX: Final = 16 * 1024 * 1024  # a file that is larger is not ours
LEASES_MAX: Final = 65_536
"""Peers that have a lease; as many as the data plane has room for. An IPv6 network has no bound of its own, and where
any peer is let in (``--allow-any``) a stranger could make one identity after the other."""


class LeaseError(MachineError):
    """A network is full, or the lease file is damaged or cannot be written; one line."""


def lease_path(identity: Path, tun_name: str, directory: Path | None = None) -> Path:
    """Where the leases of a node lie: one file for each tunnel, beside its identity or in a directory."""
    name = f"{identity.name}.{tun_name}.leases.json"
    return identity.with_name(name) if directory is None else directory / name


def capacity(gateway: Interface, avoid: Iterable[Network]) -> int:
    """How many peers can have an address in the network of ``gateway``: every host but itself and what is inside
    ``avoid``."""
    network = gateway.network
    inside: Any = (block for block in avoid if overlapping(network, [block]) is not None)  # of one IP version, then
    blocks: list[Network] = list(collapse_addresses(inside))
    if any(within(network, block) for block in blocks):
        return 0
    never = {gateway.ip}
    if network.max_prefixlen - network.prefixlen >= 2:
        never.add(network.network_address)
        if network.version == 4:
            never.add(network.broadcast_address)
    never = {address for address in never if covering(blocks, str(address)) is None}
    return network.num_addresses - len(never) - sum(block.num_addresses for block in blocks)


class Leases:
    """Which peer has which address in each of the listener's tunnel networks.

    ``networks`` are the listener's own addresses with their prefix lengths. The file is read at once (LeaseError) and
    written, mode 0600 and synced to the disk, before a new address is given.
    """

    def __init__(self, path: Path, networks: Sequence[Interface]) -> None:
        self._path = path
        self._networks = tuple(networks)
        self._addresses = _read(path)
        self._lines = {peer: _line(peer, addresses) for peer, addresses in self._addresses.items()}
        self._taken = _numbers(self._addresses.values())
        self._given: dict[PeerId, tuple[Collection[Network], tuple[Interface, ...]]] = {}
        """Answers that hold as long as ``avoid`` is the same object: a handshake asks three times."""

    def address_for(
        self,
        peer: PeerId,
        *,
        avoid: Collection[Network] = (),
        permitted: Callable[[PeerId], bool] = lambda _: True,
        absent_guest: Callable[[PeerId], bool] = lambda _: False,
    ) -> tuple[Interface, ...]:
        """The peer's address in every tunnel network, with the network's prefix length; the same one each time.

        Nothing inside ``avoid`` (what other peers were given by hand) is assigned; a lease there moves. A network
        that is full takes back the addresses of peers that are not ``permitted`` any more, and then that of the
        ``absent_guest`` that has not been here for the longest time. LeaseError if it is full.
        ``avoid`` must not change; another object is another question.
        """
        self._note_use(peer)
        given = self._given.get(peer)
        if given is not None and given[0] is avoid:
            return given[1]
        held = self._addresses.get(peer, ())
        chosen: list[Interface] = []
        reclaimed: set[PeerId] = set()
        if not held and len(self._addresses) >= LEASES_MAX:
            reclaimed = self._unused(peer, permitted) or set(islice(self._guests(peer, absent_guest), 1))
            if len(self._addresses) - len(reclaimed) >= LEASES_MAX:
                raise LeaseError(f"no address for {peer}: {LEASES_MAX} peers have one")
        for gateway in self._networks:
            mine = next((address for address in held if self._usable(address, gateway, avoid)), None)
            if mine is None:
                mine = self._free(gateway, avoid, self._taken_but(reclaimed))
            if mine is None:
                reclaimed |= self._unused(peer, permitted)
                mine = self._free(gateway, avoid, self._taken_but(reclaimed))
            if mine is None:
                holders = (other for other in self._guests(peer, absent_guest) if self._holds(other, gateway.network))
                reclaimed |= set(islice(holders, 1))
                mine = self._free(gateway, avoid, self._taken_but(reclaimed))
            if mine is None:
                raise LeaseError(
                    f"no free address in {gateway.network} for {peer}: allow fewer peers or use a wider --tun-address"
                )
            chosen.append(ip_interface(f"{mine}/{gateway.network.prefixlen}"))
        addresses = tuple(interface.ip for interface in chosen)
        if addresses != held:
            self._change(peer, addresses, reclaimed)
        self._given[peer] = avoid, tuple(chosen)
        return tuple(chosen)

    def pass_on(self, old: PeerId, new: PeerId) -> None:
        """The lease of one peer, if it has one, is another's from now on, if that has none. LeaseError if it cannot be
        written."""
        addresses = self._addresses.get(old)
        if addresses is not None and new not in self._addresses:
            self._change(new, addresses, {old})

    def pools(self, avoid: Collection[Network]) -> tuple[tuple[Network, int], ...]:
        """Each tunnel network, and how many peers can have an address there."""
        return tuple((gateway.network, capacity(gateway, avoid)) for gateway in self._networks)

    def used(self, network: Network, permitted: Callable[[PeerId], bool]) -> int:
        """How many peers that are ``permitted`` have an address in the network; the others give theirs back when it is
        needed."""
        return sum(self._holds(peer, network) for peer in self._addresses if permitted(peer))

    def try_to_write(self) -> None:
        """LeaseError if the next lease could not be written: the directory is read-only, full, or not ours."""
        temporary = _temporary(self._path)
        try:
            # As large as the file, and not synced: it is gone before the disk has to know of it.
            _write_new(temporary, "\n" * (_FRAME_SIZE + sum(len(line) + 2 for line in self._lines.values())))
            os.unlink(temporary)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise LeaseError(f"cannot write the leases {self._path}: {error.strerror}") from None

    def _change(self, peer: PeerId, addresses: tuple[InnerAddress, ...], reclaimed: Collection[PeerId]) -> None:
        """The file first: if it cannot be written, nothing has changed. Lines that stay are not made again, so that a
        new peer does not cost more the more are there."""
        lines = {**self._lines, peer: _line(peer, addresses)}
        for other in reclaimed:
            del lines[other]
        _write(self._path, lines.values())
        self._lines = lines
        for other in (peer, *reclaimed):
            self._taken -= _numbers([self._addresses.pop(other, ())])
            self._given.pop(other, None)
        self._addresses[peer] = addresses
        self._taken |= _numbers([addresses])

    def _note_use(self, peer: PeerId) -> None:
        """Leases are in the order of their last use, in the file too, which has it when it is written next."""
        if peer in self._addresses:
            self._addresses[peer] = self._addresses.pop(peer)
            self._lines[peer] = self._lines.pop(peer)

    def _holds(self, peer: PeerId, network: Network) -> bool:
        return any(address.version == network.version and address in network for address in self._addresses[peer])

    def _guests(self, peer: PeerId, absent_guest: Callable[[PeerId], bool]) -> Iterator[PeerId]:
        return (other for other in self._addresses if other != peer and absent_guest(other))

    def _unused(self, peer: PeerId, permitted: Callable[[PeerId], bool]) -> set[PeerId]:
        return {other for other in self._addresses if other != peer and not permitted(other)}

    def _taken_but(self, reclaimed: Collection[PeerId]) -> set[_Number]:
        return self._taken - _numbers(self._addresses[other] for other in reclaimed) if reclaimed else self._taken

    def _usable(self, address: InnerAddress, gateway: Interface, avoid: Collection[Network]) -> bool:
        network = gateway.network
        if address.version != network.version or address not in network:
            return False
        if any(address == own.ip for own in self._networks) or covering(avoid, str(address)) is not None:
            return False
        spare = network.max_prefixlen - network.prefixlen
        if spare < 2:
            return True  # RFC 3021 and RFC 6164: both addresses of a point-to-point network are hosts
        # IPv6 has no broadcast; its first address is the routers' anycast address (RFC 4291, 2.6.1).
        return address != network.network_address and (address.version == 6 or address != network.broadcast_address)

    def _free(self, gateway: Interface, avoid: Collection[Network], taken: Collection[_Number]) -> InnerAddress | None:
        """The first free address after the gateway's own, going round at the end of the network."""
        network = gateway.network
        first, last, own = int(network.network_address), int(network.broadcast_address), int(gateway.ip)
        make = IPv4Address if network.version == 4 else IPv6Address
        for start, end in ((own + 1, last), (first, own - 1)):
            number = start
            while number <= end:
                if (network.version, number) in taken:
                    number += 1
                    continue
                address = make(number)
                block = covering(avoid, str(address))
                if block is not None:
                    number = int(block.broadcast_address) + 1  # a whole block at once: it may hold 2**64 addresses
                elif not self._usable(address, gateway, ()):
                    number += 1
                else:
                    return address
        return None


def _read(path: Path) -> dict[PeerId, tuple[InnerAddress, ...]]:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_MAX + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise LeaseError(f"cannot read the leases {path}: {error.strerror}") from None
    try:
        document = json.loads(data) if len(data) <= _FILE_MAX else None
        if not isinstance(document, dict) or document.get("version") != _VERSION:
            raise ValueError
        leases = {
            PeerId.parse(name): tuple(ip_address(_text(address)) for address in addresses)
            for name, addresses in document["leases"].items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        leases = None
    if leases is not None:
        given = [address for addresses in leases.values() for address in addresses]
        if len(given) == len(set(given)):
            return leases
    raise LeaseError(f"the leases {path} are damaged; restore the file, or move it away to give addresses anew")


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError  # ip_address would take a number for an address
    return value


def _numbers(held: Iterable[Iterable[InnerAddress]]) -> set[_Number]:
    return {(address.version, int(address)) for addresses in held for address in addresses}


def _line(peer: PeerId, addresses: Iterable[InnerAddress]) -> str:
    return f"  {json.dumps(str(peer))}: {json.dumps([str(address) for address in addresses])}"


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}")


def _write_new(path: Path, text: str, *, sync: bool = False) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(text)
        if sync:
            file.flush()
            os.fsync(descriptor)


def _write(path: Path, lines: Iterable[str]) -> None:
    document = f'{{\n "version": {_VERSION},\n "leases": {{\n' + ",\n".join(lines) + "\n }\n}\n"
    temporary = _temporary(path)
    try:
        try:
            _write_new(temporary, document, sync=True)
            os.replace(temporary, path)
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise LeaseError(f"cannot write the leases {path}: {error.strerror}") from None
