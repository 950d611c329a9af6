"""A crowd of dialers in one process that keep their sessions as nodes do: what is lost is dialled again.

Each has an identity and an address of its own, and the real rules for when to dial (``cryprq.peers.dialer``). The
process does what signals say: SIGUSR1, dial, all at once; SIGUSR2, take every session for lost, all at once, without a
word to the listener. Whenever all of them have a session again it writes a line of JSON (``Storm``).

    crowd.py PEER_ID HOST PORT --count 300 --network 198.18.0.0/16
"""

import argparse
import asyncio
import json
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import ip_network

import uvloop

from cryprq.address import Address
from cryprq.config.node_config import NodeConfig
from cryprq.linux.clock import boottime
from cryprq.multiaddr import Multiaddr
from cryprq.peer_id import PeerId
from cryprq.peers.dialer import Dialer, DialSchedule
from cryprq.protocol.identity import Identity
from lab.dialers import Dial, Dialers, identity_of
from lab.hosts import Namespace, Process


@dataclass
class Storm:
    """From the moment that the first dialer wanted a session until all had one. Times of CLOCK_MONOTONIC, seconds."""

    began: float
    up_at: list[float] = field(default_factory=list)
    """When each session was there, in that order."""
    handshakes: list[float] = field(default_factory=list)
    """How long each took, of the attempt that succeeded, from its first datagram to the first record back."""
    attempts: int = 0
    """Connections that were begun."""
    failures: Counter[str] = field(default_factory=Counter)
    """What became of attempts that a dialer did not give up itself, because another was answered."""
    sent: int = 0
    received: int = 0
    """Datagrams."""
    cpu: float = 0.0
    """Seconds of this process."""

    @property
    def seconds(self) -> float:
        return self.up_at[-1] - self.began

    def summary(self, since: float | None = None) -> dict[str, object]:
        """For a report: waits are counted from ``since``, else from the beginning."""
        waits = sorted(at - (self.began if since is None else since) for at in self.up_at)
        times = sorted(self.handshakes)
        return {
            "sessions": len(times),
            "all_up_seconds": round(waits[-1], 3),
            "wait_p50_seconds": round(statistics.median(waits), 3),
            "wait_p99_seconds": round(waits[len(waits) * 99 // 100], 3),
            "handshake_p50_ms": round(statistics.median(times) * 1e3, 1),
            "handshake_p99_ms": round(times[len(times) * 99 // 100] * 1e3, 1),
            "attempts": self.attempts,
            "failures": dict(self.failures),
            "datagrams_per_session": [round(count / len(times), 1) for count in (self.sent, self.received)],
            "dialers_cpu_seconds": round(self.cpu, 2),
        }


class Crowd:
    """The process, seen by a test or a benchmark."""

    def __init__(
        self, namespace: Namespace, peer_id: str, host: str, port: int, *, count: int, network: str | None = None
    ) -> None:
        """``network``: its addresses are the dialers', as many as are needed; None: they share the host's own."""
        if network is not None:
            namespace.ip(f"route add local {network} dev lo")  # every address in it is this host's
        options = ["--network", network] if network is not None else []
        self.process: Process = namespace.start(
            f"crowd-{namespace.name}",
            *(sys.executable, __file__, peer_id, host, str(port), "--count", str(count), *options),
        )
        self._seen = 0
        self.process.wait_for("ready\n", timeout=30)

    def dial(self) -> None:
        """All dial at once."""
        self.process.signal(signal.SIGUSR1)

    def lose(self) -> None:
        """All take their session for lost, and dial, at once."""
        self.process.signal(signal.SIGUSR2)

    def wait(self, timeout: float = 60.0) -> Storm:
        """The next storm, when all have a session (again)."""
        self.process.wait_for(f'"number": {self._seen + 1},', timeout)
        self._seen += 1
        line = next(line for line in self.process.output().splitlines() if f'"number": {self._seen},' in line)
        entry = json.loads(line)
        entry.pop("number")
        return Storm(**{**entry, "failures": Counter(entry["failures"])})


# ---- inside the process ----


class Attempt:
    """A dial, as ``cryprq.peers.dialer`` sees it."""

    def __init__(self, dial: Dial, remote: Address) -> None:
        self.dial = dial
        self.remote = remote
        self.given_up = False

    @property
    def detail(self) -> str:
        return self.dial.outcome or "no answer"

    @property
    def answered(self) -> bool:
        return self.dial.answered

    @property
    def over(self) -> bool:
        return self.dial.outcome is not None

    def abandon(self) -> None:
        self.given_up = True
        self.dial.abandon()


class Member:
    """One dialer: a ``DialTarget`` that dials whenever it has no session."""

    def __init__(self, host: "Host", identity: Identity, dialers: Dialers) -> None:
        self.peer_id = host.peer_id
        self.session: Dial | None = None
        self._host = host
        self._identity = identity
        self._dialers = dialers
        self._timer: asyncio.TimerHandle | None = None
        self._soon: asyncio.Handle | None = None
        self._dialer = Dialer(
            self,
            [
                Multiaddr(
                    "ip6" if host.listener.is_ipv6 else "ip4", host.listener.host, host.listener.port, host.peer_id
                )
            ],
            DialSchedule(NodeConfig.backoff_base_ms / 1000, NodeConfig.backoff_max_ms / 1000),
            addresses=lambda _: (host.listener,),
            resolve_error=lambda _: None,
            connect=self._connect,
            unanswered=lambda _: None,
            observer=self,
        )

    # ---- DialTarget and DialObserver ----

    round_trip = 0.0
    """Not looked at: the listener is near."""

    @property
    def up(self) -> bool:
        return self.session is not None

    def wants_dial(self) -> bool:
        return self.session is None

    def dial_failed(self) -> None:
        """A session that works is not dialled here, so none is lost by it."""

    def dial_started(self, peer_id: PeerId, remote: Address, *, again: bool) -> None: ...
    def dial_unanswered(self, peer_id: PeerId, remotes: Sequence[Address], detail: str, *, again: bool) -> None: ...
    def dial_unresolved(self, peer_id: PeerId, target: Multiaddr, error: str) -> None: ...

    # ---- what drives it ----

    def lose(self) -> None:
        """The session counts for nothing any more."""
        self.session = None
        self.poll()

    def poll(self) -> None:
        self._soon = None
        if self._timer is not None:
            self._timer.cancel()
        now = boottime()
        due = self._dialer.poll(now)
        self._timer = None if due is None else self._host.loop.call_later(max(0.0, due - now), self.poll)

    def _connect(self, _: Dialer, remote: Address, timeout: float) -> Attempt:
        self._host.storm.attempts += 1
        attempt: list[Attempt] = []
        dial = self._dialers.dial(self._identity, timeout=timeout, changed=lambda: self._changed(attempt[0]))
        attempt.append(Attempt(dial, remote))
        return attempt[0]

    def _changed(self, attempt: Attempt) -> None:
        dial = attempt.dial
        if dial.outcome == "done":
            if not dial.ended:
                before, self.session = self.session, dial
                if before is None:
                    self._host.up(dial)
                else:
                    self._host.storm.failures["one too many"] += 1
            elif self.session is dial:
                self.session = None
                self._host.lost()
        elif dial.outcome is not None and not attempt.given_up:
            self._host.storm.failures[dial.outcome] += 1
            if dial.answered:
                self._dialer.schedule.failed(boottime(), refused=dial.outcome == "refused")
        if self._soon is None:
            self._soon = self._host.loop.call_soon(self.poll)


class Host:
    """All of them, each with a socket of its own."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.loop = asyncio.get_running_loop()
        self.listener = Address(options.host, options.port)
        self.peer_id = PeerId.parse(options.peer_id)
        self._number = self._up = 0
        sources = map(str, ip_network(options.network).hosts()) if options.network else iter(())
        self._sockets = [Dialers(self.listener, self.peer_id, next(sources, None)) for _ in range(options.count)]
        self._members = [
            Member(self, identity_of(options.seed, number), dialers) for number, dialers in enumerate(self._sockets)
        ]
        for dialers in self._sockets:
            dialers.__enter__()
        self.storm = self._begin()

    def dial(self) -> None:
        """All members want a session from now on."""
        self.storm = self._begin()
        for member in self._members:
            member.poll()

    def lose(self) -> None:
        self._up = 0
        self.storm = self._begin()
        for member in self._members:
            member.lose()

    def lost(self) -> None:
        """A member has lost its session: with the first one the storm begins."""
        if self._up == len(self._members):
            self.storm = self._begin()
        self._up -= 1

    def up(self, dial: Dial) -> None:
        self._up += 1
        storm = self.storm
        storm.up_at.append(time.monotonic())
        storm.handshakes.append(dial.seconds)
        if self._up == len(self._members):
            self._number += 1
            storm.sent, storm.received = self._count("sent") - storm.sent, self._count("received") - storm.received
            storm.cpu = time.process_time() - storm.cpu
            print(json.dumps({"number": self._number, **vars(storm)}), flush=True)

    def _begin(self) -> Storm:
        storm = Storm(time.monotonic(), sent=self._count("sent"), received=self._count("received"))
        storm.cpu = time.process_time()
        return storm

    def _count(self, what: str) -> int:
        return sum(dialers.counters[what] for dialers in self._sockets)


async def serve(options: argparse.Namespace) -> None:
    host = Host(options)
    for number, act in ((signal.SIGUSR1, host.dial), (signal.SIGUSR2, host.lose)):
        host.loop.add_signal_handler(number, act)
    print("ready", flush=True)
    await asyncio.Event().wait()  # until SIGTERM, which ends it without a word to the listener


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer_id")
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--network", help="whose addresses the dialers have; without: one for all")
    parser.add_argument("--seed", type=int, default=1, help="of the identities")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(options))


if __name__ == "__main__":
    main()
