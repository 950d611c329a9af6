"""Whose pre-shared key is which: those of the configuration, and those of the registry."""

import base64
from pathlib import Path

import pytest

from cryprq.config.psk_file import PskError, create_psk
from cryprq.node.peer_keys import peer_keys
from cryprq.peer_id import PeerId
from cryprq.registry.entries import PeerEntry, Source

A, B, C = (PeerId(bytes([number]) * 32) for number in (1, 2, 3))


def key(directory: Path, number: int) -> Path:
    path = directory / f"{number}.psk"
    create_psk(path, base64.b64encode(bytes([number]) * 32).decode())
    return path


def test_configuration_counts_and_the_registry_adds(tmp_path: Path) -> None:
    one, two = key(tmp_path, 1), key(tmp_path, 2)
    entries = {
        A: PeerEntry(peer_id=A, psk_file=two),
        B: PeerEntry(peer_id=B, psk_file=two),
        C: PeerEntry(peer_id=C),
    }
    assert peer_keys({A: one}, entries, {}, lambda *_: None) == {A: b"\1" * 32, B: b"\2" * 32}


def test_declared_key_is_not_read_twice(tmp_path: Path) -> None:
    declared = PeerEntry(peer_id=A, psk_file=tmp_path / "gone", source=Source.CONFIG)
    assert peer_keys({}, {A: declared}, {}, lambda *_: None) == {}


def test_key_that_cannot_be_read_is_told_and_never_none_at_all(tmp_path: Path) -> None:
    gone, told = tmp_path / "gone", []
    entries = {A: PeerEntry(peer_id=A, psk_file=gone), B: PeerEntry(peer_id=B, psk_file=gone)}
    kept = bytearray(b"\7" * 32)
    found = peer_keys({}, entries, {A: kept}, lambda peer, error: told.append((peer, error)))
    assert found[A] == kept and found[A] is not kept, "the one before is wiped"
    assert len(found[B]) == 32 and any(found[B])
    assert [peer for peer, _ in told] == [A, B]
    assert all(f"no pre-shared key {gone}" in error for _, error in told)


def test_key_of_the_configuration_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PskError, match="no pre-shared key"):
        peer_keys({A: tmp_path / "gone"}, {}, {}, lambda *_: None)
