"""What runs beside a test or a scenario for as long as a context is open."""

import socket
import threading
from types import TracebackType
from typing import Self


class Background:
    """Threads over sockets while the context is open; they end when ``_end`` is set."""

    def __init__(self) -> None:
        self._end = threading.Event()
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._end.set()
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()
