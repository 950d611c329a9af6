"""When the two ends of a session have to prove again who they are."""

from cryprq.peers.reauth import REAUTH_PATIENCE, REAUTH_RETRY, REAUTH_WINDOW, Reauth
from cryprq.protocol.clock import Boottime as at
from cryprq.protocol.frames import CloseCode
from tests.rigs.fakes import FakeConnection, World

INTERVAL = 3600


def test_dialer_tries_for_a_while_and_again_later() -> None:
    reauth = Reauth(lambda: INTERVAL)
    wanted = []
    for second in range(INTERVAL + 200):
        overdue = reauth.look(at(1000.0), at(1000.0 + second), dialled=True)
        assert overdue is (second >= INTERVAL + REAUTH_PATIENCE)
        if reauth.wants_dial:
            wanted.append(second)
    tries = range(INTERVAL, INTERVAL + 200, int(REAUTH_RETRY))
    assert wanted == [begin + second for begin in tries for second in range(int(REAUTH_WINDOW))]


def test_new_handshake_is_not_followed_by_another() -> None:
    reauth = Reauth(lambda: INTERVAL)
    reauth.look(at(0.0), at(INTERVAL), dialled=True)
    wanted = [reauth.wants_dial]
    reauth.began()
    assert [*wanted, reauth.wants_dial] == [True, False]
    for now in range(INTERVAL + 2, 2 * INTERVAL, 10):
        assert not reauth.look(at(INTERVAL + 1.0), at(now), dialled=True)
        assert not reauth.wants_dial
    reauth.look(at(INTERVAL + 1.0), at(2 * INTERVAL + 1.0), dialled=True)
    assert reauth.wants_dial


def test_listener_waits_longer_than_the_dialer_tries() -> None:
    reauth = Reauth(lambda: INTERVAL)
    assert not reauth.look(at(0.0), at(INTERVAL + REAUTH_PATIENCE - 1), dialled=False)
    assert reauth.look(at(0.0), at(INTERVAL + REAUTH_PATIENCE), dialled=False)
    assert not reauth.wants_dial
    assert REAUTH_PATIENCE > 2 * REAUTH_RETRY + REAUTH_WINDOW


def test_reload_with_a_shorter_interval_counts_at_once() -> None:
    interval = 3600
    reauth = Reauth(lambda: interval)
    assert not reauth.look(at(0.0), at(100.0), dialled=True)
    assert not reauth.wants_dial
    interval = 60
    reauth.look(at(0.0), at(101.0), dialled=True)
    assert reauth.wants_dial


def live(world: World, seconds: float) -> None:
    """Time passes, and both ends look now and then."""
    world.pass_time(seconds, step=5.0)
    for side in (world.left, world.right):
        side.peer.look(world.now)
    world.run()


def test_peer_is_dialled_beside_its_session_and_the_new_one_takes_over() -> None:
    world = World()
    first, _ = world.connect(world.left, world.right)
    live(world, INTERVAL - 1)
    assert not world.left.peer.wants_dial()
    live(world, 2)
    assert world.left.peer.wants_dial()
    assert world.left.peer.up
    second, theirs = world.connect(world.left, world.right)
    assert world.left.peer.current is second
    assert world.right.peer.current is theirs
    assert not first.session.established
    assert not world.left.peer.wants_dial()
    assert "peer_disconnected" not in world.left.observer.names


def test_listener_takes_the_connection_of_a_peer_that_does_not_come() -> None:
    world = World()
    link, theirs = world.connect(world.left, world.right)
    live(world, INTERVAL + REAUTH_PATIENCE - 1)
    connection = theirs.carrier
    assert isinstance(connection, FakeConnection)
    live(world, 2)
    assert world.right.peer.links == [theirs]
    assert theirs.session.connected is False
    assert connection.closed_with is CloseCode.OK
    assert world.right.peer.current is theirs, "its keys live on until the new session replaces them"
    assert link.carrier is None


def test_dialer_whose_handshakes_come_to_nothing_gives_the_connection_up() -> None:
    """Else somebody in the middle, who has stolen the root, would keep it by keeping handshakes away."""
    world = World()
    link, _ = world.connect(world.left, world.right)
    connection = link.carrier
    assert isinstance(connection, FakeConnection)
    closed = []
    for second in range(INTERVAL, INTERVAL + int(REAUTH_PATIENCE) + 1):
        world.left.peer._look_at_identity(link, at(world.now + second))
        closed.append(connection.closed_with)
    assert closed == [None] * int(REAUTH_PATIENCE) + [CloseCode.OK]
    assert link.session.connected is False
    assert world.left.peer.current is link, "its keys live on to their limit"
    assert world.left.peer.wants_dial()
