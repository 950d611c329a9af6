"""docs/vectors.json: every value derived again from the inputs by a second, independent reading of docs/protocol.md
(hashlib, hmac and ``cryptography``, nothing of the package), and the script that writes the file."""

import hashlib
import hmac
import json
import runpy
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM1024PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from lab import ROOT, oracle

VECTORS: dict[str, Any] = json.loads((ROOT / "docs" / "vectors.json").read_text())
BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"

handshakes = pytest.mark.parametrize("case", VECTORS["handshakes"], ids=lambda case: case["name"])


def b(text: str) -> bytes:
    return bytes.fromhex(text)


def u32(value: int) -> bytes:
    return value.to_bytes(4, "big")


def sha(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def mac(key: bytes, *parts: bytes) -> bytes:
    return hmac.new(key, b"".join(parts), hashlib.sha256).digest()


def expand(prk: bytes, info: bytes, size: int = 32) -> bytes:
    """RFC 5869, 2.3; one block is all that the protocol needs."""
    assert size <= 32
    return mac(prk, info, b"\x01")[:size]


def keys(name: str) -> tuple[Ed25519PrivateKey, MLDSA65PrivateKey]:
    prk = mac(bytes(32), b(VECTORS["identities"][name]["seed"]))
    return (
        Ed25519PrivateKey.from_private_bytes(expand(prk, b"cryprq v1 identity ed25519")),
        MLDSA65PrivateKey.from_seed_bytes(expand(prk, b"cryprq v1 identity ml-dsa-65")),
    )


def record_of(name: str) -> bytes:
    return b(VECTORS["identities"][name]["record"])


def credentials(name: str, statement: bytes, drawn: dict[str, str]) -> bytes:
    """record || sig_ed25519 || sig_mldsa65, the drawn signature checked."""
    ed25519, mldsa65 = keys(name)
    signature = b(drawn["sig_mldsa65"])
    MLDSA65PublicKey.from_public_bytes(record_of(name)[32:]).verify(signature, statement)
    assert mldsa65.public_key().public_bytes_raw() == record_of(name)[32:]
    return record_of(name) + ed25519.sign(statement) + signature


def agreement(inputs: dict[str, Any], kem: int, ciphertext: bytes) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """ek, x25519_i, x25519_r, ss_mlkem, ss_x25519."""
    mlkem = (MLKEM768PrivateKey if kem == 1 else MLKEM1024PrivateKey).from_seed_bytes(b(inputs["ml_kem_seed"]))
    own, other = (X25519PrivateKey.from_private_bytes(b(inputs[f"x25519_{end}_private"])) for end in "ir")
    return (
        mlkem.public_key().public_bytes_raw(),
        own.public_key().public_bytes_raw(),
        other.public_key().public_bytes_raw(),
        mlkem.decapsulate(ciphertext),
        other.exchange(own.public_key()),
    )


def check_epoch(epoch: dict[str, Any], root: bytes, lanes: dict[str, int]) -> None:
    assert b(epoch["root"]) == root
    for direction, count in lanes.items():
        assert b(epoch[f"control_{direction}"]) == expand(root, f"cryprq v1 control {direction}".encode())
        assert len(epoch[f"data_{direction}"]) == count
        for lane, secrets in enumerate(epoch[f"data_{direction}"]):
            for kind, size in (("key", 32), ("iv", 12)):
                info = f"cryprq v1 data {direction} {kind}".encode() + bytes((lane,))
                assert b(secrets[kind]) == expand(root, info, size)


def sealed_frame(kind: int, key: bytes, counter: int, body: bytes) -> bytes:
    header = bytes((kind,)) + (len(body) + 16).to_bytes(3, "big")
    return header + AESGCM(key).encrypt(bytes(4) + counter.to_bytes(8, "big"), body, header)


@pytest.mark.parametrize("name", ["dialer", "listener"])
def test_identity(name: str) -> None:
    values = VECTORS["identities"][name]
    ed25519, mldsa65 = keys(name)
    record = ed25519.public_key().public_bytes_raw() + mldsa65.public_key().public_bytes_raw()
    assert b(values["record"]) == record
    assert b(values["peer_id_digest"]) == sha(b"cryprq v1 peer id", record)
    number = 0
    for character in values["peer_id"]:
        number = number * 58 + BASE58.index(character)
    assert number.to_bytes(34, "big") == b"\x12\x20" + b(values["peer_id_digest"])


@pytest.mark.parametrize("name", ["dialer", "listener"])
def test_key_of_tokens(name: str) -> None:
    values = VECTORS["identities"][name]
    prk = mac(bytes(32), b(values["seed"]))
    assert b(values["token_key"]) == expand(prk, b"cryprq v1 identity tokens")


@pytest.mark.parametrize("values", VECTORS["first_knocks"], ids=lambda values: str(values["unix_time"]))
def test_knock_of_a_first_datagram(values: dict[str, Any]) -> None:
    key = sha(b"cryprq v1 first knock", b(VECTORS["identities"]["listener"]["peer_id_digest"]))
    random, step = b(values["random"]), int(values["unix_time"] // 30)
    assert b(values["connection_id"]) == random + mac(key, random, step.to_bytes(8, "big"))[:12]


def test_token_for_a_peer() -> None:
    listener, dialer = (VECTORS["identities"][name] for name in ("listener", "dialer"))
    values = VECTORS["token"]
    salt, serial = b(values["salt"]), round(values["unix_time"] * 1e6)
    plaintext = b(dialer["peer_id_digest"]) + serial.to_bytes(8, "big")
    sealed = AESGCM(mac(b(listener["token_key"]), salt)).encrypt(bytes(12), plaintext, b"\x02")
    assert b(values["token"]) == b"\x02" + salt + sealed


@handshakes
def test_handshake(case: dict[str, Any]) -> None:
    inputs, kem, aead = case["inputs"], case["kem"], case["aead"]
    cb = sha(b(inputs["certificate"]))
    assert b(case["cb"]) == cb
    ciphertext = b(case["drawn"]["handshake"]["kem_ct"])
    ek, x25519_i, x25519_r, ss_mlkem, ss_x25519 = agreement(inputs, kem, ciphertext)
    assert (b(case["ss_mlkem"]), b(case["ss_x25519"])) == (ss_mlkem, ss_x25519)

    offer = bytes(inputs["aead_offer"])
    m1 = bytes((1, inputs["lanes_i"], len(offer))) + offer + bytes((kem,))
    m1 += b(inputs["nonce_i"]) + u32(inputs["index_i"]) + ek + x25519_i
    m1 += mac(sha(b"cryprq v1 knock", b(VECTORS["identities"]["listener"]["peer_id_digest"])), cb, m1)
    assert b(case["m1"]) == m1

    clear = bytes((1, inputs["lanes_r"], aead, kem)) + b(inputs["nonce_r"]) + u32(inputs["index_r"])
    clear += ciphertext + x25519_r
    th1 = sha(b"cryprq v1 th1", cb, m1, clear)
    hs = mac(th1, ss_mlkem, ss_x25519)
    k_r2i, k_i2r = expand(hs, b"cryprq v1 hs r2i"), expand(hs, b"cryprq v1 hs i2r")
    assert [b(case[name]) for name in ("th1", "hs", "k_r2i_hs", "k_i2r_hs")] == [th1, hs, k_r2i, k_i2r]
    statement_r = b"cryprq v1 responder\x00" + sha(th1, record_of("listener"))
    assert b(case["responder_statement"]) == statement_r
    m2 = clear + AESGCM(k_r2i).encrypt(bytes(12), credentials("listener", statement_r, case["drawn"]["listener"]), th1)
    assert b(case["m2"]) == m2

    th2 = sha(b"cryprq v1 th2", th1, m2)
    statement_i = b"cryprq v1 initiator\x00" + sha(th2, record_of("dialer"))
    assert [b(case[name]) for name in ("th2", "initiator_statement")] == [th2, statement_i]
    plain = credentials("dialer", statement_i, case["drawn"]["dialer"]) + b(inputs["parameters_i"])
    m3 = AESGCM(k_i2r).encrypt(bytes(12), plain, th2)
    assert b(case["m3"]) == m3

    th3 = sha(b"cryprq v1 th3", th2, m3)
    root = expand(hs, b"cryprq v1 root" + th3)
    k_accept = expand(root, b"cryprq v1 accept")
    assert [b(case[name]) for name in ("th3", "k_accept")] == [th3, k_accept]
    assert b(case["m4"]) == AESGCM(k_accept).encrypt(bytes(12), b"\x00" + b(inputs["parameters_r"]), th3)
    check_epoch(case["epoch_0"], root, {"i2r": inputs["lanes_i"], "r2i": inputs["lanes_r"]})


@handshakes
def test_rotation(case: dict[str, Any]) -> None:
    rotation, kem = case["rotation"], case["kem"]
    inputs, ciphertext = rotation["inputs"], b(case["drawn"]["rotation"]["kem_ct"])
    ek, x25519_i, x25519_r, ss_mlkem, ss_x25519 = agreement(inputs, kem, ciphertext)
    assert (b(rotation["ss_mlkem"]), b(rotation["ss_x25519"])) == (ss_mlkem, ss_x25519)
    root = b(case["epoch_0"]["root"])
    r1 = u32(1) + ek + x25519_i + u32(inputs["index_i"])
    r2 = u32(1) + ciphertext + x25519_r + u32(inputs["index_r"])
    salt = expand(root, b"cryprq v1 rekey salt")
    new = mac(salt, ss_mlkem, ss_x25519, sha(b"cryprq v1 rekey", r1, r2))
    tag_r, tag_i = (mac(expand(new, f"cryprq v1 confirm {end}".encode()), sha(r1, r2)) for end in "ri")
    assert [b(rotation[name]) for name in ("r1", "r2", "tag_r", "tag_i")] == [r1, r2 + tag_r, tag_r, tag_i]
    check_epoch(rotation["epoch_1"], new, {"i2r": case["inputs"]["lanes_i"], "r2i": case["inputs"]["lanes_r"]})
    old_i2r, old_r2i = (expand(root, b"cryprq v1 control " + direction) for direction in (b"i2r", b"r2i"))
    new_i2r, new_r2i = (expand(new, b"cryprq v1 control " + direction) for direction in (b"i2r", b"r2i"))
    assert b(rotation["rekey_frame"]) == sealed_frame(17, old_i2r, 0, r1)
    assert b(rotation["rekey_response_frame"]) == sealed_frame(18, old_r2i, 0, r2 + tag_r)
    assert b(rotation["rekey_done_frame"]) == sealed_frame(19, new_i2r, 0, u32(1) + tag_i)
    assert b(rotation["close_frame_r2i"]) == sealed_frame(20, new_r2i, 0, b"shutdown")


@handshakes
def test_records(case: dict[str, Any]) -> None:
    index_of_receiver = {"i2r": case["inputs"]["index_r"], "r2i": case["inputs"]["index_i"]}
    for sample in (*case["records_0"], *case["path_0"]):
        secrets = case["epoch_0"][f"data_{sample['direction']}"][sample["lane"]]
        record = b(sample["record"])
        header = oracle.Header.decode(record)
        assert header == oracle.Header(1, sample["lane"], sample["flags"], sample["receiver_index"], sample["counter"])
        assert sample["receiver_index"] == index_of_receiver[sample["direction"]]
        nonce = oracle.derive_nonce(b(secrets["iv"]), sample["counter"])
        opened = oracle.AEADS[case["aead"]](b(secrets["key"])).decrypt(nonce, record[16:], record[:16])
        assert opened == b(sample["payload"])


@handshakes
def test_path_messages(case: dict[str, Any]) -> None:
    probe, ack = (b(sample["payload"]) for sample in case["path_0"])
    token = probe[3:11]
    assert probe == b"\x10\x00\x08" + token + bytes(len(probe) - 11)
    assert ack == b"\x11\x00\x0a" + token + len(b(case["path_0"][0]["record"])).to_bytes(2, "big")


def test_both_suites_and_both_kems_are_covered() -> None:
    assert {(case["aead"], case["kem"]) for case in VECTORS["handshakes"]} == {(1, 1), (2, 2)}


def test_script_writes_the_same_file_again() -> None:
    """The state machines, run on the inputs, say what the file says."""
    script = runpy.run_path(str(ROOT / "scripts" / "make_vectors.py"))
    assert script["build"](script["recorded"]()) == VECTORS


def test_script_draws_other_ciphertexts_and_signatures_when_it_has_none() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "make_vectors.py"))
    fresh = script["build"]({})["handshakes"][0]
    assert fresh["m1"] == VECTORS["handshakes"][0]["m1"]
    assert fresh["m2"] != VECTORS["handshakes"][0]["m2"]
