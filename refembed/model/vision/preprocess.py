"""From an image's pixels to what a tower reads, as libmtmd does it (tools/mtmd/mtmd-image.cpp): resize, pad, normalize.

    uint8 (height, width, 3) ─► resample ─► pad ─► / 255 ─► - mean ─► / std ─► float32 (3, height, width)

Its resampling is Pillow's (src/libImaging/Resample.c): two passes, weights rounded to multiples of 2^-22, pixels to
whole numbers after each pass.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32, F64, U8


class Size(NamedTuple):
    """Pixels."""

    width: int
    height: int


Filter: TypeAlias = Literal["bilinear", "bicubic"]

BITS = 22  # of a weight: 32, less 8 of a pixel and 2 for sums
SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}  # pixels to either side that a filter takes in, where nothing gets smaller
BLACK = (0, 0, 0)


def keep_ratio(given: Size, side: int, least: int, most: int) -> Size:
    """The size that an image gets: multiples of `side`, between `least` and `most` pixels, in about its own ratio.

    img_tool::calc_size_preserved_ratio, in float32.

    >>> keep_ratio(Size(100, 50), 16, 1, 10**6), keep_ratio(Size(100, 50), 16, 1, 1024)
    (Size(width=96, height=48), Size(width=32, height=16))
    """
    f = np.float32
    sides = [f(n) for n in given]
    w, h = (max(side, half_up(n / f(side)) * side) for n in sides)
    if w * h > most:
        shrink = np.sqrt(sides[1] * sides[0] / f(most))
        w, h = (max(side, math.floor(n / shrink / f(side)) * side) for n in sides)
    elif w * h < least:
        grow = np.sqrt(f(least) / (sides[1] * sides[0]))
        w, h = (math.ceil(n * grow / f(side)) * side for n in sides)
    return Size(w, h)


def whole_squares(given: Size, side: int, tokens: tuple[int, int]) -> Size:
    """`keep_ratio` of a tower that makes a token of each square of `side` pixels: at least and at most so many.

    >>> whole_squares(Size(100, 50), 16, (1, 4))  # 6 x 3 squares would be 18
    Size(width=32, height=16)
    """
    least, most = (n * side**2 for n in tokens)
    return keep_ratio(given, side, least, most)


def half_up(x: np.float32) -> int:
    """The nearest whole number, halves upward (std::round of what is not negative).

    >>> half_up(np.float32(2.5)), half_up(np.float32(2.4999998))
    (3, 2)
    """
    return math.floor(x) + int(x - np.float32(math.floor(x)) >= 0.5)


def fit(image: U8, width: int, height: int, how: Filter, color: tuple[int, int, int] = BLACK) -> U8:
    """An image in a frame of that size, as large as it fits, in the middle; the rest has the color.

    image    (h, w, 3)
    returns  (height, width, 3)

    >>> fit(np.full((1, 2, 3), 9, np.uint8), 4, 4, "bilinear")[:, 0, 0]  # a row above, a row below
    array([0, 9, 9, 0], dtype=uint8)
    """
    h, w, _ = image.shape
    if (w, h) == (width, height):
        return image
    scale = min(np.float32(width) / np.float32(w), np.float32(height) / np.float32(h))
    new_w, new_h = (min(math.ceil(np.float32(n) * scale), most) for n, most in ((w, width), (h, height)))
    resized = resize(image, new_w, new_h, how)
    out = np.empty((height, width, 3), np.uint8)
    out[:] = np.array(color, np.uint8)
    x, y = (width - new_w) // 2, (height - new_h) // 2
    out[y : y + new_h, x : x + new_w] = resized
    return out


def resize(image: U8, width: int, height: int, how: Filter) -> U8:
    """An image (h, w, 3) of another size: the filter along each row, then along each column.

    >>> x = np.zeros((1, 2, 3), np.uint8)
    >>> x[0, 1] = 100
    >>> resize(x, 4, 1, "bilinear")[0, :, 0]  # 1/4 and 3/4 of the way from one to the other
    array([  0,  25,  75, 100], dtype=uint8)
    """
    for axis, size in ((1, width), (0, height)):
        if image.shape[axis] != size:
            image = resample(image, axis, size, how)
    return image


def resample(image: U8, axis: int, size: int, how: Filter) -> U8:
    """One pass: `size` pixels along an axis in place of as many as there are."""
    first, weights = filter_weights(image.shape[axis], size, how)
    last = image.shape[axis] - 1
    shape = [1, 1, 1]
    shape[axis] = size
    total = np.full((), 1 << BITS - 1, np.int32)  # a half, so that the shift rounds
    for i in range(weights.shape[1]):
        w = weights[:, i]
        if w.any():
            total = total + np.take(image, np.minimum(first + i, last), axis) * w.reshape(shape)
    return np.clip(total >> BITS, 0, 255).astype(np.uint8)


def filter_weights(n_in: int, n_out: int, how: Filter) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Of each of n_out pixels, the first of the n_in pixels it is made of (n_out), and their weights (n_out, most).

    Where an image gets smaller the filter is as wide as what becomes one pixel. Weights are multiples of 2^-22.

    >>> first, weights = filter_weights(2, 4, "bilinear")
    >>> first.tolist(), (weights / 2**22).tolist()[1]  # the second pixel is 3/4 of the first, 1/4 of the second
    ([0, 0, 0, 0], [0.75, 0.25, 0.0])
    """
    scale = n_in / n_out
    stretch = max(scale, 1.0)
    support = SUPPORT[how] * stretch
    center = (np.arange(n_out) + 0.5) * scale
    first = np.maximum((center - support + 0.5).astype(np.int64), 0)
    count = np.minimum((center + support + 0.5).astype(np.int64), n_in) - first
    weights = np.zeros((n_out, math.ceil(support) * 2 + 1))
    total = np.zeros(n_out)
    for i in range(weights.shape[1]):
        inside = i < count
        weights[:, i] = np.where(inside, filter_at((i + first - center + 0.5) * (1.0 / stretch), how), 0.0)
        total += weights[:, i]
    weights /= np.where(total == 0, 1.0, total)[:, None]
    fixed = weights * 2.0**BITS + np.where(weights < 0, -0.5, 0.5)
    return first, fixed.astype(np.int32)  # toward zero


def filter_at(distance: F64, how: Filter) -> F64:
    """A filter's weight at a distance: a triangle, or Keys' cubic with a = -1/2.

    >>> filter_at(np.array([0.0, 0.5, 1.0]), "bilinear").tolist()
    [1.0, 0.5, 0.0]
    >>> filter_at(np.array([0.0, 1.0, 1.5]), "bicubic").tolist()
    [1.0, 0.0, -0.0625]
    """
    x: F64 = np.abs(distance)
    if how == "bilinear":
        return np.where(x < 1, 1.0 - x, 0.0)
    a = -0.5
    near = ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def normalized(image: U8, mean: tuple[float, float, float], std: tuple[float, float, float]) -> F32:
    """Pixels (height, width, 3) from 0 to 255 as planes (3, height, width) of float32: (x/255 - mean) / std.

    >>> normalized(np.array([[[0, 255, 51]]], np.uint8), (0.5, 0.5, 0.0), (0.5, 0.5, 1.0)).reshape(-1).tolist()
    [-1.0, 1.0, 0.20000000298023224]
    """
    x: F32 = np.divide(image, np.float32(255), dtype=np.float32)
    x = np.divide(x - np.array(mean, np.float32), np.array(std, np.float32))
    return np.ascontiguousarray(x.transpose(2, 0, 1))
