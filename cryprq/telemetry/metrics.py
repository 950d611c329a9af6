"""A node's Prometheus metrics: every name, from the start at 0."""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from cryprq.telemetry.samples import PeerSample, PoolSample
from cryprq.version import REVISION, VERSION

FAILURE_REASONS: Final = (
    "aead",
    "busy",
    "connection_lost",
    "downgrade",
    "duplicate",
    "endpoint_covered",
    "kem",
    "knock",
    "left",
    "malformed",
    "no_address",
    "not_allowlisted",
    "order",
    "own_peer_id",
    "parameters",
    "psk",
    "refused",
    "shutdown",
    "signature",
    "tag",
    "timeout",
    "transport",
    "version",
    "wrong_peer_id",
)
"""Values of ``reason`` that are there from the start, at 0; others appear when they happen."""

FIRST_DATAGRAMS: Final = (
    "opened_known",
    "opened_knocked",
    "opened_stranger",
    "retry",
    "waited",
    "limit",
    "gave_way",
    "backoff",
    "strangers",
    "bad_token",
    "bad_initial",
    "malformed",
    "version",
)
"""Values of ``outcome``: what the gate makes of datagrams that begin a connection (``cryprq.quic.endpoint``)."""

HOOK_OUTCOMES: Final = ("ok", "failed", "killed", "dropped")

_HANDSHAKE_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_ROTATION_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0)


class Metrics:
    """All metrics of a node, in a registry of their own. Call the methods as things happen; what has a state of its own
    (peers, drops, offloads) is asked for at each scrape."""

    def __init__(
        self,
        *,
        peers: Callable[[], Iterable[PeerSample]],
        drops: Callable[[], Mapping[tuple[str, str], int]],
        offloads: Callable[[], Mapping[str, str]],
        answers: Callable[[], Mapping[tuple[str, str], int]] = dict,
        marks: Callable[[], Mapping[str, int]] = dict,
        first_datagrams: Callable[[], Mapping[str, int]] = dict,
        pending: Callable[[], float] = lambda: 0.0,
        healthy: Callable[[], bool] = lambda: True,
        rotate_secs: Callable[[], float] = lambda: 0.0,
        log_lines_dropped: Callable[[], int] = lambda: 0,
        allowed_peers: Callable[[], int] = lambda: 0,
        pools: Callable[[], Iterable[PoolSample]] = lambda: (),
        routes_missing: Callable[[], float] = lambda: 0.0,
    ) -> None:
        """``drops`` by (direction, reason), as ``Plane.drops``; ``answers`` by (reason, result), as ``Plane.answers``;
        ``marks`` by where, as ``Plane.marks``;
        ``offloads`` by name: ``on``, ``off``, or why not; ``first_datagrams`` by outcome, of which ``FIRST_DATAGRAMS``
        are shown; ``pending`` handshakes; ``rotate_secs`` is the configured interval."""
        # Else each counter brings a second time series, about when this process made it.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # has no types
        self.registry = CollectorRegistry()
        self.rotations = 0
        """Completed since the start."""
        self._rotations = Counter("cryprq_rotations", "Completed key rotations.", registry=self.registry)
        self._attempted = Counter("cryprq_handshakes_attempted", "Handshakes begun.", registry=self.registry)
        self._succeeded = Counter("cryprq_handshakes_success", "Handshakes completed.", registry=self.registry)
        self._failed = Counter(
            "cryprq_handshakes_failed", "Handshakes that failed, by reason.", ["reason"], registry=self.registry
        )
        for reason in FAILURE_REASONS:
            self._failed.labels(reason)
        self._denied = Counter("cryprq_peers_denied", "Peers refused by the allowlist.", registry=self.registry)
        self._in_use_twice = Counter(
            "cryprq_identity_in_use_twice",
            "Sessions that one of two hosts with the same identity took from the other.",
            registry=self.registry,
        )
        self._taken_over = Counter(
            "cryprq_network_takeovers",
            "Times that networks went to a peer that stood by for them.",
            registry=self.registry,
        )
        self._rerouted = Counter(
            "cryprq_rerouted_datagrams",
            "Datagrams that GRO merged into a batch for the wrong socket, passed on to the right one.",
            ["kind"],
            registry=self.registry,
        )
        for kind in ("quic", "record"):
            self._rerouted.labels(kind)
        self._hook_calls = Counter(
            "cryprq_on_change_calls",
            "Calls of the program of --on-change, and changes that it was not told of.",
            ["outcome"],
            registry=self.registry,
        )
        for outcome in HOOK_OUTCOMES:
            self._hook_calls.labels(outcome)
        self._rotation_duration = Histogram(
            "cryprq_rotation_duration_seconds",
            "From a rotation's first message to the use of its keys.",
            buckets=_ROTATION_BUCKETS,
            registry=self.registry,
        )
        self._handshake_duration = Histogram(
            "cryprq_handshake_duration_seconds",
            "From a handshake's first message to the session.",
            buckets=_HANDSHAKE_BUCKETS,
            registry=self.registry,
        )
        self._rotation_interval = Gauge(
            "cryprq_rotation_interval_seconds",
            "Time between the last two epochs of a session, 0 before the first rotation.",
            registry=self.registry,
        )
        self._gauge("cryprq_healthy", "1 while /healthz says ok, else 0.", healthy)
        self._gauge("cryprq_pending_handshakes", "Accepted connections whose dialer has yet to authenticate.", pending)
        self._gauge(
            "cryprq_routes_missing", "Routes that the kernel should have for the tunnel and does not.", routes_missing
        )
        self._gauge(
            "cryprq_rotation_interval_configured_seconds",
            "This node's --rotate-secs; with each peer the smaller of both ends' counts.",
            rotate_secs,
        )
        self._gauge("cryprq_allowed_peers", "Peers that may connect by name, or are dialled.", allowed_peers)
        self._reload_ok = Gauge(
            "cryprq_config_last_reload_successful",
            "1 if the configuration was taken the last time that it was read, else 0.",
            registry=self.registry,
        )
        self._reload_time = Gauge(
            "cryprq_config_last_reload_success_timestamp_seconds",
            "Unix time at which a configuration was taken; at the start, too.",
            registry=self.registry,
        )
        ProcessCollector(namespace="cryprq", registry=self.registry)
        self.registry.register(
            _StateCollector(peers, drops, answers, marks, offloads, first_datagrams, log_lines_dropped, pools)
        )

    def _gauge(self, name: str, text: str, value: Callable[[], float]) -> None:
        """A gauge that is asked for its value at each scrape."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def handshake_attempted(self) -> None:
        """A handshake began, in either direction."""
        self._attempted.inc()

    def handshake_succeeded(self, duration: float) -> None:
        """A handshake gave a session after ``duration`` seconds."""
        self._succeeded.inc()
        self._handshake_duration.observe(duration)

    def handshake_failed(self, reason: str) -> None:
        """A handshake failed; ``reason`` is a word from the program, never from the peer."""
        self._failed.labels(reason).inc()

    def peer_denied(self) -> None:
        """The allowlist refused a peer."""
        self._denied.inc()

    def identity_in_use_twice(self) -> None:
        """One of two hosts with the same identity took the session from the other."""
        self._in_use_twice.inc()

    def network_taken_over(self) -> None:
        """A peer that stood by got the networks of another one."""
        self._taken_over.inc()

    def rerouted(self, kind: str, count: int) -> None:
        """So many datagrams came to the wrong socket: ``quic`` to a worker, or ``record`` to the control plane."""
        self._rerouted.labels(kind).inc(count)

    def rotated(self, duration: float, interval: float) -> None:
        """A rotation took ``duration`` seconds and came ``interval`` seconds after the last new epoch."""
        self._rotations.inc()
        self.rotations += 1
        self._rotation_duration.observe(duration)
        self._rotation_interval.set(interval)

    def hook_called(self, outcome: str, count: int = 1) -> None:
        """So many calls came to this (``HOOK_OUTCOMES``)."""
        self._hook_calls.labels(outcome).inc(count)

    def config_read(self, *, taken: bool) -> None:
        """A configuration was read, and taken over or rejected."""
        self._reload_ok.set(taken)
        if taken:
            self._reload_time.set_to_current_time()

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition and its content type, in the format that an HTTP Accept header prefers."""
        encode, content_type = choose_encoder(accept)
        return encode(self.registry), content_type


class _StateCollector(Collector):
    """Turns the node's state into metrics at each scrape."""

    def __init__(
        self,
        peers: Callable[[], Iterable[PeerSample]],
        drops: Callable[[], Mapping[tuple[str, str], int]],
        answers: Callable[[], Mapping[tuple[str, str], int]],
        marks: Callable[[], Mapping[str, int]],
        offloads: Callable[[], Mapping[str, str]],
        first_datagrams: Callable[[], Mapping[str, int]],
        log_lines_dropped: Callable[[], int],
        pools: Callable[[], Iterable[PoolSample]],
    ) -> None:
        self._peers = peers
        self._drops = drops
        self._answers = answers
        self._marks = marks
        self._offloads = offloads
        self._first_datagrams = first_datagrams
        self._log_lines_dropped = log_lines_dropped
        self._pools = pools

    def describe(self) -> Iterator[Metric]:
        """Nothing: the registry would otherwise scrape a node that is only being made."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Every family, those without samples too."""
        samples = list(self._peers())
        connected = GaugeMetricFamily("cryprq_current_peers", "Peers with a live session.")
        connected.add_metric([], sum(sample.connected for sample in samples))
        yield connected
        yield from _peer_families(samples)
        dropped = CounterMetricFamily(
            "cryprq_dropped_packets", "Packets and records dropped.", labels=["direction", "reason"]
        )
        for (direction, reason), count in sorted(self._drops().items()):
            dropped.add_metric([direction, reason], count)
        yield dropped
        answered = CounterMetricFamily(
            "cryprq_icmp_answers", "ICMP errors about packets from the tunnel device.", labels=["reason", "result"]
        )
        for (reason, result), count in sorted(self._answers().items()):
            answered.add_metric([reason, result], count)
        yield answered
        marked = CounterMetricFamily(
            "cryprq_ecn_marked_packets", "Packets that were told of congestion, by where it was met.", labels=["where"]
        )
        for where, count in sorted(self._marks().items()):
            marked.add_metric([where], count)
        yield marked
        offload = GaugeMetricFamily(
            "cryprq_offload_info", "What the machine's offloads came to.", labels=["name", "state"]
        )
        for name, state in sorted(self._offloads().items()):
            offload.add_metric([name, state], 1)
        yield offload
        first = CounterMetricFamily(
            "cryprq_first_datagrams", "What became of datagrams that begin a connection.", labels=["outcome"]
        )
        counts = self._first_datagrams()
        for outcome in FIRST_DATAGRAMS:
            first.add_metric([outcome], counts.get(outcome, 0))
        yield first
        lines = CounterMetricFamily("cryprq_log_lines_dropped", "Log lines that nobody took in time.")
        lines.add_metric([], self._log_lines_dropped())
        yield lines
        yield from _pool_families(self._pools())
        build = GaugeMetricFamily("cryprq_build_info", "What runs.", labels=["version", "revision", "python"])
        build.add_metric([VERSION, REVISION, platform.python_version()], 1)
        yield build


def _pool_families(pools: Iterable[PoolSample]) -> Iterator[Metric]:
    size = GaugeMetricFamily(
        "cryprq_pool_addresses", "Peers that can have an address in a network.", labels=["network"]
    )
    used = GaugeMetricFamily("cryprq_pool_addresses_used", "Peers that have one.", labels=["network"])
    for pool in pools:
        size.add_metric([pool.network], pool.size)
        used.add_metric([pool.network], pool.used)
    yield from (size, used)


def _peer_families(samples: Iterable[PeerSample]) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "cryprq_peer_info", "Who the peers are.", labels=["peer_id", "direction", "endpoint", "aead", "kem", "name"]
    )
    counters = {
        field: CounterMetricFamily(f"cryprq_peer_{name}", text, labels=["peer_id"])
        for field, name, text in (
            ("rx_bytes", "received_bytes", "Bytes of inner packets from the peer."),
            ("tx_bytes", "sent_bytes", "Bytes of inner packets to the peer."),
            ("rx_packets", "received_packets", "Inner packets from the peer."),
            ("tx_packets", "sent_packets", "Inner packets to the peer."),
        )
    }
    epoch = GaugeMetricFamily("cryprq_peer_epoch", "The current epoch's number.", labels=["peer_id"])
    handshake = GaugeMetricFamily(
        "cryprq_peer_last_handshake_seconds",
        "Unix time of the last handshake or rotation, 0 for never.",
        labels=["peer_id"],
    )
    path_mtu = GaugeMetricFamily(
        "cryprq_peer_path_mtu",
        "Largest packet that the path to the peer carries whole, 0 if that is unknown.",
        labels=["peer_id"],
    )
    silent = GaugeMetricFamily(
        "cryprq_peer_silent", "1 while there is a session with a peer that does not answer.", labels=["peer_id"]
    )
    for sample in samples:
        peer = [sample.peer_id]
        host = sample.endpoint.rpartition(":")[0].strip("[]")  # a port would make a new series of each reconnect
        info.add_metric([sample.peer_id, sample.direction, host, sample.aead, sample.kem, sample.name], 1)
        for field, family in counters.items():
            family.add_metric(peer, getattr(sample, field))
        epoch.add_metric(peer, sample.epoch)
        handshake.add_metric(peer, sample.last_handshake or 0.0)
        path_mtu.add_metric(peer, sample.path_mtu or 0)
        silent.add_metric(peer, sample.silent)
    yield from (info, *counters.values(), epoch, handshake, path_mtu, silent)
