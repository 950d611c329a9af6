"""What is asked of systemd-resolved on each link. Here resolvectl is a script; tests/e2e/test_dns.py has a real one."""

import asyncio
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from cryprq.linux import resolved

_TOOL = """#!/bin/sh
echo "$@" >> {log}
case "$*" in
    *interface=eth0*) echo 'gw.example: resolve call failed: No appropriate name servers'; exit 1;;
    *-4*) printf '%s\\n' 'gw.example: 198.51.100.7    -- link: wlan0' '    198.51.100.8    -- link: wlan0';;
    *-6*) {six};;
esac
"""


class Host:
    """With these links, and a resolved that has name servers on wlan0 alone."""

    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.log = path / "log"
        self.tool = path / "resolvectl"
        links = list(enumerate(("lo", "cryprq0", "eth0", "wlan0"), 1))
        monkeypatch.setattr(socket, "if_nameindex", lambda: links)
        monkeypatch.setattr(resolved, "resolvectl", lambda: str(self.tool) if self.tool.exists() else None)
        self.answer_six("exit 1")

    def answer_six(self, command: str) -> None:
        self.tool.write_text(_TOOL.format(log=self.log, six=command))
        self.tool.chmod(stat.S_IRWXU)

    def look_up(self, family: int) -> Sequence[tuple[Any, ...]]:
        return asyncio.run(resolved.look_up("gw.example", 9999, family, "cryprq0"))


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    return Host(tmp_path, monkeypatch)


def test_links_are_asked_in_turn_until_one_knows_the_name(host: Host) -> None:
    found = host.look_up(socket.AF_INET)
    assert found == [(socket.AF_INET, socket.SOCK_DGRAM, 0, "", ("198.51.100.7", 9999))]
    assert host.log.read_text().splitlines() == [
        f"query -4 --legend=no --interface={link} -- gw.example" for link in ("eth0", "wlan0")
    ]


def test_an_address_of_each_version_that_is_wanted(host: Host) -> None:
    four = (socket.AF_INET, socket.SOCK_DGRAM, 0, "", ("198.51.100.7", 9999))
    assert host.look_up(socket.AF_UNSPEC) == [four]
    host.answer_six("echo 'gw.example: 2001:db8::7  -- link: wlan0'")
    six = (socket.AF_INET6, socket.SOCK_DGRAM, 0, "", ("2001:db8::7", 9999, 0, 0))
    assert host.look_up(socket.AF_UNSPEC) == [six, four]
    assert host.look_up(socket.AF_INET6) == [six]


@pytest.mark.parametrize("says", ["echo nonsense", "echo 198.51.100.7", "exit 3", "sleep 30"])
def test_what_is_no_answer_is_none(host: Host, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    monkeypatch.setattr(resolved, "TIME_LIMIT_ALL", 0.5)
    host.answer_six(says)
    assert list(host.look_up(socket.AF_INET6)) == []


def test_host_without_resolved_has_no_answer(host: Host) -> None:
    host.tool.unlink()
    assert list(host.look_up(socket.AF_INET)) == []
