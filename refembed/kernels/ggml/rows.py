"""Operations on one row at a time, each rounding where llama.cpp rounds: norms, softmax, activations.

Sources: ggml-cpu/ops.cpp (norm, rms_norm, soft_max), vec.cpp and vec.h (exp, GELU's table, SiLU). `lanes` is the width
of a register, 4, 8 or 16: it decides which partial sums there are, and how many elements at the end of a row are left
to libm's functions.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np

from refembed.arrays import F32
from refembed.kernels.llvm.jit import float_of_bits, njit
from refembed.kernels.llvm.simd_math import erff, expf, fma, half, hsum8, reduce16, tanhf

f32 = np.float32

SHIFT = f32(float.fromhex("0x1.8p23"))  # adding it rounds a float32 to an integer
LOG2_E, LN2_HIGH, LN2_LOW = (f32(float.fromhex(c)) for c in ("0x1.715476p+0", "0x1.62e4p-1", "0x1.7f7d1cp-20"))
C1, C2, C3 = (f32(float.fromhex(c)) for c in ("0x1.ffffecp-1", "0x1.fffdb6p-2", "0x1.555e66p-3"))
C4, C5 = (f32(float.fromhex(c)) for c in ("0x1.573e2ep-5", "0x1.0e4020p-7"))
TOP, BOTTOM = f32(float.fromhex("0x1p127")), f32(float.fromhex("0x1p-126"))


@njit(inline="always")
def power_of_two(n):
    """2^n in float32 for -126 <= n <= 127."""
    return float_of_bits((np.int32(n) + np.int32(127)) << np.int32(23))  # type: ignore[call-arg]  # by Numba


@njit(inline="always")
def scaled(p, n):
    """p 2^n in float32, rounded once, for any n: in two steps where 2^n itself is no normal float."""
    n = min(max(n, f32(-252)), f32(254))
    first = min(max(n, f32(-126)), f32(127))
    return (p * power_of_two(n - first)) * power_of_two(first)


@njit(inline="always")
def v_expf(x, lanes):
    """e^x as ggml_v_expf has it: x = n ln 2 + b (Cody & Waite 1980), e^b by a polynomial of degree 5.

    The two widths differ in how the polynomial's linear term is rounded.
    """
    n = fma(x, LOG2_E, SHIFT) - SHIFT
    b = fma(-n, LN2_LOW, fma(-n, LN2_HIGH, x))
    u = b * b
    high = fma(fma(C5, b, C4), u, fma(C3, b, C2))
    if lanes == 16:
        y = scaled(fma(high, u, fma(C1, b, f32(1))), n)
    else:
        p = fma(high, u, C1 * b)
        if abs(n) <= f32(126):
            k = power_of_two(n)
            y = fma(p, k, k)
        else:  # 2^n in two factors, so that a subnormal result is rounded at the end
            s = f32(-64) if n < f32(0) else f32(127)
            rest = power_of_two(min(max(n - s, f32(-126)), f32(127)))
            y = fma(rest, p, rest) * power_of_two(s)
    if abs(n) > f32(192):
        return f32(np.inf) if n > f32(0) else f32(0)
    return y


@njit(inline="always")
def register_sum(x, begin, lanes):
    """The sum of lanes begin:begin+lanes of x, across a register."""
    if lanes == 16:
        return reduce16(x[begin : begin + 16])
    if lanes == 4:
        return (x[begin] + x[begin + 1]) + (x[begin + 2] + x[begin + 3])
    return hsum8(x[begin : begin + 8])


@njit()
def layer_norm(x, eps, lanes, out, begin, end):
    """(x - mean) / sqrt(variance + eps), rows begin:end of x (T, C): the mean from a sum in double."""
    C = x.shape[1]
    whole = C // lanes * lanes
    squares = np.empty(C, np.float32)
    for t in range(begin, end):
        total = 0.0
        for c in range(C):
            total += np.float64(x[t, c])
        mean = f32(total) / f32(C)
        for c in range(C):
            centered = x[t, c] - mean
            out[t, c] = centered
            squares[c] = centered * centered
        total = 0.0
        for c in range(0, whole, lanes):
            total += np.float64(register_sum(squares, c, lanes))
        for c in range(whole, C):
            total += np.float64(squares[c])
        variance = f32(total / C)
        scale = f32(1) / f32(math.sqrt(variance + eps))
        for c in range(C):
            out[t, c] *= scale


@njit()
def rms_norm(x, eps, out, begin, end):
    """x / sqrt(mean(x^2) + eps), rows begin:end of x (T, C): the squares in float32, their sum in double."""
    C = x.shape[1]
    for t in range(begin, end):
        total = 0.0
        for c in range(C):
            total += np.float64(x[t, c] * x[t, c])
        mean = f32(total / C)
        scale = f32(1) / f32(math.sqrt(mean + eps))
        for c in range(C):
            out[t, c] = x[t, c] * scale


@njit()
def soft_max(x, scale, mask, slope, sink, lanes):
    """softmax(scale x + slope mask) of one row (n), in place; a mask of length 0 is none.

    sink  a score more, whose share is not wanted; -inf for none
    """
    n = len(x)
    if len(mask):
        for j in range(n):
            x[j] = fma(slope, mask[j], x[j] * scale)
    else:
        for j in range(n):
            x[j] = x[j] * scale
    high = f32(-np.inf)
    for j in range(n):
        high = max(high, x[j])
    high = max(high, sink)
    whole = n // lanes * lanes
    total = 0.0
    for j in range(whole):
        x[j] = v_expf(x[j] - high, lanes)
    for j in range(0, whole, lanes):
        total += np.float64(register_sum(x, j, lanes))
    for j in range(whole, n):
        x[j] = expf(x[j] - high)
        total += np.float64(x[j])
    if sink > f32(-np.inf):
        total += np.float64(expf(sink - high))
    share = f32(1.0 / total)
    for j in range(n):
        x[j] *= share


@njit()
def fill_gelu(out):
    """T[h] = f16(gelu(h)) for every float16 h, as ggml_cpu_init fills its table: tanh form, float32, one FMA."""
    for i in range(len(out)):
        x = out[i]
        inner = fma(f32(0.044715) * x, x, f32(1))
        argument = f32(0.79788456080286535587989211986876) * x * inner
        out[i] = half(f32(0.5) * x * (f32(1) + tanhf(argument)))


@njit()
def fill_gelu_quick(out):
    """T[h] = f16(h / (1 + e^(-1.702 h))) for every float16 h."""
    for i in range(len(out)):
        x = out[i]
        out[i] = half(x * (f32(1) / (f32(1) + expf(f32(-1.702) * x))))


@cache
def gelu_table() -> F32:
    """GELU of all 65,536 float16 numbers, by their bits."""
    table = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    fill_gelu(table)
    return table


@cache
def gelu_quick_table() -> F32:
    """Quick GELU of all 65,536 float16 numbers, by their bits."""
    table = np.arange(1 << 16, dtype=np.uint16).view(np.float16).astype(np.float32)
    fill_gelu_quick(table)
    return table


def gelu(x: F32) -> F32:
    """The tanh form of GELU through llama.cpp's table: x and result rounded to float16 between -10 and 10."""
    with np.errstate(over="ignore"):
        y = gelu_table()[x.astype(np.float16).view(np.uint16)]
    return np.where(x <= -10, f32(0), np.where(x >= 10, x, y))


def gelu_quick(x: F32) -> F32:
    """x sigmoid(1.702 x) through llama.cpp's table, everywhere."""
    with np.errstate(over="ignore"):
        return gelu_quick_table()[x.astype(np.float16).view(np.uint16)]


@njit()
def gelu_erf(x, out):
    """x/2 (1 + erf(x / sqrt 2)), flat."""
    for i in range(len(x)):
        out[i] = f32(0.5) * x[i] * (f32(1) + erff(x[i] * f32(0.70710678118654752440084436210484)))


@njit()
def swiglu_oai(gate, up, out):
    """min(g, 7) / (1 + e^(-1.702 min(g, 7))) times 1 + max(-7, min(u, 7)), flat."""
    for i in range(len(gate)):
        x, y = min(gate[i], f32(7)), max(f32(-7), min(up[i], f32(7)))
        out[i] = x / (f32(1) + expf(f32(1.702) * -x)) * (y + f32(1))


@njit()
def silu(x, lanes, out, begin, end):
    """x / (1 + e^-x), rows begin:end of x (T, F)."""
    F = x.shape[1]
    whole = F // lanes * lanes
    for t in range(begin, end):
        for j in range(whole):
            out[t, j] = x[t, j] / (f32(1) + v_expf(f32(0) - x[t, j], lanes))
        for j in range(whole, F):
            out[t, j] = x[t, j] / (f32(1) + expf(-x[t, j]))


@njit()
def tanh(x, out):
    """libm's tanhf, flat."""
    for i in range(len(x)):
        out[i] = tanhf(x[i])
