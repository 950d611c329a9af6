"""Who else may touch a file: real access control lists on a real file system."""

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cryprq.config import file_access
from cryprq.config.identity_file import IdentityError, create_identity, load_identity
from cryprq.config.node_config import NodeConfig
from lab.hosts import tmpfs

USER_OBJ, USER, GROUP_OBJ, GROUP, MASK, OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
READ, WRITE = 4, 2
NOBODY = 0xFFFFFFFF
SERVICE, STRANGER = 61234, 4321
"""Numbers that users and groups may have; the first is in the range of systemd's DynamicUser."""

Entry = tuple[int, int, int]
SetList = Callable[..., None]


def access_list(*entries: Entry) -> bytes:
    """As acl(5) has it in the extended attribute; sorted, as the kernel wants it."""
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in sorted(entries))


def one_user() -> bool:
    """Whether this is a user namespace with root alone, in which other users have no number."""
    return Path("/proc/self/uid_map").read_text().split()[2] == "1"


@pytest.fixture
def set_list(path: Path, monkeypatch: pytest.MonkeyPatch) -> SetList:
    """Gives the identity an access control list; where there are no such users, the answer."""

    def set_list(*entries: Entry) -> None:
        data = access_list(*entries)
        if one_user():
            monkeypatch.setattr(os, "getxattr", lambda *_: data)
        else:
            os.setxattr(path, "system.posix_acl_access", data)

    return set_list


def base(group: int = 0, mask: int = READ, other: int = 0) -> list[Entry]:
    """The entries that each list has."""
    return [(USER_OBJ, READ, NOBODY), (GROUP_OBJ, group, NOBODY), (MASK, mask, NOBODY), (OTHER, other, NOBODY)]


CREDENTIAL = [*base(), (USER, READ, SERVICE)]
"""What systemd makes of the file of a service whose user is SERVICE."""


@pytest.fixture
def path(tmp_path: Path) -> Iterator[Path]:
    """An identity on a file system that has access control lists."""
    with tmpfs(tmp_path / "credentials", "mode=755"):
        create_identity(tmp_path / "credentials" / "identity")
        yield tmp_path / "credentials" / "identity"


pytestmark = pytest.mark.netns  # a file system of its own needs a mount namespace


def others(path: Path) -> str | None:
    with path.open("rb") as file:
        return file_access.others(file.fileno())


@pytest.mark.parametrize(
    ("entries", "who"),
    [
        (base(), None),
        ([*base(), (USER, READ, 0)], None),
        ([*base(), (USER, READ, STRANGER)], f"user {STRANGER}"),
        ([*base(mask=WRITE), (USER, READ, STRANGER)], None),
        ([*base(mask=READ | WRITE), (USER, WRITE, STRANGER)], f"user {STRANGER}"),
        ([*base(), (USER, 0, STRANGER)], None),
        ([*base(), (GROUP, READ, STRANGER)], f"group {STRANGER}"),
        (base(group=READ), f"group {os.getegid()}"),
        (base(group=READ, mask=0), None),
        (base(other=READ), "everybody"),
    ],
)
def test_list_is_judged_by_who_is_in_it(path: Path, set_list: SetList, entries: list[Entry], who: str | None) -> None:
    set_list(*entries)
    assert others(path) == who
    if who is None:
        load_identity(path)
    else:
        with pytest.raises(IdentityError, match=rf"is open to others \({who}\); if it is still secret, .*chmod 600"):
            load_identity(path)


def test_credential_is_for_the_user_of_the_service_alone(
    path: Path, set_list: SetList, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_list(*CREDENTIAL)
    assert one_user() or path.stat().st_mode & 0o777 == 0o440
    monkeypatch.setattr(os, "geteuid", lambda: SERVICE)
    load_identity(path)
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    with pytest.raises(IdentityError, match=f"user {SERVICE}.*setfacl -b"):
        load_identity(path)


@pytest.mark.parametrize("data", [b"", b"\x03\0\0\0", access_list(*CREDENTIAL)[:-1]])
def test_list_of_another_form_is_refused(path: Path, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getxattr", lambda *_: data)
    with pytest.raises(IdentityError, match="cannot read the identity file"):
        load_identity(path)


def test_service_under_its_own_user_reads_its_credential_on_a_read_only_mount(path: Path, set_list: SetList) -> None:
    if one_user():
        pytest.skip("only the machine's root can become another user")
    set_list(*CREDENTIAL)
    subprocess.run(["mount", "-o", "remount,ro", str(path.parent)], check=True)
    for directory in (path.parent, *path.parent.parents):
        if not directory.stat().st_mode & 1:
            directory.chmod(directory.stat().st_mode | 0o111)
    program = (
        "import sys; from cryprq.config.identity_file import load_identity as load; print(load(sys.argv[1]).peer_id)"
    )
    command = [sys.executable, "-c", program, str(path)]
    for user, works in ((SERVICE, True), (STRANGER, False)):
        become = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=-all", "--"]
        done = subprocess.run([*become, *command], capture_output=True, text=True, timeout=30)
        assert (done.returncode == 0) is works, done.stderr


def test_leases_of_a_credential_are_in_the_state_directory() -> None:
    flags = ["--listen", "/ip4/0.0.0.0/udp/9999/quic-v1", "--tun-address", "10.9.0.1/24"]
    credentials = "/run/credentials/cryprq-node.service"
    environ = {"CREDENTIALS_DIRECTORY": credentials, "STATE_DIRECTORY": "/var/lib/cryprq:/var/lib/more"}
    assert NodeConfig.load(flags, environ).lease_dir is None
    environ["CRYPRQ_IDENTITY"] = f"{credentials}/identity"
    assert NodeConfig.load(flags, environ).lease_dir == Path("/var/lib/cryprq")
    del environ["STATE_DIRECTORY"]
    assert NodeConfig.load(flags, environ).lease_dir == Path("/var/lib/cryprq")
    environ["CRYPRQ_IDENTITY"] = f"{credentials}-other/identity"
    assert NodeConfig.load(flags, environ).lease_dir is None
