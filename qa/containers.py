"""The scenarios' site with Docker: every host is a container that only sleeps, every node one that shares its network.

So a node can be stopped, killed and started again, by another image too, while addresses and connections of its host
live on. The harness reaches a host's network namespace by the container's process; this needs root. All that is made
here bears the label ``cryprq-qa`` with the number of this process.
"""

import atexit
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

from lab import ROOT
from lab.hosts import CommandError, Lab, Namespace
from lab.nodes import Node
from qa.report import Report
from qa.site import OUTER, Site

LABEL: Final = f"cryprq-qa={os.getpid()}"
USER_ID: Final = 9999
"""The image's user; identities and sockets are its own."""


def obstacle() -> str | None:
    """Why the scenarios cannot be run with Docker here, or None."""
    if shutil.which("docker") is None:
        return "no Docker: there is no docker program on the PATH; --runtime netns needs none"
    done = subprocess.run(["docker", "info"], capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        return f"no Docker engine answers ({reason}); --runtime netns needs none"
    if os.geteuid() != 0:
        return "not root: the traffic is made in the containers' network namespaces"
    name = os.environ.get("IMAGE")
    if name and subprocess.run(["docker", "image", "inspect", name], capture_output=True, timeout=30).returncode != 0:
        return f"no image {name}: release/build_image.sh builds it"
    return None


@cache
def image() -> str:
    """The image to run: $IMAGE, else one that is built now and removed when this process ends."""
    if name := os.environ.get("IMAGE"):
        return name
    name = f"cryprq:qa-{os.getpid()}"
    subprocess.run([str(ROOT / "release" / "build_image.sh"), name], check=True, stdout=sys.stderr)
    atexit.register(subprocess.run, ["docker", "image", "rm", "--force", name], stdout=subprocess.DEVNULL)
    return name


def docker(*arguments: str) -> str:
    """Runs ``docker ARGUMENTS``; its output, or CommandError."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise CommandError(f"docker {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout.strip()


class ContainerHost(Namespace):
    """A container that sleeps, its network namespace under a name that ``ip netns`` knows."""

    def __init__(self, lab: "DockerLab", name: str, address: str) -> None:
        self.name = f"cryprq-qa-{os.getpid()}-{name}"
        self._lab = lab
        docker(
            "run", "--detach", "--rm", "--name", self.name, "--label", LABEL, "--network", lab.network,
            "--ip", address, "--cap-drop", "ALL", "--entrypoint", "sleep", "--no-healthcheck", image(), "infinity",
        )  # fmt: skip
        process = docker("inspect", "--format", "{{.State.Pid}}", self.name)
        subprocess.run(["ip", "netns", "attach", self.name, process], check=True, timeout=10)


class DockerLab(Lab):
    """A Docker network in place of cables, containers in place of namespaces."""

    def __init__(self, directory: Path) -> None:
        """Nothing is unshared: the engine's socket is in this process's /run."""
        self.directory = directory
        self.counter = 0
        self.processes = []
        self.namespaces = []
        self.network = f"cryprq-qa-{os.getpid()}"
        docker("network", "create", "--label", LABEL, "--subnet", OUTER.format("0/24"),
               "--gateway", OUTER.format(254), self.network)  # fmt: skip

    def container(self, name: str, address: str) -> ContainerHost:
        """A new host."""
        host = ContainerHost(self, name, address)
        self.namespaces.append(host)
        return host

    def close(self) -> None:
        super().close()
        with contextlib.suppress(CommandError):
            for container in docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}").split():
                docker("rm", "--force", "--volumes", container)
            docker("network", "rm", self.network)


class ContainerNode(Node):
    """A node in a container that shares its host's network."""

    def __init__(self, namespace: Namespace, *arguments: str, name: str, env: Mapping[str, str]) -> None:
        self._given = dict(env)
        super().__init__(namespace, *arguments, name=name, env=env)
        os.chown(self.identity, USER_ID, USER_ID)
        self.container = f"{namespace.name}-node"

    def command(self) -> Sequence[str]:
        """``docker run`` in the foreground: it passes signals, output and exit status on."""
        environment = [word for name, value in self._given.items() for word in ("--env", f"{name}={value}")]
        return [
            "docker", "run", "--rm", "--name", self.container, "--label", LABEL,
            "--network", f"container:{self.namespace.name}", "--cap-drop", "ALL", "--cap-add", "NET_ADMIN",
            "--cap-add", "SETUID", "--cap-add", "SETGID", "--device", "/dev/net/tun",
            "--volume", f"{self.directory}:{self.directory}", "--health-interval", "1s", *environment, image(),
        ]  # fmt: skip

    def tool(self, *arguments: str) -> str:
        """The tool of the image, in the running container."""
        return docker("exec", "--user", "cryprq", self.container, "cryprq", *arguments, "--control-socket",
                      str(self.control))  # fmt: skip

    def status(self) -> Any:
        """By the tool of the image, too."""
        return json.loads(self.tool("status", "--json"))

    def container_health(self) -> str:
        """What the image's health check says: ``starting``, ``healthy`` or ``unhealthy``."""
        return docker("inspect", "--format", "{{.State.Health.Status}}", self.container)

    def credentials(self) -> dict[str, str]:
        """User and capabilities of the node's process."""
        lines = Path(f"/proc/{self._process()}/status").read_text().splitlines()
        fields = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        return {key: fields[key].split()[0] for key in ("Uid", "Gid", "CapEff", "CapPrm", "NoNewPrivs")}

    def rss_kib(self) -> int:
        for line in Path(f"/proc/{self._process()}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise CommandError(f"{self.name} has ended")

    def kill(self) -> None:
        docker("kill", "--signal", signal.SIGKILL.name, self.container)
        self.running().wait()

    def _process(self) -> int:
        return int(json.loads(docker("inspect", self.container))[0]["State"]["Pid"])


class DockerSite(Site):
    """Hosts and nodes as containers of one Docker network."""

    runtime = "docker"
    lab: DockerLab

    def _make_lab(self) -> Lab:
        # Nodes make their admin sockets here, and the harness its own files.
        os.chown(self.directory, USER_ID, USER_ID)
        return DockerLab(self.directory)

    def hosts(self, *names: str) -> list[Namespace]:
        return [self.lab.container(name, OUTER.format(number)) for number, name in enumerate(names, start=1)]

    def check_nodes(self, report: Report) -> None:
        """The image's own health check, and that the node has no right but the one that it needs."""
        for node in self.nodes:
            assert isinstance(node, ContainerNode)
            end = time.monotonic() + 20
            while node.container_health() == "starting" and time.monotonic() < end:
                time.sleep(0.2)
            report.equal(f"health of {node.name}'s container", node.container_health(), "healthy")
            found = node.credentials()
            report.equal(f"user of {node.name}", (found["Uid"], found["Gid"]), (str(USER_ID), str(USER_ID)))
            report.equal(f"capabilities of {node.name}: NET_ADMIN", int(found["CapPrm"], 16), 1 << 12)
            report.equal(f"no new privileges for {node.name}", found["NoNewPrivs"], "1")
            report.equal(f"`cryprq status` in {node.name}'s container", json.loads(node.tool("status", "--json"))
                         ["peer_id"], node.peer_id)  # fmt: skip

    def _make_node(self, host: Namespace, flags: tuple[str, ...], env: Mapping[str, str]) -> Node:
        return ContainerNode(host, *flags, name=_node_name(host), env=env)


def _node_name(host: Namespace) -> str:
    """Without this process's number, so that evidence has the same names whatever the runtime."""
    return "node-" + host.name.split("-", 3)[3]
