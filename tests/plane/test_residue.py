"""When an epoch is gone, nothing of its keys is anywhere in the process: not in its memory, the stacks of its threads
included, and not in the registers that they sleep with. With every back end of this CPU, built by two compilers.

The plane is in a process of its own (``tests/rigs/plane_host.py``), and the test is its TUN and its peer.
"""

import os
import random
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from cryprq import _fastpath
from lab import ROOT
from lab.oracle import Header, RecordOpener, RecordSealer
from tests.rigs.cipher_state import expanded
from tests.rigs.other_compiler import build_extension
from tests.rigs.planes import VNET, ipv4
from tests.rigs.process_memory import found, search

SUITES = {name: suite for suite in (1, 2) for name in _fastpath.aead_backends(suite)}
SIZES = (0, 1, 13, 100, 300, 700, 1200, 1380)
"""Of payloads: records of many lengths, so that all of a kernel's ways are gone."""


class Epoch:
    """The keys of one epoch, and the peer that has them, too."""

    def __init__(self, number: int, suite: int, rng: random.Random) -> None:
        self.number = number
        self.tx, self.rx = rng.randbytes(44), rng.randbytes(44)
        self.suite = suite
        self.sealer = RecordSealer(self.rx[:32], self.rx[32:], 0, number, suite)
        self.opener = RecordOpener(self.tx[:32], self.tx[32:], 0, suite)

    def secrets(self) -> dict[str, bytes]:
        """All that must be gone with it, by name."""
        secrets: dict[str, bytes] = {}
        for direction, secret in (("tx", self.tx), ("rx", self.rx)):
            name = f"epoch {self.number} {direction}"
            secrets |= {f"{name} key": secret[:32], f"{name} IV": secret[32:]}
            if self.suite == _fastpath.SUITE_AES_256_GCM:
                secrets |= expanded(name, secret[:32])
        return secrets


class Host:
    """The process that has the plane."""

    def __init__(self, stack: ExitStack, backend: str, compiler: str) -> None:
        extension = str(build_extension(compiler)) if compiler != "installed" else "-"
        self.suite = SUITES[backend]
        self.tun, inner = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        udp, self.peer = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        for member in (self.tun, inner, udp, self.peer):
            stack.callback(member.close)
        inner.setblocking(False)
        for member in (udp, self.peer):
            member.bind(("127.0.0.1", 0))
        for member in (self.tun, self.peer):
            member.settimeout(20)
        self.port = udp.getsockname()[1]
        arguments = (inner.fileno(), udp.fileno(), self.peer.getsockname()[1], self.suite, extension)
        self.process = stack.enter_context(
            subprocess.Popen(
                [sys.executable, "-m", "tests.rigs.plane_host", *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(inner.fileno(), udp.fileno()),
                cwd=ROOT,
                env={**os.environ, "CRYPRQ_AEAD_BACKEND": backend.partition("-")[0]},
            )
        )
        assert self.process.stdin is not None
        stack.callback(self.process.stdin.close)

    def tell(self, command: str, number: int, more: bytes = b"") -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.raw.write(command.encode() + bytes((number,)))  # type: ignore[attr-defined]
        if more:
            self.process.stdin.raw.write(more)  # type: ignore[attr-defined]
        assert self.process.stdout.read(1) == b"."

    def install(self, epoch: Epoch) -> None:
        self.tell("i", epoch.number, epoch.tx + epoch.rx)

    def exchange(self, epoch: Epoch) -> None:
        """Records both ways, a forgery of each size before the good one."""
        for size in SIZES:
            packet = ipv4("10.0.0.1", "10.0.0.2", bytes(size))
            self.tun.send(VNET.pack(0, 0, 0, 0, 0, 0) + packet)
            record = self.peer.recv(2048)
            assert Header.decode(record).index == epoch.number
            assert epoch.opener.open(record)[0] == packet
            answer = ipv4("10.0.0.2", "10.0.0.1", bytes(size))
            sealed = epoch.sealer.seal(answer)
            for datagram in (sealed[:-1] + bytes((sealed[-1] ^ 1,)), sealed):
                self.peer.sendto(datagram, ("127.0.0.1", self.port))
            assert self.tun.recv(2048)[VNET.size :] == answer

    def inject(self, epoch: Epoch) -> None:
        """A record that came to the control plane's socket."""
        packet = ipv4("10.0.0.2", "10.0.0.1", b"astray")
        self.tell("j", epoch.number, epoch.sealer.seal(packet))
        assert self.tun.recv(2048)[VNET.size :] == packet

    def remaining(self, epoch: Epoch) -> set[str]:
        hits = search(self.process.pid, epoch.secrets())
        for hit in hits:
            print(hit)
        return found(hits)


@contextmanager
def host(backend: str, compiler: str) -> Iterator[Host]:
    with ExitStack() as stack:
        yield Host(stack, backend, compiler)


@pytest.mark.parametrize("compiler", ["installed", "clang"])
@pytest.mark.parametrize("backend", SUITES)
def test_nothing_is_left_of_an_epoch(backend: str, compiler: str) -> None:
    rng = random.Random(backend)
    with host(backend, compiler) as plane:
        old, new = (Epoch(number, plane.suite, rng) for number in (1, 2))
        plane.install(old)
        plane.exchange(old)
        plane.inject(old)
        there = plane.remaining(old)
        assert {"epoch 1 tx key", "epoch 1 rx key", "epoch 1 tx IV", "epoch 1 rx IV"} <= there  # they can be found
        plane.install(new)
        plane.tell("r", old.number)
        plane.tell("w", 1)
        assert plane.remaining(old) == set()
        plane.exchange(new)
        plane.tell("r", new.number)
        plane.tell("w", 0)
        assert plane.remaining(new) == set()
