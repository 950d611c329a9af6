"""aioquic's connection, narrowed to what CrypRQ uses. All knowledge of aioquic's private attributes is in this file and
in ``cryprq.quic.slimming``.

What is narrowed, and why:

* one bidirectional stream, opened by the dialer, and no unidirectional ones or datagrams: the advertised limits say
  so, and aioquic closes a connection that goes beyond them;
* flow-control windows of a fixed size that slide, and only once allowed to: aioquic doubles them with traffic;
* X25519 and P-256 signatures only: aioquic's client would make a key share for each of four groups;
* two connection IDs instead of eight: one in use and a spare for a change of path;
* small buffers for TLS messages: aioquic's take 48 KiB of the 70 that a stranger's first datagram costs;
* what only the handshake needs goes when that is confirmed (``cryprq.quic.slimming``);
* acknowledgements leave with the next flush instead of on a timer of their own;
* an exporter (RFC 8446, 7.5), which aioquic lacks: what is inside is bound to the connection by it;
* no logging: strangers could write to the log, and packets would pay for it (who debugs has ``cryprq.quic.qlog``).
"""

import logging
import ssl
from typing import Final

from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection, QuicConnectionState, QuicReceiveContext
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import (
    QuicHeader,
    QuicProtocolVersion,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream

from cryprq.protocol.constants import ALPN, QUIC_IDLE_TIMEOUT
from cryprq.quic.certificate import ListenerCertificate
from cryprq.quic.slimming import slim_down

CONNECTION_ID_SIZE: Final = 8
STREAM_ID: Final = 0
"""The one stream: bidirectional, opened by the dialer (RFC 9000, 2.1)."""
QUIC_WINDOW_PENDING: Final = 32 * 1024
"""Flow-control window of a connection (and of its one stream) before M3 has verified."""
QUIC_WINDOW: Final = 128 * 1024
"""Flow-control window of an authenticated connection."""
MAX_DATAGRAM_SIZE: Final = 1280
"""Largest QUIC datagram that is sent: what every IPv6 path carries, IP and UDP headers included, with room to spare
below Ethernet's 1500 for tunnels on the way."""
VERSIONS: Final = [int(QuicProtocolVersion.VERSION_1)]
_LONG_HEADER: Final = 0x80
_IP_UDP_HEADERS: Final = 48
_TLS_FLIGHT_MAX: Final = 2048
"""More than twice what either side ever says at once: the listener's small certificate and its signature."""
_CONNECTION_IDS: Final = 2  # the smallest active_connection_id_limit (RFC 9000, 18.2)
_BINDING_LABEL: Final = b"EXPORTER-Channel-Binding"  # RFC 9266, 2: tls-exporter
_BINDING_SIZE: Final = 32

logging.getLogger("quic").disabled = True


def _configuration(is_client: bool, idle_timeout: float) -> QuicConfiguration:
    return QuicConfiguration(
        is_client=is_client,
        alpn_protocols=[ALPN],
        cipher_suites=[tls.CipherSuite.AES_256_GCM_SHA384],
        connection_id_length=CONNECTION_ID_SIZE,
        idle_timeout=idle_timeout,
        max_data=QUIC_WINDOW_PENDING,
        max_stream_data=QUIC_WINDOW_PENDING,
        max_datagram_size=MAX_DATAGRAM_SIZE - _IP_UDP_HEADERS,
        supported_versions=VERSIONS,
    )


def client_configuration(idle_timeout: float = QUIC_IDLE_TIMEOUT) -> QuicConfiguration:
    """For dialling. No certificate chain is checked (there is none); the CertificateVerify signature always is."""
    configuration = _configuration(True, idle_timeout)
    configuration.verify_mode = ssl.CERT_NONE
    return configuration


def server_configuration(
    certificate: ListenerCertificate, idle_timeout: float = QUIC_IDLE_TIMEOUT
) -> QuicConfiguration:
    """For accepting connections under that certificate."""
    configuration = _configuration(False, idle_timeout)
    configuration.certificate = certificate.certificate
    configuration.private_key = certificate.private_key
    return configuration


class Quic(QuicConnection):
    """One connection, sans-IO. Use it as a ``QuicConnection``; the public additions are below."""

    def __init__(
        self,
        configuration: QuicConfiguration,
        *,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
        first_destination: bytes = b"",
        token: bytes = b"",
    ) -> None:
        """A dialer's first packet goes to the connection ID ``first_destination`` (8 to 20 bytes; else a random one),
        and carries ``token``."""
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self.channel_binding = b""
        """The connection's tls-exporter (RFC 9266): 32 bytes, the same at both ends and on no other connection; empty
        before the keys are there."""
        self.opened = 0
        """Packets that were opened under keys that only the peer has (anyone can make those of an Initial), and that
        were no repetitions."""
        if first_destination:
            self._choose_destination(first_destination)
        if token:
            self._peer_token = token
        self._assumed_round_trip = 0.0
        self._window = 0
        self._slim = False
        self._ack_delay = 0.0
        self._local_active_connection_id_limit = _CONNECTION_IDS
        for limit, streams in (
            (self._local_max_streams_bidi, 0 if configuration.is_client else 1),
            (self._local_max_streams_uni, 0),
        ):
            limit.value = limit.sent = streams

    # ---- additions ----

    @property
    def started(self) -> bool:
        """Whether a packet of the peer could be opened: a listener keeps nothing of a connection before that."""
        return self._state is not QuicConnectionState.FIRSTFLIGHT

    @property
    def answered(self) -> bool:
        """Whether a listener has done its part of the TLS handshake, which is most of what a stranger costs."""
        return self.tls.state not in (tls.State.SERVER_EXPECT_CLIENT_HELLO, tls.State.CLIENT_HANDSHAKE_START)

    @property
    def ending(self) -> tuple[ConnectionTerminated, bool] | None:
        """Why the connection has ended, and whether the peer ended it; None while it lives or has yet to say so."""
        if self._close_event is None or self._close_pending:
            return None
        return self._close_event, self._state is QuicConnectionState.DRAINING

    @property
    def round_trip(self) -> float:
        """The smoothed round trip in seconds (RFC 9002, 5.3), or what was assumed of it; 0 before either."""
        return self._loss._rtt_smoothed if self._loss._rtt_initialized else self._assumed_round_trip

    def assume_round_trip(self, seconds: float) -> None:
        """Where none was measured, it is about so long. aioquic forgets a packet of the handshake when it repeats it,
        so on a long way no acknowledgement comes in time to be a sample."""
        if not self._loss._rtt_initialized:
            self._assumed_round_trip = self._loss._rtt_initial = seconds

    @property
    def idle_timeout(self) -> float:
        """The shorter of both ends' (RFC 9000, 10.1), in seconds; before the peer has said its own, ours."""
        own, others = self._configuration.idle_timeout, self._remote_max_idle_timeout
        return own if not others else min(own, others)

    @property
    def buffered(self) -> int:
        """Bytes held for reassembly, of the stream and of TLS messages, or waiting to be acknowledged."""
        streams = [*self._crypto_streams.values(), *self._streams.values()]
        total = sum(len(stream.receiver._buffer) + len(stream.sender._buffer) for stream in streams)
        return total + len(self.tls._receive_buffer)

    def raise_windows(self) -> None:
        """From now on the flow-control windows are ``QUIC_WINDOW`` and slide. Before, they are spent once."""
        self._window = QUIC_WINDOW

    def _choose_destination(self, connection_id: bytes) -> None:
        """aioquic draws one when it is made, and uses it for nothing before ``connect`` but to name logs."""
        self._peer_cid.cid = self._original_destination_connection_id = connection_id
        if (logger := self._configuration.quic_logger) is not None:
            trace = logger.start_trace(is_client=True, odcid=connection_id)
            self._quic_logger = self._loss._quic_logger = trace

    # ---- what aioquic calls ----

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        self._crypto_buffers = {epoch: Buffer(capacity=_TLS_FLIGHT_MAX) for epoch in self._crypto_buffers}
        context = self.tls
        context._supported_groups = [tls.Group.X25519]
        context._signature_algorithms = [tls.SignatureAlgorithm.ECDSA_SECP256R1_SHA256]

    def _update_traffic_key(
        self, direction: tls.Direction, epoch: tls.Epoch, cipher_suite: tls.CipherSuite, secret: bytes
    ) -> None:
        super()._update_traffic_key(direction, epoch, cipher_suite, secret)
        if epoch is tls.Epoch.ONE_RTT and not self.channel_binding:
            # The first of the two application keys: at either end the transcript ends with the listener's Finished now,
            # as that of the exporter's secret does (RFC 8446, 7.1).
            schedule = self.tls.key_schedule
            assert schedule is not None
            self.channel_binding = _export(schedule, _BINDING_LABEL, _BINDING_SIZE)

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        if context.epoch is not tls.Epoch.INITIAL:
            self.opened += 1
        outcome = super()._payload_received(context, plain, crypto_frame_required=crypto_frame_required)
        if self._handshake_confirmed and not self._slim:
            self._slim = True
            slim_down(self)
        return outcome

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        # The caller's doubling depends on `used`, which nothing else in there looks at for MAX_DATA.
        limit = self._local_max_data
        limit.value = self._slide(limit.value, limit.used)
        used, limit.used = limit.used, 0
        try:
            super()._write_connection_limits(builder, space)
        finally:
            limit.used = used

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        receiver = stream.receiver
        stream.max_stream_data_local = self._slide(stream.max_stream_data_local, receiver.highest_offset)
        highest, receiver.highest_offset = receiver.highest_offset, 0
        try:
            super()._write_stream_limits(builder, space, stream)
        finally:
            receiver.highest_offset = highest

    def _slide(self, limit: int, used: int) -> int:
        """Renews a window once half of it is used, so that an update costs one frame per half window."""
        return used + self._window if limit - used < self._window // 2 else limit


def _export(schedule: tls.KeySchedule, label: bytes, size: int) -> bytes:
    """TLS-Exporter (RFC 8446, 7.5) with an empty context, of a schedule that has just made the master secret."""

    def expand(secret: bytes, label: bytes, length: int) -> bytes:
        return tls.hkdf_expand_label(schedule.algorithm, secret, label, schedule.hash_empty_value, length)

    of_label = expand(schedule.derive_secret(b"exp master"), label, schedule.algorithm.digest_size)
    return expand(of_label, b"exporter", size)


def destination(datagram: bytes) -> tuple[bool, bytes]:
    """Whether the first packet has a long header, as a connection begins with, and its destination connection ID, empty
    if there is none (RFC 8999, 5). Nothing else is looked at."""
    if datagram[0] & _LONG_HEADER:
        return True, datagram[6 : 6 + datagram[5]] if len(datagram) > 6 else b""
    return False, datagram[1 : 1 + CONNECTION_ID_SIZE]


def parse_header(datagram: bytes) -> QuicHeader:
    """The header of a datagram's first packet. ValueError if it is none (aioquic's BufferReadError is one too)."""
    return pull_quic_header(Buffer(data=datagram), host_cid_length=CONNECTION_ID_SIZE)


def version_negotiation(header: QuicHeader) -> bytes:
    """The answer to a first packet of another version (RFC 9000, 6.1)."""
    return encode_quic_version_negotiation(
        source_cid=header.destination_cid, destination_cid=header.source_cid, supported_versions=VERSIONS
    )
