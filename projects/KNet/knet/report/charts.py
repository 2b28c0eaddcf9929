"""Charts as SVG that stands in the page and takes its colours: lines, bars, reliability.

All are drawn on a canvas of WIDTH x HEIGHT units that grows and shrinks with the page.
"""

import math
from typing import List, NamedTuple, Sequence, Tuple

import numpy as np

from ..visualization.html_page import Html, text
from .tallies import Bin, SizeBin

__all__ = ["Line", "line_chart", "reliability_chart", "size_chart"]

WIDTH, HEIGHT = 340.0, 210.0
LEFT, RIGHT, TOP, BOTTOM = 40.0, 8.0, 10.0, 26.0
MAX_POINTS = 240  # of a line; more than the canvas can show
WIDE_RANGE = 15.0  # of positive values: from here on the axis is logarithmic


class Line(NamedTuple):
    """A curve: its label, the number of its colour, whether it is dashed, x and y."""

    label: str
    color: int
    dashed: bool
    x: Sequence[float]
    y: Sequence[float]


class _Axis:
    """Values to places on the canvas."""

    def __init__(self, low: float, high: float, start: float, end: float, log: bool = False):
        self.log = log
        self._low, self._high = self._of(low), self._of(high)
        self._start, self._end = start, end

    def _of(self, value: float) -> float:
        return math.log10(value) if self.log else value

    def __call__(self, value: float) -> float:
        share = (self._of(value) - self._low) / ((self._high - self._low) or 1.0)
        return self._start + share * (self._end - self._start)


def line_chart(title: str, lines: Sequence[Line], from_zero: bool) -> Html:
    """Curves over iterations.

    Args:
        title: of the chart.
        lines: at least one, with at least a point.
        from_zero: the axis begins at 0; else where the values do, and in tens where they range far.
    """
    lines = [_thinned(line) for line in lines]
    values = [v for line in lines for v in line.y if math.isfinite(v)] or [0.0, 1.0]
    low, high = min(values), max(values)
    log = not from_zero and low > 0 and high / low > WIDE_RANGE
    if from_zero:
        low = 0.0
    if not log:
        ticks = _ticks(low, high)
        low, high = min(low, ticks[0]), max(high, ticks[-1])
    else:
        ticks = [
            10.0**e for e in range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ]
        ticks = [t for t in ticks if low <= t <= high] or [low, high]
    last = max((x for line in lines for x in line.x), default=1.0)
    across = _Axis(0.0, last, LEFT, WIDTH - RIGHT)
    up = _Axis(low, high, HEIGHT - BOTTOM, TOP, log)
    parts = _grid(ticks, up)
    for tick in _ticks(0.0, last):
        if tick <= last:
            parts.append(_label(across(tick), HEIGHT - 8, _number(tick), "middle"))
    for line in lines:
        points = [(across(x), up(y)) for x, y in zip(line.x, line.y) if math.isfinite(y)]
        dash = ' stroke-dasharray="4 3"' if line.dashed else ""
        style = f'class="line run{line.color % 6}"'
        if len(points) <= 12:
            parts += [f'<circle {style} cx="{x:.1f}" cy="{y:.1f}" r="2.4"/>' for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(f'<polyline {style}{dash} points="{path}"/>')
    return _figure(title, parts, _summary(lines))


def reliability_chart(bins: Sequence[Bin]) -> Html:
    """How often predictions of each score are right, the number of them as the bars' opacity."""
    width = (WIDTH - LEFT - RIGHT) / len(bins)
    up = _Axis(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    across = _Axis(0.0, 1.0, LEFT, WIDTH - RIGHT)
    parts = _grid([0.0, 0.5, 1.0], up)
    for i, each in enumerate(bins):
        if not each.count:
            continue
        words = f"score {each.score:.2f}: {100 * each.right:.0f} % of {each.count} right"
        parts.append(
            f'<rect class="fill" x="{LEFT + i * width + 1.5:.1f}" y="{up(each.right):.1f}" '
            f'width="{width - 3:.1f}" height="{up(0) - up(each.right):.1f}"><title>{words}</title>'
            "</rect>"
            f'<circle class="dot" cx="{across(each.score):.1f}" cy="{up(each.right):.1f}" r="3"/>'
        )
        parts.append(_label(LEFT + (i + 0.5) * width, TOP - 7, _short(each.count), "middle"))
    parts.append(
        f'<line class="ideal" x1="{across(0)}" y1="{up(0)}" x2="{across(1)}" y2="{up(1)}"/>'
    )
    parts += [_label(across(v), HEIGHT - 8, f"{v:g}", "middle") for v in (0.0, 0.5, 1.0)]
    return _figure("share that is right, by score", parts, "number of predictions above the bars")


def size_chart(bins: Sequence[SizeBin]) -> Html:
    """The share of objects that was found, and the IoU of those found, by their size."""
    width = (WIDTH - LEFT - RIGHT) / max(len(bins), 1)
    up = _Axis(0.0, 1.0, HEIGHT - BOTTOM, TOP)
    parts = _grid([0.0, 0.5, 1.0], up)
    for i, each in enumerate(bins):
        middle = LEFT + (i + 0.5) * width
        words = (
            f"{each.low} to {each.high} pixels: {100 * each.found:.0f} % of {each.count} found, "
            f"mean IoU {each.iou:.2f}"
        )
        parts.append(
            f'<rect class="fill" x="{middle - 0.36 * width:.1f}" y="{up(each.found):.1f}" '
            f'width="{0.72 * width:.1f}" height="{up(0) - up(each.found):.1f}">'
            f"<title>{text(words)}</title></rect>"
        )
        if each.iou:
            parts.append(f'<circle class="dot" cx="{middle:.1f}" cy="{up(each.iou):.1f}" r="3"/>')
        parts.append(_label(middle, TOP - 7, _short(each.count), "middle"))
        label = f"{each.low}+" if each.high > 10**5 else f"{each.low}-{each.high}"
        parts.append(_label(middle, HEIGHT - 8, label, "middle"))
    return _figure(
        "bars: share found; dots: mean IoU of those found",
        parts,
        "number above the bars; below, the side of a square of the area in pixels",
    )


# ------------------------------------------------------------------------------------------- parts


def _figure(title: str, parts: Sequence[str], note: str) -> Html:
    return Html(
        f'<figure class="chart"><figcaption>{text(title)}</figcaption>'
        f'<svg viewBox="0 -12 {WIDTH:g} {HEIGHT + 12:g}" role="img" aria-label="{text(title)}">'
        + "".join(parts)
        + f'</svg><p class="soft">{text(note)}</p></figure>'
    )


def _grid(ticks: Sequence[float], up: _Axis) -> List[str]:
    parts = []
    for tick in ticks:
        y = up(tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}"/>'
        )
        parts.append(_label(LEFT - 6, y + 3.5, _number(tick), "end"))
    return parts


def _label(x: float, y: float, words: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text(words)}</text>'


def _ticks(low: float, high: float) -> List[float]:
    """Three to six round numbers from below ``low`` to above ``high``."""
    span = (high - low) or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / 3))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= 5)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def _number(value: float) -> str:
    if abs(value) >= 10_000:
        return f"{value / 1000:g}k"
    return f"{value:.4g}"


def _short(count: int) -> str:
    return f"{count / 1000:.0f}k" if count >= 10_000 else str(count)


def _thinned(line: Line) -> Line:
    x, y = np.asarray(line.x, float), np.asarray(line.y, float)
    if len(x) > MAX_POINTS:
        kept = np.unique(np.linspace(0, len(x) - 1, MAX_POINTS).astype(int))
        x, y = x[kept], y[kept]
    return line._replace(x=x.tolist(), y=y.tolist())


def _summary(lines: Sequence[Line]) -> str:
    """The last value of each curve."""
    last: List[Tuple[str, float]] = [(line.label, line.y[-1]) for line in lines if len(line.y)]
    return ", ".join(f"{label} {_number(value)}" for label, value in last)
