"""From coefficients to pixels with whole numbers alone, as stb_image does it: inverse DCT, upsampling, colors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from refembed.arrays import I32, U8

ONE = 4096  # the constants below are multiples of 1/4096
AT_ONCE = 2048  # blocks that are transformed together: they stay in the processor's cache


def fixed(x: float) -> np.int32:
    """A constant in 1/4096, halves toward zero where it is negative.

    >>> int(fixed(0.5411961)), int(fixed(-1.847759065))
    (2217, -7567)
    """
    return np.int32(int(x * ONE + 0.5))


def samples(coefficients: npt.NDArray[np.int16], table: I32) -> U8:
    """Blocks (rows, columns, 64) of coefficients as a plane of samples (8 rows, 8 columns).

    table  (64): what coefficients are multiplied with

    >>> flat = np.zeros((1, 1, 64), np.int16)
    >>> flat[0, 0, 0] = 3  # the mean alone, in steps of 16/8
    >>> np.unique(samples(flat, np.full(64, 16, np.int32))).tolist()
    [134]
    """
    rows, columns, _ = coefficients.shape
    blocks = coefficients.reshape(-1, 64)
    out = np.empty((len(blocks), 8, 8), np.uint8)
    for i in range(0, len(blocks), AT_ONCE):
        own = (blocks[i : i + AT_ONCE] * table).astype(np.int16)  # as stb_image keeps them
        out[i : i + AT_ONCE] = inverse_dct(own.astype(np.int32))
    return out.reshape(rows, columns, 8, 8).swapaxes(1, 2).reshape(rows * 8, columns * 8)


def inverse_dct(x: I32) -> U8:
    """Coefficients (n, 64) -> samples (n, 8, 8): columns, then rows, rounded to 1/4 and to whole numbers."""
    columns = np.ascontiguousarray(x.reshape(-1, 8, 8).transpose(1, 2, 0))  # (row, column, n)
    half = transformed(columns, 1 << 9) >> 10
    rows = np.ascontiguousarray(half.transpose(1, 0, 2))  # (column, row, n)
    done = transformed(rows, (1 << 16) + (128 << 17)) >> 17
    return np.clip(done, 0, 255).astype(np.uint8).transpose(2, 1, 0)


def transformed(s: I32, rounding: int) -> I32:
    """The inverse DCT of eight numbers (8, ...), times 4096 sqrt(8), by Loeffler, Ligtenberg and Moschytz 1989.

    rounding  is added to each
    """
    # even: 0, 2, 4, 6
    p = (s[2] + s[6]) * fixed(0.5411961)
    t2, t3 = p + s[6] * fixed(-1.847759065), p + s[2] * fixed(0.765366865)
    t0, t1 = (s[0] + s[4]) * ONE, (s[0] - s[4]) * ONE
    even = (t0 + t3 + rounding, t1 + t2 + rounding, t1 - t2 + rounding, t0 - t3 + rounding)
    # odd: 1, 3, 5, 7
    p5 = (s[7] + s[3] + s[5] + s[1]) * fixed(1.175875602)
    p1, p2 = p5 + (s[7] + s[1]) * fixed(-0.899976223), p5 + (s[5] + s[3]) * fixed(-2.562915447)
    p3, p4 = (s[7] + s[3]) * fixed(-1.961570560), (s[5] + s[1]) * fixed(-0.390180644)
    odd = (
        s[1] * fixed(1.501321110) + p1 + p4,
        s[3] * fixed(3.072711026) + p2 + p3,
        s[5] * fixed(2.053119869) + p2 + p4,
        s[7] * fixed(0.298631336) + p1 + p3,
    )
    return np.stack([*(e + o for e, o in zip(even, odd, strict=True)), *(even[i] - odd[i] for i in (3, 2, 1, 0))])


def upsampled(plane: U8, ratio: tuple[int, int], rows: slice) -> U8:
    """Some rows of a plane that is `ratio` times as wide and high.

    Twice as large is linear, with samples in the middle of their pixels: 3/4 of the nearer and 1/4 of the farther.
    Other ratios repeat samples.

    >>> upsampled(np.array([[0, 100]], np.uint8), (2, 2), slice(0, 2)).tolist()
    [[0, 25, 75, 100], [0, 25, 75, 100]]
    """
    across, down = ratio
    y = np.arange(rows.start, rows.stop)
    near = plane[y // down]
    if down == 2 and across in (1, 2):
        other = np.clip(y // 2 + np.where(y % 2, 1, -1), 0, len(plane) - 1)
        sums = 3 * near.astype(np.int32) + plane[other]  # times 4
        return ((sums + 2) >> 2).astype(np.uint8) if across == 1 else doubled(sums, 4)
    if (across, down) == (2, 1):
        out = doubled(near.astype(np.int32), 1)
        if near.shape[1] > 1:  # stb_image takes the last sample but one for the nearer one here
            out[:, -2] = (3 * near[:, -2].astype(np.int32) + near[:, -1] + 2) >> 2
        return out
    return near.repeat(across, axis=1) if across > 1 else near


def doubled(x: I32, times: int) -> U8:
    """Rows of numbers, `times` too large, at twice the width."""
    n, w = x.shape
    out = np.empty((n, 2 * w), np.int32)
    out[:, 0], out[:, -1] = (x[:, 0] + times // 2) // times, (x[:, -1] + times // 2) // times
    out[:, 2::2] = (3 * x[:, 1:] + x[:, :-1] + 2 * times) // (4 * times)
    out[:, 1:-1:2] = (3 * x[:, :-1] + x[:, 1:] + 2 * times) // (4 * times)
    return out.astype(np.uint8)


def ycbcr_to_rgb(y: U8, cb: U8, cr: U8) -> U8:
    """Brightness and colors (h, w) as pixels (h, w, 3): ITU-R BT.601 in JFIF's range, constants in 1/4096.

    >>> ycbcr_to_rgb(*np.full((3, 1, 1), 128, np.uint8)).tolist()
    [[[128, 128, 128]]]
    """
    bright = (y.astype(np.int32) << 20) + (1 << 19)
    blue, red = cb.astype(np.int32) - 128, cr.astype(np.int32) - 128
    green = red * -(fixed(0.71414) << 8) + (blue * -(fixed(0.34414) << 8) & -65536)
    parts = (red * (fixed(1.402) << 8), green, blue * (fixed(1.772) << 8))
    return np.stack([np.clip((bright + part) >> 20, 0, 255) for part in parts], axis=-1).astype(np.uint8)


def cmyk_to_rgb(colors: U8, black: U8) -> U8:
    """Adobe's inverted CMY (h, w, 3) and K (h, w) as pixels: x k / 255, rounded.

    >>> cmyk_to_rgb(np.array([[[255, 128, 0]]], np.uint8), np.array([[128]], np.uint8)).tolist()
    [[[128, 64, 0]]]
    """
    t = colors.astype(np.int32) * black[..., None] + 128
    return ((t + (t >> 8)) >> 8).astype(np.uint8)
