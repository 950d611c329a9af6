"""``cryprq-node`` with a tap: what its key schedule and its key agreements give goes into a file.

    telling_node.py FILE [FLAGS OF cryprq-node]

Straight from the buffers, which are the node's own to wipe: the process keeps nothing that a node would not.
``told`` reads the file: names and secrets, in their order.
"""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from cryprq.cli.node import main
from cryprq.protocol import handshake, kem, key_schedule, rekey


def _tap(file: int) -> None:
    def tell(name: bytes, secret: bytearray | memoryview) -> None:
        os.write(file, bytes((len(name), len(secret))) + name)
        os.write(file, secret)

    expand_into, extract = key_schedule.expand_into, key_schedule.extract
    agree, encapsulate = kem.Ephemeral.agree, kem.encapsulate

    def told_expand_into(prk: key_schedule.Secret, info: bytes, out: bytearray | memoryview) -> None:
        expand_into(prk, info, out)
        tell(info.partition(b"root")[0] + b"root" if b" root" in info else info, out)

    def told_extract(salt: key_schedule.Secret, ikm: key_schedule.Secret) -> bytearray:
        secret = extract(salt, ikm)
        tell(b"extracted", secret)
        return secret

    def told_agree(ephemeral: kem.Ephemeral, ciphertext: bytes, x25519: bytes) -> bytearray:
        shared = agree(ephemeral, ciphertext, x25519)
        tell(b"shared", shared)
        return shared

    def told_encapsulate(which: int, kem_ek: bytes, x25519: bytes) -> kem.Encapsulation:
        answer = encapsulate(which, kem_ek, x25519)
        tell(b"shared", answer.shared)
        return answer

    for owner, name, told in (
        (key_schedule, "expand_into", told_expand_into),
        (key_schedule, "extract", told_extract),
        (kem.Ephemeral, "agree", told_agree),
        (handshake, "encapsulate", told_encapsulate),
        (rekey, "encapsulate", told_encapsulate),
    ):
        setattr(owner, name, told)


def told(path: Path) -> Iterator[tuple[str, bytes]]:
    """What a telling node has written."""
    data = path.read_bytes()
    while data:
        name, secret = data[2 : 2 + data[0]], data[2 + data[0] : 2 + data[0] + data[1]]
        yield name.decode("ascii", "backslashreplace"), secret
        data = data[2 + data[0] + data[1] :]


if __name__ == "__main__":
    _tap(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    sys.exit(main(sys.argv[2:]))
