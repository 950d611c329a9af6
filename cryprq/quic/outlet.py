"""What goes out: datagrams on the endpoint's socket."""

from collections import Counter
from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter

from cryprq.address import Address, Local
from cryprq.quic.connection import Connection
from cryprq.quic.intake import DatagramSocket


class Outlet:
    """Sends; what cannot be sent is lost, as on any network, and counted."""

    def __init__(self, udp: DatagramSocket, counters: Counter[str]) -> None:
        self._udp = udp
        self._counters = counters

    def transmit(self, data: bytes, remote: Address, local: Local) -> None:
        """Sends one datagram, that belongs to no connection, by ``local``."""
        try:
            self._udp.send(data, remote, local)
            self._counters["sent"] += 1
        except OSError:
            self._counters["send_error"] += 1

    def transmit_all(self, datagrams: Sequence[tuple[bytes, Address]], conn: Connection) -> None:
        """Sends what a connection has to send, each datagram to its address; most often all go to one, together."""
        for remote, group in groupby(datagrams, itemgetter(1)):
            together = [data for data, _ in group]
            try:
                if not self._udp.send_all(together, remote, conn.local):
                    conn.local = Local(None, conn.local.group)
                self._counters["sent"] += len(together)
            except OSError as error:
                self._counters["send_error"] += 1
                conn.send_error = error
