"""Names, beginnings of IDs and slips; and times as people write them."""

import hashlib
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryprq import expiry
from cryprq.peer_id import PeerId
from cryprq.peer_name import NAME_MAX, peer_name, resolve, similar

IDS = [PeerId(hashlib.sha256(bytes([number])).digest()) for number in range(50)]
LETTERS = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@pytest.mark.parametrize("text", ["a", "Alice", "a-b", "7", "x" * NAME_MAX])
def test_name_is_a_label_in_lower_case(text: str) -> None:
    assert peer_name(text) == text.lower()


@pytest.mark.parametrize("text", ["", "-a", "a-", "a b", "a.b", "a_b", "é", "a\n", "x" * (NAME_MAX + 1), "\u212a"])
def test_what_is_no_name(text: str) -> None:
    with pytest.raises(ValueError, match="is no name for a peer") as caught:
        peer_name(text)
    assert "\n" not in str(caught.value)


def slips(text: str, data: st.DataObject) -> Iterator[str]:
    """One change of the kinds that hands make."""
    at = data.draw(st.integers(2, len(text) - 2))
    letter = data.draw(st.sampled_from(LETTERS))
    yield text[:at] + letter + text[at + 1 :]
    yield text[:at] + text[at + 1 :]
    yield text[:at] + letter + text[at:]
    yield text[:at] + text[at + 1] + text[at] + text[at + 2 :]


@given(st.data())
def test_a_slip_at_each_end_is_seen(data: st.DataObject) -> None:
    right = str(data.draw(st.sampled_from(IDS)))
    for start in slips(right[:20], data):
        for end in (right[20:], *slips(right[20:], data)):
            if start + end != right:
                assert str(similar(start + end, IDS)) == right


def test_other_ids_are_no_slips() -> None:
    for one in IDS:
        assert similar(str(one), [each for each in IDS if each != one]) is None
    assert similar("alice", IDS) is None


def test_word_means_a_name_an_id_or_its_beginning() -> None:
    names = {"alice": IDS[0]}
    stranger = PeerId(bytes(32))
    assert resolve("ALICE", names, IDS) == IDS[0]
    assert resolve(str(IDS[1])[:10], names, IDS) == IDS[1]
    assert resolve(str(stranger), names, IDS) == stranger
    slip = str(IDS[2])[:20] + str(IDS[2])[21:]
    for word, told in (
        (slip, f"did you mean {IDS[2]}"),
        ("Qm" + "0" * 44, "is not a peer ID"),
        ("Qmm", "no peer is called 'Qmm'"),
        ("bob", "no peer is called 'bob'"),
        ("x" * 300, "no peer is called 'xxx"),
    ):
        with pytest.raises(LookupError, match=told) as caught:
            resolve(word, names, IDS)
        assert len(str(caught.value)) < 250


# ---- times ----


@pytest.mark.parametrize(
    ("text", "when"),
    [("24h", 86_400), ("30d", 30 * 86_400), ("2W", 14 * 86_400), ("90s", 90), ("5m", 300), ("now", 0), ("never", None)],
)
def test_spans_begin_now(text: str, when: int | None) -> None:
    assert expiry.parse(text, 1e9) == (None if when is None else 1e9 + when)


def test_dates_are_local_unless_they_name_a_zone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Etc/GMT-2")
    time.tzset()
    assert expiry.parse("2027-01-31", 0) == expiry.parse("2027-01-30T22:00Z", 0) == 1_801_346_400
    assert expiry.parse("2027-01-31T18:00+00:00", 0) == 1_801_418_400
    assert expiry.show(1_801_346_400) == "2027-01-31 00:00"
    assert expiry.show(None) == "never"
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    "text", ["", "soon", "0h", "-1d", "24", "1y", "2027-13-01", "24h\n24h", "9999-12-31", "99999999w"]
)
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"is no time|too far away") as caught:
        expiry.parse(text, 1e9)
    assert "\n" not in str(caught.value)
