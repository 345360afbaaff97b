"""The Numba version of exact/attention.py: a block of queries against all keys they see, by tiles.

Keys and values of a head are packed first: keys so that a vector holds neighboring keys, values so that it holds
neighboring channels. Then, for some queries at a time, scores, shares and their mix of values; no more than
QUERIES x n scores exist at once. A row's arithmetic is its own: rows and lanes that a query does not see are computed
and thrown away, or weighed with 0.
"""

from __future__ import annotations

import numpy as np

from refembed.arrays import LINE
from refembed.kernels.fast.elementwise import ROOM, softmax
from refembed.kernels.llvm.gemm import LANES4, row_loop
from refembed.kernels.llvm.jit import njit, tanh
from refembed.kernels.llvm.microkernel import ROWS, VECTORS
from refembed.kernels.llvm.simd import N, put
from refembed.kernels.llvm.simd_float32 import load, transpose

f32 = np.float32
SUMMED = 128  # terms of a sum that are added one after the other
QUERIES = 6 * ROWS
P = VECTORS * LANES4


@njit(inline="always")
def reach(i, n, causal, window, kind):
    """The keys begin, end that query i of n sees; kind 0 standard, 1 chunked, 2 symmetric, as in `AttentionMask`."""
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
def adjust(p, at, n, i, begin, scale, soft_cap, slope, bias, sink):
    """Scores p[at : at + n] of query i and the keys from `begin` on as softmax takes them, in place; their scale.

    slope  ALiBi's, or 0
    bias   (n) added to the scores, or (0)
    sink   (1) a score behind them that takes a share, or (0)
    """
    x = p[at : at + n]
    if soft_cap > 0:
        for j in range(n):
            x[j] = x[j] * scale / soft_cap
        tanh(x)
        for j in range(n):
            x[j] *= soft_cap
        scale = f32(1)
    if len(bias) > 0:
        for j in range(n):
            x[j] = x[j] * scale + bias[j]
        scale = f32(1)
    if slope > 0:
        for j in range(n):
            x[j] = x[j] * scale - slope * f32(abs(i - begin - j))
        scale = f32(1)
    if len(sink) > 0:
        p[at + n] = sink[0] / scale
    return scale


@njit()
def shares(p, at, n, i, begin, scale, soft_cap, slope, bias, sink):
    """`adjust`, then softmax: what each key gets, in place."""
    softmax(p, at, n + len(sink), adjust(p, at, n, i, begin, scale, soft_cap, slope, bias, sink))


@njit(inline="always")
def aligned(size):
    """Numbers with anything in them that begin with a cache line."""
    raw = np.empty(size + LINE // 4, np.float32)
    start = -raw.ctypes.data % LINE // 4
    return raw[start : start + size]


@njit()
def pack_keys(k, begin, n, channel, panels):
    """Keys begin:begin+n of k (T, C), channels from `channel` on: panels (n/P, D, P), the rest zeros."""
    C, (D, P) = k.shape[1], panels.shape[1:]
    source, to = k.reshape(-1), panels.reshape(-1)
    for p in range(panels.shape[0]):
        m = min(P, n - p * P)
        if m < P:
            panels[p] = 0
        full, deep = m // N * N, D // N * N
        for j in range(0, full, N):
            for d in range(0, deep, N):
                transpose(source, (begin + p * P + j) * C + channel + d, C, to, (p * D + d) * P + j, P)
        for j in range(m):
            for d in range(deep if j < full else 0, D):
                panels[p, d, j] = k[begin + p * P + j, channel + d]


@njit()
def pack_values(v, begin, n, channel, D, panels):
    """Values begin:begin+n of v (T, C), D channels from `channel` on: panels (D/W, n, W), the rest zeros."""
    C, W = v.shape[1], panels.shape[2]
    source, to = v.reshape(-1), panels.reshape(-1)
    for p in range(panels.shape[0]):
        m = min(W, D - p * W)
        if m < W:
            panels[p] = 0
        full = m // N * N
        for j in range(n):
            for d in range(0, full, N):
                put(to, (p * n + j) * W + d, load(source, (begin + j) * C + channel + p * W + d))
            for d in range(full, m):
                panels[p, j, d] = v[begin + j, channel + p * W + d]


@njit()
def value_panels(D, n):
    """Room for the values of a head: as few panels as will do, of equal width."""
    count = (D + P - 1) // P
    width = (D + count * LANES4 - 1) // (count * LANES4) * LANES4
    return aligned(count * n * width).reshape(count, n, width)


@njit()
def scores(q, q_at, q_step, rows, keys, n, low, high, out, out_step):
    """q k^T: some rows of queries against keys low:high of n; out: rows so far apart, other columns may change."""
    D = keys.shape[1]
    for p in range(low // P, (high + P - 1) // P):
        for d in range(0, D, SUMMED):
            row_loop(
                q, q_at + d, q_step, rows, keys, (p * D + d) * P, P, min(SUMMED, D - d),
                out, p * P, out_step, min(P, n - p * P), d > 0, out, 0, False, out, 0,
            )  # fmt: skip


@njit()
def mix(p, p_step, rows, low, high, values, D, out, out_at, out_step):
    """p v: rows of shares of keys low:high; keys are added in blocks of SUMMED, counted from the text's start."""
    n, W, first = values.shape[1], values.shape[2], low // SUMMED * SUMMED
    for c in range(values.shape[0]):
        for j in range(first, high, SUMMED):
            begin, end = max(j, low), min(j + SUMMED, high)
            row_loop(
                p, begin, p_step, rows, values, (c * n + begin) * W, W, end - begin,
                out, out_at + c * W, out_step, min(W, D - c * W), j > first, p, 0, False, p, 0,
            )  # fmt: skip


@njit()
def attention(
    q, k, v, n_head, group, offsets, scale, causal, window, kind, soft_cap, slopes, bias, sinks, out, begin, end
):  # fmt: skip
    """Scaled dot-product attention: head h of sequence s, for s H + h in begin:end.

    q (T, H D), k (T, H/group D), v (T, H/group E), out (T, H E); slopes (H), 0 for none; bias (H, L, L), or (0, 0, 0);
    sinks (H), or (0)
    """
    none, C, width = np.empty(0, np.float32), q.shape[1], out.shape[1]
    D, E = C // n_head, width // n_head
    for unit in range(begin, end):
        s, h = unit // n_head, unit % n_head
        first, n, theirs = offsets[s], offsets[s + 1] - offsets[s], h // group
        plain = soft_cap == 0 and slopes[h] == 0 and len(bias) == 0 and len(sinks) == 0
        count = (n + P - 1) // P
        keys, values = aligned(count * D * P).reshape(count, D, P), value_panels(E, n)
        pack_keys(k, first, n, theirs * D, keys)
        pack_values(v, first, n, theirs * E, E, values)
        step = n + ROOM
        p = aligned(min(QUERIES, n) * step)
        for t in range(0, n, QUERIES):
            rows = min(QUERIES, n - t)
            low, high = reach(t, n, causal, window, kind)[0], reach(t + rows - 1, n, causal, window, kind)[1]
            scores(q, (first + t) * C + h * D, C, rows, keys, n, low, high, p, step)
            for i in range(rows):
                a, b = reach(t + i, n, causal, window, kind)
                if plain:
                    softmax(p, i * step + a, b - a, scale)
                else:
                    more = bias[h, t + i, a:b] if len(bias) > 0 else none
                    shares(p, i * step + a, b - a, t + i, a, scale, soft_cap, slopes[h], more, sinks[h : h + 1])
                if b - a < high - low:
                    p[i * step + low : i * step + a] = f32(0)
                    p[i * step + b : i * step + high] = f32(0)
            mix(p, step, rows, low, high, values, E, out, (first + t) * width + h * E, width)


@njit()
def scores_of(q, keys, out):
    """`scores` of every query with every key: q, keys (n, D), out (n, n). For traces: `attention` keeps no scores."""
    n, D = q.shape
    panels = np.empty(((n + P - 1) // P, D, P), np.float32)
    pack_keys(keys, 0, n, 0, panels)
    scores(q, 0, D, n, panels, n, 0, n, out, n)


@njit()
def shares_of(x, scale, causal, window, kind, soft_cap, slope, sink):
    """`shares` for every row of x (n, n), in place; 0 for keys that a query does not see.

    returns  (n) what the rows of `mix_of` are still to be multiplied by: 1
    """
    n, none = x.shape[1], np.empty(0, np.float32)
    row = np.empty(n + ROOM, np.float32)
    for i in range(len(x)):
        low, high = reach(i, n, causal, window, kind)
        row[: high - low] = x[i, low:high]
        shares(row, 0, high - low, i, low, scale, soft_cap, slope, none, sink)
        x[i] = f32(0)
        x[i, low:high] = row[: high - low]
    return np.ones(n, np.float32)


@njit()
def mix_of(p, v, out):
    """`mix` for every row: p (n, n), v, out (n, E)."""
    n, E = v.shape
    panels = value_panels(E, n)
    pack_values(v, 0, n, 0, E, panels)
    mix(p, n, n, 0, n, panels, E, out, 0, E)
