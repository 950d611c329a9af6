"""Metrics, health, and the HTTP server that shows them."""

import asyncio
import re
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest
import uvloop
from prometheus_client.parser import text_string_to_metric_families

from cryprq.errors import MachineError
from cryprq.linux.name_service import NameService
from cryprq.telemetry import http
from cryprq.telemetry.health import Health
from cryprq.telemetry.http import HttpServer
from cryprq.telemetry.metrics import FAILURE_REASONS, FIRST_DATAGRAMS, Metrics
from cryprq.telemetry.samples import PeerSample, PoolSample

PEER = "QmQUYyhzsSZYHSZSfLcGQhCcLKLaCMwNmVZSDHBTXtBCZD"


class Node:
    """What the callbacks answer."""

    def __init__(self) -> None:
        self.peers: list[PeerSample] = []
        self.drops = {("tx", "no_key"): 0, ("rx", "replay"): 7}
        self.offloads = {"tso4": "on", "uso": "not supported by this kernel"}
        self.answers = {("too_big", "sent"): 0, ("no_route", "limited"): 5}
        self.metrics = Metrics(
            peers=lambda: self.peers,
            drops=lambda: self.drops,
            answers=lambda: self.answers,
            offloads=lambda: self.offloads,
        )


@pytest.fixture
def node() -> Node:
    return Node()


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every sample by its name and label values."""
    text = metrics.render()[0].decode()
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


# ---- metrics ----


def test_every_metric_is_there_from_the_start_at_zero(node: Node) -> None:
    found = samples(node.metrics)
    for name in (
        "rotations_total",
        "handshakes_attempted_total",
        "handshakes_success_total",
        "current_peers",
        "peers_denied_total",
        "identity_in_use_twice_total",
        "network_takeovers_total",
        "rotation_duration_seconds_count",
        "handshake_duration_seconds_count",
        "rotation_interval_seconds",
        "log_lines_dropped_total",
    ):
        assert found[(f"cryprq_{name}",)] == 0
    for reason in FAILURE_REASONS:
        assert found[("cryprq_handshakes_failed_total", reason)] == 0
    for kind in ("quic", "record"):
        assert found[("cryprq_rerouted_datagrams_total", kind)] == 0
    assert found[("cryprq_dropped_packets_total", "tx", "no_key")] == 0
    for outcome in FIRST_DATAGRAMS:
        assert found[("cryprq_first_datagrams_total", outcome)] == 0
    assert found[("cryprq_pending_handshakes",)] == 0
    assert found[("cryprq_icmp_answers_total", "too_big", "sent")] == 0
    assert any(key[0] == "cryprq_build_info" and value == 1 for key, value in found.items())


def test_what_has_a_state_of_its_own_is_asked_for_at_each_scrape() -> None:
    now = {"healthy": True, "rotate_secs": 300, "lost": 0}
    metrics = Metrics(
        peers=list, drops=dict, offloads=dict,
        healthy=lambda: bool(now["healthy"]), rotate_secs=lambda: now["rotate_secs"],
        log_lines_dropped=lambda: now["lost"],
    )  # fmt: skip
    for healthy, seconds, lost in ((True, 300, 0), (False, 60, 7)):
        now.update(healthy=healthy, rotate_secs=seconds, lost=lost)
        found = samples(metrics)
        assert found[("cryprq_log_lines_dropped_total",)] == lost
        assert found[("cryprq_healthy",)] == healthy
        assert found[("cryprq_rotation_interval_configured_seconds",)] == seconds


def test_families_of_peers_are_declared_without_peers(node: Node) -> None:
    text = node.metrics.render()[0].decode()
    for name in (
        "info gauge",
        "received_bytes_total counter",
        "sent_bytes_total counter",
        "received_packets_total counter",
        "sent_packets_total counter",
        "epoch gauge",
        "last_handshake_seconds gauge",
        "path_mtu gauge",
        "silent gauge",
    ):
        assert f"# TYPE cryprq_peer_{name}\n" in text


def test_all_names_have_the_prefix_and_a_help_text(node: Node) -> None:
    node.peers = [PeerSample(peer_id=PEER, connected=True)]
    text = node.metrics.render()[0].decode()
    for line in text.splitlines():
        assert re.match(r"(# (HELP|TYPE) )?cryprq_", line), line
    assert "_created" not in text
    assert len(re.findall("# HELP", text)) == len(re.findall("# TYPE", text))


def test_events_count(node: Node) -> None:
    metrics = node.metrics
    metrics.handshake_attempted()
    metrics.handshake_attempted()
    metrics.handshake_succeeded(0.02)
    metrics.handshake_failed("signature")
    metrics.handshake_failed("a_new_reason")
    metrics.peer_denied()
    metrics.identity_in_use_twice()
    metrics.network_taken_over()
    metrics.rotated(0.003, 300.5)
    found = samples(metrics)
    assert found[("cryprq_handshakes_attempted_total",)] == 2
    assert found[("cryprq_handshakes_success_total",)] == 1
    assert found[("cryprq_handshakes_failed_total", "signature")] == 1
    assert found[("cryprq_handshakes_failed_total", "a_new_reason")] == 1
    assert found[("cryprq_peers_denied_total",)] == 1
    assert found[("cryprq_identity_in_use_twice_total",)] == 1
    assert found[("cryprq_network_takeovers_total",)] == 1
    assert found[("cryprq_rotations_total",)] == 1
    assert found[("cryprq_rotation_interval_seconds",)] == 300.5
    assert found[("cryprq_rotation_duration_seconds_sum",)] == 0.003
    assert found[("cryprq_handshake_duration_seconds_bucket", "0.01")] == 0
    assert found[("cryprq_handshake_duration_seconds_bucket", "0.025")] == 1


def test_state_is_asked_for_at_each_scrape(node: Node) -> None:
    up = PeerSample(
        peer_id=PEER,
        name="alice",
        connected=True,
        direction="inbound",
        endpoint="192.0.2.1:9999",
        aead="aes-256-gcm",
        kem="x25519-mlkem768",
        epoch=3,
        last_handshake=1.7e9,
        path_mtu=1480,
        silent=True,
        rx_bytes=2**40,
        tx_bytes=2,
        rx_packets=3,
        tx_packets=4,
    )
    node.peers = [up, PeerSample(peer_id="other", connected=False)]
    found = samples(node.metrics)
    assert found[("cryprq_current_peers",)] == 1
    # in the order of the labels' names
    info = ("cryprq_peer_info", "aes-256-gcm", "inbound", "192.0.2.1", "x25519-mlkem768", "alice", PEER)
    assert found[info] == 1
    assert found[("cryprq_peer_received_bytes_total", PEER)] == 2**40
    assert found[("cryprq_peer_sent_bytes_total", PEER)] == 2
    assert found[("cryprq_peer_received_packets_total", PEER)] == 3
    assert found[("cryprq_peer_sent_packets_total", PEER)] == 4
    assert found[("cryprq_peer_epoch", PEER)] == 3
    assert found[("cryprq_peer_last_handshake_seconds", PEER)] == 1.7e9
    assert found[("cryprq_peer_last_handshake_seconds", "other")] == 0
    assert found[("cryprq_peer_path_mtu", PEER)] == 1480
    assert found[("cryprq_peer_path_mtu", "other")] == 0
    assert found[("cryprq_peer_silent", PEER)] == 1
    assert found[("cryprq_peer_silent", "other")] == 0
    assert found[("cryprq_dropped_packets_total", "rx", "replay")] == 7
    assert found[("cryprq_icmp_answers_total", "no_route", "limited")] == 5
    assert found[("cryprq_offload_info", "uso", "not supported by this kernel")] == 1
    six = PeerSample(peer_id="six", connected=True, endpoint="[2001:db8::1]:9999")
    again = replace(up, endpoint="192.0.2.1:40000")  # a reconnect is the same series
    node.peers = [again, six]
    found = samples(node.metrics)
    assert found[info] == 1
    assert found[("cryprq_peer_info", "", "", "2001:db8::1", "", "", "six")] == 1
    node.peers = []
    node.drops[("rx", "replay")] = 8
    found = samples(node.metrics)
    assert found[("cryprq_dropped_packets_total", "rx", "replay")] == 8
    assert info not in found


def test_pools_and_reloads() -> None:
    pools = [PoolSample(network="10.9.0.0/24", size=253, used=7), PoolSample(network="fd00:9::/64", size=2**64, used=7)]
    metrics = Metrics(peers=list, drops=dict, offloads=dict, allowed_peers=lambda: 9, pools=lambda: pools)
    found = samples(metrics)
    assert found[("cryprq_allowed_peers",)] == 9
    assert found[("cryprq_pool_addresses", "10.9.0.0/24")] == 253
    assert found[("cryprq_pool_addresses", "fd00:9::/64")] == 2**64
    assert found[("cryprq_pool_addresses_used", "10.9.0.0/24")] == 7
    before = time.time()
    metrics.config_read(taken=True)
    first = samples(metrics)
    assert first[("cryprq_config_last_reload_successful",)] == 1
    taken = ("cryprq_config_last_reload_success_timestamp_seconds",)
    assert before <= first[taken] <= time.time()
    metrics.config_read(taken=False)
    second = samples(metrics)
    assert second[("cryprq_config_last_reload_successful",)] == 0
    assert second[taken] == first[taken]


def test_process_has_its_metrics(node: Node) -> None:
    found = samples(node.metrics)
    for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds", "start_time_seconds"):
        assert found[(f"cryprq_process_{name}",)] > 0


def test_metrics_of_two_nodes_are_apart() -> None:
    one, other = Node(), Node()
    one.metrics.peer_denied()
    assert samples(one.metrics)[("cryprq_peers_denied_total",)] == 1
    assert samples(other.metrics)[("cryprq_peers_denied_total",)] == 0


def test_making_metrics_asks_the_node_nothing() -> None:
    def fail() -> list[PeerSample]:
        raise AssertionError("the node is only being made")

    Metrics(peers=fail, drops=dict, offloads=dict)


# ---- health ----


def test_health_follows_the_nodes_life() -> None:
    health = Health()
    failures: list[str] = []
    health.watch(lambda: failures[0] if failures else None)
    assert health.reason() == "starting"
    health.ready()
    assert health.reason() is None
    failures.append("worker 0 died")
    assert health.reason() == "worker 0 died"
    failures.clear()
    assert health.reason() is None
    health.failed("stopping")
    assert health.reason() == "stopping"


# ---- HTTP ----

Exchange = Callable[[bytes], Awaitable[bytes]]


def serve(node: Node, health: Health, body: Callable[[Exchange, int], Awaitable[None]]) -> None:
    """Runs a server on a free port and ``body`` with a function that exchanges raw bytes with it."""

    async def run() -> None:
        server = HttpServer(node.metrics, health, NameService().getaddrinfo)
        address = (await server.start("127.0.0.1", 0))[0]
        port = int(address.rpartition(":")[2])
        assert address == f"127.0.0.1:{port}"

        async def exchange(request: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            try:
                return await reader.read()
            finally:
                writer.close()

        try:
            await body(exchange, port)
        finally:
            await server.close()

    # asyncio's own loop is what a program that embeds a Node may run, uvloop is the daemon's
    for factory in (asyncio.new_event_loop, uvloop.new_event_loop):
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.wait_for(run(), 20))


def get(target: str, method: str = "GET", version: str = "HTTP/1.1", headers: str = "") -> bytes:
    return f"{method} {target} {version}\r\nHost: x\r\n{headers}\r\n".encode()


def test_healthz_answers_with_the_reason(node: Node) -> None:
    health = Health()

    async def body(exchange: Exchange, port: int) -> None:
        health.failed("starting")
        answer = await exchange(get("/healthz"))
        assert answer.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert answer.endswith(b"\r\n\r\nstarting\n")
        health.ready()
        answer = await exchange(get("/healthz?verbose=1", version="HTTP/1.0"))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert answer.endswith(b"\r\n\r\nok\n")

    serve(node, health, body)


def test_metrics_in_the_format_that_the_scraper_prefers(node: Node) -> None:
    async def body(exchange: Exchange, port: int) -> None:
        plain = await exchange(get("/metrics"))
        head, _, content = plain.partition(b"\r\n\r\n")
        assert b"Content-Type: text/plain; version=0.0.4" in head
        assert f"Content-Length: {len(content)}\r\n".encode() in head + b"\r\n"
        assert b"\ncryprq_rotations_total 0.0\n" in content
        newer = await exchange(get("/metrics", headers="Accept: application/openmetrics-text; version=1.0.0\r\n"))
        assert b"Content-Type: application/openmetrics-text" in newer
        assert newer.endswith(b"# EOF\n")

    serve(node, Health(), body)


def test_head_has_the_same_head_and_no_body(node: Node) -> None:
    health = Health()
    health.ready()

    async def body(exchange: Exchange, port: int) -> None:
        whole = await exchange(get("/healthz"))
        head = await exchange(get("/healthz", method="HEAD"))
        assert head == whole.removesuffix(b"ok\n")

    serve(node, health, body)


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (get("/"), 404),
        (get("/metrics/"), 404),
        (get("/../healthz"), 404),
        (get("/metrics", method="POST"), 405),
        (get("/healthz", method="DELETE"), 405),
        (get("/metrics", version="HTTP/2.0"), 400),
        (b"\r\n\r\n", 400),
        (b"GET /metrics\r\n\r\n", 400),
        (b"\xff\xfe\x00 \x00 HTTP/1.1\r\n\r\n", 404),
        (b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 4000 + b"\r\n", 431),
    ],
)
def test_anything_else_is_refused(node: Node, request_bytes: bytes, status: int) -> None:
    async def body(exchange: Exchange, port: int) -> None:
        answer = await exchange(request_bytes)
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert (b"Allow: GET, HEAD" in answer) == (status == 405)
        assert b"Connection: close" in answer

    serve(node, Health(), body)


def test_client_that_says_nothing_is_cut_off(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "TIMEOUT", 0.05)

    async def body(exchange: Exchange, port: int) -> None:
        try:
            answer = await exchange(b"GET /metrics")
        except ConnectionResetError:
            answer = b""
        assert answer == b""

    serve(node, Health(), body)


def test_connections_are_bounded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECTIONS_MAX", 2)
    health = Health()
    health.ready()

    async def body(exchange: Exchange, port: int) -> None:
        idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(2)]
        await asyncio.sleep(0.05)
        try:
            answer = await exchange(get("/healthz"))
        except ConnectionResetError:
            answer = b""
        assert answer == b""
        for _, writer in idle:
            writer.close()
        for _ in range(100):
            await asyncio.sleep(0.01)
            try:
                answer = await exchange(get("/healthz"))
            except ConnectionResetError:
                continue
            if answer.endswith(b"ok\n"):
                return
        raise AssertionError("closed connections still count")

    serve(node, health, body)


def test_failing_callback_does_not_keep_the_connection(node: Node) -> None:
    def fail() -> dict[tuple[str, str], int]:
        raise RuntimeError("broken")

    broken = Node()
    broken.metrics = Metrics(peers=list, drops=fail, offloads=dict)

    async def body(exchange: Exchange, port: int) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        try:
            answer = await exchange(get("/metrics"))
        except ConnectionResetError:
            answer = b""
        assert answer == b""
        assert (await exchange(get("/healthz"))).endswith(b"starting\n")

    serve(broken, Health(), body)


def test_port_in_use_is_one_clear_line(node: Node) -> None:
    async def run(port: int) -> None:
        await HttpServer(node.metrics, Health(), NameService().getaddrinfo).start("127.0.0.1", port)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(MachineError) as caught:
            asyncio.run(run(port))
    assert str(caught.value) == f"cannot serve metrics on 127.0.0.1:{port}: address already in use; see --metrics-addr"


def test_listens_on_a_name_and_says_when_it_is_none(node: Node) -> None:
    async def run(host: str) -> list[str]:
        server = HttpServer(node.metrics, Health(), NameService().getaddrinfo)
        addresses = await server.start(host, 0)
        await server.close()
        return addresses

    addresses = asyncio.run(run("localhost"))
    assert addresses
    assert all(address.rpartition(":")[0] in ("127.0.0.1", "[::1]") for address in addresses)
    for name in ("a name with blanks", "x" * 64 + ".test"):
        with pytest.raises(MachineError, match=f"cannot serve metrics on {name}:0: .*; see --metrics-addr"):
            asyncio.run(run(name))


def test_close_is_idempotent_and_frees_the_port(node: Node) -> None:
    async def run() -> None:
        server = HttpServer(node.metrics, Health(), NameService().getaddrinfo)
        port = int((await server.start("127.0.0.1", 0))[0].rpartition(":")[2])
        await asyncio.open_connection("127.0.0.1", port)
        await server.close()
        await server.close()
        await HttpServer(node.metrics, Health(), NameService().getaddrinfo).start("127.0.0.1", port)

    asyncio.run(run())
