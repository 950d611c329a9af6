"""A stranger with an invitation at the listener: what may happen while it is written down that it has joined."""

from collections.abc import Callable
from dataclasses import replace

from cryprq.peer_id import PeerId
from cryprq.protocol.frames import CloseCode
from cryprq.protocol.invitation import Keys
from tests.unit.test_inbound import FakeFleet, Net, Path

SECRET = bytes(range(16))


class InvitingFleet(FakeFleet):
    """Has one invitation, and writes it down when the test says so."""

    def __init__(self, keys: Keys) -> None:
        super().__init__()
        self.keys = keys
        self.redeemed: tuple[PeerId, Callable[[str | None], None]] | None = None

    def invitation_key(self, invitation: bytes) -> bytes | None:  # type: ignore[override]
        return self.keys.key if invitation == self.keys.invitation else None

    def redeem(self, invitation: bytes, peer: PeerId, done: Callable[[str | None], None]) -> None:
        assert invitation == self.keys.invitation
        self.redeemed = peer, done

    def name(self, _: PeerId) -> str:
        return "alice"


class Joining:
    """A handshake whose listener has an M3 with the right proof, and has yet to write it down."""

    def __init__(self) -> None:
        self.net = net = Net()
        self.keys = Keys.of(SECRET, net.right.identity.peer_id)
        self.fleet = InvitingFleet(self.keys)
        net.right.admittance.fleet = self.fleet  # type: ignore[assignment]
        net.left.settings = replace(net.left.settings, invitations={net.right.identity.peer_id: self.keys})
        self.path: Path = net.path(net.left, net.right)
        net.run()
        assert net.right.peer.idle and self.fleet.redeemed is not None
        peer, self._done = self.fleet.redeemed
        assert peer == net.left.identity.peer_id

    def written(self, *, permitted: bool = True) -> None:
        """``permitted``: the dialer is a peer now, and was not removed at once."""
        if permitted:
            self.fleet.permitted.add(self.net.left.identity.peer_id)
        self._done(None)
        self.net.run()


def test_who_has_joined_gets_a_session() -> None:
    joining = Joining()
    joining.written()
    assert joining.net.left.peer.up and joining.net.right.peer.up
    assert joining.net.right.observer.last("peer_joined")[:2] == (joining.net.left.identity.peer_id, "alice")


def test_that_somebody_has_joined_is_told_also_if_he_leaves_at_once() -> None:
    """A thief of the token would else be known to the registry alone."""
    joining = Joining()
    joining.path.inbound.closed(joining.path.there, 0, "left", True)  # type: ignore[arg-type]
    joining.written()
    assert joining.net.right.observer.last("peer_joined")[0] == joining.net.left.identity.peer_id
    assert joining.net.right.peer.idle and len(joining.net.right.pool) == 0


def test_who_is_removed_as_soon_as_he_has_joined_gets_no_session() -> None:
    joining = Joining()
    joining.written(permitted=False)
    assert joining.path.there.closed_with is CloseCode.REFUSED
    assert joining.net.right.observer.last("peer_denied")[0] == joining.net.left.identity.peer_id
    assert joining.net.right.peer.idle and len(joining.net.right.pool) == 0


def test_node_that_stops_meanwhile_begins_no_session() -> None:
    joining = Joining()
    joining.net.right.admittance.stopping = True
    joining.written()
    assert joining.path.there.closed_with is CloseCode.SHUTDOWN
    assert joining.net.right.peer.idle and len(joining.net.right.pool) == 0
