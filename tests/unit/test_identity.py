"""Identity files, peer IDs, and the keys behind them."""

import base64
import hashlib
import hmac
import os
import stat
from pathlib import Path

import cryptography_vectors
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA87PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from cryprq.config.identity_file import IdentityError, create_identity, load_identity, load_or_create_identity
from cryprq.peer_id import KIND_MLDSA65, KIND_MLDSA87, RECORD_SIZES, PeerId
from cryprq.protocol.frames import Cursor, FrameError
from cryprq.protocol.identity import KINDS, SIG_ED25519_SIZE, Identity, Proof, verify_record

BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
SEED = bytes(range(32))
OTHER = PeerId(bytes(32))


@pytest.fixture(scope="module")
def identity() -> Identity:
    return Identity.from_seed(SEED)


def hkdf(seed: bytes, info: bytes) -> bytes:
    """RFC 5869 by hand for one block of output."""
    prk = hmac.digest(bytes(32), seed, "sha256")
    return hmac.digest(prk, info + b"\x01", "sha256")


def base58(data: bytes) -> str:
    """The digits by repeated division of the bytes themselves."""
    digits = ""
    while any(data):
        quotient, remainder = bytearray(), 0
        for byte in data:
            remainder = remainder * 256 + byte
            quotient.append(remainder // 58)
            remainder %= 58
        digits = BASE58[remainder] + digits
        data = bytes(quotient)
    return digits


# ---- keys ----


def test_mldsa65_public_key_of_published_seed() -> None:
    # NIST's FIPS 204 key generation, as cryptography-vectors has it: what Identity relies on from the library.
    path = Path(cryptography_vectors.__file__).parent / "asymmetric/MLDSA/kat_MLDSA_65_det_pure.rsp"
    fields: dict[str, bytes] = {}
    checked = 0
    for line in path.read_text().splitlines():
        name, _, value = line.partition(" = ")
        if name in ("xi", "pk"):
            fields[name] = bytes.fromhex(value)
        if len(fields) == 2:
            public = MLDSA65PrivateKey.from_seed_bytes(fields["xi"]).public_key().public_bytes_raw()
            assert public == fields["pk"]
            fields.clear()
            checked += 1
            if checked == 5:
                return
    pytest.fail("the vector file has fewer than five key pairs")


def test_record_is_kind_and_both_keys_of_the_derived_seeds(identity: Identity) -> None:
    """Of the first kind, derivation and ID are as they were before there were kinds."""
    ed25519 = Ed25519PrivateKey.from_private_bytes(hkdf(SEED, b"cryprq v1 identity ed25519"))
    mldsa65 = MLDSA65PrivateKey.from_seed_bytes(hkdf(SEED, b"cryprq v1 identity ml-dsa-65"))
    public = ed25519.public_key().public_bytes_raw() + mldsa65.public_key().public_bytes_raw()
    assert identity.record == b"\x01" + public
    assert len(identity.record) == RECORD_SIZES[KIND_MLDSA65] == 1985
    assert identity.peer_id.digest == hashlib.sha256(b"cryprq v1 peer id" + public).digest()


def test_record_of_the_second_kind() -> None:
    identity = Identity.from_seed(SEED, KIND_MLDSA87)
    ed25519 = Ed25519PrivateKey.from_private_bytes(hkdf(SEED, b"cryprq v2 identity ed25519 of ml-dsa-87"))
    mldsa87 = MLDSA87PrivateKey.from_seed_bytes(hkdf(SEED, b"cryprq v2 identity ml-dsa-87"))
    expected = b"\x02" + ed25519.public_key().public_bytes_raw() + mldsa87.public_key().public_bytes_raw()
    assert identity.record == expected
    assert len(identity.record) == RECORD_SIZES[KIND_MLDSA87] == 2625
    assert identity.peer_id.digest == hashlib.sha256(b"cryprq v2 peer id" + expected).digest()


def test_seed_of_another_size_refused() -> None:
    for size in (0, 31, 33, 64):
        with pytest.raises(ValueError, match="32 bytes"):
            Identity.from_seed(bytes(size))


def test_from_seed_leaves_the_buffer_alone() -> None:
    seed = bytearray(SEED)
    Identity.from_seed(seed)
    assert seed == SEED


def test_generated_identities_differ() -> None:
    assert Identity.generate().peer_id != Identity.generate().peer_id


def test_repr_shows_the_peer_id_only(identity: Identity) -> None:
    assert repr(identity) == f"<Identity {identity.peer_id}>"


# ---- signatures ----


@pytest.fixture(params=KINDS, ids=lambda kind: KINDS[kind].signature)
def signer(request: pytest.FixtureRequest) -> Identity:
    """An identity of each kind."""
    return Identity.from_seed(SEED, request.param)


def test_both_signatures_verify(signer: Identity) -> None:
    ed25519, mldsa = signer.sign(b"message")
    assert (len(ed25519), len(mldsa)) == (SIG_ED25519_SIZE, signer.kind.sig_mldsa_size)
    assert verify_record(signer.record, b"message", ed25519, mldsa)


def test_each_signature_is_needed(signer: Identity) -> None:
    ed25519, mldsa = signer.sign(b"message")
    wrong_ed25519, wrong_mldsa = signer.sign(b"another message")
    assert not verify_record(signer.record, b"message", wrong_ed25519, mldsa)
    assert not verify_record(signer.record, b"message", ed25519, wrong_mldsa)
    assert not verify_record(signer.record, b"another message", ed25519, mldsa)


def test_ml_dsa_signature_without_our_context_refused(signer: Identity) -> None:
    """What the key may have signed for another protocol says nothing in this one."""
    ed25519, _ = signer.sign(b"message")
    key = signer.kind.private_key.from_seed_bytes(hkdf(SEED, signer.kind.mldsa_label))
    assert verify_record(signer.record, b"message", ed25519, key.sign(b"message", b"cryprq v2 identity"))
    assert not verify_record(signer.record, b"message", ed25519, key.sign(b"message"))
    assert not verify_record(signer.record, b"message", ed25519, key.sign(b"message", b"cryprq v1 identity"))


def test_each_key_of_the_record_counts(signer: Identity) -> None:
    signatures = signer.sign(b"message")
    other = Identity.from_seed(bytes(32), signer.kind.number).record
    assert not verify_record(other[:33] + signer.record[33:], b"message", *signatures)
    assert not verify_record(signer.record[:33] + other[33:], b"message", *signatures)


def test_proof_is_read_as_it_was_written(signer: Identity) -> None:
    proof = Proof.of(signer, b"message")
    cursor = Cursor(proof.encode() + b"more")
    assert Proof.take(cursor) == proof
    assert cursor.rest() == b"more"
    assert (proof.peer_id, proof.kind) == (signer.peer_id, signer.kind)
    assert proof.verify(b"message")
    assert not proof.verify(b"another message")


@pytest.mark.parametrize("kind", [0, 3, 255])
def test_proof_of_an_unknown_kind_or_too_short_is_refused(kind: int) -> None:
    encoded = Proof.of(Identity.from_seed(SEED), b"message").encode()
    for data in (b"", encoded[:-1], bytes((kind,)) + encoded[1:]):
        with pytest.raises(FrameError):
            Proof.take(Cursor(data))


@given(record=st.binary(max_size=64), ed25519=st.binary(max_size=80), mldsa=st.binary(max_size=80))
def test_verify_never_raises_for_wrong_sizes(record: bytes, ed25519: bytes, mldsa: bytes) -> None:
    assert verify_record(record, b"", ed25519, mldsa) is False


@given(kind=st.sampled_from(sorted(KINDS)), fill=st.binary(min_size=1, max_size=64))
def test_verify_never_raises_for_garbage_of_the_right_size(kind: int, fill: bytes) -> None:
    def garbage(size: int) -> bytes:
        return (fill * size)[:size]

    record = bytes((kind,)) + garbage(RECORD_SIZES[kind] - 1)
    assert not verify_record(record, fill, garbage(SIG_ED25519_SIZE), garbage(KINDS[kind].sig_mldsa_size))


# ---- peer IDs ----


@given(st.binary(min_size=32, max_size=32))
def test_peer_id_round_trip(digest: bytes) -> None:
    text = str(PeerId(digest))
    assert text == base58(b"\x12\x20" + digest)
    assert len(text) == 46
    assert text.startswith("Qm")
    assert PeerId.parse(text) == PeerId(digest)


def test_peer_id_of_published_multihash() -> None:
    # The empty IPFS directory, the best known of all base58 SHA2-256 multihashes.
    digest = hashlib.sha256(bytes.fromhex("0a020801")).digest()
    assert str(PeerId(digest)) == "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"


@given(st.text(max_size=60))
def test_any_other_text_is_no_peer_id(text: str) -> None:
    with pytest.raises(ValueError, match="is not a peer ID") as caught:
        PeerId.parse(text)
    assert "\n" not in str(caught.value)


@given(position=st.integers(0, 45), character=st.sampled_from(BASE58 + "0OIl+/ é\n"))
def test_changed_character_never_gives_the_same_peer_id(position: int, character: str) -> None:
    good = str(OTHER)
    changed = good[:position] + character + good[position + 1 :]
    if changed == good:
        return
    try:
        parsed = PeerId.parse(changed)
    except ValueError:
        return
    assert parsed != OTHER


@pytest.mark.parametrize(
    "text",
    [
        f"1{OTHER}",
        f"{OTHER} ",
        f" {OTHER}",
        str(OTHER)[:-1],
        "z" * 46,
        "1" * 46,
        base58(b"\x13\x20" + bytes(32)),
        base58(b"\x12\x21" + bytes(32)),
        "12D3KooWGzxzKZYveHXtpG6AsrUJBcWxHBFS2HsEoGTxrMLvKXtf",
        "",
    ],
)
def test_forms_that_are_not_canonical_refused(text: str) -> None:
    with pytest.raises(ValueError):
        PeerId.parse(text)


def test_peer_ids_compare_by_digest() -> None:
    low, high = PeerId(bytes(32)), PeerId(b"\x01" + bytes(31))
    assert low < high
    assert len({low, PeerId(bytes(32)), high}) == 2
    assert repr(low) == f"PeerId('{low}')"
    with pytest.raises(ValueError):
        PeerId(bytes(31))
    with pytest.raises(ValueError):
        PeerId.of_record(b"\x01" + bytes(RECORD_SIZES[KIND_MLDSA65]))
    with pytest.raises(ValueError):
        PeerId.of_record(b"\x02" + bytes(RECORD_SIZES[KIND_MLDSA65] - 1))
    with pytest.raises(ValueError):
        PeerId.of_record(b"")


# ---- the file ----


def test_created_file_is_private_and_loads(tmp_path: Path) -> None:
    path = tmp_path / "state" / "identity"
    created = create_identity(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert os.listdir(path.parent) == ["identity"]
    assert load_identity(path).record == created.record
    assert load_or_create_identity(path).record == created.record


def test_file_has_the_documented_form(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    check = hashlib.sha256(b"cryprq v1 identity file" + SEED).digest()[:10]
    path.write_bytes(b"cryprq-identity-v1 " + base64.b64encode(SEED + check) + b"\n")
    path.chmod(0o600)
    assert load_identity(path).peer_id == Identity.from_seed(SEED).peer_id
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert load_identity(path).peer_id == Identity.from_seed(SEED).peer_id


def test_file_of_the_second_kind_has_the_documented_form(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    check = hashlib.sha256(b"cryprq v2 identity file ml-dsa-87" + SEED).digest()[:10]
    path.write_bytes(b"cryprq-identity-v2 ml-dsa-87 " + base64.b64encode(SEED + check) + b"\n")
    path.chmod(0o600)
    assert load_identity(path).record == Identity.from_seed(SEED, KIND_MLDSA87).record
    made = create_identity(tmp_path / "made", KIND_MLDSA87)
    assert made.record[0] == KIND_MLDSA87
    assert load_identity(tmp_path / "made").record == made.record


def test_seed_under_the_other_kinds_beginning_is_damage(tmp_path: Path) -> None:
    """Else one character more or less would make another identity."""
    path = tmp_path / "identity"
    create_identity(path)
    path.write_bytes(path.read_bytes().replace(b"-v1 ", b"-v2 ml-dsa-87 "))
    with pytest.raises(IdentityError, match="damaged"):
        load_identity(path)


def test_private_despite_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o777)
    try:
        (tmp_path / "d").mkdir()
        (tmp_path / "d").chmod(0o700)
        create_identity(tmp_path / "d/identity")
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "d/identity").stat().st_mode) == 0o600


def test_create_never_replaces(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    path.write_text("precious")
    with pytest.raises(IdentityError, match="never overwritten"):
        create_identity(path)
    assert path.read_text() == "precious"
    assert os.listdir(tmp_path) == ["identity"]


def test_create_does_not_follow_a_dangling_link(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IdentityError):
        create_identity(path)
    with pytest.raises(IdentityError):
        load_or_create_identity(path)
    assert os.listdir(tmp_path) == ["identity"]


def test_load_follows_a_link_to_a_private_file(tmp_path: Path) -> None:
    created = create_identity(tmp_path / "real")
    (tmp_path / "identity").symlink_to("real")
    assert load_identity(tmp_path / "identity").peer_id == created.peer_id


def test_every_damaged_byte_is_noticed_and_the_file_kept(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    create_identity(path)
    good = path.read_bytes()
    damaged = [good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :] for at in range(len(good)) for bit in (0x01, 0x20)]
    damaged += [b"", good[:-2], good[:40], good + b"\n", good + b"x", good * 2, b"\0" * len(good), b" " + good]
    for data in damaged:
        path.write_bytes(data)
        for load in (load_identity, load_or_create_identity):
            with pytest.raises(IdentityError, match="is damaged") as caught:
                load(path)
            assert "\n" not in str(caught.value)
        assert path.read_bytes() == data


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644, 0o610, 0o601, 0o620])
def test_file_open_to_others_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "identity"
    create_identity(path)
    path.chmod(mode)
    with pytest.raises(IdentityError, match=f"open to others.*{mode:04o}.*chmod 600"):
        load_or_create_identity(path)


def test_read_only_file_loads(tmp_path: Path) -> None:
    path = tmp_path / "identity"
    create_identity(path)
    path.chmod(0o400)
    load_identity(path)


def test_file_of_another_user_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "identity"
    create_identity(path)
    real = os.fstat

    def owned_by(uid: int) -> None:
        def fake(descriptor: int) -> os.stat_result:
            fields = list(real(descriptor))
            fields[4] = uid
            return os.stat_result(fields)

        monkeypatch.setattr(os, "fstat", fake)

    monkeypatch.setattr(os, "geteuid", lambda: 1234)
    owned_by(4321)
    with pytest.raises(IdentityError, match="another user"):
        load_identity(path)
    for uid in (0, 1234):
        owned_by(uid)
        load_identity(path)
    owned_by(4321)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    load_identity(path)


def test_what_is_no_file_is_refused_without_hanging(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo, 0o600)
    for path in (fifo, tmp_path):
        with pytest.raises(IdentityError):
            load_identity(path)


def test_missing_file_and_unusable_directory_say_so(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="cryprq keygen --out"):
        load_identity(tmp_path / "none")
    (tmp_path / "file").touch()
    with pytest.raises(IdentityError, match="cannot make"):
        create_identity(tmp_path / "file" / "identity")


def test_loser_of_a_race_takes_the_winners_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "identity"
    real = os.link
    winner: list[Identity] = []

    def link(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "link", real)
        winner.append(create_identity(path))
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    assert load_or_create_identity(path).peer_id == winner[0].peer_id
    assert os.listdir(tmp_path) == ["identity"]
