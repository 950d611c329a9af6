"""How many connections may be pending, who has to prove its address first, and the sources that count."""

import random

from cryprq.address import Address
from cryprq.quic.admission import (
    PENDING_PER_SITE,
    PENDING_PER_SOURCE,
    UNVALIDATED_PER_SOURCE,
    Admission,
    Rank,
    site_of,
    source_of,
)

HERE = Address("192.0.2.1", 4000)


# ---- limits ----


def test_third_unvalidated_of_a_source_is_asked_for_retry() -> None:
    admission = Admission(64)
    for _ in range(UNVALIDATED_PER_SOURCE):
        assert not admission.asks_for_proof(b"a")
        admission.opened(b"a", Rank.KNOCKED, validated=False)
    assert admission.asks_for_proof(b"a")
    assert admission.has_place(b"a", Rank.KNOCKED)
    assert not admission.asks_for_proof(b"b")


def test_a_source_that_proved_its_address_gets_its_unvalidated_share_back() -> None:
    admission = Admission(64)
    for _ in range(UNVALIDATED_PER_SOURCE):
        admission.opened(b"a", Rank.KNOCKED, validated=False)
        admission.became_validated(b"a", Rank.KNOCKED)
    assert not admission.asks_for_proof(b"a")


def test_above_half_everybody_is_asked_for_retry() -> None:
    admission = Admission(10)
    for i in range(5):
        assert not admission.asks_for_proof(bytes([i]))
        admission.opened(bytes([i]), Rank.KNOCKED, validated=False)
    assert admission.asks_for_proof(b"new")
    assert admission.has_place(b"new", Rank.KNOCKED)


def test_in_a_full_table_there_is_no_place_even_for_validated_sources() -> None:
    admission = Admission(3)
    for i in range(3):
        admission.opened(bytes([i]), Rank.KNOCKED, validated=True)
    assert not admission.has_place(b"new", Rank.KNOCKED)
    assert admission.asks_for_proof(b"new")
    admission.ended(b"\0", Rank.KNOCKED, validated=True)
    assert admission.has_place(b"new", Rank.KNOCKED)


def test_a_source_has_at_most_its_share() -> None:
    admission = Admission(1000)
    for _ in range(PENDING_PER_SOURCE):
        assert admission.has_place(b"a", Rank.KNOCKED)
        admission.opened(b"a", Rank.KNOCKED, validated=True)
    assert not admission.has_place(b"a", Rank.KNOCKED)
    assert admission.asks_for_proof(b"a")
    assert admission.has_place(b"b", Rank.KNOCKED)


def test_no_listening_slots_means_that_nobody_is_admitted() -> None:
    assert not Admission(0).has_place(b"a", Rank.KNOCKED)
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
                admission.became_validated(source, Rank.KNOCKED)
                live.append((source, True))
            else:
                admission.ended(source, Rank.KNOCKED, validated=validated)
        else:
            validated = rng.random() < 0.5
            if admission.has_place(source, Rank.KNOCKED) if validated else not admission.asks_for_proof(source):
                admission.opened(source, Rank.KNOCKED, validated=validated)
                live.append((source, validated))
        assert admission.pending == len(live) <= 50
        assert admission.sources == len(set(live))
    for source, validated in live:
        admission.ended(source, Rank.KNOCKED, validated=validated)
    assert admission.pending == admission.sources == 0


def test_strangers_have_their_share_and_known_peers_have_theirs() -> None:
    admission = Admission(16)

    def fill(rank: Rank) -> int:
        begun = 0
        while admission.has_place(bytes([begun, rank]), rank):
            admission.opened(bytes([begun, rank]), rank, validated=True)
            begun += 1
        return begun

    assert fill(Rank.STRANGER) == 2
    assert fill(Rank.KNOCKED) == 12
    assert fill(Rank.KNOWN) == 2
    assert admission.pending == 16
    assert all(admission.is_full(rank) for rank in Rank)
    admission.ended(bytes([0, Rank.STRANGER]), Rank.STRANGER, validated=True)
    assert [admission.is_full(rank) for rank in Rank] == [False, False, False]
    assert fill(Rank.KNOCKED) == 1
    assert [admission.is_full(rank) for rank in Rank] == [True, True, True]


def test_few_places_are_for_all() -> None:
    for rank in Rank:
        admission = Admission(1)
        assert admission.has_place(b"a", rank)
        admission.opened(b"a", rank, validated=True)
        assert not any(admission.has_place(b"b", other) for other in Rank)


def test_known_peers_are_counted_by_no_source() -> None:
    admission = Admission(1000)
    for _ in range(PENDING_PER_SOURCE):
        admission.opened(b"a", Rank.KNOCKED, validated=True)
    assert not admission.has_place(b"a", Rank.KNOCKED)
    assert admission.has_place(b"a", Rank.KNOWN)
    admission.opened(b"a", Rank.KNOWN, validated=False)
    admission.became_validated(b"a", Rank.KNOWN)
    admission.ended(b"a", Rank.KNOWN, validated=True)
    assert admission.sources == 1


def test_site_has_at_most_its_share() -> None:
    admission = Admission(1000)
    sources = [source_of(Address(f"2001:db8:7:{n:x}::1", 1)) for n in range(PENDING_PER_SITE)]
    for source in sources:
        assert admission.has_place(source, Rank.KNOCKED)
        admission.opened(source, Rank.KNOCKED, validated=True)
    assert not admission.has_place(source_of(Address("2001:db8:7:ffff::1", 1)), Rank.KNOCKED)
    assert admission.has_place(source_of(Address("2001:db8:8::1", 1)), Rank.KNOCKED)
    admission.ended(sources[0], Rank.KNOCKED, validated=True)
    assert admission.has_place(sources[1], Rank.KNOCKED)


# ---- sources ----


def test_source_is_the_ipv4_address_or_the_ipv6_prefix() -> None:
    assert source_of(HERE) == source_of(HERE._replace(port=5)) != source_of(HERE._replace(host="192.0.2.2"))
    one, neighbour, other = (Address(h, 1) for h in ("2001:db8:0:1::1", "2001:db8:0:1:ffff::2", "2001:db8:0:2::1"))
    assert source_of(one) == source_of(neighbour) != source_of(other)


def test_site_is_what_a_subscriber_may_have_at_most() -> None:
    one, same, other = (Address(h, 1) for h in ("2001:db8:1:1::1", "2001:db8:1:ffff::2", "2001:db8:2:1::1"))
    assert site_of(source_of(one)) == site_of(source_of(same)) != site_of(source_of(other))
    assert site_of(source_of(HERE)) is None
