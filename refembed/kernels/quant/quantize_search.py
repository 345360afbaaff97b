"""The searches behind the K-quants and IQ4: which scale, and which codes, come nearest to a run of numbers.

A run is 16 or 32 neighboring weights that share one scale. Each function takes many runs at once, x (N, n), and tries
a handful of scales for each of them; ggml-quants.c has them under the same names. Its sums run from left to right in
float32, and which of two scales wins hangs on their last bit, so they run from left to right here as well.

quantize_jit.py has the same functions once more, compiled. All numbers here are float32, all codes int32.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from refembed.arrays import F32, I32

f32 = np.float32
GROUP_MAX_EPS = f32(1e-15)  # runs smaller than this are zeros
ROUND = f32(12582912.0)  # 1.5 x 2^23: adding it leaves the nearest integer in the low bits of a float32

# What the codes of IQ4_NL and IQ4_XS stand for: kvalues_iq4nl
IQ4_VALUES = np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32)


def nearest_int(x: F32) -> I32:
    """The nearest integer, halves to even, of numbers up to 2^22; beyond them, and of NaN, what ggml makes of them."""
    bits = (x + ROUND).view(np.int32)
    return (bits & np.int32(0x007FFFFF)) - np.int32(0x00400000)


def sum_in_order(x: F32) -> F32:
    """Sums of the rows of x (N, n), added from left to right: (N)."""
    total: F32 = np.add.accumulate(x, axis=-1)[..., -1]
    return total


def largest(x: F32) -> tuple[F32, F32]:
    """Of each row of x (N, n) the largest magnitude (N), and the first number that has it, with its sign (N)."""
    magnitude = np.abs(x)
    first = magnitude.argmax(axis=-1)[:, None]
    return np.take_along_axis(magnitude, first, -1)[:, 0], np.take_along_axis(x, first, -1)[:, 0]


def finite(x: F32) -> F32:
    """x with 0 for NaN: no comparison of ggml's lets a NaN win. Scales are NaN where squares pass float32's range."""
    return np.where(np.isnan(x), f32(0), x)


def clipped(x: F32, low: int, high: int) -> I32:
    """nearest_int, kept within low ... high."""
    return np.clip(nearest_int(x), np.int32(low), np.int32(high))


def make_qkx2_quants(
    x: F32, weights: F32, nmax: int, rmin: float, rdelta: float, nstep: int, use_mad: bool
) -> tuple[F32, F32, I32]:
    """Scale, minimum and codes 0 ... nmax, so that scale * code - minimum comes nearest to x. For Q2_K, Q4_K, Q5_K.

    x, weights    (N, n)   weights say how much an error counts
    rmin, rdelta  the scales tried spread the codes over nmax + rmin + i rdelta steps, i = 0 ... nstep
    use_mad       errors count by their magnitude (Q2_K), else by their square
    returns       scale (N), minimum (N, never below 0), codes (N, n)

    Each try fits scale and minimum to the codes it got by weighted least squares.
    """

    def error(scale: F32, low: F32, codes: I32) -> F32:
        diff = scale[:, None] * codes.astype(f32) + low[:, None] - x
        return sum_in_order(weights * (np.abs(diff) if use_mad else diff * diff))

    low, high = np.minimum(x.min(axis=-1), f32(0)), x.max(axis=-1)  # (N)
    flat = high == low
    sum_w, sum_x = sum_in_order(weights), sum_in_order(weights * x)  # (N)
    iscale = f32(nmax) / (high - low)
    scale = f32(1) / iscale
    codes = clipped(iscale[:, None] * (x - low[:, None]), 0, nmax)  # (N, n)
    best = error(scale, low, codes)
    for step in range(nstep + 1):
        iscale = (f32(rmin) + f32(rdelta) * f32(step) + f32(nmax)) / (high - low)
        tried = clipped(iscale[:, None] * (x - low[:, None]), 0, nmax)
        q = tried.astype(f32)
        wq = weights * q
        sum_q, sum_q2, sum_xq = sum_in_order(wq), sum_in_order(wq * q), sum_in_order(wq * x)
        determinant = sum_w * sum_q2 - sum_q * sum_q
        fit_scale = (sum_w * sum_xq - sum_x * sum_q) / determinant
        fit_low = (sum_q2 * sum_x - sum_q * sum_xq) / determinant
        new_low: F32 = np.where(fit_low > 0, f32(0), fit_low)
        new_scale: F32 = np.where(fit_low > 0, sum_xq / sum_q2, fit_scale)
        found = error(new_scale, new_low, tried)
        better = (determinant > 0) & (found < best)
        best, scale, low = np.where(better, (found, new_scale, new_low), (best, scale, low))
        codes = np.where(better[:, None], tried, codes)
    low = np.where(flat, high, low)
    return np.where(flat, f32(0), scale), -low, np.where(flat[:, None], np.int32(0), codes)


def make_qx_quants(x: F32, nmax: int) -> tuple[F32, I32]:
    """Scale and codes -nmax ... nmax - 1 (stored from 0 up), so that scale * code comes nearest to x. For Q6_K.

    x        (N, n)   an error counts by its square and by the square of x
    returns  scale (N), codes + nmax (N, n)
    """
    amax, extreme = largest(x)  # (N)
    w = x * x  # (N, n)

    def attempt(iscale: F32) -> tuple[I32, F32, F32]:
        codes = clipped(iscale[:, None] * x, -nmax, nmax - 1)
        q = codes.astype(f32)
        return codes, sum_in_order(w * x * q), sum_in_order(w * q * q)

    codes, sum_xq, sum_q2 = attempt(f32(-nmax) / extreme)
    scale = np.where(sum_q2 != 0, sum_xq / sum_q2, f32(0))
    best = scale * sum_xq
    for step in range(-9, 10):
        if step == 0:
            continue
        tried, sum_xq, sum_q2 = attempt(-(f32(nmax) + f32(0.1) * f32(step)) / extreme)
        better = (sum_q2 > 0) & (sum_xq * sum_xq > best * sum_q2)
        codes = np.where(better[:, None], tried, codes)
        scale = np.where(better, sum_xq / sum_q2, scale)
        best = np.where(better, scale * sum_xq, best)
    zero = amax < GROUP_MAX_EPS
    return np.where(zero, f32(0), scale), np.where(zero[:, None], np.int32(0), codes + np.int32(nmax))


def make_q3_quants(x: F32, nmax: int) -> tuple[F32, I32]:
    """Scale and codes -nmax ... nmax - 1 (stored from 0 up), so that scale * code comes nearest to x. For Q3_K.

    x        (N, n)   an error counts by its square and by the square of x
    returns  scale (N), codes + nmax (N, n)

    Five times over, each code in turn moves to where the others' scale would have it, if that makes the fit better.
    """
    amax, extreme = largest(x)  # (N)
    codes = clipped((f32(-nmax) / extreme)[:, None] * x, -nmax, nmax - 1)  # (N, n)
    w = x * x
    q = codes.astype(f32)
    sums: F32 = np.stack([sum_in_order(w * x * q), sum_in_order(w * q * q)])  # (2, N)
    for _ in range(5):
        for j in range(x.shape[-1]):
            wj, xj, qj = w[:, j], x[:, j], codes[:, j].astype(f32)
            sum_xq, sum_q2 = sums
            other_xq = sum_xq - wj * xj * qj  # the sums without this one
            other_q2 = sum_q2 - wj * qj * qj
            new = clipped(xj * other_q2 / other_xq, -nmax, nmax - 1)
            qj = new.astype(f32)
            new_xq, new_q2 = other_xq + wj * xj * qj, other_q2 + wj * qj * qj
            better = (other_xq > 0) & (new != codes[:, j]) & (new_q2 > 0)
            better &= new_xq * new_xq * sum_q2 > sum_xq * sum_xq * new_q2
            codes[:, j] = np.where(better, new, codes[:, j])
            sums = np.where(better, (new_xq, new_q2), sums)
    sum_xq, sum_q2 = sums
    zero = amax < GROUP_MAX_EPS
    scale = np.where(zero | ~(sum_q2 > 0), f32(0), sum_xq / sum_q2)
    return scale, np.where(zero[:, None], np.int32(0), codes + np.int32(nmax))


def best_index_int8(x: F32) -> I32:
    """The code of the nearest of IQ4_VALUES; halfway between two, the upper one; of NaN the last."""
    upper = np.clip(np.searchsorted(IQ4_VALUES, x, "right"), 1, 15)
    down, up = x - IQ4_VALUES[upper - 1], IQ4_VALUES[upper] - x
    index: npt.NDArray[np.int64] = np.where(down < up, upper - 1, upper)
    return index.astype(np.int32)


def iq4_scales(x: F32, ntry: int) -> F32:
    """The scale of each run, so that scale * value of its code comes nearest to x. For IQ4_NL and IQ4_XS.

    x        (N, n)   an error counts by its square and by the square of x
    ntry     the scales tried put the largest number at -127 - ntry ... -127 + ntry; below 0, as quantize_row_iq4_nl_ref
             has it: at 127 only, where no value is
    returns  (N), 0 for a run of zeros

    The first half of quantize_row_iq4_nl_impl.
    """
    amax, extreme = largest(x)  # (N)
    w = x * x  # (N, n)

    def attempt(iscale: F32) -> tuple[F32, F32]:
        q = IQ4_VALUES[best_index_int8(iscale[:, None] * x)]
        return sum_in_order(w * q * x), sum_in_order(w * q * q)

    first = (-extreme if ntry > 0 else extreme) / IQ4_VALUES[0]
    sum_xq, sum_q2 = attempt(f32(1) / first)
    scale = np.where(sum_q2 > 0, sum_xq / sum_q2, f32(0))
    best = scale * sum_xq
    for step in range(-ntry, ntry + 1):
        sum_xq, sum_q2 = attempt((f32(step) + IQ4_VALUES[0]) / extreme)
        better = (sum_q2 > 0) & (sum_xq * sum_xq > best * sum_q2)
        scale = np.where(better, sum_xq / sum_q2, scale)
        best = np.where(better, scale * sum_xq, best)
    scales: F32 = np.where(amax < GROUP_MAX_EPS, f32(0), scale)
    return scales
