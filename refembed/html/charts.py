"""Lines and bars as SVG, tokens as a strip of boxes. Scalable Vector Graphics, W3C 2018."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from refembed.html.page import esc

WIDTH, HEIGHT = 900, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 34, 44
COLORS = ("var(--blue)", "var(--orange)", "var(--soft)", "var(--violet)")  # of page.STYLE, by day and by night
MARKS = ("circle", "square", "none", "none")  # lines differ in more than color
DASHES = ("", "", "6 4", "2 3")


@dataclass(frozen=True)
class Line:
    """One line of a plot: None and what is not finite leave a gap."""

    name: str
    y: Sequence[float | None]
    joined: bool = True  # False: marks alone, for places that do not follow from each other


def plot(
    lines: Sequence[Line], alt: str, *, x_labels: Sequence[str], y_name: str, log: bool = False,
    titles: Sequence[str] = (), x_name: str = "",
) -> str:  # fmt: skip
    """Lines over places 0 ... n - 1.

    x_labels  (n) what stands below; only as many are written as there is room for
    log       powers of ten; a value of 0 is drawn at the foot
    titles    (n) what a pointer shows at each place
    x_name    what the axis below counts, in the middle under its labels
    """
    n = len(x_labels)
    values = [y for line in lines for y in line.y if y is not None and math.isfinite(y)]
    low, high = bounds(values, log)
    x = [LEFT + (WIDTH - LEFT - RIGHT) * (i + 0.5) / max(n, 1) for i in range(n)]

    def y_of(value: float) -> float:
        at = math.log10(value) if log and value > 0 else low if log else value
        return TOP + (HEIGHT - TOP - BOTTOM) * (1 - (min(max(at, low), high) - low) / (high - low))

    parts = [grid(low, high, log, y_name), x_axis(x, x_labels)]
    if x_name:
        middle = (LEFT + WIDTH - RIGHT) / 2
        parts.append(f'<text x="{middle:.1f}" y="{HEIGHT - 6}" text-anchor="middle">{esc(x_name)}</text>')
    for k, line in enumerate(lines):
        parts.append(draw(line, x, y_of, k, titles))
    return svg("".join(parts) + legend([line.name for line in lines], LEFT + 7.2 * len(y_name) + 46), alt)


def bounds(values: Sequence[float], log: bool) -> tuple[float, float]:
    """Lowest and highest number of an axis; exponents where it is logarithmic."""
    if log:
        powers = [math.log10(v) for v in values if v > 0] or [-1.0]
        first, last = math.floor(min(powers)), math.ceil(max(powers))
        return first - 0.5, max(last, first + 1) + 0.1
    low, high = min([*values, 0.0]), max([*values, 0.0])
    return low, high if high > low else low + 1


def grid(low: float, high: float, log: bool, name: str) -> str:
    """Horizontal lines with their numbers."""
    if log:
        first, last = math.ceil(low), math.floor(high)
        step = max(1, -(-(last - first) // 6))
        ticks = [(float(p), f"1e{p}") for p in range(first, last + 1, step)]
    else:
        step_size = nice((high - low) / 5)
        first = math.ceil(low / step_size)
        ticks = [(k * step_size, f"{k * step_size:.4g}") for k in range(first, math.floor(high / step_size + 1e-9) + 1)]
    parts = [f'<text x="{LEFT}" y="14">{esc(name)}</text>']
    for value, label in ticks:
        y = TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low))
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}" stroke="var(--line)"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    return "".join(parts)


def nice(step: float) -> float:
    """1, 2 or 5 times a power of ten, not below a step."""
    power = 10.0 ** math.floor(math.log10(step)) if step > 0 else 1.0
    return next(power * m for m in (1, 2, 5, 10) if power * m >= step * (1 - 1e-9))


def x_axis(x: Sequence[float], labels: Sequence[str]) -> str:
    """As many labels as there is room for; an empty label is none."""
    there = [i for i, label in enumerate(labels) if label]
    longest = max((len(label) for label in labels), default=1)
    room = max(1, int((WIDTH - LEFT - RIGHT) / (7.5 * min(longest, 16) + 12)))
    step, foot = max(1, -(-len(there) // room)), HEIGHT - BOTTOM
    parts = []
    for i in there[::step]:
        parts.append(f'<text x="{x[i]:.1f}" y="{foot + 18}" text-anchor="middle">{esc(clip(labels[i]))}</text>')
        parts.append(f'<line x1="{x[i]:.1f}" x2="{x[i]:.1f}" y1="{foot}" y2="{foot + 5}" stroke="var(--soft)"/>')
    return "".join(parts)


def clip(label: str, most: int = 16) -> str:
    """A label that is not too long."""
    return label if len(label) <= most else label[: most - 1] + "…"


def draw(line: Line, x: Sequence[float], y_of: Callable[[float], float], k: int, titles: Sequence[str]) -> str:
    """One line, broken where values are missing, with a mark at each value."""
    color, mark, dash = (c[k % len(c)] for c in (COLORS, MARKS, DASHES))
    points = [(x[i], y_of(v), i, v) if v is not None and math.isfinite(v) else None for i, v in enumerate(line.y)]
    path, pen = [], "M"
    for p in points:
        if p is None:
            pen = "M"
            continue
        path.append(f"{pen}{p[0]:.1f} {p[1]:.1f}")
        pen = "L" if line.joined else "M"
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    parts = [f'<path d="{" ".join(path)}" fill="none" stroke="{color}" stroke-width="1.6"{dashed}/>'] if path else []
    size = 3.2 if len(line.y) < 120 else 1.8
    mark = "tick" if mark == "none" and not line.joined else mark
    for p in points:
        if p is not None and mark != "none":
            where = f" {titles[p[2]]}" if titles else ""
            title = f"<title>{esc(line.name)}{esc(where)}: {p[3]:.4g}</title>"
            parts.append(shape(mark, p[0], p[1], size, color, title))
    return "".join(parts)


def shape(mark: str, x: float, y: float, size: float, color: str, title: str) -> str:
    """A mark with its title."""
    if mark == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size}" fill="{color}">{title}</circle>'
    if mark == "tick":
        return (
            f'<rect x="{x - size:.1f}" y="{y - 0.7:.1f}" width="{2 * size}" height="1.4" fill="{color}">{title}</rect>'
        )
    side = 2 * size
    return f'<rect x="{x - size:.1f}" y="{y - size:.1f}" width="{side}" height="{side}" fill="{color}">{title}</rect>'


def legend(names: Sequence[str], x: float) -> str:
    """Names of the lines next to the axis's own, from x on: there a narrow window shows them too."""
    parts = []
    for k, name in enumerate(names):
        dash = f' stroke-dasharray="{DASHES[k % len(DASHES)]}"' if DASHES[k % len(DASHES)] else ""
        color = COLORS[k % len(COLORS)]
        parts.append(f'<text x="{x:.1f}" y="14">{esc(name)}</text>')
        parts.append(
            f'<line x1="{x - 26:.1f}" x2="{x - 6:.1f}" y1="10" y2="10" stroke="{color}" stroke-width="2"{dash}/>'
        )
        if MARKS[k % len(MARKS)] != "none":
            parts.append(shape(MARKS[k % len(MARKS)], x - 16, 10, 3.2, color, ""))
        x += 7.2 * len(name) + 44
    return "".join(parts)


def svg(body: str, alt: str) -> str:
    """A drawing with its description."""
    return (
        f'<div class="plot"><svg viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" aria-label="{esc(alt)}">'
        f"{body}</svg></div>"
    )


def strip(pieces: Sequence[str], values: Sequence[float], *, unit: str = "") -> str:
    """Tokens in reading order, each tinted by a number: blue above zero, orange below; the number itself on hover.

    Up to forty tokens have their number next to them as well.
    """
    x = np.asarray(values, np.float64)
    top = float(np.abs(x[np.isfinite(x)]).max(initial=0)) or 1.0
    boxes = []
    for piece, value in zip(pieces, values, strict=True):
        share = min(abs(value) / top, 1.0) if math.isfinite(value) else 0.0
        tint = f"rgba({'11,92,173' if value >= 0 else '179,71,0'},{0.5 * share:.2f})"
        small = f'<small style="color:inherit"> {value:.3g}{unit}</small>' if len(pieces) <= 40 else ""
        title = f"{esc(piece)}: {value:.4g}{unit}"
        boxes.append(f'<span class="token" style="background:{tint}" title="{title}">{esc(piece)}{small}</span>')
    return f'<div class="tokens">{"<wbr>".join(boxes)}</div>'
