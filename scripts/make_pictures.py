"""Makes docs/pictures: the page of ``--metrics-addr`` and ``cryprq top``, as a made-up gateway shows them.

What is drawn is the real page in a real Chromium, and the real program; the node is made up, so that there is something
to see, the same each time, and nothing of the machine that drew it. Needs ``scripts/bootstrap.sh --tests``.
"""

import asyncio
import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from cryprq.cli import top
from cryprq.peer_id import PeerId
from cryprq.telemetry.samples import NodeStatus, PeerSample, as_json
from cryprq.version import VERSION
from lab import sandbox
from lab.browser import Browser
from lab.served import served

FOLDER: Final = Path(__file__).resolve().parent.parent / "docs" / "pictures"
BEGIN: Final = 1_800_000_000.0
POLL: Final = 2.0
"""Seconds between two looks, for the page and for ``cryprq top``."""
LOOKS: Final = 152
"""Five minutes of the page."""
ROTATE: Final = 120
WIDTH, HEIGHT = 1180, 865


@dataclass(frozen=True)
class Made:
    """A peer that there is not: bytes a second in and out, at their busiest, and how it swings."""

    name: str
    endpoint: str
    into: float
    out: float
    period: float
    rtt: float
    state: str = "up"


PEERS: Final = (
    Made("backup-lisbon", "198.51.100.24:9999", 41e6, 1.1e6, 190, 0.0312),
    Made("branch-oslo", "203.0.113.7:9999", 6.2e6, 17.5e6, 110, 0.0187),
    Made("branch-turin", "198.51.100.80:9999", 2.9e6, 8.4e6, 75, 0.0223),
    Made("build-1", "203.0.113.19:40112", 12.4e6, 3.3e6, 40, 0.0041),
    Made("laptop-anna", "192.0.2.143:51820", 0.4e6, 2.6e6, 60, 0.0146),
    Made("laptop-ben", "192.0.2.61:36004", 0.1e6, 0.9e6, 33, 0.0418),
    Made("kiosk-lobby", "", 0, 0, 1, 0, "disabled"),
    Made("phone-cleo", "", 0, 0, 1, 0, "down"),
    Made("sensor-quay", "203.0.113.200:40977", 2200, 900, 20, 0.1873, "silent"),
)


def _id(name: str) -> str:
    return str(PeerId(hashlib.sha256(name.encode()).digest()))


def _wave(at: float, period: float, seed: int) -> float:
    """Between 0.08 and 1, never quite the same twice."""
    slow = 0.5 + 0.5 * math.sin(math.tau * at / period + seed)
    quick = 0.5 + 0.5 * math.sin(math.tau * at / (0.13 * period + 7) + 3 * seed)
    return 0.08 + 0.92 * (0.7 * slow + 0.3 * quick) ** 2


class Gateway:
    """The node, two seconds older at each look."""

    def __init__(self) -> None:
        self._at = 0.0
        self._counts = {peer.name: [8e9 * peer.into / 1e6, 8e9 * peer.out / 1e6] for peer in PEERS}

    def figures(self) -> dict[str, float]:
        """Beside the status."""
        turns = (int((self._at + 37 * seed) / ROTATE) for seed, made in enumerate(PEERS) if made.state == "up")
        return {"rotations": 311 + sum(turns), "rotate_secs": ROTATE}

    def status(self) -> NodeStatus:
        """The next one."""
        self._at += POLL
        return NodeStatus(
            version=VERSION, time=BEGIN + self._at, peer_id=_id("gateway"), tun_name="cryprq0",
            uptime_secs=187_400 + self._at, healthy=True, peers=tuple(map(self._peer, PEERS, range(len(PEERS)))),
            drops={"rx": {"replay": 2}, "tx": {"no_route": 15}},
        )  # fmt: skip

    def _peer(self, made: Made, seed: int) -> PeerSample:
        here = made.state in ("up", "silent") and not (made.name == "laptop-ben" and self._at < 95)
        quiet = not here or made.state == "silent"
        into, out = (0.0 if quiet else most * _wave(self._at, made.period, seed) for most in (made.into, made.out))
        counts = self._counts[made.name]
        counts[0] += POLL * into
        counts[1] += POLL * out
        age = (self._at + 37 * seed) % ROTATE if made.state == "up" else self._at % 45
        return PeerSample(
            peer_id=_id(made.name), name=made.name, connected=here, silent=made.state == "silent",
            barred=made.state if made.state == "disabled" else "", direction="inbound" if here else "",
            endpoint=made.endpoint if here else "", addresses=(f"10.77.0.{seed + 2}",),
            aead="aes-256-gcm" if here else "", kem="x25519-mlkem768" if here else "", epoch=40 + seed if here else 0,
            epoch_age_secs=age if here else None, round_trip_secs=made.rtt if here else None,
            epoch_arrived=90_000 if here else 0, epoch_lost=[0, 0, 0, 41, 0, 760, 0, 0, 0][seed] if here else 0,
            rx_rate=into, tx_rate=out, rx_bytes=int(counts[0]), tx_bytes=int(counts[1]),
        )  # fmt: skip


def page(*, dark: bool = False) -> bytes:
    """The page after five minutes, as PNG. The browser's clock runs ahead, so that they take some seconds."""
    gateway = Gateway()
    with served(gateway.status, gateway.figures) as url, Browser(timeout=60) as browser:
        browser.look(width=WIDTH, height=HEIGHT, dark=dark)
        browser.open(url)
        browser.advance(POLL * LOOKS)
        browser.evaluate("sortBy = 'traffic', down = true, drawRows()")
        return browser.screenshot()


class MadeTop(top.Top):
    """``cryprq top`` that asks the made-up node."""

    def __init__(self, gateway: Gateway) -> None:
        super().__init__(Path(), 3600.0)
        self._gateway = gateway

    async def _ask(self, command: str, **arguments: object) -> Any:
        return as_json(self._gateway.status())


async def terminal() -> str:
    """The screen of ``cryprq top`` after a while, as SVG."""
    app = MadeTop(Gateway())
    async with app.run_test(size=(110, 13)) as pilot:
        await pilot.pause()
        for _ in range(LOOKS):
            await app._look()
        await pilot.pause()
        drawn = app.export_screenshot(title="cryprq top")
    # A font from elsewhere is not asked for: the reader has a monospaced one.
    return re.sub(r"\s*(?:@font-face {.*?}|<!-- .*? -->)", "", drawn, flags=re.DOTALL)


def main() -> None:
    if (reason := sandbox.enter()) is not None:
        raise SystemExit(f"make_pictures: no network namespaces: {reason}")
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / "top.svg").write_text(asyncio.run(terminal()))
    (FOLDER / "page.png").write_bytes(page())


if __name__ == "__main__":
    main()
