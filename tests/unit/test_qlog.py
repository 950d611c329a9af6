"""qlog files of real connections: what is in them and what is not, how many and how large, and what happens when they
cannot be written."""

import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cryprq.config.node_config import NodeConfig
from cryprq.protocol.constants import QUIC_FIRST_BYTE
from cryprq.quic import qlog
from cryprq.quic.adapter import STREAM_ID
from cryprq.quic.qlog import Qlog
from lab.hosts import Lab
from lab.tunnels import Tunnel, make_tunnel
from tests.rigs.endpoints import M1, M2, M3, Rigs, answer, greet, knock, rigs, run, until

NAME = re.compile(r"\d{8}T\d{6}\.\d{6}-(dialer|listener)-[0-9a-f]{40}\.sqlog")

Json = dict[str, Any]


def must_not_fail(error: OSError) -> None:
    raise AssertionError(error)


def texts(path: Path) -> list[Json]:
    """The JSON texts of a sequence (RFC 7464): each begins with a record separator and ends with a line feed."""
    first, *others = path.read_text().split("\x1e")
    assert first == ""
    assert all(text.endswith("\n") for text in others)
    return [json.loads(text) for text in others]


def events(path: Path, name: str) -> list[Json]:
    """The data of each event of that name."""
    return [text["data"] for text in texts(path)[1:] if text["name"] == name]


def frames(path: Path, name: str, frame_type: str) -> list[Json]:
    """The frames of a type in all packets that were sent (``transport:packet_sent``) or received."""
    return [frame for data in events(path, name) for frame in data["frames"] if frame["frame_type"] == frame_type]


def files(directory: Path, pattern: str = "*.sqlog") -> list[Path]:
    return sorted(directory.glob(pattern))


def file_of(directory: Path, end: str) -> Path:
    [path] = files(directory, f"*-{end}-*")
    return path


async def exchange(make: Rigs, log: Qlog) -> None:
    """A listener and a dialer, and all that a handshake says."""
    server, client = make.make(on_frame=answer, qlog=log), make.make(dial_only=True, qlog=log)
    dialled = client.dial(server, on_connected=greet, on_frame=answer)
    await until(lambda: len(dialled.frames) == 2)


def test_a_connection_while_it_lives_and_its_end(tmp_path: Path) -> None:
    directory = tmp_path / "qlog"

    @run
    async def test() -> None:
        async with rigs() as make:
            await exchange(make, Qlog(directory, must_not_fail))
            paths = {end: file_of(directory, end) for end in ("dialer", "listener")}
            for end, path in paths.items():
                assert NAME.fullmatch(path.name)
                assert path.stat().st_mode & 0o777 == 0o600
                header, *log = texts(path)
                assert header["qlog_version"] == "0.3"
                assert header["qlog_format"] == "JSON-SEQ"
                assert header["trace"]["vantage_point"]["type"] == {"dialer": "client", "listener": "server"}[end]
                assert header["trace"]["common_fields"]["ODCID"] in path.name
                assert [text["time"] for text in log] == sorted(text["time"] for text in log)
                assert {data["owner"] for data in events(path, "transport:parameters_set")} == {"local", "remote"}
                assert not frames(path, "transport:packet_sent", "connection_close")
            # All that either side sent arrived, and both files say the same of it.
            for sender, receiver, messages in (("dialer", "listener", M1 + M3), ("listener", "dialer", M2)):
                sent = frames(paths[sender], "transport:packet_sent", "stream")
                received = frames(paths[receiver], "transport:packet_received", "stream")
                assert {frame["stream_id"] for frame in received} == {STREAM_ID}
                assert sum(frame["length"] for frame in received) >= len(messages)
                assert all(frame in sent for frame in received)
                packets = events(paths[receiver], "transport:packet_received")
                assert packets
                assert all(data["frames"] for data in packets)  # aioquic adds them after it has logged the packet
        assert directory.stat().st_mode & 0o777 == 0o700
        closes = [frames(path, "transport:packet_sent", "connection_close") for path in paths.values()]
        assert any(frame["reason"] == "the node stops" for found in closes for frame in found)

    test()


def test_no_secret_is_in_it(tmp_path: Path) -> None:
    secrets = io.StringIO()
    tokens: list[bytes] = []

    @run
    async def test() -> None:
        async with rigs() as make:
            log = Qlog(tmp_path, must_not_fail)
            server, client = make.make(on_frame=answer, qlog=log), make.make(dial_only=True, qlog=log)
            for rig in (server, client):
                assert rig.endpoint._server_configuration.secrets_log_file is None
                assert rig.endpoint._client_configuration.secrets_log_file is None
                rig.endpoint._server_configuration.secrets_log_file = secrets
            dialled = client.dial(server, on_connected=greet, on_frame=answer)
            await until(lambda: len(dialled.frames) == 2)
            for conn in (dialled.conn, server.accepted[0].conn):
                assert conn is not None
                tokens.extend(cid.stateless_reset_token for cid in conn.quic._host_cids if cid.stateless_reset_token)

    test()
    lines = secrets.getvalue().splitlines()
    assert {line.split()[0] for line in lines} >= {"CLIENT_TRAFFIC_SECRET_0", "SERVER_HANDSHAKE_TRAFFIC_SECRET"}
    assert len(tokens) == 3  # each has two connection IDs, and a dialer's first has none
    text = "".join(path.read_text() for path in tmp_path.iterdir())
    assert '"new_connection_id"' in text
    for secret in (*(line.split()[2] for line in lines), *(token.hex() for token in tokens)):
        assert secret not in text
    assert "token" not in text


def test_what_is_no_connection_gets_no_file(tmp_path: Path) -> None:
    @run
    async def test() -> None:
        async with rigs() as make:
            log = Qlog(tmp_path, must_not_fail)
            server, client = make.make(on_frame=answer, qlog=log), make.make(dial_only=True)
            initial = bytearray(b"\xc0\x00\x00\x00\x01\x14" + knock() + b"\x08" + bytes(8) + b"\x00\x44\x80")
            assert initial[0] >= QUIC_FIRST_BYTE
            client.sock.sendto(bytes(initial.ljust(1200, b"x")), server.address[:2])
            await until(lambda: server.endpoint.counters["bad_initial"] == 1)
            dialled = client.dial(server, on_connected=greet, on_frame=answer)
            await until(lambda: len(dialled.frames) == 2)
            assert len(files(tmp_path)) == 1

    test()


def test_the_newest_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qlog, "FILES_MAX", 5)
    old = tmp_path / "20200101T000000.000000-dialer-0011223344556677.sqlog"
    other = tmp_path / "notes.txt"
    for path in (old, other):
        path.touch()

    seen: set[Path] = set()

    @run
    async def test() -> None:
        async with rigs() as make:
            log = Qlog(tmp_path, must_not_fail)
            for _ in range(3):
                await exchange(make, log)
                seen.update(files(tmp_path))

    test()
    assert len(seen) == 1 + 3 * 2
    assert sorted(tmp_path.iterdir()) == [*sorted(seen)[-5:], other]


def test_a_file_ends_at_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qlog, "FILE_SIZE_MAX", 4000)

    @run
    async def test() -> None:
        async with rigs() as make:
            await exchange(make, Qlog(tmp_path, must_not_fail))

    test()
    for path in tmp_path.iterdir():
        header, *log = texts(path)
        assert log
        assert path.stat().st_size - len(json.dumps(header, separators=(",", ":"))) <= 4000 + 2


def test_a_directory_that_goes_away_stops_the_files_and_nothing_else(tmp_path: Path) -> None:
    directory = tmp_path / "qlog"
    errors: list[OSError] = []

    @run
    async def test() -> None:
        async with rigs() as make:
            log = Qlog(directory, errors.append)
            directory.rmdir()
            directory.touch()
            await exchange(make, log)
            await exchange(make, log)
            assert [type(error) for error in errors] == [NotADirectoryError]

    test()


@pytest.mark.parametrize(
    "make", [lambda path: path.touch(), lambda path: None], ids=["a file is there", "nothing is there"]
)
def test_a_directory_that_cannot_be(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "place")
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "place"))):
        Qlog(tmp_path / "place" / "qlog", must_not_fail)


def test_the_variable() -> None:
    flags = ["--listen", "/ip4/0.0.0.0/udp/9999/quic-v1", "--tun-address", "10.66.0.1/24", "--allow-any"]
    assert NodeConfig.load(flags, {"CRYPRQ_QLOG_DIR": "/var/log/qlog"}).qlog_dir == Path("/var/log/qlog")
    assert NodeConfig.load(flags, {"CRYPRQ_QLOG_DIR": ""}).qlog_dir is None
    assert NodeConfig.load(flags, {}).qlog_dir is None


def start(tunnel: Tunnel, listener: Path, dialer: Path) -> None:
    tunnel.listener.env["CRYPRQ_QLOG_DIR"] = str(listener)
    tunnel.dialer.env["CRYPRQ_QLOG_DIR"] = str(dialer)
    tunnel.start()


def test_nodes(lab: Lab) -> None:
    """A rotation is in the file, and a node whose directory is none says so once and has a tunnel."""
    tunnel = make_tunnel(lab, up=False)
    directory, none = lab.directory / "qlog", tunnel.dialer.identity / "qlog"
    start(tunnel, directory, none)
    [off] = tunnel.dialer.events("qlog_off")
    assert off["level"] == "warning"
    assert off["directory"] == str(none)
    assert off["error"] == os.strerror(20)
    assert tunnel.listener.events("qlog_off") == []
    path = file_of(directory, "listener")
    before = frames(path, "transport:packet_received", "stream")
    tunnel.dialer.tool("rotate")
    tunnel.listener.wait_event("key_rotation", status="success")
    after = frames(path, "transport:packet_received", "stream")
    assert len(after) > len(before)
    assert after[: len(before)] == before
    assert frames(path, "transport:packet_sent", "connection_close") == []
    assert tunnel.dialer.stop() == 0  # it says so in a sealed frame, and the listener closes
    tunnel.listener.wait_event("peer_disconnected")
    assert len(frames(path, "transport:packet_sent", "connection_close")) == 1
