"""The QUIC endpoint with more dialers than places: the others wait in line. See also the storm tests."""

from cryprq.protocol.frames import CloseCode
from cryprq.protocol.token_bucket import TokenBucket
from cryprq.quic.admission import Rank
from tests.rigs.endpoints import answer, greet, rigs, run, until


@run
async def test_two_hundred_dialers_at_once() -> None:
    async with rigs() as make:
        # A slow machine may need longer than the usual deadlines for both ends of them all.
        server = make.make(on_frame=answer, max_inbound=500, m1_timeout=90, pending_timeout=90)
        clients = [make.make(f"127.0.0.{n}", dial_only=True) for n in range(10, 35)]
        dialled = [c.dial(server, on_connected=greet, on_frame=answer, timeout=60) for c in clients for _ in range(8)]
        await until(lambda: all(len(notes.frames) == 2 for notes in dialled), 60)
        assert server.endpoint.connections == 200
        assert server.endpoint.pending == 0
        assert server.endpoint.counters["retry"] > 0


@run
async def test_dialers_behind_one_address_are_served_one_after_another() -> None:
    """Only eight at a time may be pending; the others wait in line, and nobody has to dial again."""
    async with rigs() as make:
        server = make.make(on_frame=answer, m1_timeout=90, pending_timeout=90)
        clients = [make.make(dial_only=True) for _ in range(40)]
        dialled = [client.dial(server, on_connected=greet, on_frame=answer, timeout=60) for client in clients]
        await until(lambda: all(len(notes.frames) == 2 for notes in dialled), 60)
        assert server.endpoint.counters["waited"] > 0
        assert server.endpoint.counters["limit"] == 0
        assert server.gate.waiting == 0


@run
async def test_who_gave_up_in_line_costs_no_connection_and_no_blame() -> None:
    async with rigs() as make:
        server = make.make(max_inbound=1)
        first = make.make("127.0.0.2", dial_only=True).dial(server)
        await until(lambda: first.conn is not None)
        client = make.make("127.0.0.3", dial_only=True)
        second = client.dial(server)
        await until(lambda: server.gate.waiting == 1)
        (connection,) = client.endpoint._table
        connection.close(CloseCode.TIMEOUT)
        await until(lambda: second.ended)
        assert first.conn is not None
        first.conn.close(CloseCode.OK)
        await until(lambda: server.gate.waiting == 0 and server.endpoint.pending == 0)
        assert len(server.accepted) == 1
        assert len(server.gate._backoff) == 0
        assert server.endpoint.connections == 0


@run
async def test_while_m2s_are_scarce_dialers_wait_instead_of_being_refused() -> None:
    async with rigs() as make:
        server = make.make(on_frame=answer)
        server.gate._responses = TokenBucket(rate=1, burst=5)
        while server.gate.allow_m2(Rank.KNOCKED, server.endpoint.clock()):
            pass
        dialled = make.make(dial_only=True).dial(server, on_connected=greet, on_frame=answer)
        await until(lambda: len(dialled.frames) == 2)
        assert server.endpoint.counters["retry"] >= 1
        assert server.endpoint.counters["waited"] >= 1


@run
async def test_peer_with_a_token_goes_past_those_who_wait() -> None:
    async with rigs() as make:
        server = make.make(on_frame=answer, max_inbound=8)
        token = server.endpoint.token_for(b"peer" * 8)
        clients = [make.make(f"127.0.0.{n}", dial_only=True) for n in range(2, 20)]
        for client in clients:
            client.dial(server, on_connected=greet, timeout=20)
        await until(lambda: server.gate.waiting > 0)
        dialled = make.make("127.0.0.2", dial_only=True).dial(
            server, peer=None, token=token, on_connected=greet, on_frame=answer
        )
        await until(lambda: len(dialled.frames) == 2)
        assert server.endpoint.counters["opened_known"] == 1
        assert dialled.conn is not None
        assert dialled.conn.quic._retry_count == 0


@run
async def test_who_has_not_knocked_is_asked_for_proof_and_let_in() -> None:
    async with rigs() as make:
        server = make.make(on_frame=answer)
        dialled = make.make(dial_only=True).dial(server, peer=None, on_connected=greet, on_frame=answer)
        await until(lambda: len(dialled.frames) == 2)
        assert server.endpoint.counters["opened_stranger"] == server.endpoint.counters["retry"] == 1
