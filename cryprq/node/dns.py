"""The host's name servers follow what a gateway names, for as long as there is a session with it.

One task runs the programs that tell the host (``linux.resolver_settings``), so the event loop waits for none of them.
What fails is tried again. What would outlive this process has a record on the disk, written first, by which the next
start takes it back.
"""

import asyncio
import contextlib
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Protocol

from cryprq.dns import DnsSettings
from cryprq.inner.name_servers import Choice, Refusal
from cryprq.linux import program, resolver_settings
from cryprq.linux.resolver_settings import Command, Way
from cryprq.peer_id import PeerId

RETRY: Final = 5.0
"""Seconds from a failure to the next try."""
TIME_LIMIT: Final = 5.0
"""Seconds that one program may take."""
STOP_LIMIT: Final = 2.0
"""The same when the node stops."""

_INTERFACE: Final = re.compile(r"[A-Za-z0-9_.-]{1,15}\n?", re.ASCII)


class DnsObserver(Protocol):
    """Who is told (``cryprq.telemetry.reporter.Reporter``)."""

    def dns_set(self, peer_id: PeerId | None, settings: DnsSettings | None, by: str) -> None: ...
    def dns_restored(self, by: str) -> None: ...
    def dns_failed(self, error: str) -> None: ...
    def dns_refused(self, peer_id: PeerId, what: str, reason: str) -> None: ...
    def dns_unavailable(self, peer_id: PeerId | None, settings: DnsSettings, reason: str) -> None: ...
    def internal_error(self, error: Exception) -> None: ...


class _Failed(Exception):
    """What did not work, in one line."""


def record_path(identity: Path, tun_name: str, directory: Path | None) -> Path:
    """Where a node notes what it has told resolvconf: beside its identity or in a directory, as its leases."""
    name = f"{identity.name}.{tun_name}.resolvconf"
    return identity.with_name(name) if directory is None else directory / name


class DnsKeeper:
    """Tells the host whom to ask, and takes it back. Belongs to one event loop."""

    def __init__(
        self,
        interface: Callable[[], str],
        record: Path,
        observer: DnsObserver,
        *,
        hooked: bool = False,
        ways: Callable[[], Sequence[Way]] = resolver_settings.ways,
    ) -> None:
        """``interface`` is the TUN's name now; ``hooked``: a program of the operator's is told, and may do it where the
        host has no way."""
        self._interface = interface
        self._record = record
        self._observer = observer
        self._hooked = hooked
        self._ways = ways
        self._wanted = Choice()
        self._done = Choice()
        self._by: tuple[Way, str] | None = None
        self._by_name = ""
        self._trace: bytes | None = None
        self._lost = False
        self._fault: str | None = None
        self._told_refusals: tuple[Refusal, ...] = ()
        self._leftover = record.exists()
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._stopped = False

    # ---- questions ----

    @property
    def settings(self) -> DnsSettings | None:
        """What is in force."""
        return self._done.settings

    @property
    def by(self) -> str:
        """What put it in force: ``resolvectl``, ``resolvconf``, ``on-change``, or nothing."""
        return self._by_name

    @property
    def faults(self) -> tuple[str, ...]:
        """What does not work, in words for ``cryprq status``."""
        return () if self._fault is None else (f"dns: {self._fault}",)

    def failure(self) -> str | None:
        """Why the host does not ask whom it should, in one line; None: it does, or there is no way to tell it."""
        return None if self._fault is None else f"the gateway's name servers are not in use: {self._fault}"

    # ---- life ----

    def start(self) -> None:
        """Takes back what an earlier run has left, in the background."""
        self._go_on()

    def want(self, choice: Choice) -> None:
        """What is to be in force from now on. Returns at once; the same again changes nothing."""
        if self._stopped:
            return
        if choice.refused != self._told_refusals:
            for each in choice.refused:
                if each not in self._told_refusals:
                    self._observer.dns_refused(each.peer_id, each.what, each.reason)
            self._told_refusals = choice.refused
        if (choice.settings, choice.peer_id) != (self._wanted.settings, self._wanted.peer_id):
            self._wanted = choice
            self._go_on()

    def look(self) -> None:
        """Puts back what somebody else has changed or removed. To be called every now and then; looks at a file."""
        if self._stopped or self._by is None or (self._task is not None and not self._task.done()):
            return
        if self._by[0].trace(self._interface()) != self._trace:
            self._lost = True
            self._go_on()

    async def stop(self) -> None:
        """Takes back what would stay, within ``STOP_LIMIT`` seconds. The rest goes with the TUN."""
        self._stopped = True
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._record.exists():
            with contextlib.suppress(_Failed, TimeoutError):  # the next start does it, then
                async with asyncio.timeout(STOP_LIMIT):
                    await self._clear_leftover()

    # ---- the task ----

    def _go_on(self) -> None:
        self._wake.set()
        if self._pending() and (self._task is None or self._task.done()):
            self._task = asyncio.ensure_future(self._settle())

    def _pending(self) -> bool:
        return self._leftover or self._lost or self._differs()

    def _differs(self) -> bool:
        return (self._wanted.settings, self._wanted.peer_id) != (self._done.settings, self._done.peer_id)

    async def _settle(self) -> None:
        while self._pending():
            self._wake.clear()
            try:
                if self._leftover:
                    await self._clear_leftover()
                    self._leftover = False
                if self._differs() or self._lost:
                    await self._change(self._wanted)
            except _Failed as failed:
                if str(failed) != self._fault:
                    self._fault = str(failed)
                    self._observer.dns_failed(self._fault)
                await self._pause()
            except Exception as error:
                self._observer.internal_error(error)
                await self._pause()
            else:
                self._fault = None
        self._fault = None

    async def _pause(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wake.wait(), RETRY)

    async def _change(self, choice: Choice) -> None:
        settings, reasons, failures = choice.settings, [], []
        chosen: Way | None = None
        for way in self._ways() if settings is not None else ():
            assert settings is not None
            if (reason := way.refusal(settings)) is not None:
                reasons.append(reason)
                continue
            try:
                await self._apply(way, settings)
            except _Failed as failed:
                failures.append(str(failed))
                continue
            chosen = way
            break
        if chosen is None and self._by is not None:
            await self._take_back()
        if chosen is None and failures:
            raise _Failed("; ".join(failures))
        self._finish(choice, chosen, reasons)

    def _finish(self, choice: Choice, way: Way | None, reasons: Sequence[str]) -> None:
        settings = choice.settings
        restored, self._lost = self._lost and not self._differs(), False
        self._done = choice
        self._by_name = way.name if way is not None else "on-change" if self._hooked and settings is not None else ""
        if settings is not None and not self._by_name:
            reason = "; ".join(reasons) or "this host has neither systemd-resolved nor resolvconf"
            self._observer.dns_unavailable(choice.peer_id, settings, reason)
        elif restored:
            self._observer.dns_restored(self._by_name)
        else:
            self._observer.dns_set(choice.peer_id, settings, self._by_name)

    async def _apply(self, way: Way, settings: DnsSettings) -> None:
        interface = self._interface()
        if self._by is not None and not (self._by[0] == way and (self._by[1] == interface or not way.leaves_record)):
            await self._take_back()
        if way.leaves_record:
            self._note(interface)
        self._by = way, interface
        try:
            for command in way.apply(interface, settings):
                await _run(command, TIME_LIMIT)
            self._trace = way.trace(interface)
        except _Failed:
            with contextlib.suppress(_Failed):  # half of it is worse than nothing
                await self._take_back()
            if not way.leaves_record:
                self._by = None  # who answers neither has nothing, and must not be in another way's way
            raise

    async def _take_back(self) -> None:
        assert self._by is not None
        way, noted = self._by
        for command in way.undo(noted if way.leaves_record else self._interface()):  # it may have another name by now
            await _run(command, TIME_LIMIT)
        self._by = None
        if way.leaves_record:
            self._forget()

    # ---- the record ----

    def _note(self, interface: str) -> None:
        try:
            descriptor = os.open(self._record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "w", encoding="ascii") as file:
                file.write(f"{interface}\n")
        except OSError as error:
            raise _Failed(f"cannot write {self._record}: {error.strerror}") from None

    async def _clear_leftover(self) -> None:
        try:
            text = self._record.read_text(encoding="ascii")
            if _INTERFACE.fullmatch(text):
                for way in self._ways():
                    for command in way.undo(text.strip()) if way.leaves_record else ():
                        await _run(command, TIME_LIMIT)
        except FileNotFoundError:
            return
        except (OSError, UnicodeDecodeError):
            pass  # it says nothing that could be taken back
        self._forget()

    def _forget(self) -> None:
        try:
            self._record.unlink(missing_ok=True)
        except OSError as error:
            raise _Failed(f"cannot remove {self._record}: {error.strerror}") from None


async def _run(command: Command, timeout: float) -> None:
    """Runs a program; _Failed if it does not end with 0 in time."""
    what = " ".join(command.words[:2]).rpartition("/")[2]
    try:
        ended = await program.run(command.words, data=command.data, timeout=timeout)
    except OSError as error:
        raise _Failed(f"{what}: {error.strerror}") from None
    if ended.fault is not None:
        raise _Failed(f"{what}: {ended.fault}")
