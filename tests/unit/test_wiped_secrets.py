"""No secret of a handshake, a rotation or a session is in the memory of a process that has no use for it any more: the
seeds that its keys come from, what both ends agree on, and every key that is derived of it.

One end is a process of its own (``tests/rigs/session_end.py``). The other end is in the test, which so knows them all.
"""

import random
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cryprq.protocol.constants import KEM_X25519_MLKEM768, KEM_X25519_MLKEM1024
from cryprq.protocol.identity import Identity
from lab import ROOT
from tests.rigs.cipher_state import expanded
from tests.rigs.known_secrets import KnownSecrets
from tests.rigs.process_memory import found, search
from tests.rigs.session_end import CLOSE, DRAW, HEARD, MLKEM_SEED, ROTATE, START, X25519_SEED, End

LIVE = ("control i2r", "control r2i")
"""What a session needs of its newest root, besides that."""


class Program:
    """The end in the other process, with all that it draws known."""

    def __init__(self, process: "subprocess.Popen[bytes]", rng: random.Random, *, dials: bool) -> None:
        self.pid = process.pid
        self.drawn: dict[str, bytes] = {}
        self._process = process
        self._rng = rng
        self._sizes = (MLKEM_SEED, X25519_SEED) if dials else (X25519_SEED,)

    def write(self, *data: bytes) -> None:
        assert self._process.stdin is not None
        for part in data:
            self._process.stdin.raw.write(part)  # type: ignore[attr-defined]

    def command(self, data: bytes) -> bytes:
        self.write(len(data).to_bytes(4, "big"), data)
        while (answer := self._read()) == DRAW:
            for size in self._sizes:
                seed = self._rng.randbytes(size)
                self.drawn[f"seed {len(self.drawn)} of {size} bytes"] = seed
                self.write(seed)
        return answer

    def _read(self) -> bytes:
        assert self._process.stdout is not None
        size = self._process.stdout.read(4)
        assert size, "the program has ended"
        return self._process.stdout.read(int.from_bytes(size, "big"))

    def remaining(self, secrets: dict[str, bytes]) -> set[str]:
        """Names of those that are there, be it as what AES makes of them."""
        needles = dict(secrets)
        for name, secret in secrets.items():
            if len(secret) == 32 and "data" not in name:
                needles |= {f"{name}, {part}": value for part, value in expanded("AES", secret, powers=16).items()}
        hits = search(self.pid, needles)
        for hit in hits:
            print(hit)
        return found(hits)


@pytest.fixture
def known() -> Iterator[KnownSecrets]:
    with pytest.MonkeyPatch.context() as patch:
        yield KnownSecrets(patch)


def converse(first: End | Program, second: End | Program, data: bytes) -> None:
    """Hands frames to and fro until nobody has any."""
    while data:
        data = second.command(data)
        first, second = second, first


@pytest.mark.parametrize("kem", [KEM_X25519_MLKEM768, KEM_X25519_MLKEM1024])
@pytest.mark.parametrize("role", ["initiator", "responder"])
def test_nothing_is_left(role: str, kem: int, known: KnownSecrets) -> None:
    rng = random.Random(f"{role} {kem}")
    seed = rng.randbytes(32)
    identity, own = Identity.from_seed(seed), Identity.from_seed(rng.randbytes(32))
    with subprocess.Popen(
        [sys.executable, "-m", "tests.rigs.session_end", role, str(kem)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=ROOT,
    ) as process:
        program = Program(process, rng, dials=role == "initiator")
        program.write(seed, own.peer_id.digest)
        end = End(own, identity.peer_id, kem, dials=role == "responder")
        dialer, listener = (program, end) if role == "initiator" else (end, program)

        converse(dialer, listener, dialer.command(START))
        for member in (dialer, listener):
            member.command(HEARD)
        first = known.take()
        live = {name: secret for name, secret in first.items() if name.endswith((*LIVE, "root"))}
        # A control key is in use, so it can be found: the search is not blind.
        gone = first | program.drawn | {"identity": seed}
        assert {name for name in program.remaining(gone) if not name.startswith(tuple(live))} == set()
        assert program.remaining(live) >= {name for name in live if name.endswith(LIVE)}

        converse(dialer, listener, dialer.command(ROTATE))
        for member in (dialer, listener):
            member.command(HEARD)
        second = known.take()
        assert program.remaining(first | program.drawn) == set()

        converse(end, program, end.command(CLOSE))
        assert program.remaining(first | second | program.drawn) == set()
