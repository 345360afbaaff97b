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

f32 = np.float32


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


@njit()
def scores(q, kt, low, high, out):
    """One query q (D) against keys low:high of kt (D, n): out, each summed in order of D, four terms at once."""
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


@njit()
def mix(p, v, out):
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
    """x (T, k) times panels (n/P, k, P): out (T, n); rows begin:end; both and k multiples of 4. Sums run in order of k.

    Four rows and four steps of k at a time: a value of W that is in a register is used four times.
    """
    K, P = x.shape[1], panels.shape[2]
    for p in range(panels.shape[0]):
        for t in range(begin, end, 4):
            x0, x1, x2, x3 = x[t], x[t + 1], x[t + 2], x[t + 3]
            c0, c1 = out[t, p * P : p * P + P], out[t + 1, p * P : p * P + P]
            c2, c3 = out[t + 2, p * P : p * P + P], out[t + 3, p * P : p * P + P]
            for j in range(P):
                c0[j] = 0
                c1[j] = 0
                c2[j] = 0
                c3[j] = 0
            for k in range(0, K, 4):
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


PANEL = 128  # columns of W that `matmul_rows` works on at a time: k x 128 floats stay in the second cache


def pack(w: Float) -> Float:
    """w (n, k) as `matmul_rows` reads it: (n/PANEL, k, PANEL), both rounded up, the rest zeros."""
    n, k = w.shape
    panels = np.zeros((-(-n // PANEL), -(-k // 4) * 4, PANEL), w.dtype)
    for p in range(len(panels)):
        part = w[p * PANEL : (p + 1) * PANEL]
        panels[p, :k, : len(part)] = part.T
    return panels


def matmul(x: Float, w: Float) -> Float:
    """x (T, k) times w (n, k) transposed, (T, n), in an order of summation that no neighbour can change."""
    (T, k), n, panels = x.shape, len(w), pack(w)
    rows = np.zeros((-(-T // 4) * 4, panels.shape[1]), x.dtype)
    rows[:T, :k] = x
    out = np.empty((len(rows), len(panels) * PANEL), x.dtype)
    matmul_rows(rows, panels, out, 0, len(rows))
    return out[:T, :n]
