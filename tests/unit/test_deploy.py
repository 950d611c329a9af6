"""``cryprq deploy --print``: byte for byte the files of deploy/, from a checkout and from what a build installs."""

import runpy
from pathlib import Path

import pytest

from cryprq.cli import deploy, tool
from cryprq.errors import MachineError
from lab import ROOT


@pytest.mark.parametrize("what", deploy.FILES)
def test_file_is_printed(what: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["deploy", "--print", what]) == 0
    assert capfd.readouterr().out == (ROOT / "deploy" / deploy.FILES[what]).read_text()


def test_wheel_has_what_the_tool_prints() -> None:
    wanted = set(deploy.FILES.values())
    contents = runpy.run_path(str(ROOT / "release" / "wheel_contents.py"))
    assert set(contents["DEPLOYED"]) == wanted
    setup = (ROOT / "setup.py").read_text()
    assert all(f'"{name}"' in setup for name in wanted)


def test_installed_files_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "compose.yaml").write_text("services: {}\n")
    monkeypatch.setattr(deploy, "_INSTALLED", tmp_path)
    assert deploy.text("compose") == "services: {}\n"
    with pytest.raises(MachineError, match=r"lacks .*cryprq-node\.service: No such file"):
        deploy.text("unit")


@pytest.mark.parametrize("arguments", [[], ["--print"], ["--print", "units"]])
def test_wrong_use_is_one_line(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert tool.main(["deploy", *arguments]) == 2
    said = capfd.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
