"""The traffic of one round on one way: what is sent, and what is read off while it runs."""

import math
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lab import ROOT, hosts
from lab.hosts import CommandError, Namespace, Process

TCP_PORT, UDP_PORT, ECHO_PORT, TICKS = 5201, 5202, 5203, os.sysconf("SC_CLK_TCK")

SIZES = {"1400": 1372, "64": 64}
"""UDP payloads by name: an IPv4 packet of 1400 bytes, which fits every tunnel, and a payload of 64 bytes."""
CLEAN = 0.001
"""A rate is carried when less than this share is lost."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Plan:
    """What a round does. ``seconds`` is the length of each run, ``loads`` names what to measure."""

    seconds: float
    steps: int
    """Of the search for the highest clean rate; 0 for none."""
    loads: tuple[str, ...]
    segments: int = 0
    """UDP_SEGMENT super-packets of so many datagrams from the sender, and UDP_GRO at the receiver; 0 for neither."""


CONGESTION = "cubic"
"""The congestion control of every flow but those of ``tcp1bbr``: Linux's own default, whatever this machine's is."""
LOADS = ("rtt", "tcp1", "tcp1bbr", "tcp4", "both", "udp1400", "udp64", "udp64x64", "clean1400", "clean64", "loaded")


def build() -> str:
    """Compiles traffic.c if it is out of date; the program's path. CommandError without a compiler."""
    source, program = Path(__file__).with_name("traffic.c"), ROOT / "build" / "bench" / "traffic"
    if not program.exists() or program.stat().st_mtime < source.stat().st_mtime:
        program.parent.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CC", "cc")
        if shutil.which(compiler) is None:
            raise hosts.CommandError(f"no {compiler} to compile traffic.c with")
        command = [compiler, "-std=c11", "-O2", "-Wall", "-Wextra", "-o", str(program), str(source)]
        subprocess.run(command, check=True)
    return str(program)


def offered(loads: Sequence[str]) -> tuple[str, ...]:
    """The loads of these that this kernel can carry: BBR is a module that not every one has."""
    known = Path("/proc/sys/net/ipv4/tcp_available_congestion_control").read_text().split()
    return tuple(load for load in loads if load != "tcp1bbr" or "bbr" in known)


class Cpu:
    """CPU seconds since it was made: of the machine (guests and steal not counted), and of some processes."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self._begin = self._read()

    def _read(self) -> tuple[int, int]:
        user, nice, system, _idle, _wait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
        own = 0
        for pid in self._pids:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            own += int(fields[11]) + int(fields[12])
        return user + nice + system + irq + softirq, own

    def seconds(self) -> tuple[float, float]:
        """Machine, processes."""
        now = self._read()
        return (now[0] - self._begin[0]) / TICKS, (now[1] - self._begin[1]) / TICKS


def rss_kib(pids: Sequence[int]) -> float:
    """Mean resident memory of the processes, in KiB."""
    total = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/status").read_text()
        total += int(text.split("VmRSS:")[1].split()[0])
    return total / len(pids)


class Ends:
    """Two hosts and the addresses that they have on one way; the traffic goes from right to left."""

    def __init__(self, left: Namespace, right: Namespace, left_address: str, right_address: str) -> None:
        self.left, self.right = left, right
        self.left_address, self.right_address = left_address, right_address
        self.program = build()
        self._number = 0

    def _start(self, host: Namespace, command: str, address: str, port: int, *flags: object) -> Process:
        self._number += 1
        name = f"{command}-{host.name}-{address}-{self._number}"
        process = host.start(name, self.program, command, address, str(port), *map(str, flags))
        if command in ("tcp-sink", "udp-sink", "udp-echo"):
            process.wait_for("ready\n")
        return process

    def sink(self, command: str, port: int, *flags: object) -> Process:
        return self._start(self.left, command, self.left_address, port, *flags)

    def source(self, command: str, port: int, *flags: object) -> Process:
        return self._start(self.right, command, self.left_address, port, *flags)

    def rtt(self, seconds: float) -> Result:
        """Round trips of 64-byte datagrams, one after another with a millisecond between them."""
        echo = self.sink("udp-echo", ECHO_PORT)
        try:
            return self.source("udp-rtt", ECHO_PORT, "-t", seconds).result(seconds + 30)
        finally:
            echo.stop()

    def tcp(self, flows: int, seconds: float, congestion: str = CONGESTION) -> Result:
        sink = self.sink("tcp-sink", TCP_PORT, "-c", flows)
        source = self.source("tcp-blast", TCP_PORT, "-c", flows, "-t", seconds, "-a", congestion)
        return {**source.result(seconds + 60), **sink.result(60)}

    def both(self, seconds: float) -> float:
        """Bits per second of a flow each way, summed."""
        sinks = [self.sink("tcp-sink", TCP_PORT), self._start(self.right, "tcp-sink", self.right_address, TCP_PORT)]
        sources = [
            self.source("tcp-blast", TCP_PORT, "-t", seconds, "-a", CONGESTION),
            self._start(self.left, "tcp-blast", self.right_address, TCP_PORT, "-t", seconds, "-a", CONGESTION),
        ]
        for source in sources:
            source.result(seconds + 60)
        return float(sum(sink.result(60)["bits_per_second"] for sink in sinks))

    def udp(self, size: int, seconds: float, rate: float = 0, flows: int = 1, segments: int = 0) -> Result:
        """What was sent and received; ``loss`` is a share of what the sender's kernel took or refused."""
        sink = self.sink("udp-sink", UDP_PORT, *(["-g"] if segments else []))
        flags = ["-s", size, "-t", seconds, "-r", rate, "-c", flows, *(["-g", segments] if segments else [])]
        source = self.source("udp-blast", UDP_PORT, *flags).result(seconds + 30)
        try:
            got = sink.result(10)
        except subprocess.TimeoutExpired:  # not even an end mark has arrived
            sink.stop()
            got = {"received": 0, "per_second": 0.0}
        offered = source["sent"] + source["refused"]
        return {**source, **got, "loss": 1 - got["received"] / max(offered, 1)}

    def clean_rate(self, size: int, seconds: float, steps: int, guess: float) -> float:
        """The highest rate with less than CLEAN lost, from a bisection on a scale of ratios.

        ``guess`` is what arrives flat out. A rate that fails is tried once more: on a machine that does other things,
        too, one pause of the receiver is not the path's limit. What is returned was carried, or is 0.
        """
        low, high, best = guess / 16, guess * 1.5, 0.0
        for _ in range(steps):
            rate = math.sqrt(low * high)
            for _ in range(2):
                run = self.udp(size, seconds, rate)
                # A sender that cannot keep up has not offered the rate.
                if good := run["loss"] < CLEAN:
                    best, low = max(best, run["sent"] / run["seconds_offered"]), rate
                    break
            if not good:
                high = rate
        return best


def measure(ends: Ends, plan: Plan, pids: Sequence[int]) -> dict[str, float | None]:
    """One round on one way, the idle path first; the keys are those of ``figures.FIGURES``, and counts beside them."""
    found: dict[str, float | None] = {}
    seconds = plan.seconds
    if "rtt" in plan.loads:
        ends.rtt(0.05)  # warms caches, neighbours and clocks up
        trip = ends.rtt(seconds)
        found |= {"p50_us": trip["p50_us"], "p99_us": trip["p99_us"], "lost_echoes": trip["lost"]}
    if "tcp1" in plan.loads:
        cpu = Cpu(pids)
        run = ends.tcp(1, seconds)
        machine, own = cpu.seconds()
        gigabytes = run["bytes"] / 1e9
        found |= {"tcp_1_bits_per_second": run["bits_per_second"], "tcp_1_retransmits": run["retransmits"]}
        found["tcp_1_lost"] = max(0, run["retransmits"] - run["spurious"])
        found["cpu_seconds_per_gigabyte"] = machine / gigabytes
        if pids:
            found["tunnel_cpu_seconds_per_gigabyte"] = own / gigabytes
    if "tcp1bbr" in plan.loads:
        found["tcp_1_bbr_bits_per_second"] = ends.tcp(1, seconds, "bbr")["bits_per_second"]
    if "tcp4" in plan.loads:
        run = ends.tcp(4, seconds)
        found |= {"tcp_4_bits_per_second": run["bits_per_second"], "tcp_4_retransmits": run["retransmits"]}
    if "both" in plan.loads:
        found["tcp_both_bits_per_second"] = ends.both(seconds)
    if "loaded" in plan.loads:
        sink = ends.sink("tcp-sink", TCP_PORT)
        source = ends.source("tcp-blast", TCP_PORT, "-t", seconds + 0.4, "-a", CONGESTION)
        time.sleep(0.2)  # the flow is at its full rate then
        try:
            trip = ends.rtt(seconds)
        except CommandError:  # not one datagram got through beside the flow: some tunnels do that
            trip = {"p50_us": None, "p99_us": None}
        source.result(60)
        sink.result(60)
        found |= {"loaded_p50_us": trip["p50_us"], "loaded_p99_us": trip["p99_us"]}
    for name, size in SIZES.items():
        flat = None
        if f"udp{name}" in plan.loads or (f"clean{name}" in plan.loads and plan.steps):
            flat = ends.udp(size, seconds, segments=plan.segments)["per_second"]
        if f"udp{name}" in plan.loads:
            found[f"udp_{name}_per_second"] = flat
        if f"clean{name}" in plan.loads and plan.steps and flat:
            found[f"udp_{name}_clean_per_second"] = ends.clean_rate(size, seconds / 2, plan.steps, flat)
    if "udp64x64" in plan.loads:
        found["udp_64_flows_64_per_second"] = ends.udp(SIZES["64"], seconds, flows=64)["per_second"]
    if pids:
        found["rss_kib"] = rss_kib(pids)
    return found
