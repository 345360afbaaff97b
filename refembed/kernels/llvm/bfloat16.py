"""Products of bfloat16 numbers by tiles: the compiled version of exact/bfloat16.py, to the bit.

Activations are rounded once (`round_pairs`) and then meet as many matrices as there are. Two of them are a word of 32
bits, in an array of float32 whose bits they are, so that they live where other activations do. A panel of weights is P
outputs side by side, a word for each pair of channels; where their number is odd, the last has a 0.
"""

from __future__ import annotations

import numpy as np

from refembed.arrays import F32, I32, aligned
from refembed.kernels.llvm.bfloat16_tile import LANES, ROWS, P, tile_bf16
from refembed.kernels.llvm.jit import njit
from refembed.kernels.llvm.simd import N, bits_of, broadcast, choose
from refembed.kernels.llvm.simd_float32 import load, put_upper_halves

HIGH = 256  # rows of x that pass by all panels before the next
MAGNITUDE, INFINITE, QUIET = np.uint32(0x7FFFFFFF), np.uint32(0x7F800000), np.uint32(0x7FC0)
LEAST_BITS = np.uint32(np.float32(2.0**-55).view(np.uint32))  # `bfloat16.LEAST`
HALF, ONE, SIXTEEN, NOTHING = np.uint32(0x7FFF), np.uint32(1), np.uint32(16), np.uint32(0)
UPPER, SIGNLESS, LARGEST, LEAST, NAN = -0x10000, int(MAGNITUDE), int(INFINITE), int(LEAST_BITS), 0x7FC00000


@njit(inline="always")
def rounded(bits):
    """The upper half of a float32, rounded to even; 0 below LEAST, NaN for NaN."""
    magnitude = bits & MAGNITUDE
    up = (bits + HALF + ((bits >> SIXTEEN) & ONE)) >> SIXTEEN
    if magnitude > INFINITE:
        return QUIET
    return up if ((up & HALF) << SIXTEEN) >= LEAST_BITS else NOTHING


@njit(inline="always")
def rounded_lanes(x):
    """`rounded` of sixteen numbers, as the upper halves of lanes whose lower halves are 0."""
    bits = bits_of(x)
    up = (bits + 0x7FFF + ((bits >> 16) & 1)) & UPPER
    large = (broadcast(LEAST - 1) - (up & SIGNLESS)) >> 31
    nan = (broadcast(LARGEST) - (bits & SIGNLESS)) >> 31
    return choose(nan, broadcast(NAN), choose(large, up, broadcast(0)))


@njit()
def round_pairs(x, out, begin, end):
    """Rows begin:end of x (T, C) as pairs: out (T, (C + 1) // 2)."""
    C, words = x.shape[1], out.shape[1]
    source, to, numbers, pairs = x.view(np.uint32), out.view(np.uint32), x.reshape(-1), out.reshape(-1)
    whole_vectors = C // N * N
    for t in range(begin, end):
        for k in range(0, whole_vectors, N):
            put_upper_halves(pairs, t * words + k // 2, rounded_lanes(load(numbers, t * C + k)))
        for k in range(whole_vectors // 2, C // 2):
            to[t, k] = rounded(source[t, 2 * k]) | rounded(source[t, 2 * k + 1]) << SIXTEEN
        if C % 2:
            to[t, words - 1] = rounded(source[t, C - 1])


@njit()
def product_bf16(x, panels, bias, out, first, by_rows, begin, end):
    """Pairs x (T, words) times panels (n/P, words, P), plus bias (N) or (0), into out (T, N).

    first    the column of out where panel 0 begins
    by_rows  1: begin:end are rows of x, and all panels are taken; 0: panels, and all rows
    """
    (n, words), N = x.shape, out.shape[1]
    low, high, top, bottom = (begin, end, 0, len(panels)) if by_rows else (0, n, begin, end)
    pairs, ws, to = x.reshape(-1), panels.reshape(-1), out.reshape(-1)
    for some in range(low, high, HIGH):
        rows = min(HIGH, high - some)
        tiles = (rows + ROWS - 1) // ROWS  # of nearly equal height: `more` of them have a row more
        low_height, more = rows // tiles, rows % tiles
        for p in range(top, bottom):
            j, t = first + p * P, some
            width = min(P, N - j)
            for i in range(tiles):
                height = low_height + (i < more)
                tile_bf16(
                    height, (width + LANES - 1) // LANES, pairs, t * words, words, ws, p * words * P, P, words,
                    to, t * N + j, N, width, bias, j, len(bias) > 0,
                )  # fmt: skip
                t += height


@njit()
def pack_pairs(w, panels, begin, end):
    """Rows of w (n, C) rounded, into panels begin:end of (n/P, words, P), from row 0 of w on."""
    n, C = w.shape
    source, to = w.view(np.uint32), panels.view(np.uint32)
    for p in range(begin, end):
        at = (p - begin) * P
        rows = min(P, n - at)
        if rows < P:
            panels[p] = 0
        for k in range(C // 2):
            for j in range(rows):
                to[p, k, j] = rounded(source[at + j, 2 * k]) | rounded(source[at + j, 2 * k + 1]) << SIXTEEN
        if C % 2:
            for j in range(rows):
                to[p, C // 2, j] = rounded(source[at + j, C - 1])


def pack_whole(w: F32) -> I32:
    """All panels of a matrix (N, C)."""
    panels = aligned((-(-len(w) // P), (w.shape[1] + 1) // 2, P), np.int32)
    pack_pairs(w, panels, 0, len(panels))
    return panels
