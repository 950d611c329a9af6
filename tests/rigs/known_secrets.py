"""Every secret that the protocol derives in this process, as the other end has it too: to be looked for over there."""

import pytest

from cryprq.protocol import handshake, kem, key_schedule, rekey


class KnownSecrets:
    """Records what the key schedule and the key agreements of this process give, from now on until the patch ends."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._all: dict[str, bytes] = {}
        self._patch = patch
        expand_into, extract = key_schedule.expand_into, key_schedule.extract

        def expand_into_too(prk: key_schedule.Secret, info: bytes, out: bytearray | memoryview) -> None:
            expand_into(prk, info, out)
            name = "root" if b" root" in info else info.decode("ascii", "backslashreplace")
            self.add(name, out)

        def extract_too(salt: key_schedule.Secret, ikm: key_schedule.Secret) -> bytearray:
            secret = extract(salt, ikm)
            self.add("extracted", secret)
            return secret

        patch.setattr(key_schedule, "expand_into", expand_into_too)
        patch.setattr(key_schedule, "extract", extract_too)
        agree, encapsulate = kem.Ephemeral.agree, kem.encapsulate

        def agree_too(ephemeral: kem.Ephemeral, ciphertext: bytes, x25519: bytes) -> bytearray:
            shared = agree(ephemeral, ciphertext, x25519)
            self._add_shared(shared)
            return shared

        def encapsulate_too(which: int, kem_ek: bytes, x25519: bytes) -> kem.Encapsulation:
            answer = encapsulate(which, kem_ek, x25519)
            self._add_shared(answer.shared)
            return answer

        patch.setattr(kem.Ephemeral, "agree", agree_too)
        patch.setattr(handshake, "encapsulate", encapsulate_too)
        patch.setattr(rekey, "encapsulate", encapsulate_too)

    def add(self, name: str, secret: bytes | bytearray | memoryview) -> None:
        self._all[f"{len(self._all)}: {name}"] = bytes(secret)

    def _add_shared(self, shared: bytearray) -> None:
        self.add("ss_mlkem", shared[:32])
        self.add("ss_x25519", shared[32:64])

    def take(self) -> dict[str, bytes]:
        """What has come since the last call, by name."""
        taken, self._all = self._all, {}
        return taken
