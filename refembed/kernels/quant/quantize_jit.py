"""Numba versions of the searches in quantize_search.py: same names, same arguments, same bits, ten times as fast and
more.

W runs are searched side by side, one in each lane of the processor's vectors. So a loop over `k` is an instruction or
two, while each run's own sums keep their order: x (n, W) is W runs of n numbers, a run a column.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from refembed.kernels.llvm.jit import njit
from refembed.kernels.quant.quantize_search import GROUP_MAX_EPS, IQ4_VALUES, ROUND, f32

W = 32
MIDDLES = (IQ4_VALUES[1:] + IQ4_VALUES[:-1]) / 2  # between neighboring values; exact
STEPS = np.diff(IQ4_VALUES)


@intrinsic
def bits_of_float(typing_context, x):
    """The bit pattern of a float32, as int32."""

    def generate(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(32))

    return types.int32(types.float32), generate


@njit(inline="always")
def nearest_int(x):
    """nearest_int, kept as float32, which holds these integers exactly."""
    bits = bits_of_float(x + ROUND)  # type: ignore[call-arg, var-annotated]  # Numba passes the typing context
    return f32((bits & np.int32(0x007FFFFF)) - np.int32(0x00400000))


@njit(inline="always")
def clipped(x, low, high):
    """nearest_int, kept within low ... high."""
    return min(max(nearest_int(x), low), high)


@njit()
def load(x, first, out):
    """Runs first ... first + W - 1 of x (N, n) into the columns of out (n, W); past N, the last run again."""
    for k in range(W):
        row = min(first + k, len(x) - 1)
        for j in range(len(out)):
            out[j, k] = x[row, j]


@njit()
def find_largest(x, amax, extreme):
    """`largest` of each column of x (n, W)."""
    for k in range(W):
        amax[k] = 0
        extreme[k] = 0
    for j in range(len(x)):
        for k in range(W):
            a = abs(x[j, k])
            if a > amax[k]:
                amax[k] = a
                extreme[k] = x[j, k]


@njit()
def sums(x, weights, iscale, low, nmax, q, acc):
    """Codes of x (n, W) at these scales, into q (n, W), and the sums of their least squares, into acc (3, W)."""
    top = f32(nmax)
    acc[:] = f32(0)
    for j in range(len(x)):
        for k in range(W):
            code = clipped(iscale[k] * (x[j, k] - low[k]), f32(0), top)
            wq = weights[j, k] * code
            q[j, k] = code
            acc[0, k] += wq
            acc[1, k] += wq * code
            acc[2, k] += wq * x[j, k]


@njit()
def error(x, weights, scale, low, q, use_mad, out):
    """The weighted error of codes q (n, W), into out (W)."""
    out[:] = f32(0)
    for j in range(len(x)):
        if use_mad:
            for k in range(W):
                out[k] += weights[j, k] * abs(scale[k] * q[j, k] + low[k] - x[j, k])
        else:
            for k in range(W):
                diff = scale[k] * q[j, k] + low[k] - x[j, k]
                out[k] += weights[j, k] * (diff * diff)


@njit()
def keep(better, q, best_q):
    """Where `better` (W), the codes q (n, W) become the best."""
    for j in range(len(q)):
        for k in range(W):
            best_q[j, k] = q[j, k] if better[k] else best_q[j, k]


@njit()
def qkx2_runs(x, w, nmax, rmin, rdelta, nstep, use_mad, scale, low, best_q):
    """make_qkx2_quants for W runs: x, w (n, W) -> scale, low (W), best_q (n, W)."""
    q, acc = np.empty_like(x), np.empty((3, W), f32)
    high, iscale, found, best = np.empty(W, f32), np.empty(W, f32), np.empty(W, f32), np.empty(W, f32)
    sum_w, sum_x = np.zeros(W, f32), np.zeros(W, f32)
    new_scale, new_low, better, flat = np.empty(W, f32), np.empty(W, f32), np.empty(W, np.bool_), np.empty(W, np.bool_)
    for k in range(W):
        low[k] = 0
        high[k] = x[0, k]
    for j in range(len(x)):
        for k in range(W):
            low[k] = min(low[k], x[j, k])
            high[k] = max(high[k], x[j, k])
            sum_w[k] += w[j, k]
            sum_x[k] += w[j, k] * x[j, k]
    for k in range(W):
        flat[k] = high[k] == low[k]
        iscale[k] = f32(nmax) / (high[k] - low[k])
        scale[k] = f32(1) / iscale[k]
    sums(x, w, iscale, low, nmax, best_q, acc)
    error(x, w, scale, low, best_q, use_mad, best)
    for step in range(nstep + 1):
        for k in range(W):
            iscale[k] = (f32(rmin) + f32(rdelta) * f32(step) + f32(nmax)) / (high[k] - low[k])
        sums(x, w, iscale, low, nmax, q, acc)
        for k in range(W):
            sum_q, sum_q2, sum_xq = acc[0, k], acc[1, k], acc[2, k]
            determinant = sum_w[k] * sum_q2 - sum_q * sum_q
            better[k] = determinant > 0
            new_scale[k] = (sum_w[k] * sum_xq - sum_x[k] * sum_q) / determinant
            new_low[k] = (sum_q2 * sum_x[k] - sum_q * sum_xq) / determinant
            if new_low[k] > 0:
                new_low[k] = 0
                new_scale[k] = sum_xq / sum_q2
        error(x, w, new_scale, new_low, q, use_mad, found)
        for k in range(W):
            better[k] = better[k] and found[k] < best[k]
            if better[k]:
                best[k], scale[k], low[k] = found[k], new_scale[k], new_low[k]
        keep(better, q, best_q)
    for k in range(W):
        if flat[k]:
            scale[k], low[k] = f32(0), high[k]
            best_q[:, k] = f32(0)


@njit()
def qkx2_all(x, weights, nmax, rmin, rdelta, nstep, use_mad, scale, low, codes):
    """Every run of x (N, n), W at a time."""
    n = x.shape[1]
    xs, ws, q = np.empty((n, W), f32), np.empty((n, W), f32), np.empty((n, W), f32)
    s, m = np.empty(W, f32), np.empty(W, f32)
    for first in range(0, len(x), W):
        load(x, first, xs)
        load(weights, first, ws)
        qkx2_runs(xs, ws, nmax, rmin, rdelta, nstep, use_mad, s, m, q)
        for k in range(min(W, len(x) - first)):
            scale[first + k], low[first + k] = s[k], -m[k]
            for j in range(n):
                codes[first + k, j] = np.int32(q[j, k])


@njit()
def attempt(x, w, iscale, nmax, q, acc):
    """Codes -nmax ... nmax - 1 of x (n, W) at these scales, into q (n, W), and their sums, into acc (2, W)."""
    top = f32(nmax)
    acc[:] = f32(0)
    for j in range(len(x)):
        for k in range(W):
            code = clipped(iscale[k] * x[j, k], -top, top - f32(1))
            q[j, k] = code
            acc[0, k] += w[j, k] * x[j, k] * code
            acc[1, k] += w[j, k] * code * code


@njit()
def attempt_iq4(x, w, iscale, q, acc):
    """Values of x (n, W) at these scales, into q (n, W), and their sums, into acc (2, W)."""
    acc[:] = f32(0)
    for j in range(len(x)):
        for k in range(W):
            y = iscale[k] * x[j, k]
            value = IQ4_VALUES[0]
            for i in range(15):
                value += f32(0) if y < MIDDLES[i] else STEPS[i]
            acc[0, k] += w[j, k] * value * x[j, k]
            acc[1, k] += w[j, k] * value * value


@njit()
def judge(acc, scale, best, better):
    """Which lanes' fit got better (W), and their new scale."""
    for k in range(W):
        sum_xq, sum_q2 = acc[0, k], acc[1, k]
        better[k] = sum_q2 > 0 and sum_xq * sum_xq > best[k] * sum_q2
        if better[k]:
            scale[k] = sum_xq / sum_q2
            best[k] = scale[k] * sum_xq


@njit()
def qx_runs(x, nmax, scale, best_q):
    """make_qx_quants for W runs: x (n, W) -> scale (W), best_q (n, W)."""
    q, w, acc = np.empty_like(x), x * x, np.empty((2, W), f32)
    amax, extreme, iscale, best = np.empty(W, f32), np.empty(W, f32), np.empty(W, f32), np.empty(W, f32)
    better = np.empty(W, np.bool_)
    find_largest(x, amax, extreme)
    for k in range(W):
        iscale[k] = f32(-nmax) / extreme[k]
    attempt(x, w, iscale, nmax, best_q, acc)
    for k in range(W):
        scale[k] = acc[0, k] / acc[1, k] if acc[1, k] != 0 else f32(0)
        best[k] = scale[k] * acc[0, k]
    for step in range(-9, 10):
        if step == 0:
            continue
        for k in range(W):
            iscale[k] = -(f32(nmax) + f32(0.1) * f32(step)) / extreme[k]
        attempt(x, w, iscale, nmax, q, acc)
        judge(acc, scale, best, better)
        keep(better, q, best_q)
    for k in range(W):
        if amax[k] < GROUP_MAX_EPS:
            scale[k] = f32(0)
            best_q[:, k] = f32(-nmax)


@njit()
def q3_runs(x, nmax, scale, q):
    """make_q3_quants for W runs: x (n, W) -> scale (W), q (n, W)."""
    w, acc, top = x * x, np.empty((2, W), f32), f32(nmax)
    amax, extreme, iscale = np.empty(W, f32), np.empty(W, f32), np.empty(W, f32)
    find_largest(x, amax, extreme)
    for k in range(W):
        iscale[k] = f32(-nmax) / extreme[k]
    attempt(x, w, iscale, nmax, q, acc)
    for _ in range(5):
        for j in range(len(x)):
            for k in range(W):
                wj, xj, old = w[j, k], x[j, k], q[j, k]
                other_xq, other_q2 = acc[0, k] - wj * xj * old, acc[1, k] - wj * old * old
                new = clipped(xj * other_q2 / other_xq, -top, top - f32(1))
                new_xq, new_q2 = other_xq + wj * xj * new, other_q2 + wj * new * new
                gain = new_xq * new_xq * acc[1, k] > acc[0, k] * acc[0, k] * new_q2
                better = (other_xq > 0) & (new != old) & (new_q2 > 0) & gain
                q[j, k] = new if better else old
                acc[0, k] = new_xq if better else acc[0, k]
                acc[1, k] = new_q2 if better else acc[1, k]
    for k in range(W):
        scale[k] = acc[0, k] / acc[1, k] if acc[1, k] > 0 else f32(0)
        if amax[k] < GROUP_MAX_EPS:
            scale[k] = f32(0)
            q[:, k] = f32(-nmax)


@njit()
def signed_all(x, nmax, third, scale, codes):
    """Every run of x (N, n), W at a time: make_q3_quants, else make_qx_quants."""
    n = x.shape[1]
    xs, q, s = np.empty((n, W), f32), np.empty((n, W), f32), np.empty(W, f32)
    for first in range(0, len(x), W):
        load(x, first, xs)
        if third:
            q3_runs(xs, nmax, s, q)
        else:
            qx_runs(xs, nmax, s, q)
        for k in range(min(W, len(x) - first)):
            scale[first + k] = s[k]
            for j in range(n):
                codes[first + k, j] = np.int32(q[j, k]) + np.int32(nmax)


@njit()
def iq4_all(x, ntry, scale):
    """Every run of x (N, n), W at a time."""
    n = x.shape[1]
    xs, q, acc, s = np.empty((n, W), f32), np.empty((n, W), f32), np.empty((2, W), f32), np.empty(W, f32)
    amax, extreme, iscale, best = np.empty(W, f32), np.empty(W, f32), np.empty(W, f32), np.empty(W, f32)
    better = np.empty(W, np.bool_)
    for first in range(0, len(x), W):
        load(x, first, xs)
        w = xs * xs
        find_largest(xs, amax, extreme)
        for k in range(W):
            iscale[k] = f32(1) / ((-extreme[k] if ntry > 0 else extreme[k]) / IQ4_VALUES[0])
        attempt_iq4(xs, w, iscale, q, acc)
        for k in range(W):
            s[k] = acc[0, k] / acc[1, k] if acc[1, k] > 0 else f32(0)
            best[k] = s[k] * acc[0, k]
        for step in range(-ntry, ntry + 1):
            for k in range(W):
                iscale[k] = (f32(step) + IQ4_VALUES[0]) / extreme[k]
            attempt_iq4(xs, w, iscale, q, acc)
            judge(acc, s, best, better)
        for k in range(min(W, len(x) - first)):
            scale[first + k] = f32(0) if amax[k] < GROUP_MAX_EPS else s[k]


@njit()
def iq4_codes(x, codes):
    """`best_index_int8` of x (N), flat."""
    for i in range(len(x)):
        code = np.int32(0)
        for m in range(15):
            code += np.int32(0) if x[i] < MIDDLES[m] else np.int32(1)
        codes[i] = code


def make_qkx2_quants(x, weights, nmax, rmin, rdelta, nstep, use_mad):
    """As in quantize_search.py."""
    scale, low, codes = np.empty(len(x), f32), np.empty(len(x), f32), np.empty(x.shape, np.int32)
    qkx2_all(x, weights, nmax, rmin, rdelta, nstep, use_mad, scale, low, codes)
    return scale, low, codes


def make_qx_quants(x, nmax):
    """As in quantize_search.py."""
    scale, codes = np.empty(len(x), f32), np.empty(x.shape, np.int32)
    signed_all(x, nmax, False, scale, codes)
    return scale, codes


def make_q3_quants(x, nmax):
    """As in quantize_search.py."""
    scale, codes = np.empty(len(x), f32), np.empty(x.shape, np.int32)
    signed_all(x, nmax, True, scale, codes)
    return scale, codes


def iq4_scales(x, ntry):
    """As in quantize_search.py."""
    scale = np.empty(len(x), f32)
    iq4_all(x, ntry, scale)
    return scale


def best_index_int8(x):
    """As in quantize_search.py."""
    codes = np.empty(x.shape, np.int32)
    iq4_codes(x.reshape(-1), codes.reshape(-1))
    return codes
