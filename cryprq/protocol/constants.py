"""The constants of the protocol: what docs/protocol.md names, and what both ends must agree on. Times are in seconds,
sizes in bytes. A number that only one node chooses for itself stands on top of the file that acts on it.

The limits that the data plane enforces per record are stated again in ``csrc/cq_wire.h``; a test compares them.
"""

from typing import Final

PROTOCOL_VERSION: Final = 2
VERSION_MAX: Final = PROTOCOL_VERSION
"""The highest version that this node speaks, which M1 and M2 say: a handshake is in the highest that both ends speak,
or it ends. A node that speaks a later one as well has a later value here; version 2 itself stays as it is."""
ALPN: Final = f"cryprq/{PROTOCOL_VERSION}"
QUIC_FIRST_BYTE: Final = 0x40
"""A datagram whose first byte is at least this is QUIC, any other a data record (RFC 9000, 17.2 and 17.3)."""

# ---- algorithms ----

AEAD_AES_256_GCM: Final = 1
AEAD_CHACHA20_POLY1305: Final = 2
AEADS: Final = (AEAD_AES_256_GCM, AEAD_CHACHA20_POLY1305)
AEAD_NAMES: Final = {AEAD_AES_256_GCM: "aes-256-gcm", AEAD_CHACHA20_POLY1305: "chacha20-poly1305"}

KEM_X25519_MLKEM768: Final = 1
KEM_X25519_MLKEM1024: Final = 2
KEM_X25519_MLKEM768_FRODOKEM976: Final = 3
KEM_NAMES: Final = {
    KEM_X25519_MLKEM768: "x25519-mlkem768",
    KEM_X25519_MLKEM1024: "x25519-mlkem1024",
    KEM_X25519_MLKEM768_FRODOKEM976: "x25519-mlkem768-frodokem976aes",
}
KEMS: Final = tuple(KEM_NAMES)
KEMS_DEFAULT: Final = (KEM_X25519_MLKEM768, KEM_X25519_MLKEM1024)
"""What a node accepts if nobody says, the one that it dials with first: those that need no further library."""

SIGNATURE_CONTEXT: Final = b"cryprq v2 identity"
"""The context string (FIPS 204, 5.2) of every ML-DSA signature that an identity makes."""

KEY_SIZE: Final = 32
IV_SIZE: Final = 12
TAG_SIZE: Final = 16
HASH_SIZE: Final = 32
PSK_SIZE: Final = 32
"""Of a pre-shared key."""
NONCE_SIZE: Final = 32
X25519_SIZE: Final = 32
LANE_SECRET_SIZE: Final = KEY_SIZE + IV_SIZE
LANES_MAX: Final = 64
RX_LANES_LEAST: Final = 8
"""On so many lanes every node receives, and on as many as it has workers: keys of more would serve nobody."""

# ---- control channel: frames and QUIC ----

FRAME_HEADER_SIZE: Final = 4
FRAME_MAX: Final = 24 * 1024
"""Largest frame, header included: an M2 with the longest ciphertext and the longest proof of identity just fits."""

QUIC_IDLE_TIMEOUT: Final = 190.0
"""What a node offers; the shorter of both ends' counts (RFC 9000, 10.1), and older nodes offer 25."""
QUIC_KEEPALIVE: Final = 10.0
"""Of a dialer whose data plane does not ask whether the peer is there, ..."""
QUIC_KEEPALIVE_SHARE: Final = 0.4
"""... and of any other as a share of the idle timeout: one that is lost leaves time for the next."""
QUIC_ANSWER_WITHIN: Final = 15.0
"""A connection is lost unless the peer answers a keepalive within this."""
M1_TIMEOUT: Final = 5.0
"""From the completed QUIC handshake to a whole M1."""
HANDSHAKE_TIMEOUT: Final = 10.0
"""From a connection's first datagram to a verified M3 (listener) or an opened M4 (dialer)."""
ROUND_TRIP_MAX: Final = 6.0
"""The longest round trip over which two nodes connect: seven times that of a geostationary satellite. ..."""
HANDSHAKE_ROUND_TRIPS: Final = 4
"""... A handshake may take so many of them, two and a loss, where that is more than ``HANDSHAKE_TIMEOUT``, ..."""
ANSWER_ROUND_TRIPS: Final = 3
"""... and one question and its answer so many: one and a loss (RFC 9002, 6.2.1)."""

# ---- data records ----

MESSAGE_PING: Final = 0x12
"""An in-band message: whoever gets it answers at once with an empty record. (``CQ_MESSAGE_PING`` in ``csrc/``)"""
# ---- the knock in the first datagram ----

KNOCK_STEP: Final = 30
"""Seconds of Unix time for which one knock is good, and for as long before and after."""
KNOCK_RANDOM_SIZE: Final = 8
"""What a client's first destination connection ID has to have of unpredictable bytes (RFC 9000, 7.2)."""
KNOCK_TAG_SIZE: Final = 12
"""Together with them the longest connection ID that there is (RFC 9000, 17.2)."""

# ---- dialer ----

DIAL_TIMEOUT: Final = 5.0
"""For the first dial; each further one waits so much longer for QUIC, up to ``DIAL_TIMEOUT_MAX``."""
DIAL_TIMEOUT_MAX: Final = 15.0
"""Two round trips of the longest, since there may be a Retry, and a margin."""
PROBE_TIMEOUT: Final = 3.0
"""A connection whose peer is in doubt is lost unless the peer answers a ping within this."""

# ---- session and rotation ----

ROTATE_SECS_MIN: Final = 5
ROTATE_SECS_MAX: Final = 3600
ROTATE_FLOOR_MAX: Final = 300
"""The least interval that an end may ask the other for: no peer makes anybody rotate less often than by default."""
ROTATE_MIN_INTERVAL: Final = 1.0
"""Least time between the starts of two rotations, ..."""
ROTATE_BURST: Final = 8
"""... but for so many at once, which a listener lets pass: what was on its way for long may arrive together."""
ROTATE_RESPONSE_TIMEOUT: Final = 15.0
"""No R2 after R1 within this: the dialer closes the connection and dials afresh."""
PROMOTE_TIMEOUT: Final = 15.0
"""A session that was installed and not promoted within this is wiped."""
EMPTY_INTERVAL: Final = 1.0
"""The dialer repeats an empty record on a new epoch this often until a valid record of it arrives."""
ANSWER_PERIOD: Final = 15.0
"""The listener, which cannot know whether its empty record on a new epoch arrived, repeats it at the same pace for so
long: as long as the dialer waits for it (``PROMOTE_TIMEOUT``)."""
GRACE: Final = 10.0
"""How long the epoch before the current one still receives."""
HARD_AGE_FLOOR: Final = 30
HARD_AGE_MARGIN: Final = 150
"""An epoch's keys are destroyed at the age of max(rotate_secs, HARD_AGE_FLOOR) + HARD_AGE_MARGIN."""
RECORDS_SOFT: Final = 2**26
RECORDS_HARD: Final = 2**28
BLOCKS_SOFT: Final = 2**34
BLOCKS_HARD: Final = 2**35
"""Records, and blocks of 16 bytes, under one key (RFC 9001, B.1, for an advantage of 2^-57)."""
EPOCH_MAX: Final = 2**32 - 1
CLOSE_REASON_MAX: Final = 64
"""Length of the reason in a CLOSE frame."""

# ---- data records ----

RECORD_OVERHEAD: Final = 32
"""Header and tag."""
PROBE_SIZE_MIN: Final = RECORD_OVERHEAD + 11
"""A record with nothing in it but a PATH_PROBE."""

# ---- tunnel parameters ----

MTU_MIN: Final = 576
MTU_PARAMETER_MAX: Final = 65_535
"""What the parameter can say."""
MTU_SEALABLE_MAX: Final = 65_455
"""What a node can send: a packet of this size, sealed, is the largest datagram (65,487 bytes, ``CQ_SEND_MAX``)."""
MTU_MIN_IPV6: Final = 1280
ADDRESSES_MAX: Final = 8
"""Addresses that a gateway may assign in one M4."""
ROUTES_MAX: Final = 256
"""Routes that a gateway may announce in one M4."""
NAME_SERVERS_MAX: Final = 8
"""Name servers that a gateway may name in one M4; resolvers ask three or so."""
SEARCH_MAX: Final = 32
"""Search domains in one M4: a parameter of 8 KiB at most, which leaves room in the frame for everything else."""
KEEPALIVE_DEFAULT: Final = 10
"""Seconds without a record after which a listener wants an empty one from its dialer."""
KEEPALIVE_MAX: Final = 3600
MESSAGES_FIRST: Final = 0x10
MESSAGES_LAST: Final = 0x1F
"""The types that an in-band message can have."""
SERIAL_LIFE_SIZE: Final = 8
"""Of what tells apart the runs, and the memory, from which a listener numbers a peer's sessions."""
INVITATION_ID_SIZE: Final = 8
INVITATION_SECRET_SIZE: Final = 16
"""Of an invitation's secret: nobody can try one without a handshake, which is limited, or the registry."""
TOKEN_MAX: Final = 256
"""Bytes of a token that a gateway may give in M4: the dialer's first datagram has room for it."""


def hard_age(rotate_secs: int) -> float:
    """The age in seconds at which an epoch's keys are destroyed, whatever else happens (protocol, 3.3)."""
    return float(max(rotate_secs, HARD_AGE_FLOOR) + HARD_AGE_MARGIN)
