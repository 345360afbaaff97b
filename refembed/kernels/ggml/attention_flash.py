"""Flash attention to the last bit of ggml_flash_attn_ext on a CPU (ggml-cpu/ops.cpp, simd-gemm.h), float16 K and V.

One walk over the keys keeps a running maximum M, sum S and mixture A (Milakov & Gimelshein 2018; Dao et al. 2022):

    s_j = c tanh(scale q k_j / c) + slope mask_j
    M'  = max(M, s_j)
    S'  = e^(M - M') S + e^(s_j - M')
    A'  = e^(M - M') A + e^(s_j - M') v_j               the result is A / S

    fewer than 64 queries   key by key; q, and A after each of its two steps, rounded to float16
    64 and more             64 keys at a time; all in float32 but K and V

The third way of ggml, one query and 512 keys or more, needs a cache that was filled before: only the last token of a
text that is cut into micro-batches (longer than n_ubatch) comes to it, and refembed cuts no text. (With one thread it
has the bits of the first; more threads split the keys and merge what each has found.)
"""

from __future__ import annotations

import numpy as np

from refembed.arrays import F32
from refembed.kernels.ggml.attention_scores import Scoring
from refembed.kernels.ggml.floats import chain, multiply, pack, rounded, vec_dot
from refembed.kernels.ggml.profile import Profile
from refembed.kernels.ggml.rows import register_sum, v_expf
from refembed.kernels.llvm.jit import njit
from refembed.kernels.llvm.simd_math import expf, fma, half, tanhf
from refembed.kernels.threads import parallel_for

f32 = np.float32
TILE = 64  # ggml_fa_tile_config: queries, and keys, of a tile
QUERIES_TOGETHER = 4  # queries that go through a product together


def flash(q: F32, k: F32, v: F32, scoring: Scoring, profile: Profile) -> F32:
    """q (H, T, D), k (K, N, D), v (K, N, E) of float16 values -> (T, H E)."""
    (H, T, _), E = q.shape, v.shape[2]
    scale = scoring.scale / scoring.soft_cap if scoring.soft_cap else scoring.scale
    many = TILE <= T and (profile.fa_tail or E % profile.lanes == 0)
    return (tiles if many else keys)(q, k, v, scale, scoring, profile).reshape(T, H * E)


def keys(q: F32, k: F32, v: F32, scale: np.float32, scoring: Scoring, profile: Profile) -> F32:
    """The way of few queries: (T, H, E)."""
    (H, T, D), (K, N, _) = q.shape, k.shape
    order = vec_dot(D, profile.lanes, 0, True)  # vec_dot_f16
    kq = np.empty((H, T, N), np.float32)
    for g in range(K):
        packed = pack(k[g], order)
        for h in range(g * H // K, (g + 1) * H // K):
            kq[h] = multiply(rounded(q[h], "F16"), packed, order, N)
    out = np.empty((T, H, v.shape[2]), np.float32)
    args = (kq, v, scoring.mask, scoring.slopes, scoring.sink_of, scale, scoring.soft_cap, profile.fa_sum_fma, out)
    parallel_for(key_by_key, *args, rows=H, size=H * T * N * D)
    return out


@njit()
def with_sink(sink, M):
    """What a score without a value does at the end: the factors of A and S, and what S grows by; 1 and 0 for -inf."""
    if sink == f32(-np.inf):
        return f32(1), f32(0)
    if sink > M:
        return expf(M - sink), f32(1)
    return f32(1), expf(sink - M)


@njit()
def key_by_key(kq, v, mask, slopes, sinks, scale, soft_cap, sum_fma, out, begin, end):
    """Heads begin:end of out (T, H, E) from products kq (H, T, N) and values v (K, N, E)."""
    H, T, N = kq.shape
    K, _, E = v.shape
    A = np.empty(E, np.float32)
    for h in range(begin, end):
        values = v[h * K // H]
        for t in range(T):
            A[:] = f32(0)
            M, S = f32(-np.inf), f32(0)
            for j in range(N):
                bias = slopes[h] * mask[t, j]
                if bias == f32(-np.inf):
                    continue  # as if the key were not there
                s = kq[h, t, j] * scale
                if soft_cap != f32(0):
                    s = soft_cap * tanhf(s)
                s = s + bias
                shrink, weight = f32(1), f32(1)
                if s > M:
                    shrink = expf(M - s)
                    M = s
                    for d in range(E):
                        A[d] = half(A[d] * shrink)
                else:
                    weight = expf(s - M)
                for d in range(E):
                    A[d] = half(fma(values[j, d], weight, A[d]))
                S = fma(S, shrink, weight) if sum_fma else S * shrink + weight
            shrink, weight = with_sink(sinks[h], M)
            for d in range(E):
                A[d] *= shrink
            S = S * shrink + weight  # two roundings in every build: compilers add up behind the branches of the sink
            inverse = f32(1) / S if S else f32(0)
            for d in range(E):
                out[t, h, d] = A[d] * inverse


def tiles(q: F32, k: F32, v: F32, scale: np.float32, scoring: Scoring, profile: Profile) -> F32:
    """The way of many queries: (T, H, E)."""
    (H, T, D), (K, N, E) = q.shape, v.shape
    rows, tiled = -(-T // QUERIES_TOGETHER) * QUERIES_TOGETHER, -(-N // TILE)  # both filled up, keys with masked ones
    queries = np.zeros((H, rows, D), np.float32)
    queries[:, :T] = q
    kt = np.zeros((K, tiled, D, TILE), np.float32)  # a tile's keys side by side
    vt = np.zeros((K, tiled, TILE, E), np.float32)
    for x, y in ((kt.transpose(0, 1, 3, 2), k), (vt, v)):
        for c in range(0, N, TILE):
            x[:, c // TILE, : min(TILE, N - c)] = y[:, c : c + TILE]
    mask = np.full((rows, tiled * TILE), -np.inf, np.float32)
    mask[:T, :N] = scoring.mask
    out = np.empty((rows, H, E), np.float32)
    args = (queries, kt, vt, mask, scoring.slopes, scoring.sink_of, scale, scoring.soft_cap, profile.lanes, out)
    parallel_for(tile_by_tile, *args, rows=H, size=H * T * N * D)
    return out[:T]


@njit()
def tile_by_tile(q, k, v, mask, slopes, sinks, scale, soft_cap, lanes, out, begin, end):
    """Heads begin:end of out (T, H, E). q (H, T, D), T a multiple of ROWS; k (K, C, D, TILE), v (K, C, TILE, E)."""
    H, T, _ = q.shape
    K, C, _, E = v.shape
    A = np.empty((TILE, E), np.float32)
    M, S = np.empty(TILE, np.float32), np.empty(TILE, np.float32)
    kq = np.empty((QUERIES_TOGETHER, TILE), np.float32)
    for h in range(begin, end):
        g = h * K // H
        for first in range(0, T, TILE):
            n = min(TILE, T - first)
            A[:], M[:], S[:] = f32(0), f32(-np.inf), f32(0)
            for c in range(C):
                bias = mask[first : first + n, c * TILE : (c + 1) * TILE]
                if all_masked(bias):
                    continue
                for t in range(0, n, QUERIES_TOGETHER):
                    kq[:] = f32(0)
                    chain(q[h, first + t : first + t + QUERIES_TOGETHER], k[g, c], kq)
                    for r in range(QUERIES_TOGETHER):
                        absorb(kq[r], bias[t + r], slopes[h], scale, soft_cap, lanes, M, S, A, t + r)
                    chain(kq, v[g, c], A[t : t + QUERIES_TOGETHER])
            for t in range(n):
                shrink, weight = with_sink(sinks[h], M[t])
                for d in range(E):
                    A[t, d] *= shrink
                S[t] = fma(S[t], shrink, weight)
                inverse = f32(1) / S[t] if S[t] else f32(0)
                for d in range(E):
                    out[first + t, h, d] = A[t, d] * inverse


@njit()
def all_masked(bias):
    """No query of the tile sees any of these keys."""
    for row in bias:
        for b in row:
            if b != f32(-np.inf):
                return False
    return True


@njit()
def absorb(kq, bias, slope, scale, soft_cap, lanes, M, S, A, t):
    """Turn a row of products (TILE) into weights, in place; bring M[t], S[t] and A[t] up to date."""
    high = f32(-np.inf)
    for j in range(TILE):
        s = kq[j] * scale
        if soft_cap != f32(0):
            s = tanhf(s) * soft_cap
        kq[j] = s + slope * bias[j]
        high = max(high, kq[j])
    if high == f32(-np.inf):
        kq[:] = f32(0)
        return
    high = max(M[t], high)
    if high > M[t]:
        shrink = expf(M[t] - high)
        S[t] *= shrink
        for d in range(A.shape[1]):
            A[t, d] *= shrink
    M[t] = high
    for j in range(TILE):
        kq[j] = v_expf(kq[j] - high, lanes)
    total = 0.0
    for j in range(0, TILE, lanes):
        total += np.float64(register_sum(kq, j, lanes))
    S[t] = f32(np.float64(S[t]) + total)
