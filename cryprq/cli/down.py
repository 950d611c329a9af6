"""``cryprq down``: stops a node for good, and lifts what its kill switch has left."""

import errno
import time
from pathlib import Path
from typing import Final

from cryprq.cli import admin_client
from cryprq.errors import MachineError
from cryprq.linux.interface_state import refuse_namesake, remove_leftovers
from cryprq.linux.netlink import NetlinkError
from cryprq.linux.route_plan import Numbers
from cryprq.linux.rtnetlink import RtNetlink

PATIENCE: Final = 10.0
"""Seconds that a node may take to stop."""
_POLL: Final = 0.05


def down(socket_path: Path, tun_name: str) -> str:
    """Stops the node behind the admin socket, if one is there, and removes what a node with that TUN left behind. What
    was done, in one line; MachineError if it could not be."""
    stopped = _stop(socket_path)
    try:
        with RtNetlink() as kernel:
            refuse_namesake(kernel, tun_name)
            removed = remove_leftovers(kernel, Numbers.of(tun_name))
    except NetlinkError as error:
        hint = "; needs root or CAP_NET_ADMIN" if error.errno == errno.EPERM else ""
        raise MachineError(f"cannot lift the kill switch of {tun_name}: {error.strerror}{hint}") from None
    if stopped:
        return "the node has stopped; packets go their usual way"
    if removed:
        return f"no node was running; removed {removed} routes and rules that one with {tun_name} had left"
    return f"no node was running, and none with {tun_name} had left anything"


def _stop(path: Path) -> bool:
    """Whether a node was there. Returns when it is gone."""
    try:
        admin_client.request(path, "down")
    except admin_client.NoNode:
        return False
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        try:
            admin_client.request(path, "status")
        except MachineError:
            return True
        time.sleep(_POLL)
    raise MachineError(f"the node at {path} has not stopped within {PATIENCE:.0f} s")
