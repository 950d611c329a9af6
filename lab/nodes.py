"""A node as users run it: ``cryprq-node`` in a namespace, known by its log, its metrics and its admin socket."""

import contextlib
import json
import os
import signal
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from cryprq.cli import admin_client
from cryprq.config.identity_file import load_or_create_identity
from cryprq.config.paths import DEFAULT_TUN_NAME
from cryprq.errors import MachineError
from cryprq.registry.lease_file import lease_path
from lab.hosts import CommandError, Namespace, Process

PROGRAMS = Path(os.environ.get("CRYPRQ_PROGRAMS", Path(sys.executable).parent))
"""Where ``cryprq-node`` and ``cryprq`` are; the environment variable names those of another build."""
PORT = 9999
METRICS = "127.0.0.1:9464"

Event = dict[str, Any]


class Node:
    """A node of a test: its files are ``NAME.*`` in the lab's directory, its log is JSON.

    Flags are added by the caller, except for identity, admin socket, metrics and log format.
    """

    def __init__(
        self, namespace: Namespace, *arguments: str, name: str | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        self.namespace = namespace
        self.name = name or f"node-{namespace.name}"
        self.arguments = list(arguments)
        self.env = {**{key: value for key, value in os.environ.items() if not key.startswith("CRYPRQ_")}, **(env or {})}
        self.directory = namespace.directory
        self.identity = self.directory / f"{self.name}.identity"
        self.control = self.directory / f"{self.name}.sock"
        self.peer_id = str(load_or_create_identity(self.identity).peer_id)
        self.process: Process | None = None
        self._log = self.directory / f"{self.name}.log"
        self._start = 0  # where the log of the running process begins
        self._read = 0  # and up to where its events are known
        self._events: list[Event] = []

    def start(self, *more: str) -> "Node":
        """Starts it, or starts it again, with more arguments if any; the log goes on in the same file."""
        self._start = self._read = self._log.stat().st_size if self._log.exists() else 0
        self._events = []
        self.process = self.namespace.start(
            self.name,
            *self.command(),
            *("--identity", str(self.identity), "--control-socket", str(self.control)),
            *("--metrics-addr", METRICS, "--log-format", "json"),
            *self.arguments,
            *more,
            env=self.env,
        )
        return self

    def command(self) -> Sequence[str]:
        """The daemon, without its flags."""
        return [str(PROGRAMS / "cryprq-node")]

    def multiaddr(self, host: str, port: int = PORT) -> str:
        """What a dialer passes to ``--peer`` to reach this node at host."""
        return f"/ip{6 if ':' in host else 4}/{host}/udp/{port}/quic-v1/p2p/{self.peer_id}"

    def grant(self, peer_id: str, *addresses: str) -> None:
        """A peer's lease from earlier days: else it gets addresses that its ID chooses. Before the first start."""
        path = lease_path(self.identity, DEFAULT_TUN_NAME)
        leases = json.loads(path.read_text())["leases"] if path.exists() else {}
        path.write_text(json.dumps({"version": 1, "leases": {**leases, peer_id: addresses}}))

    def running(self) -> Process:
        if self.process is None:
            raise CommandError(f"{self.name} was not started")
        return self.process

    def events(self, event: str | None = None, /, **fields: object) -> list[Event]:
        """The log since the last start: all events, or those of a name and with the given fields."""
        self._read_on()
        return [
            entry
            for entry in self._events
            if event in (None, entry.get("event")) and all(entry.get(key) == fields[key] for key in fields)
        ]

    def _read_on(self) -> None:
        """Reads the log from where it was read to the last time: who waits for an event asks all the time."""
        if not self._log.exists():
            return
        with self._log.open("rb") as log:
            log.seek(self._read)
            whole = log.read().rpartition(b"\n")[0]
        self._read += len(whole) + 1 if whole else 0
        for line in whole.decode(errors="replace").splitlines():
            with contextlib.suppress(ValueError):  # a traceback, say
                self._events.append(json.loads(line))

    def lines(self) -> list[str]:
        """The raw log since the last start."""
        if not self._log.exists():
            return []
        with self._log.open("rb") as log:
            log.seek(self._start)
            return log.read().decode(errors="replace").splitlines()

    def wait_event(self, event: str, /, *, timeout: float = 60.0, count: int = 1, **fields: object) -> Event:
        """The count-th event of that name and fields, waited for; CommandError with the log when it does not come."""
        end = time.monotonic() + timeout
        while True:
            ended = not self.running().running
            found = self.events(event, **fields)
            if len(found) >= count:
                return found[count - 1]
            if ended or time.monotonic() > end:
                what = "ended" if ended else f"ran {timeout} s"
                log = "\n".join(self.lines()[-40:])
                raise CommandError(f"{self.name} {what} without event {event} {fields or ''} x{count}\n{log}")
            time.sleep(0.02)

    def http(self, path: str) -> tuple[int, str]:
        """GET from the metrics address, inside the namespace: status and body."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with self.namespace.entered():
            try:
                with opener.open(f"http://{METRICS}{path}", timeout=5) as response:
                    return int(response.status), response.read().decode()
            except urllib.error.HTTPError as error:
                with error:
                    return error.code, error.read().decode()

    def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        """Every sample by name (without ``cryprq_``) and labels."""
        samples = {}
        for family in text_string_to_metric_families(self.http("/metrics")[1]):
            for sample in family.samples:
                samples[sample.name.removeprefix("cryprq_"), frozenset(sample.labels.items())] = sample.value
        return samples

    def metric(self, name: str, /, **labels: str) -> float:
        """The sum of the samples of that name that have these labels; KeyError if there is none."""
        wanted = labels.items()
        samples = self.metrics().items()
        values = [v for (sample, have), v in samples if sample == name and wanted <= dict(have).items()]
        if not values:
            raise KeyError(f"{name} {labels or ''}")
        return sum(values)

    def tool(self, *arguments: str) -> str:
        """Runs ``cryprq ARGUMENTS`` against this node and returns what it prints."""
        return self.namespace.run(str(PROGRAMS / "cryprq"), *arguments, "--control-socket", str(self.control))

    def status(self) -> Any:
        """What ``cryprq status --json`` prints, asked as it asks."""
        try:
            return admin_client.request(self.control, "status", measure=True)
        except MachineError as error:
            raise CommandError(str(error)) from error

    def rss_kib(self) -> int:
        """Resident memory in KiB."""
        for line in Path(f"/proc/{self.running().pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise CommandError(f"{self.name} has ended")

    def reload(self) -> None:
        """SIGHUP."""
        self.running().signal(signal.SIGHUP)

    def stop(self, timeout: float = 60.0) -> int:
        """SIGTERM; the exit status."""
        return self.running().stop(timeout)

    def kill(self) -> None:
        """SIGKILL, and waits for the end."""
        process = self.running()
        process.signal(signal.SIGKILL)
        process.wait()
