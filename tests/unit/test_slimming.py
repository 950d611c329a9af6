"""What is left of a QUIC connection whose handshake is over, and that it is enough."""

import random

import pytest
from aioquic import tls
from aioquic._buffer import Buffer
from aioquic.quic.connection import MAX_LOCAL_CHALLENGES
from aioquic.quic.crypto import KeyUnavailableError
from aioquic.quic.recovery import QuicPacketNumberWindow

from cryprq.quic.adapter import STREAM_ID, Quic, client_configuration, server_configuration
from cryprq.quic.certificate import make_certificate
from cryprq.quic.slimming import _Challenges, _RareCiphers, _Window

HERE, THERE = ("192.0.2.1", 1), ("192.0.2.2", 2)
CERTIFICATE = make_certificate()


def exchange(dialer: Quic, listener: Quic, now: float) -> None:
    """Carries all datagrams of the next second; aioquic paces them."""
    for step in range(100):
        carry(dialer, listener, THERE, now + step / 100)
        carry(listener, dialer, HERE, now + step / 100)


def carry(source: Quic, target: Quic, address: tuple[str, int], now: float) -> None:
    due = source.get_timer()
    if due is not None and due <= now:
        source.handle_timer(due)
    for data, _ in source.datagrams_to_send(now):
        target.receive_datagram(data, address, now)


@pytest.fixture
def ends() -> tuple[Quic, Quic]:
    """A dialer and a listener whose QUIC handshake is confirmed."""
    dialer = Quic(client_configuration())
    listener = Quic(
        server_configuration(CERTIFICATE),
        original_destination_connection_id=dialer.original_destination_connection_id,
    )
    dialer.connect(HERE, 0.0)
    exchange(dialer, listener, 0.0)
    return dialer, listener


def test_tls_and_what_belongs_to_the_handshake_is_gone(ends: tuple[Quic, Quic]) -> None:
    for quic in ends:
        assert quic.answered
        assert quic.channel_binding
        assert type(quic.tls) is not tls.Context
        assert list(quic._crypto_streams) == [tls.Epoch.ONE_RTT]
        assert quic._crypto_buffers == {}
        assert quic.buffered == 0
    dialer, listener = ends
    for epoch in (tls.Epoch.INITIAL, tls.Epoch.HANDSHAKE, tls.Epoch.ZERO_RTT):
        assert dialer._cryptos[epoch] is listener._cryptos[epoch]
        with pytest.raises(KeyUnavailableError):
            dialer._cryptos[epoch].decrypt_packet(bytes(64), 20, 0)


def test_data_passes_both_ways_and_a_lost_datagram_comes_again(ends: tuple[Quic, Quic]) -> None:
    dialer, listener = ends
    dialer.send_stream_data(STREAM_ID, b"a" * 3000)
    assert len(dialer.datagrams_to_send(1.0)) == 3  # lost
    exchange(dialer, listener, 1.01)
    assert listener._streams[STREAM_ID].receiver.starting_offset() == 3000
    listener.send_stream_data(STREAM_ID, b"b" * 500)
    exchange(dialer, listener, 3.0)
    assert dialer._streams[STREAM_ID].receiver.starting_offset() == 500


def test_keys_are_updated_and_a_path_is_challenged(ends: tuple[Quic, Quic]) -> None:
    dialer, listener = ends
    dialer.request_key_update()
    dialer.send_ping(1)
    exchange(dialer, listener, 2.0)
    dialer.send_ping(2)
    for data, _ in dialer.datagrams_to_send(3.0):
        listener.receive_datagram(data, ("192.0.2.3", 3), 3.0)
    for data, address in listener.datagrams_to_send(3.0):
        assert address == ("192.0.2.3", 3)
        dialer.receive_datagram(data, HERE, 3.0)
    assert [path.addr for path in listener._network_paths][-1] == THERE
    exchange(dialer, listener, 4.0)
    assert listener.ending is None
    assert dialer.ending is None


def test_repeated_packets_of_the_handshake_are_dropped() -> None:
    dialer = Quic(client_configuration())
    listener = Quic(
        server_configuration(CERTIFICATE),
        original_destination_connection_id=dialer.original_destination_connection_id,
    )
    dialer.connect(HERE, 0.0)
    first = dialer.datagrams_to_send(0.0)
    for data, _ in first:
        listener.receive_datagram(data, THERE, 0.0)
    answer = listener.datagrams_to_send(0.0)
    for data, _ in answer:
        dialer.receive_datagram(data, HERE, 0.0)
    exchange(dialer, listener, 0.0)
    for data, _ in first:
        listener.receive_datagram(data, THERE, 1.0)
    for data, _ in answer:
        dialer.receive_datagram(data, HERE, 1.0)
    assert listener.ending is None
    assert dialer.ending is None
    assert listener.datagrams_to_send(1.0) == []


def test_a_tls_message_after_the_handshake_ends_the_connection(ends: tuple[Quic, Quic]) -> None:
    """No peer of ours sends one: no tickets, and TLS's KeyUpdate is forbidden in QUIC (RFC 9001, 6)."""
    dialer, listener = ends
    ticket = Buffer(data=b"\x04\x00\x00\x00")
    listener._crypto_streams[tls.Epoch.ONE_RTT].sender.write(ticket.data_slice(0, 4))
    exchange(dialer, listener, 1.0)
    assert dialer._close_event is not None
    assert dialer._close_event.error_code == 0x100 + tls.AlertDescription.unexpected_message


def test_ciphers_are_made_when_a_packet_comes(ends: tuple[Quic, Quic]) -> None:
    for quic in ends:
        pair = quic._cryptos[tls.Epoch.ONE_RTT]
        for context in (pair.recv, pair.send):
            ciphers = {id(cipher): type(cipher) for name, cipher in vars(context).items() if name in ("aead", "hp")}
            assert list(ciphers.values()) == [_RareCiphers]


def test_attributes_that_all_have_alike_are_the_class_s_until_they_change(ends: tuple[Quic, Quic]) -> None:
    dialer, listener = ends
    assert max(len(vars(quic)) for quic in ends) < 70
    assert (dialer._is_client, listener._is_client) == (True, False)
    before = listener._retry_count
    dialer._retry_count = before + 1
    assert listener._retry_count == before
    assert dialer._retry_count == before + 1


def test_window_of_packet_numbers_answers_as_the_one_that_it_replaces() -> None:
    lots = random.Random(1)
    theirs = QuicPacketNumberWindow()
    number = 0
    for _ in range(300):
        number += lots.choice((1, 1, 1, 2, 7, 150))
        theirs.add(number)
    ours = _Window(theirs)
    for _ in range(3000):
        asked = number + lots.randint(-300, 20)
        assert (asked in ours) == (asked in theirs), asked
        number += lots.choice((0, 1, 1, 3, 40))
        came = number - lots.choice((0, 0, 0, 5, 90))
        for window in (ours, theirs):
            window.add(came)


def test_only_the_last_challenges_of_a_path_are_known() -> None:
    challenges = _Challenges([bytes([n]) for n in range(MAX_LOCAL_CHALLENGES)])
    challenges.append(b"last")
    assert len(challenges) == MAX_LOCAL_CHALLENGES
    assert challenges[-1] == b"last"
    assert challenges[0] == b"\x01"
