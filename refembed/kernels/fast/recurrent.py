"""Numba versions of exact/recurrent.py and of the short convolution: float32, compiled, linear in the length of a text.

A state is a matrix, and its rows do not meet: a row's next value depends on the row and on what the token brings. So a
few dozen tokens (CHUNK) are taken at a time, and through them one row after the other, which stays in the cache. Rows
are padded with zeros to whole vectors of sixteen. An item that cores share is a head of a text; no bits depend on them.
"""

from __future__ import annotations

import numpy as np

from refembed.kernels.fast.elementwise import both
from refembed.kernels.fast.elementwise import expf as vector_expf
from refembed.kernels.llvm.jit import expf, njit
from refembed.kernels.llvm.simd import N as LANES
from refembed.kernels.llvm.simd import broadcast, put
from refembed.kernels.llvm.simd_float32 import larger, load, quotient, smaller, total

f32 = np.float32
CHUNK = 64  # tokens


@njit(inline="always")
def softplus(x):
    """ln(1 + e^x)."""
    return max(x, f32(0)) + f32(np.log1p(np.exp(-abs(np.float64(x)))))


@njit(inline="always")
def vector_softplus(x):
    """`softplus` of sixteen numbers: ln(1 + y) = 2 atanh(s), s = y / (2 + y), as a series in s^2, for y = e^-|x|.

    s is 1/3 at most, so the terms left out are below 1e-8 of the sum.
    """
    zero = broadcast(f32(0))
    high = larger(x, zero)
    y = vector_expf(smaller(x, zero) - high)
    s = quotient(y, y + f32(2))
    z, p = s * s, broadcast(f32(1 / 15))
    p = both(p, z, broadcast(f32(1 / 13)))
    p = both(p, z, broadcast(f32(1 / 11)))
    p = both(p, z, broadcast(f32(1 / 9)))
    p = both(p, z, broadcast(f32(1 / 7)))
    p = both(p, z, broadcast(f32(1 / 5)))
    p = both(p, z, broadcast(f32(1 / 3)))
    p = both(p, z, broadcast(f32(1)))
    return both(s * f32(2), p, high)


@njit()
def log_decay(x, bias, a, out, begin, end):
    """a softplus(x + bias). x, out (T, H); bias, a (H); rows begin:end."""
    for t in range(begin, end):
        for h in range(x.shape[1]):
            out[t, h] = a[h] * softplus(x[t, h] + bias[h])


@njit()
def add_scaled(y, x, d, out, begin, end):
    """y + d x. y, x, out (T, C); d (C); rows begin:end."""
    for t in range(begin, end):
        for c in range(x.shape[1]):
            out[t, c] = y[t, c] + d[c] * x[t, c]


@njit()
def short_conv(x, w, bias, ahead, offsets, out, begin, end):
    """exact/conv.py's, plus a bias. x, out (T, C); w (1, n, C), a row a tap; bias (C) or (0); rows begin:end."""
    n, C = w.shape[1], x.shape[1]
    for s in range(len(offsets) - 1):
        first, last = offsets[s], offsets[s + 1]
        for t in range(max(begin, first), min(end, last)):
            if len(bias):
                for c in range(C):
                    out[t, c] = bias[c]
            else:
                for c in range(C):
                    out[t, c] = f32(0)
            for i in range(n):
                at = t - n + 1 + ahead + i
                if first <= at < last:
                    for c in range(C):
                        out[t, c] += x[at, c] * w[0, i, c]


@njit(inline="always")
def take(x, first, last, column, n, into):
    """x[first:last, column : column + n] into the rows of `into` (CHUNK, n padded)."""
    for t in range(first, last):
        for i in range(n):
            into[t - first, i] = x[t, column + i]


@njit(inline="always")
def scalar_product(x, x_at, y, y_at, n):
    """The sum of x[x_at + i] y[y_at + i], i below n, whole vectors."""
    part = broadcast(f32(0))
    for i in range(0, n, LANES):
        part = both(load(x, x_at + i), load(y, y_at + i), part)
    return f32(total(part))


@njit()
def gated_delta_rule(q, k, v, g, beta, n_key, offsets, out, begin, end):
    """Heads begin:end of all texts', H a text. q, k (T, K D); v, out (T, H D); g, beta (T, H); n_key: K."""
    H = g.shape[1]
    D = v.shape[1] // H
    wide, scale = -(-D // LANES) * LANES, f32(1 / np.sqrt(D))
    S, keys, queries = np.empty(D * wide, np.float32), np.zeros((CHUNK, wide), f32), np.zeros((CHUNK, wide), f32)
    flat_keys, flat_queries = keys.reshape(-1), queries.reshape(-1)
    for item in range(begin, end):
        s, h = item // H, item % H
        own = h % n_key * D
        S[:] = f32(0)
        for first in range(offsets[s], offsets[s + 1], CHUNK):
            last = min(first + CHUNK, offsets[s + 1])
            take(k, first, last, own, D, keys)
            take(q, first, last, own, D, queries)
            for j in range(D):
                row = j * wide
                for t in range(first, last):
                    at, decay = (t - first) * wide, expf(g[t, h])
                    held = scalar_product(S, row, flat_keys, at, wide)
                    delta = (v[t, h * D + j] - decay * held) * beta[t, h]
                    part, faded, new = broadcast(f32(0)), broadcast(decay), broadcast(delta)
                    for i in range(0, wide, LANES):
                        x = both(load(flat_keys, at + i), new, load(S, row + i) * faded)
                        put(S, row + i, x)
                        part = both(x, load(flat_queries, at + i), part)
                    out[t, h * D + j] = f32(total(part)) * scale


@njit()
def scan_of_heads(x, dt, a, b, c, n_group, offsets, states, out, begin, end):
    """Heads begin:end of all texts', H a text, one decay a head (Mamba 2).

    x, out (T, H P); dt (T, H); a (H); b, c (T, G N); n_group: G; states (S H, P N), filled
    """
    H, N = dt.shape[1], b.shape[1] // n_group
    P, wide = x.shape[1] // H, -(-N // LANES) * LANES
    S, keys, queries = np.empty(P * wide, np.float32), np.zeros((CHUNK, wide), f32), np.zeros((CHUNK, wide), f32)
    flat_keys, flat_queries = keys.reshape(-1), queries.reshape(-1)
    steps, decays = np.zeros(CHUNK, np.float32), np.empty(CHUNK, np.float32)
    for item in range(begin, end):
        s, h = item // H, item % H
        own = h // (H // n_group) * N
        S[:] = f32(0)
        for first in range(offsets[s], offsets[s + 1], CHUNK):
            last = min(first + CHUNK, offsets[s + 1])
            take(b, first, last, own, N, keys)
            take(c, first, last, own, N, queries)
            for t in range(first, last):
                steps[t - first] = dt[t, h]
            for i in range(0, CHUNK, LANES):
                step = vector_softplus(load(steps, i))
                put(steps, i, step)
                put(decays, i, vector_expf(step * a[h]))
            for p in range(P):
                row = p * wide
                for t in range(first, last):
                    at, faded = (t - first) * wide, broadcast(decays[t - first])
                    part, new = broadcast(f32(0)), broadcast(x[t, h * P + p] * steps[t - first])
                    for i in range(0, wide, LANES):
                        y = both(load(flat_keys, at + i), new, load(S, row + i) * faded)
                        put(S, row + i, y)
                        part = both(y, load(flat_queries, at + i), part)
                    out[t, h * P + p] = f32(total(part))
        for p in range(P):
            for n in range(N):
                states[item, p * N + n] = S[p * wide + n]


@njit()
def scan_of_states(x, dt, a, b, c, n_group, offsets, states, out, begin, end):
    """Heads begin:end of all texts', H a text, each of one channel, a decay of its own for each state (Mamba 1).

    As `scan_of_heads`, but a (1, H, N) and P = 1. Neighboring heads of a text take a token together: it is the heads
    that are many here, and their states that are small.
    """
    H, N = dt.shape[1], b.shape[1] // n_group
    wide = -(-N // LANES) * LANES
    rates, S = np.zeros(H * wide, np.float32), np.empty(H * wide, np.float32)
    keys, queries = np.zeros(wide * n_group, np.float32), np.zeros(wide * n_group, np.float32)
    steps = np.zeros(-(-H // LANES) * LANES, np.float32)
    for h in range(H):
        for n in range(N):
            rates[h * wide + n] = a[0, h, n]
    for s in range(begin // H, -(-end // H)):
        low, high = max(begin - s * H, 0), min(end - s * H, H)
        S[:] = f32(0)
        for t in range(offsets[s], offsets[s + 1]):
            for group in range(n_group):
                for n in range(N):
                    keys[group * wide + n] = b[t, group * N + n]
                    queries[group * wide + n] = c[t, group * N + n]
            for h in range(low, high):
                steps[h] = dt[t, h]
            for i in range(low // LANES * LANES, high, LANES):
                put(steps, i, vector_softplus(load(steps, i)))
            for h in range(low, high):
                at, row, step = h // (H // n_group) * wide, h * wide, steps[h]
                part, new, taken = broadcast(f32(0)), broadcast(x[t, h] * step), broadcast(step)
                for i in range(0, wide, LANES):
                    decay = vector_expf(load(rates, row + i) * taken)
                    y = both(load(keys, at + i), new, load(S, row + i) * decay)
                    put(S, row + i, y)
                    part = both(y, load(queries, at + i), part)
                out[t, h] = f32(total(part))
        for h in range(low, high):
            for n in range(N):
                states[s * H + h, n] = S[h * wide + n]


@njit()
def wkv7(r, w, k, v, a, b, n_head, offsets, states, out, begin, end):
    """Heads begin:end of all texts', H a text. r w k v a b, out (T, H D); n_head: H; states (S H, D D), filled."""
    H, D = n_head, v.shape[1] // n_head
    wide = -(-D // LANES) * LANES
    S, one_chunk = np.empty(D * wide, np.float32), CHUNK * wide
    brought = np.zeros((5, CHUNK, wide), f32)
    flat = brought.reshape(-1)
    for item in range(begin, end):
        s, h = item // H, item % H
        S[:] = f32(0)
        for first in range(offsets[s], offsets[s + 1], CHUNK):
            last = min(first + CHUNK, offsets[s + 1])
            take(r, first, last, h * D, D, brought[0])
            take(w, first, last, h * D, D, brought[1])
            take(k, first, last, h * D, D, brought[2])
            take(a, first, last, h * D, D, brought[3])
            take(b, first, last, h * D, D, brought[4])
            for j in range(D):
                row = j * wide
                for t in range(first, last):
                    at = (t - first) * wide
                    held = broadcast(scalar_product(S, row, flat, at + 3 * one_chunk, wide))
                    part, value = broadcast(f32(0)), broadcast(v[t, h * D + j])
                    for i in range(0, wide, LANES):
                        kv = load(flat, at + 2 * one_chunk + i) * value
                        x = both(load(S, row + i), load(flat, at + one_chunk + i), kv)
                        x = both(load(flat, at + 4 * one_chunk + i), held, x)
                        put(S, row + i, x)
                        part = both(x, load(flat, at + i), part)
                    out[t, h * D + j] = f32(total(part))
        for j in range(D):
            for i in range(D):
                states[item, j * D + i] = S[j * wide + i]
