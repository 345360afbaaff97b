"""Pictures cut into patches: lines between patches and tokens, and numbers laid over the picture."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from refembed.html.picture import RED_TO_BLUE, RGB, WHITE_TO_BLUE, image, ramp

WIDEST = 560  # pixels of a picture on the page
LEAST = 420  # pixels that a picture is enlarged to, so that lines between patches can be seen
LINE = (255, 255, 255)
MARK = (230, 60, 20)  # around the patch that is marked


class Cut(NamedTuple):
    """What a vision tower reads, as a picture, and how it is cut."""

    rgb: RGB  # (height, width, 3)
    patches: tuple[int, int]  # columns, rows
    tokens: tuple[int, int]  # columns, rows
    marked: tuple[int, int] | None = None  # row and column of a patch that has a frame


def with_lines(cut: Cut, widest: int = WIDEST) -> RGB:
    """Thin lines between patches, thicker ones between tokens, and the frame.

    widest  pixels to a side on the page: lines are as thick as to be seen there
    """
    out = enlarged(cut.rgb)
    height, width, _ = out.shape
    thin = -(-max(height, width) // widest)
    for thick, (columns, rows) in ((thin, cut.patches), (2 * thin, cut.tokens)):
        tall, wide = height // rows, width // columns
        for y in range(tall, height, tall):
            out[y - thick + 1 : y + 1] = LINE
        for x in range(wide, width, wide):
            out[:, x - thick + 1 : x + 1] = LINE
    return framed(out, cut)


def overlay(cut: Cut, grid: npt.NDArray[np.float64], *, signed: bool = False, mark: bool = False) -> RGB:
    """A color for each cell of a grid (rows, columns), laid over the gray picture; darker or more colored is more.

    signed  red below zero, blue above
    mark    with the frame
    """
    rgb = enlarged(cut.rgb)
    top = float(np.abs(grid).max()) or 1.0
    colors = ramp((grid / top + 1) / 2, RED_TO_BLUE) if signed else ramp(np.abs(grid) / top, WHITE_TO_BLUE)
    height, width, _ = rgb.shape
    large = colors.repeat(-(-height // len(colors)), axis=0).repeat(-(-width // colors.shape[1]), axis=1)
    gray = (rgb @ np.array([0.299, 0.587, 0.114]))[..., None]
    mixed = 0.4 * gray + 0.6 * large[:height, :width]
    out = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    return framed(out, cut) if mark else out


def enlarged(rgb: RGB) -> RGB:
    """A copy with pixels once or several times larger, so that a patch is more than a few pixels wide."""
    k = max(1, -(-LEAST // max(rgb.shape[:2])))
    return np.ascontiguousarray(rgb.repeat(k, axis=0).repeat(k, axis=1))


def framed(out: RGB, cut: Cut) -> RGB:
    """The frame around the marked patch, drawn into `out`."""
    if cut.marked is None:
        return out
    tall, wide = out.shape[0] // cut.patches[1], out.shape[1] // cut.patches[0]
    y, x = cut.marked[0] * tall, cut.marked[1] * wide
    for edge in (np.s_[y : y + 2, x : x + wide], np.s_[y + tall - 2 : y + tall, x : x + wide],
                 np.s_[y : y + tall, x : x + 2], np.s_[y : y + tall, x + wide - 2 : x + wide]):  # fmt: skip
        out[edge] = MARK
    return out


def shown(rgb: RGB, alt: str, widest: int = WIDEST) -> str:
    """A picture on the page."""
    height, width, _ = rgb.shape
    scale = min(1.0, widest / max(width, height))
    return image(rgb, alt, round(width * scale), round(height * scale))


def side_by_side(figures: Iterable[str]) -> str:
    """Figures in a row, as many as there is room for."""
    return f'<div class="row">{"".join(figures)}</div>'
