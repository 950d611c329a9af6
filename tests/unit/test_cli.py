"""The two programs as their users meet them: exit statuses, and one line on stderr for whatever is wrong."""

import asyncio
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

import pytest

from cryprq.cli import node as node_program
from cryprq.cli import run_program, tool
from cryprq.config.identity_file import create_identity, load_identity
from cryprq.config.node_config import NodeConfig
from cryprq.config.options import table
from cryprq.config.peer_files import PeerFiles
from cryprq.errors import ConfigError, MachineError
from cryprq.peer_id import PeerId
from cryprq.peer_name import resolve
from cryprq.protocol.identity import Identity
from cryprq.telemetry.admin_socket import AdminSocket
from cryprq.telemetry.feed import Feed
from cryprq.telemetry.samples import NodeStatus, PeerSample
from lab import ROOT
from tests.unit.test_admin_socket import measure

PROGRAMS = {"cryprq": "tool", "cryprq-node": "node"}
A, B = PeerId(bytes(32)), PeerId(b"\x01" * 32)
LISTEN = ["--listen", "/ip4/127.0.0.1/udp/0/quic-v1", "--tun-address", "10.9.0.1/24"]


def run(
    program: str, *arguments: str, env: dict[str, str] | None = None, stdout: IO[str] | int = subprocess.PIPE
) -> subprocess.CompletedProcess[str]:
    """Runs a program in a process of its own, without the CRYPRQ_ variables of this one."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith(("CRYPRQ_", "RUST_LOG"))}
    environ["PYTHONPATH"] = str(ROOT)
    code = f"import sys; from cryprq.cli.{PROGRAMS[program]} import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=environ | (env or {}),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=False,
    )


def assert_one_line(result: subprocess.CompletedProcess[str], program: str, status: int, says: str) -> None:
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    assert result.stderr.startswith(f"{program}: ")
    assert result.stderr.count("\n") == 1
    assert says in result.stderr
    assert "Traceback" not in result.stderr


@pytest.fixture
def identity(tmp_path: Path) -> Path:
    path = tmp_path / "identity"
    create_identity(path)
    return path


# ---- cryprq-node ----


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give --listen MULTIADDR"),
        (["--no-such-flag"], "unrecognized arguments: --no-such-flag; see cryprq-node --help"),
        (["--peer", "/ip4/192.0.2.1/udp/9999/quic-v1"], "add /p2p/ID"),
        ([*LISTEN, "--rotate-secs", "4"], "5 to 3600"),
        ([*LISTEN, "--fwmark", "0x1ffffffff"], "8589934591 is out of range: 1 to 0xffffffff"),
        ([*LISTEN, "--route-table", "255"], "255 is the kernel's table of this host's own addresses"),
        ([*LISTEN, "--control-socket", f"/run/{'x' * 103}"], "is too long for a Unix socket: 108 bytes, and 107"),
    ],
)
def test_wrong_configuration_is_one_line_and_exit_2(arguments: list[str], says: str) -> None:
    assert_one_line(run("cryprq-node", *arguments), "cryprq-node", 2, says)


def test_damaged_identity_is_one_line_and_exit_1(identity: Path) -> None:
    identity.write_text("cryprq-identity-v1 nonsense\n")
    for extra in ([], ["--check"]):
        result = run("cryprq-node", *LISTEN, "--identity", str(identity), *extra)
        assert_one_line(result, "cryprq-node", 1, f"the identity file {identity} is damaged")


def test_misspelt_variable_is_named_where_its_value_is_missing() -> None:
    result = run("cryprq-node", env={"CRYPRQ_PEER": "/ip4/192.0.2.1/udp/9999/quic-v1"})
    assert_one_line(result, "cryprq-node", 2, "nobody reads the variable CRYPRQ_PEER; did you mean CRYPRQ_PEERS?")


def test_pipe_in_the_place_of_the_configuration_is_told(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    result = run("cryprq-node", "--config", str(tmp_path / "pipe"))
    assert_one_line(result, "cryprq-node", 1, "is a pipe, not a file")


def test_output_that_cannot_be_written_is_no_internal_error(identity: Path) -> None:
    checked = ("cryprq-node", *LISTEN, "--identity", str(identity), "--check")
    for program, *arguments in (("cryprq", "id", str(identity)), checked):
        with open("/dev/full", "w") as full:
            result = run(program, *arguments, stdout=full)
        assert result.returncode == 1
        assert result.stderr == f"{program}: cannot write what there is to say: No space left on device\n"


def test_file_that_is_no_identity_is_not_to_be_made_private(tmp_path: Path) -> None:
    other = tmp_path / "notes"
    other.write_text("something else\n")
    other.chmod(0o644)
    result = run("cryprq-node", *LISTEN, "--identity", str(other))
    assert_one_line(result, "cryprq-node", 1, f"{other} is no identity file")
    assert "chmod" not in result.stderr


@pytest.mark.parametrize("extra", [[], ["--check"]])
def test_back_end_that_is_not_there_is_told(identity: Path, extra: list[str]) -> None:
    result = run("cryprq-node", *LISTEN, "--identity", str(identity), *extra, env={"CRYPRQ_AEAD_BACKEND": "rot13"})
    assert_one_line(result, "cryprq-node", 2, "CRYPRQ_AEAD_BACKEND names no back end of this CPU; it has")


def test_switch_with_a_value_is_told_how_it_is_given(identity: Path) -> None:
    result = run("cryprq-node", *LISTEN, "--identity", str(identity), "--kill-switch=yes")
    assert_one_line(result, "cryprq-node", 2, "--kill-switch takes no value: give it alone, or leave it out")


@pytest.mark.parametrize(
    ("flag", "says"), [("--config", "cannot read the configuration file"), ("--identity", "is not a regular file")]
)
def test_file_that_cannot_be_read_is_what_the_machine_lacks(tmp_path: Path, flag: str, says: str) -> None:
    """As for a file that is not there: a service manager tries again, and so finds what is mounted later."""
    assert_one_line(run("cryprq-node", *LISTEN, flag, str(tmp_path), "--check"), "cryprq-node", 1, says)


def test_config_file_that_is_not_there_is_exit_1(tmp_path: Path) -> None:
    result = run("cryprq-node", *LISTEN, env={"CRYPRQ_CONFIG": str(tmp_path / "none.toml")})
    assert_one_line(result, "cryprq-node", 1, "cannot read the configuration file")


def test_check_prints_the_effective_configuration(identity: Path) -> None:
    result = run("cryprq-node", *LISTEN, "--check", env={"CRYPRQ_IDENTITY": str(identity), "CRYPRQ_MTU": "1380"})
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == f"peer_id = {load_identity(identity).peer_id}"
    assert "mtu = 1380" in lines
    assert "listen = /ip4/127.0.0.1/udp/0/quic-v1" in lines


def test_check_makes_no_identity(tmp_path: Path) -> None:
    path = tmp_path / "state" / "identity"
    result = run("cryprq-node", *LISTEN, "--check", "--identity", str(path))
    assert result.returncode == 0
    assert result.stdout.startswith("peer_id = none yet")
    assert not path.parent.exists()


def test_check_refuses_the_nodes_own_peer_id(identity: Path) -> None:
    own = load_identity(identity).peer_id
    for extra in (["--allow-peer", str(own)], ["--peer", f"/ip4/192.0.2.1/udp/1/quic-v1/p2p/{own}"]):
        result = run("cryprq-node", *LISTEN, "--check", "--identity", str(identity), *extra)
        assert_one_line(result, "cryprq-node", 2, f"{own} is this node's own peer ID")


def test_version_and_help_need_no_configuration() -> None:
    for program in PROGRAMS:
        result = run(program, "--version")
        assert result.returncode == 0
        assert result.stdout.startswith(f"{program} ")
        assert " (build " in result.stdout
        result = run(program, "--help")
        assert result.returncode == 0
        assert result.stdout.startswith("usage: ")


def test_help_names_every_flag_and_variable() -> None:
    text = "".join(run("cryprq-node", "--help").stdout.split())  # argparse breaks lines where it likes
    for option in table(NodeConfig).values():
        assert f"--{option.name}" in text
        assert option.env is None or option.env in text


# ---- cryprq ----


def test_keygen_and_id(tmp_path: Path) -> None:
    path = tmp_path / "new" / "identity"
    made = run("cryprq", "keygen", "--out", str(path))
    assert (made.returncode, made.stderr) == (0, "")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    peer = PeerId.parse(made.stdout.strip())
    assert run("cryprq", "id", str(path)).stdout == f"{peer}\n"
    again = run("cryprq", "keygen", "--out", str(path))
    assert_one_line(again, "cryprq", 1, "exists already and an identity is never overwritten")
    assert load_identity(path).peer_id == peer


def test_keygen_without_out_makes_the_nodes_default(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
        patch.delenv("CRYPRQ_IDENTITY", raising=False)
        assert tool.main(["keygen"]) == 0
        made = capsys.readouterr().out
        assert tool.main(["id"]) == 0
        assert capsys.readouterr().out == made
        assert (tmp_path / "state" / "identity").exists()
        patch.setenv("CRYPRQ_IDENTITY", str(tmp_path / "elsewhere"))
        assert tool.main(["keygen"]) == 0
        assert (tmp_path / "elsewhere").exists()


def test_id_of_a_bad_file_is_exit_1(identity: Path, tmp_path: Path) -> None:
    identity.chmod(0o644)
    assert_one_line(run("cryprq", "id", str(identity)), "cryprq", 1, "chmod 600")
    assert_one_line(run("cryprq", "id", str(tmp_path / "none")), "cryprq", 1, "no identity file")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give keygen, genpsk, id, "),
        (["xyzzy"], "COMMAND 'xyzzy' is unknown; valid are keygen, genpsk, id"),
        (["stat"], "COMMAND 'stat' is unknown; did you mean status?"),
        (["keygen", "--signature", "ml-dsa-78"], "--signature 'ml-dsa-78' is unknown; did you mean ml-dsa-87?"),
        (["status", "--xml"], "unrecognized arguments: --xml"),
        (["status", "--watch", "0.1"], "argument --watch: 0.1 seconds are not between 0.2 and 3600"),
        (["keygen", "--out"], "expected one argument"),
        (["keygen", "--out", ""], "--out is empty"),
        (["id", ""], "FILE is empty"),
    ],
)
def test_wrong_use_of_the_tool_is_one_line_and_exit_2(arguments: list[str], says: str) -> None:
    assert_one_line(run("cryprq", *arguments), "cryprq", 2, says)


def test_no_node_is_one_line_and_exit_1(tmp_path: Path) -> None:
    for arguments in (["status"], ["status", "--json"], ["rotate"], ["rotate", str(A)]):
        result = run("cryprq", *arguments, "--control-socket", str(tmp_path / "none.sock"))
        assert_one_line(result, "cryprq", 1, f"no node answers at {tmp_path / 'none.sock'}")


def test_socket_of_the_node_that_is_meant(tmp_path: Path) -> None:
    runtime = {"RUNTIME_DIRECTORY": str(tmp_path)}
    by_env = {"CRYPRQ_CONTROL_SOCKET": "/env.sock"}
    for arguments, env, path in (
        ([], runtime, tmp_path / "cryprq0.sock"),
        ([], {}, "/run/cryprq/cryprq0.sock"),
        (["--tun-name", "tun7"], runtime, tmp_path / "tun7.sock"),
        ([], runtime | {"CRYPRQ_TUN_NAME": "tun8"}, tmp_path / "tun8.sock"),
        ([], runtime | by_env, "/env.sock"),
        (["--tun-name", "tun7"], runtime | by_env, tmp_path / "tun7.sock"),
        (["--tun-name", "tun7", "--control-socket", "/flag.sock"], runtime | by_env, "/flag.sock"),
    ):
        with pytest.MonkeyPatch.context() as patch:
            for name in ("RUNTIME_DIRECTORY", "CRYPRQ_CONTROL_SOCKET", "CRYPRQ_TUN_NAME"):
                patch.delenv(name, raising=False)
            for name, value in env.items():
                patch.setenv(name, value)
            asked: list[Path] = []

            def record(path: Path, command: str, asked: list[Path] = asked) -> Sequence[str]:
                asked.append(path)
                return []

            patch.setattr("cryprq.cli.admin_client.request", record)
            assert tool.main(["rotate", *arguments]) == 0
            assert asked == [Path(path)]


def test_status_and_rotate_of_a_running_node(tmp_path: Path) -> None:
    path = tmp_path / "node.sock"
    sample = PeerSample(peer_id=str(A), connected=True, epoch=4, epoch_age_secs=1.0)
    status = NodeStatus(
        version="0.1.0", peer_id=str(B), tun_name="cryprq0", uptime_secs=5, healthy=True, peers=(sample,)
    )
    rotated: list[PeerId | None] = []

    def rotate(peer: PeerId | None) -> Sequence[PeerId]:
        rotated.append(peer)
        if peer == B:
            raise LookupError(f"no session with {B}")
        return () if len(rotated) == 3 else (A,)

    def find(word: str) -> PeerId:
        return resolve(word, {"alice": A}, {A, B})

    async def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        return await asyncio.to_thread(run, "cryprq", *arguments, "--control-socket", str(path))

    async def body() -> None:
        feed = Feed(dict, {})
        server = AdminSocket(path, lambda: status, rotate, lambda: None, measure=measure, feed=feed, find=find)
        await server.start()
        try:
            table = await ask("status")
            assert table.returncode == 0, table.stderr
            assert str(A) in table.stdout
            document = json.loads((await ask("status", "--json")).stdout)
            assert document["peer_id"] == str(B)
            assert document["peers"][0]["epoch"] == 4
            assert (await ask("rotate")).stdout == f"rotation started with {A}\n"
            assert (await ask("rotate", str(A))).stdout == f"rotation started with {A}\n"
            assert (await ask("rotate")).stdout == "no peer has a session\n"
            assert_one_line(await ask("rotate", str(B)), "cryprq", 1, f"no session with {B}")
            assert (await ask("rotate", "alice")).stdout == f"rotation started with {A} (alice)\n"
            assert_one_line(await ask("rotate", "bob"), "cryprq", 1, "no peer is called 'bob'")
        finally:
            await server.close()

    asyncio.run(body())
    assert rotated == [None, A, None, B, A]


# ---- what both share ----


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (ConfigError("bad\nflag"), 2, "bad flag"),
        (MachineError("port in use"), 1, "port in use"),
        (RuntimeError("oh\nno"), 1, "internal error, please report it: RuntimeError: oh no ("),
    ],
)
def test_every_error_becomes_one_line(
    capsys: pytest.CaptureFixture[str], error: Exception, status: int, says: str
) -> None:
    def body() -> int:
        raise error

    assert run_program("cryprq", body) == status
    text = capsys.readouterr().err
    assert text.startswith("cryprq: ")
    assert says in text
    assert text.count("\n") == 1


def test_interrupt_is_silent(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> int:
        raise KeyboardInterrupt

    assert run_program("cryprq", body) == 130
    assert capsys.readouterr() == ("", "")


def test_reader_that_goes_away_is_silent(identity: Path) -> None:
    code = "import sys; from cryprq.cli.node import main; sys.exit(main())"
    with subprocess.Popen(
        [sys.executable, "-c", code, *LISTEN, "--check", "--identity", str(identity)],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 1


def test_reload_reads_the_configuration_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("cryprq.node.daemon")
    path = tmp_path / "node.toml"
    path.write_text("")
    seen: list[NodeConfig] = []

    def fake_run(config: NodeConfig, *, reload: Callable[[], NodeConfig], peer_files: PeerFiles) -> int:
        path.write_text(f'allow-peer = ["{A}"]\n')
        seen.extend((config, reload()))
        return 0

    monkeypatch.setattr(module, "run", fake_run)
    assert node_program.main([*LISTEN, "--config", str(path)]) == 0
    assert [set(config.allow_peers) for config in seen] == [set(), {A}]


# ---- the package ----


def test_import_works_without_the_compiled_data_plane() -> None:
    code = (
        "import sys; sys.modules['cryprq._fastpath'] = None\n"
        "import cryprq; print(cryprq.Identity, cryprq.PeerId, cryprq.NodeConfig, 'Node' in cryprq.__all__)\n"
        "try: cryprq.Node\n"
        "except ImportError: print('no data plane')\n"
        "from cryprq.cli.node import main\n"
        f"sys.exit(main({LISTEN!r}))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "no data plane" in result.stdout
    assert result.returncode == 1
    assert "build it with `make build`" in result.stderr
    assert result.stderr.count("\n") == 1


def test_package_exports() -> None:
    import cryprq

    assert cryprq.Identity is Identity
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = cryprq.nothing


def test_bench_of_a_back_end_that_is_not_there_is_one_line() -> None:
    done = run("cryprq", "bench", env={"CRYPRQ_AEAD_BACKEND": "rot13"})
    assert_one_line(done, "cryprq", 1, "CRYPRQ_AEAD_BACKEND names no back end of this CPU; it has")
