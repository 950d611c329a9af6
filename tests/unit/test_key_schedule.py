"""The key schedule: HKDF against RFC 5869, every label once, wiping, the keys of control frames."""

import hashlib
import hmac
import re

import pytest

from cryprq.config.node_config import BUSY_POLL_US_MAX
from cryprq.protocol import constants, key_schedule
from cryprq.protocol.actions import Install
from cryprq.protocol.clock import Boottime
from cryprq.protocol.identity import Identity
from cryprq.protocol.kem import Encapsulation
from cryprq.protocol.key_schedule import ControlKey, EpochKeys, NextRoot, wipe
from cryprq.protocol.rekey import Agreed, ControlChannel
from lab import ROOT

RFC5869 = [
    # A.1: basic
    (
        "0b" * 22,
        "000102030405060708090a0b0c",
        "f0f1f2f3f4f5f6f7f8f9",
        42,
        "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5",
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
    ),
    # A.2: longer inputs and output
    (
        bytes(range(0x50)).hex(),
        bytes(range(0x60, 0xB0)).hex(),
        bytes(range(0xB0, 0x100)).hex(),
        82,
        "06a6b88c5853361a06104c9ceb35b45cef760014904671014a193f40c15fc244",
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09"
        "da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
    ),
    # A.3: empty salt and info
    (
        "0b" * 22,
        "",
        "",
        42,
        "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04",
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
    ),
]


@pytest.mark.parametrize(("ikm", "salt", "info", "size", "prk", "okm"), RFC5869)
def test_hkdf_known_answers(ikm: str, salt: str, info: str, size: int, prk: str, okm: str) -> None:
    extracted = key_schedule.extract(bytes.fromhex(salt), bytes.fromhex(ikm))
    assert extracted.hex() == prk
    assert key_schedule.expand(extracted, bytes.fromhex(info), size).hex() == okm


def test_every_derivation_gives_another_value() -> None:
    """One root, one secret, one hash as inputs everywhere: what comes out must differ by its label alone."""
    x = bytes(range(32))
    following = key_schedule.next_root(x, x + x, x, x)
    values = [
        key_schedule.knock(x, x, x),
        key_schedule.transcript1(x, x, b""),
        key_schedule.transcript2(x, x),
        key_schedule.transcript3(x, x),
        key_schedule.responder_statement(x, x),
        key_schedule.initiator_statement(x, x),
        key_schedule.handshake_secret(x, x),
        key_schedule.handshake_key(x, key_schedule.I2R),
        key_schedule.handshake_key(x, key_schedule.R2I),
        key_schedule.first_root(x, None, b""),
        key_schedule.accept_key(x),
        key_schedule.control_key(x, key_schedule.I2R),
        key_schedule.control_key(x, key_schedule.R2I),
        following.root,
        following.tag_r,
        following.tag_i,
    ]
    for direction in (key_schedule.I2R, key_schedule.R2I):
        secrets = key_schedule.data_secrets(x, direction, constants.LANES_MAX)
        for start in range(0, len(secrets), 44):
            values += [secrets[start : start + 32], secrets[start + 32 : start + 44]]
    assert len({bytes(value) for value in values}) == len(values)


def test_next_root_depends_on_every_input() -> None:
    inputs = [bytes(32), bytes(64), bytes(100), bytes(200)]
    good = key_schedule.next_root(*inputs)
    for place, value in enumerate(inputs):
        changed = inputs.copy()
        changed[place] = value[:-1] + b"\x01"
        other = key_schedule.next_root(*changed)
        assert other.root != good.root
        assert other.tag_r != good.tag_r
        assert other.tag_i != good.tag_i


def test_lane_secrets_do_not_depend_on_the_number_of_lanes() -> None:
    few, many = (key_schedule.data_secrets(bytes(32), key_schedule.I2R, lanes) for lanes in (2, 5))
    assert many.startswith(few)


def test_data_secrets_are_the_labels_of_the_protocol() -> None:
    """Spelled out with HMAC: T(1) = HMAC(root, info || 0x01)."""
    root = bytes(range(32))
    secrets = key_schedule.data_secrets(root, key_schedule.R2I, 3)
    key = hmac.digest(root, b"cryprq v2 data r2i key\x02\x01", "sha256")
    iv = hmac.digest(root, b"cryprq v2 data r2i iv\x02\x01", "sha256")[:12]
    assert secrets[88:] == key + iv


def test_knock_is_the_hmac_of_the_protocol() -> None:
    key = hashlib.sha256(b"cryprq v2 knock" + bytes(32)).digest()
    assert key_schedule.knock(bytes(32), b"B" * 32, b"M1") == hmac.digest(key, b"B" * 32 + b"M1", "sha256")


def test_wipe_overwrites_in_place() -> None:
    buffer = bytearray(b"secret")
    wipe(buffer, None, bytearray())
    assert buffer == bytes(6)


def test_epoch_keys_wipe_and_keep_quiet() -> None:
    keys = EpochKeys(3, 1, 0xA, 0xB, bytearray(b"t" * 44), bytearray(b"r" * 44), Boottime(0.0))
    assert "ttt" not in repr(keys)
    keys.wipe()
    assert not any(keys.tx_secrets)
    assert not any(keys.rx_secrets)


def test_nothing_that_holds_a_secret_shows_it() -> None:
    """Logs, tracebacks and failed assertions print reprs."""
    secret = bytes(range(65, 97))
    keys = EpochKeys(1, 1, 2, 3, bytearray(secret), bytearray(secret), Boottime(0.0))
    holders = (
        NextRoot(bytearray(secret), secret, secret),
        Agreed(1, 2, bytearray(secret), b"a frame"),
        Encapsulation(b"ct", b"x", bytearray(secret)),
        Install(keys, 1.0),
        ControlKey(bytearray(secret), key_schedule.I2R),
        ControlChannel(bytearray(secret), dials=True, kem=1),
        Identity.from_seed(secret),
    )
    for holder in holders:
        assert secret[:4].decode() not in repr(holder)
        assert secret[:4].hex() not in repr(holder)


def test_sealed_once_opens_with_the_same_key_and_data_only() -> None:
    sealed = key_schedule.seal_once(bytes(32), b"aad", b"text")
    assert key_schedule.open_once(bytes(32), b"aad", sealed) == b"text"
    assert key_schedule.open_once(bytes(31) + b"\1", b"aad", sealed) is None
    assert key_schedule.open_once(bytes(32), b"add", sealed) is None
    for size in range(len(sealed)):
        assert key_schedule.open_once(bytes(32), b"aad", sealed[:size]) is None


# ---- control keys ----


def test_control_key_counts_and_only_a_success_moves_the_counter() -> None:
    sender, receiver = ControlKey(bytes(32), key_schedule.I2R), ControlKey(bytes(32), key_schedule.I2R)
    first, second = sender.seal(b"head", b"same"), sender.seal(b"head", b"same")
    assert first != second
    assert receiver.open(b"head", second) is None, "out of order"
    assert receiver.open(b"haed", first) is None, "another header"
    assert receiver.open(b"head", first) == b"same"
    assert receiver.open(b"head", first) is None, "repeated"
    assert receiver.open(b"head", second) == b"same"
    assert receiver.open(b"head", b"") is None


def test_control_nonce_is_four_zero_bytes_and_the_counter() -> None:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    root = bytes(range(32))
    sender = ControlKey(root, key_schedule.R2I)
    sender.seal(b"", b"")
    key = hmac.digest(root, b"cryprq v2 control r2i\x01", "sha256")
    assert AESGCM(key).decrypt(bytes(11) + b"\x01", sender.seal(b"head", b"text"), b"head") == b"text"


# ---- one set of limits ----


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CQ_RECORDS_SOFT", constants.RECORDS_SOFT),
        ("CQ_RECORDS_HARD", constants.RECORDS_HARD),
        ("CQ_BLOCKS_SOFT", constants.BLOCKS_SOFT),
        ("CQ_BLOCKS_HARD", constants.BLOCKS_HARD),
        ("CQ_KEY_SIZE", constants.KEY_SIZE),
        ("CQ_IV_SIZE", constants.IV_SIZE),
        ("CQ_TAG_SIZE", constants.TAG_SIZE),
        ("CQ_LANES_MAX", constants.LANES_MAX),
        ("CQ_QUIC_FIRST_BYTE", constants.QUIC_FIRST_BYTE),
        ("CQ_MESSAGE_PING", constants.MESSAGE_PING),
        ("CQ_MTU_MIN", constants.MTU_MIN),
        ("CQ_MTU_MAX", constants.MTU_SEALABLE_MAX),
        ("CQ_BUSY_POLL_US_MAX", BUSY_POLL_US_MAX),
    ],
)
def test_limits_are_those_of_the_data_plane(name: str, value: int) -> None:
    headers = "".join(path.read_text() for path in (ROOT / "csrc").glob("*.h"))
    found = re.findall(rf"#define {name} (?:\(\(uint64_t\)1 << (\d+)\)|(\w+)u\b)", headers)
    assert len(found) == 1
    shift, number = found[0]
    assert value == (2 ** int(shift) if shift else int(number, 0))


@pytest.mark.parametrize(("rotate_secs", "age"), [(5, 180.0), (30, 180.0), (31, 181.0), (300, 450.0), (3600, 3750.0)])
def test_hard_age(rotate_secs: int, age: float) -> None:
    assert constants.hard_age(rotate_secs) == age


def test_limits_that_the_protocol_names_exist() -> None:
    text = (ROOT / "docs" / "protocol.md").read_text()
    names = set(re.findall(r"\(`([A-Z][A-Z0-9_]+)`\)", text))
    assert len(names) >= 6
    assert not [name for name in names if not hasattr(constants, name)]
