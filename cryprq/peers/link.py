"""A session on the connection that carries its control frames."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from cryprq.address import Address, Local
from cryprq.peers.indices import IndexLease
from cryprq.peers.ports import Carrier
from cryprq.protocol.actions import Action, Established, Promote
from cryprq.protocol.clock import Boottime
from cryprq.protocol.constants import MTU_SEALABLE_MAX
from cryprq.protocol.parameters import Serial
from cryprq.protocol.session import Role, Session


@dataclass(eq=False)
class Link:
    """One session, and the connection that carries its control frames for as long as it lasts."""

    session: Session
    carrier: Carrier | None
    lease: IndexLease
    remote: Address
    local: Local
    order: int
    """Links are numbered in the order in which their handshakes completed at this node."""
    created: Boottime
    epoch_since: Boottime
    promoted_index: int | None = None
    established: bool = False
    endpoint_set: bool = False
    ended: bool = False
    keepalive: int | None = None
    """Seconds without a record after which the peer wants an empty one; 0 or None: never."""
    mtu: int = MTU_SEALABLE_MAX
    """What the peer's tunnel takes; the data plane sends nothing larger than that, nor than this node's own MTU."""
    serial: Serial | None = None
    """The listener's number of the session; None: one of a version before has none."""
    answers_pings: bool = False
    """Whether the peer's plane answers a ping at once."""
    minds_ecn: bool = False
    """Whether the peer's plane reads the ECN field of the records that it gets."""
    lane_ports: bool = False
    """Whether the lanes of the end that dialled have ports of their own."""
    round_trip: float = 0.0
    """Seconds, as its connection last measured it; 0 if it is not known."""
    proven: Callable[[], None] | None = None
    """Called when the first record shows that the peer has the session's keys, which M4 alone does not."""
    indices: set[int] = field(default_factory=set)
    """The receiver indices that this session has installed."""

    @property
    def dialled(self) -> bool:
        """True if this node dialled the session."""
        return self.session.role is Role.INITIATOR

    @property
    def lanes_apart(self) -> bool:
        """Whether they are this node's."""
        return self.dialled and self.lane_ports

    @property
    def lanes_spread(self) -> bool:
        """Whether they are the peer's."""
        return not self.dialled and self.lane_ports

    def is_later(self, other: "Link") -> bool:
        """Of two links dialled by the same side the later one wins, whichever proves itself first. What counts is the
        order at the listener, where both ends can know it: two M4s may cross on their way."""
        if self.serial is not None and other.serial is not None and self.serial.life == other.serial.life:
            return self.serial.number > other.serial.number
        return self.order > other.order

    @property
    def direction(self) -> str:
        return "outbound" if self.dialled else "inbound"


def promotes(actions: Iterable[Action]) -> bool:
    """True if these actions take a session or an epoch into use."""
    return any(isinstance(action, Promote | Established) for action in actions)
