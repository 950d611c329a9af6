"""The daemon: a node that signals stop and reload."""

import asyncio
import gc
import os
import signal
from collections.abc import Callable
from typing import Final

import uvloop

from cryprq.config.node_config import NodeConfig
from cryprq.config.peer_files import PeerFiles
from cryprq.linux.process import keep_memory_private
from cryprq.linux.systemd import Notifier
from cryprq.node.node import Node
from cryprq.telemetry.logs import Log, setup

_YOUNG: Final = 10_000
"""New objects until the collector looks for cycles among them. A handshake makes thousands that are soon gone, and
cycles only of what a connection consists of: with CPython's 700 the collector runs a dozen times for each."""


def run(
    config: NodeConfig, *, reload: Callable[[], NodeConfig] | None = None, peer_files: PeerFiles | None = None
) -> int:
    """The daemon: runs a node until SIGTERM or SIGINT and returns 0. SIGHUP calls ``reload`` for a new configuration,
    and so does a change in the directory that ``peer_files`` reads.
    ConfigError or MachineError, one line, if it cannot start."""
    keep_memory_private()  # before there is a key in it
    log = setup(config.log_level, config.log_format)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_serve(config, reload, peer_files, log))
    finally:
        log.flush()  # before the one line that says why it ended


async def _serve(
    config: NodeConfig, reload: Callable[[], NodeConfig] | None, peer_files: PeerFiles | None, log: Log
) -> int:
    loop = asyncio.get_running_loop()
    node = Node(config, reload=reload, log=log, notifier=Notifier.from_environ(os.environ), peer_files=peer_files)
    task = asyncio.current_task()
    assert task is not None

    def give_up() -> None:
        """While it starts. A second signal must not cancel the clearing up."""
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: None)
        task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, give_up)
    loop.add_signal_handler(signal.SIGHUP, lambda: None)
    try:
        async with node:
            gc.freeze()  # what is there by now stays: modules, classes, the configuration
            gc.set_threshold(_YOUNG)
            gc.enable()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, node.request_stop)
            loop.add_signal_handler(signal.SIGHUP, node.reload)
            await node.wait()
    except asyncio.CancelledError:
        task.uncancel()
    return 0
