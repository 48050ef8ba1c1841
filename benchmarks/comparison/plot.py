"""The comparison as a picture: an SVG of two panels, written by hand, which needs no library and stays small in git.

Both scales of both panels are logarithmic: systems differ by factors, and so do numbers of callers.
"""

import math
from collections.abc import Sequence
from html import escape

import attrs

from .tables import Row

WIDTH, HEIGHT = 1060, 460
PANEL_WIDTH, PANEL_HEIGHT = 320, 310
PANEL_TOP, PANEL_LEFTS = 80, (76, 580)
LABEL_GAP = 15
"""Pixels between the names at the ends of two lines."""

COLOURS = ("#0072b2", "#767676", "#d55e00", "#009e73", "#cc79a7", "#b8860b", "#5d3a9b")
"""Told apart by the colour-blind too; the subject's first."""

STYLE = (
    "text{font:13px sans-serif;fill:#222}.title{font-weight:bold;font-size:15px}.small{font-size:11px;fill:#555}"
    ".grid{stroke:#ddd}.line{fill:none;stroke-width:2}.subject{stroke-width:4}.aside{stroke-dasharray:6 4}"
)

Point = tuple[float, float]


@attrs.frozen
class Scale:
    """A logarithmic scale: from values to pixels."""

    low: float
    high: float
    first: float
    last: float

    def __call__(self, value: float) -> float:
        share = (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low))
        return self.first + share * (self.last - self.first)


def svg(rows: Sequence[Row], *, subject: str, aside: Sequence[str], caption: str) -> str:
    """The picture of the table's medians; ``aside`` names the systems that are drawn dashed."""
    systems = [str(name) for name in dict.fromkeys(row["system"] for row in rows)]
    systems.sort(key=lambda name: name != subject)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img">',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        _text(PANEL_LEFTS[0], 24, "Three processes, one write at a time for each caller", "title"),
        _text(PANEL_LEFTS[0], HEIGHT - 10, caption, "small"),
    ]
    for left, figure, title in zip(
        PANEL_LEFTS, ("writes_per_second", "p99_ms"), ("writes per second", "99th percentile, ms"), strict=True
    ):
        lines = {name: _points(rows, name, figure) for name in systems}
        classes = {name: "line" + " subject" * (name == subject) + " aside" * (name in aside) for name in systems}
        parts += _panel(left, title, {name: points for name, points in lines.items() if points}, classes)
    return "\n".join([*parts, "</svg>", ""])


def _points(rows: Sequence[Row], system: str, figure: str) -> list[Point]:
    found: list[Point] = []
    for row in rows:
        callers, value = row["callers"], row[figure]
        if row["system"] == system and isinstance(callers, int) and isinstance(value, int | float) and value > 0:
            found.append((callers, value))
    return sorted(found)


def _panel(left: float, title: str, lines: dict[str, list[Point]], classes: dict[str, str]) -> list[str]:
    callers = sorted({x for points in lines.values() for x, _ in points})
    values = [y for points in lines.values() for _, y in points]
    bottom = PANEL_TOP + PANEL_HEIGHT
    # A scale needs some extent, even for a single number of callers.
    across = Scale(min(callers), max(callers[-1], callers[0] * 2), left, left + PANEL_WIDTH)
    decades = range(math.floor(math.log10(min(values))), math.floor(math.log10(max(values))) + 2)
    up = Scale(10.0 ** decades[0], 10.0 ** decades[-1], bottom, PANEL_TOP)
    parts = [_text(left, PANEL_TOP - 22, title), _text(left + PANEL_WIDTH / 2, bottom + 36, "callers", anchor="middle")]
    for decade in decades:
        y = up(10.0**decade)
        parts.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{left + PANEL_WIDTH}" y2="{y:.1f}"/>')
        parts.append(_text(left - 6, y + 4, f"{10.0**decade:,.15g}", "small", anchor="end"))
    for count in callers:
        x = across(count)
        parts.append(f'<line class="grid" x1="{x:.1f}" y1="{PANEL_TOP}" x2="{x:.1f}" y2="{bottom}"/>')
        parts.append(_text(x, bottom + 18, f"{count:,.0f}", "small", anchor="middle"))
    ends: dict[str, float] = {}
    for name, colour in zip(classes, COLOURS, strict=False):
        if name in lines:
            corners = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in lines[name])
            parts.append(f'<polyline class="{classes[name]}" stroke="{colour}" points="{corners}"/>')
            ends[name] = up(lines[name][-1][1])
    labels = _apart(ends)
    for name, colour in zip(classes, COLOURS, strict=False):
        if name in labels:
            x = left + PANEL_WIDTH + 8
            parts.append(f'<text x="{x}" y="{labels[name] + 4:.1f}" style="fill:{colour}">{escape(name)}</text>')
    return parts


def _apart(heights: dict[str, float]) -> dict[str, float]:
    """The same heights in the same order, moved down where two names would overlap."""
    moved: dict[str, float] = {}
    lowest = -math.inf
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        moved[name] = lowest = max(height, lowest + LABEL_GAP)
    return moved


def _text(x: float, y: float, words: str, style: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" text-anchor="{anchor}">{escape(words)}</text>'
