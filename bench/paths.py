"""The ways between two hosts that are compared: the bare cable, CrypRQ, and other tunnels in userspace.

Every tunnel runs with its default settings, in the two namespaces, over the same cable. Another one is one more class
and a line in ``PEERS``.
"""

import abc
import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from bench.loads import Ends
from lab.hosts import CommandError, Namespace, Process
from lab.nodes import PORT, Node

LEFT, RIGHT = "192.0.2.1", "192.0.2.2"
"""Of the cable."""

Result = dict[str, Any]
Networks = tuple[str, str]
"""Behind the left host and behind the right one: a tunnel that knows of them routes between them, too."""


class Way(Protocol):
    """A way between the left host and the right one."""

    pids: Sequence[int]
    """Of the tunnel's processes, one an end."""

    def up(self, left: Namespace, right: Namespace) -> Ends:
        """Brings it up; called once, before the first round, and it stays up. CommandError if it does not come."""

    def facts(self) -> Result:
        """What to note beside the figures, asked after the last round."""


class Bare:
    """The cable itself."""

    pids: Sequence[int] = ()

    def up(self, left: Namespace, right: Namespace) -> Ends:
        return Ends(left, right, LEFT, RIGHT)

    def facts(self) -> Result:
        return {}


class _OtherBuild(Node):
    """A node of the package in another directory, run by this interpreter."""

    package: Path

    def command(self) -> Sequence[str]:
        code = "import sys; from cryprq.cli.node import main; sys.exit(main())"
        self.env["PYTHONPATH"] = str(self.package)
        return [sys.executable, "-P", "-c", code]


def inner_address(host: Namespace) -> str:
    """What a dialer of a gateway in 10.66.0.0/24 was given."""
    links = json.loads(host.ip("-j -4 address show"))
    found: list[str] = [address["local"] for link in links for address in link["addr_info"]]
    return next(address for address in found if address.startswith("10.66.0."))


class Cryprq:
    """A listener and a dialer, default settings but for the given flags; of another checkout if one is given."""

    address, routed = "10.66.0.1", "10.66.0.2"
    """Of the listener; and of a dialer with a network behind it, which is not given one."""

    def __init__(
        self,
        *flags: str,
        package: Path | None = None,
        env: Mapping[str, str] | None = None,
        networks: Networks | None = None,
    ) -> None:
        self.flags = flags
        self.package = package
        self.env = dict(env or {})
        self.networks = networks
        self.pids: Sequence[int] = ()

    def node(self, host: Namespace) -> Node:
        if self.package is None:
            return Node(host, *self.flags, env=self.env)
        node = _OtherBuild(host, *self.flags, env=self.env)
        node.package = self.package
        return node

    def up(self, left: Namespace, right: Namespace) -> Ends:
        self.dialer, self.listener = self.node(right), self.node(left)
        self.listener.arguments += ["--listen", f"/ip4/0.0.0.0/udp/{PORT}/quic-v1"]
        self.listener.arguments += ["--tun-address", f"{self.address}/24"]
        allowed = self.dialer.peer_id
        if self.networks is not None:
            allowed += f"={self.routed}/32,{self.networks[1]}"
            self.listener.arguments += ["--route", self.networks[0]]
            self.dialer.arguments += ["--tun-address", f"{self.routed}/24"]
        self.listener.arguments += ["--allow-peer", allowed]
        self.dialer.arguments += ["--peer", self.listener.multiaddr(LEFT)]
        self.listener.start().wait_event("listener_ready")
        self.done = self.dialer.start().wait_event("handshake_complete", timeout=15)
        self.dialer.wait_event("peer_connected")
        self.pids = [self.listener.running().pid, self.dialer.running().pid]
        return Ends(left, right, self.address, inner_address(right))

    def facts(self) -> Result:
        drops = [node.metric("dropped_packets_total") for node in (self.listener, self.dialer)]
        return {
            "flags": list(self.flags),
            "env": self.env,
            "aead": self.done["aead"],
            "kem": self.done["kem"],
            "handshake_ms": self.done["duration_ms"],
            "dropped_packets": sum(drops),
        }


def _version(*command: str) -> str:
    """What a program says of its version on its first line, without a list of features in brackets."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].split(" [")[0].strip() if lines else "unknown"


def _install(host: Namespace, device: str, mine: str, theirs: str, routed: Sequence[str]) -> None:
    """Address and routes of a WireGuard interface, as wg-quick sets them."""
    host.ip(f"link set {device} mtu 1420")
    host.ip(f"address add {mine} peer {theirs} dev {device}")
    host.ip(f"link set {device} up")
    for network in routed:
        host.ip(f"route add {network} dev {device}")


class WireGuard(abc.ABC):
    """A userspace WireGuard, set up by ``wg`` through its socket in /run/wireguard."""

    networks: Networks | None = None

    def __init__(self, program: str, name: str, number: int) -> None:
        self.program, self.name = program, name
        self.addresses = (f"10.{number}.0.1", f"10.{number}.0.2")
        self.port = 51000 + number
        self.pids: Sequence[int] = ()

    @abc.abstractmethod
    def flags(self) -> Sequence[str]:
        """What the program takes before the device's name."""

    def up(self, left: Namespace, right: Namespace) -> Ends:
        Path("/run/wireguard").mkdir(exist_ok=True)
        hosts = [left, right]
        devices = [f"{self.name[:9]}{index}" for index in range(2)]
        secrets = [left.run("wg", "genkey").strip() for _ in hosts]
        publics = [left.run("sh", "-c", f"echo {secret} | wg pubkey").strip() for secret in secrets]
        processes: list[Process] = []
        for index, host in enumerate(hosts):
            other, device = 1 - index, devices[index]
            program = host.start(f"{self.name}-{host.name}", self.program, *self.flags(), device)
            processes.append(program)
            self._wait(program, Path(f"/run/wireguard/{device}.sock"))
            routed = [] if self.networks is None else [self.networks[other]]
            key = host.directory / f"{device}.key"
            key.write_text(secrets[index] + "\n")
            host.run("wg", "set", device, "listen-port", str(self.port), "private-key", str(key),
                     "peer", publics[other], "allowed-ips", ",".join([f"{self.addresses[other]}/32", *routed]),
                     "endpoint", f"{(LEFT, RIGHT)[other]}:{self.port}")  # fmt: skip
            _install(host, device, self.addresses[index], self.addresses[other], routed)
        self.pids = [process.pid for process in processes]
        right.measure("ping", self.addresses[0], count=3)
        return Ends(left, right, *self.addresses)

    @staticmethod
    def _wait(program: Process, socket: Path) -> None:
        for _ in range(500):
            if socket.exists():
                return
            if not program.running:
                break
            try:
                program.wait(0.01)
            except subprocess.TimeoutExpired:
                pass
        raise CommandError(f"{program.name} has no {socket}:\n{program.output()}")

    def facts(self) -> Result:
        return {"version": _version(self.program, "--version")}


class WireGuardGo(WireGuard):
    def flags(self) -> Sequence[str]:
        return ["-f"]


class Boringtun(WireGuard):
    def flags(self) -> Sequence[str]:
        return ["--foreground", "--disable-drop-privileges"]


class Gotatun(Boringtun):
    """The fork of boringtun: the same flags."""


class Nebula:
    """Two Nebula hosts of one certificate authority, the left one known to the right one by its address."""

    def __init__(self, program: str, name: str, number: int) -> None:
        self.program, self.name = program, name
        self.addresses = (f"10.{number}.0.1", f"10.{number}.0.2")
        self.pids: Sequence[int] = ()

    def up(self, left: Namespace, right: Namespace) -> Ends:
        files = left.directory
        tool = str(Path(self.program).with_name("nebula-cert"))
        authority = ["-ca-crt", str(files / "nebula.crt"), "-ca-key", str(files / "nebula.key")]
        left.run(tool, "ca", "-name", "bench", "-out-crt", authority[1], "-out-key", authority[3])
        processes = []
        for index, host in enumerate((left, right)):
            own = files / f"nebula{index}"
            left.run(tool, "sign", *authority, "-name", host.name, "-networks", f"{self.addresses[index]}/24",
                     "-out-crt", f"{own}.crt", "-out-key", f"{own}.key")  # fmt: skip
            anything = [{"port": "any", "proto": "any", "host": "any"}]
            settings = {
                "pki": {"ca": authority[1], "cert": f"{own}.crt", "key": f"{own}.key"},
                "static_host_map": {self.addresses[0]: [f"{LEFT}:{PORT + 1}"]},
                "lighthouse": {"am_lighthouse": index == 0, "hosts": [self.addresses[0]] if index else []},
                "listen": {"host": (LEFT, RIGHT)[index], "port": PORT + 1},
                "tun": {"dev": f"nebula{index}"},
                "firewall": {"outbound": anything, "inbound": anything},
            }
            own.with_suffix(".json").write_text(json.dumps(settings))  # which is YAML, too
            processes.append(host.start(f"{self.name}-{host.name}", self.program, "-config", f"{own}.json"))
        self.pids = [process.pid for process in processes]
        trip = right.measure("await_ping", self.addresses[0], seconds=10)
        if trip["seconds"] is None:
            raise CommandError(f"{self.name} has no tunnel:\n{processes[1].output()}")
        return Ends(left, right, *self.addresses)

    def facts(self) -> Result:
        return {"version": _version(self.program, "-version").removeprefix("Version: ")}


class OpenVpn:
    """Two OpenVPN processes, point to point, with TLS and certificates known by their fingerprints."""

    def __init__(self, program: str, name: str, number: int) -> None:
        self.program, self.name = program, name
        self.addresses = (f"10.{number}.0.1", f"10.{number}.0.2")
        self.pids: Sequence[int] = ()

    def up(self, left: Namespace, right: Namespace) -> Ends:
        hosts = [left, right]
        prints = [self._certificate(host) for host in hosts]
        processes = []
        for index, host in enumerate(hosts):
            files = str(host.directory / f"{self.name}-{host.name}")
            processes.append(host.start(
                f"{self.name}-{host.name}", self.program, "--dev", f"ovpn{index}", "--dev-type", "tun",
                "--proto", "udp", "--disable-dco", "--verb", "3", *(["--dh", "none"] if index == 0 else []),
                "--tls-server" if index == 0 else "--tls-client", "--cert", files + ".pem", "--key", files + ".key",
                "--peer-fingerprint", prints[1 - index], "--remote", (RIGHT, LEFT)[index],
                "--ifconfig", self.addresses[index], self.addresses[1 - index],
            ))  # fmt: skip
        for process in processes:
            process.wait_for("Initialization Sequence Completed", 30)
        self.log = processes[0].output()
        self.pids = [process.pid for process in processes]
        right.measure("ping", self.addresses[0], count=3)
        return Ends(left, right, *self.addresses)

    def _certificate(self, host: Namespace) -> str:
        """Makes a self-signed one, and returns its SHA-256 as the program writes it."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host.name)])
        now = datetime.datetime.now(datetime.UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .sign(key, hashes.SHA256())
        )
        files = host.directory / f"{self.name}-{host.name}"
        files.with_suffix(".pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        secret = files.with_suffix(".key")
        secret.touch(0o600)
        secret.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        digest = hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).digest()
        return digest.hex(":").upper()

    def facts(self) -> Result:
        cipher = re.search(r"Data Channel: cipher '([^']+)'", self.log, re.IGNORECASE)
        return {"version": _version(self.program, "--version"), "cipher": cipher[1] if cipher else "unknown"}


PEERS: dict[str, Callable[[str, str, int], Way]] = {
    "wireguard-go": WireGuardGo,
    "gotatun": Gotatun,
    "boringtun-cli": Boringtun,
    "nebula": Nebula,
    "openvpn": OpenVpn,
}
"""Programs of other tunnels, and who runs them."""


def find_peers(programs: Sequence[str]) -> dict[str, Way]:
    """The tunnels of these programs (paths or names), else of all of ``PEERS`` that are on the PATH.

    A program is known by the first words of its file name, so that two versions of one can be compared.
    """
    found: dict[str, Way] = {}
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    for program in programs or PEERS:
        kinds = [kind for kind in PEERS if Path(program).name.startswith(kind)]
        file = shutil.which(program, path=path)
        if not kinds or file is None:
            if programs:
                raise CommandError(f"{program}: not a tunnel that is known here, or not found")
            continue
        needs = {"openvpn": file, "nebula": str(Path(file).with_name("nebula-cert"))}.get(kinds[0], "wg")
        if shutil.which(needs, path=path) is None:
            if programs:
                raise CommandError(f"{program} needs {Path(needs).name}")
            continue
        name = Path(program).name
        found[name] = PEERS[kinds[0]](file, name, 67 + len(found))
    return found
