"""Numba twins of the definitions in norms, activations, attention and matmul: same names, float32, compiled and cached.

Only this file imports Numba (0.3 s), and only `fast` imports this file, or `exact` where BLAS mixes rows. Kernels
release the GIL and take a range of rows, so that `fast` can give each core its share; no row reads another's, so the
shares change no bits. Fast-math stays off where bits matter: LLVM may then not re-order a sum, and a row's result
depends on that row alone.
"""

from __future__ import annotations

import math
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from refembed.arrays import Float
from refembed.kernels.matmul import BLOCK

f32 = np.float32
SUMMED = 128  # terms of attention's sums that are added one after the other


def njit(**options: Any) -> Any:
    """`numba.njit` with the compiled code kept on disk, where there is a folder that can be written to."""

    def compile_(function: Any) -> Any:
        common = {"nogil": True, "error_model": "numpy", **options}
        try:
            return numba.njit(cache=True, **common)(function)
        except RuntimeError:  # "no locator available": neither __pycache__ nor NUMBA_CACHE_DIR can be written
            return numba.njit(**common)(function)

    return compile_


@intrinsic
def float_of_bits(typing_context, bits):
    """The float32 whose bit pattern is this int32."""

    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], ir.FloatType())

    return types.float32(types.int32), generate


LOG2_E = f32(1.4426950408889634)
LN2_HIGH, LN2_LOW = f32(0.693359375), f32(-2.12194440e-4)  # ln 2 in two parts: n LN2_HIGH is exact
ROUND = f32(12582912.0)  # 1.5 x 2^23: adding it rounds a float32 to an integer


@njit(inline="always")
def expf(x):
    """e^x in float32 to 8e-8 relative, without a branch, so that LLVM can vectorise a loop of it.

    x = n ln 2 + r with |r| <= ln 2 / 2; e^r by a polynomial (Cody & Waite 1980; coefficients: Moshier, Cephes expf).
    Below -87.3 it stays at 1.2e-38 instead of going subnormal; above 88.37, where n would be 128, at 2.4e38; NaN stays
    NaN.
    """
    y = min(max(x, f32(-87.3)), f32(88.37))
    n = (y * LOG2_E + ROUND) - ROUND
    r = (y - n * LN2_HIGH) - n * LN2_LOW
    p = f32(1.9875691500e-4)
    p = p * r + f32(1.3981999507e-3)
    p = p * r + f32(8.3334519073e-3)
    p = p * r + f32(4.1665795894e-2)
    p = p * r + f32(1.6666665459e-1)
    p = p * r + f32(5.0000001201e-1)
    e = (p * (r * r) + r) + f32(1)
    bits = (np.int32(n) + np.int32(127)) << np.int32(23)
    result = e * float_of_bits(bits)  # type: ignore[call-arg]  # Numba passes the typing context
    return result if x == x else x


@njit()
def gelu(x, out, begin, end):
    """The tanh form of GELU, through tanh(u) = 1 - 2/(1 + e^2u): y = x / (1 + e^-2u). x, out (T, F); rows begin:end."""
    for t in range(begin, end):
        for j in range(x.shape[1]):
            a = x[t, j]
            u = f32(0.7978845608028654) * a * (f32(1) + f32(0.044715) * a * a)
            out[t, j] = a / (f32(1) + expf(-(u + u)))


@njit()
def layer_norm(x, weight, bias, eps, out, begin, end):
    """Layer norm with its affine part, sums in double. x, out (T, C); weight, bias (C); rows begin:end."""
    C = x.shape[1]
    for t in range(begin, end):
        total = 0.0
        for c in range(C):
            total += x[t, c]
        mean = f32(total / C)
        squares = 0.0
        for c in range(C):
            centred = x[t, c] - mean
            squares += centred * centred
        scale = f32(1 / np.sqrt(squares / C + eps))
        for c in range(C):
            out[t, c] = (x[t, c] - mean) * scale * weight[c] + bias[c]


@njit()
def softmax(x, scale):
    """exp(scale x) / sum(exp(scale x)) of one row (n), in place."""
    high = x[0]
    for j in range(1, len(x)):
        high = max(high, x[j])
    high *= scale
    for j in range(len(x)):
        x[j] = expf(x[j] * scale - high)
    total = 0.0
    for j in range(len(x)):
        total += x[j]
    share = f32(1 / total)
    for j in range(len(x)):
        x[j] *= share


@njit()
def softmax_rows(x, begin, end):
    """`softmax` of rows begin:end of x (T, n), in place."""
    for t in range(begin, end):
        softmax(x[t], f32(1))


@njit(inline="always")
def sum_scores(q, kt, low, high, out):
    """q (D) times keys low:high of kt (D, n): out, each element summed in order of D, four terms at once."""
    out[:] = f32(0)
    fours = len(q) // 4 * 4
    for d in range(0, fours, 4):
        a0, a1, a2, a3 = q[d], q[d + 1], q[d + 2], q[d + 3]
        k0, k1, k2, k3 = kt[d, low:high], kt[d + 1, low:high], kt[d + 2, low:high], kt[d + 3, low:high]
        for j in range(len(out)):
            out[j] = (((out[j] + a0 * k0[j]) + a1 * k1[j]) + a2 * k2[j]) + a3 * k3[j]
    for d in range(fours, len(q)):
        a, k0 = q[d], kt[d, low:high]
        for j in range(len(out)):
            out[j] += a * k0[j]


@njit(inline="always")
def sum_values(p, v, out):
    """Shares p (n) of values v (n, D): out (D), each element summed in order of n, four terms at once."""
    out[:] = f32(0)
    fours = len(p) // 4 * 4
    for j in range(0, fours, 4):
        a0, a1, a2, a3 = p[j], p[j + 1], p[j + 2], p[j + 3]
        v0, v1, v2, v3 = v[j], v[j + 1], v[j + 2], v[j + 3]
        for d in range(len(out)):
            out[d] = (((out[d] + a0 * v0[d]) + a1 * v1[d]) + a2 * v2[d]) + a3 * v3[d]
    for j in range(fours, len(p)):
        a = p[j]
        for d in range(len(out)):
            out[d] += a * v[j, d]


@njit()
def scores(q, kt, low, high, out):
    """One query q (D) against keys low:high of kt (D, n): out (high - low). D is summed in blocks of SUMMED."""
    sum_scores(q[:SUMMED], kt, low, high, out)
    if len(q) > SUMMED:
        part = np.empty_like(out)
        for d in range(SUMMED, len(q), SUMMED):
            sum_scores(q[d : d + SUMMED], kt[d:], low, high, part)
            for j in range(len(out)):
                out[j] += part[j]


@njit()
def mix(p, v, out):
    """Shares p (n) of values v (n, D): out (D). n is summed in blocks of SUMMED."""
    sum_values(p[:SUMMED], v, out)
    if len(p) > SUMMED:
        part = np.empty_like(out)
        for j in range(SUMMED, len(p), SUMMED):
            sum_values(p[j : j + SUMMED], v[j:], part)
            for d in range(len(out)):
                out[d] += part[d]


@njit(inline="always")
def reach(i, n, causal, window, kind):
    """The keys begin, end that query i of n sees; kind 0 standard, 1 chunked, 2 symmetric, as in `Mask`."""
    begin, end = 0, i + 1 if causal else n
    if window > 0:
        if kind == 0:
            begin = max(0, i - window + 1)
        elif kind == 1:
            begin = i // window * window
        else:
            begin, end = max(0, i - window // 2), min(end, i + window // 2 + 1)
    return begin, end


@njit()
def tanh(x):
    """Hyperbolic tangent of every number of a row, in place."""
    for j in range(len(x)):
        x[j] = math.tanh(x[j])


@njit()
def shares(x, i, begin, scale, soft_cap, slope, bias):
    """Scores x (n) of query i and the keys from `begin` on to what each key gets, in place.

    slope  ALiBi's, or 0
    bias   (n) added to the scores, or (0)
    """
    if soft_cap > 0:
        for j in range(len(x)):
            x[j] = x[j] * scale / soft_cap
        tanh(x)
        for j in range(len(x)):
            x[j] *= soft_cap
        scale = f32(1)
    if len(bias) > 0:
        for j in range(len(x)):
            x[j] = x[j] * scale + bias[j]
        scale = f32(1)
    if slope > 0:
        for j in range(len(x)):
            x[j] = x[j] * scale - slope * f32(abs(i - begin - j))
        scale = f32(1)
    softmax(x, scale)


@njit()
def attention(q, k, v, n_head, group, offsets, scale, causal, window, kind, soft_cap, slopes, bias, out, begin, end):
    """Scaled dot-product attention, one row of scores at a time: head h of sequence s, for s H + h in begin:end.

    q, out (T, H D); k, v (T, H/group D); slopes (H), 0 for none; bias (H, L, L), or (0, 0, 0)
    """
    none = np.empty(0, np.float32)
    D = q.shape[1] // n_head
    for unit in range(begin, end):
        s, h = unit // n_head, unit % n_head
        first, n = offsets[s], offsets[s + 1] - offsets[s]
        theirs, mine = slice(h // group * D, (h // group + 1) * D), slice(h * D, (h + 1) * D)
        kt, vh = np.empty((D, n), q.dtype), np.empty((n, D), q.dtype)
        row, mixed = np.empty(n, q.dtype), np.empty(D, q.dtype)
        kt[:] = k[first : first + n, theirs].T
        vh[:] = v[first : first + n, theirs]
        for i in range(n):
            low, high = reach(i, n, causal, window, kind)
            seen = row[: high - low]
            scores(q[first + i, mine], kt, low, high, seen)
            more = bias[h, i, low:high] if len(bias) > 0 else none
            shares(seen, i, low, scale, soft_cap, slopes[h], more)
            mix(seen, vh[low:high], mixed)
            out[first + i, mine] = mixed


@njit()
def scores_of(q, kt, out):
    """`scores` for every query: q (T, D), out (T, n). For traces: the row-at-a-time kernel above keeps no scores."""
    for t in range(len(q)):
        scores(q[t], kt, 0, kt.shape[1], out[t])


@njit()
def shares_of(x, scale, causal, window, kind, soft_cap, slope):
    """`shares` for every row of x (n, n), in place; 0 for keys that a query does not see."""
    n, none = x.shape[1], np.empty(0, np.float32)
    for i in range(len(x)):
        low, high = reach(i, n, causal, window, kind)
        shares(x[i, low:high], i, low, scale, soft_cap, slope, none)
        x[i, :low] = f32(0)
        x[i, high:] = f32(0)


@njit()
def mix_of(p, v, causal, window, kind, out):
    """`mix` for every row of p (n, n), over the keys it sees: out (n, D)."""
    n = p.shape[1]
    for i in range(len(p)):
        low, high = reach(i, n, causal, window, kind)
        mix(p[i, low:high], v[low:high], out[i])


@njit(fastmath={"contract"})  # a + b c may become one fused operation: for every element, or for none
def matmul_rows(x, panels, out, begin, end):
    """x (T, k) times panels (n/P, k, P): out (T, n); rows begin:end; both and k multiples of 4.

    Sums run in order of k, in blocks of BLOCK. Four rows and four steps of k at a time: a value of W that is in a
    register is used four times.
    """
    K, P = x.shape[1], panels.shape[2]
    part = np.empty((4, P), x.dtype)
    c0, c1, c2, c3 = part[0], part[1], part[2], part[3]
    for p in range(panels.shape[0]):
        for t in range(begin, end, 4):
            x0, x1, x2, x3 = x[t], x[t + 1], x[t + 2], x[t + 3]
            whole = out[t : t + 4, p * P : p * P + P]
            for first in range(0, K, BLOCK):
                part[:] = 0
                for k in range(first, min(first + BLOCK, K), 4):
                    w0, w1, w2, w3 = panels[p, k], panels[p, k + 1], panels[p, k + 2], panels[p, k + 3]
                    a00, a01, a02, a03 = x0[k], x0[k + 1], x0[k + 2], x0[k + 3]
                    a10, a11, a12, a13 = x1[k], x1[k + 1], x1[k + 2], x1[k + 3]
                    a20, a21, a22, a23 = x2[k], x2[k + 1], x2[k + 2], x2[k + 3]
                    a30, a31, a32, a33 = x3[k], x3[k + 1], x3[k + 2], x3[k + 3]
                    for j in range(P):
                        b0, b1, b2, b3 = w0[j], w1[j], w2[j], w3[j]
                        c0[j] = (((c0[j] + a00 * b0) + a01 * b1) + a02 * b2) + a03 * b3
                        c1[j] = (((c1[j] + a10 * b0) + a11 * b1) + a12 * b2) + a13 * b3
                        c2[j] = (((c2[j] + a20 * b0) + a21 * b1) + a22 * b2) + a23 * b3
                        c3[j] = (((c3[j] + a30 * b0) + a31 * b1) + a32 * b2) + a33 * b3
                if first == 0:
                    whole[:] = part
                else:
                    whole += part


PANEL = 128  # columns of W that `matmul_rows` works on at a time: k x 128 floats stay in the second cache


@njit()
def pack_rows(w, panels, begin, end):
    """w (n, k) into panels begin:end of (n/PANEL, k, PANEL), both rounded up, the rest zeros; 16 by 16 at a time."""
    n, k = w.shape
    for p in range(begin, end):
        first, m = p * PANEL, min(PANEL, n - p * PANEL)
        if m < PANEL or k < panels.shape[1]:
            panels[p] = 0
        for j0 in range(0, m, 16):
            for c0 in range(0, k, 16):
                for c in range(c0, min(c0 + 16, k)):
                    for j in range(j0, min(j0 + 16, m)):
                        panels[p, c, j] = w[first + j, c]


@njit()
def add(part, out, begin, end):
    """out += part, both (T, n); rows begin:end."""
    for t in range(begin, end):
        for j in range(out.shape[1]):
            out[t, j] += part[t, j]


def pack(w: Float) -> Float:
    """w (n, k) as `matmul_rows` reads it: (n/PANEL, k, PANEL), both rounded up, the rest zeros."""
    n, k = w.shape
    panels = np.empty((-(-n // PANEL), -(-k // 4) * 4, PANEL), w.dtype)
    pack_rows(w, panels, 0, len(panels))
    return panels


def matmul(x: Float, w: Float) -> Float:
    """x (T, k) times w (n, k) transposed, (T, n), in an order of summation that no neighbour can change."""
    (T, k), n, panels = x.shape, len(w), pack(w)
    rows = np.zeros((-(-T // 4) * 4, panels.shape[1]), x.dtype)
    rows[:T, :k] = x
    out = np.empty((len(rows), len(panels) * PANEL), x.dtype)
    matmul_rows(rows, panels, out, 0, len(rows))
    return out[:T, :n]
