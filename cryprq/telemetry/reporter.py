"""Every log event and metric about peers, connections and the tunnel, in one place: what happened, told once.

What a stranger can trigger goes through the log's rate limit; so does what repeats by itself while a peer is away, and
what a peer on the allowlist can repeat, by itself.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from cryprq.address import Address
from cryprq.dns import DnsSettings
from cryprq.multiaddr import Multiaddr
from cryprq.networks import Interface, Network, host_networks
from cryprq.peer_id import PeerId
from cryprq.protocol.constants import AEAD_NAMES, ALPN, KEM_NAMES, ROTATE_SECS_MIN
from cryprq.telemetry.changes import Change
from cryprq.telemetry.logs import Log
from cryprq.telemetry.metrics import Metrics
from cryprq.telemetry.troubles import Troubles

SELECT_FAILED: Final = "Select(Failed)"
"""How ``transport_error`` begins for a peer that does not answer or does not speak the protocol (operators know it)."""

_ROUTE_KINDS: Final = {"route": "unicast", "guard": "unreachable"}
"""What ``ip route`` calls them."""


def _boottime() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Reporter:
    """Turns what happens into events of the log and into metrics."""

    def __init__(self, log: Log, metrics: Metrics, clock: Callable[[], float] = _boottime) -> None:
        self._log = log
        self._metrics = metrics
        self._clock = clock
        self._connected: dict[PeerId, float] = {}
        self.troubles = Troubles()
        self.on_change: Callable[[Change], None] | None = None
        """Who is told of what is otherwise from now on, besides the log."""
        self.alike: Callable[[PeerId], PeerId | None] = lambda _: None
        """The peer on the list that has nearly the same ID."""
        self.on_event: Callable[[Change], None] | None = None
        """Who is told of that, and of more that happens to peers."""

    def _changed(self, kind: str, event: str, subject: object, **given: object) -> None:
        """An event that says how something is from now on: a line of the log, and a change. Several values are a list
        in the change, and joined in the line."""
        fields = self._named(given)
        line = {name: ",".join(each) or None if isinstance(each, list) else each for name, each in fields.items()}
        if kind == "peer":
            self._log.about_peer("info", event, **line)
        else:
            self._log.info(event, **line)
        self._tell(Change(kind, event, str(subject), fields))

    def _tell(self, change: Change) -> None:
        for told in (self.on_change, self.on_event):
            if told is not None:
                told(change)

    def _note(self, kind: str, event: str, **given: object) -> None:
        """Something that happened, for who reads along."""
        if self.on_event is not None:
            self.on_event(Change(kind, event, fields=self._named(given)))

    def _named(self, given: Mapping[str, object]) -> dict[str, object]:
        """As JSON has it, with the name of a peer that has one."""
        return {name: _json(each) for name, each in self._log.named(given).items()}

    # ---- handshakes ----

    def handshake_started(self) -> None:
        """M1 was sent, or came."""
        self._metrics.handshake_attempted()

    def handshake_step(self, what: str, message: str, remote: Address, size: int) -> None:
        """A handshake message was ``sent`` or ``received``; ``size`` of its body in bytes."""
        self._log.limited("debug", "handshake_message", message=message.lower(), what=what, remote=remote, size=size)

    def handshake_complete(
        self, peer_id: PeerId, remote: Address, direction: str, kem: int, sig: str, suite: int, duration: float
    ) -> None:
        """Both ends are who they should be and have the same keys; ``sig``: by what the peer has proven who it is;
        ``duration`` in seconds."""
        self._metrics.handshake_succeeded(duration)
        self._log.about_peer(
            "info",
            "handshake_complete",
            peer_id=peer_id,
            direction=direction,
            remote=remote,
            kem=KEM_NAMES[kem],
            sig=sig,
            aead=AEAD_NAMES[suite],
            duration_ms=_ms(duration),
        )

    def handshake_failed(
        self,
        reason: str,
        remote: Address,
        *,
        peer_id: PeerId | None = None,
        hint: str | None = None,
        quiet: bool = False,
    ) -> None:
        """A handshake came to nothing. ``peer_id``: who was dialled, or who the dialer claims to be; ``quiet``: counted
        only, another line says it."""
        self._metrics.handshake_failed(reason)
        if peer_id is not None:
            self.troubles.note(peer_id, f"the handshake fails ({reason})", hint)
        if not quiet:
            fields = _given(peer_id=peer_id, hint=hint)
            self._log.limited("warning", "handshake_failed", reason=reason, remote=remote, **fields)

    def handshake_duplicate(self, peer_id: PeerId, remote: Address) -> None:
        """Two nodes dialled each other; this handshake is the one that is not needed."""
        self._metrics.handshake_failed("duplicate")
        self._log.limited("debug", "handshake_duplicate", peer_id=peer_id, remote=remote)

    def peer_denied(
        self, peer_id: PeerId, remote: Address, reason: str = "not_allowlisted", hint: str | None = None
    ) -> None:
        """Somebody who has proven this ID is not in the allowlist; ``invitation``: and that of his is none."""
        self._metrics.peer_denied()
        self.troubles.denied = peer_id
        fields: dict[str, object] = {"peer_id": peer_id, "remote": remote, "reason": reason}
        if (near := self.alike(peer_id)) is not None:
            hint = f"its ID differs from {near} on the list by a character or two: is that one mistyped?"
        if hint is not None:
            fields["hint"] = hint
        self._log.limited("warning", "peer_denied", **fields)

    def peer_joined(self, peer_id: PeerId, name: str, remote: Address) -> None:
        """Whoever has proven this ID has used an invitation, and is a peer from now on."""
        self._log.info("peer_joined", peer_id=peer_id, name=name, remote=remote)

    def invitation_used(self, peer_id: PeerId) -> None:
        """The gateway knows this node now; its invitation is forgotten."""
        self._log.info("invitation_used", peer_id=peer_id)

    def invitation_kept(self, peer_id: PeerId, error: str) -> None:
        """It was used all the same."""
        self._log.warning("invitation_kept", peer_id=peer_id, error=error, hint="delete the file; it is of no more use")

    # ---- dialling ----

    def dial_started(self, peer_id: PeerId, remote: Address, *, again: bool) -> None:
        """A connection attempt to one address begins; ``again``: one of those that follow each other every second."""
        (self._log.debug if again else self._log.info)("dial_started", peer_id=peer_id, remote=remote)

    def dial_unanswered(self, peer_id: PeerId, remotes: Sequence[Address], detail: str, *, again: bool) -> None:
        """No address of the peer answered with QUIC and this protocol; ``again``: that was said not long ago."""
        self._metrics.handshake_attempted()
        self._metrics.handshake_failed("transport")
        where = ",".join(map(str, remotes))
        hint = "check that the listener runs, that address and port in --peer are right, and that UDP gets through"
        self.troubles.note(peer_id, f"nobody answers at {where or 'any address'} ({detail})", hint)
        if again:
            return
        self._log.limited(
            "warning",
            "transport_error",
            error=f"{SELECT_FAILED}: {detail}",
            remote=where,
            peer_id=peer_id,
            hint=hint,
        )

    def dial_unresolved(self, peer_id: PeerId, target: Multiaddr, error: str) -> None:
        """The peer's name has no address."""
        what = f"cannot resolve {target.host}: {error}"
        hint = "check the name in --peer and this machine's name servers"
        self.troubles.note(peer_id, what, hint)
        self._log.limited("warning", "transport_error", error=what, remote=target, peer_id=peer_id, hint=hint)

    # ---- sessions ----

    def peer_connected(self, peer_id: PeerId, remote: Address, direction: str, allowed_ips: Sequence[Network]) -> None:
        """A tunnel is up where there was none. ``allowed_ips``: what the peer has inside."""
        self.troubles.over(peer_id)
        self._connected[peer_id] = self._clock()
        self._changed(
            "peer",
            "peer_connected",
            peer_id,
            peer_id=peer_id,
            remote=remote,
            direction=direction,
            allowed_ips=tuple(allowed_ips),
        )

    def peer_disconnected(self, peer_id: PeerId, reason: str, *, rx_bytes: int, tx_bytes: int) -> None:
        """The last keys for the peer are gone: its tunnel is closed, its packets are dropped. Bytes since it was up."""
        now = self._clock()
        seconds = now - self._connected.pop(peer_id, now)
        self._changed(
            "peer",
            "peer_disconnected",
            peer_id,
            peer_id=peer_id,
            reason=reason,
            seconds=round(seconds, 3),
            rx_bytes=rx_bytes,
            tx_bytes=tx_bytes,
        )

    def control_lost(self, peer_id: PeerId, remote: Address, reason: str) -> None:
        """The QUIC connection of the session in use is gone; data goes on under the keys that are there."""
        self._log.about_peer("info", "control_lost", peer_id=peer_id, remote=remote, reason=reason)

    def peer_silent(self, peer_id: PeerId) -> None:
        """Data went out and nothing authenticated came back, although it was asked for."""
        self._log.limited("warning", "peer_silent", peer_id=peer_id)
        self._note("peer", "peer_silent", peer_id=peer_id)

    def port_changed(self, before: int, port: int) -> None:
        """This node sends from another UDP port, since nobody answered at the one before."""
        self._log.info("port_changed", before=before, port=port)

    def port_kept(self, port: int, error: str) -> None:
        """It was to send from another one, and there is none."""
        self._log.limited("warning", "port_kept", port=port, error=error)

    def endpoint_moved(self, peer_id: PeerId, remote: Address) -> None:
        """Authenticated records come from a new address."""
        self._log.limited("info", "endpoint_moved", peer_id=peer_id, remote=remote)
        fields = self._named({"peer_id": peer_id, "remote": remote})
        self._tell(Change("peer", "endpoint_moved", f"{peer_id} moved", fields))

    def path_mtu_changed(self, peer_id: PeerId, old: int, new: int, reason: str) -> None:
        """The largest packet that the path to the peer carries whole is another one; 0: less than the least that is
        searched, so that records are fragmented."""
        fields: dict[str, object] = {"peer_id": peer_id, "old": old, "new": new, "reason": reason}
        self._note("path", "path_mtu_changed", **fields)
        if reason == "black_hole":
            hint = "the path lost what it carried before and nobody said so; the tunnel goes on with smaller packets"
            self._log.limited("warning", "path_mtu_changed", **fields, hint=hint)
        else:
            self._log.limited("info", "path_mtu_changed", **fields)

    def identity_in_use_twice(self, peer_id: PeerId, remote: Address, other: Address) -> None:
        """Sessions of one ID replace each other in turn, from ``remote`` and from ``other``: two hosts have its key."""
        self._metrics.identity_in_use_twice()
        self._log.limited(
            "warning",
            "identity_in_use_twice",
            peer_id=peer_id,
            remote=remote,
            other=other,
            hint="two hosts run with the same identity file and take the tunnel from each other: give one its own",
        )

    def rotated(self, peer_id: PeerId, epoch: int, duration: float, interval: float) -> None:
        """Both ends use epoch ``epoch``; seconds that it took, and since the epoch before."""
        self._metrics.rotated(duration, interval)
        fields = {"duration_ms": _ms(duration), "interval_secs": round(interval, 3)}
        if interval < ROTATE_SECS_MIN:  # more often than any node is set to: by hand, by volume, or by a peer's whim
            self._log.limited("info", "key_rotation", peer_id=peer_id, epoch=epoch, status="success", **fields)
        else:
            self._log.info("key_rotation", peer_id=peer_id, epoch=epoch, status="success", **fields)
        self._note("rotation", "key_rotation", peer_id=peer_id, epoch=epoch, status="success", **fields)

    def rotation_failed(self, peer_id: PeerId, epoch: int, reason: str) -> None:
        """A rotation ended without a new epoch; ``epoch`` stays in use."""
        fields = {"peer_id": peer_id, "epoch": epoch, "status": "failed", "reason": reason}
        self._log.limited("warning", "key_rotation", **fields)
        self._note("rotation", "key_rotation", **fields)

    def records_forged(self, peer_id: PeerId, epoch: int) -> None:
        """So many records did not open under the epoch's keys that they give way to others."""
        self._log.limited(
            "warning",
            "records_forged",
            peer_id=peer_id,
            epoch=epoch,
            hint="somebody sends records that the peer has not made: none of them got through; the keys are renewed",
        )

    def generation_changed(self, peers: int) -> None:
        """This machine goes on from a copy of its memory, which may go on elsewhere, too; so many peers had keys."""
        self._log.limited(
            "warning",
            "vm_generation_changed",
            peers=peers,
            hint="this virtual machine was resumed from a snapshot: all keys are gone, and each session begins anew",
        )

    # ---- the configuration ----

    def peer_added(self, peer_id: PeerId, networks: Sequence[Network]) -> None:
        """This peer may connect from now on; without networks it gets an address, or is dialled."""
        self._log.info("peer_added", peer_id=peer_id, networks=_joined(networks))
        self._note("list", "peer_added", peer_id=peer_id, networks=tuple(networks))

    def peer_removed(self, peer_id: PeerId) -> None:
        """This peer may not connect any more."""
        self._log.info("peer_removed", peer_id=peer_id)
        self._note("list", "peer_removed", peer_id=peer_id)

    def peer_changed(self, peer_id: PeerId, networks: Sequence[Network]) -> None:
        """The peer has other networks, these, or is dialled otherwise."""
        self._log.info("peer_changed", peer_id=peer_id, networks=_joined(networks))
        self._note("list", "peer_changed", peer_id=peer_id, networks=tuple(networks))

    # ---- the tunnel ----

    def network_standby(self, peer_id: PeerId, networks: Sequence[Network]) -> None:
        """Networks that another peer owns, which this one gets when that is not there."""
        self._log.limited("info", "network_standby", peer_id=peer_id, networks=_joined(networks))

    def network_taken_over(self, peer_id: PeerId, networks: Sequence[Network], before: PeerId) -> None:
        """A peer that stood by owns these now, since ``before`` is not there."""
        self._metrics.network_taken_over()
        self._log.limited("warning", "network_taken_over", peer_id=peer_id, networks=_joined(networks), before=before)

    def peer_succeeded(self, peer_id: PeerId, networks: Sequence[Network], before: PeerId) -> None:
        """A peer has come by its other ID, and has from now on what it had by the one ``before``."""
        self._log.limited("info", "peer_succeeded", peer_id=peer_id, networks=_joined(networks), before=before)

    def network_refused(self, peer_id: PeerId, networks: Sequence[Network], reason: str) -> None:
        """Networks that a peer does not get."""
        self._log.limited(
            "error", "network_refused", peer_id=peer_id, networks=",".join(map(str, networks)), reason=reason
        )

    def other_address(self, peer_id: PeerId, assigned: Sequence[Network], own: Sequence[Interface]) -> None:
        """A gateway assigns other addresses than this node is configured with: it takes no packets from those."""
        self._log.limited(
            "error",
            "network_refused",
            peer_id=peer_id,
            networks=",".join(map(str, assigned)),
            reason="assigned by the gateway, but --tun-address differs",
            hint="leave out --tun-address, or give this node "
            f"--allow-peer ID={','.join(map(str, host_networks(own)))} at the gateway",
        )

    def no_tunnel_address(self, peer_id: PeerId) -> None:
        """A gateway assigns no address, and none is configured."""
        self._log.limited(
            "warning",
            "no_tunnel_address",
            peer_id=peer_id,
            hint="the gateway gives this node networks of its own and no address: set --tun-address to one of them",
        )

    def peer_misplaced(self, peer_id: PeerId, error: str) -> None:
        """A reload leaves an allowed peer without any address; it is cut off."""
        self._log.limited("error", "peer_misplaced", peer_id=peer_id, error=error)

    def peer_key_unusable(self, peer_id: PeerId, error: str) -> None:
        """The key that is shared with a peer of the registry cannot be read: it cannot connect with another one."""
        hint = "mend the file and send SIGHUP, or name another one with `cryprq peer add ID --update --psk-file FILE`"
        self._log.error("peer_key_unusable", peer_id=peer_id, error=error, hint=hint)

    def part_failed(self, kind: str, what: str, error: str) -> None:
        """The kernel does not have something that the tunnel needs, and does not take it."""
        match kind:
            case "link":
                self._log.limited("error", "link_failed", link=what, error=error)
            case "address":
                self._log.limited("error", "address_failed", address=what, error=error)
            case "rule":
                self._log.limited("error", "rule_failed", rule=what, error=error)
            case _:
                self._log.limited("error", "route_failed", network=what, kind=_ROUTE_KINDS[kind], error=error)

    def part_restored(self, kind: str, what: str) -> None:
        """It does again: somebody had removed it, or what was in its way is gone."""
        match kind:
            case "link":
                self._log.limited("warning", "link_restored", link=what)
            case "address":
                self._log.limited("warning", "address_restored", address=what)
            case "rule":
                self._log.limited("warning", "rule_restored", rule=what)
            case _:
                self._log.limited("warning", "route_restored", network=what, kind=_ROUTE_KINDS[kind])

    def network_overlaps(self, network: Network, local: Network, interface: str) -> None:
        """A network of the tunnel lies in one of this host."""
        what = "is the same as" if network == local else "takes a part of"
        self._log.warning(
            "network_overlaps",
            network=network,
            local=local,
            interface=interface,
            hint=f"{network} of the tunnel {what} {local} of {interface}: give one of them other addresses",
        )

    def tun_renamed(self, name: str) -> None:
        """Somebody gave the TUN another name; everything goes on."""
        self._log.warning("tun_renamed", name=name)

    def tun_moved(self, *, away: bool) -> None:
        """Somebody put the TUN into another network namespace, or back."""
        if away:
            hint = "the tunnel works on there; addresses and routes are up to whoever moved it"
            self._log.warning("tun_moved", hint=hint)
        else:
            self._log.warning("tun_moved", hint="it is back, and gets its addresses and routes again")

    def tunnel_addresses(self, peer_id: PeerId, addresses: Sequence[Interface]) -> None:
        """A gateway assigned addresses, or took them back."""
        self._changed("address", "tunnel_addresses", peer_id, peer_id=peer_id, addresses=tuple(addresses))

    def tunnel_routes(self, networks: Sequence[Network]) -> None:
        """The networks that are routed into the tunnel, besides those of its addresses."""
        self._changed("route", "tunnel_routes", "", networks=tuple(networks))

    def dns_set(self, peer_id: PeerId | None, settings: DnsSettings | None, by: str) -> None:
        """This host asks the name servers of a gateway, or no longer; ``by``: what told the host."""
        self._changed(
            "dns",
            "tunnel_dns",
            "",
            peer_id=peer_id,
            servers=settings.servers if settings is not None else (),
            search=settings.search if settings is not None else (),
            everything=settings is not None and settings.everything,
            by=by or None,
        )

    def dns_restored(self, by: str) -> None:
        """Somebody had changed or removed what this host asks the gateway's name servers by."""
        self._log.limited("warning", "dns_restored", by=by)

    def dns_failed(self, error: str) -> None:
        """This host could not be told whom to ask about names, or whom no longer."""
        self._log.limited("error", "dns_failed", error=error)

    def dns_refused(self, peer_id: PeerId, what: str, reason: str) -> None:
        """A name server or a domain of a gateway that is not used."""
        self._log.limited("warning", "dns_refused", peer_id=peer_id, what=what, reason=reason)

    def dns_unavailable(self, peer_id: PeerId | None, settings: DnsSettings, reason: str) -> None:
        """A gateway has name servers, and there is no way to tell this host."""
        self._log.limited(
            "warning",
            "dns_unavailable",
            peer_id=peer_id,
            servers=_joined(settings.servers),
            search=_joined(settings.search),
            reason=reason,
            hint="other servers are asked, as before; --on-change can see to it, --accept-dns off ends this warning",
        )

    def tunnel_mtu(self, mtu: int) -> None:
        """The TUN's MTU follows the smallest that a gateway has."""
        self._log.info("tunnel_mtu", mtu=mtu)

    def forwarding_off(self, sysctl: str) -> None:
        """Networks behind this node need forwarding, and the kernel does none."""
        self._log.warning(
            "forwarding_off",
            sysctl=sysctl,
            hint=f"peers will not reach the networks behind this node; sysctl -w {sysctl}=1 turns forwarding on",
        )

    # ---- the program that is told of changes ----

    def hook_called(self, change: Change, fault: str | None, *, killed: bool = False) -> None:
        """A call of it has ended, or could not begin."""
        self._metrics.hook_called("ok" if fault is None else "killed" if killed else "failed")
        if fault is not None:
            self._log.limited("warning", "on_change_failed", change=change.kind, about=change.event, error=fault)

    def hook_behind(self, change: Change, lost: int) -> None:
        """So many changes will not be told, since newer ones came while it was busy; ``change`` is the last of them."""
        self._metrics.hook_called("dropped", lost)
        self._log.limited("warning", "on_change_behind", change=change.kind, about=change.event, dropped=lost)

    # ---- the endpoint ----

    def other_protocol(self, remote: Address) -> None:
        """Somebody dialled who does not offer this version of the protocol, nor any other that this node speaks."""
        self._metrics.handshake_attempted()
        self._metrics.handshake_failed("version")
        hint = f"the dialer does not speak {ALPN}: it runs another version of CrypRQ, or something else"
        self._log.limited("warning", "handshake_failed", reason="version", remote=remote, hint=hint)

    def inbound_backoff(self, remote: Address, wait: float) -> None:
        """An address failed too often: it is not listened to for so many seconds."""
        self._log.limited("warning", "inbound_backoff", remote=remote, wait_ms=round(wait * 1000))

    # ---- defects ----

    def internal_error(
        self, error: BaseException, *, peer_id: PeerId | None = None, remote: Address | None = None
    ) -> None:
        """An exception that should not have been; the node goes on."""
        self._log.defect("error", "internal_error", error, **_given(peer_id=peer_id, remote=remote))


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _joined(values: Sequence[object]) -> str | None:
    return ",".join(map(str, values)) or None


def _json(value: object) -> object:
    """What JSON has of it; a list of texts for a tuple, which an address is not meant as."""
    if value is None or isinstance(value, bool | int | float):
        return value
    return [str(each) for each in value] if type(value) is tuple else str(value)


def _given(**fields: object) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}
