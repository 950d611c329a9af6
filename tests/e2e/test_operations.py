"""docs/operations.md and docs/troubleshooting.md keep their word: every symptom is seen when its cause is there, every
metric, event, flag, variable and file that they name exists, and every metric and event that there is has its place."""

import ast
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from ctypes.util import find_library

import pytest

from cryprq.config.command_line import parser
from cryprq.config.node_config import NodeConfig
from cryprq.config.psk_file import create_psk
from cryprq.protocol.identity import Identity
from cryprq.registry.sqlite import registry_path
from cryprq.telemetry.metrics import Metrics
from lab import ROOT
from lab.hosts import Lab, Namespace, tmpfs
from lab.nodes import PORT, PROGRAMS, Node
from lab.tunnels import GATEWAY, LISTEN_FLAGS, OUTER, listen_address, make_tunnel

TROUBLE = (ROOT / "docs" / "troubleshooting.md").read_text()
TEXT = (ROOT / "docs" / "operations.md").read_text() + TROUBLE
ADDRESS = f"/ip4/{OUTER[4][0]}/udp/{PORT}/quic-v1"
THIRD = "x25519-mlkem768-frodokem976aes"
LOGFMT = ("--log-format", "logfmt")
"""As operators read it, and as the table quotes it."""


def symptoms() -> list[str]:
    """The first columns of the tables of symptoms."""
    tables = TROUBLE.split("| Symptom |")[1:]
    return [row for table in tables for row in re.findall(r"^\| ([^|]+) \|", table.split("\n\n")[0], re.MULTILINE)]


def hosts(lab: Lab) -> tuple[Namespace, Namespace]:
    here, there = lab.namespace("listener"), lab.namespace("dialer")
    lab.veth(here, [f"{OUTER[4][0]}/24"], there, [f"{OUTER[4][1]}/24"])
    return here, there


def wait_line(node: Node, text: str) -> None:
    end = time.monotonic() + 15
    while not any(text in line for line in node.lines()):
        assert time.monotonic() < end, f"{node.name} has not said {text}"
        time.sleep(0.02)


def run(lab: Lab, *flags: str, prefix: tuple[str, ...] = ()) -> str:
    """A node that cannot start: what it prints, and its exit status in the table's words."""
    command = [*prefix, str(PROGRAMS / "cryprq-node"), "--identity", str(lab.directory / "other.identity"), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert len(done.stderr.splitlines()) == 1
    return f"{done.stderr} exit status {done.returncode}"


def provoke_silence(lab: Lab) -> str:
    here, there = hosts(lab)
    listener = Node(here, "--listen", listen_address(4), *LISTEN_FLAGS).start()
    listener.wait_event("listener_ready")
    here.run("nft", "add table inet cut")
    here.run("nft", "add chain inet cut input { type filter hook input priority 0; }")
    here.run("nft", f"add rule inet cut input udp dport {PORT} drop")
    dialer = Node(there, "--peer", listener.multiaddr(OUTER[4][0]), *LOGFMT).start()
    wait_line(dialer, "event=transport_error")
    line = next(line for line in dialer.lines() if "event=transport_error" in line)
    assert "hint=" in line and "UDP" in line
    return line


def provoke_denial(lab: Lab) -> str:
    here, there = hosts(lab)
    dialer = Node(there, *LOGFMT)
    listener = Node(here, "--listen", listen_address(4), *LISTEN_FLAGS, *LOGFMT).start()
    wait_line(listener, "event=listener_ready")
    dialer.arguments += ["--peer", listener.multiaddr(OUTER[4][0])]
    dialer.start()
    wait_line(listener, f"event=peer_denied peer_id={dialer.peer_id}")
    wait_line(dialer, "reason=refused")
    assert listener.metric("peers_denied_total") >= 1
    assert f"--allow-peer {dialer.peer_id}" in dialer.running().output()  # the hint can be pasted
    return listener.running().output() + dialer.running().output()


def provoke_missing_id(lab: Lab) -> str:
    return run(lab, "--peer", ADDRESS)


def provoke_bad_multiaddr(lab: Lab) -> str:
    return run(lab, "--peer", f"{OUTER[4][0]}:{PORT}")


class Version1(Node):
    """A node as far as anybody sees from whom its protocol keeps away: it offers the ALPN of version 1."""

    def command(self) -> Sequence[str]:
        program = "from cryprq.quic import adapter; from cryprq.cli import node; adapter.ALPN = 'cryprq/1'; node.main()"
        return [sys.executable, "-c", program]


def provoke_other_version(lab: Lab) -> str:
    here, there = hosts(lab)
    listener = Node(here, "--listen", listen_address(4), *LISTEN_FLAGS, "--allow-any", *LOGFMT).start()
    wait_line(listener, "event=listener_ready")
    dialer = Version1(there, "--peer", listener.multiaddr(OUTER[4][0]), *LOGFMT).start()
    wait_line(dialer, "the peer does not speak")
    wait_line(listener, "reason=version")
    assert listener.metric("handshakes_failed_total", reason="version") >= 1
    return listener.running().output() + dialer.running().output()


def provoke_other_psk(lab: Lab) -> str:
    tunnel = make_tunnel(lab, listen=LOGFMT, dial=LOGFMT, up=False)
    create_psk(lab.directory / "psk")
    tunnel.listener.start("--psk-file", f"{tunnel.dialer.peer_id}={lab.directory / 'psk'}")
    wait_line(tunnel.listener, "event=listener_ready")
    tunnel.dialer.start()
    for node in (tunnel.listener, tunnel.dialer):
        wait_line(node, "reason=psk")
        assert "the pre-shared key differs" in node.running().output()
    return tunnel.listener.running().output()


def provoke_other_kem(lab: Lab) -> str:
    tunnel = make_tunnel(lab, listen=(*LOGFMT, "--kem", "x25519-mlkem1024"), dial=LOGFMT, up=False)
    tunnel.listener.start()
    wait_line(tunnel.listener, "event=listener_ready")
    tunnel.dialer.start()
    wait_line(tunnel.dialer, "reason=refused")
    wait_line(tunnel.listener, "reason=kem")
    return tunnel.listener.running().output() + tunnel.dialer.running().output()


def provoke_no_liboqs(lab: Lab) -> str:
    if find_library("oqs") is not None:
        pytest.skip("this machine has a liboqs where the linker finds it")
    elsewhere = ("env", f"OQS_INSTALL_PATH={lab.directory}")
    return run(lab, "--peer", f"{ADDRESS}/p2p/{Identity.generate().peer_id}", "--kem", THIRD, prefix=elsewhere)


def provoke_wrong_id(lab: Lab) -> str:
    here, there = hosts(lab)
    dialer = Node(there, "--peer", f"{ADDRESS}/p2p/{Identity.generate().peer_id}", *LOGFMT)
    debug = ("--log-level", "debug")
    listener = Node(here, "--listen", listen_address(4), *LISTEN_FLAGS, "--allow-peer", dialer.peer_id, *LOGFMT, *debug)
    listener.start()
    wait_line(listener, "event=listener_ready")
    dialer.start()
    wait_line(dialer, "reason=refused")
    wait_line(listener, "reason=knock")
    return listener.running().output() + dialer.running().output()


def provoke_identity_in_use_twice(lab: Lab) -> str:
    here, there, copy = (lab.namespace(name) for name in ("listener", "dialer", "copy"))
    where = {here: [f"{OUTER[4][0]}/24"], there: [f"{OUTER[4][1]}/24"], copy: ["192.0.2.9/24"]}
    lab.switch("switch", where)
    dialers = [Node(there, *LOGFMT)]
    dialers.append(Node(copy, "--identity", str(dialers[0].identity), *LOGFMT))
    allow = ("--allow-peer", dialers[0].peer_id)
    listener = Node(here, "--listen", listen_address(4), *LISTEN_FLAGS, *allow, *LOGFMT).start()
    wait_line(listener, "event=listener_ready")
    for dialer in dialers:
        dialer.start("--peer", listener.multiaddr(OUTER[4][0]))
    wait_line(listener, "event=identity_in_use_twice")
    line = next(line for line in listener.lines() if "event=identity_in_use_twice" in line)
    assert dialers[0].peer_id in line and OUTER[4][1] in line and "192.0.2.9" in line
    assert listener.metric("identity_in_use_twice_total") >= 1
    before = listener.metric("handshakes_success_total")
    time.sleep(5)
    assert listener.metric("handshakes_success_total") - before < 10
    return line


def provoke_port_in_use(lab: Lab) -> str:
    here = lab.namespace("listener")
    Node(here, "--listen", listen_address(4), *LISTEN_FLAGS).start().wait_event("listener_ready")
    with here.entered():
        return run(lab, "--listen", listen_address(4), "--tun-name", "other0", "--tun-address", "10.67.0.1/24")


def provoke_no_right(lab: Lab) -> str:
    without = ("setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin", "--")
    with lab.namespace("listener").entered():
        return run(lab, "--listen", listen_address(4), *LISTEN_FLAGS, prefix=without)


def provoke_lost_tun(lab: Lab) -> str:
    node = Node(lab.namespace("listener"), "--listen", listen_address(4), *LISTEN_FLAGS, *LOGFMT).start()
    wait_line(node, "event=listener_ready")
    node.namespace.ip("link delete cryprq0")
    wait_line(node, "event=node_failed")
    status, reason = node.http("/healthz")
    assert "TUN" in reason
    return f"{node.running().output()} {status} from `/healthz`"


def provoke_full_disk(lab: Lab) -> str:
    state = lab.directory / "state"
    with tmpfs(state, "size=4k"):  # the identity fills it
        flags = ("--listen", listen_address(4), *LISTEN_FLAGS, "--allow-any", *LOGFMT)
        node = Node(lab.namespace("listener"), *flags).start("--identity", str(state / "identity"))
        wait_line(node, "event=node_failed")
        status, reason = node.http("/healthz")
        assert "No space left" in reason
        node.stop()
    return f"{node.running().output()} {status} from `/healthz`"


def provoke_route_failed(lab: Lab) -> str:
    here = lab.namespace("listener")
    here.ip("link add cafe type bridge")
    here.ip("link set cafe up")
    here.ip("address add 192.168.50.7/24 dev cafe")
    owner = f"{Identity.generate().peer_id}=192.168.50.0/24"
    node = Node(here, "--listen", listen_address(4), *LISTEN_FLAGS, "--allow-peer", owner, *LOGFMT).start()
    wait_line(node, "event=route_failed")
    wait_line(node, "event=node_failed")
    status, reason = node.http("/healthz")
    assert "network of cafe" in reason
    here.ip("link delete cafe")
    wait_line(node, "event=route_restored")
    return f"{node.running().output()} {status} from `/healthz`"


def provoke_forwarding_off(lab: Lab) -> str:
    here = lab.namespace("listener")
    here.sysctl("net.ipv4.ip_forward", 0)
    node = Node(here, "--listen", listen_address(4), *LISTEN_FLAGS, "--route", "10.9.0.0/24", *LOGFMT).start()
    wait_line(node, "event=forwarding_off")
    assert "net.ipv4.ip_forward" in node.running().output()
    return node.running().output()


def provoke_debug_logs(lab: Lab) -> str:
    tunnel = make_tunnel(lab)
    assert not [event for event in tunnel.dialer.events() if event["level"] == "debug"]
    seen = ""
    for variable in ("RUST_LOG", "CRYPRQ_LOG"):
        dialer = tunnel.dialer
        dialer.stop()
        dialer.env |= {"RUST_LOG": "info", variable: "debug"}
        dialer.start(*LOGFMT)
        wait_line(dialer, "event=handshake_complete")
        last = "\n".join(dialer.lines())
        assert "level=debug" in last, variable
        seen += last
    assert dialer.namespace.measure("ping", GATEWAY[4], count=1, timeout=5.0)["received"] == 1
    return seen


def provoke_damaged_registry(lab: Lab) -> str:
    node = Node(lab.namespace("listener"), "--listen", listen_address(4), *LISTEN_FLAGS, *LOGFMT)
    path = registry_path(node.identity, "cryprq0")
    path.write_bytes(b"SQLite format 3\0" + bytes(8000))
    path.chmod(0o600)
    status = node.start().running().wait()
    assert str(path) in node.running().output()
    return f"{node.running().output().replace(str(path), '...')}, exit status {status}"


PROVOKE: list[Callable[[Lab], str]] = [
    provoke_missing_id,
    provoke_bad_multiaddr,
    provoke_no_liboqs,
    provoke_port_in_use,
    provoke_no_right,
    provoke_damaged_registry,
    provoke_silence,
    provoke_denial,
    provoke_other_version,
    provoke_other_psk,
    provoke_other_kem,
    provoke_wrong_id,
    provoke_identity_in_use_twice,
    provoke_lost_tun,
    provoke_full_disk,
    provoke_route_failed,
    provoke_debug_logs,
    provoke_forwarding_off,
]
"""One for each row, in order."""


def test_every_row_has_its_test() -> None:
    assert len(symptoms()) == len(PROVOKE)


@pytest.mark.parametrize("row", range(len(PROVOKE)), ids=[provoke.__name__ for provoke in PROVOKE])
def test_symptom_of_the_table_is_seen(lab: Lab, row: int) -> None:
    symptom = symptoms()[row]
    seen = PROVOKE[row](lab)
    quoted = [word for word in re.findall(r"`([^`]+)`", symptom) if not word.startswith(("/", "--"))]
    assert quoted
    for word in [*quoted, *re.findall(r"exit status \d", symptom), *re.findall(r"503 from", symptom)]:
        assert word in seen, word


def test_metrics_that_are_named_are_those_that_there_are() -> None:
    metrics = Metrics(peers=lambda: (), drops=dict, offloads=dict)
    exposed = metrics.render()[0].decode()
    families = set(re.findall(r"^# TYPE (\S+)", exposed, re.MULTILINE))
    named = set(re.findall(r"\bcryprq_[a-z_]+\b", TEXT))
    assert len(named) >= 15
    assert named == families


def logged(source: str) -> set[str]:
    """The events that a source gives to the log, whatever it does so by: ``log.info("name", ...)``,
    ``self._log.limited("error", "name", ...)``, ``(log.debug if again else log.info)("name", ...)``; or one of a
    table's, ``log.info(NAMES[kind], ...)``."""
    module = ast.parse(source)
    tables = {
        ast.unparse(each.target): {ast.unparse(value).strip("'") for value in each.value.values}
        for each in module.body
        if isinstance(each, ast.AnnAssign) and isinstance(each.value, ast.Dict)
    }
    found: set[str] = set()
    for call in (node for node in ast.walk(module) if isinstance(node, ast.Call)):
        functions = [call.func.body, call.func.orelse] if isinstance(call.func, ast.IfExp) else [call.func]
        names = {function.attr for function in functions if isinstance(function, ast.Attribute)}
        on_log = all("log" in ast.unparse(function).rpartition(".")[0] for function in functions)
        if on_log and names & {"debug", "info", "warning", "error"}:
            name = call.args[0]
        elif on_log and names & {"limited", "defect"}:
            name = call.args[1]
        else:
            continue
        found |= tables[ast.unparse(name.value)] if isinstance(name, ast.Subscript) else {ast.unparse(name).strip("'")}
    return found


def test_every_event_has_its_place() -> None:
    sources = (path.read_text() for path in (ROOT / "cryprq").rglob("*.py") if path.name != "logs.py")
    events = {"library_message"}.union(*map(logged, sources))
    assert {"node_started", "dial_started", "internal_error"} < events
    pages = TEXT + (ROOT / "docs" / "debugging.md").read_text()
    assert {event for event in events if f"`{event}`" not in pages} == set()


def test_events_that_are_named_exist() -> None:
    source = "".join(path.read_text() for path in (ROOT / "cryprq").rglob("*.py"))
    section = TEXT.split("\n## Observability\n")[1].split("**Metrics**")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    for event in re.findall(r"`(\w+)`", "".join(rows)):
        assert f'"{event}"' in source, event


def test_variables_that_are_named_exist() -> None:
    places = [
        *(ROOT / "cryprq").rglob("*.py"),
        *(path for folder in ("scripts", "qa", "release") for path in (ROOT / folder).rglob("*.*")),
        ROOT / "finish_qa_and_package.sh",
    ]
    source = "".join(path.read_text() for path in places if path.suffix in (".py", ".sh"))
    for variable in re.findall(r"`(?:VERSION=\S+ )?([A-Z]+_[A-Z_]+)`", TEXT):
        assert variable.removeprefix("CRYPRQ_") in source, variable


def test_files_that_are_named_exist() -> None:
    named = re.findall(r"(?:\./)?((?:scripts|tests|deploy|qa|release|lab)/[\w./-]+\.\w+)", TEXT)
    named += [f"docs/{target}" for target in re.findall(r"\]\(([^)#]+)\)", TEXT)]
    assert len(named) > 8
    for name in sorted({*named, "finish_qa_and_package.sh"}):
        assert (ROOT / name).exists(), name


def test_flags_of_the_node_that_are_named_exist(capsys: pytest.CaptureFixture[str]) -> None:
    known = {"--cap-drop", "--cap-add", "--device", "--scenario", "--output", "--runtime", "--self-test", "--list"}
    known |= {"--all", "--json", "--out", "--signature", "--signal", "--suite", "--fail-with-body"}
    known |= {"--watch", "--name", "--networks", "--groups", "--expires", "--update", "--kills"}
    known |= {"--qr", "--address", "--id", "--withdraw", "--no-start"}
    with pytest.raises(SystemExit):
        parser(NodeConfig).parse_args(["--help"])
    known |= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    assert set(re.findall(r"--[a-z][a-z-]+", TEXT)) <= known
