"""Bar charts as SVG, by hand: a panel a figure, a bar a way, the spread as a thin line."""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

COLUMNS, PANEL_WIDTH, BAR, GAP, MARGIN = 2, 460, 18, 6, 20
LABELS, VALUES = 110, 90
"""Pixels left of the bars for the names, and right of them for the numbers."""
COLOURS = {"bare": "#9aa0a6", "cryprq": "#1a73e8"}
OTHER = "#c58af9"


@dataclass(frozen=True)
class Bar:
    name: str
    median: float
    low: float
    high: float
    text: str


@dataclass(frozen=True)
class Panel:
    title: str
    bars: Sequence[Bar]


def _text(x: float, y: float, words: str, size: int = 12, anchor: str = "start", weight: str = "normal") -> str:
    style = f'font-size="{size}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(words)}</text>'


def _panel(panel: Panel, left: float, top: float) -> list[str]:
    parts = [_text(left, top + 12, panel.title, 13, weight="bold")]
    width = PANEL_WIDTH - LABELS - VALUES
    scale = width / max(max(bar.high for bar in panel.bars), 1e-12)
    for number, bar in enumerate(panel.bars):
        y = top + 24 + number * (BAR + GAP)
        x, middle = left + LABELS, y + BAR / 2
        colour = COLOURS.get(bar.name, OTHER)
        parts.append(_text(x - 6, middle + 4, bar.name, anchor="end"))
        size = f'width="{bar.median * scale:.1f}" height="{BAR}"'
        parts.append(f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{colour}"/>')
        if bar.high > bar.low:
            ends = f'x1="{x + bar.low * scale:.1f}" x2="{x + bar.high * scale:.1f}"'
            parts.append(f'<line {ends} y1="{middle:.1f}" y2="{middle:.1f}" stroke="#202124" stroke-width="1.5"/>')
        parts.append(_text(x + max(bar.median, bar.high) * scale + 6, middle + 4, bar.text))
    return parts


def draw(panels: Sequence[Panel], caption: str) -> str:
    """The picture; panels fill rows from left to right. White behind, so that it can be read on any page."""
    parts: list[str] = []
    top = float(MARGIN)
    for start in range(0, len(panels), COLUMNS):
        row = panels[start : start + COLUMNS]
        for column, panel in enumerate(row):
            parts += _panel(panel, MARGIN + column * (PANEL_WIDTH + MARGIN), top)
        top += 24 + max(len(panel.bars) for panel in row) * (BAR + GAP) + MARGIN
    parts.append(_text(MARGIN, top + 8, caption, 11))
    width, height = MARGIN + COLUMNS * (PANEL_WIDTH + MARGIN), top + 24
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height:.0f}" width="{width}"'
        f' height="{height:.0f}" font-family="sans-serif" fill="#202124" role="img">'
    )
    title = f"<title>{escape(caption)}</title>"
    return "\n".join([head, title, '<rect width="100%" height="100%" fill="#ffffff"/>', *parts, "</svg>\n"])
