"""What strangers at a gateway's door cost those who have business there, as a table on stdout.

A gateway, a node with a live tunnel to it through which datagrams go at a constant rate, strangers with hundreds of
addresses (``lab/strangers.py``), and newcomers with an identity each that dial at a constant rate while the strangers
are at work. For each attack: how many newcomers had a session within a second, how long that took, what became of the
live tunnel's datagrams, and how much of a core the gateway and the strangers themselves took. All share this machine:
where the strangers' CPU time is large, part of every other figure is theirs.

With ``--flat-out`` nobody new dials, and TCP takes the live tunnel as fast as it goes, in turns of so many seconds
without and with the strangers, twice. The gateway and the reader of its TUN have a CPU to themselves then, and
everybody else shares another: the tunnel loses what strangers cost the gateway, and what they themselves take of the
dialer's CPU, which is told too. What one of them costs the gateway is its CPU time less what the tunnel's bytes cost it
without them.

    bench/strangers.py                                    every attack, 50 newcomers each
    bench/strangers.py --attack silent --attack leave     only these
    bench/strangers.py --flat-out 5                       TCP through the live tunnel, with and without them
    CRYPRQ_PROGRAMS=/other/.venv/bin bench/strangers.py   against another build's gateway
"""

import argparse
import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from collections import Counter
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

from bench.figures import environment
from bench.loads import TCP_PORT, Ends
from bench.options import count, positive
from cryprq.address import Address
from cryprq.peer_id import PeerId
from lab import hosts, sandbox
from lab.dialers import Dialers, identity_of
from lab.nodes import PORT, Node
from lab.probe import cpu_seconds
from lab.progress import Progress
from lab.strangers import ATTACKS, Strangers

HERE, THERE, NEWCOMER, STRANGER = "192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"
NETWORK: Final = "198.18.0.0/15"
NEWCOMERS: Final = "203.0.113.0/24"
"""Where the newcomers are, one at each address: what one does is not to be held against the next."""
GATEWAY: Final = "10.64.0.1"
WITHIN: Final = 1.0
"""Seconds in which a newcomer is to have its session."""
PATIENCE: Final = 4.0
WARM_UP: Final = 2.0
"""Seconds of an attack before the first newcomer."""
CPUS: Final = sorted(os.sched_getaffinity(0))
RUN_UP: Final = 0.5
"""Seconds of an attack before and after a turn of ``--flat-out``."""
SIZE: Final = 1200
"""Bytes of a datagram through the live tunnel."""

Result = dict[str, Any]


class Scene:
    """The gateway, and who is around it."""

    def __init__(self, lab: hosts.Lab, options: argparse.Namespace) -> None:
        self.options = options
        names = ("gateway", "dialer", "newcomer", "strangers")
        here, there, self.newcomer, self.strangers = (lab.namespace(name) for name in names)
        addresses = zip((here, there, self.newcomer, self.strangers), (HERE, THERE, NEWCOMER, STRANGER), strict=True)
        lab.switch("switch", {namespace: [f"{address}/24"] for namespace, address in addresses})
        here.ip(f"route add {NETWORK} via {STRANGER}")
        here.ip(f"route add {NEWCOMERS} via {NEWCOMER}")
        self.newcomer.ip(f"route add local {NEWCOMERS} dev lo")
        self._addresses = [str(address) for address in ip_network(NEWCOMERS).hosts()]
        listen = ("--listen", f"/ip4/0.0.0.0/udp/{PORT}/quic-v1", "--tun-address", f"{GATEWAY}/16", "--allow-any")
        self.gateway = Node(here, *listen, *options.flag)
        self.gateway.start().wait_event("listener_ready")
        self.dialer = Node(there, "--peer", self.gateway.multiaddr(HERE))
        self.dialer.start().wait_event("tunnel_addresses")
        self.dialer.wait_event("peer_connected")

        for process in (os.getpid(), *(node.running().pid for node in (self.gateway, self.dialer))):
            for thread in Path(f"/proc/{process}/task").iterdir():
                os.setpriority(os.PRIO_PROCESS, int(thread.name), options.nice)

    def under(self, attack: str) -> Result:
        """One attack, and what the newcomers and the live tunnel had of it."""
        options, pid = self.options, self.gateway.running().pid
        seconds = WARM_UP + options.newcomers * options.interval + PATIENCE
        attackers = self.strangers_of(attack, seconds)
        start, cpu = time.monotonic(), cpu_seconds(pid)
        flow = {"rate": options.rate, "seconds": seconds - PATIENCE, "size": SIZE}
        receiver = self.gateway.namespace.traffic("udp_receive", GATEWAY, 5005, timeout=3.0)
        sender = self.dialer.namespace.traffic("udp_send", GATEWAY, 5005, **flow)
        time.sleep(WARM_UP)
        with self.newcomer.entered():
            outcomes = asyncio.run(self.newcomers())
        spent = (cpu_seconds(pid) - cpu) / (time.monotonic() - start)
        theirs = attackers.result()
        received, sent = receiver.result()["received"], sender.result()["sent"]
        times = sorted(taken for outcome, taken in outcomes if outcome == "done")
        return {
            "attack": ATTACKS[attack].says,
            "newcomers": len(outcomes),
            "outcomes": dict(Counter(outcome for outcome, _ in outcomes)),
            "within_a_second": sum(taken <= WITHIN for taken in times),
            "p50_ms": round(statistics.median(times) * 1e3) if times else None,
            "max_ms": round(times[-1] * 1e3) if times else None,
            "delivered": round(received / sent, 4),
            "gateway_cpu": round(spent, 3),
            "gate": self.outcomes(),
            "strangers": theirs,
            "strangers_cpu": round(theirs["cpu_seconds"] / seconds, 3),
        }

    def pin(self) -> None:
        """The gateway on the first CPU, with what reads from its TUN; everybody else on the second."""
        for node, cpu in ((self.gateway, CPUS[0]), (self.dialer, CPUS[1])):
            for thread in Path(f"/proc/{node.running().pid}/task").iterdir():
                os.sched_setaffinity(int(thread.name), {cpu})

    def transfer(self, ends: Ends, seconds: float) -> float:
        """Bits per second of one TCP flow from the dialer to the gateway. What is started inherits this thread's
        CPU."""
        os.sched_setaffinity(0, {CPUS[0]})
        sink = ends.sink("tcp-sink", TCP_PORT)
        os.sched_setaffinity(0, {CPUS[1]})
        ends.source("tcp-blast", TCP_PORT, "-t", seconds).result(seconds + 60)
        return float(sink.result(60)["bits_per_second"])

    def flat_out(self, attack: str, seconds: float) -> Result:
        """TCP through the tunnel, without and with the strangers, in turns."""
        pid = self.gateway.running().pid
        inner = self.dialer.wait_event("tunnel_addresses")["addresses"].partition("/")[0]
        ends = Ends(self.gateway.namespace, self.dialer.namespace, GATEWAY, inner)
        turns: dict[bool, list[Result]] = {False: [], True: []}
        self.transfer(ends, 1.0)  # to warm up
        for attacked in (False, True) * 2:
            attackers = self.strangers_of(attack, seconds + 2 * RUN_UP) if attacked else None
            time.sleep(RUN_UP)
            start, cpu = time.monotonic(), cpu_seconds(pid)
            speed = self.transfer(ends, seconds)
            spent, took = cpu_seconds(pid) - cpu, time.monotonic() - start
            turn = {"bits_per_second": speed, "cpu_seconds": spent, "seconds": took}
            turns[attacked].append(turn | ({"strangers": attackers.result()} if attackers else {}))
        return {"attack": ATTACKS[attack].says, "turns": turns[False] + turns[True], **cost_of(turns, seconds)}

    def strangers_of(self, attack: str, seconds: float) -> Strangers:
        return Strangers(
            self.strangers,
            attack,
            self.gateway.peer_id,
            HERE,
            PORT,
            seconds=seconds,
            sources=self.options.sources,
            network=NETWORK,
            scale=self.options.scale,
        )

    def outcomes(self) -> dict[str, int]:
        """What the gateway has made of first datagrams; a build from before says nothing of that."""
        name = "first_datagrams_total"
        metrics = self.gateway.metrics()
        return {
            dict(labels)["outcome"]: int(value) for (key, labels), value in metrics.items() if key == name and value
        }

    async def newcomers(self) -> list[tuple[str, float]]:
        """What became of each, and in how many seconds. They come at their times, whatever the others wait for."""
        begun = time.monotonic()

        async def one(number: int) -> tuple[str, float]:
            identity = identity_of(1000 + self.options.seed, number)
            await asyncio.sleep(max(0.0, begun + number * self.options.interval - time.monotonic()))
            source = self._addresses[number % len(self._addresses)]
            with Dialers(Address(HERE, PORT), PeerId.parse(self.gateway.peer_id), source) as dialers:
                dial = dialers.dial(identity)
                return await dial.wait(PATIENCE), dial.seconds

        return list(await asyncio.gather(*map(one, range(self.options.newcomers))))


def cost_of(turns: dict[bool, list[Result]], seconds: float) -> Result:
    """What is left of the tunnel, and what one packet of the strangers costs the gateway, over both turns of each."""
    alone, together = turns[False], turns[True]
    speed = [sum(turn["bits_per_second"] for turn in each) / len(each) for each in (alone, together)]
    per_bit = sum(turn["cpu_seconds"] for turn in alone) / sum(turn["bits_per_second"] * seconds for turn in alone)
    for_tunnel = per_bit * sum(turn["bits_per_second"] * seconds for turn in together)
    extra = sum(turn["cpu_seconds"] for turn in together) - for_tunnel
    theirs = [turn["strangers"] for turn in together]
    took = sum(turn["seconds"] for turn in together)
    units = sum(each["datagrams_per_second"] + each["dials_per_second"] for each in theirs) / len(theirs)
    return {
        "alone_bits_per_second": round(speed[0]),
        "attacked_bits_per_second": round(speed[1]),
        "kept": round(speed[1] / speed[0], 3),
        "gateway_cpu_for_strangers": round(extra / took, 3),
        "gateway_us_per_beginning": round(extra / took / units * 1e6, 1) if units else None,
        "beginnings_per_second": round(units),
        "strangers_cpu": round(sum(each["cpu_seconds"] for each in theirs) / len(theirs) / (seconds + 2 * RUN_UP), 3),
    }


def flat_table(results: list[Result]) -> str:
    """The figures of ``--flat-out``."""
    lines = [
        "| attack | dials and datagrams a second | tunnel alone | with them | kept | gateway's CPU for them, each |"
        " strangers' CPU |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        alone, attacked = (result[f"{name}_bits_per_second"] / 1e9 for name in ("alone", "attacked"))
        each = "none" if result["gateway_us_per_beginning"] is None else f"{result['gateway_us_per_beginning']:.0f} µs"
        cells = (
            result["attack"],
            f"{result['beginnings_per_second']}",
            f"{alone:.2f} Gbit/s",
            f"{attacked:.2f} Gbit/s",
            f"{result['kept']:.0%}",
            f"{result['gateway_cpu_for_strangers']:.1%}, {each}",
            f"{result['strangers_cpu']:.0%}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(results: list[Result]) -> str:
    """The figures, as docs/performance.md has them."""
    lines = [
        "| attack | dials, TLS, datagrams a second | within 1 s | p50, longest | live tunnel | gateway | strangers |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for result in results:
        theirs = result["strangers"]
        p50, longest = (f"{result[key]} ms" if result[key] is not None else "none" for key in ("p50_ms", "max_ms"))
        cells = (
            result["attack"],
            f"{theirs['dials_per_second']:.0f}, {theirs['tls_per_second']:.0f}, {theirs['datagrams_per_second']}",
            f"{result['within_a_second']} of {result['newcomers']}",
            f"{p50}, {longest}",
            f"{result['delivered']:.2%}",
            f"{result['gateway_cpu']:.0%}",
            f"{result['strangers_cpu']:.0%}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attack", action="append", choices=ATTACKS, help="only this; repeatable")
    parser.add_argument("--newcomers", type=count, default=50, help="dials for each attack")
    parser.add_argument("--interval", type=positive, default=0.2, help="seconds between them")
    parser.add_argument("--sources", type=count, default=300, help="addresses of the strangers")
    parser.add_argument("--scale", type=positive, default=1.0, help="of the strangers' rates")
    parser.add_argument("--rate", type=positive, default=2000.0, help="datagrams a second through the live tunnel")
    parser.add_argument("--flat-out", type=positive, metavar="SECONDS", help="TCP through the tunnel, in such turns")
    parser.add_argument("--nice", type=int, default=0, help="of all but the strangers, e.g. -10: others are here")
    parser.add_argument("--seed", type=int, default=1, help="of the newcomers' identities")
    parser.add_argument("--flag", action="append", default=[], help="for the gateway, e.g. --flag=--workers=1")
    parser.add_argument("--json", action="store_true", help="print everything as JSON, without the table")
    return parser.parse_args()


def meet(attack: str, options: argparse.Namespace) -> Result:
    """An attack on a gateway that has seen nothing yet."""
    with tempfile.TemporaryDirectory(prefix="cryprq-bench-") as directory, hosts.Lab(Path(directory)) as lab:
        scene = Scene(lab, options)
        if not options.flat_out:
            return scene.under(attack)
        scene.pin()
        return scene.flat_out(attack, options.flat_out)


def main() -> int:
    options = parse()
    if options.flat_out and len(CPUS) < 2:
        print("bench: --flat-out needs two CPUs", file=sys.stderr)
        return 1
    if (reason := sandbox.enter()) is not None:
        print(f"bench: no network namespaces: {reason}", file=sys.stderr)
        return 1
    results: list[Result] = []
    attacks = list(options.attack or ATTACKS)
    try:
        with Progress("bench", len(attacks), unit="attacks") as progress:
            for attack in attacks:
                progress.begin(attack)
                results.append(meet(attack, options))
                progress.done(attack)
                progress.say(json.dumps(results[-1]))
    except hosts.CommandError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps({"environment": environment(), "results": results}, indent=2))
    else:
        print(flat_table(results) if options.flat_out else table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
