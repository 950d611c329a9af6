"""The QR code of an invitation: what a camera would read is the token."""

import sys

import pytest

from cryprq.cli import qr
from cryprq.errors import MachineError


def test_code_is_drawn_in_lines_of_one_width() -> None:
    lines = qr.draw("cryprq1" + "2" * 82).strip("\n").splitlines()
    assert len(lines) > 15
    assert any(block in lines[len(lines) // 2] for block in "▀▄█")


def test_without_the_library_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segno", None)
    with pytest.raises(MachineError, match=r"pip install 'cryprq\[qr\]'"):
        qr.require()
