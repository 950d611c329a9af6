"""A node as it is now, for metrics and for ``cryprq status``."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cryprq.address import Address, Local
from cryprq.inner.network import InnerNetwork
from cryprq.node.dns import DnsKeeper
from cryprq.node.machine import Machine
from cryprq.node.roster import Roster
from cryprq.peers.link import Link
from cryprq.peers.peer import Peer
from cryprq.peers.table import PeerTable
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import AEAD_NAMES, KEM_NAMES
from cryprq.registry.entries import PeerEntry
from cryprq.telemetry.health import Health
from cryprq.telemetry.samples import NodeStatus, PeerSample, PoolSample
from cryprq.version import VERSION


class Snapshot:
    """Reads the parts of a running node; changes nothing."""

    def __init__(
        self,
        machine: Machine,
        peers: PeerTable,
        roster: Roster,
        network: InnerNetwork,
        health: Health,
        dns: DnsKeeper,
        clock: Callable[[], Boottime],
    ) -> None:
        """``clock`` is CLOCK_BOOTTIME; the node's uptime begins now."""
        self._machine = machine
        self._peers = peers
        self._roster = roster
        self._network = network
        self._health = health
        self._dns = dns
        self._clock = clock
        self._started = clock()

    def samples(self) -> Iterator[PeerSample]:
        """One for each peer that the node knows."""
        now = self._clock()
        return (self._sample(peer, now) for peer in self._peers)

    def _absent(self) -> Iterator[PeerSample]:
        """Those that the allowlist names, and that have not been here: there is no more than that to say of them."""
        for peer_id in sorted(self._roster.fleet.named):
            if self._peers.get(peer_id) is None:
                known = _known(self._roster.fleet.entry(peer_id))
                yield PeerSample(peer_id=str(peer_id), connected=False, **known)

    def drops(self) -> Mapping[tuple[str, str], int]:
        """By (direction, reason)."""
        return self._machine.plane.drops()

    def answers(self) -> Mapping[tuple[str, str], int]:
        """By (reason, result)."""
        return self._machine.plane.answers()

    def marks(self) -> Mapping[str, int]:
        """By where the congestion was met."""
        return self._machine.plane.marks()

    def offloads(self) -> Mapping[str, str]:
        """By name."""
        return self._machine.offloads()

    def pools(self) -> Iterator[PoolSample]:
        """One for each network that addresses are given from."""
        fleet = self._roster.fleet
        for network, size in fleet.pools:
            yield PoolSample(network=str(network), size=size, used=fleet.used(network))

    def allowed_peers(self) -> int:
        """How many peers may connect by name, or are dialled."""
        return sum(map(self._roster.permits, self._roster.fleet.named))

    def routes_missing(self) -> int:
        """How many routes the kernel should have and does not."""
        return self._machine.interface.routes_missing

    def status(self, peer_id: str, listen_addrs: Sequence[str]) -> NodeStatus:
        """Everything that ``cryprq status`` shows."""
        interface = self._machine.interface
        names = self._dns.settings
        unhealthy = self._health.reason()
        return NodeStatus(
            version=VERSION,
            time=round(time.time(), 3),
            peer_id=peer_id,
            tun_name=interface.name,
            uptime_secs=round(self._clock() - self._started, 3),
            healthy=unhealthy is None,
            unhealthy=unhealthy or "",
            listen_addr=listen_addrs[0] if listen_addrs else "",
            listen_addrs=tuple(listen_addrs),
            addresses=tuple(map(str, self._network.addresses)),
            routes=tuple(map(str, sorted(self._network.routes, key=lambda route: (route.version, route)))),
            mtu=self._network.mtu,
            routes_missing=interface.routes_missing,
            name_servers=tuple(map(str, names.servers)) if names is not None else (),
            search=names.search if names is not None else (),
            dns_everything=names is not None and names.everything,
            dns_by=self._dns.by,
            faults=(
                *(f"{part.kind} {part.what}: {reason}" for part, reason in interface.faults.items()),
                *self._dns.faults,
            ),
            peers=(*self.samples(), *self._absent()),
            drops=_nested(self.drops()),
            answers=_nested(self.answers()),
            offloads=self.offloads(),
        )

    def _local_endpoint(self, local: Local) -> str:
        group = self._machine.sockets[local.group]
        return str(Address(local.host or group.host or "*", group.port))

    def _arrivals(self, link: Link | None) -> tuple[int, int]:
        index = link.promoted_index if link is not None else None
        plane = self._machine.plane
        return plane.epoch_arrivals(index) if index is not None and plane.has(index) else (0, 0)

    def _sample(self, peer: Peer, now: Boottime) -> PeerSample:
        plane = self._machine.plane
        stats = plane.peer_stats(peer.handle)
        endpoint = plane.endpoint(peer.handle)
        link = peer.current
        session = link.session if link is not None else None
        happened, meter = peer.last_handshake, peer.meter
        arrived, lost = self._arrivals(link)
        assigned = tuple(str(address.ip) for address in self._network.assigned_by(peer.peer_id))
        return PeerSample(
            **_known(self._roster.fleet.entry(peer.peer_id)),
            peer_id=str(peer.peer_id),
            connected=link is not None,
            direction=link.direction if link is not None else "",
            endpoint=str(endpoint[0]) if endpoint is not None else "",
            local_endpoint=self._local_endpoint(endpoint[1]) if endpoint is not None else "",
            lane_ports=tuple(plane.lane_ports(peer.handle).values()),
            addresses=assigned or self._roster.leased_to(peer.peer_id),
            allowed_ips=tuple(map(str, self._network.allowed(peer.peer_id))),
            standby_for=tuple(map(str, self._network.standing_by(peer.peer_id))),
            mtu=plane.peer_mtu(peer.handle),
            aead=AEAD_NAMES[session.suite] if session is not None else "",
            kem=KEM_NAMES[session.kem] if session is not None else "",
            epoch=session.number if session is not None else 0,
            epoch_age_secs=round(now - link.epoch_since, 3) if link is not None else None,
            silent=peer.current is not None and peer.liveness.silent,
            last_heard_secs=round(max(0.0, now - stats.last_rx_ns / 1e9), 3) if stats.last_rx_ns else None,
            since=None if meter.since is None else round(time.time() - (now - meter.since), 3),
            last_handshake=None if happened is None else time.time() - (now - happened),
            path_mtu=peer.path.mtu if link is not None else None,
            round_trip_secs=meter.round_trip,
            epoch_arrived=arrived,
            epoch_lost=lost,
            rx_rate=round(meter.rx_rate, 1),
            tx_rate=round(meter.tx_rate, 1),
            rx_bytes=stats.rx_bytes,
            tx_bytes=stats.tx_bytes,
            rx_packets=stats.rx_packets,
            tx_packets=stats.tx_packets,
        )


def _known(entry: PeerEntry | None) -> dict[str, Any]:
    """What is known of a peer, whether it is here or not: fields of its sample."""
    if entry is None:
        return {}
    return {
        "name": entry.name,
        "groups": entry.groups,
        "barred": entry.barred(time.time()),
        "expires": entry.expires,
    }


def _nested(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (first, second), count in counts.items():
        found.setdefault(first, {})[second] = count
    return found
