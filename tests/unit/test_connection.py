"""One connection: whether the peer is still there, and what strangers on the path cannot change about it."""

import asyncio
import os

from cryprq.address import Local
from cryprq.protocol.frames import FrameType, encode
from cryprq.quic.ending import Ended
from tests.rigs.endpoints import Relay, answer, greet, rigs, run, until


@run
async def test_probe_ends_a_connection_whose_peer_is_gone_and_no_other() -> None:
    async with rigs() as make:
        server = make.make(on_frame=answer)
        client = make.make(dial_only=True)
        relay = Relay(server.address)
        dialled = client.dial(relay.address, on_connected=greet, on_frame=answer)
        await until(lambda: len(dialled.frames) == 2)
        assert dialled.conn is not None
        for _ in range(20):
            dialled.conn.probe(0.3)
        await asyncio.sleep(0.5)
        assert dialled.ended is None
        assert server.accepted[0].ended is None
        relay.lose_to_dialer = True
        dialled.conn.probe(0.3)
        dialled.conn.probe(9.0)
        await until(lambda: dialled.ended, within=1.0)
        assert dialled.conn.ended is Ended.IDLE
        relay.close()


@run
async def test_only_an_opened_packet_chooses_the_local_address() -> None:
    """Whoever sees the connection ID on the path can send garbage to another address of the listener."""
    async with rigs() as make:
        server = make.make("127.0.0.1", bind="0.0.0.0", on_frame=answer)
        client = make.make(dial_only=True, bind="0.0.0.0")
        dialled = client.dial(server, on_connected=greet, on_frame=answer)
        await until(lambda: len(dialled.frames) == 2)
        accepted = server.accepted[0]
        assert dialled.conn is not None
        assert accepted.conn is not None
        assert accepted.conn.local == Local("127.0.0.1")
        for cid in accepted.conn.cids:
            for first in (b"\x40", b"\xc0\x00\x00\x00\x01" + bytes((len(cid),))):
                client.sock.sendto(first + cid + os.urandom(1200), ("127.0.0.2", server.address.port))
        received = server.endpoint.counters["received"]
        await until(lambda: server.endpoint.counters["received"] > received)
        await asyncio.sleep(0.05)
        assert accepted.conn.local == Local("127.0.0.1")
        dialled.conn.send(encode(FrameType.REKEY, b""))
        await until(lambda: len(accepted.frames) == 3)
        assert accepted.conn.local == Local("127.0.0.1")
