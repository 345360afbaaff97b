"""The part of a verification's page about images: what both towers read, and where the engine's rows are off."""

from __future__ import annotations

import numpy as np

from refembed.arrays import F64
from refembed.html.page import esc, figure
from refembed.html.patches import Cut, overlay, shown, side_by_side, with_lines
from refembed.html.picture import RGB, heat, scale_bar
from refembed.verify.report.data import Picture

WIDEST = 400  # pixels of a picture: two stand next to each other
SHARP = 1e-6  # a difference of rows below is float32's, and is not drawn


def pictures_of(p: Picture) -> str:
    """One image: the reference's, the engine's where that is another, and their rows."""
    figures = [figure(picture(p.ours, f"Reference: {p.name}"), "Reference. Thin lines are patches, thick ones tokens.")]
    same = p.theirs is not None and np.array_equal(p.theirs.rgb, p.ours.rgb)
    if p.theirs is not None and not same:
        figures.append(figure(picture(p.theirs, f"Engine: {p.name}"), esc(said_of(p.ours, p.theirs))))
        if p.theirs.rgb.shape == p.ours.rgb.shape:
            figures.append(gap(p.ours.rgb, p.theirs.rgb, p.name))
    if p.rows is not None and not np.max(p.rows) <= SHARP:
        figures.append(of_rows(p.ours, p.rows, p.name))
    note = "<p>The engine's tower reads the same pixels.</p>" if same else ""
    return f"<h3>{esc(p.name)}</h3><p>{esc(p.sizes)}</p>{note}{side_by_side(figures)}"


def picture(cut: Cut, alt: str) -> str:
    """With its patches."""
    height, width, _ = cut.rgb.shape
    return shown(
        with_lines(cut, WIDEST),
        f"{alt}, {width} x {height} pixels in {cut.patches[0]} x {cut.patches[1]} patches",
        WIDEST,
    )


def said_of(ours: Cut, theirs: Cut) -> str:
    """The engine's picture in words."""
    (h, w, _), (height, width, _) = ours.rgb.shape, theirs.rgb.shape
    if (h, w) != (height, width):
        return f"Engine: {width} x {height} pixels, where the reference reads {w} x {h}."
    changed = int((ours.rgb != theirs.rgb).any(axis=-1).sum())
    return f"Engine: {changed / (h * w):.0%} of its pixels are others."


def gap(ours: RGB, theirs: RGB, name: str) -> str:
    """Where pixels differ, and by how much."""
    most = np.abs(ours.astype(int) - theirs).max(axis=-1)
    height, width = most.shape
    tall = round(WIDEST * min(1.0, height / width))
    drawn = heat(most, f"Difference of the pixels of {name}, the largest of the three colors", height=tall)
    return figure(drawn, f"Difference of pixels, of 255: up to {most.max()}.")


def of_rows(cut: Cut, rows: F64, name: str) -> str:
    """Which tokens are off."""
    clean = np.nan_to_num(rows, nan=1.0, posinf=1.0)
    top, (y, x) = float(clean.max()), np.unravel_index(int(clean.argmax()), clean.shape)
    alt = f"How far each token of {name} is from the reference's, over its length: up to {top:.3g}"
    drawn = shown(overlay(cut, clean), alt, WIDEST) + scale_bar(top, False)
    words = "|engine's row - ours| / |ours| of each token that the text model gets"
    return figure(drawn, f"{esc(words)}: the furthest, {top:.3g}, is in row {y}, column {x}.")
