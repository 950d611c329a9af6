"""How many connections may be pending, who has to prove its address first, and the sources that count."""

import random

from cryprq.address import Address
from cryprq.quic.admission import PENDING_PER_SOURCE, UNVALIDATED_PER_SOURCE, Admission, source_of

HERE = Address("192.0.2.1", 4000)


# ---- limits ----


def test_third_unvalidated_of_a_source_is_asked_for_retry() -> None:
    admission = Admission(64)
    for _ in range(UNVALIDATED_PER_SOURCE):
        assert not admission.asks_for_proof(b"a")
        admission.opened(b"a", validated=False)
    assert admission.asks_for_proof(b"a")
    assert admission.has_place(b"a")
    assert not admission.asks_for_proof(b"b")


def test_a_source_that_proved_its_address_gets_its_unvalidated_share_back() -> None:
    admission = Admission(64)
    for _ in range(UNVALIDATED_PER_SOURCE):
        admission.opened(b"a", validated=False)
        admission.became_validated(b"a")
    assert not admission.asks_for_proof(b"a")


def test_above_half_everybody_is_asked_for_retry() -> None:
    admission = Admission(10)
    for i in range(5):
        assert not admission.asks_for_proof(bytes([i]))
        admission.opened(bytes([i]), validated=False)
    assert admission.asks_for_proof(b"new")
    assert admission.has_place(b"new")


def test_in_a_full_table_there_is_no_place_even_for_validated_sources() -> None:
    admission = Admission(3)
    for i in range(3):
        admission.opened(bytes([i]), validated=True)
    assert not admission.has_place(b"new")
    assert admission.asks_for_proof(b"new")
    admission.ended(b"\0", validated=True)
    assert admission.has_place(b"new")


def test_a_source_has_at_most_its_share() -> None:
    admission = Admission(1000)
    for _ in range(PENDING_PER_SOURCE):
        assert admission.has_place(b"a")
        admission.opened(b"a", validated=True)
    assert not admission.has_place(b"a")
    assert admission.asks_for_proof(b"a")
    assert admission.has_place(b"b")


def test_no_listening_slots_means_that_nobody_is_admitted() -> None:
    assert not Admission(0).has_place(b"a")
    assert Admission(0).asks_for_proof(b"a")


def test_counts_return_to_nothing_whatever_the_order() -> None:
    rng = random.Random(2)
    admission = Admission(50)
    live: list[tuple[bytes, bool]] = []
    for _ in range(5000):
        source = bytes([rng.randrange(12)])
        if live and rng.random() < 0.5:
            index = rng.randrange(len(live))
            source, validated = live.pop(index)
            if not validated and rng.random() < 0.5:
                admission.became_validated(source)
                live.append((source, True))
            else:
                admission.ended(source, validated=validated)
        else:
            validated = rng.random() < 0.5
            if admission.has_place(source) if validated else not admission.asks_for_proof(source):
                admission.opened(source, validated=validated)
                live.append((source, validated))
        assert admission.pending == len(live) <= 50
        assert admission.sources == len(set(live))
    for source, validated in live:
        admission.ended(source, validated=validated)
    assert admission.pending == admission.sources == 0


# ---- sources ----


def test_source_is_the_ipv4_address_or_the_ipv6_prefix() -> None:
    assert source_of(HERE) == source_of(HERE._replace(port=5)) != source_of(HERE._replace(host="192.0.2.2"))
    one, neighbour, other = (Address(h, 1) for h in ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"))
    assert source_of(one) == source_of(neighbour) != source_of(other)
