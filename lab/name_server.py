"""A name server that knows one answer, for as long as a context is open (RFC 1035)."""

import socket
import struct
import threading
from typing import Final

from lab.background import Background
from lab.hosts import Namespace

_TYPES: Final = {1: socket.AF_INET, 28: socket.AF_INET6}  # A and AAAA
_RESPONSE: Final = 0x8180  # an answer, recursion desired and available, no error
_POINTER: Final = 0xC00C  # to the name in the question


class NameServer(Background):
    """Answers on port 53 of an address with the addresses that it was given; the name does not matter to it."""

    def __init__(self, host: Namespace, address: str, *answers: str) -> None:
        super().__init__()
        self.asked: list[str] = []
        """Who asked ..."""
        self.names: list[str] = []
        """... about which name."""
        self._answers = answers
        with host.entered():
            self._sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            self._sock.bind((address, 53))
        self._sock.settimeout(0.1)
        self._sockets = [self._sock]
        self._threads = [threading.Thread(target=self._run)]

    def _run(self) -> None:
        while not self._end.is_set():
            try:
                query, sender = self._sock.recvfrom(512)
            except TimeoutError:
                continue
            self.asked.append(sender[0])
            self.names.append(_name(query))
            self._sock.sendto(self._answer(query), sender)

    def _answer(self, query: bytes) -> bytes:
        end = query.index(0, 12) + 5  # of the question: the name, a type, a class
        (kind,) = struct.unpack_from("!H", query, end - 4)
        family = _TYPES.get(kind)
        found = [text for text in self._answers if (":" in text) == (family == socket.AF_INET6)] if family else []
        records = b"".join(
            struct.pack("!HHHIH", _POINTER, kind, 1, 1, len(data)) + data
            for data in (socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text) for text in found)
        )
        return query[:2] + struct.pack("!HHHHH", _RESPONSE, 1, len(found), 0, 0) + query[12:end] + records


def _name(query: bytes) -> str:
    """The name in the question."""
    labels, at = [], 12
    while size := query[at]:
        labels.append(query[at + 1 : at + 1 + size].decode(errors="replace"))
        at += 1 + size
    return ".".join(labels)
