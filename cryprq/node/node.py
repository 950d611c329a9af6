"""``Node``: everything that makes up a running node, in its order of start and stop.

One event loop drives it. The data plane wakes it by an event descriptor; peers and dialers by one timer, set to
whatever is due first; and once a second it looks after what has no event of its own.
"""

import asyncio
import hmac
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from cryprq._fastpath import cpu_has_aes
from cryprq.address import Address, Local
from cryprq.config import psk_file
from cryprq.config.checks import spares_endpoint
from cryprq.config.identity_file import is_there, load_or_create_identity
from cryprq.config.node_config import NodeConfig
from cryprq.config.peer_files import PeerFiles
from cryprq.errors import CryprqError, MachineError
from cryprq.inner.name_servers import NameServers
from cryprq.inner.network import InnerNetwork
from cryprq.linux import resolved
from cryprq.linux.clock import boottime, monotonic, realtime
from cryprq.linux.generation import GenerationMonitor
from cryprq.linux.host_address import reachable_address
from cryprq.linux.name_service import NameService
from cryprq.linux.sockets import SocketGroup
from cryprq.linux.systemd import Notifier
from cryprq.multiaddr import Multiaddr
from cryprq.networks import Network, covering
from cryprq.node.dns import DnsKeeper, record_path
from cryprq.node.doubts import of_configuration, of_machine
from cryprq.node.hook import Hook
from cryprq.node.hook import check as check_hook
from cryprq.node.invited import Invited
from cryprq.node.keeper import Keeper
from cryprq.node.machine import Machine
from cryprq.node.peer_watch import PeerWatch
from cryprq.node.registry_check import RegistryCheck
from cryprq.node.reload import merge
from cryprq.node.roster import Changes, Roster, declaration_of
from cryprq.node.snapshot import Snapshot
from cryprq.peer_id import PeerId
from cryprq.peer_name import resolve, similar
from cryprq.peers.dialer import Dialer
from cryprq.peers.inbound import Admittance, Announcement
from cryprq.peers.indices import IndexPool
from cryprq.peers.outbound import HandshakeSettings, Outbound, Outcome
from cryprq.peers.peer import CLOSE_FLUSH_TIMEOUT, Peer
from cryprq.peers.resolver import Resolver
from cryprq.peers.stale_port import StalePort
from cryprq.peers.table import PeerTable
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import AEAD_AES_256_GCM, AEAD_CHACHA20_POLY1305, AEAD_NAMES, KEM_NAMES, KEMS_DEFAULT
from cryprq.protocol.identity import Identity
from cryprq.protocol.key_schedule import wipe
from cryprq.protocol.parameters import Parameters
from cryprq.quic.connection import Connection
from cryprq.quic.endpoint import Endpoint
from cryprq.quic.gate import Credentials, GateLimits
from cryprq.quic.qlog import Qlog
from cryprq.registry import lease_file
from cryprq.registry.commands import Desk
from cryprq.registry.fleet import Fleet
from cryprq.registry.sqlite import SqliteStore, registry_path
from cryprq.telemetry.admin_socket import AdminSocket
from cryprq.telemetry.changes import Change
from cryprq.telemetry.feed import Feed
from cryprq.telemetry.health import Health
from cryprq.telemetry.http import HttpServer
from cryprq.telemetry.logs import Log
from cryprq.telemetry.metrics import Metrics
from cryprq.telemetry.reporter import Reporter
from cryprq.telemetry.samples import NodeStatus, PeerSample, as_json
from cryprq.version import REVISION, VERSION

TICK: Final = 1.0
"""Seconds between looks at what has no event of its own: silence, a worker's death, a TUN that was removed."""
ALIKE_MAX: Final = 2000
"""Peers among whom one that is denied is looked for, by a slip in its ID: some milliseconds, as its handshake took."""
MEASURE_MIN: Final = 0.25
MEASURE_MAX: Final = 1.5
"""Seconds that whoever asks for the status waits for round trips of now: twice the longest that is known."""
MEASURE_POLL: Final = 0.005
CLOSE_POLL: Final = 0.01
"""Seconds between looks at whether the last connection is gone, when the node stops."""


class Node:
    """A node, as an async context manager: inside, it runs; on the way out it tells its peers and leaves nothing.

    It runs on the event loop in which the context is entered, asyncio's own or uvloop, and belongs to that thread. It
    needs the rights that ``cryprq-node`` needs, handles no signals, and is for one run: the next one gets a new object.

    >>> async with Node(config) as node:
    ...     await node.wait()
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        reload: Callable[[], NodeConfig] | None = None,
        log: Log | None = None,
        machine: Callable[[NodeConfig], Machine] = Machine,
        notifier: Notifier | None = None,
        peer_files: PeerFiles | None = None,
    ) -> None:
        """``reload`` reads the configuration again, for ``reload()``; ``log`` is where events go, by default standard
        error; ``machine`` opens TUN and sockets; ``notifier`` tells a service manager how the node is; ``peer_files``
        is what ``reload`` reads the directory of peers by, which then is watched. Nothing is opened before the context
        is entered."""
        self.config = config
        """The configuration in force."""
        self.health = Health()
        """``health.reason()`` says in one line why the node does not work; None: it does."""
        self.peer_id: PeerId
        """Who this node is, from its identity file; known once the context is entered."""
        self.listen_addrs: tuple[Multiaddr, ...] = ()
        """What others pass to ``--peer``, as many as the node listens at; empty before it is up."""
        self._read_config = reload
        self._peer_files = peer_files
        self._log = log if log is not None else Log(config.log_level, config.log_format)
        self._open_machine = machine
        self._notifier = notifier if notifier is not None else Notifier()
        self._metrics = Metrics(
            peers=self._samples,
            drops=self._drops,
            answers=self._answers,
            marks=self._marks,
            offloads=self._offloads,
            first_datagrams=self._first_datagrams,
            pending=lambda: self._endpoint.pending if self._snapshot is not None else 0,
            healthy=lambda: self.health.reason() is None,
            rotate_secs=lambda: self.config.rotate_secs,
            log_lines_dropped=lambda: self._log.lines_dropped,
            allowed_peers=lambda: self._snapshot.allowed_peers() if self._snapshot is not None else 0,
            pools=lambda: self._snapshot.pools() if self._snapshot is not None else (),
            routes_missing=lambda: self._snapshot.routes_missing() if self._snapshot is not None else 0,
        )
        self._reporter = Reporter(self._log, self._metrics)
        self._snapshot: Snapshot | None = None
        self._psks: dict[PeerId, bytearray] = {}
        self._stale_port = StalePort()
        self._undo: list[Callable[[], Any]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._poll_soon: asyncio.Handle | None = None
        self._told_failure: str | None = None
        self._told_doubts: tuple[str, ...] = ()
        self._told_peer_faults: tuple[str, ...] = ()
        self._peer_watch: PeerWatch | None = None
        self._stop_requested = asyncio.Event()
        self._up = False
        self._told_routes: frozenset[Network] = frozenset()

    @property
    def listen_addr(self) -> Multiaddr | None:
        """The first of ``listen_addrs``; None for a node that does not listen, or is not up yet."""
        return self.listen_addrs[0] if self.listen_addrs else None

    # ---- life ----

    async def __aenter__(self) -> Self:
        """Starts the node. ConfigError or MachineError, one line, with everything that was opened closed again."""
        try:
            await self._start()
        except BaseException:
            await self._unwind()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._unwind()
        self._log.info("node_stopped", peer_id=self.peer_id)

    async def wait(self) -> None:
        """Until somebody calls ``request_stop``."""
        await self._stop_requested.wait()

    def request_stop(self) -> None:
        """Makes ``wait`` return, now or when it is called. The node runs until the context is left."""
        self._stop_requested.set()

    async def _start(self) -> None:
        """The TUN, which needs privilege, comes first, then the port: what is wrong with a new set-up shows at once."""
        config = self.config
        self._loop = asyncio.get_running_loop()
        self._names = NameService()
        if config.on_change is not None:
            check_hook(config.on_change)
        known = is_there(config.identity)
        identity = load_or_create_identity(config.identity)
        self._psks = psk_file.load_all(config.psk_files)
        self._undo.append(lambda: wipe(*self._psks.values()))
        self._invited = Invited(config.invitation_file, self._reporter)
        self.peer_id = identity.peer_id
        await self._start_fleet()
        doubts = (*of_machine(config), *self._doubts_of(config))  # the tunnel is not yet part of the machine
        self._whose = {"node": str(self.peer_id), "tun": config.tun_name}
        self._hook = Hook(config.on_change, self._reporter, self._whose)
        self._undo.append(self._tell_down)
        self._machine = self._open_machine(config)
        self._undo.append(self._machine.close)
        self._machine.interface.observer = self._reporter
        self._reporter.on_change = self._hook.tell
        self._make_parts()
        self._machine.start()
        self._plane = self._machine.plane
        self._loop.add_reader(self._plane.event_fd, self._plane_ready)
        self._undo.append(partial(self._loop.remove_reader, self._plane.event_fd))
        self._start_endpoint(identity)
        self._undo.append(self._resolver.close)
        self._start_dns()
        self._snapshot = Snapshot(
            self._machine, self._peers, self._roster, self._network, self.health, self._dns, boottime
        )
        if config.metrics_addr is not None:
            http = HttpServer(self._metrics, self.health, self._names.getaddrinfo)
            addresses = await http.start(*config.metrics_addr)
            self._undo.append(http.close)
            self._log.info("metrics_server_started", addr=",".join(addresses))
        self._feed = Feed(lambda: as_json(self.status()), self._whose)
        self._reporter.on_event = self._feed.tell
        control = AdminSocket(
            config.control_socket,
            self.status,
            self.rotate,
            self.down,
            self._registry_request,
            measure=self.measure,
            feed=self._feed,
            find=self.find,
        )
        await control.start()
        self._undo.append(control.close)
        self._tell_up()
        self._roster.apply(boottime())
        self._machine.interface.settle()
        self._keeper = Keeper(self._loop, self._machine.interface, self._roster.dialled_hosts, self._way_opened)
        self._keeper.start()
        self._undo.append(self._keeper.stop)
        self._watch_generation()
        self.health.watch(self._machine.failure)
        await self._watch_registry()
        self.health.watch(self._machine.interface.failure, restart_helps=False)
        self.health.watch(self._dns.failure, restart_helps=False)
        self.health.ready()
        self._metrics.config_read(taken=True)
        self._undo.append(self._stop_timers)
        if not known:
            self._log.info("identity_created", peer_id=self.peer_id, path=config.identity)
        self._announce()
        self._tell_doubts(doubts)
        self._tell_peer_faults(config)
        self._notifier.ready()
        self._undo.append(self._watch_no_peers)
        self._watch_peers()
        self._tick()

    async def _start_fleet(self) -> None:
        """Who is known, before anybody can come. A registry that is damaged stops the node here."""
        config = self.config
        path = registry_path(config.identity, config.tun_name, config.lease_dir)
        self._fleet = Fleet(
            SqliteStore(path),
            declaration_of(config),
            gateways=config.tun_addresses if config.listen else None,
            clock=realtime,
            failed=self._reporter.internal_error,
        )
        self._undo.append(self._fleet.close)
        self._log.name_of = self._name_of
        self._reporter.alike = self._alike
        await self._fleet.start()
        if config.listen:
            old = lease_file.read(lease_file.lease_path(config.identity, config.tun_name, config.lease_dir))
            await self._fleet.adopt(old, lease_file.MARK)

    async def _watch_registry(self) -> None:
        fleet, listens = self._fleet, bool(self.config.listen)
        check = RegistryCheck(
            fleet.store.probe, lambda: listens and self._roster.gives_addresses(), lambda: fleet.fault, boottime
        )
        await check.look()
        self._undo.append(check.stop)
        self.health.watch(check, restart_helps=False)

    def _make_parts(self) -> None:
        config, plane = self.config, self._machine.plane
        self._network = InnerNetwork(self._machine.interface, plane, self._reporter, config.tun_addresses, config.mtu)
        self._resolver = Resolver(self._getaddrinfo, self._changed, boottime)
        self._peers = PeerTable(
            own_id=self.peer_id,
            plane=plane,
            network=self._network,
            observer=self._reporter,
            permits=self._permits,
            records_soft=config.rotate_records,
            reauth_secs=lambda: self.config.reauth_secs,
            way=self._machine.way_to,
            changed=self._changed,
            later=self._loop.call_later,
        )
        self._roster = Roster(
            config,
            self.peer_id,
            self._fleet,
            peers=self._peers,
            network=self._network,
            resolver=self._resolver,
            connect=self._connect,
            unanswered=self._dial_unanswered,
            observer=self._reporter,
        )
        self._fleet.on_change(self._registry_changed)

    def _start_dns(self) -> None:
        config, interface = self.config, self._machine.interface
        record = record_path(config.identity, config.tun_name, config.lease_dir)
        self._told_names = NameServers()
        self._dns = DnsKeeper(lambda: interface.name, record, self._reporter, hooked=config.on_change is not None)
        self._dns.start()
        self._undo.append(self._dns.stop)

    def _start_endpoint(self, identity: Identity) -> None:
        config = self.config
        self._admittance = Admittance(
            settings=HandshakeSettings(
                identity=identity,
                lanes=config.workers,
                ecn=not config.no_ecn,
                lane_ports=bool(self._machine.sockets.dialling.lanes),
                aeads=_aeads(config.aead),
                kems=_kems(config.kems),
                rotate_secs=config.rotate_secs,
                rotate_floor=config.rotate_min_secs,
                mtu=config.mtu,
                indices=IndexPool(config.workers),
                psks=self._psks,
                invitations=self._invited.keys,
            ),
            fleet=self._fleet,
            announced=_announced(config),
            obtain=self._roster.obtain,
            allowed=self._network.allowed,
            spares_endpoint=self._spares_endpoint,
            allow_m2=self._allow_m2,
            token_for=self._token_for,
            reporter=self._reporter,
            clock=boottime,
        )
        self._endpoint = Endpoint(
            self._machine.udp,
            limits=GateLimits(config.max_inbound, config.backoff_base_ms, config.backoff_max_ms),
            accept=self._admittance.accept if config.listen else None,
            loop=self._loop,
            credentials=Credentials(identity.peer_id.digest, identity.token_key),
            clock=monotonic,
            unix=realtime,
            on_record=self._stray_record,
            observer=self._reporter,
            qlog=self._open_qlog(config.qlog_dir),
            dials_by=self._machine.sockets.dials_by,
            listens=lambda group: group < len(config.listen),
        )
        self._endpoint.start()
        self._undo.append(self._stop_talking)

    def _open_qlog(self, directory: Path | None) -> Qlog | None:
        """A tunnel that runs without its debugging files is better than none."""
        if directory is None:
            return None

        def failed(error: OSError) -> None:
            self._log.warning(
                "qlog_off",
                directory=directory,
                error=error.strerror,
                hint="the node runs on without; CRYPRQ_QLOG_DIR is a directory that it may write to",
            )

        try:
            return Qlog(directory, failed)
        except OSError as error:
            failed(error)
            return None

    async def _unwind(self) -> None:
        self.health.failed("stopping")
        self._notifier.stopping()
        while self._undo:
            try:
                result = self._undo.pop()()
                if asyncio.iscoroutine(result):
                    await result
            except Exception as error:  # the rest is closed all the same: keys are wiped, the TUN goes
                self._reporter.internal_error(error)
        self._snapshot = None

    async def _stop_talking(self) -> None:
        """Peers get a sealed CLOSE and a second to answer it by closing their end; then QUIC closes what is left."""
        self._admittance.stopping = True
        self._endpoint.stop_accepting()
        self._roster.stop()
        self._peers.close(boottime())
        for _ in range(round(CLOSE_FLUSH_TIMEOUT / CLOSE_POLL)):
            if not self._endpoint.connections:
                break
            await asyncio.sleep(CLOSE_POLL)
        self._endpoint.stop()
        self._stop_timers()  # what closed meanwhile may have set them again

    def _stop_timers(self) -> None:
        for handle in (self._timer, self._poll_soon, self._ticker):
            if handle is not None:
                handle.cancel()

    def _announce(self) -> None:
        config, sockets = self.config, self._machine.sockets
        if config.allow_any:
            self._log.warning("allow_any", hint="every peer that finds this node may use the tunnel; for labs only")
        if config.listen:
            self._network.check_forwarding(config.routes)
            self.listen_addrs = tuple(map(self._listen_addr, sockets.listening))
        for address in self.listen_addrs:
            self._log.info("listener_ready", peer_id=self.peer_id, listen_addr=address)
        self._log.info(
            "node_started",
            peer_id=self.peer_id,
            version=VERSION,
            revision=REVISION,
            tun=config.tun_name,
            addresses=",".join(map(str, config.tun_addresses)) or None,
            mtu=config.mtu,
            port=sockets.ports[0],
            aead=AEAD_NAMES[self._admittance.settings.aeads[0]],
            workers=config.workers,
            offloads=",".join(name for name, state in self._offloads().items() if state == "on"),
        )

    def _listen_addr(self, group: SocketGroup) -> Multiaddr:
        host = group.host or reachable_address(group.family, without=self.config.tun_name)
        return Multiaddr("ip6" if ":" in host else "ip4", host, group.port, self.peer_id)

    def _tell_up(self) -> None:
        self._up = True
        fields = {
            "addresses": [str(address) for address in self.config.tun_addresses],
            "mtu": self.config.mtu,
            "port": self._machine.sockets.ports[0],
            "ports": list(self._machine.sockets.ports),
        }
        self._hook.tell(Change("up", "node_started", fields=fields))

    async def _tell_down(self) -> None:
        await self._hook.stop(Change("down", "node_stopped") if self._up else None)

    def _doubts_of(self, config: NodeConfig) -> tuple[str, ...]:
        return of_configuration(config, self._fleet.registered)

    def _tell_doubts(self, doubts: tuple[str, ...]) -> None:
        """Those that were not told the last time."""
        for doubt in doubts:
            if doubt not in self._told_doubts:
                self._log.warning("config_doubtful", doubt=doubt)
        self._told_doubts = doubts

    def _tell_peer_faults(self, config: NodeConfig) -> None:
        for fault in config.peer_faults:
            if fault not in self._told_peer_faults:
                self._log.error("peer_file_rejected", error=fault)
        self._told_peer_faults = config.peer_faults

    # ---- what drives it ----

    def _plane_ready(self) -> None:
        self._peers.dispatch(self._plane.events(), boottime())
        datagrams = self._plane.quic_datagrams()
        self._metrics.rerouted("quic", len(datagrams))
        for datagram in datagrams:
            self._endpoint.receive(datagram.data, datagram.remote, datagram.local)

    def _watch_generation(self) -> None:
        """Where there are no such notices, there is nothing to be told, either."""
        try:
            self._generation = GenerationMonitor()
        except OSError:
            return
        self._loop.add_reader(self._generation.fileno(), self._generation_ready)
        self._undo.append(self._generation.close)
        self._undo.append(partial(self._loop.remove_reader, self._generation.fileno()))

    def _watch_peers(self) -> None:
        """The directory that the configuration in force names, and no other."""
        if self._peer_watch is not None:
            self._peer_watch.stop()
            self._peer_watch = None
        directory = self.config.allow_peer_dir
        if directory is None or self._peer_files is None:
            return
        self._peer_watch = PeerWatch(directory, self._peer_files, self.reload, self._loop)
        self._peer_watch.start()
        if self._peer_files.differs(directory):  # what came between the first reading and now
            self.reload()

    def _watch_no_peers(self) -> None:
        if self._peer_watch is not None:
            self._peer_watch.stop()

    def _generation_ready(self) -> None:
        """A copy of this machine may go on with the same keys and counters: nothing is sealed with them any more."""
        monitor = self._generation
        if monitor.changed():
            peers = self._peers.forsake("vm_generation_changed")
            self._endpoint.forsake_all()
            self._reporter.generation_changed(peers)
            self._changed()
        if monitor.overrun:  # that was an error of the socket, after which libuv watches it no more
            self._loop.remove_reader(monitor.fileno())
            self._loop.add_reader(monitor.fileno(), self._generation_ready)

    def _stray_record(self, data: bytes, remote: Address, local: Local) -> None:
        self._metrics.rerouted("record", 1)
        self._plane.inject(data, remote, local)

    def _changed(self) -> None:
        """Something may be due now, or earlier than the timer says."""
        if self._poll_soon is None:
            self._poll_soon = self._loop.call_soon(self._poll)

    def _poll(self) -> None:
        """Does what is due, and sets the timer to what is due next."""
        self._poll_soon = None
        now = boottime()
        try:
            self._peers.handle_timers(now)
            self._roster.elect()
            self._settle_dns()
            self._tell_routes()
            times = [self._roster.poll(now), self._peers.next_timer()]
        except Exception as error:  # a fault with one peer must not stop the timers of all
            self._reporter.internal_error(error)
            times = [Boottime(now + TICK)]
        due = min((at for at in times if at is not None), default=None)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if due is None else self._loop.call_later(max(0.0, due - now), self._changed)

    def _tell_routes(self) -> None:
        """Once for many that come together, as when a gateway with hundreds of sites starts."""
        routes = self._network.routes
        if routes is not self._told_routes:
            self._told_routes = routes
            self._reporter.tunnel_routes(sorted(routes, key=lambda route: (route.version, route)))

    def _settle_dns(self) -> None:
        """Names are asked of gateways that there is a session with."""
        dialled = dict.fromkeys(target.peer_id for target in self.config.peers if target.peer_id is not None)
        gateways = [i for i in dialled if (peer := self._peers.get(i)) is not None and peer.current is not None]
        self._dns.want(self._told_names.choose(gateways, self._network.allowed, self.config.accept_dns))

    def _tick(self) -> None:
        self._ticker = self._loop.call_later(TICK, self._tick)
        now = boottime()
        self._peers.look(now)
        self._fleet.tick()
        self._roster.forget_idle(now)
        self._dns.look()
        failure = self.health.reason()
        if failure != self._told_failure:
            self._told_failure = failure
            if failure is not None:
                self._log.error("node_failed", reason=failure)
            else:
                self._log.info("node_recovered")
        if not self.health.wants_restart():  # else the manager's watchdog restarts the node
            self._notifier.alive(now)
        self._notifier.status(failure or f"{sum(peer.current is not None for peer in self._peers)} peers connected")
        self._changed()

    # ---- what its parts ask for ----

    def _permits(self, peer_id: PeerId) -> bool:
        return self._roster.permits(peer_id)

    def _allow_m2(self, connection: Connection) -> bool:
        return self._endpoint.allow_m2(connection)

    def _token_for(self, peer: bytes) -> bytes:
        return self._endpoint.token_for(peer)

    def _spares_endpoint(self, network: Network) -> bool:
        return spares_endpoint(network, self.config.route_table)

    def _connect(self, dialer: Dialer, peer: Peer, remote: Address, timeout: float) -> Outbound:
        if remote.is_ipv6 and self._machine.sockets.dialling.family == socket.AF_INET:
            raise OSError(f"this node's socket is IPv4 only and cannot reach {remote}")
        swallowing = (n for n in self._network.allowed(peer.peer_id) if not self._spares_endpoint(n))
        if (network := covering(swallowing, remote.host)) is not None:
            raise OSError(f"{remote.host} is in the peer's allowed network {network}: the tunnel would swallow itself")
        self._machine.interface.spare(remote.host, remote.port)
        outbound = Outbound(
            peer,
            remote,
            self._admittance.settings,
            timeout=timeout,
            take=self._take,
            ended=partial(self._dial_ended, dialer, peer),
            reporter=self._reporter,
            clock=boottime,
            call_later=self._loop.call_later,
        )
        digest = peer.peer_id.digest
        outbound.begin(self._endpoint.dial(remote, outbound, timeout=timeout, peer=digest, token=peer.token))
        return outbound

    def _way_opened(self) -> None:
        self._roster.hurry(boottime())
        self._changed()

    def _dial_unanswered(self, began: Boottime) -> None:
        if not self._machine.sockets.dialling.movable:
            return
        now = boottime()
        if self._stale_port.unanswered(began, self._peers.heard_at(self._machine.sockets.dials_by), now):
            self._move_port()

    def _move_port(self) -> None:
        """Another local port for everything; to peers that are there this node has changed its address."""
        group = self._machine.sockets.dialling
        before = group.port
        try:
            self._endpoint.replace_socket(self._machine.move_port)
        except MachineError as error:
            self._reporter.port_kept(before, str(error))
            return
        self._reporter.port_changed(before, group.port)
        for peer in self._peers:
            peer.show()

    def _take(self, peer: Peer, parameters: Parameters, remote: Address) -> str | None:
        refusal = self._roster.take(peer, parameters, remote)
        if refusal is None:
            self._told_names.take(peer.peer_id, parameters)
        return refusal

    def _dial_ended(self, dialer: Dialer, peer: Peer, outcome: Outcome) -> None:
        if outcome is Outcome.SESSION:
            self._invited.connected(peer.peer_id)
        if outcome is Outcome.REPLACED:
            dialer.schedule.replaced(boottime())
        if outcome in (Outcome.FAILED, Outcome.DUPLICATE, Outcome.REFUSED):
            dialer.schedule.failed(boottime(), refused=outcome is Outcome.REFUSED)
        self._changed()

    async def _getaddrinfo(self, host: str, port: int, family: int) -> Sequence[tuple[Any, ...]]:
        interface = self._machine.interface
        try:
            return await self._names.getaddrinfo(host, port, family, socket.SOCK_DGRAM, interface.lookup_uid)
        except OSError:
            # The name server may be behind the tunnel that is down, or asked by a program whose queries go into it.
            found = await resolved.look_up(host, port, family, interface.name) if interface.diverts else ()
            if not found:
                raise
            return found

    def _samples(self) -> Iterable[PeerSample]:
        return self._snapshot.samples() if self._snapshot is not None else ()

    def _answers(self) -> Mapping[tuple[str, str], int]:
        return self._snapshot.answers() if self._snapshot is not None else {}

    def _marks(self) -> Mapping[str, int]:
        return self._snapshot.marks() if self._snapshot is not None else {}

    def _drops(self) -> Mapping[tuple[str, str], int]:
        return self._snapshot.drops() if self._snapshot is not None else {}

    def _offloads(self) -> Mapping[str, str]:
        return self._snapshot.offloads() if self._snapshot is not None else {}

    def _first_datagrams(self) -> Mapping[str, int]:
        return self._endpoint.counters if self._snapshot is not None else {}

    # ---- what operators ask for ----

    def _running(self) -> Snapshot:
        if self._snapshot is None:
            raise RuntimeError("the node is not running")
        return self._snapshot

    def status(self) -> NodeStatus:
        """The node as ``cryprq status`` shows it. RuntimeError outside the context."""
        return self._running().status(str(self.peer_id), tuple(map(str, self.listen_addrs)))

    def _name_of(self, peer: object) -> str:
        return self._fleet.name(peer) if isinstance(peer, PeerId) else ""

    def _alike(self, peer_id: PeerId) -> PeerId | None:
        named = self._fleet.named
        return similar(str(peer_id), named) if len(named) <= ALIKE_MAX else None

    def find(self, word: str) -> PeerId:
        """Whom a word means: a peer's name, its ID, or the beginning of one that no other's begins with. LookupError,
        one line, if it means nobody, or several. RuntimeError outside the context."""
        self._running()
        return resolve(word, self._fleet.names, {*self._fleet.named, *(peer.peer_id for peer in self._peers)})

    async def measure(self) -> None:
        """Asks the peers that are there for a round trip each, for the next ``status``. Returns when all have answered,
        or late enough for one that would. RuntimeError outside the context."""
        self._running()
        now = boottime()
        asked = [peer for peer in self._peers if peer.measure(now)]
        longest = max((peer.round_trip for peer in asked), default=0.0)
        for _ in range(round(min(MEASURE_MAX, max(MEASURE_MIN, 2 * longest)) / MEASURE_POLL)):
            if not any(peer.meter.waits(now) for peer in asked):
                break
            await asyncio.sleep(MEASURE_POLL)

    def rotate(self, peer_id: PeerId | None = None) -> Sequence[PeerId]:
        """Begins to rotate the keys with one peer, or with all. Returns those that it began with; LookupError if there
        is no session with the one that was asked for. RuntimeError outside the context."""
        self._running()
        now = boottime()
        if peer_id is not None:
            peer = self._peers.get(peer_id)
            if peer is None:
                raise LookupError(f"this node knows no peer {peer_id}; `cryprq status` lists those that it knows")
            if not peer.rotate(now):
                raise LookupError(f"no session with {peer_id} to rotate: it is not connected")
            return (peer_id,)
        return tuple(peer.peer_id for peer in self._peers if peer.rotate(now))

    def down(self) -> None:
        """Stops, as ``request_stop`` does, and lifts the kill switch. RuntimeError outside the context."""
        self._running()
        self._machine.interface.release = True
        self.request_stop()

    def reload(self) -> None:
        """Reads the configuration again. Who may connect, who is dialled, what is announced and the log level change at
        once; what cannot change while the node runs is named in the log, and a wrong configuration changes nothing.
        Without a ``reload`` to read it by, nothing happens. RuntimeError outside the context."""
        self._running()
        if self._read_config is None:
            return
        self._notifier.reloading()
        try:
            self._reload(self._read_config)
        finally:
            self._notifier.ready()

    def _reload(self, read_config: Callable[[], NodeConfig]) -> None:
        psks: dict[PeerId, bytearray] = {}
        try:
            config, kept = merge(self.config, read_config())
            psks = psk_file.load_all(config.psk_files)
            changes = self._roster.change(config, boottime())
        except CryprqError as error:
            wipe(*psks.values())
            self._metrics.config_read(taken=False)
            self._log.error("config_rejected", error=error, hint="the configuration from before stays in force")
            return
        self._metrics.config_read(taken=True)
        self._log.set_level(config.log_level)
        moved = config.allow_peer_dir != self.config.allow_peer_dir
        self.config = config
        self._take_psks(psks)
        self._announce_again(_announced(config))
        self._tell_doubts(self._doubts_of(config))
        self._tell_peer_faults(config)
        self._tell_changes(changes)
        self._log.info(
            "config_reloaded",
            added=len(changes.added),
            removed=len(changes.removed),
            changed=len(changes.changed),
            needs_restart=",".join(kept) or None,
        )
        if moved:
            self._watch_peers()
        self._changed()

    def _take_psks(self, psks: dict[PeerId, bytearray]) -> None:
        """With a peer that has another key now there is a new handshake; the session's keys live on until then."""
        before, self._psks = self._psks, psks
        for peer in self._peers:
            if not hmac.compare_digest(before.get(peer.peer_id, b""), psks.get(peer.peer_id, b"")):
                peer.renew("psk_changed", boottime(), dialled=True)
        wipe(*before.values())

    def _announce_again(self, announced: Announcement) -> None:
        """Dialers that come are told these. There is no frame for those that are here: they are made to connect again,
        under the keys that they have, and are told by a new M4."""
        before = self._admittance.announced
        rotate_secs, rotate_floor = self.config.rotate_secs, self.config.rotate_min_secs
        self._admittance.reconfigure(announced, rotate_secs, rotate_floor, self._psks)
        if announced != before:
            self._network.check_forwarding(self.config.routes)
            what = "routes_changed" if announced.networks != before.networks else "dns_changed"
            for peer in self._peers:
                peer.renew(what, boottime())

    def _tell_changes(self, changes: Changes) -> None:
        for peer_id in sorted(changes.added):
            self._reporter.peer_added(peer_id, self._fleet.by_hand(peer_id))
        for peer_id in sorted(changes.removed):
            self._reporter.peer_removed(peer_id)
        for peer_id in sorted(changes.changed):
            self._reporter.peer_changed(peer_id, self._fleet.by_hand(peer_id))

    def _registry_changed(self, peers: frozenset[PeerId]) -> None:
        """At once: whoever may not connect any more is cut off before anything else happens."""
        self._tell_changes(self._roster.revise(peers, boottime()))
        self._changed()

    async def _registry_request(self, request: Mapping[str, Any], who: str) -> Any:
        desk = Desk(self._fleet, now=realtime(), who=who, own=self.peer_id, addresses=self.listen_addrs)
        return await desk.answer(request)


def _aeads(name: str) -> tuple[int, ...]:
    """What to offer and accept, in order of preference: AES where the CPU has it, being several times faster then."""
    if name == "auto":
        both = (AEAD_AES_256_GCM, AEAD_CHACHA20_POLY1305)
        return both if cpu_has_aes() else both[::-1]
    return tuple(suite for suite, known in AEAD_NAMES.items() if known == name)


def _kems(names: Sequence[str]) -> tuple[int, ...]:
    """What to dial with, and what else to accept."""
    return tuple(kem for name in names for kem, known in KEM_NAMES.items() if known == name) or KEMS_DEFAULT


def _announced(config: NodeConfig) -> Announcement:
    networks = tuple(dict.fromkeys((*(address.network for address in config.tun_addresses), *config.routes)))
    return Announcement(networks, config.dns, config.search)
