"""A node's HTTP server without a node: what it says of itself is made up, more or odder than a lab can have."""

import asyncio
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count

from cryprq.linux.name_service import NameService
from cryprq.telemetry.health import Health
from cryprq.telemetry.http import HttpServer
from cryprq.telemetry.metrics import Metrics
from cryprq.telemetry.page import FRESH_SECS, Page
from cryprq.telemetry.samples import NodeStatus


@contextmanager
def served(status: Callable[[], NodeStatus], figures: Callable[[], Mapping[str, float]]) -> Iterator[str]:
    """The URL of the page. Both are asked anew for each document, in a thread of their own."""
    moments = count()
    page = Page(status, figures, "127.0.0.1", clock=lambda: next(moments) * FRESH_SECS)
    metrics = Metrics(peers=lambda: status().peers, drops=dict, offloads=dict)
    server = HttpServer(metrics, Health(), NameService().getaddrinfo, page)
    loop = asyncio.new_event_loop()
    (address,) = loop.run_until_complete(server.start("127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield f"http://{address}/"
    finally:
        asyncio.run_coroutine_threadsafe(server.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
