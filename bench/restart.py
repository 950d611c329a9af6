"""Hundreds of dialers at once, beside a live tunnel and after a gateway's restart, as JSON on stdout.

A gateway, a node with a live tunnel to it that rotates its keys every five seconds, and a crowd of dialers in one
process (``lab/crowd.py``), each with an identity and an address of its own. Numbered datagrams go through the live
tunnel and back the whole time, and the gateway's event loop is asked for its health every 20 ms. The storms:

    new         the crowd dials, all at once: the gateway has never seen any of them
    again       they all take their session for lost and dial at once; the gateway still has the old ones
    tcp         the same beside a TCP flow as fast as it goes through the live tunnel
    sigterm     the gateway stops and starts again: everybody, the live tunnel's dialer too, dials anew
    sigkill     the gateway is killed and starts again, and the crowd notices at the same moment

    bench/restart.py                      300 dialers
    bench/restart.py --count 1000         more
    bench/restart.py --one-source         all behind one address, as behind a NAT
"""

import argparse
import json
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.figures import environment
from bench.options import amount, count, positive
from lab import hosts, sandbox
from lab.crowd import Crowd, Storm
from lab.nodes import METRICS, PORT, Node
from lab.probe import Probe, cpu_seconds
from lab.progress import Progress

HERE, THERE, CROWD = "192.0.2.1", "192.0.2.2", "192.0.2.3"
NETWORK = "198.18.0.0/16"
GATEWAY = "10.64.0.1"
ROTATE_SECS = 5
SETTLE = 1.0
"""Seconds after a storm that still belong to it: what was sent comes back, a rotation that began is done."""
STEPS = 8
"""As many as ``play`` notes."""

Result = dict[str, Any]


class Pulse:
    """How long the gateway's event loop takes to answer, asked every 20 ms for as long as it is entered."""

    def __init__(self, gateway: Node) -> None:
        self.milliseconds: list[float] = []
        self._gateway = gateway
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def report(self) -> Result:
        times = sorted(self.milliseconds)
        if not times:
            return {}
        return {
            "asked": len(times),
            "p50_ms": round(times[len(times) // 2], 1),
            "p99_ms": round(times[len(times) * 99 // 100], 1),
            "max_ms": round(times[-1], 1),
        }

    def _run(self) -> None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with self._gateway.namespace.entered():
            while not self._over.wait(0.02):
                start = time.monotonic()
                try:
                    opener.open(f"http://{METRICS}/healthz", timeout=20).close()
                except OSError:
                    continue
                self.milliseconds.append((time.monotonic() - start) * 1e3)


class Scene:
    """Gateway, live tunnel and crowd, and what is measured around a storm."""

    def __init__(self, lab: hosts.Lab, options: argparse.Namespace) -> None:
        self.options = options
        here, there, crowd = (lab.namespace(name) for name in ("gateway", "dialer", "crowd"))
        lab.switch("switch", {here: [f"{HERE}/24"], there: [f"{THERE}/24"], crowd: [f"{CROWD}/24"]})
        here.ip(f"route add {NETWORK} via {CROWD}")
        listen = ("--listen", f"/ip4/0.0.0.0/udp/{PORT}/quic-v1", "--tun-address", f"{GATEWAY}/16", "--allow-any")
        self.gateway = Node(here, *listen, *options.flag)
        self.gateway.start().wait_event("listener_ready")
        self.dialer = Node(there, "--peer", self.gateway.multiaddr(HERE), "--rotate-secs", str(ROTATE_SECS))
        self.dialer.start().wait_event("tunnel_addresses")
        self.dialer.wait_event("peer_connected")
        network = None if options.one_source else NETWORK
        self.crowd = Crowd(crowd, self.gateway.peer_id, HERE, PORT, count=options.count, network=network)

    def quiet(self, probe: Probe, seconds: float) -> Result:
        """The live tunnel by itself."""
        with Pulse(self.gateway) as pulse:
            start = time.monotonic()
            time.sleep(seconds)
            end = time.monotonic()
        time.sleep(SETTLE)
        return {"live": probe.report(start, end), "event_loop": pulse.report()}

    def beside(self, probe: Probe, begin: Callable[[], None]) -> Result:
        """A storm while the gateway runs on."""
        pid = self.gateway.running().pid
        cpu, start = cpu_seconds(pid), time.monotonic()
        with Pulse(self.gateway) as pulse:
            begin()
            storm = self.crowd.wait(self.options.timeout)
            spent = cpu_seconds(pid) - cpu
            end = time.monotonic()
            time.sleep(SETTLE)
        return {
            **storm.summary(),
            "gateway_cpu_seconds": round(spent, 2),
            "gateway_cpu_ms_per_session": round(spent / self.options.count * 1e3, 2),
            "live": probe.report(start, end),
            "event_loop": pulse.report(),
            "live_rotations": self.rotations(start),
        }

    def tcp(self, begin: Callable[[], None] | None) -> Result:
        """One TCP flow from the live dialer, by itself or beside a storm."""
        sink = self.gateway.namespace.traffic("tcp_sink", GATEWAY, 5005)
        blast = self.dialer.namespace.traffic("tcp_blast", GATEWAY, 5005, seconds=self.options.tcp_seconds)
        storm: Storm | None = None
        if begin is not None:
            begin()
            storm = self.crowd.wait(self.options.timeout)
        result = {"bits_per_second": sink.result()["bits_per_second"], "retransmits": blast.result()["retransmits"]}
        return {**result, **({} if storm is None else {"storm": storm.summary()})}

    def restart(self, probe: Probe, end: Callable[[], object], *, lose: bool) -> Result:
        """The gateway goes and comes again. Waits count from READY."""
        stopped = time.monotonic()
        end()
        gone = time.monotonic()
        ready = self.gateway.start().wait_event("listener_ready")
        ready_at = datetime.fromisoformat(ready["time"]).timestamp() - (time.time() - time.monotonic())
        with Pulse(self.gateway) as pulse:
            if lose:
                self.crowd.lose()
            storm = self.crowd.wait(self.options.timeout)
            spent = cpu_seconds(self.gateway.running().pid)
            first = self.first_delivered(probe, ready_at)
            settled = time.monotonic()
            time.sleep(SETTLE)
        last = max(at for at in probe.arrived.values() if at < ready_at)
        return {
            **storm.summary(ready_at),
            "stop_seconds": round(gone - stopped, 3),
            "start_seconds": round(ready_at - gone, 3),
            "gateway_cpu_seconds": round(spent, 2),
            "live_from_ready_seconds": round(first - ready_at, 3),
            "live_interrupted_seconds": round(first - last, 3),
            "live": probe.report(first + 0.001, settled),
            "event_loop": pulse.report(),
        }

    def first_delivered(self, probe: Probe, ready_at: float) -> float:
        end = time.monotonic() + self.options.timeout
        while (first := probe.first_after(ready_at)) is None:
            if time.monotonic() > end:
                raise hosts.CommandError("the live tunnel did not come back")
            time.sleep(0.05)
        return first

    def rotations(self, since: float) -> dict[str, int]:
        """Rotations of the live tunnel at its dialer since then, by status."""
        start = since + (time.time() - time.monotonic())
        events = self.dialer.events("key_rotation")
        statuses = [event["status"] for event in events if datetime.fromisoformat(event["time"]).timestamp() >= start]
        return {status: statuses.count(status) for status in ("success", "failed")}

    def faults(self) -> dict[str, int]:
        """What must not be in the log of the live tunnel's dialer or of the gateway."""
        names = ("internal_error", "control_lost", "peer_silent", "handshake_failed", "inbound_backoff")
        return {
            f"{node.name} {name}": count
            for node in (self.gateway, self.dialer)
            for name in names
            if (count := len(node.events(name)))
        }


def play(scene: Scene, options: argparse.Namespace, note: Callable[[str, Result], None]) -> None:
    """All of it, in this order."""
    with Probe(scene.dialer.namespace, scene.gateway.namespace, GATEWAY, rate=options.rate) as probe:
        note("quiet", scene.quiet(probe, options.quiet_seconds))
        note("new", scene.beside(probe, scene.crowd.dial))
        time.sleep(options.pause)
        note("again", scene.beside(probe, scene.crowd.lose))
        time.sleep(options.pause)
    note("tcp_quiet", scene.tcp(None))
    note("tcp", scene.tcp(scene.crowd.lose))
    note("faults_beside", scene.faults())
    time.sleep(options.pause)
    with Probe(scene.dialer.namespace, scene.gateway.namespace, GATEWAY, rate=options.rate) as probe:
        time.sleep(1)
        note("sigterm", scene.restart(probe, scene.gateway.stop, lose=False))
        time.sleep(options.pause)
        note("sigkill", scene.restart(probe, scene.gateway.kill, lose=True))


def run(lab: hosts.Lab, options: argparse.Namespace) -> Result:
    scene = Scene(lab, options)
    report: Result = {"dialers": options.count, "sources": 1 if options.one_source else options.count}

    with Progress("bench", STEPS, unit="steps") as progress:

        def note(name: str, result: Result) -> None:
            report[name] = result
            progress.done(name)
            progress.say(f"{name}: {json.dumps(result)}")

        play(scene, options, note)
    report["gateway_rss_kib"] = scene.gateway.rss_kib()
    return report


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=count, default=300, help="dialers of the crowd")
    parser.add_argument("--one-source", action="store_true", help="all dialers have the same address")
    parser.add_argument("--rate", type=positive, default=500.0, help="datagrams a second through the live tunnel")
    parser.add_argument("--quiet-seconds", type=amount, default=5.0, help="of the live tunnel by itself")
    parser.add_argument("--tcp-seconds", type=positive, default=4.0)
    parser.add_argument("--pause", type=amount, default=4.0, help="seconds between storms")
    parser.add_argument("--timeout", type=positive, default=120.0, help="seconds that a storm may take")
    parser.add_argument("--flag", action="append", default=[], help="for the gateway, e.g. --flag=--workers=1")
    return parser.parse_args()


def main() -> int:
    options = parse()
    if (reason := sandbox.enter()) is not None:
        print(f"bench: no network namespaces: {reason}", file=sys.stderr)
        return 1
    try:
        with tempfile.TemporaryDirectory(prefix="cryprq-bench-") as directory, hosts.Lab(Path(directory)) as lab:
            report = run(lab, options)
    except hosts.CommandError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    print(json.dumps({"environment": environment(), **report}, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
