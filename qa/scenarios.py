"""The scenarios. Each sets up hosts and nodes, moves traffic, and checks what the metrics say against what arrived.

Environment: ROTATION_INTERVAL (60), PARALLEL_COUNT (5), SOAK_DURATION (300), SOAK_DIALERS (3), ROTATE_SOAK (10); all
but the counts are seconds.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from lab.hosts import Namespace
from lab.nodes import Node
from qa.flows import WAYS, Flow, Probe, ping, transfer
from qa.report import Report
from qa.site import GATEWAY, OUTER, Metrics, Site, drops, inside, total

RECONNECT_SECS = 6.0
"""A node that was killed must carry traffic again so long after its restart: the other end notices by silence."""
READY_SECS = 2.0
"""And so long after a restarted node has told systemd that it is ready."""


@dataclass(frozen=True)
class Scenario:
    """One scenario: what it shows, how it runs, and the fault that must make it fail."""

    summary: str
    run: Callable[[Site, Report], None]
    fault: str
    runtimes: tuple[str, ...] = ("netns", "docker")


def setting(name: str, default: int) -> int:
    """A whole number from the environment. ValueError for anything else, or less than 1."""
    text = os.environ.get(name) or str(default)
    if not text.isdecimal() or int(text) < 1:
        raise ValueError(f"{name}={text}: a whole number from 1 on is wanted")
    return int(text)


def pair(site: Site, *flags: str, notify: bool = False) -> tuple[Node, Node]:
    """A listener and a dialer with a tunnel between them."""
    here, there = site.hosts("listener", "dialer")
    dialer = site.node(there, *flags, notify=notify)
    listener = site.listener(here, dialer, flags=flags, notify=notify)
    site.dial(dialer, listener=listener)
    return listener, dialer


def check_health(report: Report, *nodes: Node) -> None:
    """Every node says 200 and ok."""
    for node in nodes:
        report.equal(f"/healthz of {node.name}", node.http("/healthz"), (200, "ok\n"))


def check_lossless(report: Report, metrics: dict[str, Metrics]) -> None:
    """No node has dropped a packet or a record."""
    for name, found in metrics.items():
        report.equal(f"packets dropped by {name}", drops(found), {})


def check_stop(report: Report, *nodes: Node) -> None:
    """SIGTERM ends every node with status 0."""
    for node in nodes:
        report.equal(f"exit status of {node.name}", node.stop(), 0)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether it came true within so many seconds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


def baseline(site: Site, report: Report) -> None:
    """One handshake, health, traffic of all kinds both ways, an orderly end."""
    listener, dialer = pair(site)
    here, there = listener.namespace, dialer.namespace
    done = dialer.wait_event("handshake_complete")
    report.measured["handshake"] = {key: done[key] for key in ("kem", "sig", "aead", "duration_ms")}
    before = site.metrics("before")
    check_health(report, listener, dialer)
    site.check_nodes(report)
    report.measured["ping"] = ping(there, GATEWAY, report, "dialer to listener")
    ping(here, inside(dialer), report, "listener to dialer")
    flow = Flow((here, there), (GATEWAY, inside(dialer)), 3, 5000)
    transfer(here, there, GATEWAY, 8 << 20, report, "transfer")
    flow.finish(report, "flow")
    after = site.metrics("after")
    for name, found in after.items():
        for metric, value in (("attempted", 1), ("success", 1), ("failed", 0)):
            report.equal(f"handshakes {metric}, {name}", total(found, f"handshakes_{metric}_total"), value)
        report.equal(f"current_peers of {name}", total(found, "current_peers"), 1)
        for way in ("received", "sent"):
            metric = f"peer_{way}_bytes_total"
            report.at_least(f"bytes {way} by {name}", total(found, metric) - total(before[name], metric), 8 << 20)
    for one, other in ((listener, dialer), (dialer, listener)):
        report.equal(
            f"packets sent by {one.name} and received by {other.name}",
            total(after[other.name], "peer_received_packets_total"),
            total(after[one.name], "peer_sent_packets_total"),
        )
    check_lossless(report, after)
    report.measured["rss_kib"] = {node.name: node.rss_kib() for node in site.nodes}
    check_stop(report, dialer, listener)


def rotation(site: Site, report: Report) -> None:
    """Keys change twice, one ROTATION_INTERVAL apart, while traffic flows, and nothing is lost."""
    interval = setting("ROTATION_INTERVAL", 60)
    listener, dialer = pair(site, *site.rotate_every(interval))
    before = site.metrics("before")
    Flow(
        (listener.namespace, dialer.namespace), (GATEWAY, inside(dialer)), 2 * interval + max(3, interval // 10), 5000
    ).finish(report, "flow")
    after = site.metrics("after")
    for node in (listener, dialer):
        old, new = before[node.name], after[node.name]
        report.at_least(f"rotations of {node.name}", total(new, "rotations_total") - total(old, "rotations_total"), 2)
        report.at_least(f"peer_epoch of {node.name}", total(new, "peer_epoch"), 2)
        found = total(new, "rotation_interval_seconds")
        bounds = [0.5 * interval, interval + 5]
        report.check(f"interval of {node.name}", bounds[0] <= found <= bounds[1], seconds=found, within=bounds)
        failed = [event for event in node.events("key_rotation") if event["status"] != "success"]
        report.equal(f"failed rotations of {node.name}", len(failed), 0)
        report.equal(f"new handshakes of {node.name}", total(new, "handshakes_attempted_total"), 1)
    check_lossless(report, after)
    check_stop(report, dialer, listener)


def parallel_dialers(site: Site, report: Report) -> None:
    """PARALLEL_COUNT dialers at once: each gets in, an address of its own, and its traffic through."""
    count = setting("PARALLEL_COUNT", 5)
    here, *others = site.hosts("listener", *(f"dialer{number}" for number in range(1, count + 1)))
    dialers = [site.node(host) for host in others]
    listener = site.listener(here, *dialers)
    before = site.metrics("before")[listener.name]
    started = time.monotonic()
    site.dial(*dialers, listener=listener)
    report.measured["all_connected_secs"] = round(time.monotonic() - started, 2)
    addresses = [inside(dialer) for dialer in dialers]
    report.equal("different addresses", len(set(addresses)), count)
    flows = [
        Flow((here, host), (GATEWAY, address), 5, 5000 + number)
        for number, (host, address) in enumerate(zip(others, addresses, strict=True))
    ]
    for dialer, flow in zip(dialers, flows, strict=True):
        flow.finish(report, dialer.name)
        ping(dialer.namespace, GATEWAY, report, dialer.name, 3)
    after = site.metrics("after")
    mine = after[listener.name]
    report.equal("current_peers", total(mine, "current_peers"), count)
    for metric, value in (("handshakes_success_total", count), ("peers_denied_total", 0)):
        report.equal(metric, total(mine, metric) - total(before, metric), value)
    check_health(report, listener, *dialers)
    check_lossless(report, after)
    check_stop(report, *dialers, listener)


def peer_denied(site: Site, report: Report) -> None:
    """A peer that is not allowed gets nothing, is counted, and does not disturb the one that is."""
    here, there, outside = site.hosts("listener", "dialer", "stranger")
    dialer, stranger = site.node(there), site.node(outside, "--tun-address", "10.66.0.99/24")
    listener = site.listener(here, dialer)
    site.dial(dialer, listener=listener)
    before = site.metrics("before")[listener.name]
    site.start_dialling(stranger, listener=listener)
    stranger.wait_event("node_started", timeout=30)
    flow = Flow((here, there), (GATEWAY, inside(dialer)), 5, 5000)  # the stranger tries again all the time
    wait_until(lambda: listener.metric("peers_denied_total") > 0 or stranger.metric("current_peers") > 0, 10)
    answers = outside.measure("ping", GATEWAY, count=3, interval=0.1, timeout=0.5)["received"]
    report.equal("pings of the stranger that were answered", answers, 0)
    flow.finish(report, "the allowed peer's flow")
    after = site.metrics("after")
    mine, other = after[listener.name], after[stranger.name]
    for metric, labels in (("peers_denied_total", {}), ("handshakes_failed_total", {"reason": "not_allowlisted"})):
        report.at_least(metric, total(mine, metric, **labels) - total(before, metric, **labels), 1)
    report.equal("current_peers of the listener", total(mine, "current_peers"), 1)
    report.equal("current_peers of the stranger", total(other, "current_peers"), 0)
    report.at_least("refusals that the stranger counted", total(other, "handshakes_failed_total", reason="refused"), 1)
    denied = {event["peer_id"] for event in listener.events("peer_denied")}
    report.equal("peer IDs in peer_denied events", sorted(denied), [stranger.peer_id])
    report.equal("packets from the stranger", total(mine, "peer_received_packets_total", peer_id=stranger.peer_id), 0)
    check_stop(report, stranger, dialer, listener)


def soak(site: Site, report: Report) -> None:
    """SOAK_DIALERS dialers for SOAK_DURATION with new keys every ROTATE_SOAK: no loss, no growth, always healthy."""
    duration, count, interval = setting("SOAK_DURATION", 300), setting("SOAK_DIALERS", 3), setting("ROTATE_SOAK", 10)
    here, *others = site.hosts("listener", *(f"dialer{number}" for number in range(1, count + 1)))
    rotate = site.rotate_every(interval)
    dialers = [site.node(host, *rotate) for host in others]
    listener = site.listener(here, *dialers, flags=rotate)
    site.dial(*dialers, listener=listener)
    before = site.metrics("before")
    started = time.monotonic()
    flows = [
        Flow((here, dialer.namespace), (GATEWAY, inside(dialer)), duration, 5000 + number)
        for number, dialer in enumerate(dialers)
    ]
    unhealthy: list[str] = []
    memory: list[int] = []
    while time.monotonic() - started < duration:
        time.sleep(min(5.0, duration / 4))
        unhealthy += [node.name for node in (listener, *dialers) if node.http("/healthz")[0] != 200]
        memory.append(listener.rss_kib())
    for dialer, flow in zip(dialers, flows, strict=True):
        flow.finish(report, dialer.name)
    after = site.metrics("after")
    report.equal("unhealthy answers", unhealthy, [])
    wanted = max(1, duration // interval - 1)
    for dialer in dialers:
        old, new = before[dialer.name], after[dialer.name]
        rotated = total(new, "rotations_total") - total(old, "rotations_total")
        report.at_least(f"rotations of {dialer.name}", rotated, wanted)
        report.equal(f"handshakes of {dialer.name}", total(new, "handshakes_attempted_total"), 1)
    mine = after[listener.name]
    rotations = total(mine, "rotations_total") - total(before[listener.name], "rotations_total")
    report.at_least("rotations of the listener", rotations, wanted * count)
    report.equal("current_peers", total(mine, "current_peers"), count)
    # A tenth, or 4 MiB in a short run: an allocator takes its time to settle.
    settled = memory[len(memory) // 4]
    report.at_most("resident memory of the listener, KiB", memory[-1], max(settled * 1.1, settled + 4096))
    report.measured |= {"rss_kib": memory, "rotations": rotations}
    check_lossless(report, after)
    check_stop(report, *dialers, listener)


def reconnect(site: Site, report: Report) -> None:
    """The tunnel comes back by itself: after a cut of the network, and after the listener was killed."""
    listener, dialer = pair(site)
    here, there = listener.namespace, dialer.namespace
    site.metrics("before")
    with Probe(there, here, GATEWAY) as probe:
        site.cut(there)
        time.sleep(5)
        site.restore(there)
        back = time.monotonic()
        _arrival(report, probe, back, 5, "traffic after a cut of 5 s")
        # A silent peer is dialled beside its session, so there may be a second handshake; but neither end is lost.
        lost = sum(len(node.events("peer_disconnected")) for node in (listener, dialer))
        report.equal("ends that lost the other in the cut", lost, 0)
        listener.kill()
        listener.start().wait_event("listener_ready", timeout=30)
        site.interrupted(there)
        ready = time.monotonic()
        _arrival(report, probe, ready, RECONNECT_SECS, "traffic after the listener was killed and started again")
    after = site.metrics("after")
    report.equal("current_peers of the restarted listener", total(after[listener.name], "current_peers"), 1)
    report.at_least("handshakes of the dialer", total(after[dialer.name], "handshakes_success_total"), 2)
    ping(there, GATEWAY, report, "dialer to listener")
    ping(here, inside(dialer), report, "listener to dialer")
    check_health(report, listener, dialer)
    check_stop(report, dialer, listener)


def _arrival(report: Report, probe: Probe, since: float, within: float, what: str) -> None:
    """The probe must arrive again ``within`` seconds."""
    at = probe.next_arrival(since, within)
    report.check(what, at is not None, within_secs=within, secs=round(at - since, 3) if at is not None else None)


def rolling_restart(site: Site, report: Report) -> None:
    """Each end is restarted in turn under load: a TCP connection survives, traffic is back 2 s after READY."""
    listener, dialer = pair(site, notify=True)
    here, there = listener.namespace, dialer.namespace
    address = inside(dialer)
    site.metrics("before")
    size, rate = 24 << 20, 2 << 20  # twelve seconds at least
    server = here.traffic("tcp_serve", GATEWAY, 5001, size=size, rate=rate)
    client = there.traffic("tcp_transfer", GATEWAY, 5001, size=size, rate=rate, timeout=60.0)
    with Probe(there, here, GATEWAY) as inward, Probe(here, there, address, 5901) as outward:
        for node in (listener, dialer):
            time.sleep(1.5)
            restart(site, report, node, (inward, outward))
            site.interrupted(there)
    ends = [client.result(90), server.result(90)["connections"][0]]
    report.check(
        "a TCP connection that was there before both restarts carried all its bytes unchanged",
        all(end["ok"] and end["received"] == size for end in ends),
        seconds=ends[0]["seconds"], retransmits=[end["retransmits"] for end in ends],
    )  # fmt: skip
    for name, found in site.metrics("after").items():
        report.equal(f"current_peers of {name}", total(found, "current_peers"), 1)
    report.equal("the dialer's address after the restarts", inside(dialer), address)
    check_health(report, listener, dialer)
    check_stop(report, dialer, listener)


def restart(site: Site, report: Report, node: Node, probes: tuple[Probe, Probe]) -> None:
    """SIGTERM, then the node again. Traffic must be back within two seconds of READY, both ways."""
    notifications = site.notifications[node.name]
    began = time.monotonic()
    report.equal(f"exit status of {node.name}", node.stop(), 0)
    notifications.forget()
    started = time.monotonic()
    node.start()
    ready = notifications.wait("READY=1", 20)
    found: dict[str, float] = {"stop_secs": started - began, "start_to_ready_secs": ready - started}
    for way, probe in zip(WAYS, probes, strict=True):
        # A node carries traffic as soon as its peer is connected, which may be before this process has seen READY.
        at = probe.next_arrival(started, ready - started + READY_SECS)
        report.check(
            f"traffic {way} after READY of {node.name}", at is not None, within_secs=READY_SECS,
            secs=round(at - ready, 3) if at is not None else None,
        )  # fmt: skip
        found[f"longest gap {way}"] = probe.longest_gap(began)
    report.measured[f"restart of {node.name}"] = {key: round(value, 3) for key, value in found.items()}


def roaming(site: Site, report: Report) -> None:
    """The dialer's address changes under load: same session, same keys, traffic goes on."""
    listener, dialer = pair(site)
    here, there = listener.namespace, dialer.namespace
    site.metrics("before")
    old, new = OUTER.format(2), OUTER.format(77)
    with Probe(there, here, GATEWAY) as inward, Probe(here, there, inside(dialer), 5901) as outward:
        time.sleep(1)
        begin = time.monotonic()
        device = underlay(there)
        there.ip(f"address add {new}/24 dev {device}")
        there.ip(f"address del {old}/24 dev {device}")
        there.ip(f"address replace {new}/24 dev {device}")  # a primary address may take its secondaries along
        site.interrupted(there)
        moved = time.monotonic()
        for way, probe in zip(WAYS, (inward, outward), strict=True):
            _arrival(report, probe, moved + 0.2, 2, f"traffic {way} after the move")
        time.sleep(1)
        for way, probe in zip(WAYS, (inward, outward), strict=True):
            report.at_most(f"longest gap {way}, seconds", round(probe.longest_gap(begin), 3), 1.0)
    after = site.metrics("after")
    for name, found in after.items():
        report.equal(f"handshakes attempted by {name}", total(found, "handshakes_attempted_total"), 1)
        report.equal(f"current_peers of {name}", total(found, "current_peers"), 1)
    endpoints = [dict(have)["endpoint"] for (name, have) in after[listener.name] if name == "peer_info"]
    moved_there = new in endpoints
    report.check("the listener knows the new address", moved_there, found=endpoints)
    ping(there, GATEWAY, report, "dialer to listener")
    check_stop(report, dialer, listener)


def underlay(host: Namespace) -> str:
    """The host's interface on the LAN."""
    for line in host.ip("-o -4 address show").splitlines():
        if line.split()[3].startswith(OUTER.format("")):
            return line.split()[1]
    raise LookupError(f"{host.name} has no interface on the LAN")


SCENARIOS = {
    "baseline-netns-handshake": Scenario(
        "handshake, health and traffic between two namespaces", baseline, "peer-drops", ("netns",)
    ),
    "baseline-docker-handshake": Scenario(
        "handshake, health and traffic between two containers", baseline, "peer-drops", ("docker",)
    ),
    "rotation-60s": Scenario("two rotations, 60 s apart, under traffic", rotation, "rotation-off"),
    "parallel-dialers": Scenario("several dialers at once", parallel_dialers, "peer-drops"),
    "peer-denied": Scenario("a peer outside the allowlist", peer_denied, "allowlist-ignored"),
    "soak": Scenario("dialers under traffic with frequent rotations, for long", soak, "rotation-off"),
    "reconnect": Scenario("a network that was cut, a listener that was killed", reconnect, "stays-cut"),
    "rolling-restart": Scenario("both ends restarted in turn under a TCP connection", rolling_restart, "stays-cut"),
    "roaming": Scenario("a dialer whose address changes", roaming, "stays-cut"),
}
"""By name, in the order of ``--all``."""
