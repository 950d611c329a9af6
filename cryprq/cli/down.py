"""``cryprq down``: stops a node for good, lifts what its kill switch has left, and takes back its name servers."""

import asyncio
import errno
import time
from pathlib import Path
from typing import Final

from cryprq.cli import admin_client
from cryprq.errors import MachineError
from cryprq.linux import program, resolver_settings
from cryprq.linux.interface_state import refuse_namesake, remove_leftovers
from cryprq.linux.netlink import NetlinkError
from cryprq.linux.route_plan import Numbers
from cryprq.linux.rtnetlink import RtNetlink

PATIENCE: Final = 10.0
"""Seconds that a node may take to stop."""
_POLL: Final = 0.05
_PROGRAM_PATIENCE: Final = 5.0


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
    _forget_name_servers(tun_name)
    if stopped:
        return "the node has stopped; packets go their usual way"
    if removed:
        return f"no node was running; removed {removed} routes and rules that one with {tun_name} had left"
    return f"no node was running, and none with {tun_name} had left anything"


def _forget_name_servers(tun_name: str) -> None:
    """Takes back what a node that was killed has told resolvconf; where there is nothing, nothing comes of it. (What
    systemd-resolved is told goes with the TUN.)"""
    for way in resolver_settings.ways():
        for command in way.undo(tun_name) if way.leaves_record else ():
            try:
                fault = asyncio.run(program.run(command.words, data=command.data, timeout=_PROGRAM_PATIENCE)).fault
            except OSError as error:
                fault = error.strerror or str(error)
            if fault is not None:
                raise MachineError(f"cannot take back the name servers of {tun_name}: {way.name}: {fault}")


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
