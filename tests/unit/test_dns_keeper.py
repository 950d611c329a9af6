"""The host's name servers: applied, taken back, tried again; the programs that do it are real ones."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from ipaddress import ip_address
from pathlib import Path

import pytest

from cryprq.dns import DnsSettings
from cryprq.inner.name_servers import Choice, Refusal
from cryprq.linux import resolver_settings
from cryprq.linux.resolver_settings import Command, Resolvconf, Resolvectl, Way
from cryprq.node import dns
from cryprq.node.dns import DnsKeeper, record_path
from cryprq.peer_id import PeerId
from tests.rigs.fakes import Recorder

A = PeerId(bytes(32))
SERVER = ip_address("10.9.0.1")
SPLIT = DnsSettings((SERVER,), ("corp.example", "lan"))
ALL = DnsSettings((SERVER, ip_address("fd00::1")), ("corp.example",), True)


def words(commands: tuple[Command, ...]) -> list[str]:
    return [" ".join(command.words) for command in commands]


# ---- what is run ----


def test_resolvectl_gets_domains_and_the_root_of_all_names() -> None:
    way = Resolvectl("/usr/bin/resolvectl")
    assert words(way.apply("cryprq0", SPLIT)) == [
        "/usr/bin/resolvectl domain -- cryprq0 corp.example lan",
        "/usr/bin/resolvectl default-route -- cryprq0 no",
        "/usr/bin/resolvectl dns -- cryprq0 10.9.0.1",
    ]
    assert words(way.apply("cryprq0", ALL)) == [
        "/usr/bin/resolvectl domain -- cryprq0 corp.example ~.",
        "/usr/bin/resolvectl default-route -- cryprq0 yes",
        "/usr/bin/resolvectl dns -- cryprq0 10.9.0.1 fd00::1",
    ]
    assert words(way.undo("-x")) == ["/usr/bin/resolvectl revert -- -x"]
    assert way.refusal(SPLIT) is None


def test_resolvconf_gets_a_list_that_is_asked_everything_or_nothing() -> None:
    way = Resolvconf("/sbin/resolvconf", "tun.")
    (command,) = way.apply("cryprq0", ALL)
    assert " ".join(command.words) == "/sbin/resolvconf -a tun.cryprq0.inet -m 0 -x"
    assert command.data == b"nameserver 10.9.0.1\nnameserver fd00::1\nsearch corp.example\n"
    assert words(way.undo("cryprq0")) == ["/sbin/resolvconf -d tun.cryprq0.inet -f"]
    assert "--accept-dns all" in (way.refusal(SPLIT) or "")
    assert way.refusal(ALL) is None


def test_ways_are_what_the_host_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {name: tmp_path / name for name in ("resolvectl", "resolvconf")}
    monkeypatch.setattr(resolver_settings, "find", lambda name: places[name] if places[name].exists() else None)
    monkeypatch.setattr(resolver_settings, "_RESOLVED", tmp_path / "run")
    monkeypatch.setattr(resolver_settings, "_INTERFACE_ORDER", tmp_path / "order")
    assert resolver_settings.ways() == ()
    places["resolvectl"].touch()
    assert resolver_settings.ways() == ()  # it does not run
    (tmp_path / "run").mkdir()
    assert [way.name for way in resolver_settings.ways()] == ["resolvectl"]
    places["resolvconf"].symlink_to("resolvectl")
    assert [way.name for way in resolver_settings.ways()] == ["resolvectl"]
    places["resolvconf"].unlink()
    places["resolvconf"].touch()
    assert resolver_settings.ways()[1] == Resolvconf(str(places["resolvconf"]))
    (tmp_path / "order").touch()
    assert resolver_settings.ways()[1] == Resolvconf(str(places["resolvconf"]), "tun.")


# ---- when it is run ----


@dataclass
class Shell:
    """A way that notes what it is to do in a file, and does as it is told."""

    log: Path
    leaves_record: bool = True
    name: str = "shell"
    fails: list[str] = field(default_factory=list)
    refuses: bool = False
    state: bytes | None = b"as it was applied"

    def refusal(self, settings: DnsSettings) -> str | None:
        return "cannot" if self.refuses else None

    def apply(self, interface: str, settings: DnsSettings) -> tuple[Command, ...]:
        return self._do(f"apply {interface} {','.join(map(str, settings.servers))}")

    def undo(self, interface: str) -> tuple[Command, ...]:
        return self._do(f"undo {interface}")

    def trace(self, interface: str) -> bytes | None:
        return self.state

    def _do(self, what: str) -> tuple[Command, ...]:
        end = next((f"; {fail}" for fail in self.fails[:1] if self.fails.pop(0) or True), "")
        return (Command(("/bin/sh", "-c", f'echo "$0" >> "$1"{end}', what, str(self.log))),)

    def done(self) -> list[str]:
        return self.log.read_text().splitlines() if self.log.exists() else []


class Rig:
    def __init__(self, path: Path, *ways: Way, hooked: bool = False) -> None:
        self.observer = Recorder()
        self.record = path / "record"
        self.tun = "tun0"
        self.keeper = DnsKeeper(lambda: self.tun, self.record, self.observer, hooked=hooked, ways=lambda: ways)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():  # noqa: ASYNC110  # of the keeper, which tells nobody
                await asyncio.sleep(0.005)

    async def want(self, settings: DnsSettings | None, *refused: Refusal) -> None:
        self.keeper.want(Choice(settings, None if settings is None else A, refused))
        await self.until(lambda: self.keeper.settings == settings)


def play(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 60))


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dns, "RETRY", 0.05)


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path / "log")


def test_what_somebody_else_took_away_is_put_back(tmp_path: Path, shell: Shell) -> None:
    async def scene() -> None:
        rig = Rig(tmp_path, shell)

        def told(times: int) -> bool:
            return rig.observer.names.count("dns_restored") == times

        await rig.want(SPLIT)
        rig.keeper.look()
        assert rig.observer.names == ["dns_set"]
        for times, state in enumerate((None, b"what somebody else wants"), 1):
            shell.state = state
            rig.keeper.look()
            await rig.until(partial(told, times))
            rig.keeper.look()
            await asyncio.sleep(0.02)
        assert shell.done() == ["apply tun0 10.9.0.1"] * 3
        assert rig.observer.names == ["dns_set", "dns_restored", "dns_restored"]
        await rig.want(None)
        shell.state = b"another"
        rig.keeper.look()
        await asyncio.sleep(0.02)
        assert len(shell.done()) == 4

    play(scene)


def test_what_cannot_be_put_back_is_tried_again(tmp_path: Path, shell: Shell) -> None:
    async def scene() -> None:
        rig = Rig(tmp_path, shell)
        await rig.want(SPLIT)
        shell.state = None
        shell.fails = ["exit 1"]
        rig.keeper.look()
        await rig.until(lambda: "dns_restored" in rig.observer.names)
        assert rig.observer.names == ["dns_set", "dns_failed", "dns_restored"]
        assert rig.keeper.failure() is None

    play(scene)


def test_settings_come_change_and_go(tmp_path: Path, shell: Shell) -> None:
    async def scene() -> None:
        rig = Rig(tmp_path, shell)
        await rig.want(SPLIT)
        assert rig.record.read_text() == "tun0\n"
        await rig.want(SPLIT)
        await rig.want(ALL)
        await rig.want(None)
        assert not rig.record.exists()
        assert shell.done() == ["apply tun0 10.9.0.1", "apply tun0 10.9.0.1,fd00::1", "undo tun0"]
        assert rig.observer.names == ["dns_set"] * 3
        assert rig.observer.last("dns_set") == (None, None, "")
        await rig.keeper.stop()
        assert shell.done()[3:] == []

    play(scene)


def test_what_stays_is_taken_back_at_the_end_and_the_rest_left_to_go_with_the_tun(tmp_path: Path, shell: Shell) -> None:
    async def scene() -> None:
        for leaves in (True, False):
            shell.leaves_record = leaves
            rig = Rig(tmp_path, shell)
            await rig.want(ALL)
            await rig.keeper.stop()
            assert not rig.record.exists()
            rig.keeper.want(Choice(SPLIT, A))
            await asyncio.sleep(0.02)
        assert [line.split()[0] for line in shell.done()] == ["apply", "undo", "apply"]

    play(scene)


@pytest.mark.parametrize(
    ("leaves", "done"),
    [
        (False, ["apply tun0 10.9.0.1", "apply tun9 10.9.0.1,fd00::1", "undo tun9"]),
        (True, ["apply tun0 10.9.0.1", "undo tun0", "apply tun9 10.9.0.1,fd00::1", "undo tun9"]),
    ],
    ids=["by interface", "by record"],
)
def test_tun_may_have_another_name_meanwhile(tmp_path: Path, shell: Shell, leaves: bool, done: list[str]) -> None:
    async def scene() -> None:
        shell.leaves_record = leaves
        rig = Rig(tmp_path, shell)
        await rig.want(SPLIT)
        rig.tun = "tun9"
        await rig.want(ALL)
        await rig.want(None)
        assert shell.done() == done
        assert rig.keeper.failure() is None
        await rig.keeper.stop()

    play(scene)


@pytest.mark.parametrize(("text", "undone"), [("cryprq7\n", ["undo cryprq7"]), ("../x y\n", []), ("\xff\n", [])])
def test_what_an_earlier_run_left_is_taken_back(tmp_path: Path, shell: Shell, text: str, undone: list[str]) -> None:
    async def scene() -> None:
        (tmp_path / "record").write_text(text, encoding="latin-1")
        rig = Rig(tmp_path, shell)
        rig.keeper.start()
        await rig.until(lambda: not rig.record.exists())
        await rig.want(ALL)
        assert shell.done() == [*undone, "apply tun0 10.9.0.1,fd00::1"]
        await rig.keeper.stop()

    play(scene)


def test_failure_is_told_once_shows_and_is_tried_again(tmp_path: Path, shell: Shell) -> None:
    async def scene() -> None:
        shell.fails += ["echo no such host >&2; exit 1", "exit 0"] * 3  # each with the undoing of what was half done
        rig = Rig(tmp_path, shell)
        rig.keeper.want(Choice(ALL, A))
        await rig.until(lambda: rig.keeper.failure() is not None)
        assert rig.keeper.failure() == "the gateway's name servers are not in use: sh -c: exit status 1: no such host"
        assert rig.keeper.faults == ("dns: sh -c: exit status 1: no such host",)
        await rig.until(lambda: rig.keeper.settings == ALL)
        assert rig.keeper.failure() is None
        assert rig.observer.names == ["dns_failed", "dns_set"]
        assert [line.split()[0] for line in shell.done()] == ["apply", "undo"] * 3 + ["apply"]
        await rig.keeper.stop()

    play(scene)


def test_second_way_is_taken_where_the_first_fails(tmp_path: Path, shell: Shell) -> None:
    async def scene() -> None:
        first = Shell(tmp_path / "first", leaves_record=False, name="first", fails=["exit 1", "exit 1"])
        rig = Rig(tmp_path, first, shell)
        await rig.want(ALL)
        assert rig.keeper.by == "shell"
        assert [line.split()[0] for line in first.done()] == ["apply", "undo"]
        await rig.keeper.stop()

    play(scene)


def test_without_a_way_it_is_said_once_or_left_to_the_hook(tmp_path: Path, shell: Shell) -> None:
    async def scene() -> None:
        shell.refuses = True
        rig = Rig(tmp_path, shell)
        await rig.want(SPLIT)
        assert rig.observer.last("dns_unavailable") == (A, SPLIT, "cannot")
        assert rig.keeper.failure() is None
        rig = Rig(tmp_path, shell, hooked=True)
        await rig.want(SPLIT)
        assert rig.observer.last("dns_set") == (A, SPLIT, "on-change")
        assert shell.done() == []

    play(scene)


def test_refusals_are_told_when_they_are_new(tmp_path: Path, shell: Shell) -> None:
    async def scene() -> None:
        rig = Rig(tmp_path, shell)
        com, elsewhere = Refusal(A, "com", "large"), Refusal(A, "192.0.2.53", "outside")
        for refused in ((com,), (com,), (com, elsewhere), (), (com,)):
            rig.keeper.want(Choice(refused=refused))
        told = [args[1] for name, args, _ in rig.observer.calls if name == "dns_refused"]
        assert told == ["com", "192.0.2.53", "com"]

    play(scene)


def test_program_that_hangs_keeps_nobody_from_stopping(
    tmp_path: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns, "STOP_LIMIT", 0.3)

    async def scene() -> None:
        shell.fails += ["sleep 60", "sleep 60"]
        rig = Rig(tmp_path, shell)
        rig.keeper.want(Choice(ALL, A))
        await rig.until(lambda: bool(shell.done()))
        start = time.monotonic()
        await rig.keeper.stop()
        assert time.monotonic() - start < 50
        assert rig.record.exists()  # for the next start

    play(scene)


def test_record_that_cannot_be_written_is_a_fault_and_nothing_is_told(tmp_path: Path, shell: Shell) -> None:
    async def scene() -> None:
        rig = Rig(tmp_path / "missing", shell)
        rig.keeper.want(Choice(ALL, A))
        await rig.until(lambda: rig.keeper.failure() is not None)
        assert "cannot write" in (rig.keeper.failure() or "")
        assert shell.done() == []
        await rig.keeper.stop()

    play(scene)


def test_record_lies_beside_the_identity() -> None:
    assert record_path(Path("/s/identity"), "tun0", None) == Path("/s/identity.tun0.resolvconf")
    assert record_path(Path("/s/identity"), "tun0", Path("/d")) == Path("/d/identity.tun0.resolvconf")
