"""Softmax, GELU and norms sixteen numbers at a time: where `fast` would spend most of what products leave.

LLVM turns the loops of llvm/jit.py into vectors too, but half as wide, and not where a largest number is sought. The
formulas are llvm/jit.py's and exact/norms.py's. What is left of a row below sixteen numbers is done one by one, but by
softmax, which computes a whole vector and keeps its own numbers.
"""

from __future__ import annotations

import numpy as np

from refembed.kernels.llvm.jit import LN2_HIGH, LN2_LOW, LOG2_E, ROUND, njit
from refembed.kernels.llvm.jit import gelu as jit_gelu
from refembed.kernels.llvm.microkernel import FUSED
from refembed.kernels.llvm.simd import N, bits_of, broadcast, of_bits, put
from refembed.kernels.llvm.simd_float32 import first, fma, highest, larger, load, quotient, smaller, total

f32 = np.float32
LOWEST = f32(-np.inf)
SUMMED = 128  # terms of a sum whose lanes are added in float32, before the rest is done in double
ROOM = N  # numbers behind a row that may be read and written


@njit(inline="always")
def both(a, b, c):
    """a b + c, rounded once where that is one instruction."""
    if FUSED:
        return fma(a, b, c)
    return a * b + c


@njit(inline="always")
def power(y):
    """`jit.expf` of sixteen numbers from -87.3 to 88.37."""
    shifted = both(y, broadcast(LOG2_E), broadcast(ROUND))  # n stands in its last bits
    n = shifted - ROUND
    r = both(n, broadcast(-LN2_LOW), both(n, broadcast(-LN2_HIGH), y))
    p = both(broadcast(f32(1.9875691500e-4)), r, broadcast(f32(1.3981999507e-3)))
    p = both(p, r, broadcast(f32(8.3334519073e-3)))
    p = both(p, r, broadcast(f32(4.1665795894e-2)))
    p = both(p, r, broadcast(f32(1.6666665459e-1)))
    p = both(p, r, broadcast(f32(5.0000001201e-1)))
    e = both(p, r * r, r) + f32(1)
    return e * of_bits((bits_of(shifted) << 23) + 0x3F800000)


@njit(inline="always")
def expf(x):
    """`jit.expf` of sixteen numbers."""
    return power(smaller(larger(x, broadcast(f32(-87.3))), broadcast(f32(88.37))))


@njit(inline="always")
def high_of(x, at, n):
    """The largest of x[at : at + n]."""
    if n < N:
        return highest(first(load(x, at), n, broadcast(LOWEST)))
    high = load(x, at + n - N)  # some of these are seen twice
    for j in range(at, at + n - N, N):
        high = larger(high, load(x, j))
    return highest(high)


@njit()
def exponentials(x, at, n, scale):
    """exp(scale y - its largest) of y = x[at : at + n], in place, and 1 / their sum; x is flat, with ROOM behind it."""
    end, sum_, lowest, zero = at + n, 0.0, broadcast(f32(-87.3)), broadcast(f32(0))
    lowered = broadcast(-(high_of(x, at, n) * scale))
    for begin in range(at, end, SUMMED):
        part, some = zero, min(begin + SUMMED, end)
        full = some - (some - begin) % N
        for j in range(begin, full, N):
            e = power(larger(load(x, j) * scale + lowered, lowest))  # rounded twice, as llama.cpp does
            part = part + e
            put(x, j, e)
        if full < some:
            e = first(power(larger(load(x, full) * scale + lowered, lowest)), some - full, zero)
            part = part + e
            put(x, full, e)
        sum_ += total(part)
    return f32(1 / sum_)


@njit()
def softmax(x, at, n, scale):
    """exp(scale y) / sum(exp(scale y)) of y = x[at : at + n], in place; x is flat, with ROOM behind it."""
    share = exponentials(x, at, n, scale)
    for j in range(at, at + n, N):
        put(x, j, load(x, j) * share)


@njit()
def gelu(x, out, begin, end):
    """`jit.gelu`: the tanh form, y = x / (1 + e^-2u). x, out (T, F); rows begin:end, taken as one long row each."""
    F = x.shape[1]
    whole_vectors = F // N * N
    flat, to = x.reshape(-1), out.reshape(-1)
    for t in range(begin, end):
        for j in range(t * F, t * F + whole_vectors, N):
            a = load(flat, j)
            u = a * f32(-2 * 0.7978845608028654) * both(a * a, broadcast(f32(0.044715)), broadcast(f32(1)))
            put(to, j, quotient(a, expf(u) + f32(1)))
    if whole_vectors < F:
        jit_gelu(x[:, whole_vectors:], out[:, whole_vectors:], begin, end)


@njit()
def scale_of(x, at, C, mean, eps):
    """1 / sqrt(E[(y - mean)^2] + eps) of y = x[at : at + C]."""
    full, sum_, taken = at + C // N * N, 0.0, broadcast(mean)
    for begin in range(at, full, SUMMED):
        part = broadcast(f32(0))
        for j in range(begin, min(begin + SUMMED, full), N):
            d = load(x, j) - taken
            part = both(d, d, part)
        sum_ += total(part)
    for j in range(full, at + C):
        sum_ += np.float64(x[j] - mean) * np.float64(x[j] - mean)
    return f32(1 / np.sqrt(sum_ / C + eps))


@njit()
def layer_norm(x, plus, weight, bias, eps, out, begin, end):
    """Layer norm with its affine part, of rows begin:end of x + plus.

    x, out (T, C); plus like x, or (0, C) for nothing; weight (C); bias (C) or (0)
    """
    C, adds, biased = x.shape[1], len(plus) > 0, len(bias) > 0
    source, more, to = x.reshape(-1), plus.reshape(-1), out.reshape(-1)
    for t in range(begin, end):
        at, sum_ = t * C, 0.0
        full = at + C // N * N
        for first_ in range(at, full, SUMMED):
            part = broadcast(f32(0))
            for j in range(first_, min(first_ + SUMMED, full), N):
                a = load(source, j)
                if adds:
                    a = a + load(more, j)
                put(to, j, a)
                part = part + a
            sum_ += total(part)
        for j in range(full, at + C):
            to[j] = source[j] + more[j] if adds else source[j]
            sum_ += to[j]
        mean = f32(sum_ / C)
        scale, taken = scale_of(to, at, C, mean, eps), broadcast(mean)
        for c in range(0, full - at, N):
            y = (load(to, at + c) - taken) * scale * load(weight, c)
            put(to, at + c, y + load(bias, c) if biased else y)
        for c in range(full - at, C):
            to[at + c] = (to[at + c] - mean) * scale * weight[c]
            if biased:
                to[at + c] += bias[c]


@njit()
def rms_norm(x, weight, eps, out, begin, end):
    """RMS norm with its weight. x, out (N, C); weight (C), or (G C), of which rows take C in turn; rows begin:end."""
    C, turns = x.shape[1], len(weight) // x.shape[1]
    source, to = x.reshape(-1), out.reshape(-1)
    for t in range(begin, end):
        scale, own = scale_of(source, t * C, C, f32(0), eps), t % turns * C
        for c in range(0, C // N * N, N):
            put(to, t * C + c, load(source, t * C + c) * scale * load(weight, own + c))
        for c in range(C // N * N, C):
            to[t * C + c] = source[t * C + c] * scale * weight[own + c]
