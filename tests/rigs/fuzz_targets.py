"""What strangers' bytes reach in Python, one function each: it takes any bytes at all, and raises only if something
that must hold does not. scripts/fuzz.py looks for such bytes, guided by coverage; tests/unit/test_fuzz_targets.py takes
those of tests/corpus/."""

from collections.abc import Callable
from typing import Final

from cryprq.address import Address, Local
from cryprq.peer_id import PeerId
from cryprq.protocol.clock import Monotonic, Realtime
from cryprq.protocol.constants import ADDRESSES_MAX, FRAME_MAX, ROUTES_MAX
from cryprq.protocol.frames import Cursor, FrameError, FrameReader, encode
from cryprq.protocol.parameters import Parameters
from cryprq.quic.gate import Credentials, Drop, Gate, GateLimits, Negotiate, Open, Retry, Wait
from cryprq.quic.knocks import make_knock

_LIMITS: Final = GateLimits(max_inbound=4, backoff_base_ms=100, backoff_max_ms=1000)
_CREDENTIALS: Final = Credentials(peer_id=b"p" * 32, token_key=b"k" * 32)
_AMPLIFICATION_MAX: Final = 3
"""RFC 9000, 8.1: of what an address has sent, before it is proven."""


def frames(data: bytes) -> None:
    """A stream: byte 0 says in which pieces it comes. It is cut into the same frames, or refused, however it comes."""
    piece, stream = data[0] + 1 if data else 1, data[1:]
    whole, pieces = FrameReader(), FrameReader()
    got = []
    try:
        for at in range(0, len(stream), piece):
            got += pieces.feed(stream[at : at + piece])
            assert pieces.pending < FRAME_MAX
    except FrameError:
        assert pieces.pending == 0
        try:
            whole.feed(stream)
        except FrameError:
            return
        raise AssertionError("refused in pieces only") from None
    assert whole.feed(stream) == got
    assert b"".join(encode(kind, body) for kind, _, body in got) == stream[: len(stream) - whole.pending]


def parameters(data: bytes) -> None:
    """Tunnel parameters are an error, or what ``encode`` writes, in its order and without what is unknown."""
    try:
        decoded = Parameters.decode(data)
    except FrameError:
        return
    assert len(decoded.addresses) <= ADDRESSES_MAX
    assert len(decoded.routes) <= ROUTES_MAX
    again = decoded.encode()
    assert len(again) <= len(data)
    assert Parameters.decode(again) == decoded


def peer_id(data: bytes) -> None:
    """Text is a peer ID if and only if it is what that ID is printed as."""
    text = data.decode("latin-1")
    try:
        parsed = PeerId.parse(text)
    except ValueError:
        return
    assert str(parsed) == text


def gate(data: bytes) -> None:
    """First datagrams, one after the other: each is decided about, answers are no larger than they may be, and what is
    kept stays bounded. A step: u8 of time, u8 of source, u8 of kind, u16 length, bytes."""
    opened: list[Open] = []
    door = Gate(_LIMITS, _CREDENTIALS)
    cursor, now, unix = Cursor(data), Monotonic(1000.0), Realtime(1.8e9)
    while cursor.remaining >= 5:
        now = Monotonic(now + cursor.u8() / 100)
        host, kind = cursor.u8(), cursor.u8()
        body = cursor.take(min(cursor.u16(), cursor.remaining))
        remote = Address(f"198.51.100.{host}" if kind & 1 else f"2001:db8:{host:x}::1", 4000 + (kind >> 6))
        datagram = _initial(body, unix, kind) if kind & 2 else body
        decision = door.decide(datagram, remote, Local("192.0.2.9"), now, unix, behind=bool(kind & 4))
        match decision:
            case Open(beginning):
                opened.append(decision)
                door.opened(beginning, unix)
            case Retry(packet) | Negotiate(packet):
                assert len(packet) <= _AMPLIFICATION_MAX * len(datagram)
            case Wait() | Drop():
                pass
    assert len(opened) <= _LIMITS.max_inbound


def _initial(body: bytes, unix: Realtime, kind: int) -> bytes:
    """An Initial packet of full size with a token, which knocks if bit 3 says so."""
    cid = make_knock(_CREDENTIALS.peer_id, unix) if kind & 8 else body[:8].ljust(8, b"\0")
    token = body[8:520]
    head = b"\xc0\0\0\0\1" + bytes((len(cid),)) + cid + b"\x05peer!" + (0x4000 | len(token)).to_bytes(2, "big") + token
    rest = max(0, 1200 - len(head) - 2)
    return head + (0x4000 | rest).to_bytes(2, "big") + bytes(rest)


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    target.__name__: target for target in (frames, parameters, peer_id, gate)
}
