"""What ``scripts/systemd_test.sh`` does inside its container, where systemd is PID 1. Needs nothing but Python."""

import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

UNIT = "cryprq-node"
CONFIG = Path("/etc/cryprq/node.toml")
GOOD = 'listen = "/ip4/0.0.0.0/udp/9999/quic-v1"\ntun-address = ["10.77.0.1/24"]\nmetrics-addr = "127.0.0.1:9464"\n'
NET_ADMIN = 1 << 12

failed: list[str] = []


def sh(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if check and done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout.strip()


def show(name: str) -> str:
    return sh("systemctl", "show", "--property", name, "--value", UNIT)


def check(what: str, holds: bool, found: object = "") -> None:
    print(f"  {'ok' if holds else 'FAILED':7} {what} {found}", flush=True)
    if not holds:
        failed.append(what)


def until(condition: Callable[[], bool], seconds: float) -> float:
    """How long it took to come true, or the bound."""
    start = time.monotonic()
    while not condition() and time.monotonic() < start + seconds:
        time.sleep(0.1)
    return round(time.monotonic() - start, 1)


def health() -> int:
    try:
        return int(urllib.request.urlopen("http://127.0.0.1:9464/healthz", timeout=5).status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def install() -> None:
    (wheel,) = Path("/work/wheels").glob("cryprq-*.whl")
    version = wheel.name.split("-")[1]
    home = Path("/opt/cryprq", version)
    sh("python3", "-m", "venv", str(home))
    sh(str(home / "bin" / "pip"), "install", "--quiet", "--no-index", "--find-links", "/work/wheels", "cryprq")
    Path("/opt/cryprq/current").symlink_to(version)
    CONFIG.parent.mkdir()
    CONFIG.write_text(GOOD)
    sh("install", "-m", "0644", "/work/cryprq-node.service", "/etc/systemd/system/")
    sh("chmod", "666", "/dev/net/tun")  # as udev has it on a real host
    if int(re.findall(r"systemd (\d+)", sh("systemctl", "--version"))[0]) >= 253:
        folder = Path(f"/etc/systemd/system/{UNIT}.service.d")
        folder.mkdir()
        sh("install", "-m", "0644", "/work/notify-reload.conf", str(folder))
    sh("systemctl", "daemon-reload")


def main() -> int:
    install()
    check("systemd-analyze verify", sh("systemd-analyze", "verify", "--man=no", f"{UNIT}.service", check=False) == "")
    start = time.monotonic()
    sh("systemctl", "start", UNIT)
    check("start returns when the node is ready", health() == 200, f"{time.monotonic() - start:.2f} s")
    status = Path("/proc", show("MainPID"), "status").read_text()
    fields = dict(re.findall(r"^(\w+):\s*(\S+)", status, re.MULTILINE))
    check("an unprivileged user", int(fields["Uid"]) > 0, fields["Uid"])
    rights = {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")}
    check("NET_ADMIN and nothing else", rights == {NET_ADMIN})
    check("no new privileges, system calls filtered", (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2"))
    check("resident memory", True, f"{int(fields['VmRSS']) / 1024:.0f} MiB")
    until(lambda: show("StatusText") != "", 3)
    check("status", show("StatusText") == "0 peers connected", show("StatusText"))
    check("state in StateDirectory", Path("/var/lib/cryprq/identity").stat().st_mode & 0o777 == 0o600)
    answer = sh("/opt/cryprq/current/bin/cryprq", "status", "--control-socket", "/run/cryprq/cryprq0.sock")
    check("cryprq status", "cryprq0, 10.77.0.1/24" in answer)

    process = show("MainPID")
    CONFIG.write_text(GOOD + "rotate-secs = 60\n")
    sh("systemctl", "reload", UNIT)
    until(lambda: "event=config_reloaded" in sh("journalctl", "-u", UNIT, "-o", "cat"), 5)
    check("reload reads the configuration again", "event=config_reloaded" in sh("journalctl", "-u", UNIT, "-o", "cat"))
    check("and the process stays", show("MainPID") == process and show("ActiveState") == "active")

    start = time.monotonic()
    sh("systemctl", "restart", UNIT)
    check("restart", health() == 200 and show("MainPID") != process, f"{time.monotonic() - start:.2f} s")

    CONFIG.write_text(GOOD + 'mtu = "x"\n')
    sh("systemctl", "restart", UNIT, check=False)
    time.sleep(3)
    check("a wrong configuration is not tried again", (show("ExecMainStatus"), show("NRestarts")) == ("2", "0"))
    CONFIG.write_text(GOOD)
    sh("systemctl", "reset-failed", UNIT)
    sh("systemctl", "start", UNIT)

    sh("ip", "link", "delete", "cryprq0")
    took = until(lambda: show("NRestarts") == "1" and health() == 200, 40)
    check("a node without its TUN is restarted by the watchdog", health() == 200 and took < 40, f"after {took} s")
    os.kill(int(show("MainPID")), signal.SIGSTOP)
    took = until(lambda: show("NRestarts") == "2" and health() == 200, 40)
    check("and so is one that hangs", health() == 200 and took < 40, f"after {took} s")

    sh("systemctl", "stop", UNIT)
    check("stop", (show("Result"), show("ExecMainStatus")) == ("success", "0"))
    check("the TUN is gone", "cryprq0" not in sh("ip", "link"))
    print(f"systemd_test: {'FAILED' if failed else 'passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
