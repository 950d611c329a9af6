"""The admin socket: who may use it, and what it answers."""

import asyncio
import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
import uvloop

from cryprq.cli import admin_client
from cryprq.cli.admin_client import request
from cryprq.errors import MachineError
from cryprq.peer_id import PeerId
from cryprq.telemetry import admin_socket
from cryprq.telemetry.admin_socket import AdminSocket
from cryprq.telemetry.samples import NodeStatus, PeerSample

A, B = PeerId(bytes(32)), PeerId(b"\x01" * 32)

UP = PeerSample(
    peer_id=str(A),
    connected=True,
    direction="inbound",
    endpoint="[2001:db8::1]:9999",
    addresses=("10.9.0.2/24", "fd00:9::2/64"),
    allowed_ips=("10.9.0.2/32", "fd00:9::2/128", "10.5.0.0/16"),
    epoch=3,
    epoch_age_secs=75.5,
    last_heard_secs=2.5,
    path_mtu=1480,
    rx_bytes=5 * 2**20,
    tx_bytes=1023,
)
STATUS = NodeStatus(
    version="0.1.0",
    peer_id=str(B),
    tun_name="cryprq0",
    uptime_secs=90061,
    healthy=True,
    listen_addr=f"/ip4/192.0.2.1/udp/9999/quic-v1/p2p/{B}",
    listen_addrs=(f"/ip4/192.0.2.1/udp/9999/quic-v1/p2p/{B}",),
    addresses=("10.9.0.1/24",),
    mtu=1420,
    peers=(UP,),
    drops={"tx": {"no_key": 2, "no_route": 0}, "rx": {"replay": 1}},
    offloads={"tso4": "on"},
)


def rotate(peer: PeerId | None) -> Sequence[PeerId]:
    if peer is None:
        return [A]
    if peer != A:
        raise LookupError(f"no session with {peer}")
    return [peer]


DOWNS: list[Path] = []
"""Which nodes were told to stop."""


def serve(path: Path, body: Callable[[AdminSocket], Awaitable[None]], on_uvloop: bool = True) -> None:
    async def run() -> None:
        server = AdminSocket(path, lambda: STATUS, rotate, lambda: DOWNS.append(path))
        await server.start()
        try:
            await body(server)
        finally:
            await server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop if on_uvloop else None) as runner:
        runner.run(asyncio.wait_for(run(), 20))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "node.sock"


def refused(path: Path) -> str:
    async def nothing(server: AdminSocket) -> None:
        raise AssertionError("the server started")

    with pytest.raises(MachineError) as caught:
        serve(path, nothing)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---- questions ----


def test_status_gives_every_field(path: Path) -> None:
    async def body(server: AdminSocket) -> None:
        answer = await asyncio.to_thread(request, path, "status")
        assert answer == json.loads(json.dumps(asdict(STATUS)))

    serve(path, body, on_uvloop=True)
    serve(path, body, on_uvloop=False)  # the loop that a program with a Node of its own may run


def test_rotate_one_all_and_unknown(path: Path) -> None:
    async def body(server: AdminSocket) -> None:
        assert await asyncio.to_thread(request, path, "rotate", peer=str(A)) == [str(A)]
        assert await asyncio.to_thread(request, path, "rotate") == [str(A)]
        with pytest.raises(MachineError, match=f"no session with {B}"):
            await asyncio.to_thread(request, path, "rotate", peer=str(B))
        with pytest.raises(MachineError, match="is not a peer ID"):
            await asyncio.to_thread(request, path, "rotate", peer="Qm")

    serve(path, body)


def test_down_is_passed_on(path: Path) -> None:
    async def body(server: AdminSocket) -> None:
        assert await asyncio.to_thread(request, path, "down") is None

    serve(path, body)
    assert path in DOWNS and len(DOWNS) == 1


def test_several_questions_on_one_connection_and_nonsense_between(path: Path) -> None:
    async def body(server: AdminSocket) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        for line, good in (
            (b'{"command": "status"}', True),
            (b"nonsense", False),
            (b"[]", False),
            (b"\xff\xfe", False),
            (b"[" * 3000, False),
            (b'{"command": "stop"}', False),
            (b'{"command": ["status"]}', False),
            (b'{"command": "rotate", "peer": {"a": 1}}', False),
            (b"", False),
            (b'{"command": "rotate"}', True),
        ):
            writer.write(line + b"\n")
            answer = json.loads(await reader.readline())
            assert answer["ok"] is good, line
            assert ("result" if good else "error") in answer
        writer.close()

    serve(path, body)


def test_line_that_is_too_long_ends_the_connection(path: Path) -> None:
    async def body(server: AdminSocket) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"a" * 100_000 + b"\n")
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass
        writer.close()
        assert await asyncio.to_thread(request, path, "rotate") == [str(A)]

    serve(path, body)


def test_silent_client_is_cut_off(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_socket, "TIMEOUT", 0.05)

    async def body(server: AdminSocket) -> None:
        reader, writer = await asyncio.open_unix_connection(path)
        assert await reader.read() == b""
        writer.close()

    serve(path, body)


# ---- the socket ----


def test_socket_is_private_and_goes_away(path: Path) -> None:
    modes: list[int] = []

    async def body(server: AdminSocket) -> None:
        modes.extend(os.stat(name).st_mode for name in (path, path.parent))

    umask = os.umask(0o022)
    try:
        serve(path, body)
        assert os.umask(0o022) == 0o022, "the umask is back"
    finally:
        os.umask(umask)
    assert stat.S_ISSOCK(modes[0])
    assert [stat.S_IMODE(mode) for mode in modes] == [0o600, 0o755]
    assert not path.exists()


def test_stale_socket_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))

    async def body(server: AdminSocket) -> None:
        assert await asyncio.to_thread(request, path, "rotate") == [str(A)]

    serve(path, body)


def test_live_socket_is_an_error_and_stays(path: Path) -> None:
    async def body(server: AdminSocket) -> None:
        message = await asyncio.to_thread(refused, path)
        assert "another node uses the control socket" in message
        assert await asyncio.to_thread(request, path, "rotate") == [str(A)]

    serve(path, body)


def test_what_is_no_socket_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    assert "is not a socket" in refused(path)
    assert path.read_text() == "precious"


def test_path_that_cannot_be_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "cannot make the control socket" in refused(tmp_path / "file" / "x.sock")
    assert "too long" in refused(tmp_path / ("a" * 120))


def test_close_leaves_another_nodes_socket(path: Path) -> None:
    async def body(server: AdminSocket) -> None:
        os.rename(other, path)

    other = path.with_name("other")
    other.parent.mkdir()
    other.write_text("another's")
    serve(path, body)
    assert path.read_text() == "another's"


# ---- the client ----


def test_nobody_there(path: Path) -> None:
    with pytest.raises(MachineError, match="is cryprq-node running"):
        request(path, "status")


@pytest.mark.parametrize("answer", [b"", b"hello\n", b"{}\n", b'{"ok": true}\n', b'{"ok": false}\n', b"[1]\n"])
def test_something_else_there(tmp_path: Path, answer: bytes) -> None:
    path = tmp_path / "x.sock"

    async def run() -> None:
        async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readline()
            writer.write(answer)
            writer.close()

        server = await asyncio.start_unix_server(reply, path)
        with pytest.raises(MachineError, match="is not a CrypRQ node"):
            await asyncio.to_thread(request, path, "status")
        server.close()

    asyncio.run(run())


def test_node_that_does_not_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_client, "TIMEOUT", 0.05)
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(MachineError, match="does not answer"):
            request(path, "status")
