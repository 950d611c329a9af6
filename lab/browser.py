"""A headless Chromium in a namespace, driven over its debugging pipe: what a page shows, says and asks for.

Debian's chromium-headless-shell or chromium, or Google's Chrome; nothing is downloaded, and there is no port.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from contextlib import nullcontext
from types import TracebackType
from typing import Any, Final, Self

from lab.hosts import CommandError, Namespace

NAMES: Final = ("chromium-headless-shell", "chromium", "google-chrome", "google-chrome-stable")
FLAGS: Final = (
    "--headless",
    "--remote-debugging-pipe",
    "--no-sandbox",  # which refuses root; what it shows is a node's own page
    "--no-first-run",
    "--no-proxy-server",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-gpu",
    "--disable-sync",
    "--hide-scrollbars",
    "--font-render-hinting=none",
)
WATCHED: Final = ("Page", "Runtime", "Log", "Network", "Audits")
_FAULTS: Final = ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded", "Audits.issueAdded")


def program() -> str | None:
    """Where there is one."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One page in a browser of its own, as a context manager."""

    def __init__(self, host: Namespace | None = None, timeout: float = 30.0) -> None:
        """It runs on ``host``, or where this thread is; ``timeout`` seconds are what anything may take.
        CommandError if there is no browser."""
        path = program()
        if path is None:
            raise CommandError(f"no {NAMES[0]}: scripts/bootstrap.sh --tests brings it to Debian; or install Chromium")
        self._timeout = timeout
        self._said: list[dict[str, Any]] = []
        self._left = b""
        self._number = 0
        self._session: str | None = None
        self._profile = tempfile.TemporaryDirectory(prefix="cryprq-browser-", ignore_cleanup_errors=True)
        theirs, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        # It reads from 3 and writes to 4, whatever numbers the pipes have here; 8 and 9 are nobody's.
        move = f'exec 8<&{theirs} 9>&{theirs_out} && exec "$0" "$@" 3<&8 4>&9 8<&- 9>&-'
        command = [path, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        with host.entered() if host is not None else nullcontext():
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", "bash", "-c", move, *command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs, theirs_out),
            )
        os.close(theirs)
        os.close(theirs_out)

    def __enter__(self) -> Self:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in WATCHED:
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._in)
        os.close(self._out)
        self._profile.cleanup()

    # ---- the page ----

    def open(self, url: str) -> None:
        """Loads it; returns when its script has run once."""
        before = len(self._said)
        failed = self.call("Page.navigate", url=url).get("errorText")
        if failed:
            raise CommandError(f"{url}: {failed}")
        self._until("Page.loadEventFired", before)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page; CommandError if it throws."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise CommandError(f"{expression}: {done['exceptionDetails']}")
        return done["result"].get("value")

    def wait(self, expression: str) -> Any:
        """The first value that is something; CommandError with what the page shows, if there is none in time."""
        end = time.monotonic() + self._timeout
        while not (value := self.evaluate(expression)):
            if time.monotonic() > end:
                shown = self.evaluate("document.body.innerText")
                raise CommandError("\n".join([f"never {expression}", shown, *self.faults()[:3]]))
            time.sleep(0.05)
        return value

    def advance(self, seconds: float) -> None:
        """The page lives so many seconds as fast as it can: its clock stands still only while an answer is due."""
        self.call(
            "Emulation.setVirtualTimePolicy", policy="pauseIfNetworkFetchesPending", budget=1000 * seconds,
            maxVirtualTimeTaskStarvationCount=100_000,
        )  # fmt: skip
        self._until("Emulation.virtualTimeBudgetExpired", len(self._said))

    def look(self, *, width: int, height: int, scale: float = 1.0, dark: bool = False) -> None:
        """How large the window is, and which colours the reader prefers."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def screenshot(self) -> bytes:
        """What is in the window, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def requests(self) -> list[str]:
        """The URLs that the page has asked for so far, those of its own making (``data:``) left out."""
        self.evaluate("0")
        asked = (each["params"] for each in self._said if each["method"] == "Network.requestWillBeSent")
        return [url for params in asked if not (url := params["request"]["url"]).startswith("data:")]

    def faults(self) -> list[str]:
        """What the console has, what was thrown, and what a policy forbade."""
        self.evaluate("0")
        return [json.dumps(each["params"]) for each in self._said if each["method"] in _FAULTS]

    # ---- the pipe ----

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """What a method of the DevTools protocol answers; what else is said meanwhile is kept."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + self._timeout
        while True:
            answer = self._next(end, method)
            if answer.get("id") == self._number:
                break
            if "method" in answer:
                self._said.append(answer)
        if "error" in answer:
            raise CommandError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _until(self, event: str, since: int) -> None:
        """Returns once the event is among what was said after the first ``since``."""
        end = time.monotonic() + self._timeout
        while not any(said["method"] == event for said in self._said[since:]):
            self._said.append(self._next(end, event))

    def _next(self, end: float, method: str) -> dict[str, Any]:
        while b"\0" not in self._left:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            more = os.read(self._in, 1 << 16) if ready else b""
            if not more:
                raise CommandError(f"the browser {'has ended' if ready else 'does not answer'}: {method}")
            self._left += more
        text, _, self._left = self._left.partition(b"\0")
        said: dict[str, Any] = json.loads(text)
        return said
