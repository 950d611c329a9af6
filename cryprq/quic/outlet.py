"""What goes out: single datagrams on the endpoint's socket."""

from collections import Counter

from cryprq.address import Address, Local
from cryprq.quic.connection import Connection
from cryprq.quic.intake import DatagramSocket


class Outlet:
    """Sends; what cannot be sent is lost, as on any network, and counted."""

    def __init__(self, udp: DatagramSocket, counters: Counter[str]) -> None:
        self._udp = udp
        self._counters = counters

    def transmit(self, data: bytes, remote: Address, local: Local, conn: Connection | None = None) -> None:
        """Sends one datagram by ``local``; ``conn`` is whose it is."""
        try:
            if not self._udp.send(data, remote, local) and conn is not None:
                conn.local = Local(None, local.group)
            self._counters["sent"] += 1
        except OSError as error:
            self._counters["send_error"] += 1
            if conn is not None:
                conn.send_error = error
