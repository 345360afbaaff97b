"""Products of whole numbers by tiles: the compiled version of exact/integer.py, to the bit.

Activations are rounded to codes once (`quantize8`, `quantize16`) and then meet as many matrices as there are. A block
of 32 of them is words of 32 bits, in an array of float32 whose bits they are:

    bits  | codes, four in a word; of 16 bits first all high bytes, then all low ones
    1     | d
    3     | -128 times the sum of the codes of the first half, of the second, of both
    3     | d times these sums
    1     | nothing

A panel of weights is P outputs side by side, for each block 8 rows of codes, 1 or 2 of scales and as many of minima.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from refembed.arrays import F32, I32, LINE, aligned
from refembed.kernels.llvm.integer_block import put_sums8, put_sums16
from refembed.kernels.llvm.integer_tile import ROWS, STEPS, P, tile8, tile16, words_of
from refembed.kernels.llvm.jit import njit
from refembed.kernels.llvm.microkernel import Q8_BLOCK as BLOCK
from refembed.kernels.llvm.microkernel import prefetch
from refembed.kernels.llvm.simd import bits_of, broadcast, float_of_bits
from refembed.kernels.llvm.simd_float32 import highest_integer, larger_integer, load, put_bytes
from refembed.kernels.llvm.simd_math import bits_of as bits_of_one

f32, i32 = np.float32, np.int32
HIGH = 256  # rows of x that pass by all panels before the next
MANY = 8  # tiles
ROUND, ROUND_BITS = f32(12582912.0), 0x4B400000  # 1.5 x 2^23: adding it rounds, and leaves the number in the last bits
MAGNITUDE, INFINITE = 0x7FFFFFFF, 0x7F800000  # all bits of a float32 but its sign; those of infinity
LEAST_BITS = int(np.float32(1e-33).view(np.int32))  # `integer.LEAST`
WORDS8, WORDS16 = words_of(8), words_of(16)


# --- activations ------------------------------------------------------------------------------------------------------


@njit(inline="always")
def high_of_block(x, at):
    """The bits of the largest magnitude of x[at : at + 32]: ordered as magnitudes are, infinity and NaN above all."""
    a, b = bits_of(load(x, at)) & MAGNITUDE, bits_of(load(x, at + 16)) & MAGNITUDE
    return highest_integer(larger_integer(a, b))


@njit(inline="always")
def inverse_of(high, top):
    """top / |high|, or 0 where codes are to be 0."""
    return top / float_of_bits(high) if LEAST_BITS <= high < INFINITE else f32(0)


@njit(inline="always")
def rounded(x, at, inverse):
    """Sixteen codes."""
    if inverse == 0:  # there may be numbers that 0 cannot silence
        return bits_of(broadcast(f32(0)))
    return bits_of(load(x, at) * inverse + ROUND) - ROUND_BITS


@njit(inline="always")
def scale_of(high, top):
    """d: high / top, or NaN."""
    return float_of_bits(high) / top if high < INFINITE else f32(np.nan)


@njit()
def quantize8(x, out, begin, end):
    """Rows begin:end of x (T, C) as blocks of codes of 8 bits: out (T, C/32 WORDS8)."""
    C = x.shape[1]
    source, to = x.reshape(-1), out.reshape(-1)
    for block in range(begin * C // BLOCK, end * C // BLOCK):
        at, first = block * BLOCK, block * WORDS8
        high = high_of_block(source, at)
        inverse = inverse_of(high, f32(127))
        a, b = rounded(source, at, inverse), rounded(source, at + 16, inverse)
        put_bytes(to, first, a)
        put_bytes(to, first + 4, b)
        put_sums8(to, first + 8, scale_of(high, f32(127)), a, b)


@njit()
def quantize16(x, out, begin, end):
    """`quantize8` with codes of 16 bits, 256 h + l: out (T, C/32 WORDS16)."""
    C = x.shape[1]
    source, to = x.reshape(-1), out.reshape(-1)
    for block in range(begin * C // BLOCK, end * C // BLOCK):
        at, first = block * BLOCK, block * WORDS16
        high = high_of_block(source, at)
        inverse = inverse_of(high, f32(32512))
        a, b = rounded(source, at, inverse), rounded(source, at + 16, inverse)
        for k in range(2):
            q = b if k else a
            h = ((q + 0x8080) >> 8) - 128  # q + 0x8080 is not negative
            put_bytes(to, first + 4 * k, h)
            put_bytes(to, first + 8 + 4 * k, q - (h << 8))
        put_sums16(to, first + 16, scale_of(high, f32(32512)), a, b)


# --- products ---------------------------------------------------------------------------------------------------------


@njit()
def product8(x, panels, halves, minima, bias, out, first, by_rows, begin, end):
    """Codes x (T, B WORDS8) times panels (n/P, B height, P), plus bias (N) or (0), into out (T, N).

    halves, minima  0 or 1: as `tile8` takes them
    first           the column of out where panel 0 begins
    by_rows         1: begin:end are rows of x, and all panels are taken; 0: panels, and all rows
    """
    (n, step), N, C = x.shape, out.shape[1], panels.shape[1] * P
    low, high, top, bottom = (begin, end, 0, len(panels)) if by_rows else (0, n, begin, end)
    codes, ws, to, blocks = x.reshape(-1), panels.reshape(-1), out.reshape(-1), step // WORDS8
    for some in range(low, high, HIGH):
        rows = min(HIGH, high - some)
        tiles = (rows + ROWS - 1) // ROWS  # of nearly equal height: `more` of them have a row more
        low_height, more, share = rows // tiles, rows % tiles, (C + tiles - 1) // tiles
        for p in range(top, bottom):
            j = first + p * P
            t = some
            for i in range(tiles):
                height = low_height + (i < more)
                if tiles > MANY:  # send for the next panel, a share before each tile
                    for k in range(i * share, (i + 1) * share, LINE // 4):
                        prefetch(ws, (p + 1) * C + k)
                tile8(
                    height, halves, minima, codes, t * step, step, ws, p * C, blocks,
                    to, t * N + j, N, min(P, N - j), bias, j, len(bias) > 0,
                )  # fmt: skip
                t += height


@njit()
def product16(x, panels, halves, minima, bias, out, first, by_rows, begin, end):
    """`product8` of codes of 16 bits: x (T, B WORDS16)."""
    (n, step), N, C = x.shape, out.shape[1], panels.shape[1] * P
    low, high, top, bottom = (begin, end, 0, len(panels)) if by_rows else (0, n, begin, end)
    codes, ws, to, blocks = x.reshape(-1), panels.reshape(-1), out.reshape(-1), step // WORDS16
    for some in range(low, high, HIGH):
        rows = min(HIGH, high - some)
        tiles = (rows + ROWS - 1) // ROWS
        low_height, more, share = rows // tiles, rows % tiles, (C + tiles - 1) // tiles
        for p in range(top, bottom):
            j = first + p * P
            t = some
            for i in range(tiles):
                height = low_height + (i < more)
                if tiles > MANY:  # send for the next panel, a share before each tile
                    for k in range(i * share, (i + 1) * share, LINE // 4):
                        prefetch(ws, (p + 1) * C + k)
                tile16(
                    height, halves, minima, codes, t * step, step, ws, p * C, blocks,
                    to, t * N + j, N, min(P, N - j), bias, j, len(bias) > 0,
                )  # fmt: skip
                t += height


class Kernels(NamedTuple):
    """Of codes of one length."""

    quantize: Callable[..., Any]
    product: Callable[..., Any]


KERNELS = {8: Kernels(quantize8, product8), 16: Kernels(quantize16, product16)}


# --- weights ----------------------------------------------------------------------------------------------------------


@njit()
def pack_codes(w, s, m, panels, begin, end):
    """Decoded weights w (n, C), their scales s (n, groups) and minima m, like s or (0, 0): into panels begin:end.

    As `quant.codes.codes_of` finds them.
    """
    n, (groups, C), minima = len(w), (s.shape[1], w.shape[1]), len(m) > 0
    blocks, group = C // BLOCK, C // groups
    halves = BLOCK // group
    height = panels.shape[1] // blocks
    middle = f32(0) if minima else f32(128)
    for p in range(begin, end):
        at = (p - begin) * P
        rows = min(P, n - at)
        if rows < P:
            panels[p] = 0
        for b in range(blocks):
            for j in range(rows):
                for k in range(STEPS):
                    g = b * halves + k * halves // STEPS
                    scale, least, word = s[at + j, g], m[at + j, g] if minima else f32(0), np.int64(0)
                    for i in range(4):
                        c = b * BLOCK + 4 * k + i
                        code = np.rint((w[at + j, c] - least) / scale) + middle if scale != 0 else middle
                        word |= np.int64(min(max(code, f32(0)), f32(255))) << 8 * i
                    panels[p, b * height + k, j] = i32(word)
                for h in range(halves):
                    panels[p, b * height + STEPS + h, j] = bits_of_one(s[at + j, b * halves + h])
                    if minima:
                        panels[p, b * height + STEPS + halves + h, j] = bits_of_one(m[at + j, b * halves + h])


def height_of(groups: int, minima: bool) -> int:
    """Rows of a block in a panel, where it has so many groups with scales of their own."""
    return STEPS + groups * (1 + minima)


def pack_whole(w: F32, s: F32, m: F32 | None) -> I32:
    """All panels of a matrix."""
    height = height_of(BLOCK * s.shape[1] // w.shape[1], m is not None)
    panels = aligned((-(-len(w) // P), w.shape[1] // BLOCK * height, P), np.int32)
    pack_codes(w, s, np.empty((0, 0), np.float32) if m is None else m, panels, 0, len(panels))
    return panels
