"""What ``qa/systemd_test.sh`` does inside its container, where systemd is PID 1. Needs nothing but Python."""

import os
import re
import signal
import socket
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
WRONG = GOOD + 'mtu = "x"\n'
NET_ADMIN = 1 << 12
NOTIFY_RELOAD = 253
"""The first systemd with Type=notify-reload."""

failed: list[str] = []


def sh(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if check and done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout}")
    return done.stdout.strip()


def succeeds(*command: str) -> bool:
    return subprocess.run(command, capture_output=True).returncode == 0


def show(name: str) -> str:
    return sh("systemctl", "show", "--property", name, "--value", UNIT)


def journal(since: float) -> list[str]:
    """What the node has said, and systemd of it."""
    sh("journalctl", "--sync")
    return sh("journalctl", f"--since=@{since:.6f}", "-u", UNIT, "-o", "cat").splitlines()


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


def get(path: str) -> tuple[int, str]:
    """Status and text; 0 if nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:9464{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


def healthy() -> bool:
    return get("/healthz")[0] == 200


def rotate_secs() -> float:
    (value,) = re.findall(r"^cryprq_rotation_interval_configured_seconds (\S+)", get("/metrics")[1], re.MULTILINE)
    return float(value)


def peer_id() -> str:
    return sh("cryprq", "id", "/var/lib/cryprq/identity")


def install(version: int) -> None:
    """As the unit's first lines say."""
    (wheel,) = Path("/work/wheels").glob("cryprq-*.whl")
    release = wheel.name.split("-")[1]
    home = Path("/opt/cryprq", release)
    sh("python3", "-m", "venv", str(home))
    sh(str(home / "bin" / "pip"), "install", "--quiet", "--no-index", "--find-links", "/work/wheels", "cryprq")
    sh("ln", "-sfn", release, "/opt/cryprq/current")
    sh("ln", "-sf", "/opt/cryprq/current/bin/cryprq", "/usr/local/bin/")
    sh("cryprq", "keygen")
    CONFIG.parent.mkdir()
    CONFIG.write_text(GOOD)
    sh("install", "-m", "0644", "/work/cryprq-node.service", "/etc/systemd/system/")
    sh("chmod", "666", "/dev/net/tun")  # as udev has it on a real host
    if version >= NOTIFY_RELOAD:
        folder = Path(f"/etc/systemd/system/{UNIT}.service.d")
        sh("install", "-D", "-m", "0644", "/work/notify-reload.conf", str(folder / "notify-reload.conf"))
    sh("systemctl", "daemon-reload")
    sh("systemctl", "log-level", "debug")  # for the messages that the node sends


def check_start() -> None:
    identity, began = peer_id(), time.time()
    check("systemd-analyze verify", sh("systemd-analyze", "verify", "--man=no", f"{UNIT}.service", check=False) == "")
    start = time.monotonic()
    sh("systemctl", "enable", "--now", UNIT)
    check("start returns when the node is ready", healthy(), f"{time.monotonic() - start:.2f} s")
    said = sh("systemd-analyze", "--no-pager", "security", UNIT)
    (exposure,) = re.findall(r"Overall exposure level.*: ([\d.]+)", said)
    check("exposure", float(exposure) <= 1.7, exposure)
    status = Path("/proc", show("MainPID"), "status").read_text()
    fields = dict(re.findall(r"^(\w+):\s*(\S+)", status, re.MULTILINE))
    check("an unprivileged user", int(fields["Uid"]) > 0, fields["Uid"])
    rights = {int(fields[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")}
    check("NET_ADMIN and nothing else", rights == {NET_ADMIN})
    check("no new privileges, system calls filtered", (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2"))
    check("resident memory", True, f"{int(fields['VmRSS']) / 1024:.0f} MiB")
    check("the TUN is up, with its address", "10.77.0.1/24" in sh("ip", "address", "show", "dev", "cryprq0", "up"))
    until(lambda: show("StatusText") != "", 3)
    check("status", show("StatusText") == "0 peers connected", show("StatusText"))
    state = Path("/var/lib/cryprq/identity").stat()
    check("state in StateDirectory", (state.st_mode & 0o777, state.st_uid) == (0o600, int(fields["Uid"])))
    named = [line for line in journal(began) if f"event=node_started peer_id={identity} " in line]
    check("the identity that root made before is the node's", len(named) == 1)
    warned = sh("journalctl", f"--since=@{began:.6f}", "-u", UNIT, "-p", "warning..warning", "-o", "cat")
    check("the journal has its warnings as warnings", "event=config_doubtful" in warned)
    check("cryprq status", "cryprq0, 10.77.0.1/24" in sh("cryprq", "status"))


def check_reload(version: int) -> None:
    process, began = show("MainPID"), time.time()
    CONFIG.write_text(GOOD + "rotate-secs = 60\n")
    start = time.monotonic()
    sh("systemctl", "reload", UNIT)
    took = f"{time.monotonic() - start:.2f} s"
    if version >= NOTIFY_RELOAD:
        check("reload returns when the new configuration is in force", rotate_secs() == 60, took)
    else:
        until(lambda: rotate_secs() == 60, 5)
        check("reload reads the configuration again", rotate_secs() == 60, took)
    CONFIG.write_text(WRONG)
    check("reload of a wrong configuration fails", not succeeds("systemctl", "reload", UNIT))
    said = [line for line in journal(began) if line.startswith("cryprq-node: ")]
    check("and says why in one line", len(said) == 1 and "'mtu'" in said[0], said)
    CONFIG.write_text(GOOD)
    sh("systemctl", "reload", UNIT)
    check("the next one is as good as ever", until(lambda: rotate_secs() == 300, 5) < 5)
    same = (show("MainPID"), show("ActiveState"), show("NRestarts")) == (process, "active", "0")
    check("and the process stays", same and healthy())


def check_restart() -> None:
    process, identity, start = show("MainPID"), peer_id(), time.monotonic()
    sh("systemctl", "restart", UNIT)
    check("restart", healthy() and show("MainPID") != process, f"{time.monotonic() - start:.2f} s")
    check("and the identity stays", peer_id() == identity)


def check_credentials() -> None:
    """The identity as a credential: a file of root's, mode 0440, whose access control list lets the service read it
    (with 257; 252 has owner and mode 0400), on a file system that nobody can write to."""
    identity, plain, sealed = peer_id(), "/etc/cryprq/identity", "/etc/cryprq/identity.cred"
    drop_in = Path(f"/etc/systemd/system/{UNIT}.service.d/credential.conf")
    drop_in.parent.mkdir(exist_ok=True)
    sh("cp", "/var/lib/cryprq/identity", plain)
    sh("systemd-creds", "encrypt", "--name=identity", plain, sealed)
    for setting, source in (("LoadCredential", plain), ("LoadCredentialEncrypted", sealed)):
        drop_in.write_text(f"[Service]\n{setting}=identity:{source}\nEnvironment=CRYPRQ_IDENTITY=%d/identity\n")
        sh("systemctl", "daemon-reload")
        began = time.time()
        started = succeeds("systemctl", "restart", UNIT)
        named = [line for line in journal(began) if f"event=node_started peer_id={identity} " in line]
        check(f"the identity by {setting}=", started and healthy() and len(named) == 1)
    drop_in.unlink()
    sh("systemctl", "daemon-reload")
    sh("systemctl", "restart", UNIT)


def check_failures() -> None:
    CONFIG.write_text(WRONG)
    began = time.time()
    check("a start with a wrong configuration fails", not succeeds("systemctl", "restart", UNIT))
    time.sleep(5)
    found = (show("ActiveState"), show("ExecMainStatus"), show("NRestarts"))
    check("and is not tried again", found == ("failed", "2", "0"), found)
    said = [line for line in journal(began) if line.startswith("cryprq-node: ")]
    check("and says why in one line", len(said) == 1 and "'mtu'" in said[0], said)
    CONFIG.write_text(GOOD)

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("0.0.0.0", 9999))
        began = time.time()
        check("a start without its port fails", not succeeds("systemctl", "start", UNIT))
        until(lambda: int(show("NRestarts")) >= 2, 15)
        said = [line for line in journal(began) if line.startswith("cryprq-node: ")]
        check("and is tried again, not in haste", 2 <= len(said) <= (time.time() - began) / 2 + 1, said[0])
    took = until(healthy, 10)
    check("until the port is free", healthy(), f"after {took} s")


def check_watchdog() -> None:
    before = int(show("NRestarts"))
    sh("ip", "link", "delete", "cryprq0")
    until(lambda: "TUN" in show("StatusText"), 5)
    check("a node without its TUN says so in its status", "TUN" in show("StatusText"), show("StatusText"))
    took = until(lambda: int(show("NRestarts")) == before + 1 and healthy(), 40)
    check("and is restarted by the watchdog", healthy() and took < 40, f"after {took} s")
    os.kill(int(show("MainPID")), signal.SIGSTOP)
    took = until(lambda: int(show("NRestarts")) == before + 2 and healthy(), 40)
    check("and so is one that hangs", healthy() and took < 40, f"after {took} s")


def check_stop(began: float) -> None:
    sh("systemctl", "stop", UNIT)
    check("stop", (show("Result"), show("ExecMainStatus")) == ("success", "0"))
    check("the TUN is gone", "cryprq0" not in sh("ip", "link"))
    told = [line for line in journal(began) if "Got notification message" in line]
    for message in ("READY=1", "STATUS=", "RELOADING=1.*MONOTONIC_USEC=", "WATCHDOG=1", "STOPPING=1"):
        check(f"systemd was told {message}", any(re.search(message, line) for line in told))


def main() -> int:
    began = time.time()
    version = int(re.findall(r"systemd (\d+)", sh("systemctl", "--version"))[0])
    print(f"systemd {version}, Python {sys.version.split()[0]}")
    install(version)
    check_start()
    check_reload(version)
    check_restart()
    check_credentials()
    check_failures()
    check_watchdog()
    check_stop(began)
    print(f"systemd_test: {'FAILED' if failed else 'passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
