"""The unit file, as far as systemd-analyze judges it. qa/systemd_test.sh runs it under a real systemd."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from lab import ROOT

DEPLOY = ROOT / "deploy"
UNIT = DEPLOY / "cryprq-node.service"
EXPOSURE = 1.7
"""What docs/operations.md says, and the least that this service can have: it needs the network, a TUN, NET_ADMIN."""

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze")


def settings() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text().splitlines():
        if line and line[0] not in "#[":
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def analyze(*arguments: str) -> str:
    done = subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


def test_unit_has_what_operators_rely_on() -> None:
    found = settings()
    for name, value in {
        "Type": "notify",
        "AmbientCapabilities": "CAP_NET_ADMIN",
        "CapabilityBoundingSet": "CAP_NET_ADMIN",
        "DeviceAllow": "/dev/net/tun rw",
        "StateDirectory": "cryprq",
        "DynamicUser": "yes",
    }.items():
        assert found[name] == [value]
    check, signal = found["ExecReload"]
    assert check == f"{found['ExecStart'][0]} --check" and signal == "/bin/sh -c 'kill -HUP $MAINPID'"
    assert check in (DEPLOY / "notify-reload.conf").read_text()
    assert "PrivateDevices" not in found  # it would hide the TUN
    assert int(found["WatchdogSec"][0]) >= 3  # the node looks after itself once a second


@needs_systemd
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    def installed(path: Path) -> str:
        return path.read_text().replace("/opt/cryprq/current/bin/cryprq-node", "/bin/true")

    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"^#(?=\w+=)", "", installed(UNIT), flags=re.MULTILINE))
    assert "\nLoadCredentialEncrypted=identity:" in unit.read_text()  # a recipe that is commented out
    assert analyze("verify", "--man=no", str(unit)) == ""
    unit.write_text(installed(UNIT))
    assert analyze("verify", "--man=no", str(unit)) == ""
    # With the drop-in it is as good, from 253 on; an older one says that it does not know it.
    folder = tmp_path / f"{UNIT.name}.d"
    folder.mkdir()
    (folder / "notify-reload.conf").write_text(installed(DEPLOY / "notify-reload.conf"))
    version = int(re.findall(r"systemd (\d+)", analyze("--version"))[0])
    said = analyze("verify", "--man=no", str(unit))
    assert said == "" if version >= 253 else "notify-reload" in said


@needs_systemd
def test_exposure_is_what_the_guide_says() -> None:
    said = analyze("security", "--offline=true", str(UNIT))
    (level,) = re.findall(r"Overall exposure level.*: ([\d.]+)", said)
    assert float(level) <= EXPOSURE, said
    assert f"exposure {EXPOSURE} of 10" in (DEPLOY.parent / "docs" / "operations.md").read_text()
