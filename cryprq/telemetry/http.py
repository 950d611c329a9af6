"""The HTTP server behind ``--metrics-addr``: ``/metrics`` and ``/healthz`` for scrapers and load balancers, and a page.

One request a connection, GET and HEAD; what a client may cost is bounded in size, time and number.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus
from ipaddress import ip_address
from typing import Any, Final

from cryprq.errors import MachineError
from cryprq.telemetry.health import Health
from cryprq.telemetry.metrics import Metrics
from cryprq.telemetry.page import Page

REQUEST_MAX: Final = 8192
"""Bytes of a request's head."""
TIMEOUT: Final = 5.0
"""Seconds for a request to arrive, and for the answer to be taken."""
CONNECTIONS_MAX: Final = 32

_TEXT: Final = "text/plain; charset=utf-8"


class HttpServer:
    """Serves a node's metrics and health until it is closed."""

    def __init__(
        self,
        metrics: Metrics,
        health: Health,
        getaddrinfo: Callable[[str, int, int, int], Awaitable[Sequence[tuple[Any, ...]]]],
        page: Page | None = None,
    ) -> None:
        """``getaddrinfo`` gets (host, port, family, kind of socket) of a name; without ``page`` there is none."""
        self._metrics = metrics
        self._health = health
        self._getaddrinfo = getaddrinfo
        self._page = page
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self, host: str, port: int) -> list[str]:
        """Listens on HOST:PORT; port 0 lets the system choose. Returns the addresses. MachineError if it cannot."""
        try:
            hosts = await self._addresses(host, port)
            self._server = await asyncio.start_server(self._accept, hosts, port, limit=REQUEST_MAX)
        except UnicodeError:
            raise MachineError(
                f"cannot serve metrics on {_join(host, port)}: no such name; see --metrics-addr"
            ) from None
        except OSError as error:
            # asyncio's own text is a paragraph; a resolver's error has no errno but a number below 0
            reason = error.strerror or str(error)
            if error.errno is not None and error.errno > 0:
                reason = os.strerror(error.errno).lower()
            raise MachineError(f"cannot serve metrics on {_join(host, port)}: {reason}; see --metrics-addr") from None
        return [_join(*sock.getsockname()[:2]) for sock in self._server.sockets]

    async def _addresses(self, host: str, port: int) -> list[str]:
        with contextlib.suppress(ValueError):
            ip_address(host)
            return [host]
        found = await self._getaddrinfo(host, port, socket.AF_UNSPEC, socket.SOCK_STREAM)
        return list(dict.fromkeys(sockaddr[0] for *_, sockaddr in found))

    async def close(self) -> None:
        """Stops listening and ends open connections."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._connections.add(task)
        try:
            async with asyncio.timeout(TIMEOUT):
                writer.write(self._answer(await _read_head(reader)))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, asyncio.IncompleteReadError, TimeoutError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()  # nothing, where it has closed in order
            self._connections.discard(task)

    def _answer(self, head: bytes | None) -> bytes:
        if head is None:
            return _response(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        lines = head.decode("latin-1").split("\r\n")
        request = lines[0].split(" ")
        if len(request) != 3 or request[2] not in ("HTTP/1.0", "HTTP/1.1"):
            return _response(HTTPStatus.BAD_REQUEST)
        method, target, _ = request
        path = target.partition("?")[0]
        if path not in ("/metrics", "/healthz") and (self._page is None or path not in Page.PATHS):
            return _response(HTTPStatus.NOT_FOUND, with_body=method != "HEAD")
        if method not in ("GET", "HEAD"):
            return _response(HTTPStatus.METHOD_NOT_ALLOWED, extra="Allow: GET, HEAD\r\n")
        extra = ""
        if path == "/healthz":
            reason = self._health.reason()
            status = HTTPStatus.OK if reason is None else HTTPStatus.SERVICE_UNAVAILABLE
            body, content_type = f"{reason or 'ok'}\n".encode(), _TEXT
        elif path == "/metrics" or self._page is None:
            status = HTTPStatus.OK
            body, content_type = self._metrics.render(",".join(_values(lines[1:], "accept")))
        else:
            answer = self._page.answer(path, _values(lines[1:], "host"))
            status, body, content_type, extra = answer.status, answer.body, answer.content_type, answer.extra
        return _response(status, body, content_type, extra=extra, with_body=method == "GET")


async def _read_head(reader: asyncio.StreamReader) -> bytes | None:
    """Everything before the empty line; None if it is too long."""
    try:
        return (await reader.readuntil(b"\r\n\r\n"))[:-4]
    except asyncio.LimitOverrunError:
        return None


def _values(lines: list[str], field: str) -> list[str]:
    """What the head says for a field, each time that it does."""
    fields = (line.partition(":") for line in lines)
    return [value.strip() for name, _, value in fields if name.lower() == field]


def _response(
    status: HTTPStatus, body: bytes | None = None, content_type: str = _TEXT, *, extra: str = "", with_body: bool = True
) -> bytes:
    content = f"{status.phrase}\n".encode() if body is None else body
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(content)}\r\nCache-Control: no-store\r\nConnection: close\r\n{extra}\r\n"
    )
    return head.encode() + (content if with_body else b"")


def _join(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
