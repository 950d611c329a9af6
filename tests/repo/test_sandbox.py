"""Where namespaces are refused, the reason is the one of the way that root takes, and says what helps."""

import subprocess
import sys
from pathlib import Path

import pytest

from lab import ROOT

pytestmark = pytest.mark.netns

ASK = "from lab import sandbox; print(sandbox.enter())"
NO_USERS = "echo 0 >/proc/sys/user/max_user_namespaces && "
"""In a user namespace of its own, whose limits are nobody else's."""


def reason(*wrapper: str) -> str:
    """What ``enter`` says in a process that is started by way of the wrapper."""
    done = subprocess.run([*wrapper, sys.executable, "-c", ASK], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def limited(script: str) -> tuple[str, ...]:
    """A wrapper: a user namespace, the script in it, then what is wrapped."""
    return "unshare", "--user", "--map-root-user", "sh", "-c", script + 'exec "$@"', "sh"


def test_root_without_the_right_for_it_takes_a_user_namespace() -> None:
    assert reason("setpriv", "--bounding-set", "-sys_admin", "--") == "None"


def test_root_without_the_right_and_without_user_namespaces() -> None:
    said = reason(*limited(NO_USERS), "setpriv", "--bounding-set", "-sys_admin", "--")
    assert said.startswith("a mount namespace is refused (EPERM, Operation not permitted): this root has no CAP_SYS_A")
    assert "; and in a user namespace: a user namespace is refused (ENOSPC" in said
    assert "sysctl user.max_user_namespaces is 0" in said


@pytest.mark.parametrize(("kind", "sysctl"), [("mount", "max_mnt_namespaces"), ("network", "max_net_namespaces")])
def test_limit_that_is_used_up_is_named(kind: str, sysctl: str) -> None:
    said = reason(*limited(f"{NO_USERS} echo 0 >/proc/sys/user/{sysctl} && "))
    assert said.startswith(f"a {kind} namespace is refused (ENOSPC, No space left on device): sysctl user.{sysctl} is ")


def test_chroot_that_is_no_mount_point(tmp_path: Path) -> None:
    script = f"""set -e
mount -t tmpfs tmpfs {tmp_path}
mkdir {tmp_path}/root
cd /
for name in *; do
    if [ -d "$name" ] && [ ! -L "$name" ] && [ "$name" != tmp ]; then
        mkdir "{tmp_path}/root/$name"
        mount --rbind "$name" "{tmp_path}/root/$name"
    elif [ -L "$name" ]; then
        cp -P "$name" "{tmp_path}/root/"
    fi
done
for place in {ROOT} {sys.prefix}; do
    mkdir -p "{tmp_path}/root$place"  # it may be in /tmp
    mount --rbind "$place" "{tmp_path}/root$place"
done
exec chroot {tmp_path}/root "$@"
"""
    said = reason("unshare", "--mount", "sh", "-c", script, "sh")
    assert said.startswith("a private / is refused (EINVAL, Invalid argument): it is no mount point, as in a chroot")
    assert "; and in a user namespace: a user namespace is refused (EPERM, Operation not permitted): a chroot" in said


def test_others_are_told_that_root_may_have_more_luck() -> None:
    one_more = "echo 1 >/proc/sys/user/max_user_namespaces && "
    said = reason(*limited(one_more), "unshare", "--user", "--map-user", "1000", "--")
    assert said.startswith("a user namespace is refused (ENOSPC, No space left on device)")
    assert said.endswith("; or try again as root")
