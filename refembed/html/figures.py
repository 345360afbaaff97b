"""Pictures for the lessons of docs/course: SVG that stands by itself on any page, by day and by night.

    heatmap   a matrix: each number as a tinted cell           curves   numbers over numbers
    bars      one number for each name                         plane    arrows from the origin

Text has the page's own color (`currentColor`), marks two colors that stand out from black and from white. Each picture
says in words what it shows (`alt`). Notebooks show a `Figure` where a cell ends with one. Scalable Vector Graphics, W3C
2018.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from refembed.html.charts import nice
from refembed.html.page import esc

BLUE, ORANGE, VIOLET, GREEN = "#3b7dd8", "#d9772b", "#8a63d2", "#3a9a5b"
COLORS = (BLUE, ORANGE, VIOLET, GREEN)
DASHES = ("", "7 4", "2 3", "9 3 2 3")
DARKEST = 0.75  # opacity of the largest number's cell: what is written in it can still be read
LETTER = 7.2  # width of a letter
STYLE = "max-width:none;height:auto;font:13px system-ui,sans-serif;color:inherit"


@dataclass(frozen=True)
class Figure:
    """A drawing of a size in pixels, with a description of what it shows."""

    body: str
    alt: str
    width: float
    height: float

    def svg(self) -> str:
        """The drawing as an element of a page."""
        w, h = f"{self.width:.0f}", f"{self.height:.0f}"
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" '
            f'aria-label="{esc(self.alt)}" fill="currentColor" style="{STYLE}"><title>{esc(self.alt)}</title>'
            f"{self.body}</svg>"
        )

    def _repr_html_(self) -> str:
        """What a notebook shows: a wide drawing scrolls where the page is narrow."""
        return f'<div class="figure" tabindex="0" style="overflow-x:auto;margin:0.6em 0">{self.svg()}</div>'

    def __repr__(self) -> str:
        return f"<Figure: {self.alt}>"


def text(x: float, y: float, words: str, anchor: str = "start", extra: str = "") -> str:
    """Words at a place."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{esc(words)}</text>'


def line(x1: float, y1: float, x2: float, y2: float, opacity: float = 0.2) -> str:
    """A thin line in the color of the text."""
    return (
        f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="currentColor" '
        f'stroke-opacity="{opacity}"/>'
    )


def heatmap(
    x: npt.ArrayLike, rows: Sequence[str], columns: Sequence[str], alt: str, *, digits: int = 2,
    numbers: bool = True, most: float | None = None, row_name: str = "", column_name: str = "",
) -> Figure:  # fmt: skip
    """A matrix (n, m): blue above zero, orange below, the stronger the larger.

    rows, columns  (n), (m) names; a column without a name has none written above it
    numbers        whether each cell has its number written in it, with so many digits
    most           the magnitude of the strongest tint; None takes the largest
    """
    a = np.atleast_2d(np.asarray(x, np.float64))
    top = float(np.abs(a[np.isfinite(a)]).max(initial=0)) if most is None else most
    wide = max(LETTER * (digits + 4), LETTER * max(map(len, columns), default=1) + 10, 24) if numbers else 13.0
    tall = 26.0 if numbers else 17.0
    left = LETTER * max(map(len, rows), default=0) + 12 + 18 * bool(row_name)
    above = 20.0 + 18 * bool(column_name)
    parts = []
    for j, name in enumerate(columns):
        if name:
            parts.append(text(left + (j + 0.5) * wide, above - 6, name, "middle"))
    for i, name in enumerate(rows):
        y = above + i * tall
        parts.append(text(left - 6, y + tall / 2 + 4.5, name, "end"))
        for j, value in enumerate(a[i]):
            share = min(abs(value) / top, 1.0) if top and math.isfinite(value) else 0.0
            title = f"{name} {columns[j] if j < len(columns) else j}: {value:.4g}".strip()
            parts.append(
                f'<rect x="{left + j * wide:.1f}" y="{y:.1f}" width="{wide - 1:.1f}" height="{tall - 1:.1f}" '
                f'fill="{BLUE if value >= 0 else ORANGE}" fill-opacity="{DARKEST * share:.3f}"><title>{esc(title)}'
                "</title></rect>"
            )
            if numbers:
                parts.append(text(left + (j + 0.5) * wide, y + tall / 2 + 4.5, f"{value:.{digits}f}", "middle"))
    width, height = left + a.shape[1] * wide + 4, above + len(a) * tall + 4
    if column_name:
        parts.append(text(left, 14, column_name, extra=' font-style="italic"'))
    if row_name:
        parts.append(
            f'<text transform="translate(12,{(above + height) / 2:.1f}) rotate(-90)" text-anchor="middle" '
            f'font-style="italic">{esc(row_name)}</text>'
        )
    return Figure("".join(parts), alt, width, height)


def bars(values: Sequence[float], names: Sequence[str], alt: str, *, digits: int = 3, name: str = "") -> Figure:
    """One bar for each name, to the right above zero and to the left below, with its number behind it."""
    left, room, tall = LETTER * max(map(len, names)) + 16, 380.0, 24.0
    low, high = min(0.0, *values), max(0.0, *values)
    scale = room / (high - low) if high > low else 1.0
    zero, above = left + 60 * (low < 0) - low * scale, 22.0 if name else 4.0
    parts = [text(left, 14, name, extra=' font-style="italic"')] if name else []
    for i, (value, label) in enumerate(zip(values, names, strict=True)):
        y = above + i * tall
        x = zero + min(value, 0.0) * scale
        parts.append(text(left - 8, y + 16, label, "end"))
        parts.append(
            f'<rect x="{x:.1f}" y="{y + 3:.1f}" width="{max(abs(value) * scale, 1):.1f}" height="{tall - 6:.1f}" '
            f'fill="{BLUE if value >= 0 else ORANGE}"/>'
        )
        at, anchor = (x + max(value * scale, 1) + 6, "start") if value >= 0 else (x - 6, "end")
        parts.append(text(at, y + 16, f"{value:.{digits}f}", anchor))
    parts.append(line(zero, above, zero, above + tall * len(values), 0.6))
    return Figure("".join(parts), alt, left + room + 130, above + tall * len(values) + 6)


def curves(
    lines: Sequence[tuple[str, npt.ArrayLike, npt.ArrayLike]], alt: str, *, x_name: str = "", y_name: str = "",
    marks: bool = False,
) -> Figure:  # fmt: skip
    """Lines (name, x, y) over one pair of axes; marks: a dot at each number, for places that are counted."""
    width, height, left, right, above, below = 640.0, 300.0, 66.0, 14.0, 34.0, 44.0
    data = [(name, np.asarray(x, np.float64), np.asarray(y, np.float64)) for name, x, y in lines]
    xs, ys = (np.concatenate([row[k] for row in data]) for k in (1, 2))
    x_low, x_high, y_low, y_high = float(xs.min()), float(xs.max()), float(ys.min()), float(ys.max())
    y_high = y_high if y_high > y_low else y_low + 1
    pad = 0.05 * (y_high - y_low)
    y_low, y_high = y_low - pad, y_high + pad

    def at(x: float, y: float) -> tuple[float, float]:
        across = (x - x_low) / (x_high - x_low or 1)
        up = (y - y_low) / (y_high - y_low)
        return left + (width - left - right) * across, above + (height - above - below) * (1 - up)

    parts = []
    for value in ticks(y_low, y_high):
        y = at(x_low, value)[1]
        parts += [line(left, y, width - right, y), text(left - 6, y + 4.5, f"{value:.4g}", "end")]
    for value in ticks(x_low, x_high):
        x = at(value, y_low)[0]
        parts += [
            line(x, height - below, x, height - below + 5, 0.6),
            text(x, height - below + 19, f"{value:.4g}", "middle"),
        ]
    parts += [text(left, 14, y_name, extra=' font-style="italic"')] if y_name else []
    parts += [text((left + width - right) / 2, height - 6, x_name, "middle", ' font-style="italic"')] if x_name else []
    legend_x = left + LETTER * len(y_name) + 46
    for k, (name, x_values, y_values) in enumerate(data):
        color, dash = COLORS[k % 4], DASHES[k % 4]
        points = [at(*p) for p in zip(x_values.tolist(), y_values.tolist(), strict=True)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dashed = f' stroke-dasharray="{dash}"' if dash else ""
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"{dashed}/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>' for x, y in points] if marks else []
        if name:
            parts.append(
                f'<line x1="{legend_x - 30:.1f}" x2="{legend_x - 6:.1f}" y1="10" y2="10" stroke="{color}" '
                f'stroke-width="2"{dashed}/>' + text(legend_x, 14, name)
            )
            legend_x += LETTER * len(name) + 44
    return Figure("".join(parts), alt, max(width, legend_x - 30), height)


def ticks(low: float, high: float) -> list[float]:
    """Round numbers from low to high, about five."""
    step = nice((high - low) / 6)
    return [k * step for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def plane(arrows: Sequence[tuple[str, float, float]], alt: str, *, size: float = 340.0) -> Figure:
    """Arrows (name, x, y) from the origin of a plane, on circles around it."""
    reach = max(math.hypot(x, y) for _, x, y in arrows) or 1.0
    scale, middle, across = (size / 2 - 30) / reach, size / 2, size / 2 + 60  # room for names at both sides
    parts = [line(68, middle, size + 52, middle, 0.5), line(across, 8, across, size - 8, 0.5)]
    for radius in sorted({round(math.hypot(x, y) * scale, 1) for _, x, y in arrows}):
        parts.append(
            f'<circle cx="{across}" cy="{middle}" r="{radius}" fill="none" stroke="currentColor" stroke-opacity="0.2"/>'
        )
    for k, (name, x, y) in enumerate(arrows):
        to_x, to_y, color = across + x * scale, middle - y * scale, COLORS[k % 4]
        parts.append(
            f'<line x1="{across}" y1="{middle}" x2="{to_x:.1f}" y2="{to_y:.1f}" stroke="{color}" stroke-width="2.4"/>'
            f'<circle cx="{to_x:.1f}" cy="{to_y:.1f}" r="4" fill="{color}"/>'
        )
        beyond = 16 / (math.hypot(x, y) * scale or 1)
        anchor = "start" if x >= 0 else "end"
        parts.append(text(to_x + x * scale * beyond, to_y - y * scale * beyond + 4.5, name, anchor))
    return Figure("".join(parts), alt, size + 120, size)


def ladder(rows: Sequence[tuple[str, Sequence[tuple[str, int, int]]]], alt: str, *, unit: float = 30.0) -> Figure:
    """Rows (name, boxes) one above the other; a box (label, begin, end) spans those places, which all rows share."""
    left = LETTER * max(len(name) for name, _ in rows) + 14
    tall, last = 42.0, max(end for _, boxes in rows for _, _, end in boxes)
    parts = []
    for i, (name, boxes) in enumerate(rows):
        y = 4 + i * tall
        parts.append(text(left - 8, y + 19, name, "end", ' font-style="italic"'))
        for k, (label, begin, end) in enumerate(boxes):
            x, wide = left + begin * unit, (end - begin) * unit
            parts.append(
                f'<rect x="{x + 1:.1f}" y="{y}" width="{wide - 2:.1f}" height="28" rx="4" fill="{BLUE}" '
                f'fill-opacity="{0.18 + 0.14 * (k % 2):.2f}" stroke="{BLUE}"/>'
            )
            parts.append(text(x + wide / 2, y + 18.5, label, "middle", ' font-size="12"'))
    return Figure("".join(parts), alt, left + last * unit + 6, len(rows) * tall)
