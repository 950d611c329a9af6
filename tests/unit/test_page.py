"""The page and its document over HTTP: who gets them, what is in them, what is not. What a browser makes of it is
``tests/e2e/test_page.py``."""

import asyncio
import base64
import hashlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import fields, replace
from typing import Any

import pytest

from cryprq.linux.name_service import NameService
from cryprq.telemetry.health import Health
from cryprq.telemetry.http import HttpServer
from cryprq.telemetry.metrics import Metrics
from cryprq.telemetry.page import FRESH_SECS, NODE_FIELDS, PEER_FIELDS, Page
from cryprq.telemetry.samples import NodeStatus, PeerSample, as_json

PEER = PeerSample(
    peer_id="QmPeer", name="oslo", groups=("ships",), connected=True, endpoint="192.0.2.2:9999",
    addresses=("10.66.0.2",), allowed_ips=("10.7.0.0/16",), standby_for=("10.8.0.0/16",), rx_bytes=5,
)  # fmt: skip
STATUS = NodeStatus(
    version="1", peer_id="QmSelf", tun_name="cryprq0", uptime_secs=9.0, healthy=False, unhealthy="worker 0 died",
    listen_addrs=("/ip4/198.51.100.1/udp/9/quic-v1",), addresses=("10.66.0.1/24",), routes=("10.9.0.0/16",),
    name_servers=("10.9.0.53",), search=("corp.example",), faults=("route 10.9.0.0/16: refused",), peers=(PEER,),
    drops={"rx": {"replay": 2}},
)  # fmt: skip
FIGURES = {"rotations": 3, "rotate_secs": 300}

Exchange = Callable[[bytes], Awaitable[bytes]]


def serve(
    body: Callable[[Exchange], Awaitable[None]],
    *,
    status: Callable[[], NodeStatus] = lambda: STATUS,
    host: str = "127.0.0.1",
    clock: Callable[[], float] = lambda: 0.0,
    page: bool = True,
) -> None:
    async def run() -> None:
        shown = Page(status, lambda: FIGURES, host, clock) if page else None
        metrics = Metrics(peers=list, drops=dict, offloads=dict)
        server = HttpServer(metrics, Health(), NameService().getaddrinfo, shown)
        port = int((await server.start("127.0.0.1", 0))[0].rpartition(":")[2])

        async def exchange(request: bytes) -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request)
            try:
                return await reader.read()
            finally:
                writer.close()

        try:
            await body(exchange)
        finally:
            await server.close()

    asyncio.run(asyncio.wait_for(run(), 20))


def get(target: str, host: str | None = "127.0.0.1:9464", method: str = "GET") -> bytes:
    line = "" if host is None else f"Host: {host}\r\n"
    return f"{method} {target} HTTP/1.1\r\n{line}\r\n".encode()


def fields_of(answer: bytes) -> dict[str, str]:
    lines = answer.partition(b"\r\n\r\n")[0].decode().split("\r\n")[1:]
    return {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}


def document(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def test_page_is_whole_and_its_policy_allows_this_script_and_style_alone() -> None:
    async def body(exchange: Exchange) -> None:
        answer = await exchange(get("/"))
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        told, content = fields_of(answer), answer.partition(b"\r\n\r\n")[2]
        policy = dict(part.split(" ", 1) for part in told["content-security-policy"].split("; "))
        for tag in ("style", "script"):
            (text,) = re.findall(rb"<%s>(.*?)</%s>" % (tag.encode(), tag.encode()), content, re.DOTALL)
            assert policy[f"{tag}-src"] == f"'sha256-{base64.b64encode(hashlib.sha256(text).digest()).decode()}'"
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["connect-src"] == "'self'"
        assert told["content-type"] == "text/html; charset=utf-8"
        # Nothing is fetched from elsewhere, and nothing is parsed as HTML. What is w3.org is the name of SVG.
        assert set(re.findall(rb"https?://[\w.]+", content)) <= {b"http://www.w3.org"}
        assert not re.search(rb"innerHTML|outerHTML|insertAdjacent|document\.write|\beval\b| style=| on\w+=", content)

    serve(body)


@pytest.mark.parametrize("path", Page.PATHS)
def test_neither_is_stored_guessed_at_or_lent_to_another_origin(path: str) -> None:
    async def body(exchange: Exchange) -> None:
        whole = await exchange(get(path))
        told = fields_of(whole)
        assert told["cache-control"] == "no-store"
        assert told["x-content-type-options"] == "nosniff"
        assert told["referrer-policy"] == "no-referrer"
        assert told["cross-origin-resource-policy"] == "same-origin"
        assert not [name for name in told if name.startswith("access-control")]
        head = await exchange(get(path, method="HEAD"))
        assert head == whole.partition(b"\r\n\r\n")[0] + b"\r\n\r\n"
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            refused = await exchange(get(path, method=method))
            assert refused.startswith(b"HTTP/1.1 405 ") and b"Allow: GET, HEAD\r\n" in refused

    serve(body)


@pytest.mark.parametrize(
    ("host", "served"),
    [
        ("127.0.0.1:9464", True),
        ("10.1.2.3", True),
        ("[::1]:9464", True),
        ("[2001:db8::1]", True),
        ("localhost:9464", True),
        ("LOCALHOST", True),
        ("gateway.example:9464", True),
        ("gateway.example.:80", True),
        ("rebound.example:9464", False),
        ("127.0.0.1.rebound.example", False),
        ("gateway.example.rebound.example", False),
        ("localhost.rebound.example:9464", False),
        ("rebound.example@127.0.0.1", False),
        ("127.0.0.1:9464:80", False),
        ("[rebound.example]", False),
        ("", False),
        (None, False),
    ],
)
def test_name_that_is_not_ours_gets_nothing(host: str | None, served: bool) -> None:
    async def body(exchange: Exchange) -> None:
        for path in Page.PATHS:
            answer = await exchange(get(path, host))
            assert answer.startswith(b"HTTP/1.1 200 " if served else b"HTTP/1.1 421 ")
            assert (b"QmSelf" in answer or b"<script>" in answer) is served
        assert (await exchange(get("/metrics", host))).startswith(b"HTTP/1.1 200 ")  # scrapers use any name

    serve(body, host="Gateway.example")


def test_two_hosts_are_none() -> None:
    async def body(exchange: Exchange) -> None:
        twice = b"GET /status.json HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: rebound.example\r\n\r\n"
        assert (await exchange(twice)).startswith(b"HTTP/1.1 421 ")

    serve(body)


def test_document_has_what_is_listed_and_nothing_of_the_network_inside() -> None:
    async def body(exchange: Exchange) -> None:
        answer = await exchange(get("/status.json?x=1"))
        assert fields_of(answer)["content-type"] == "application/json"
        told = document(answer)
        assert set(told) == {*NODE_FIELDS, *FIGURES, "peers"}
        whole: Mapping[str, Any] = {**as_json(STATUS), **FIGURES}
        assert all(told[name] == whole[name] for name in (*NODE_FIELDS, *FIGURES))
        (peer,) = told["peers"]
        assert peer == {name: getattr(PEER, name) for name in PEER_FIELDS}
        inside = (b"10.66.", b"10.7.", b"10.8.", b"10.9.", b"ships", b"corp.example", b"198.51.100.1", b"refused")
        assert not [text for text in inside if text in answer]

    assert set(NODE_FIELDS) <= {field.name for field in fields(NodeStatus)}
    serve(body)


def test_document_is_made_once_in_a_while_however_many_ask() -> None:
    now, made = [100.0], [0]

    def status() -> NodeStatus:
        made[0] += 1
        return replace(STATUS, time=float(made[0]))

    async def body(exchange: Exchange) -> None:
        for _ in range(3):
            assert document(await exchange(get("/status.json")))["time"] == 1
        now[0] += FRESH_SECS
        assert document(await exchange(get("/status.json")))["time"] == 2

    serve(body, status=status, clock=lambda: now[0])


def test_without_a_page_there_is_neither() -> None:
    async def body(exchange: Exchange) -> None:
        for path in Page.PATHS:
            assert (await exchange(get(path))).startswith(b"HTTP/1.1 404 ")
        assert (await exchange(get("/metrics"))).startswith(b"HTTP/1.1 200 ")

    serve(body, page=False)
