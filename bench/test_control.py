"""What a handshake and a rotation cost in Python and libcrypto, both ends together and without QUIC."""

import itertools
from collections.abc import Callable

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from cryprq.protocol.clock import Boottime as at
from cryprq.protocol.constants import KEM_X25519_MLKEM768, KEM_X25519_MLKEM1024
from cryprq.protocol.identity import Identity
from tests.rigs.handshake_pair import Pair
from tests.rigs.session_pair import established, frame, install

KEMS = pytest.mark.parametrize("kem", [KEM_X25519_MLKEM768, KEM_X25519_MLKEM1024], ids=["768", "1024"])


@KEMS
def test_handshake(benchmark: BenchmarkFixture, kem: int) -> None:
    """M1 to M4: two key generations, one encapsulation, four signatures made and checked."""

    def handshake() -> bool:
        pair = Pair(kem=kem)
        pair.run()
        return pair.accepted is not None and pair.accepted.session is not None

    assert benchmark(handshake)


@KEMS
def test_rotation(benchmark: BenchmarkFixture, kem: int) -> None:
    """R1 to R3 and the data keys of one lane."""
    initiator, responder = established(kem=kem)
    times = itertools.count(100, 60)

    def rotation() -> int:
        now = float(next(times))
        answer = responder.receive_frame(*frame(initiator.rotate(at(now))), at(now))
        done = initiator.receive_frame(*frame(answer), at(now))
        responder.receive_frame(*frame(done), at(now))
        initiator.first_record(install(done).keys.rx_index, at(now))
        for session in (initiator, responder):
            session.handle_timer(at(now + 30))  # the grace of the epoch before is over
        return initiator.number

    run: Callable[..., int] = benchmark.pedantic  # without types of its own
    assert run(rotation, rounds=100, warmup_rounds=3) == 103


def test_identity(benchmark: BenchmarkFixture) -> None:
    """Both key pairs from a seed, as at a node's start."""
    assert benchmark(Identity.from_seed, bytes(32)).peer_id is not None
