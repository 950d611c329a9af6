"""What a session asks of the node that drives it. A list of actions is to be carried out in its order."""

from dataclasses import dataclass

from cryprq.protocol.frames import CloseCode
from cryprq.protocol.key_schedule import EpochKeys


@dataclass(frozen=True)
class SendFrame:
    """Put a whole, sealed frame on the control stream."""

    data: bytes


@dataclass(frozen=True)
class Install:
    """Give an epoch to the data plane, receive-only. Its keys destroy themselves after ``lifetime`` seconds."""

    keys: EpochKeys
    lifetime: float


@dataclass(frozen=True)
class Activate:
    """Send under this epoch from now on."""

    rx_index: int


@dataclass(frozen=True)
class Promote:
    """The peer has proved that it has this epoch: from now on it is the one whose records may move the endpoint."""

    rx_index: int


@dataclass(frozen=True)
class SendEmpty:
    """Send an empty record under this epoch."""

    rx_index: int


@dataclass(frozen=True)
class Remove:
    """Destroy this epoch's keys. An epoch that the plane has dropped by itself is no error."""

    rx_index: int


@dataclass(frozen=True)
class Established:
    """The session is promoted and replaces an older one with the same peer: ``retire`` that one."""


@dataclass(frozen=True)
class Rotated:
    """Both ends have epoch ``number``. Seconds: ``duration`` from R1 to here, ``interval`` since the epoch before."""

    number: int
    duration: float
    interval: float


@dataclass(frozen=True)
class RotationFailed:
    """A rotation ended without a new epoch; ``reason`` is one snake_case word."""

    reason: str


@dataclass(frozen=True)
class CloseConnection:
    """Close the QUIC connection. ``reason`` is for the local log; a session never tells it to the peer in clear."""

    code: CloseCode
    reason: str


@dataclass(frozen=True)
class Dead:
    """The session has ended by itself and holds no data key. Not said after ``close``, ``wipe``, ``retire``."""

    reason: str


Action = (
    SendFrame
    | Install
    | Activate
    | Promote
    | SendEmpty
    | Remove
    | Established
    | Rotated
    | RotationFailed
    | CloseConnection
    | Dead
)
