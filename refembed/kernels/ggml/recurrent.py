"""Layers that keep a state, to the last bit of ggml-cpu/ops.cpp: gated_delta_net, ssm_scan, rwkv_wkv7.

The Numba versions of `refembed.kernels.exact.recurrent`. A head is a loop over its tokens, and no head reads another's,
so cores share heads. `lanes` is the width of a register, 8 or 16: dot products keep four of them (`floats.vec_dot`).
What is fused is the source's where it says so, else GCC's: of a sum of two products the first.
"""

from __future__ import annotations

import numpy as np

from refembed.kernels.llvm.jit import njit
from refembed.kernels.llvm.simd_math import expf, fma, logf, reduce16

f32 = np.float32


@njit(inline="always")
def softplus(x):
    """ln(1 + e^x) by libm; x itself above 20."""
    return x if x > f32(20) else logf(f32(1) + expf(x))


@njit(inline="always")
def registers_sum(acc, lanes):
    """The sum of four registers, acc (4 lanes), as GGML_F32_VEC_REDUCE takes it; acc is overwritten."""
    for i in range(2 * lanes):
        acc[i] += acc[2 * lanes + i]
    for i in range(lanes):
        acc[i] += acc[lanes + i]
    if lanes == 16:
        return reduce16(acc)
    return ((acc[4] + acc[0]) + (acc[5] + acc[1])) + ((acc[6] + acc[2]) + (acc[7] + acc[3]))


@njit(inline="always")
def dot(x, y, acc, lanes, tail):
    """ggml_vec_dot_f32 of two rows; acc (4 lanes) is overwritten."""
    n, step = len(x), 4 * lanes
    acc[:] = f32(0)
    whole = n // step * step
    for begin in range(0, whole, step):
        for i in range(step):
            acc[i] = fma(x[begin + i], y[begin + i], acc[i])
    total = registers_sum(acc, lanes)
    grouped = whole + (n - whole) // tail * tail
    for i in range(whole, grouped):
        total = total + x[i] * y[i]
    for i in range(grouped, n):
        total = fma(x[i], y[i], total)
    return total


@njit()
def sigmoid(x, out):
    """1 / (1 + e^-x), flat."""
    for i in range(len(x)):
        out[i] = f32(1) / (f32(1) + expf(-x[i]))


@njit()
def exp(x, out):
    """e^x, flat."""
    for i in range(len(x)):
        out[i] = expf(x[i])


@njit()
def softplus_of(x, out):
    """`softplus`, flat."""
    for i in range(len(x)):
        out[i] = softplus(x[i])


@njit()
def gated_delta_rule(q, k, v, g, beta, lanes, tail, out, begin, end):
    """Heads begin:end of one text. q, k (T, K, D); v, out (T, H, D); g, beta (T, H)."""
    T, _, D = v.shape
    scale = f32(1) / np.sqrt(f32(D))
    S, delta, acc = np.empty((D, D), np.float32), np.empty(D, np.float32), np.empty(4 * lanes, np.float32)
    for h in range(begin, end):
        S[:] = f32(0)
        own = h % k.shape[1]
        for t in range(T):
            key, query, decay = k[t, own], q[t, own], expf(g[t, h])
            for j in range(D):
                for i in range(D):
                    S[j, i] *= decay
            for j in range(D):
                delta[j] = (v[t, h, j] - dot(S[j], key, acc, lanes, tail)) * beta[t, h]
            for j in range(D):
                for i in range(D):
                    S[j, i] = fma(key[i], delta[j], S[j, i])
            for j in range(D):
                out[t, h, j] = dot(S[j], query, acc, lanes, tail) * scale


@njit()
def scan_of_heads(x, dt, a, b, c, lanes, states, out, begin, end):
    """Heads begin:end of one text, one decay a head (Mamba 2). x, out (T, H, P); dt (T, H); a (H, 1); b, c (T, G, N).

    states  (H, P, N)  zeros at first, then those behind the last token
    """
    T, H, P = x.shape
    N, group, step = b.shape[2], H // b.shape[1], 4 * lanes
    acc, whole = np.empty(step, np.float32), N // step * step
    for h in range(begin, end):
        for t in range(T):
            s = softplus(dt[t, h])
            decay, B, C = expf(s * a[h, 0]), b[t, h // group], c[t, h // group]
            for p in range(P):
                S, u = states[h, p], x[t, h, p] * s
                acc[:] = f32(0)
                for first in range(0, whole, step):
                    for i in range(step):
                        S[first + i] = fma(S[first + i], decay, B[first + i] * u)
                        acc[i] = fma(S[first + i], C[first + i], acc[i])
                y = registers_sum(acc, lanes)
                for n in range(whole, N):
                    S[n] = fma(S[n], decay, B[n] * u)
                    y = fma(S[n], C[n], y)
                out[t, h, p] = y


@njit()
def scan_of_states(x, dt, a, b, c, states, out, begin, end):
    """Heads begin:end of one text, a decay of its own for each state (Mamba 1). As `scan_of_heads`, but a (H, N)."""
    T, H, P = x.shape
    N, group = b.shape[2], H // b.shape[1]
    for h in range(begin, end):
        for t in range(T):
            s, B, C = softplus(dt[t, h]), b[t, h // group], c[t, h // group]
            for p in range(P):
                S, u, y = states[h, p], x[t, h, p] * s, f32(0)
                for n in range(N):
                    S[n] = fma(S[n], expf(s * a[h, n]), B[n] * u)
                    y = fma(S[n], C[n], y)
                out[t, h, p] = y


@njit()
def wkv7(r, w, k, v, a, b, lanes, states, out, begin, end):
    """Heads begin:end of one text; all (T, H, D), D a multiple of four registers. states (H, D, D), zeros at first."""
    T, _, D = v.shape
    step = 4 * lanes
    acc = np.empty(step, np.float32)
    for h in range(begin, end):
        for t in range(T):
            for j in range(D):
                S = states[h, j]
                acc[:] = f32(0)
                for first in range(0, D, step):
                    for i in range(step):
                        acc[i] = fma(a[t, h, first + i], S[first + i], acc[i])
                held = registers_sum(acc, lanes)
                acc[:] = f32(0)
                for first in range(0, D, step):
                    for i in range(step):
                        n = first + i
                        S[n] = fma(held, b[t, h, n], fma(S[n], w[t, h, n], v[t, h, j] * k[t, h, n]))
                        acc[i] = fma(S[n], r[t, h, n], acc[i])
                out[t, h, j] = registers_sum(acc, lanes)
