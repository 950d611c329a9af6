"""What hosts in a box have for ``systemctl``: it runs a unit's own ExecStart, and waits for its READY as systemd does.

    systemctl enable --now UNIT | disable --now UNIT | start UNIT | stop UNIT | restart UNIT | reload UNIT
    systemctl daemon-reload

The unit file is read where it was installed. Its sandbox is left to ``qa/systemd_test.sh``, which has a real systemd;
what a user of its own could not read is refused here all the same.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

UNITS: Final = Path("/etc/systemd/system")
STATE: Final = Path("/run/units")
_PATIENCE: Final = 30.0


class Unit:
    """A service, as its file says."""

    def __init__(self, name: str) -> None:
        self.name = name.removesuffix(".service")
        try:
            text = (UNITS / f"{self.name}.service").read_text()
        except OSError:
            sys.exit(f"Unit {self.name}.service not found.")
        self.settings: dict[str, list[str]] = {}
        for line in text.splitlines():
            key, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                self.settings.setdefault(key, []).append(value)
        self.pid_file = STATE / f"{self.name}.pid"
        self.log = STATE / f"{self.name}.log"

    @property
    def pid(self) -> int | None:
        """Of the process that runs."""
        try:
            pid = int(self.pid_file.read_text())
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError):
            return None
        return None if state == "Z" else pid

    def start(self) -> None:
        """Returns when it is ready."""
        if self.pid is not None:
            return
        (command,) = self.settings["ExecStart"]
        words = shlex.split(command)
        if "--config" in words:
            for path in Path(words[words.index("--config") + 1]).parent.iterdir():
                if not path.stat().st_mode & 0o004:
                    sys.exit(f"{self.name}: its user cannot read {path}")
        environment = {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"}
        for setting, variable, parent in (
            ("StateDirectory", "STATE_DIRECTORY", "/var/lib"),
            ("RuntimeDirectory", "RUNTIME_DIRECTORY", "/run"),
        ):
            directory = Path(parent, self.settings[setting][0])
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            environment[variable] = str(directory)
        STATE.mkdir(exist_ok=True)
        notices = STATE / f"{self.name}.notify"
        notices.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock, self.log.open("ab") as log:
            sock.bind(str(notices))
            sock.settimeout(0.1)
            environment["NOTIFY_SOCKET"] = str(notices)
            process = subprocess.Popen(
                words,
                cwd="/",
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            self.pid_file.write_text(str(process.pid))
            self._wait_ready(sock, process)

    def _wait_ready(self, sock: socket.socket, process: "subprocess.Popen[bytes]") -> None:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and process.poll() is None:
            try:
                if b"READY=1" in sock.recv(4096).splitlines():
                    return
            except TimeoutError:
                pass
        sys.exit(f"Job for {self.name}.service failed:\n{self.log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """Returns when it is gone."""
        pid, end = self.pid, time.monotonic() + _PATIENCE
        if pid is not None:
            os.kill(pid, signal.SIGTERM)
        while self.pid is not None:
            if time.monotonic() > end:
                sys.exit(f"{self.name} does not stop")
            time.sleep(0.02)

    def reload(self) -> None:
        """Each ExecReload, until one fails."""
        if self.pid is None:
            sys.exit(f"{self.name}.service is not active, cannot reload.")
        for command in self.settings["ExecReload"]:
            subprocess.run(shlex.split(command), check=True, env={**os.environ, "MAINPID": str(self.pid)})


def main(words: list[str]) -> None:
    match words:
        case ["daemon-reload"]:
            pass
        case ["enable" | "start", *_, name] if words[0] == "start" or "--now" in words:
            Unit(name).start()
        case ["disable" | "stop", *_, name] if words[0] == "stop" or "--now" in words:
            Unit(name).stop()
        case ["restart", name]:
            Unit(name).stop()
            Unit(name).start()
        case ["reload", name]:
            Unit(name).reload()
        case _:
            sys.exit(f"systemctl {' '.join(words)}: not known here")


if __name__ == "__main__":
    main(sys.argv[1:])
