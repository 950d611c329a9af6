"""Writes docs/vectors.json: whole handshakes and a rotation each, with every value on the way.

The inputs are named strings, hashed, except for what the libraries draw by themselves (ML-KEM ciphertexts and ML-DSA
signatures, which are randomised, and all of a third KEM, which has no seeds): those are kept in the file and read back,
so that a run changes nothing unless the protocol has changed, and needs no liboqs. ``--fresh`` draws them anew,
``--check`` writes nothing and fails if the file would change.
"""

import argparse
import hashlib
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any, Final
from unittest import mock

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from cryprq.multiaddr import Multiaddr
from cryprq.peer_id import KIND_MLDSA65, KIND_MLDSA87
from cryprq.protocol import frames, key_schedule
from cryprq.protocol.actions import SendFrame
from cryprq.protocol.clock import Boottime, Realtime
from cryprq.protocol.constants import (
    AEAD_AES_256_GCM,
    AEAD_CHACHA20_POLY1305,
    INVITATION_SECRET_SIZE,
    KEM_X25519_MLKEM768,
    KEM_X25519_MLKEM768_FRODOKEM976,
    KEM_X25519_MLKEM1024,
    KEY_SIZE,
    LANE_SECRET_SIZE,
    TAG_SIZE,
    X25519_SIZE,
)
from cryprq.protocol.handshake import STATUS_ACCEPTED, Initiator, Responder
from cryprq.protocol.identity import SIG_ED25519_SIZE, Identity
from cryprq.protocol.invitation import Token
from cryprq.protocol.kem import SIZES, Encapsulation, Ephemeral, encapsulate
from cryprq.protocol.oqs_kem import FRODOKEM_976_AES
from cryprq.protocol.parameters import Parameters, Serial
from cryprq.protocol.session import Session
from cryprq.quic import knocks, peer_tokens

FILE: Final = Path(__file__).resolve().parent.parent / "docs" / "vectors.json"
LANES_I: Final = 1
LANES_R: Final = 2
PARAMETERS_I: Final = Parameters(rotate_secs=300, lanes=8, rotate_floor=5)
PARAMETERS_R: Final = Parameters(
    addresses=(ip_interface("10.77.0.2/24"), ip_interface("fd77::2/64")),
    routes=(ip_network("10.77.0.0/24"), ip_network("fd77::/64")),
    mtu=1420,
    rotate_secs=120,
    keepalive=10,
    name_servers=(ip_address("10.77.0.1"), ip_address("fd77::1")),
    search=("corp.example", "77.10.in-addr.arpa"),
    lanes=8,
    rotate_floor=60,
    serial=Serial(b"a life  ", 1),
)
IDENTITIES: Final = {
    "dialer": KIND_MLDSA65,
    "listener": KIND_MLDSA65,
    "dialer of kind 2": KIND_MLDSA87,
    "listener of kind 2": KIND_MLDSA87,
}
THIRD_KEMS: Final = {KEM_X25519_MLKEM768_FRODOKEM976: FRODOKEM_976_AES}


@dataclass(frozen=True)
class Case:
    """What one handshake shows."""

    name: str
    aead: int
    kem: int
    offer: tuple[int, ...]
    dialer: str = "dialer"
    listener: str = "listener"
    psk: bool = False


CASES: Final = (
    Case(
        "aes-256-gcm, x25519-mlkem768",
        AEAD_AES_256_GCM,
        KEM_X25519_MLKEM768,
        (AEAD_AES_256_GCM, AEAD_CHACHA20_POLY1305),
    ),
    Case(
        "chacha20-poly1305, x25519-mlkem1024, ml-dsa-87, pre-shared key",
        AEAD_CHACHA20_POLY1305,
        KEM_X25519_MLKEM1024,
        (AEAD_CHACHA20_POLY1305,),
        "dialer of kind 2",
        "listener of kind 2",
        psk=True,
    ),
    Case(
        "aes-256-gcm, x25519-mlkem768-frodokem976aes, ml-dsa-87 at the listener",
        AEAD_AES_256_GCM,
        KEM_X25519_MLKEM768_FRODOKEM976,
        (AEAD_AES_256_GCM,),
        listener="listener of kind 2",
    ),
)

Drawn = dict[str, str]
Draw = Callable[[str, Callable[[], bytes]], bytes]


def named(name: str, size: int = 32) -> bytes:
    """The input of that name: SHA-256 of "cryprq v2 vectors NAME", repeated with a counter byte up to its size."""
    blocks = (hashlib.sha256(f"cryprq v2 vectors {name}".encode() + bytes((i,))).digest() for i in itertools.count())
    return b"".join(itertools.islice(blocks, -(-size // 32)))[:size]


class RecordedIdentity:
    """An identity whose ML-DSA signatures are drawn once. It signs one message."""

    def __init__(self, name: str, draw: Draw) -> None:
        self._identity = Identity.from_seed(named(f"{name} identity seed"), IDENTITIES[name])
        self._draw = draw
        self.record, self.peer_id = self._identity.record, self._identity.peer_id

    def sign(self, message: bytes) -> tuple[bytes, bytes]:
        ed25519, mldsa = self._identity.sign(message)
        return ed25519, self._draw("sig_mldsa", lambda: mldsa)


class RecordedKey:
    """A key pair of a third KEM, and the one ciphertext that it meets, both drawn once."""

    def __init__(self, kem: int, draw: Draw) -> None:
        third = THIRD_KEMS[kem]
        fresh: dict[str, bytes] = {}

        def made(what: str) -> Callable[[], bytes]:
            def make() -> bytes:
                if not fresh:
                    key = third.generate()
                    fresh["ek"] = key.encapsulation_key
                    fresh["ct"], fresh["ss"] = third.encapsulate(key.encapsulation_key)
                return fresh[what]

            return make

        self.encapsulation_key, self.ciphertext, self.shared = (
            draw(f"third_{what}", made(what)) for what in ("ek", "ct", "ss")
        )

    def decapsulate(self, ciphertext: bytes) -> bytes:
        assert ciphertext == self.ciphertext
        return bytes(bytearray(self.shared))  # another object: whoever gets it wipes it

    def drop(self) -> None:
        """There is nothing to wipe."""


def third_key(kem: int, draw: Draw) -> RecordedKey | None:
    return RecordedKey(kem, draw) if kem in THIRD_KEMS else None


def ephemeral(kem: int, name: str, draw: Draw) -> Ephemeral:
    return Ephemeral.from_seeds(
        kem,
        named(f"{name} ml-kem seed", 64),
        named(f"{name} x25519 dialer"),
        third_key(kem, draw),  # type: ignore[arg-type]  # what the agreement needs of a key
    )


@contextmanager
def fixed_entropy(name: str, kem: int, draw: Draw) -> Iterator[None]:
    """Everything that a step draws comes from ``named`` or from the record."""

    def answer(_: int, kem_ek: bytes, x25519: bytes) -> Encapsulation:
        own = X25519PrivateKey.from_private_bytes(named(f"{name} x25519 listener"))
        third = third_key(kem, draw)
        mlkem = KEM_X25519_MLKEM768 if third else kem
        mlkem_ek = kem_ek[: SIZES[mlkem].encapsulation_key]
        ciphertext = draw("mlkem_ct", lambda: encapsulate(mlkem, mlkem_ek, x25519).ciphertext)
        ciphertext += third.ciphertext if third else b""
        ours = own.public_key().public_bytes_raw()
        # A recorded ciphertext has to be opened to learn its secret, which only the dialer's key can.
        shared = ephemeral(kem, name, draw).agree(ciphertext, ours)
        assert shared[32:64] == own.exchange(X25519PublicKey.from_public_bytes(x25519))
        return Encapsulation(ciphertext, ours, shared)

    nonces = [named(f"{name} nonce_i"), named(f"{name} nonce_r")]
    with (
        mock.patch("cryprq.protocol.handshake.secrets.token_bytes", side_effect=nonces),
        mock.patch("cryprq.protocol.kem.Ephemeral.generate", return_value=ephemeral(kem, name, draw)),
        mock.patch("cryprq.protocol.handshake.encapsulate", answer),
        mock.patch("cryprq.protocol.rekey.encapsulate", answer),
    ):
        yield


def identity_values(name: str) -> dict[str, Any]:
    seed = named(f"{name} identity seed")
    identity = Identity.from_seed(seed, IDENTITIES[name])
    return {
        "kind": IDENTITIES[name],
        "seed": seed.hex(),
        "record": identity.record.hex(),
        "peer_id_digest": identity.peer_id.digest.hex(),
        "peer_id": str(identity.peer_id),
        "token_key": identity.token_key.hex(),
    }


def first_knock_values(unix_time: float) -> dict[str, Any]:
    """A connection ID that a first datagram to the listener goes to."""
    listener, random = Identity.from_seed(named("listener identity seed")), named(f"knock at {unix_time}", 8)
    with mock.patch("cryprq.quic.knocks.os.urandom", return_value=random):
        made = knocks.make_knock(listener.peer_id.digest, Realtime(unix_time))
    return {"unix_time": unix_time, "random": random.hex(), "connection_id": made.hex()}


def token_values(unix_time: float) -> dict[str, Any]:
    """A token that the listener gives to the dialer."""
    listener, dialer = (Identity.from_seed(named(f"{name} identity seed")) for name in ("listener", "dialer"))
    salt = named("token salt", 16)
    tokens = peer_tokens.PeerTokens(listener.token_key)
    with mock.patch("cryprq.quic.peer_tokens.os.urandom", return_value=salt):
        made = tokens.make(dialer.peer_id.digest, Realtime(unix_time))
    return {"unix_time": unix_time, "salt": salt.hex(), "token": made.hex()}


def invitation_values() -> dict[str, Any]:
    """An invitation of the listener, as text, and its proof by the dialer in a handshake."""
    listener, dialer = (Identity.from_seed(named(f"{name} identity seed")) for name in ("listener", "dialer"))
    th2 = named("th2 of an invited dialer")
    addresses = tuple(
        map(Multiaddr.parse, ("/ip4/203.0.113.7/udp/9999/quic-v1", "/dns/gateway.example.org/udp/9999/quic-v1"))
    )
    token = Token(listener.peer_id, addresses, named("invitation secret", INVITATION_SECRET_SIZE))
    proof = token.keys.prove(th2, dialer.peer_id)
    return {
        "secret": token.secret.hex(),
        "addresses": list(map(str, addresses)),
        "text": token.spell(),
        "id": token.keys.invitation.hex(),
        "key": token.keys.key.hex(),
        "th2": th2.hex(),
        "parameter": Parameters(invitation=proof).encode().hex(),
    }


def epoch_values(root: bytearray) -> dict[str, Any]:
    values: dict[str, Any] = {"root": root.hex()}
    for direction, lanes in ((key_schedule.I2R, LANES_I), (key_schedule.R2I, LANES_R)):
        text = direction.decode()
        values[f"control_{text}"] = key_schedule.control_key(root, direction).hex()
        secrets = key_schedule.data_secrets(root, direction, lanes)
        values[f"data_{text}"] = [
            {"key": secrets[at : at + KEY_SIZE].hex(), "iv": secrets[at + KEY_SIZE : at + LANE_SECRET_SIZE].hex()}
            for at in range(0, len(secrets), LANE_SECRET_SIZE)
        ]
    return values


def checksum(data: bytes) -> bytes:
    """RFC 1071."""
    total = sum(int.from_bytes(data[at : at + 2].ljust(2, b"\0"), "big") for at in range(0, len(data), 2))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return (0xFFFF - total).to_bytes(2, "big")


def packet(source: str, destination: str) -> bytes:
    """A UDP packet over IPv4 that says "vector"."""
    addresses = ip_address(source).packed + ip_address(destination).packed
    text = b"vector"
    length = (8 + len(text)).to_bytes(2, "big")
    udp = bytes.fromhex("c3500007") + length
    udp += checksum(addresses + b"\0\x11" + length + udp + text) + text
    ip = b"\x45\0" + (20 + len(udp)).to_bytes(2, "big") + bytes.fromhex("0001 0000 40 11")
    return ip + checksum(ip + addresses) + addresses + udp


def sample_record(
    epoch: dict[str, Any], suite: int, direction: str, lane: int, flags: int, index: int, payload: bytes = b""
) -> dict[str, Any]:
    """One sealed record (section 4) that carries a UDP packet, or another payload."""
    dialer, listener = "10.77.0.2", "10.77.0.1"
    payload = payload or (packet(dialer, listener) if direction == "i2r" else packet(listener, dialer))
    counter = 2**28 - 1
    secrets = epoch[f"data_{direction}"][lane]
    header = bytes((1, lane)) + flags.to_bytes(2, "big") + index.to_bytes(4, "big") + counter.to_bytes(8, "big")
    nonce = (int.from_bytes(bytes.fromhex(secrets["iv"]), "big") ^ counter).to_bytes(12, "big")
    aead = (AESGCM if suite == AEAD_AES_256_GCM else ChaCha20Poly1305)(bytes.fromhex(secrets["key"]))
    return {
        "direction": direction,
        "lane": lane,
        "flags": flags,
        "receiver_index": index,
        "counter": counter,
        "payload": payload.hex(),
        "record": (header + aead.encrypt(nonce, payload, header)).hex(),
    }


PROBE_SIZE = 100
"""Of the record of the PATH_PROBE, in bytes."""


def path_probe(name: str) -> bytes:
    """The payload of a probe of the path: the message, then zero bytes up to the size that is asked for."""
    return (b"\x10" + (8).to_bytes(2, "big") + named(f"{name} token", 8)).ljust(PROBE_SIZE - 32, b"\0")


def path_ack(name: str) -> bytes:
    """The answer to it: its token, and the size of its record."""
    return b"\x11" + (10).to_bytes(2, "big") + named(f"{name} token", 8) + PROBE_SIZE.to_bytes(2, "big")


def handshake_values(case: Case, drawn: dict[str, Drawn]) -> dict[str, Any]:
    """A case: the state machines run on fixed entropy, then every value that they derived on the way."""
    name, aead, kem, offer = case.name, case.aead, case.kem, case.offer

    def draw_in(part: str) -> Draw:
        def draw(key: str, make: Callable[[], bytes]) -> bytes:
            values = drawn.setdefault(part, {})
            if key not in values:
                values[key] = make().hex()
            return bytes.fromhex(values[key])

        return draw

    binding = named(f"{name} channel binding")
    psk = named(f"{name} pre-shared key") if case.psk else None
    index_i, index_r, next_i, next_r = (int.from_bytes(named(f"{name} index {i}", 4), "big") for i in range(4))
    indices_i, indices_r = iter((index_i, next_i)), iter((index_r, next_r))
    dialer = RecordedIdentity(case.dialer, draw_in("dialer"))
    listener = RecordedIdentity(case.listener, draw_in("listener"))
    initiator = Initiator(
        dialer,  # type: ignore[arg-type]  # what the state machine needs of an identity
        listener.peer_id,
        binding,
        lanes=LANES_I,
        aead_offer=offer,
        kem=kem,
        new_index=lambda: next(indices_i),
        parameters=PARAMETERS_I,
        psk=psk,
    )
    responder = Responder(
        listener,  # type: ignore[arg-type]  # likewise
        binding,
        lanes=LANES_R,
        aead_preference=offer,
        kems=(kem,),
        new_index=lambda: next(indices_r),
    )
    with fixed_entropy(name, kem, draw_in("handshake")):
        m1 = initiator.message1()
        m2 = responder.receive_message1(m1)
    m3 = initiator.receive_message2(m2)
    responder.receive_message3(m3, lambda _: True)
    m4, session_r = responder.message4(STATUS_ACCEPTED, PARAMETERS_R, Boottime(0.0), psk)
    session_i = initiator.receive_message4(m4, Boottime(0.0)).session
    assert session_i is not None
    assert session_r is not None

    sealed = len(listener.record) + SIG_ED25519_SIZE + len(drawn["listener"]["sig_mldsa"]) // 2 + TAG_SIZE
    clear = m2[:-sealed]
    kem_ct, x25519_r = clear[-SIZES[kem].ciphertext - X25519_SIZE : -X25519_SIZE], clear[-X25519_SIZE:]
    shared = ephemeral(kem, name, draw_in("handshake")).agree(kem_ct, x25519_r)
    th1 = key_schedule.transcript1(binding, m1, clear)
    hs = key_schedule.handshake_secret(th1, shared)
    th2 = key_schedule.transcript2(th1, m2)
    th3 = key_schedule.transcript3(th2, m3)
    root = key_schedule.first_root(hs, psk, th3)
    epoch = epoch_values(root)
    return {
        "name": name,
        "aead": aead,
        "kem": kem,
        "inputs": {
            "dialer": case.dialer,
            "listener": case.listener,
            "cb": binding.hex(),
            "psk": psk.hex() if psk is not None else None,
            "aead_offer": list(offer),
            "lanes_i": LANES_I,
            "lanes_r": LANES_R,
            "nonce_i": named(f"{name} nonce_i").hex(),
            "nonce_r": named(f"{name} nonce_r").hex(),
            "index_i": index_i,
            "index_r": index_r,
            "ml_kem_seed": named(f"{name} ml-kem seed", 64).hex(),
            "x25519_i_private": named(f"{name} x25519 dialer").hex(),
            "x25519_r_private": named(f"{name} x25519 listener").hex(),
            "parameters_i": PARAMETERS_I.encode().hex(),
            "parameters_r": PARAMETERS_R.encode().hex(),
        },
        "drawn": drawn,
        "m1": m1.hex(),
        "m2": m2.hex(),
        "m3": m3.hex(),
        "m4": m4.hex(),
        "ss_mlkem": shared[:32].hex(),
        "ss_x25519": shared[32:64].hex(),
        "ss_third": shared[64:].hex(),
        "th1": th1.hex(),
        "hs": hs.hex(),
        "k_r2i_hs": key_schedule.handshake_key(hs, key_schedule.R2I).hex(),
        "k_i2r_hs": key_schedule.handshake_key(hs, key_schedule.I2R).hex(),
        "responder_statement": key_schedule.responder_statement(th1, listener.record).hex(),
        "th2": th2.hex(),
        "initiator_statement": key_schedule.initiator_statement(th2, dialer.record).hex(),
        "th3": th3.hex(),
        "k_accept": key_schedule.accept_key(root).hex(),
        "epoch_0": epoch,
        "records_0": [
            sample_record(epoch, aead, "i2r", 0, 0, index_r),
            sample_record(epoch, aead, "r2i", 1, 1, index_i),
        ],
        "path_0": [
            sample_record(epoch, aead, "i2r", 0, 0, index_r, path_probe(name)),
            sample_record(epoch, aead, "r2i", 0, 0, index_i, path_ack(name)),
        ],
        "rotation": rotation_values(f"{name} rotation", kem, session_i, session_r, root, draw_in("rotation")),
    }


def rotation_values(
    name: str, kem: int, session_i: Session, session_r: Session, root: bytearray, draw: Draw
) -> dict[str, Any]:
    """A rotation to epoch 1, its frames as they are on the stream, and a CLOSE under the new epoch."""

    def sent(actions: list[Any]) -> bytes:
        return next(action.data for action in actions if isinstance(action, SendFrame))

    def deliver(session: Session, data: bytes) -> list[Any]:
        (received,) = frames.FrameReader().feed(data)
        return list(session.receive_frame(*received, Boottime(2.0)))

    index_i, index_r = session_i.rx_indices().pop(), session_r.rx_indices().pop()
    session_i.start(Boottime(0.0)), session_r.start(Boottime(0.0))
    session_r.first_record(index_r, Boottime(0.0))
    session_i.first_record(index_i, Boottime(0.0))
    with fixed_entropy(name, kem, draw):
        frame1 = sent(session_i.rotate(Boottime(2.0)))
        frame2 = sent(deliver(session_r, frame1))
        frame3 = sent(deliver(session_i, frame2))
        deliver(session_r, frame3)
    close = sent(session_r.close("shutdown", Boottime(3.0)))

    def opened(direction: bytes, frame: bytes) -> bytes:
        body = key_schedule.ControlKey(root, direction).open(frame[:4], frame[4:])
        assert body is not None
        return body

    r1, r2 = opened(key_schedule.I2R, frame1), opened(key_schedule.R2I, frame2)
    kem_ct, x25519_r = r2[4 : -32 - 4 - 32], r2[-32 - 4 - 32 : -32 - 4]
    shared = ephemeral(kem, name, draw).agree(kem_ct, x25519_r)
    following = key_schedule.next_root(root, shared, r1, r2[:-32])
    return {
        "inputs": {
            "ml_kem_seed": named(f"{name} ml-kem seed", 64).hex(),
            "x25519_i_private": named(f"{name} x25519 dialer").hex(),
            "x25519_r_private": named(f"{name} x25519 listener").hex(),
            "index_i": int.from_bytes(r1[-4:], "big"),
            "index_r": int.from_bytes(r2[-36:-32], "big"),
        },
        "r1": r1.hex(),
        "r2": r2.hex(),
        "ss_mlkem": shared[:32].hex(),
        "ss_x25519": shared[32:64].hex(),
        "ss_third": shared[64:].hex(),
        "tag_r": following.tag_r.hex(),
        "tag_i": following.tag_i.hex(),
        "rekey_frame": frame1.hex(),
        "rekey_response_frame": frame2.hex(),
        "rekey_done_frame": frame3.hex(),
        "close_frame_r2i": close.hex(),
        "epoch_1": epoch_values(following.root),
    }


def build(drawn: dict[str, dict[str, Drawn]], cases: Sequence[Case] = CASES) -> dict[str, Any]:
    """The whole file, from what was drawn before (by case and part); what is missing is drawn and added."""
    return {
        "about": "Test vectors of docs/protocol.md, written by scripts/make_vectors.py. Byte strings are hexadecimal.",
        "identities": {name: identity_values(name) for name in IDENTITIES},
        "first_knocks": [first_knock_values(unix_time) for unix_time in (1_799_999_999.5, 1_800_000_000.0)],
        "token": token_values(1_800_000_000.25),
        "invitation": invitation_values(),
        "handshakes": [handshake_values(case, drawn.setdefault(case.name, {})) for case in cases],
    }


def recorded() -> dict[str, dict[str, Drawn]]:
    """What an earlier run drew."""
    return {case["name"]: case["drawn"] for case in json.loads(FILE.read_text())["handshakes"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--fresh", action="store_true", help="draw the random parts anew")
    choice.add_argument("--check", action="store_true", help="write nothing, fail if the file would change")
    arguments = parser.parse_args()
    text = json.dumps(build({} if arguments.fresh or not FILE.exists() else recorded()), indent=1) + "\n"
    if arguments.check:
        return 0 if FILE.exists() and FILE.read_text() == text else 1
    FILE.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
