"""Two sessions in a world that loses records, frames and connections: there is always a way from each to the other."""

from functools import partial

import pytest

from cryprq.protocol.actions import CloseConnection, Dead, RotationFailed
from cryprq.protocol.constants import hard_age
from tests.rigs.session_pair import End, World


@pytest.mark.parametrize("seed", range(12))
def test_many_rotations_over_a_lossy_network_always_leave_a_way(seed: int) -> None:
    world = World(rotate_secs=5, seed=seed, loss=(0.0, 0.3, 0.7)[seed % 3], latency=(0.01, 0.1, 0.6)[seed // 4])
    world.start()
    for second in range(1, 60):
        if world.random.random() < 0.3:
            end = world.random.choice((world.initiator, world.responder))
            world.at(second + world.random.random(), partial(asked, world, end))
    world.run(60.0)
    world.loss = 0.0
    world.run(75.0)
    for end in (world.initiator, world.responder):
        assert end.established
        assert not end.dead
        assert not [action for action in end.log if isinstance(action, CloseConnection | RotationFailed | Dead)]
    assert world.initiator.session.number >= 5
    assert abs(world.initiator.session.number - world.responder.session.number) <= 1
    assert world.initiator.rotations >= world.initiator.session.number - 1
    assert max(world.initiator.plane.most_epochs, world.responder.plane.most_epochs) <= 3


def asked(world: World, end: End) -> None:
    world.execute(end, end.session.rotate(world.now))


@pytest.mark.parametrize("frames_before", range(1, 8))
@pytest.mark.parametrize("loss", [0.0, 0.8])
def test_connection_lost_at_each_step_of_a_rotation_leaves_a_way_until_the_hard_limit(
    frames_before: int, loss: float
) -> None:
    """The n-th frame is the last that the stream takes; it is lost with it. Records go on, some of them lost."""
    world = World(rotate_secs=5, seed=frames_before, loss=loss)
    world.cut_after_frame = frames_before
    world.start()
    # Traffic in both directions, so that a pending epoch meets a record although R3 is lost.
    for tick in range(1, 1500):
        for end in (world.initiator, world.responder):
            world.at(tick * 0.1, partial(world.send_record, end))
    world.run(140.0)
    for end in (world.initiator, world.responder):
        assert end.established
        assert not end.dead
        assert not end.connected
    # ``World.check`` has held after every action: each end could be heard all the time. Now the limits.
    world.run(2 * hard_age(5))
    for end in (world.initiator, world.responder):
        assert end.plane.epochs == {}
        assert end.log[-1] == Dead("key_expired")
