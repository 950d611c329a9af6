"""A QR code on a terminal (ISO/IEC 18004), by segno, which is an optional extra."""

import io

from cryprq.errors import MachineError


def require() -> None:
    """MachineError, one line, if nothing here can draw one."""
    try:
        import segno  # noqa: F401
    except ImportError:
        raise MachineError("--qr needs the Python package segno: pip install 'cryprq[qr]'") from None


def draw(text: str) -> str:
    """The code in block characters, two rows a line, with its quiet zone."""
    import segno

    out = io.StringIO()
    segno.make_qr(text, error="m").terminal(out, compact=True)
    return out.getvalue()
