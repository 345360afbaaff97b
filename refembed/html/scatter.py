"""Points with intervals over a second quantity, as SVG: what more of one thing brings of another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from refembed.html.charts import BOTTOM, COLORS, HEIGHT, LEFT, RIGHT, TOP, WIDTH, grid, nice, svg
from refembed.html.page import esc

MARKS = ("circle", "square", "triangle", "diamond")  # series differ in more than color
SIZE = 4.5  # of a mark: half its width
APART = 15  # between points of several series at one place, sideways


@dataclass(frozen=True)
class Point:
    """One point. `filled` sets it off; `label` stands above its bar, `title` is what a pointer shows."""

    x: float
    y: float
    low: float
    high: float
    series: int
    label: str
    title: str
    filled: bool


def scatter(
    points: Sequence[Point], series: Sequence[str], alt: str, *, x_name: str, y_name: str, log: bool = False,
    apart: bool = False,
) -> str:  # fmt: skip
    """Points, each with a bar from low to high, over x; the axis of y begins near the lowest.

    log    x is logarithmic
    apart  series have places in common: each is drawn a little to the right of the one before
    """
    low, high = room([p.low for p in points], [p.high for p in points])
    places = [math.log10(p.x) if log else p.x for p in points]
    first, last = room(places, places)

    def x_of(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (value - first) / (last - first)

    def y_of(value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))

    parts = [grid(low, high, False, y_name)]
    for value, label in ticks(first, last, log):
        parts.append(
            f'<line x1="{x_of(value):.1f}" x2="{x_of(value):.1f}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM + 5}" '
            f'stroke="var(--soft)"/><text x="{x_of(value):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f"{label}</text>"
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{esc(x_name)}</text>')
    for p, place in zip(points, places, strict=True):
        x = x_of(place) + (APART * (p.series - (len(series) - 1) / 2) if apart else 0)
        parts.append(bar(x, y_of(p.low), y_of(p.high), COLORS[p.series % len(COLORS)]))
        parts.append(mark(x, y_of(p.y), p))
        parts.append(f'<text x="{x:.1f}" y="{y_of(p.high) - 4:.1f}" text-anchor="middle">{esc(p.label)}</text>')
    return svg("".join(parts), alt) + legend(series)


def room(lows: Sequence[float], highs: Sequence[float]) -> tuple[float, float]:
    """The ends of an axis, with room around what is on it."""
    low, high = min(lows, default=0.0), max(highs, default=1.0)
    space = 0.06 * (high - low) if high > low else 0.05 * max(abs(high), 0.1)
    return low - space, high + space


def ticks(first: float, last: float, log: bool) -> list[tuple[float, str]]:
    """Places of an axis with what stands there; of a logarithmic one 1, 2 and 5 times the powers of ten."""
    if not log:
        step = nice((last - first) / 8)
        return [(k * step, f"{k * step:,.4g}") for k in range(math.ceil(first / step), math.floor(last / step) + 1)]
    powers = range(math.floor(first), math.ceil(last) + 1)
    values = [m * 10.0**p for p in powers for m in ((1, 2, 5) if last - first < 4 else (1,))]
    return [(math.log10(v), f"{v:,.10g}") for v in values if first <= math.log10(v) <= last]


def bar(x: float, top: float, foot: float, color: str) -> str:
    """An interval: a line with ends."""
    ends = "".join(f"M{x - 3:.1f} {y:.1f}H{x + 3:.1f}" for y in (top, foot))
    return f'<path d="M{x:.1f} {top:.1f}V{foot:.1f}{ends}" fill="none" stroke="{color}" stroke-width="1"/>'


def mark(x: float, y: float, p: Point) -> str:
    """The mark of a point."""
    color = COLORS[p.series % len(COLORS)]
    paint = f'fill="{color if p.filled else "var(--paper)"}" stroke="{color}" stroke-width="1.6"'
    return shape(p.series, x, y, paint, f"<title>{esc(p.title)}</title>")


def shape(series: int, x: float, y: float, paint: str, title: str) -> str:
    """The outline of a series: colors and outlines change at different times, so that 16 series differ."""
    kind = MARKS[(series + series // len(COLORS)) % len(MARKS)]
    if kind == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{SIZE}" {paint}>{title}</circle>'
    if kind == "square":
        side = 2 * SIZE - 1
        return (
            f'<rect x="{x - side / 2:.1f}" y="{y - side / 2:.1f}" width="{side}" height="{side}" {paint}>{title}</rect>'
        )
    s = SIZE + 1
    corners = {"triangle": ((0, -s), (s, s * 0.8), (-s, s * 0.8)), "diamond": ((0, -s), (s, 0), (0, s), (-s, 0))}
    outline = " ".join(f"{x + dx:.1f},{y + dy:.1f}" for dx, dy in corners[kind])
    return f'<polygon points="{outline}" {paint}>{title}</polygon>'


def legend(series: Sequence[str]) -> str:
    """Which mark is which series, under the drawing."""
    if len(series) < 2:
        return ""
    items = []
    for k, name in enumerate(series):
        paint = f'fill="{COLORS[k % len(COLORS)]}" stroke="{COLORS[k % len(COLORS)]}"'
        drawn = (
            f'<svg width="14" height="14" style="display:inline" aria-hidden="true">{shape(k, 7, 7, paint, "")}</svg>'
        )
        items.append(f'<span class="word">{drawn} {esc(name)}</span>')
    return f'<p class="source">{" &nbsp; ".join(items)}</p>'
