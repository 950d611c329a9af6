"""The QUIC endpoint against strangers: limits, Retry, backoff, foreign QUIC, garbage."""

import asyncio
import os
import random
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

import pytest
from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicErrorCode, QuicPacketType, pull_quic_header
from aioquic.quic.packet_builder import QuicPacketBuilder

from cryprq.address import Address, Local
from cryprq.protocol.clock import Monotonic
from cryprq.protocol.frames import CloseCode, FrameType, encode
from cryprq.quic import closed, intake
from cryprq.quic.adapter import Quic, client_configuration
from cryprq.quic.admission import PENDING_PER_SOURCE, Rank
from cryprq.quic.connection import Connection
from cryprq.quic.ending import TRANSPORT_CODE
from tests.rigs.endpoints import M1, M3, Notes, Relay, Rig, answer, greet, knock, rigs, run, until

FAST: dict[str, Any] = {"backoff_base_ms": 300, "backoff_max_ms": 600, "backoff_free_failures": 0}

# ---- slow and silent dialers ----


@run
async def test_no_m1_ends_a_connection_and_counts_as_a_failure() -> None:
    async with rigs() as make:
        server = make.make(m1_timeout=0.8, pending_timeout=90.0, **FAST)
        dialled = make.make(dial_only=True).dial(server)
        started = time.monotonic()
        await until(lambda: dialled.ended)
        assert time.monotonic() - started > 0.5
        assert dialled.ended == (CloseCode.TIMEOUT, "", True)
        assert [event for event, _ in server.events] == ["inbound_backoff"]


@run
async def test_an_m1_that_drips_in_does_not_gain_time() -> None:
    async with rigs() as make:
        server = make.make(m1_timeout=1.0)
        dialled = make.make(dial_only=True).dial(server)
        await until(lambda: dialled.conn is not None)
        assert dialled.conn is not None
        started = time.monotonic()
        for byte in M1:
            dialled.conn.send(bytes([byte]))
            await asyncio.sleep(0.05)
            if dialled.ended:
                break
        else:
            raise AssertionError("it has gained the minute that its M1 took")
        assert time.monotonic() - started > 0.2
        assert dialled.ended == (CloseCode.TIMEOUT, "", True)
        assert server.accepted[0].frames == []


@run
async def test_an_m1_without_an_m3_ends_after_the_pending_time() -> None:
    async with rigs() as make:
        server = make.make(m1_timeout=0.8, pending_timeout=1.4)
        dialled = make.make(dial_only=True).dial(server, on_connected=greet)
        started = time.monotonic()
        await until(lambda: dialled.ended)
        assert time.monotonic() - started > 0.9
        assert dialled.ended == (CloseCode.TIMEOUT, "", True)
        assert server.accepted[0].ended == (CloseCode.TIMEOUT, "", False)


@run
async def test_an_authenticated_connection_has_no_deadline() -> None:
    async with rigs() as make:
        server = make.make(m1_timeout=0.8, pending_timeout=1.0, on_frame=answer)
        dialled = make.make(dial_only=True).dial(server, on_connected=greet, on_frame=answer)
        await until(lambda: len(dialled.frames) == 2)
        await asyncio.sleep(1.2)
        assert dialled.ended is None


# ---- limits and Retry ----


@run
async def test_retry_is_asked_from_the_third_and_the_dialer_gets_through() -> None:
    async with rigs() as make:
        server = make.make()
        relays = [Relay(server.address) for _ in range(3)]
        client = make.make(dial_only=True)
        # Two whose handshake cannot complete stay unvalidated.
        for number, relay in enumerate(relays[:2]):
            relay.lose_to_dialer = True
            client.dial(relay.address, timeout=10)
            await until(lambda: server.endpoint.pending > number)  # noqa: B023
        third = client.dial(relays[2].address)
        await until(lambda: third.conn is not None and server.accepted)
        assert server.endpoint.counters["retry"] == 1
        assert server.accepted[0].conn is not None
        assert server.accepted[0].conn.validated
        # Another source is not asked.
        other = make.make("127.0.0.2", dial_only=True).dial(server)
        await until(lambda: other.conn is not None)
        assert server.endpoint.counters["retry"] == 1
        for relay in relays:
            relay.close()


@run
async def test_a_retry_token_does_not_serve_another_address() -> None:
    async with rigs() as make:
        server = make.make(max_inbound=1)
        server.gate._admission.asks_for_proof = lambda source: True  # type: ignore[method-assign]
        thief = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        thief.bind(("127.0.0.1", 0))
        quic = _raw_client()
        quic.connect(server.address, now=0.0)
        first = quic.datagrams_to_send(now=0.0)[0][0]
        owner = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        owner.bind(("127.0.0.1", 0))
        owner.setblocking(False)
        owner.sendto(first, server.address[:2])
        retry = await asyncio.get_running_loop().sock_recv(owner, 2000)
        quic.receive_datagram(retry, server.address, now=0.0)
        second = quic.datagrams_to_send(now=0.0)[0][0]
        assert pull_quic_header(Buffer(data=second)).token
        thief.sendto(second, server.address[:2])
        await until(lambda: server.endpoint.counters["bad_token"] == 1)
        assert server.endpoint.pending == 0
        owner.sendto(second, server.address[:2])
        await until(lambda: server.endpoint.pending == 1)
        thief.close()
        owner.close()


@run
async def test_one_source_gets_its_share_and_excess_waits_without_blame() -> None:
    async with rigs() as make:
        server = make.make(**FAST)
        clients = [make.make(dial_only=True) for _ in range(PENDING_PER_SOURCE + 3)]
        dialled = [client.dial(server, timeout=0.7, on_connected=greet) for client in clients]
        await until(lambda: all(notes.ended or notes.conn for notes in dialled))
        assert sum(notes.conn is not None for notes in dialled) == PENDING_PER_SOURCE == server.endpoint.pending
        assert {notes.ended for notes in dialled if notes.ended} == {(CloseCode.TIMEOUT, "no answer", False)}
        assert server.endpoint.counters["waited"] >= 3 == server.gate.waiting
        assert server.events == []
        assert len(server.gate._backoff) == 0
        other = make.make("127.0.0.2", dial_only=True).dial(server)
        await until(lambda: other.conn is not None)


@run
async def test_who_is_silent_gives_way_to_who_waits() -> None:
    async with rigs() as make:
        server = make.make(max_inbound=3, on_frame=answer)
        silent = [make.make(f"127.0.0.{n}", dial_only=True).dial(server) for n in range(2, 5)]
        await until(lambda: all(notes.conn for notes in silent))
        dialled = make.make("127.0.0.9", dial_only=True).dial(server, on_connected=greet, on_frame=answer)
        await until(lambda: len(dialled.frames) == 2)
        ended = [notes.ended for notes in silent if notes.ended]
        assert ended == [(CloseCode.TIMEOUT, "", True)], "one, and only for somebody else"
        assert server.endpoint.counters["gave_way"] == 1
        assert len(server.gate._backoff) == 1


@run
async def test_pending_connections_are_limited_and_authenticated_ones_make_room() -> None:
    async with rigs() as make:
        server = make.make(max_inbound=3, on_frame=answer)
        clients = [make.make(f"127.0.0.{n}", dial_only=True) for n in range(2, 7)]
        pending = [client.dial(server, timeout=5, on_connected=greet) for client in clients[:3]]
        await until(lambda: all(notes.frames for notes in pending))
        refused = clients[3].dial(server, timeout=0.4)
        await until(lambda: refused.ended)
        assert refused.ended == (CloseCode.TIMEOUT, "no answer", False)
        assert pending[0].conn is not None
        pending[0].conn.send(M3)
        await until(lambda: server.endpoint.pending == 2)
        admitted = clients[4].dial(server)
        await until(lambda: admitted.conn is not None)
        assert server.endpoint.connections == 4


@run
async def test_a_flood_of_first_packets_is_answered_with_retry_whatever_comes_of_them() -> None:
    """What fails at once is never pending, so no pending limit stops it."""
    async with rigs() as make:
        server = make.make(unvalidated_rate=20.0, **FAST)
        flood = [_client_initial(knock(), 0, b"\x01\0\0\x01\0") for _ in range(60)]
        started = time.monotonic()
        for n, data in enumerate(flood):
            server.endpoint.receive(data, Address(f"10.0.0.{n}", 4000), Local("127.0.0.1"))
            server.endpoint._table.flush()
        assert server.endpoint.pending == 0
        refilled = (time.monotonic() - started) * 20
        assert 39 - refilled <= server.endpoint.counters["retry"] <= 40
        dialled = make.make(dial_only=True).dial(server)
        await until(lambda: dialled.conn is not None)


@run
async def test_a_validated_source_of_bad_first_packets_is_blamed() -> None:
    async with rigs() as make:
        server = make.make(**FAST)
        here, original, given = Address("127.0.0.1", 4000), os.urandom(8), os.urandom(8)
        token = server.gate._tokens.make(here, original, given, Rank.KNOCKED, Monotonic(time.monotonic()))
        head = b"\xc0\0\0\0\x01\x08" + given + b"\x08" + bytes(8) + bytes([len(token)]) + token
        server.endpoint.receive(head + b"\x44\xb0" + bytes(1200), here, Local())
        assert server.endpoint.counters["bad_initial"] == 1
        assert [event for event, _ in server.events] == ["inbound_backoff"]
        server.endpoint.receive(head + b"\x44\xb0" + bytes(1200), here, Local())
        assert server.endpoint.counters["backoff"] == 1


# ---- backoff ----


@run
async def test_failures_lead_to_backoff_of_that_source_only_and_it_ends() -> None:
    async with rigs() as make:
        refuse: list[bool] = [True]

        def judge(conn: Connection, frame_type: FrameType) -> None:
            if refuse[0]:
                conn.failed()
                conn.failed()  # counts once
                conn.close(CloseCode.REFUSED)
            else:
                answer(conn, frame_type)

        server = make.make(on_frame=judge, **FAST)
        client = make.make(dial_only=True)
        first = client.dial(server, on_connected=greet)
        await until(lambda: first.ended)
        assert first.ended == (CloseCode.REFUSED, "", True)
        assert server.events == [("inbound_backoff", {"remote": client.address, "wait": 0.3})]
        refuse[0] = False
        other = make.make("127.0.0.2", dial_only=True).dial(server, on_connected=greet, on_frame=answer)
        quick = client.dial(server, timeout=0.15)
        await until(lambda: len(other.frames) == 2 and quick.ended)
        assert quick.ended == (CloseCode.TIMEOUT, "no answer", False)
        assert server.endpoint.counters["backoff"] >= 1
        assert len(server.events) == 1  # dropped Initials are not logged one by one
        await asyncio.sleep(0.2)
        again = client.dial(server, on_connected=greet, on_frame=answer)
        await until(lambda: len(again.frames) == 2)
        assert len(server.gate._backoff) == 0  # authenticated: afresh


@run
async def test_an_address_that_was_not_validated_is_never_blamed() -> None:
    async with rigs() as make:
        server = make.make(m1_timeout=0.15, **FAST)
        relay = Relay(server.address)
        relay.lose_to_dialer = True
        make.make(dial_only=True).dial(relay.address, timeout=1)
        await until(lambda: server.endpoint.pending == 1)
        await until(lambda: server.endpoint.pending == 0)
        assert len(server.gate._backoff) == 0
        assert server.events == []
        relay.close()


# ---- QUIC that is not ours ----


def _raw_client() -> QuicConnection:
    """A dialer without the narrowing of ``cryprq.quic.adapter``."""
    quic = QuicConnection(configuration=client_configuration())
    quic._peer_cid.cid = quic._original_destination_connection_id = knock()
    return quic


async def _foreign(server: Rig, act: Callable[[QuicConnection], None]) -> tuple[int, int | None]:
    """Connects with plain aioquic, acts, and returns the error code and frame type of the listener's close."""
    loop = asyncio.get_running_loop()
    quic = _raw_client()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
        quic.connect(server.address, now=loop.time())
        acted = False
        deadline = loop.time() + 5
        while quic._close_event is None:
            assert loop.time() < deadline, "the listener did not close the connection"
            for data, to in quic.datagrams_to_send(now=loop.time()):
                sock.sendto(data, to[:2])
            if quic._handshake_confirmed and not acted:
                acted = True
                # It does as if the listener had allowed everything.
                quic._remote_max_streams_bidi = quic._remote_max_streams_uni = 100
                quic._remote_max_stream_data_uni = quic._remote_max_stream_data_bidi_remote = 1 << 20
                quic._remote_max_data = 1 << 20
                quic._remote_max_datagram_frame_size = 1200
                act(quic)
            else:
                try:
                    data = await asyncio.wait_for(loop.sock_recv(sock, 2000), 0.02)
                    quic.receive_datagram(data, server.address, now=loop.time())
                except TimeoutError:
                    quic.handle_timer(now=loop.time())
        return quic._close_event.error_code, quic._close_event.frame_type


def _reset(quic: QuicConnection) -> None:
    quic.send_stream_data(0, b"\x01")
    quic.reset_stream(0, 7)


def _stop(quic: QuicConnection) -> None:
    quic.send_stream_data(0, b"\x01")
    quic.stop_stream(0, 7)


@pytest.mark.parametrize(
    ("act", "application_code", "transport_code"),
    [
        pytest.param(lambda q: q.send_stream_data(4, b"x"), None, QuicErrorCode.STREAM_LIMIT_ERROR, id="second-stream"),
        pytest.param(
            lambda q: q.send_stream_data(2, b"x"), None, QuicErrorCode.STREAM_LIMIT_ERROR, id="unidirectional"
        ),
        pytest.param(lambda q: q.send_datagram_frame(b"x"), None, QuicErrorCode.PROTOCOL_VIOLATION, id="datagram"),
        pytest.param(lambda q: q.send_stream_data(0, bytes(40_000)), CloseCode.MALFORMED, None, id="zeroes"),
        pytest.param(lambda q: q.send_stream_data(0, b"\x01\xff\xff\xff"), CloseCode.MALFORMED, None, id="too-long"),
        pytest.param(lambda q: q.send_stream_data(0, b"\x63\0\0\0"), CloseCode.MALFORMED, None, id="unknown-frame"),
        pytest.param(lambda q: q.send_stream_data(0, b"", True), CloseCode.MALFORMED, None, id="end"),
        pytest.param(lambda q: q.send_stream_data(0, M1, True), CloseCode.MALFORMED, None, id="end-after-frame"),
        pytest.param(_reset, CloseCode.MALFORMED, None, id="reset"),
        pytest.param(_stop, CloseCode.MALFORMED, None, id="stop-sending"),
    ],
)
def test_foreign_use_of_quic_closes_the_connection(
    act: Callable[[QuicConnection], None], application_code: int | None, transport_code: int | None
) -> None:
    @run
    async def test() -> None:
        async with rigs() as make:
            server = make.make(**FAST)
            code, frame_type = await _foreign(server, act)
            if transport_code is None:
                assert (code, frame_type) == (application_code, None)
            else:
                assert code == transport_code
                assert frame_type is not None
            await until(lambda: server.accepted[0].ended)
            assert server.accepted[0].ended is not None
            assert server.accepted[0].ended[0] == (TRANSPORT_CODE if transport_code else application_code)
            assert [event for event, _ in server.events] == ["inbound_backoff"]
            assert server.endpoint.connections == server.endpoint.pending == 0

    test()


def _client_initial(destination: bytes, crypto_offset: int, crypto: bytes, version: int = 1) -> bytes:
    """A well-protected Initial packet with one CRYPTO frame of our choice."""
    quic = Quic(client_configuration())
    quic._peer_cid.cid = destination
    quic.connect(("192.0.2.1", 1), now=0.0)
    builder = QuicPacketBuilder(
        host_cid=quic.host_cid, is_client=True, max_datagram_size=1200, peer_cid=destination, version=version
    )
    builder.start_packet(QuicPacketType.INITIAL, quic._cryptos[tls.Epoch.INITIAL])
    buf = builder.start_frame(0x06, capacity=10)
    buf.push_uint_var(crypto_offset)
    buf.push_uint_var(len(crypto))
    buf.push_bytes(crypto)
    datagrams, _ = builder.flush()
    return datagrams[0]


@run
async def test_a_gap_in_the_tls_stream_buys_no_memory() -> None:
    async with rigs() as make:
        server = make.make()
        server.endpoint.receive(_client_initial(knock(), 500_000, b"x"), Address("192.0.2.1", 5), Local("127.0.0.1"))
        await asyncio.sleep(0.01)
        assert server.endpoint.connections == server.endpoint.pending == 0


@run
async def test_nobody_connects_at_a_group_that_does_not_listen() -> None:
    async with rigs() as make:
        server, client = make.make(), make.make(dial_only=True)
        server.endpoint._listens = lambda group: group == 0
        sent: list[bytes] = []
        client.endpoint._udp.send_all = lambda data, *_: bool(sent.extend(data))  # type: ignore[method-assign, func-returns-value]
        client.dial(server)
        await until(lambda: sent)
        server.endpoint.receive(sent[0], client.address, Local("127.0.0.1", 1))
        assert server.endpoint.connections == 0
        assert server.endpoint.counters["unknown_connection"] == 1
        server.endpoint.receive(sent[0], client.address, Local("127.0.0.1", 0))
        assert server.endpoint.connections == 1


@run
async def test_an_endless_client_hello_buys_no_memory() -> None:
    async with rigs() as make:
        server = make.make()
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        destination = knock()
        quic = Quic(client_configuration())
        quic._peer_cid.cid = destination
        quic.connect(server.address, now=0.0)
        claim = b"\x01\xff\xff\xff" + bytes(200_000)  # a ClientHello of 16 MiB, as far as it says
        quic._crypto_streams[tls.Epoch.INITIAL].sender.__init__(stream_id=None, writable=True)  # type: ignore[misc]
        quic._crypto_streams[tls.Epoch.INITIAL].sender.write(claim)
        sent = 0
        for step in range(60):
            quic._loss._cc.congestion_window = 1 << 20
            for data, to in quic.datagrams_to_send(now=step * 0.01):
                sock.sendto(data, to[:2])
                sent += 1
            await asyncio.sleep(0.005)
            if sent > 20 and server.endpoint.connections == 0:
                break
        assert sent > 50
        assert server.endpoint.connections == server.endpoint.pending == 0
        sock.close()


@run
async def test_first_datagrams_that_are_no_good_leave_nothing_behind() -> None:
    async with rigs() as make:
        server = make.make()
        relay = Relay(server.address)
        relay.lose_to_listener = True
        client = make.make(dial_only=True)
        for number in (1, 2):
            client.dial(relay.address, timeout=5)
            await until(lambda: len({seen[6:26] for seen in relay.seen}) == number)  # noqa: B023
        good, another = relay.seen[0], relay.seen[-1]
        relay.close()
        counters = server.endpoint.counters

        def feed(data: bytes, port: int = 4000) -> None:
            server.endpoint.receive(data, Address("127.0.0.1", port), Local("127.0.0.1"))

        feed(good[:1199])
        feed(good, port=0)
        feed(b"\xc0\0\0\0\x01" + bytes(1300))  # a destination connection ID of no bytes
        feed(b"\xe0" + good[1:])  # a Handshake packet that belongs to nothing
        assert counters["malformed"] == 4
        feed(good[:100] + bytes([good[100] ^ 1]) + good[101:])
        assert counters["bad_initial"] == 1
        feed(bytes([0x40]) + os.urandom(100))
        assert counters["unknown_connection"] == 1
        await asyncio.sleep(0.01)
        assert server.endpoint.connections == server.endpoint.pending == server.routes == 0
        assert counters["sent"] == 0
        feed(another)
        assert server.endpoint.pending == 1


@run
async def test_version_negotiation_answers_large_datagrams_only_and_never_its_like() -> None:
    async with rigs() as make:
        server = make.make()
        loop = asyncio.get_running_loop()
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setblocking(False)
        sock.bind(("127.0.0.1", 0))
        destination, source = os.urandom(8), os.urandom(5)
        unknown = b"\xc0\x1a\x2a\x3a\x4a\x08" + destination + b"\x05" + source
        sock.sendto(unknown + bytes(1100), server.address[:2])
        sock.sendto(unknown.replace(b"\x1a\x2a\x3a\x4a", bytes(4)) + bytes(1280), server.address[:2])
        sock.sendto(unknown + bytes(1200), server.address[:2])
        reply = await asyncio.wait_for(loop.sock_recv(sock, 2000), 2)
        header = pull_quic_header(Buffer(data=reply))
        assert header.packet_type is QuicPacketType.VERSION_NEGOTIATION
        assert header.supported_versions == [1]
        assert (header.destination_cid, header.source_cid) == (source, destination)
        assert server.endpoint.counters["sent"] == 1
        sock.close()


@run
async def test_a_node_that_only_dials_answers_nobody() -> None:
    async with rigs() as make:
        node = make.make(dial_only=True)
        other = make.make(dial_only=True).dial(node, timeout=0.2)
        await until(lambda: other.ended)
        assert node.endpoint.counters["sent"] == 0
        assert node.endpoint.connections == 0


# ---- garbage ----


def test_garbage_raises_nothing_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed, "CLOSING_PERIOD", 0.2)
    rng = random.Random(3)

    def mutated(data: bytes) -> bytes:
        changed = bytearray(data)
        match rng.randrange(5):
            case 0:
                del changed[rng.randrange(1, len(changed)) :]
            case 1:
                changed += rng.randbytes(rng.randrange(1, 300))
            case 2:
                at = rng.randrange(len(changed))
                changed[at:at] = changed[: rng.randrange(1, 40)]
            case _:
                for _ in range(rng.randrange(1, 6)):
                    changed[rng.randrange(min(len(changed), 60) if rng.random() < 0.7 else len(changed))] = (
                        rng.randrange(256)
                    )
        return bytes(changed)

    @run
    async def test() -> None:
        async with rigs() as make:
            server = make.make(
                on_frame=answer, m1_timeout=0.8, pending_timeout=1.0, idle_timeout=2.0, unvalidated_rate=1e6
            )
            client = make.make(dial_only=True)
            capture: list[bytes] = []
            for rig in (server, client):
                send = rig.endpoint._udp.send_all

                def tap(datagrams: Sequence[bytes], remote: Address, local: Local, send: Any = send) -> bool:
                    capture.extend(datagrams)
                    return bool(send(datagrams, remote, local))

                rig.endpoint._udp.send_all = tap  # type: ignore[method-assign]
            live = client.dial(server, on_connected=greet, on_frame=answer)
            await until(lambda: len(live.frames) == 2)
            assert live.conn is not None
            assert len(capture) > 12
            frozen = list(capture)
            baseline = (server.endpoint.connections, client.endpoint.connections)
            for n in range(4000):
                kind = rng.random()
                if kind < 0.2:
                    data = rng.randbytes(rng.randrange(0, 1500))
                elif kind < 0.3:
                    data = (
                        bytes([0xC0 | rng.randrange(64)])
                        + b"\0\0\0\x01\x14"
                        + knock()
                        + b"\0\0\x44\xb0"
                        + rng.randbytes(1200)
                    )
                elif kind < 0.5:
                    data = rng.choice(frozen)
                else:
                    data = mutated(rng.choice(frozen))
                # From strangers, from the live peer's address, and to the dialer from the listener's.
                if rng.random() < 0.5:
                    here = client.address if rng.random() < 0.5 else Address(f"10.0.0.{rng.randrange(9)}", 4000 + n % 5)
                    server.endpoint.receive(data, here, Local("127.0.0.1"))
                else:
                    client.endpoint.receive(data, server.address, Local("127.0.0.1"))
                if n % 50 == 0:
                    await asyncio.sleep(0)
                    assert server.endpoint.pending <= 64
            # The live connection has not noticed.
            server.accepted[0].frames.clear()
            live.conn.send(encode(FrameType.REKEY, b"still here"))
            await until(lambda: server.accepted[0].frames == [(FrameType.REKEY, b"still here")])
            assert live.ended is None
            await until(lambda: (server.endpoint.connections, client.endpoint.connections) == baseline)
            assert server.endpoint.pending == server.gate._admission.sources == 0
            await until(lambda: not any(len(rig.endpoint._table._closed) for rig in (server, client)))
            assert server.routes <= 4
            assert client.routes <= 3
            assert server.endpoint.counters["bad_initial"] > 0
            assert server.endpoint.counters["malformed"] > 0
            assert {event for event, _ in server.events} <= {"inbound_backoff"}

    test()


@run
async def test_mutated_handshakes_on_a_fresh_listener_raise_nothing() -> None:
    """The packets of one handshake, each changed after decryption: frames that no honest peer would send."""
    rng = random.Random(4)
    async with rigs() as make:
        server = make.make(m1_timeout=0.2, max_inbound=100_000, unvalidated_rate=100_000.0)
        for n in range(300):
            crypto = rng.randbytes(rng.randrange(0, 900))
            if rng.random() < 0.6:
                # A ClientHello with random changes: TLS parsing.
                quic = Quic(client_configuration())
                quic.connect(("192.0.2.1", 1), now=0.0)
                hello = bytearray(quic._crypto_streams[tls.Epoch.INITIAL].sender._buffer)
                for _ in range(rng.randrange(1, 5)):
                    hello[rng.randrange(len(hello))] = rng.randrange(256)
                crypto = bytes(hello)
            data = _client_initial(knock(), rng.choice([0, 0, 0, 1, 70_000]), crypto)
            server.endpoint.receive(data, Address(f"10.0.{n // 250}.{n % 250}", 4000), Local("127.0.0.1"))
            if n % 30 == 0:
                await asyncio.sleep(0)
        await until(lambda: server.endpoint.connections == 0)
        assert server.endpoint.pending == server.gate._admission.sources == 0
        assert server.accepted == []
        assert {event for event, _ in server.events} <= {"other_protocol"}, "where the name of the protocol was changed"


@run
async def test_a_flood_leaves_the_loop_its_turn() -> None:
    async with rigs() as make:
        server = make.make(on_frame=answer)
        server.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        flood = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        for _ in range(intake.DATAGRAMS_PER_WAKEUP * 3):
            flood.sendto(b"\x40" + bytes(100), server.address[:2])
        # How long that may take is for tests/unit/test_intake.py, which has a clock of its own.
        with mock.patch.object(intake, "SECONDS_PER_WAKEUP", 60.0):
            server.endpoint._readable()
        assert server.endpoint.counters["unknown_connection"] == intake.DATAGRAMS_PER_WAKEUP
        await until(lambda: server.endpoint.counters["unknown_connection"] == intake.DATAGRAMS_PER_WAKEUP * 3)
        flood.close()


@run
async def test_a_handler_for_records_that_raises_does_not_stop_the_reader() -> None:
    async with rigs() as make:
        server = make.make(on_frame=answer)

        def broken(*_: object) -> None:
            raise ZeroDivisionError

        server.endpoint._on_record = broken
        server.endpoint.receive(b"\x01", Address("127.0.0.1", 4), Local())
        assert server.endpoint.counters.pop("fault") == 1
        notes: Notes = make.make(dial_only=True).dial(server, on_connected=greet, on_frame=answer)
        await until(lambda: len(notes.frames) == 2)
