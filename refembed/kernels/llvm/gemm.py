"""Matrix products by tiles: x Wᵀ with W packed into panels, for linear layers and for attention.

A panel is VECTORS vectors of outputs: (k, PANEL), all numbers of one step of k side by side, as `tile` reads them. The
products of one output are added in order of k, in blocks of BLOCK whose sums are added then, so rounding stays small
(docs/batch-invariance.md). Rows are independent: cores share them without changing a bit.
"""

from __future__ import annotations

import numpy as np

from refembed.arrays import LINE, Float, aligned
from refembed.kernels.llvm.jit import njit
from refembed.kernels.llvm.microkernel import Q8_BLOCK, ROWS, VECTORS, lanes, prefetch, tile

HIGH = 64 * ROWS  # rows of x that pass by all panels before the next: their numbers stay in the second cache
BLOCK = 128  # products of float32 that are added one after the other
SOON, MANY = 16, 10 * ROWS  # rows
LANES4, LANES8 = lanes(4), lanes(8)


@njit()
def row_loop(
    x,
    x_at,
    x_step,
    rows,
    w,
    w_at,
    w_step,
    depth,
    out,
    out_at,
    out_step,
    width,
    more,
    bias,
    bias_at,
    biased,
    scales,
    scales_at,
):
    """`tile` for any number of rows. Meanwhile what lies behind this part of w, which comes next, is sent for.

    Of many tiles each sends for a share before it begins. Few have no time to spare: the last ones send as they go, a
    single one a little ahead of itself.
    """
    L, line = LANES4 if x.itemsize == 4 else LANES8, LINE // w.itemsize
    vectors = (width + L - 1) // L
    behind = depth * w_step
    share = (behind * ROWS + rows - 1) // rows
    for t in range(0, rows, ROWS):
        after, ahead = (rows - t - 1) // ROWS, 0  # tiles
        if rows > MANY:
            for i in range(w_at + behind + t // ROWS * share, w_at + behind + (t // ROWS + 1) * share, line):
                prefetch(w, i)
        elif rows <= ROWS:
            ahead = SOON * w_step
        elif after < VECTORS:
            ahead = behind + after * line
        tile(
            min(ROWS, rows - t), vectors, x, x_at + t * x_step, x_step, w, w_at, w_step, depth,
            out, out_at + t * out_step, out_step, width, more, bias, bias_at, biased, scales, scales_at, ahead,
        )  # fmt: skip


@njit()
def product(x, panels, scales, bias, out, first, begin, end, top, bottom):
    """Rows begin:end of x (T, k) times panels top:bottom of (n/P, k, P), plus bias (N) or (0).

    panels  like x; or F16 as int16; or int8 codes
    scales  (n/P, k/CODED, P), for codes; else anything like x, which is not read
    out     (T, N)
    first   the column of out where panel 0 begins
    """
    (K, P), N = panels.shape[1:], out.shape[1]
    block = BLOCK if x.itemsize == 4 else K
    for t in range(begin, end, HIGH):
        rows = min(HIGH, end - t)
        for p in range(top, bottom):
            j = first + p * P
            width = min(P, N - j)
            for k in range(0, K, block):
                row_loop(
                    x, t * K + k, K, rows, panels, (p * K + k) * P, P, min(block, K - k),
                    out, t * N + j, N, width, k > 0, bias, j, len(bias) > 0 and k + block >= K,
                    scales, (p * K + k) // Q8_BLOCK * P,
                )  # fmt: skip


@njit()
def by_rows(x, panels, bias, out, first, begin, end):
    """`product` of rows begin:end."""
    product(x, panels, panels, bias, out, first, begin, end, 0, len(panels))


@njit()
def by_panels(x, panels, bias, out, first, begin, end):
    """`product` with panels begin:end: for few rows."""
    product(x, panels, panels, bias, out, first, 0, len(x), begin, end)


@njit()
def by_f16(x, panels, bias, out, begin, end):
    """`product` with panels begin:end of F16, as int16."""
    product(x, panels, x, bias, out, 0, 0, len(x), begin, end)


@njit()
def by_q8(x, codes, scales, bias, out, begin, end):
    """`product` with panels begin:end of codes."""
    product(x, codes, scales, bias, out, 0, 0, len(x), begin, end)


@njit()
def part(begin, end, before, matrix):
    """Which panels of a matrix are among begin:end, where `before` panels of others are counted first."""
    return max(begin - before, 0), min(end - before, len(matrix))


@njit()
def three_by_panels(x, a, b, c, bias_a, bias_b, bias_c, out_a, out_b, out_c, begin, end):
    """`by_panels` of three matrices, whose panels are counted through."""
    by_panels(x, a, bias_a, out_a, 0, *part(begin, end, 0, a))
    by_panels(x, b, bias_b, out_b, 0, *part(begin, end, len(a), b))
    by_panels(x, c, bias_c, out_c, 0, *part(begin, end, len(a) + len(b), c))


@njit()
def three_by_f16(x, a, b, c, bias_a, bias_b, bias_c, out_a, out_b, out_c, begin, end):
    """`by_f16` of three matrices, likewise."""
    by_f16(x, a, bias_a, out_a, *part(begin, end, 0, a))
    by_f16(x, b, bias_b, out_b, *part(begin, end, len(a), b))
    by_f16(x, c, bias_c, out_c, *part(begin, end, len(a) + len(b), c))


@njit()
def three_by_q8(x, a, b, c, d_a, d_b, d_c, bias_a, bias_b, bias_c, out_a, out_b, out_c, begin, end):
    """`by_q8` of three matrices, likewise."""
    by_q8(x, a, d_a, bias_a, out_a, *part(begin, end, 0, a))
    by_q8(x, b, d_b, bias_b, out_b, *part(begin, end, len(a), b))
    by_q8(x, c, d_c, bias_c, out_c, *part(begin, end, len(a) + len(b), c))


@njit()
def pack_rows(w, panels, begin, end):
    """w (n, k) into panels begin:end of (?, k, P), the rest zeros; 16 by 16 at a time."""
    n, k = w.shape
    P = panels.shape[2]
    for p in range(begin, end):
        first = (p - begin) * P
        m = min(P, n - first)
        if m < P:
            panels[p] = 0
        for j0 in range(0, m, 16):
            for c0 in range(0, k, 16):
                for c in range(c0, min(c0 + 16, k)):
                    for j in range(j0, min(j0 + 16, m)):
                        panels[p, c, j] = w[first + j, c]


@njit()
def pack_q8(w, d, codes, scales, begin, end):
    """Weights w (n, k) and their scales d (n, k/CODED) into panels begin:end: (?, k, P), (?, k/CODED, P).

    Whether code x scale gives every weight back to the bit: else w is not made that way, and codes are of no use.
    """
    n, P = len(w), codes.shape[2]
    for p in range(begin, end):
        first = (p - begin) * P
        m = min(P, n - first)
        codes[p], scales[p] = 0, 0
        for j in range(m):
            for b in range(d.shape[1]):
                scale = d[first + j, b]
                scales[p, b, j] = scale
                for i in range(b * Q8_BLOCK, b * Q8_BLOCK + Q8_BLOCK):
                    value = w[first + j, i]
                    code = np.rint(value / scale) if scale != 0 else np.float32(0)
                    if not abs(code) <= 127 or code * scale != value:
                        return False
                    codes[p, i, j] = np.int8(code)
    return True


def pack(w: Float) -> Float:
    """w (n, k) as `product` reads it: (n/P, k, P), n rounded up, the rest zeros."""
    P = panel(w.itemsize)
    panels = aligned((-(-len(w) // P), w.shape[1], P), w.dtype)
    pack_rows(w, panels, 0, len(panels))
    return panels


def panel(itemsize: int) -> int:
    """P: outputs of a panel."""
    return VECTORS * lanes(itemsize)


def matmul(x: Float, w: Float) -> Float:
    """x (T, k) times w (n, k) transposed: (T, n)."""
    out = np.empty((len(x), len(w)), x.dtype)
    by_rows(np.ascontiguousarray(x), pack(w), np.empty(0, x.dtype), out, 0, 0, len(x))
    return out
