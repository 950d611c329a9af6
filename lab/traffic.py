"""Traffic programs for the inside of a namespace: each is one command, and prints one JSON object when it ends.

    traffic.py ping / await-ping ADDRESS        ICMP echo
    traffic.py tcp-serve / tcp-transfer         bytes both ways at once, checked by SHA-256 at either end
    traffic.py tcp-sink / tcp-blast             as fast as it goes one way, counted at the receiver
    traffic.py udp-receive / udp-send           numbered datagrams at a constant rate, losses counted
    traffic.py udp-echo / udp-sizes / udp-rtt   an echo server, every size with DF, round-trip times
    traffic.py udp-spoof                        datagrams from a source address that is not ours

A server prints ``ready`` first, on a line of its own. Addresses are numeric, IPv4 or IPv6.
"""

import argparse
import collections
import contextlib
import hashlib
import json
import os
import random
import select
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import Any

CHUNK = 1 << 20
_MARK = struct.Struct("!QQ")  # of a numbered datagram: number, time in ns; an end mark has the total and 0
_IP_MTU_DISCOVER, _IPV6_MTU_DISCOVER, _PMTUDISC_DO = 10, 23, 2
_IP_TRANSPARENT, _IPV6_TRANSPARENT = 19, 75
_SO_RCVBUFFORCE = 33
# Offsets in struct tcp_info, <linux/tcp.h>
_TCP_INFO_UNACKED, _TCP_INFO_TOTAL_RETRANS, _TCP_INFO_DELIVERED_CE = 24, 100, 196
_TCP_INFO_DSACK_DUPS, _TCP_INFO_REORD_SEEN = 216, 220
_TCP_INFO_SIZE = 224

Result = dict[str, Any]


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6


def make_room(sock: socket.socket, size: int) -> None:
    """A receive buffer of so many bytes; only root of the machine gets more than its ``net.core.rmem_max``."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def _socket(address: str, kind: socket.SocketKind) -> socket.socket:
    sock = socket.socket(family_of(address), kind)
    if kind == socket.SOCK_STREAM:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    else:
        make_room(sock, 4 << 20)
    return sock


def _ready() -> None:
    print("ready", flush=True)


# ---- ICMP ----


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total >> 16) + (total & 0xFFFF)
    return int(~(total + (total >> 16)) & 0xFFFF)


class _Echo:
    """Sends ICMP echo requests (RFC 792, RFC 4443) to an address, one after another; a context manager."""

    def __init__(self, address: str) -> None:
        self._v6 = family_of(address) == socket.AF_INET6
        self._request, self._reply = (128, 129) if self._v6 else (8, 0)
        self._sock = socket.socket(
            family_of(address), socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if self._v6 else socket.IPPROTO_ICMP
        )
        self._sock.connect((address, 0))
        self._number = 0

    def __enter__(self) -> "_Echo":
        return self

    def __exit__(self, *_: object) -> None:
        self._sock.close()

    def trip(self, timeout: float, size: int = 56) -> float | None:
        """Seconds until the answer to a request with ``size`` bytes of payload; None if none comes in time."""
        self._number = self._number + 1 & 0xFFFF
        body = struct.pack("!HH", os.getpid() & 0xFFFF, self._number) + random.randbytes(size & ~1)
        head = struct.pack("!BBH", self._request, 0, 0)
        if not self._v6:  # for ICMPv6 the kernel computes it
            head = struct.pack("!BBH", self._request, 0, _checksum(head + body))
        start = time.monotonic()
        self._sock.send(head + body)
        while (left := start + timeout - time.monotonic()) > 0:
            self._sock.settimeout(left)
            try:
                data = self._sock.recv(65535)
            except TimeoutError:
                break
            if not self._v6:
                data = data[(data[0] & 15) * 4 :]
            if data[0] == self._reply and data[4:] == body:
                return time.monotonic() - start
        return None


def ping(address: str, count: int, interval: float, timeout: float, size: int) -> Result:
    """Echo requests at an interval, each waited for."""
    times: list[float] = []
    with _Echo(address) as echo:
        for _ in range(count):
            start = time.monotonic()
            if (seconds := echo.trip(timeout, size)) is not None:
                times.append(seconds)
            time.sleep(max(0.0, start + interval - time.monotonic()))
    return {"sent": count, "received": len(times), **_summary(times)}


def await_ping(address: str, seconds: float) -> Result:
    """Echo requests until one is answered: how long that took, or null. How long this program takes to start is not
    part of it."""
    start = time.monotonic()
    with _Echo(address) as echo:
        while (left := start + seconds - time.monotonic()) > 0:
            try:
                answered = echo.trip(min(0.2, left)) is not None
            except OSError:  # no way there at the moment
                time.sleep(0.02)
                continue
            if answered:
                return {"seconds": time.monotonic() - start}
    return {"seconds": None}


PINGS: dict[str, tuple[Callable[..., Result], dict[str, Any]]] = {
    "ping": (ping, {"count": 3, "interval": 0.2, "timeout": 2.0, "size": 56}),
    "await-ping": (await_ping, {"seconds": 10.0}),
}
"""Commands that somebody who is in the namespace already can call just as well, each with its defaults."""


def _summary(times: list[float]) -> Result:
    """Round-trip times in microseconds."""
    if not times:
        return {}
    ordered = sorted(time * 1e6 for time in times)
    return {
        "min_us": round(ordered[0], 1),
        "p50_us": round(statistics.median(ordered), 1),
        "p99_us": round(ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)], 1),
        "max_us": round(ordered[-1], 1),
    }


# ---- TCP ----


def _pattern(seed: int) -> Iterator[memoryview]:
    """Endless chunks, no two of the first thousand alike, so that a lost or swapped one changes the hash."""
    data = memoryview(random.Random(seed).randbytes(2 * CHUNK))
    offset = 0
    while True:
        yield data[offset : offset + CHUNK]
        offset = (offset + 1021) % CHUNK


def _receive_exactly(sock: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        part = sock.recv(size - len(data))
        if not part:
            raise ConnectionError("the connection ended early")
        data += part
    return bytes(data)


def _send_stream(sock: socket.socket, size: int, seed: int, rate: float | None) -> None:
    """Length, bytes, SHA-256 of the bytes; ``rate`` in bytes a second, None for no bound."""
    digest = hashlib.sha256()
    sock.sendall(struct.pack("!Q", size))
    start, left, pattern = time.monotonic(), size, _pattern(seed)
    while left:
        chunk = next(pattern)[:left]
        digest.update(chunk)
        sock.sendall(chunk)
        left -= len(chunk)
        if rate:
            time.sleep(max(0.0, start + (size - left) / rate - time.monotonic()))
    sock.sendall(digest.digest())


def _receive_stream(sock: socket.socket) -> tuple[int, bool]:
    (size,) = struct.unpack("!Q", _receive_exactly(sock, 8))
    digest, left, buffer = hashlib.sha256(), size, memoryview(bytearray(CHUNK))
    while left:
        got = sock.recv_into(buffer[: min(left, CHUNK)])
        if not got:
            raise ConnectionError("the connection ended early")
        digest.update(buffer[:got])
        left -= got
    return size, _receive_exactly(sock, 32) == digest.digest()


def _exchange(sock: socket.socket, size: int, seed: int, rate: float | None) -> Result:
    """Sends and receives at once, then says how it went, kernel's count of retransmissions included."""
    failure: list[str] = []

    def send() -> None:
        try:
            _send_stream(sock, size, seed, rate)
        except OSError as error:
            failure.append(str(error))

    start = time.monotonic()
    sender = threading.Thread(target=send)
    sender.start()
    received, good = _receive_stream(sock)
    sender.join()
    info = _acknowledged_info(sock)
    return {
        "ok": good and not failure,
        "error": "; ".join(failure) or None,
        "sent": size,
        "received": received,
        "seconds": round(time.monotonic() - start, 3),
        "retransmits": info(_TCP_INFO_TOTAL_RETRANS),
        "spurious": info(_TCP_INFO_DSACK_DUPS),
        "reordered": info(_TCP_INFO_REORD_SEEN),
        "told_of_congestion": info(_TCP_INFO_DELIVERED_CE),
    }


def _acknowledged_info(sock: socket.socket) -> Callable[[int], int]:
    """Fields of the kernel's TCP_INFO, once all that was sent, and sent again, is acknowledged, or a second has passed.

    A retransmission whose original had arrived is told by the receiver (D-SACK, RFC 2883): an impatient timer sent it,
    as on a machine whose cores are busy, and nothing was lost.
    """
    end = time.monotonic() + 1
    while True:
        raw = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_SIZE)
        unacknowledged, again, twice = (
            struct.unpack_from("=I", raw, offset)[0]
            for offset in (_TCP_INFO_UNACKED, _TCP_INFO_TOTAL_RETRANS, _TCP_INFO_DSACK_DUPS)
        )
        if (unacknowledged == 0 and again == twice) or time.monotonic() > end:
            return lambda offset: int(struct.unpack_from("=I", raw, offset)[0])
        time.sleep(0.01)


def tcp_serve(address: str, port: int, size: int, rate: float | None, connections: int) -> Result:
    """Exchanges ``size`` bytes with each of so many clients, one after another."""
    results = []
    with _socket(address, socket.SOCK_STREAM) as listener:
        listener.bind((address, port))
        listener.listen()
        _ready()
        for number in range(connections):
            connection, _ = listener.accept()
            with connection:
                results.append(_exchange(connection, size, number, rate))
                connection.shutdown(socket.SHUT_WR)
                connection.recv(1)  # leave the last close, and TIME_WAIT, to the client
    return {"ok": all(result["ok"] for result in results), "connections": results}


def tcp_transfer(address: str, port: int, size: int, rate: float | None, timeout: float) -> Result:
    """The client of ``tcp_serve``."""
    with _socket(address, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        sock.connect((address, port))
        return _exchange(sock, size, 99, rate)


def tcp_sink(address: str, port: int, connections: int) -> Result:
    """Swallows what comes on so many connections at once; bits per second from the first byte to the last."""
    lock, total, first, last = threading.Lock(), [0], [0.0], [0.0]

    def swallow(connection: socket.socket) -> None:
        buffer, count, begin = bytearray(CHUNK), 0, 0.0
        with connection:
            while got := connection.recv_into(buffer):
                begin = begin or time.monotonic()
                count += got
        with lock:
            total[0] += count
            first[0] = min(first[0] or begin, begin)
            last[0] = max(last[0], time.monotonic())

    with _socket(address, socket.SOCK_STREAM) as listener:
        listener.bind((address, port))
        listener.listen(connections)
        _ready()
        threads = [threading.Thread(target=swallow, args=(listener.accept()[0],)) for _ in range(connections)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    seconds = max(last[0] - first[0], 1e-9)
    return {"bytes": total[0], "seconds": round(seconds, 3), "bits_per_second": round(total[0] * 8 / seconds)}


def tcp_blast(address: str, port: int, seconds: float, flows: int) -> Result:
    """The client of ``tcp_sink``: so many flows for so long."""
    retransmits = [0] * flows
    block = random.randbytes(CHUNK)

    def blast(number: int) -> None:
        with _socket(address, socket.SOCK_STREAM) as sock:
            sock.settimeout(30)
            sock.connect((address, port))
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                sock.sendall(block)
            info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
            (retransmits[number],) = struct.unpack_from("=I", info, _TCP_INFO_TOTAL_RETRANS)

    threads = [threading.Thread(target=blast, args=(number,)) for number in range(flows)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"flows": flows, "retransmits": sum(retransmits)}


# ---- UDP ----


def _overflows(address: str) -> int:
    """How many datagrams arrived in this namespace, whole, for a UDP socket whose receive buffer was full."""
    if family_of(address) == socket.AF_INET6:
        with open("/proc/thread-self/net/snmp6") as file:
            return int(dict(line.split() for line in file)["Udp6RcvbufErrors"])
    with open("/proc/thread-self/net/snmp") as file:
        names, values = (line.split() for line in file if line.startswith("Udp:"))
    return int(values[names.index("RcvbufErrors")])


def udp_receive(address: str, port: int, timeout: float) -> Result:
    """Counts the datagrams of one ``udp_send`` until its end mark, or until nothing came for ``timeout`` seconds.

    What arrived while this program was too slow to take it is not lost on the way, but ``overflowed``.
    """
    seen: set[int] = set()
    duplicates = reordered = highest = 0
    total, longest_gap, last = None, 0.0, None
    overflowed = -_overflows(address)
    with _socket(address, socket.SOCK_DGRAM) as sock:
        sock.bind((address, port))
        _ready()
        sock.settimeout(timeout)
        while total is None:
            try:
                data = sock.recv(65535)
            except TimeoutError:
                break
            number, sent_at = _MARK.unpack_from(data)
            if not sent_at:
                total = number
                continue
            now = time.monotonic()
            longest_gap = max(longest_gap, now - last) if last is not None else 0.0
            last = now
            duplicates += number in seen
            reordered += number < highest
            highest = max(highest, number)
            seen.add(number)
    overflowed += _overflows(address)
    return {
        "received": len(seen),
        "lost": total - len(seen) if total is not None else None,
        "overflowed": overflowed,
        "duplicates": duplicates,
        "reordered": reordered,
        "longest_gap_ms": round(longest_gap * 1e3, 1),
        "ended": total is not None,
    }


def udp_send(address: str, port: int, rate: float, seconds: float, size: int, source: str | None) -> Result:
    """Datagrams of ``size`` payload bytes at a constant rate, then an end mark, five times."""
    padding = bytes(max(0, size - _MARK.size))
    number = errors = 0
    with _socket(address, socket.SOCK_DGRAM) as sock:
        if source:
            sock.bind((source, 0))
        sock.connect((address, port))
        start = time.monotonic()
        while (now := time.monotonic()) < start + seconds:
            while number <= (now - start) * rate:
                number += 1
                try:
                    sock.send(_MARK.pack(number, time.monotonic_ns()) + padding)
                except OSError:  # the path is down at the moment: that one is lost, and counted as such
                    errors += 1
            time.sleep(min(0.001, 1 / rate))
        for _ in range(5):
            time.sleep(0.2)
            try:
                sock.send(_MARK.pack(number, 0))
            except OSError:
                errors += 1
    return {"sent": number, "errors": errors}


def udp_echo(address: str, port: int, timeout: float) -> Result:
    """Sends back what comes, from the address that it came to, until nothing came for ``timeout`` seconds."""
    count = 0
    with _socket(address, socket.SOCK_DGRAM) as sock:
        sock.bind((address, port))
        _ready()
        sock.settimeout(timeout)
        while True:
            try:
                data, sender = sock.recvfrom(65535)
            except TimeoutError:
                return {"echoed": count}
            sock.sendto(data, sender)
            count += 1


def udp_sizes(address: str, port: int, first: int, last: int, timeout: float) -> Result:
    """A datagram of every payload size from first to last, with the DF bit (RFC 791); which did not come back as sent.

    A size that the kernel refuses as too long for the path (EMSGSIZE) is among ``refused``.
    """
    refused: list[int] = []
    wrong: list[int] = []
    with _socket(address, socket.SOCK_DGRAM) as sock:
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _PMTUDISC_DO)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER, _PMTUDISC_DO)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DONTFRAG, 1)
        sock.connect((address, port))
        sock.settimeout(timeout)
        for start in range(first, last + 1, 16):  # as many at once, so that packing has something to pack
            waiting: dict[int, bytes] = {}
            for size in range(start, min(start + 16, last + 1)):
                payload = random.randbytes(size)
                try:
                    sock.send(payload)
                    waiting[size] = payload
                except OSError:
                    refused.append(size)
            try:
                while waiting:
                    answer = sock.recv(65535)
                    if waiting.pop(len(answer), None) != answer:
                        wrong.append(len(answer))
            except TimeoutError:
                pass
            wrong += waiting
    return {"sizes": last + 1 - first, "refused": refused, "wrong": sorted(set(wrong))}


def udp_rtt(address: str, port: int, count: int, interval: float, size: int) -> Result:
    """Round-trip times to ``udp_echo``, one datagram at a time on an idle path. Every size is at least 8 bytes."""
    times: list[float] = []
    lost = 0
    with _socket(address, socket.SOCK_DGRAM) as sock:
        sock.connect((address, port))
        sock.settimeout(1)
        for number in range(count):
            payload = struct.pack("!Q", number) + bytes(size - 8)
            start = time.perf_counter()
            sock.send(payload)
            try:
                while sock.recv(65535) != payload:
                    pass
                times.append(time.perf_counter() - start)
            except TimeoutError:
                lost += 1
            time.sleep(interval)
    return {"count": count, "lost": lost, **_summary(times)}


def udp_delay(address: str, port: int, listen: int, delay: float) -> Result:
    """A relay from a port on loopback to an address, which keeps each datagram of one client for ``delay`` seconds in
    either direction. Until it is ended."""
    with _socket("127.0.0.1", socket.SOCK_DGRAM) as inner, _socket(address, socket.SOCK_DGRAM) as outer:
        inner.bind(("127.0.0.1", listen))
        outer.connect((address, port))
        client = ("127.0.0.1", 0)
        kept: collections.deque[tuple[float, bool, bytes]] = collections.deque()  # same delay for all: in order
        while True:
            wait = max(0.0, kept[0][0] - time.monotonic()) if kept else None
            for sock in select.select([inner, outer], [], [], wait)[0]:
                with contextlib.suppress(ConnectionError):  # nobody has the port at present
                    data, sender = sock.recvfrom(65535)
                    client = sender if sock is inner else client
                    kept.append((time.monotonic() + delay, sock is inner, data))
            while kept and kept[0][0] <= time.monotonic():
                _, outwards, data = kept.popleft()
                with contextlib.suppress(ConnectionError):
                    outer.send(data) if outwards else inner.sendto(data, client)


def udp_spoof(source: str, address: str, port: int, count: int) -> Result:
    """Numbered datagrams whose source address is not one of this host's (IP_TRANSPARENT, needs CAP_NET_RAW)."""
    with _socket(address, socket.SOCK_DGRAM) as sock:
        if sock.family == socket.AF_INET:
            sock.setsockopt(socket.IPPROTO_IP, _IP_TRANSPARENT, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_TRANSPARENT, 1)
        sock.bind((source, 0))
        for number in range(count):
            sock.sendto(_MARK.pack(number + 1, time.monotonic_ns()), (address, port))
            time.sleep(0.001)
    return {"sent": count}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    def command(function: Callable[..., Result], *positional: str, **options: object) -> None:
        sub = commands.add_parser(function.__name__.replace("_", "-"), help=(function.__doc__ or "").split("\n")[0])
        sub.set_defaults(function=function)
        for name in positional:
            sub.add_argument(name, type=int if name == "port" else str)
        for name, default in options.items():
            kind = float if default is None else type(default)
            sub.add_argument(f"--{name}", default=default, type=kind)

    for function, defaults in PINGS.values():
        command(function, "address", **defaults)
    command(tcp_serve, "address", "port", size=16 << 20, rate=None, connections=1)
    command(tcp_transfer, "address", "port", size=16 << 20, rate=None, timeout=60.0)
    command(tcp_sink, "address", "port", connections=1)
    command(tcp_blast, "address", "port", seconds=3.0, flows=1)
    command(udp_receive, "address", "port", timeout=10.0)
    command(udp_send, "address", "port", rate=1000.0, seconds=5.0, size=200, source="")
    command(udp_echo, "address", "port", timeout=600.0)
    command(udp_sizes, "address", "port", first=0, last=1392, timeout=2.0)
    command(udp_rtt, "address", "port", count=1000, interval=0.001, size=64)
    command(udp_delay, "address", "port", listen=9999, delay=0.1)
    command(udp_spoof, "source", "address", "port", count=100)
    return parser


def main() -> int:
    arguments = vars(_parser().parse_args())
    function = arguments.pop("function")
    result = function(**arguments)
    print(json.dumps(result), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
