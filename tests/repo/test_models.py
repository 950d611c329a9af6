"""docs/model/: the Verifpal models are what scripts/make_models.py writes, and for each primitive there is one in which
it is broken, everywhere."""

import re
import runpy
from typing import Any

from lab import ROOT

FOLDER = ROOT / "docs" / "model"
SCRIPT: dict[str, Any] = runpy.run_path(str(ROOT / "scripts" / "make_models.py"))
MODELS = {model.name: model for model in SCRIPT["MODELS"]}


def test_files_are_those_that_the_script_writes() -> None:
    assert {path.stem for path in FOLDER.glob("*.vp")} == set(MODELS)
    for name, model in MODELS.items():
        assert (FOLDER / f"{name}.vp").read_text() == model.text(), f"run scripts/make_models.py: {name}.vp"


def test_page_has_every_model_with_what_must_come_of_it() -> None:
    rows = re.findall(
        r"^\| `([a-z0-9-]+)\.vp` \| .* \| (holds|attack|both) \|$", (FOLDER / "README.md").read_text(), re.M
    )
    said = {name: set(model.answers.values()) for name, model in MODELS.items()}
    assert dict(rows) == {name: answers.pop() if len(answers) == 1 else "both" for name, answers in said.items()}


def test_each_assumption_alone_changes_nothing_and_both_of_a_kind_change_everything() -> None:
    for alone in ("mlkem", "x25519", "ed25519", "mldsa", "curves", "lattices"):
        assert set(MODELS[f"{alone}-broken"].answers.values()) == {"holds"}
    for both in ("kems", "signatures"):
        assert set(MODELS[f"{both}-broken"].answers.values()) == {"attack"}


def test_an_assumption_is_in_the_file_wherever_the_primitive_is() -> None:
    """A place that a template forgets would be a primitive that is not broken."""
    for name, call in (("mlkem", "KEM_ENCAP"), ("ed25519", "SIGN"), ("mldsa", "SIGN")):
        text = MODELS[f"{name}-broken"].text()
        key = {"mlkem": r"\w+", "ed25519": r"\w_ed", "mldsa": r"\w_ml"}[name]
        weakened = re.findall(rf"{call}\[(?:weak|forgeable)\]\({key},", text)
        assert len(weakened) == len(re.findall(rf"{call}(?:\[\w+\])?\({key},", text)) >= 1
    assert MODELS["x25519-broken"].text().count("leaks x_") == 2
