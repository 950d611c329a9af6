"""docs/model/takeover.pml is what two peers do with all their sessions: every step that the model can take, taken on
two real peers, leads where it leads in the model; and a peer with a fault in it is noticed."""

import shutil

import pytest

from cryprq.peers import peer
from tests.rigs.spin_steps import Disagreement, Step, faulty, only
from tests.rigs.takeover_steps import EVENTS, explore, replay

NEVER = {
    "one dials": ("CRASH", "EXPIRED"),
    "one dials, nodes lose their memory": ("REMOVE", "RENEW", "LOST", "NOT_PROMOTED"),
    "both dial": ("CRASH", "EXPIRED", "REMOVE", "RENEW"),
}
"""What does not happen, so that it takes seconds. Spin itself has everything together (make model)."""


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Step]]:
    if shutil.which("spin") is None:
        pytest.skip("no spin here: scripts/bootstrap.sh --tests installs it")
    one, both = (explore(tmp_path_factory.mktemp("model"), dials=dials) for dials in (1, 3))
    every = {name: both if name == "both dial" else one for name in NEVER}
    return {name: without(every[name], NEVER[name]) for name in NEVER}


def without(steps: list[Step], events: tuple[str, ...]) -> list[Step]:
    return only(steps, lambda step: step.event not in events)


@pytest.mark.parametrize("which", NEVER)
def test_peers_take_every_step_of_the_model(steps: dict[str, list[Step]], which: str) -> None:
    others = {"RESTORE", "FRAME_CLOSE"} if "REMOVE" in NEVER[which] else set()
    assert {step.event for step in steps[which]} == {*EVENTS} - {*NEVER[which]} - others
    replay(steps[which], peer)


ONE_DIALS = {
    "M4s that cross keep the other's loser": ("            serial=serial,\n", "            serial=None,\n"),
    "sends on the one in use while a newer one waits": (
        "return self.current if sender is None else sender",
        "return self.current",
    ),
    "the first to be proven wins": ("            return current.is_later(link)", "            return False"),
    "older ones stay": (
        "if other is previous or (other.dialled is link.dialled and link.is_later(other)):",
        "if other is previous:",
    ),
    "keeps a session in use that has ended": ("            self.current = None\n", "            pass\n"),
    "renews what it has dialled, too": ("if (dialled or not link.dialled) and", "if"),
    "dials beside a session that waits for its first record": (
        "if any(link.dialled and not link.established and link.carrier is not None for link in self.links):",
        "if False:",
    ),
    "does not dial when its connection is lost": (
        "return current.dialled or self._own_id < self.peer_id",
        "return False",
    ),
    "leaves without a word": ("carrier.send(action.data)", "pass"),
}
BOTH_DIAL = {
    "either end goes before the other": (
        "return self._own_id < self.peer_id and any(",
        "return any(",
    ),
    "accepts beside its own": ("return lives and self.peer_id < self._own_id", "return False"),
    "a winner without a connection wins": (
        "return current.dialled is winner_is_own and current.carrier is not None",
        "return current.dialled is winner_is_own",
    ),
    "leaves the dial to who has dialled the session that has lost": (
        "return current.dialled or self._own_id < self.peer_id",
        "return current.dialled",
    ),
    "the larger ID wins": (
        "winner_is_own = self._own_id < self.peer_id",
        "winner_is_own = self._own_id > self.peer_id",
    ),
    "a lost race takes over": ("self._retire(link, CloseCode.DUPLICATE, now)\n            return", "pass"),
    "turned down by a session whose connection is lost": (
        "not current.dialled and current.carrier is not None",
        "not current.dialled",
    ),
}
FAULTS = [
    pytest.param(which, *change, id=name)
    for which, faults in (("one dials", ONE_DIALS), ("both dial", BOTH_DIAL))
    for name, change in faults.items()
]


@pytest.mark.parametrize(("which", "line", "instead"), FAULTS)
def test_a_fault_in_a_peer_is_noticed(steps: dict[str, list[Step]], which: str, line: str, instead: str) -> None:
    module = faulty(peer, line, instead)
    with pytest.raises(Disagreement):
        replay(steps[which], module)
