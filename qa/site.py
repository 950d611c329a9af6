"""Where a scenario takes place: hosts on one LAN and the nodes on them, in network namespaces; and faults put in.

A fault is a way of breaking what a scenario looks at, to see that the scenario notices.
"""

import contextlib
import shutil
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from lab.hosts import CommandError, Lab, Namespace
from lab.nodes import PORT, Node
from qa.report import Report

OUTER: Final = "192.0.2.{}"
"""Addresses on the LAN: the first host has 1."""
GATEWAY: Final = "10.66.0.1"
FAULTS: Final = {
    "rotation-off": "no node rotates its keys",
    "allowlist-ignored": "listeners let everybody in",
    "peer-drops": "every dialer loses one in twenty of the records that it sends",
    "stays-cut": "whatever is interrupted stays cut off",
}
_NEVER = 3600  # the longest rotation interval that there is

Metrics = dict[tuple[str, frozenset[tuple[str, str]]], float]


class Notifications:
    """The socket to which a node sends its sd_notify messages, in place of systemd."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        path.chmod(0o666)  # a container's node has another user

    def wait(self, line: str, timeout: float = 15.0) -> float:
        """When a message with this line came, by the monotonic clock; CommandError if it does not come."""
        end = time.monotonic() + timeout
        while (left := end - time.monotonic()) > 0:
            self._socket.settimeout(left)
            try:
                if line in self._socket.recv(4096).decode().split("\n"):
                    return time.monotonic()
            except TimeoutError:
                break
        raise CommandError(f"no {line} within {timeout} s")

    def forget(self) -> None:
        """Throws away what has come so far."""
        self._socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(4096)

    def close(self) -> None:
        self._socket.close()


class Site:
    """Hosts and nodes of one scenario; leaving it removes all of them. ``sandbox.enter`` must have succeeded."""

    runtime = "netns"

    def __init__(self, directory: Path, fault: str | None = None) -> None:
        """Logs, identities and sockets are kept in ``directory``, whose path must be short (sockets)."""
        self.directory: Final = directory
        self.fault: Final = fault
        self.nodes: list[Node] = []
        self.notifications: dict[str, Notifications] = {}
        self.builds: dict[str, dict[str, str]] = {}
        """By node, what ran there when its metrics were last read."""
        self.lab = self._make_lab()

    def _make_lab(self) -> Lab:
        return Lab(self.directory)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stops all nodes and removes all hosts."""
        for notifications in self.notifications.values():
            notifications.close()
        self.lab.close()

    # ---- making it ----

    def hosts(self, *names: str) -> list[Namespace]:
        """Hosts on a LAN of their own, with the addresses 192.0.2.1, 2, ..."""
        hosts = [self.lab.namespace(name) for name in names]
        self.lab.switch("switch", {host: [OUTER.format(number) + "/24"] for number, host in enumerate(hosts, start=1)})
        return hosts

    def node(self, host: Namespace, *flags: str, notify: bool = False) -> Node:
        """A node that is not yet started; with ``notify`` its messages to systemd can be waited for."""
        path = self.directory / f"{host.name}.notify"
        node = self._make_node(host, flags, {"NOTIFY_SOCKET": str(path)} if notify else {})
        if notify:
            self.notifications[node.name] = Notifications(path)
        self.nodes.append(node)
        return node

    def _make_node(self, host: Namespace, flags: tuple[str, ...], env: Mapping[str, str]) -> Node:
        return Node(host, *flags, env=env)

    def listener(self, host: Namespace, *allowed: Node, flags: tuple[str, ...] = (), notify: bool = False) -> Node:
        """A listener that lets those nodes in, started and ready."""
        node = self.node(host, "--listen", f"/ip4/0.0.0.0/udp/{PORT}/quic-v1", "--tun-address", f"{GATEWAY}/24", *flags,
                         notify=notify)  # fmt: skip
        for peer in allowed:
            node.arguments += ["--allow-peer", peer.peer_id]
        if self.fault == "allowlist-ignored":
            node.arguments.append("--allow-any")
        node.start().wait_event("listener_ready", timeout=30)
        return node

    def dial(self, *dialers: Node, listener: Node) -> None:
        """Starts the dialers and waits until all of them are connected."""
        self.start_dialling(*dialers, listener=listener)
        for dialer in dialers:
            dialer.wait_event("peer_connected", timeout=30)
            listener.wait_event("peer_connected", peer_id=dialer.peer_id)

    def start_dialling(self, *dialers: Node, listener: Node) -> None:
        """Starts the dialers."""
        for dialer in dialers:
            dialer.arguments += ["--peer", listener.multiaddr(OUTER.format(1))]
            if self.fault == "peer-drops":
                # Data records begin with 1; everything else on the port is QUIC.
                self._filter(dialer.namespace, "output", f"udp dport {PORT} @th,64,8 1 numgen inc mod 20 0 drop")
            dialer.start()

    def rotate_every(self, seconds: int) -> tuple[str, str]:
        """The flags of a node that rotates its keys so often."""
        return "--rotate-secs", str(_NEVER if self.fault == "rotation-off" else seconds)

    def check_nodes(self, report: Report) -> None:
        """Checks what only this runtime has."""

    # ---- interrupting ----

    def cut(self, host: Namespace) -> None:
        """Cuts a host off the LAN: nothing comes in or goes out on the tunnel's port."""
        for hook in ("input", "output"):
            for side in ("sport", "dport"):
                self._filter(host, hook, f"udp {side} {PORT} drop")

    def restore(self, host: Namespace) -> None:
        """Undoes ``cut``."""
        if self.fault != "stays-cut":
            host.run("nft", "delete table inet qa")

    def interrupted(self, host: Namespace) -> None:
        """To be called when a host was interrupted in another way than by ``cut``."""
        if self.fault == "stays-cut":
            self.cut(host)

    @staticmethod
    def _filter(host: Namespace, hook: str, rule: str) -> None:
        host.run("nft", "add table inet qa")
        host.run("nft", f"add chain inet qa {hook} {{ type filter hook {hook} priority 0; }}")
        host.run("nft", f"add rule inet qa {hook} {rule}")

    # ---- evidence ----

    def metrics(self, moment: str) -> dict[str, Metrics]:
        """The metrics of every node that runs, by its name; kept as files too, named after the moment."""
        found = {}
        for node in self.nodes:
            if node.process is not None and node.process.running:
                (self.directory / f"metrics-{moment}-{node.name}.prom").write_text(node.http("/metrics")[1])
                found[node.name] = node.metrics()
                self.builds[node.name] = next(dict(labels) for name, labels in found[node.name] if name == "build_info")
        return found

    def check_logs(self, report: Report) -> None:
        """No node has met an error of its own, in any of its runs; some are mended so fast that nothing else shows."""
        for path in sorted(self.directory.glob("node-*.log")):
            lines = path.read_text(errors="replace").splitlines()
            found = [line for line in lines if '"event": "internal_error"' in line or line.startswith("Traceback")]
            report.equal(f"internal errors in {path.name}", found, [])

    def keep_evidence(self, output: Path) -> None:
        """Copies logs and metrics, and nothing that is secret."""
        for path in sorted(self.directory.iterdir()):
            if path.suffix in (".log", ".prom"):
                shutil.copy(path, output / path.name)


def inside(node: Node) -> str:
    """A dialer's address in the tunnel, IPv4; CommandError if it has none."""
    for line in node.namespace.ip("-o -4 address show dev cryprq0").splitlines():
        return line.split()[3].partition("/")[0]
    raise CommandError(f"{node.name} has no address in the tunnel")


def drops(metrics: Metrics) -> dict[str, int]:
    """The drop counters that are not 0, as ``direction reason``."""
    return {
        " ".join(dict(labels)[key] for key in ("direction", "reason")): int(value)
        for (name, labels), value in metrics.items()
        if name == "dropped_packets_total" and value
    }


def total(metrics: Metrics, name: str, **labels: str) -> float:
    """The sum of the samples with that name and these labels."""
    return sum(value for (found, have), value in metrics.items() if found == name and labels.items() <= set(have))
