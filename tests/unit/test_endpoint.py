"""The QUIC endpoint on loopback: connecting, frames, closing, paths, timers. See also the hostile tests."""

import asyncio
import hashlib
import hmac
import io
import os
import socket
import struct
from collections.abc import Callable

import pytest
import uvloop
from aioquic import tls
from cryptography.hazmat.primitives.asymmetric import ec

from cryprq.address import Address, Local
from cryprq.linux.clock import monotonic
from cryprq.linux.udp import segments
from cryprq.protocol.clock import Monotonic
from cryprq.protocol.constants import FRAME_MAX, HANDSHAKE_ROUND_TRIPS, ROUND_TRIP_MAX
from cryprq.protocol.frames import CloseCode, FrameType, encode
from cryprq.quic import adapter, closed
from cryprq.quic.adapter import parse_header
from cryprq.quic.connection import Connection
from cryprq.quic.ending import REASON_MAX, TRANSPORT_CODE, Ended
from cryprq.quic.gate import RESPONSE_BURST
from tests.rigs.endpoints import M1, M2, M3, M4, Relay, answer, greet, rigs, run, run_on, until

# ---- connecting ----


@pytest.mark.parametrize(
    ("listener", "dialer"),
    [
        (("127.0.0.1", "127.0.0.1"), ("127.0.0.1", "127.0.0.1")),
        (("::1", "::1"), ("::1", "::1")),
        (("::", "127.0.0.1"), ("::", "127.0.0.1")),  # IPv4 between two dual-stack sockets
        (("::", "::1"), ("::", "::1")),
        # Answers must leave from the address that was asked, which is not the one that the kernel prefers.
        (("0.0.0.0", "127.0.0.77"), ("0.0.0.0", "127.0.0.1")),
        (("::", "127.0.0.77"), ("0.0.0.0", "127.0.0.1")),
    ],
)
@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_whole_exchange(
    loop_factory: Callable[[], asyncio.AbstractEventLoop], listener: tuple[str, str], dialer: tuple[str, str]
) -> None:
    @run_on(loop_factory)
    async def test() -> None:
        async with rigs() as make:
            server = make.make(listener[1], bind=listener[0], on_frame=answer)
            client = make.make(dialer[1], bind=dialer[0], dial_only=True)
            dialled = client.dial(server, on_connected=greet, on_frame=answer)
            await until(lambda: len(dialled.frames) == 2)
            (accepted,) = server.accepted
            assert accepted.frames == [(FrameType.INIT, M1[4:]), (FrameType.AUTH, M3[4:])]
            assert dialled.frames == [(FrameType.RESPONSE, M2[4:]), (FrameType.ACCEPT, M4[4:])]
            assert dialled.conn is not None
            assert accepted.conn is not None
            assert dialled.conn.channel_binding == accepted.conn.channel_binding
            assert len(dialled.conn.channel_binding) == 32
            assert dialled.conn.remote == server.address
            assert dialled.conn.local == Local()
            assert accepted.conn.remote == client.address
            assert accepted.conn.local == Local(listener[1])
            assert (dialled.conn.is_client, accepted.conn.is_client) == (True, False)
            assert dialled.conn.validated
            assert accepted.conn.validated
            assert not accepted.conn.pending
            assert server.endpoint.pending == 0

    test()


def test_certificate_names_nobody_and_is_fresh() -> None:
    @run
    async def test() -> None:
        async with rigs() as make:
            seen = [make.make().endpoint._server_configuration.certificate for _ in range(2)]
            assert seen[0] != seen[1]
            assert not list(seen[0].subject)
            assert not list(seen[0].issuer)
            assert not list(seen[0].extensions)
            assert isinstance(seen[0].public_key(), ec.EllipticCurvePublicKey)

    test()


class _Transcript:
    """A hash that is known already."""

    def copy(self) -> "_Transcript":
        return self

    def finalize(self) -> bytes:
        return bytes.fromhex("9608102a0f1ccc6db6250b7b7e417b1a000eaada3daae4777a7686c9ff83df13")


def test_exporter() -> None:
    """From the trace of RFC 8448, 3: master secret and transcript give its "exp master"; what follows is RFC 8446, 7.5,
    written out."""

    def expand(secret: bytes, label: bytes, context: bytes) -> bytes:
        label = b"tls13 " + label
        info = b"\0\x20" + bytes((len(label),)) + label + bytes((len(context),)) + context
        return hmac.digest(secret, info + b"\1", "sha256")

    schedule = tls.KeySchedule(tls.CipherSuite.AES_128_GCM_SHA256)
    schedule.secret = bytes.fromhex("18df06843d13a08bf2a449844c5f8a478001bc4d4c627984d5a41da8d0402919")
    schedule.hash = _Transcript()  # type: ignore[assignment]  # what is asked of it
    exporter = bytes.fromhex("fe22f881176eda18eb8f44529e6792c50c9a3f89452f68d8ae311b4309d3cf50")
    empty = hashlib.sha256().digest()
    expected = expand(expand(exporter, b"EXPORTER-Channel-Binding", empty), b"exporter", empty)
    assert adapter._export(schedule, b"EXPORTER-Channel-Binding", 32) == expected


def test_binding_is_made_of_the_transcript_up_to_the_listeners_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the application traffic secrets are made (RFC 8446, 7.1), which a key log tells."""
    made: list[bytes] = []
    export = adapter._export

    def exported(schedule: tls.KeySchedule, label: bytes, size: int) -> bytes:
        made.append(schedule.derive_secret(b"s ap traffic"))
        return export(schedule, label, size)

    monkeypatch.setattr(adapter, "_export", exported)

    @run
    async def test() -> None:
        async with rigs() as make:
            server, client = make.make(), make.make(dial_only=True)
            log = client.endpoint._client_configuration.secrets_log_file = io.StringIO()
            dialled = client.dial(server)
            await until(lambda: dialled.conn and server.accepted)
            lines = dict(line.split()[::2] for line in log.getvalue().splitlines())
            assert [secret.hex() for secret in made] == 2 * [lines["SERVER_TRAFFIC_SECRET_0"]]

    test()


def test_no_two_connections_have_the_same_binding() -> None:
    """Also those of the same two nodes, under the same certificate."""

    @run
    async def test() -> None:
        async with rigs() as make:
            server, client = make.make(), make.make(dial_only=True)
            dialled = [client.dial(server, on_connected=greet) for _ in range(2)]
            await until(lambda: len(server.accepted) == 2 and all(each.conn for each in server.accepted))
            bindings = {each.conn.channel_binding for each in (*dialled, *server.accepted) if each.conn is not None}
            assert len(bindings) == 2

    test()


@run
async def test_one_endpoint_accepts_and_dials_at_once() -> None:
    async with rigs() as make:
        nodes = [make.make(on_frame=answer) for _ in range(3)]
        pairs = [(a, b) for a in nodes for b in nodes if a is not b]
        dialled = [a.dial(b, on_connected=greet, on_frame=answer) for a, b in pairs]
        await until(lambda: all(len(notes.frames) == 2 for notes in dialled))
        assert [node.endpoint.connections for node in nodes] == [4, 4, 4]


@run
async def test_frames_are_cut_and_joined_across_packets() -> None:
    async with rigs() as make:
        server = make.make(on_frame=answer)
        client = make.make(dial_only=True)
        dialled = client.dial(server, on_connected=greet, on_frame=answer)
        await until(lambda: len(dialled.frames) == 2)
        accepted = server.accepted[0]
        bodies = [bytes([n % 256]) * size for n, size in enumerate([0, 1, FRAME_MAX - 4, 3, 1199, 1200, 1201] * 12)]
        assert dialled.conn is not None
        assert accepted.conn is not None
        for body in bodies:
            dialled.conn.send(encode(FrameType.REKEY, body))
            await asyncio.sleep(0)
        for body in bodies:
            accepted.conn.send(encode(FrameType.REKEY_RESPONSE, body))
            await asyncio.sleep(0)
        await until(lambda: len(accepted.frames) == 2 + len(bodies) and len(dialled.frames) == 2 + len(bodies))
        assert [body for _, body in accepted.frames[2:]] == bodies
        assert [body for _, body in dialled.frames[2:]] == bodies


@run
async def test_a_pending_dialer_gets_a_32_kib_window_until_it_has_authenticated() -> None:
    async with rigs() as make:
        server = make.make()
        client = make.make(dial_only=True)
        dialled = client.dial(server)
        await until(lambda: dialled.conn is not None)
        assert dialled.conn is not None
        for _ in range(4):
            dialled.conn.send(encode(FrameType.INIT, bytes(12_000)))
        await until(lambda: server.accepted and len(server.accepted[0].frames) == 2)
        await asyncio.sleep(0.3)
        assert len(server.accepted[0].frames) == 2  # the third would end beyond 32 KiB
        conn = server.accepted[0].conn
        assert conn is not None
        conn.authenticated()
        await until(lambda: len(server.accepted[0].frames) == 4)


@run
async def test_windows_do_not_grow_with_traffic() -> None:
    async with rigs() as make:
        server = make.make(on_frame=answer)
        client = make.make(dial_only=True)
        dialled = client.dial(server, on_connected=greet, on_frame=answer)
        await until(lambda: len(dialled.frames) == 2)
        accepted = server.accepted[0]
        assert dialled.conn is not None
        assert accepted.conn is not None
        for n in range(100):
            dialled.conn.send(encode(FrameType.REKEY, bytes(16_000)))
            await until(lambda n=n: len(accepted.frames) == 3 + n)  # type: ignore[misc]
        quic = accepted.conn.quic
        (stream,) = quic._streams.values()
        assert stream.receiver.highest_offset > 1_600_000
        assert quic._local_max_data.value - quic._local_max_data.used <= 128 * 1024
        assert stream.max_stream_data_local - stream.receiver.highest_offset <= 128 * 1024


# ---- closing ----


@run
async def test_close_code_and_reason_reach_the_peer() -> None:
    async with rigs() as make:
        server = make.make(on_frame=answer)
        client = make.make(dial_only=True)
        first = client.dial(server, on_connected=greet, on_frame=answer)
        second = client.dial(server, on_connected=greet, on_frame=answer)
        await until(lambda: len(first.frames) == len(second.frames) == 2)
        by_port = sorted(server.accepted, key=lambda notes: notes.conn is not None and id(notes.conn))
        assert first.conn is not None
        assert server.accepted[1].conn is not None
        first.conn.close(CloseCode.REPLACED, "newer")
        first.conn.close(CloseCode.OK)
        assert first.closes == 0  # never from within the call
        await until(lambda: any(notes.ended for notes in by_port) and first.ended)
        assert first.ended == (CloseCode.REPLACED, "newer", False)
        ended = next(notes for notes in by_port if notes.ended)
        alive = next(notes for notes in by_port if not notes.ended)
        assert ended.ended == (CloseCode.REPLACED, "newer", True)
        assert alive.conn is not None
        alive.conn.close(CloseCode.DUPLICATE, "other")
        await until(lambda: second.ended)
        assert second.ended == (CloseCode.DUPLICATE, "other", True)
        assert second.conn is not None
        assert second.conn.ended is Ended.PEER
        second.conn.send(M1)
        second.conn.close(CloseCode.OK)
        await asyncio.sleep(0.02)
        assert [notes.closes for notes in (first, second, ended, alive)] == [1, 1, 1, 1]
        assert server.endpoint.connections == client.endpoint.connections == 0


@run
async def test_a_stranger_hears_the_code_and_no_reason() -> None:
    async with rigs() as make:
        server = make.make(on_frame=lambda conn, _: conn.close(CloseCode.REFUSED, "not on the list"))
        dialled = make.make(dial_only=True).dial(server, on_connected=greet)
        await until(lambda: dialled.ended)
        assert dialled.ended == (CloseCode.REFUSED, "", True)
        assert server.accepted[0].ended == (CloseCode.REFUSED, "not on the list", False)


@run
async def test_a_lost_close_is_said_again_to_late_packets() -> None:
    async with rigs() as make:
        server = make.make(on_frame=answer)
        relay = Relay(server.address)
        dialled = make.make(dial_only=True).dial(relay.address, on_connected=greet, on_frame=answer)
        await until(lambda: len(dialled.frames) == 2)
        await asyncio.sleep(0.1)
        assert server.accepted[0].conn is not None
        assert dialled.conn is not None
        relay.lose_to_dialer = True
        server.accepted[0].conn.close(CloseCode.REPLACED)
        await asyncio.sleep(0.05)
        relay.lose_to_dialer = False
        assert dialled.closes == 0
        dialled.conn.send(M1)
        await until(lambda: dialled.ended)
        assert dialled.ended == (CloseCode.REPLACED, "", True)
        relay.close()


def test_closed_connections_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed, "CLOSING_PERIOD", 0.1)

    @run
    async def test() -> None:
        async with rigs() as make:
            server = make.make(on_frame=lambda conn, _: conn.close(CloseCode.REFUSED))
            client = make.make(dial_only=True)
            dialled = [client.dial(server, on_connected=greet) for _ in range(6)]
            await until(lambda: all(notes.ended for notes in dialled))
            assert server.routes > 0
            await until(lambda: server.routes == client.routes == 0)
            assert server.endpoint.pending == server.gate._admission.sources == 0

    test()


def test_closed_connections_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed, "CLOSING_MAX", 2)

    @run
    async def test() -> None:
        async with rigs() as make:
            server = make.make(on_frame=lambda conn, _: conn.close(CloseCode.REFUSED))
            client = make.make(dial_only=True)
            dialled = [client.dial(server, on_connected=greet) for _ in range(6)]
            await until(lambda: all(notes.ended for notes in dialled))
            assert len(server.endpoint._table._closed) == len(client.endpoint._table._closed) == 2

    test()


@run
async def test_stop_tells_every_peer_and_every_handler() -> None:
    async with rigs() as make:
        server = make.make(on_frame=answer)
        client = make.make(dial_only=True)
        up = client.dial(server, on_connected=greet, on_frame=answer)
        await until(lambda: len(up.frames) == 2)
        pending = client.dial(server)
        await until(lambda: pending.conn is not None and len(server.accepted) == 2)
        server.endpoint.stop()
        server.endpoint.stop()
        assert [notes.ended for notes in server.accepted] == [(CloseCode.SHUTDOWN, "the node stops", False)] * 2
        await until(lambda: up.ended and pending.ended)
        assert up.ended == (CloseCode.SHUTDOWN, "the node stops", True)
        assert pending.ended == (CloseCode.SHUTDOWN, "", True)
        assert server.routes == server.endpoint.connections == 0
        with pytest.raises(RuntimeError):
            server.dial(client)


@run
async def test_a_fault_in_a_handler_ends_its_connection_only() -> None:
    async with rigs() as make:

        def break_(conn: Connection, frame_type: FrameType) -> None:
            if frame_type is FrameType.REKEY:
                raise ZeroDivisionError
            answer(conn, frame_type)

        server = make.make(on_frame=break_)
        client = make.make(dial_only=True)
        good = client.dial(server, on_connected=greet, on_frame=answer)
        bad = client.dial(server, on_connected=lambda conn: conn.send(encode(FrameType.REKEY, b"")))
        await until(lambda: bad.ended and len(good.frames) == 2)
        assert bad.ended == (CloseCode.INTERNAL, "", True)
        assert good.ended is None
        assert server.endpoint.counters.pop("fault") == 1
        assert server.events[0][0] == "internal_error"
        assert isinstance(server.events[0][1]["error"], ZeroDivisionError)
        assert server.events[0][1]["remote"] == client.address


@run
async def test_a_listener_that_stops_during_the_quic_handshake_is_not_taken_for_another_protocol() -> None:
    async with rigs() as make:
        server = make.make()
        relay = Relay(server.address)
        relay.lose_to_dialer = True
        dialled = make.make(dial_only=True).dial(relay.address)
        await until(lambda: server.endpoint.pending == 1)
        relay.lose_to_dialer = False
        server.endpoint.stop()
        await until(lambda: dialled.ended)
        assert dialled.ended == (TRANSPORT_CODE, "closed during the QUIC handshake", True)
        relay.close()


@run
async def test_an_endpoint_that_stops_accepting_is_silent_to_new_dialers_only() -> None:
    async with rigs() as make:
        server = make.make(on_frame=answer)
        client = make.make(dial_only=True)
        up = client.dial(server, on_connected=greet, on_frame=answer)
        await until(lambda: len(up.frames) == 2)
        server.endpoint.stop_accepting()
        late = client.dial(server, timeout=0.3)
        await until(lambda: late.ended)
        assert late.ended == (CloseCode.TIMEOUT, "no answer", False)
        assert up.ended is None
        assert up.conn is not None
        up.conn.send(M1)
        await until(lambda: len(up.frames) > 2)


# ---- dialling nobody, or somebody else ----


@run
async def test_silence_is_no_answer() -> None:
    async with rigs() as make:
        silent = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        silent.bind(("127.0.0.1", 0))
        client = make.make(dial_only=True)
        dialled = [
            client.dial(Address("127.0.0.1", silent.getsockname()[1]), timeout=0.2),
            client.dial(Address("127.0.0.1", 9), timeout=0.2),
            client.dial(client, timeout=0.2),
        ]
        await until(lambda: all(notes.ended for notes in dialled))
        assert {notes.ended for notes in dialled} == {(CloseCode.TIMEOUT, "no answer", False)}
        silent.close()


@run
async def test_an_address_that_the_socket_cannot_reach_is_named() -> None:
    async with rigs() as make:
        dialled = make.make(dial_only=True).dial(Address("2001:db8::1", 9), timeout=0.1)
        await until(lambda: dialled.ended)
        assert dialled.ended is not None
        assert dialled.ended[1].startswith("no answer (")
        assert "IPv4 socket" in dialled.ended[1]


@run
async def test_another_protocol_is_told_apart_from_silence() -> None:
    async with rigs() as make:
        server = make.make()
        server.endpoint._server_configuration.alpn_protocols = ["h3"]
        dialled = make.make(dial_only=True).dial(server)
        await until(lambda: dialled.ended)
        hint = "it runs another version of CrypRQ, or something else"
        assert dialled.ended == (TRANSPORT_CODE, f"the peer does not speak cryprq/2: {hint}", False)
        assert not server.accepted


@run
async def test_version_1_that_dials_is_told_at_both_ends() -> None:
    async with rigs() as make:
        server, client = make.make(), make.make(dial_only=True)
        client.endpoint._client_configuration.alpn_protocols = ["cryprq/1"]
        dialled = client.dial(server)
        await until(lambda: dialled.ended)
        assert dialled.ended is not None
        assert dialled.ended[0] == TRANSPORT_CODE
        assert server.events == [("other_protocol", {"remote": client.address})]
        assert not server.accepted


@run
async def test_another_quic_version_is_told_apart_from_silence() -> None:
    async with rigs() as make:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.settimeout(2)
        sock.bind(("127.0.0.1", 0))
        client = make.make(dial_only=True)
        dialled = client.dial(Address("127.0.0.1", sock.getsockname()[1]))
        client.endpoint._table.flush()
        data, remote = sock.recvfrom(2000)
        header = parse_header(data)
        ids = b"".join(bytes([len(cid)]) + cid for cid in (header.source_cid, header.destination_cid))
        negotiation = b"\xc0" + bytes(4) + ids + bytes.fromhex("6b3343cf")
        sock.sendto(negotiation, remote)
        await until(lambda: dialled.ended)
        assert dialled.ended == (TRANSPORT_CODE, "the peer does not speak QUIC version 1", False)
        sock.close()


@run
async def test_a_listener_without_the_key_of_its_certificate_is_refused() -> None:
    """No chain is checked, but the CertificateVerify signature is: the channel binding rests on it."""
    async with rigs() as make:
        server = make.make()
        server.endpoint._server_configuration.private_key = ec.generate_private_key(ec.SECP256R1())
        dialled = make.make(dial_only=True).dial(server)
        await until(lambda: dialled.ended)
        assert dialled.conn is None
        assert dialled.ended is not None
        assert dialled.ended[0] == TRANSPORT_CODE
        assert dialled.ended[1].startswith("QUIC error 0x133")
        assert not server.accepted


# ---- paths and timers ----


@run
async def test_the_listener_follows_a_dialer_that_moves() -> None:
    async with rigs() as make:
        server = make.make(on_frame=answer)
        relay = Relay(server.address)
        dialled = make.make(dial_only=True).dial(relay.address, on_connected=greet, on_frame=answer)
        await until(lambda: len(dialled.frames) == 2)
        accepted = server.accepted[0]
        assert accepted.conn is not None
        assert dialled.conn is not None
        assert accepted.conn.remote.port == relay.outer_port
        for n in range(3):
            relay.move()
            dialled.conn.send(encode(FrameType.REKEY, b""))
            await until(lambda n=n: len(accepted.frames) == 3 + n)  # type: ignore[misc]
            await until(lambda: accepted.conn.remote.port == relay.outer_port)  # type: ignore[union-attr]
            accepted.conn.send(encode(FrameType.REKEY_RESPONSE, b""))
            await until(lambda n=n: len(dialled.frames) == 3 + n)  # type: ignore[misc]
        relay.close()


@run
async def test_connections_go_on_when_the_socket_is_replaced() -> None:
    async with rigs() as make:
        server = make.make(on_frame=answer)
        client = make.make(dial_only=True)
        dialled = client.dial(server, on_connected=greet, on_frame=answer)
        await until(lambda: len(dialled.frames) == 2)
        assert dialled.conn is not None
        accepted = server.accepted[0]

        def replace() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as other:
                other.bind(("127.0.0.1", 0))
                os.dup2(other.fileno(), client.sock.fileno())

        client.endpoint.replace_socket(replace)
        port = client.sock.getsockname()[1]
        assert port != client.address.port
        dialled.conn.send(encode(FrameType.REKEY, b""))
        await until(lambda: len(accepted.frames) == 3)
        await until(lambda: accepted.conn is not None and accepted.conn.remote.port == port)
        assert accepted.conn is not None
        accepted.conn.send(encode(FrameType.REKEY_RESPONSE, b""))
        await until(lambda: len(dialled.frames) == 3)


@run
async def test_relaxed_dialer_pings_as_often_as_the_shorter_idle_timeout_needs() -> None:
    async with rigs() as make:
        client = make.make(dial_only=True, idle_timeout=100.0, keepalive=5.0)
        for theirs in (25.0, 1000.0):
            server = make.make(on_frame=answer, idle_timeout=theirs)
            dialled = client.dial(server.address, on_connected=greet, on_frame=answer)
            await until(lambda dialled=dialled: len(dialled.frames) == 2)  # type: ignore[misc]
            conn = dialled.conn
            assert conn is not None
            conn.relax()
            due = conn._ping_at
            assert due is not None
            conn.handle_timer(due)
            assert conn._ping_at == Monotonic(due + 0.4 * min(theirs, 100.0))
            assert conn._pong_by is not None
            assert conn._pong_by <= Monotonic(due + 15.0)


@run
async def test_keepalive_holds_an_idle_connection_and_silence_ends_it_at_both_ends() -> None:
    async with rigs() as make:
        server = make.make(on_frame=answer, idle_timeout=1.0)
        relay = Relay(server.address)
        client = make.make(dial_only=True, idle_timeout=1.0, keepalive=0.3)
        dialled = client.dial(relay.address, on_connected=greet, on_frame=answer)
        await until(lambda: len(dialled.frames) == 2)
        await asyncio.sleep(1.6)
        assert dialled.closes == 0
        assert server.accepted[0].closes == 0
        loop = asyncio.get_running_loop()
        relay.lose_to_dialer = relay.lose_to_listener = True
        cut = loop.time()
        await until(lambda: dialled.ended)
        assert 0.6 < loop.time() - cut < 1.2
        assert dialled.ended == (CloseCode.TIMEOUT, "idle timeout", False)
        assert dialled.conn is not None
        assert dialled.conn.ended is Ended.IDLE
        await until(lambda: server.accepted[0].ended)
        assert server.accepted[0].ended == (TRANSPORT_CODE, "idle timeout", False)
        relay.close()


@run
async def test_handshake_has_more_time_where_the_way_is_long() -> None:
    """Two round trips, of which one would fit into the usual time; then a probe that is not answered within its own."""
    async with rigs() as make:
        server = make.make(on_frame=answer, m1_timeout=0.2, pending_timeout=1.0)
        relay = Relay(server.address, delay=0.4)
        began = monotonic()
        dialled = make.make(dial_only=True).dial(relay.address, on_connected=greet, on_frame=answer)
        await until(lambda: len(dialled.frames) == 2)
        assert monotonic() - began > 2.4
        (accepted,) = server.accepted
        assert accepted.conn is not None and dialled.conn is not None
        for conn in (accepted.conn, dialled.conn):
            assert 0.8 <= conn.round_trip < 1.2
            conn.probe(within=0.1)
        await asyncio.sleep(1.5)
        assert accepted.ended is None and dialled.ended is None
        relay.close()


@run
async def test_stranger_who_dawdles_gains_no_more_than_the_longest_round_trip() -> None:
    async with rigs() as make:
        server = make.make(m1_timeout=0.1, pending_timeout=0.2)
        make.make(dial_only=True).dial(server)
        await until(lambda: server.accepted)
        (accepted,) = server.accepted
        assert accepted.conn is not None
        accepted.conn.quic._loss._rtt_smoothed = 1000.0
        assert accepted.conn.round_trip == ROUND_TRIP_MAX
        within = accepted.conn._pending_until() - accepted.conn._opened_at
        assert within == pytest.approx(HANDSHAKE_ROUND_TRIPS * ROUND_TRIP_MAX)


@run
async def test_m2_tokens_run_out() -> None:
    async with rigs() as make:
        server = make.make()
        dialled = make.make(dial_only=True).dial(server)
        await until(lambda: dialled.conn is not None and server.accepted)
        conn = server.accepted[0].conn
        assert conn is not None
        granted = sum(server.endpoint.allow_m2(conn) for _ in range(RESPONSE_BURST * 2))
        assert RESPONSE_BURST <= granted < RESPONSE_BURST * 1.5


# ---- batches ----


@run
async def test_a_batch_that_the_kernel_merged_is_walked_by_segment() -> None:
    async with rigs() as make:
        server = make.make(on_frame=answer)
        server.sock.setsockopt(17, 104, 1)  # UDP_GRO
        sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sender.bind(("127.0.0.1", 0))
        records = [bytes([1, n]) + bytes(98) for n in range(5)] + [b"\x01last"]
        sender.sendmsg([b"".join(records)], [(17, 103, struct.pack("=H", 100))], 0, server.address[:2])  # UDP_SEGMENT
        await until(lambda: len(server.records) == 6)
        here = Address("127.0.0.1", sender.getsockname()[1])
        assert server.records == [(record, here, Local("127.0.0.1")) for record in records]
        assert server.endpoint.counters["received"] == 6
        sender.close()


@run
async def test_quic_and_records_mixed_in_one_batch_both_arrive() -> None:
    async with rigs() as make:
        server = make.make(on_frame=answer)
        relay = Relay(server.address)
        client = make.make(dial_only=True)
        relay.lose_to_listener = True
        dialled = client.dial(relay.address, on_connected=greet, on_frame=answer)
        await until(lambda: relay.seen)
        size = len(relay.seen[0])
        relay.lose_to_listener = False
        record = b"\x01" + bytes(size - 1)
        merged = list(segments(record + relay.seen[0] + record, size))
        batches = [(merged, Address("127.0.0.1", relay.outer_port), Local("127.0.0.1"))]
        receive = server.endpoint._udp.receive
        server.endpoint._udp.receive = lambda: batches.pop() if batches else receive()  # type: ignore[method-assign]
        server.endpoint._readable()
        await until(lambda: len(dialled.frames) == 2)
        assert [data for data, _, _ in server.records] == [record, record]
        relay.close()


@run
async def test_datagrams_from_a_data_socket_serve_as_well() -> None:
    async with rigs() as make:
        server = make.make(on_frame=answer)
        client = make.make(dial_only=True)
        # Nothing reads the listener's own socket: everything comes through receive(), as a plain tuple.
        asyncio.get_running_loop().remove_reader(server.sock.fileno())
        dialled = client.dial(server, on_connected=greet, on_frame=answer)

        def pump() -> bool:
            while (batch := server.endpoint._udp.receive()) is not None:
                (data,), remote, local = batch
                server.endpoint.receive(data, tuple(remote), local)  # type: ignore[arg-type]
            return len(dialled.frames) == 2

        await until(pump)
        server.endpoint.receive(b"\x01record", client.address, Local())
        server.endpoint.receive(b"", client.address, Local())
        assert server.records == [(b"\x01record", client.address, Local())]


def test_reasons_from_a_peer_are_printable_and_short() -> None:
    @run
    async def test() -> None:
        async with rigs() as make:
            server = make.make(on_frame=answer)
            dialled = make.make(dial_only=True).dial(server, on_connected=greet, on_frame=answer)
            await until(lambda: len(dialled.frames) == 2)
            assert dialled.conn is not None
            dialled.conn.quic.close(error_code=0, reason_phrase="a\x1b[31m\nb=\u202e" + "c" * 200)
            dialled.conn._owner.touch(dialled.conn)
            await until(lambda: server.accepted[0].ended)
            assert server.accepted[0].ended == (0, "a[31mb=" + "c" * 54, True)
            assert REASON_MAX == 64

    test()
