"""docs/vectors.json: every value derived again from the inputs by a second, independent reading of docs/protocol.md
(hashlib, hmac and ``cryptography``, nothing of the package), and the script that writes the file."""

import hashlib
import hmac
import json
import runpy
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import (
    MLDSA65PrivateKey,
    MLDSA65PublicKey,
    MLDSA87PrivateKey,
    MLDSA87PublicKey,
)
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


LABELS = {
    1: (b"cryprq v1 identity ed25519", b"cryprq v1 identity ml-dsa-65"),
    2: (b"cryprq v2 identity ed25519 of ml-dsa-87", b"cryprq v2 identity ml-dsa-87"),
}


def keys(name: str) -> tuple[Ed25519PrivateKey, MLDSA65PrivateKey | MLDSA87PrivateKey]:
    values = VECTORS["identities"][name]
    prk = mac(bytes(32), b(values["seed"]))
    ed25519, mldsa = (expand(prk, label) for label in LABELS[values["kind"]])
    private = MLDSA65PrivateKey if values["kind"] == 1 else MLDSA87PrivateKey
    return Ed25519PrivateKey.from_private_bytes(ed25519), private.from_seed_bytes(mldsa)


def record_of(name: str) -> bytes:
    return b(VECTORS["identities"][name]["record"])


def proof(name: str, statement: bytes, drawn: dict[str, str]) -> bytes:
    """record || sig_ed25519 || sig_mldsa, the drawn signature checked."""
    ed25519, mldsa = keys(name)
    record, signature = record_of(name), b(drawn["sig_mldsa"])
    public = MLDSA65PublicKey if record[0] == 1 else MLDSA87PublicKey
    public.from_public_bytes(record[33:]).verify(signature, statement, b"cryprq v2 identity")
    assert mldsa.public_key().public_bytes_raw() == record[33:]
    return record + ed25519.sign(statement) + signature


class Agreement:
    """What both ends of an agreement say, and the secrets that come of it."""

    def __init__(self, inputs: dict[str, Any], kem: int, drawn: dict[str, str]) -> None:
        mlkem = (MLKEM1024PrivateKey if kem == 2 else MLKEM768PrivateKey).from_seed_bytes(b(inputs["ml_kem_seed"]))
        own, other = (X25519PrivateKey.from_private_bytes(b(inputs[f"x25519_{end}_private"])) for end in "ir")
        third_ek, third_ct, third_ss = (b(drawn.get(f"third_{what}", "")) for what in ("ek", "ct", "ss"))
        assert (len(third_ek), len(third_ct), len(third_ss)) == ((15632, 15744, 24) if kem == 3 else (0, 0, 0))
        self.ek = mlkem.public_key().public_bytes_raw() + third_ek
        self.ct = b(drawn["mlkem_ct"]) + third_ct
        self.x25519_i, self.x25519_r = own.public_key().public_bytes_raw(), other.public_key().public_bytes_raw()
        self.secrets = (mlkem.decapsulate(b(drawn["mlkem_ct"])), other.exchange(own.public_key()), third_ss)

    def check(self, values: dict[str, Any]) -> None:
        assert tuple(b(values[f"ss_{part}"]) for part in ("mlkem", "x25519", "third")) == self.secrets


def check_epoch(epoch: dict[str, Any], root: bytes, lanes: dict[str, int]) -> None:
    assert b(epoch["root"]) == root
    for direction, count in lanes.items():
        assert b(epoch[f"control_{direction}"]) == expand(root, f"cryprq v2 control {direction}".encode())
        assert len(epoch[f"data_{direction}"]) == count
        for lane, secrets in enumerate(epoch[f"data_{direction}"]):
            for kind, size in (("key", 32), ("iv", 12)):
                info = f"cryprq v2 data {direction} {kind}".encode() + bytes((lane,))
                assert b(secrets[kind]) == expand(root, info, size)


def sealed_frame(kind: int, key: bytes, counter: int, body: bytes) -> bytes:
    header = bytes((kind,)) + (len(body) + 16).to_bytes(3, "big")
    return header + AESGCM(key).encrypt(bytes(4) + counter.to_bytes(8, "big"), body, header)


@pytest.mark.parametrize("name", VECTORS["identities"])
def test_identity(name: str) -> None:
    values = VECTORS["identities"][name]
    ed25519, mldsa = keys(name)
    public = ed25519.public_key().public_bytes_raw() + mldsa.public_key().public_bytes_raw()
    record = bytes((values["kind"],)) + public
    assert b(values["record"]) == record
    digest = sha(b"cryprq v1 peer id", public) if values["kind"] == 1 else sha(b"cryprq v2 peer id", record)
    assert b(values["peer_id_digest"]) == digest
    number = 0
    for character in values["peer_id"]:
        number = number * 58 + BASE58.index(character)
    assert number.to_bytes(34, "big") == b"\x12\x20" + b(values["peer_id_digest"])


@pytest.mark.parametrize("name", ["dialer", "listener"])
def test_key_of_tokens(name: str) -> None:
    values = VECTORS["identities"][name]
    prk = mac(bytes(32), b(values["seed"]))
    assert b(values["token_key"]) == expand(prk, b"cryprq v2 identity tokens")


@pytest.mark.parametrize("values", VECTORS["first_knocks"], ids=lambda values: str(values["unix_time"]))
def test_knock_of_a_first_datagram(values: dict[str, Any]) -> None:
    key = sha(b"cryprq v2 first knock", b(VECTORS["identities"]["listener"]["peer_id_digest"]))
    random, step = b(values["random"]), int(values["unix_time"] // 30)
    assert b(values["connection_id"]) == random + mac(key, random, step.to_bytes(8, "big"))[:12]


def test_token_for_a_peer() -> None:
    listener, dialer = (VECTORS["identities"][name] for name in ("listener", "dialer"))
    values = VECTORS["token"]
    salt, serial = b(values["salt"]), round(values["unix_time"] * 1e6)
    plaintext = b(dialer["peer_id_digest"]) + serial.to_bytes(8, "big")
    sealed = AESGCM(mac(b(listener["token_key"]), salt)).encrypt(bytes(12), plaintext, b"\x02")
    assert b(values["token"]) == b"\x02" + salt + sealed


def test_invitation() -> None:
    listener, dialer = (VECTORS["identities"][name] for name in ("listener", "dialer"))
    values = VECTORS["invitation"]
    prk = mac(b(listener["peer_id_digest"]), b(values["secret"]))
    assert b(values["id"]) == expand(prk, b"cryprq v2 invitation id", 8)
    assert b(values["key"]) == expand(prk, b"cryprq v2 invitation key")
    proof = mac(b(values["key"]), b(values["th2"]), b(dialer["peer_id_digest"]))
    assert b(values["parameter"]) == b"\x0d\x00\x28" + b(values["id"]) + proof


def test_text_of_an_invitation() -> None:
    values, number = VECTORS["invitation"], 0
    assert values["text"].startswith("cryprq1")
    for character in values["text"][7:]:
        number = number * 58 + BASE58.index(character)
    raw = number.to_bytes((number.bit_length() + 7) // 8, "big")
    name, port = b"gateway.example.org", (9999).to_bytes(2, "big")
    where = b"\x00" + port + bytes((203, 0, 113, 7)) + b"\x02" + port + bytes((len(name),)) + name
    body = b"\x01" + b(VECTORS["identities"]["listener"]["peer_id_digest"]) + b(values["secret"]) + where
    assert raw == body + sha(b"cryprq v2 invitation check", body)[:4]


@handshakes
def test_handshake(case: dict[str, Any]) -> None:
    inputs, kem, aead, drawn = case["inputs"], case["kem"], case["aead"], case["drawn"]
    dialer, listener, cb = inputs["dialer"], inputs["listener"], b(inputs["cb"])
    agreement = Agreement(inputs, kem, drawn["handshake"])
    agreement.check(case)

    offer = bytes(inputs["aead_offer"])
    m1 = bytes((2, 2, inputs["lanes_i"], len(offer))) + offer + bytes((kem,))
    m1 += b(inputs["nonce_i"]) + u32(inputs["index_i"]) + agreement.ek + agreement.x25519_i
    m1 += mac(sha(b"cryprq v2 knock", b(VECTORS["identities"][listener]["peer_id_digest"])), cb, m1)
    assert b(case["m1"]) == m1

    clear = bytes((2, 2, inputs["lanes_r"], aead, kem)) + b(inputs["nonce_r"]) + u32(inputs["index_r"])
    clear += agreement.ct + agreement.x25519_r
    th1 = sha(b"cryprq v2 th1", cb, m1, clear)
    hs = mac(th1, *agreement.secrets)
    k_r2i, k_i2r = expand(hs, b"cryprq v2 hs r2i"), expand(hs, b"cryprq v2 hs i2r")
    assert [b(case[name]) for name in ("th1", "hs", "k_r2i_hs", "k_i2r_hs")] == [th1, hs, k_r2i, k_i2r]
    statement_r = b"cryprq v2 responder\x00" + sha(th1, record_of(listener))
    assert b(case["responder_statement"]) == statement_r
    m2 = clear + AESGCM(k_r2i).encrypt(bytes(12), proof(listener, statement_r, drawn["listener"]), th1)
    assert b(case["m2"]) == m2

    th2 = sha(b"cryprq v2 th2", th1, m2)
    statement_i = b"cryprq v2 initiator\x00" + sha(th2, record_of(dialer))
    assert [b(case[name]) for name in ("th2", "initiator_statement")] == [th2, statement_i]
    plain = proof(dialer, statement_i, drawn["dialer"]) + b(inputs["parameters_i"])
    m3 = AESGCM(k_i2r).encrypt(bytes(12), plain, th2)
    assert b(case["m3"]) == m3

    th3 = sha(b"cryprq v2 th3", th2, m3)
    psk = bytes(32) if inputs["psk"] is None else b(inputs["psk"])
    root = expand(mac(hs, psk), b"cryprq v2 root" + th3)
    k_accept = expand(root, b"cryprq v2 accept")
    assert [b(case[name]) for name in ("th3", "k_accept")] == [th3, k_accept]
    assert b(case["m4"]) == AESGCM(k_accept).encrypt(bytes(12), b"\x00" + b(inputs["parameters_r"]), th3)
    check_epoch(case["epoch_0"], root, {"i2r": inputs["lanes_i"], "r2i": inputs["lanes_r"]})


@handshakes
def test_rotation(case: dict[str, Any]) -> None:
    rotation, kem = case["rotation"], case["kem"]
    inputs = rotation["inputs"]
    agreement = Agreement(inputs, kem, case["drawn"]["rotation"])
    agreement.check(rotation)
    root = b(case["epoch_0"]["root"])
    r1 = u32(1) + agreement.ek + agreement.x25519_i + u32(inputs["index_i"])
    r2 = u32(1) + agreement.ct + agreement.x25519_r + u32(inputs["index_r"])
    salt = expand(root, b"cryprq v2 rekey salt")
    new = mac(salt, *agreement.secrets, sha(b"cryprq v2 rekey", r1, r2))
    tag_r, tag_i = (mac(expand(new, f"cryprq v2 confirm {end}".encode()), sha(r1, r2)) for end in "ri")
    assert [b(rotation[name]) for name in ("r1", "r2", "tag_r", "tag_i")] == [r1, r2 + tag_r, tag_r, tag_i]
    check_epoch(rotation["epoch_1"], new, {"i2r": case["inputs"]["lanes_i"], "r2i": case["inputs"]["lanes_r"]})
    old_i2r, old_r2i = (expand(root, b"cryprq v2 control " + direction) for direction in (b"i2r", b"r2i"))
    new_i2r, new_r2i = (expand(new, b"cryprq v2 control " + direction) for direction in (b"i2r", b"r2i"))
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


def test_all_suites_kems_and_kinds_are_covered_with_and_without_a_pre_shared_key() -> None:
    cases, identities = VECTORS["handshakes"], VECTORS["identities"]
    kinds = {tuple(identities[case["inputs"][end]]["kind"] for end in ("dialer", "listener")) for case in cases}
    assert {(case["aead"], case["kem"]) for case in cases} == {(1, 1), (2, 2), (1, 3)}
    assert kinds == {(1, 1), (2, 2), (1, 2)}
    assert {case["inputs"]["psk"] is None for case in cases} == {True, False}


def test_script_writes_the_same_file_again() -> None:
    """The state machines, run on the inputs, say what the file says."""
    script = runpy.run_path(str(ROOT / "scripts" / "make_vectors.py"))
    assert script["build"](script["recorded"]()) == VECTORS


def test_script_draws_other_ciphertexts_and_signatures_when_it_has_none() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "make_vectors.py"))
    (fresh,) = script["build"]({}, script["CASES"][:1])["handshakes"]
    assert fresh["m1"] == VECTORS["handshakes"][0]["m1"]
    assert fresh["m2"] != VECTORS["handshakes"][0]["m2"]
