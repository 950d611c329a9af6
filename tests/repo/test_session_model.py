"""docs/model/session.pml is the session: every step that the model can take, taken on two real sessions, leads where it
leads in the model; and a session with a fault in it is noticed."""

import shutil

import pytest

from cryprq.protocol import session
from tests.rigs.session_steps import explore, replay
from tests.rigs.spin_steps import Disagreement, Step, faulty, only


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Step]]:
    """With one rotation everything that there is, and with two all that happens while neither end is ended."""
    if shutil.which("spin") is None:
        pytest.skip("no spin here: scripts/bootstrap.sh --tests installs it")
    every = explore(tmp_path_factory.mktemp("model"), epochs=3)
    return {
        "one rotation": only(every, lambda step: step.event != "DUE" or step.before.startswith("2,0,15,0,")),
        "two rotations": only(every, lambda step: step.event not in ("STOP", "RETIRE", "EXPIRED")),
    }


@pytest.mark.parametrize("which", ["one rotation", "two rotations"])
def test_sessions_take_every_step_of_the_model_and_no_other(steps: dict[str, list[Step]], which: str) -> None:
    assert {step.event for step in steps[which]} >= {"FRAME", "RECORD", "ROTATE", "DUE", "LOST", "NO_RESPONSE", "GRACE"}
    replay(steps[which], session)


FAULTS = {
    "no grace": (
        "self._previous, self._current, self._pending = self._current, epoch, None",
        "self._previous, self._current, self._pending = None, epoch, None",
    ),
    "sends too early": (
        "epoch = self._pending if self._dials and self._pending else self._current",
        "epoch = self._pending or self._current",
    ),
    "does not wait for R3": ("Rotation.LATE_DONE if not self._dials and self._connected else", ""),
    "asks for one rotation only": ("        self._requested = False\n        self._channel.confirm()", ""),
    "rotates twice when asked once": (
        "if self.rotation is not Rotation.AWAIT_RESPONSE and self._rotation_wanted is None:",
        "if self._rotation_wanted is None:",
    ),
    "waits for R3 without a connection": (
        "if self.rotation is Rotation.LATE_DONE:\n            self.rotation = Rotation.IDLE\n        return []",
        "return []",
    ),
    "says CLOSE under a key of its own": (
        "if self.rotation not in (Rotation.AWAIT_DONE, Rotation.LATE_DONE):",
        "if True:",
    ),
    "wishes without a connection": ("self._response_by = self._rotation_wanted = None", "self._response_by = None"),
    "sends on an epoch that is gone": ("actions.append(Activate(self._current.rx_index))", "pass"),
}


@pytest.mark.parametrize(("line", "instead"), FAULTS.values(), ids=FAULTS)
def test_a_fault_in_the_session_is_noticed(steps: dict[str, list[Step]], line: str, instead: str) -> None:
    module = faulty(session, line, instead)
    with pytest.raises(Disagreement):
        replay(steps["one rotation"], module)
