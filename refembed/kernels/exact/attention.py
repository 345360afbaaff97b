"""Scaled dot-product attention over packed sequences: the definition.

    kq          = q kᵀ                        (H, T_s, T_s)   one sequence at a time: no padding, no mask over the batch
    kq_soft_max = softmax(scale kq + bias)    (H, T_s, T_s)   bias is -inf where the mask hides a key
    kqv         = kq_soft_max v               (H, T_s, D)     Vaswani et al. 2017, section 3.2

Queries of sequence s see the keys of sequence s and no others, so a text's attention cannot depend on its neighbors.
With fewer heads of keys than of queries (Ainslie et al. 2023), query head h uses key head h K // H.
Of a text of thousands of tokens, only some queries' scores are in memory at a time.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np

from refembed.arrays import F64, I64, Float
from refembed.kernels.ops import BIDIRECTIONAL, NO_TAP, AttentionMask, Tap

SCORES = 1 << 22  # numbers, 32 MB in float64: a long text's queries are taken some at a time


def softmax(x: Float) -> Float:
    """exp(x) / sum(exp(x)) over the last axis; the largest x is taken off first, so exp cannot overflow.

    >>> softmax(np.log([[1.0, 2.0, 3.0]])).round(6)  # 1/6, 2/6, 3/6
    array([[0.166667, 0.333333, 0.5     ]])
    """
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def heads(x: Float, n_head: int) -> Float:
    """(T, H D) -> (H, T, D)."""
    return x.reshape(len(x), n_head, -1).transpose(1, 0, 2)


def attention(
    q: Float,
    k: Float,
    v: Float,
    n_head: int,
    offsets: I64,
    scale: float,
    tap: Tap = NO_TAP,
    *,
    n_head_kv: int | None = None,
    mask: AttentionMask = BIDIRECTIONAL,
    soft_cap: float = 0.0,
    cached: bool = False,
    bias: Float | None = None,
) -> Float:
    """Let every token look at those tokens of its own sequence that the mask leaves.

    q         (T, H D)   T tokens of all sequences, end to end
    k, v      (T, K D)   n_head_kv = K; None: H
    offsets   (S+1)      sequence s is rows offsets[s]:offsets[s+1]
    scale                1/sqrt(D), or 1 where q is scaled already
    soft_cap             scores s become c tanh(s / c) (Gemma 2); 0 for none
    cached               llama.cpp keeps v transposed in its cache and does not show it
    bias      (H, L, L)  added to the scores, from the first L' rows and columns for a text of L' tokens (T5)
    tap                  is given kq, kq_soft_max, v_cont and kqv of each sequence
    returns   (T, H D)

    Two tokens, one head of one channel. Query 0 scores the keys 0 and ln 3, so its weights are 1/4 and 3/4, and 4 and 8
    average to 7; query 1 scores both 0 and takes the mean. With a causal mask query 0 sees itself alone:

    >>> q, k, v = np.array([[1.0], [0.0]]), np.array([[0.0], [np.log(3)]]), np.array([[4.0], [8.0]])
    >>> attention(q, k, v, 1, np.array([0, 2]), scale=1.0).round(6)
    array([[7.],
           [6.]])
    >>> attention(q, k, v, 1, np.array([0, 2]), scale=1.0, mask=AttentionMask(causal=True)).round(6)
    array([[4.],
           [6.]])
    """
    out = np.empty_like(q)
    group = n_head // (n_head_kv or n_head)  # query heads that share a head of keys
    for begin, end in itertools.pairwise(offsets):
        qh, kh, vh = (heads(x[begin:end], h) for x, h in ((q, n_head), (k, n_head // group), (v, n_head // group)))
        vt = vh.transpose(0, 2, 1)  # (K, D, T_s)
        vt = vt if cached else tap("v_cont", vt)  # llama.cpp stores v transposed for the second product
        keys, values = shared(kh, group).transpose(0, 2, 1), shared(vt, group).transpose(0, 2, 1)
        parts, result = queries_at_once(n_head, int(end - begin)), heads(out[begin:end], n_head)  # a view of out
        for some in [parts] if tap.active else [[part] for part in parts]:
            y = of_some(qh, keys, values, some, scale, mask, soft_cap, bias, tap)
            result[:, some[0].start : some[-1].stop] = y
    return out


def queries_at_once(n_head: int, n: int) -> list[slice]:
    """A text's queries in parts whose scores, H numbers for each of n keys, fit into SCORES."""
    step = max(SCORES // (n_head * n), 1)
    return [slice(i, min(i + step, n)) for i in range(0, n, step)]


def of_some(
    q: Float, keys: Float, values: Float, parts: list[slice], scale: float, mask: AttentionMask, soft_cap: float,
    bias: Float | None, tap: Tap,
) -> Float:  # fmt: skip
    """Attention of the queries in these parts: q (H, T_s, D), keys (H, D, T_s), values (H, T_s, D) -> (H, parts, D).

    Step by step over all parts where a tap is attached, part by part where none is: each step computes each part by
    itself, so the bits are the same.
    """
    H, n, _ = q.shape

    def each(step: Callable[[slice, Float], Float], x: Float) -> Float:
        """A step, each part by itself; x holds the rows of `parts`, one after the other."""
        first = parts[0].start
        done = [step(s, np.ascontiguousarray(x[:, s.start - first : s.stop - first])) for s in parts]
        return done[0] if len(done) == 1 else np.concatenate(done, axis=1)

    scores = tap("kq", each(lambda s, x: x @ keys, q[:, parts[0].start : parts[-1].stop]))  # (H, parts, T_s)
    scores = each(lambda s, x: x * scale, scores)
    if soft_cap:  # c tanh(scores / c), a step at a time as llama.cpp shows it
        scores = tap("kq_scaled_1", each(lambda s, x: x / soft_cap, scores))
        scores = tap("kq_tanh", each(lambda s, x: np.tanh(x), scores))
        scores = tap("kq_scaled_2", each(lambda s, x: x * soft_cap, scores))
    if bias is not None:
        scores = tap("kq_plus_kq_b", each(lambda s, x: x + bias[:, s, :n], scores))
    if mask != BIDIRECTIONAL:
        scores = each(lambda s, x: x + cost(H, n, mask, s), scores)
    p = tap("kq_soft_max", each(lambda s, x: softmax(x), scores))
    return tap("kqv", each(lambda s, x: x @ values, p))  # (H, parts, D)


def shared(x: Float, group: int) -> Float:
    """Each head of keys or values as often as query heads use it: (K, ...) -> (H, ...)."""
    return x if group == 1 else np.repeat(x, group, axis=0)


def cost(n_head: int, n: int, mask: AttentionMask, queries: slice) -> F64:
    """What a mask adds to the scores of some queries of a text of n tokens, (H, queries, n), or (1, ...): -inf hides.

    Distance costs by ALiBi, where the mask has it.

    >>> cost(1, 3, AttentionMask(causal=True, max_bias=1.0), slice(0, 3))  # one head, whose slope is 2^-1
    array([[[ 0. , -inf, -inf],
            [-0.5,  0. , -inf],
            [-1. , -0.5,  0. ]]])
    """
    begin, end = (x[queries, None] for x in reach(n, mask))  # (queries, 1)
    i, j = np.arange(n)[queries, None], np.arange(n)
    hidden = np.where((begin <= j) & (j < end), 0.0, -np.inf)[None]  # (1, queries, n)
    if not mask.max_bias:
        return hidden
    return hidden - slopes(n_head, mask.max_bias)[:, None, None] * np.abs(j - i)


def reach(n: int, mask: AttentionMask) -> tuple[I64, I64]:
    """The keys begin[i]:end[i] that query i of a text of n tokens sees: every mask leaves one piece, never empty.

    llama_hparams::is_masked_swa. A window looks back only, so without `causal` a query sees all that follows it.

    >>> begin, end = reach(4, AttentionMask(causal=True, window=2))  # each token, and the one before it
    >>> list(zip(begin.tolist(), end.tolist()))
    [(0, 1), (0, 2), (1, 3), (2, 4)]
    """
    i = np.arange(n)
    begin, end = np.zeros(n, np.int64), np.full(n, n)
    if mask.causal:
        end = i + 1
    if mask.window and mask.kind == "standard":
        begin = np.maximum(0, i - mask.window + 1)
    elif mask.window and mask.kind == "chunked":
        begin = i // mask.window * mask.window
    elif mask.window:
        half = mask.window // 2
        begin, end = np.maximum(0, i - half), np.minimum(end, i + half + 1)
    return begin, end


def slopes(n_head: int, max_bias: float) -> F64:
    """ALiBi's slopes (H): a geometric sequence, filled up by every other member of a finer one (Press et al. 2022).

    n = 2^floor(log2 H); head h < n: 2^(-max_bias (h+1) / n); beyond: 2^(-max_bias (2(h-n)+1) / 2n)

    >>> slopes(3, 8.0)  # 2^(-8/2), 2^(-16/2), and 2^(-8/4) for the third head, as 3 is no power of two
    array([0.0625    , 0.00390625, 0.25      ])
    """
    n = 1 << int(math.log2(n_head))
    h = np.arange(n_head)
    exponents = np.where(h < n, (h + 1) / n, (2 * (h - n) + 1) / (2 * n))
    return 2.0 ** (-max_bias * exponents)
