"""Scaled dot-product attention over packed sequences: the definition.

    kq          = q kᵀ                        (H, T_s, T_s)   one sequence at a time: no padding, no mask over the batch
    kq_soft_max = softmax(scale kq + mask)    (H, T_s, T_s)   the mask is -inf where it hides a key
    kqv         = kq_soft_max v               (H, T_s, D)     Vaswani et al. 2017, section 3.2

Queries of sequence s see the keys of sequence s and no others, so a text's attention cannot depend on its neighbors.
With fewer heads of keys than of queries (Ainslie et al. 2023), query head h uses key head h K // H.
All scores of a text are in memory at once; attention_chunked.py is the same for texts that are too long for that.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from refembed.arrays import F64, I64, Float
from refembed.kernels.ops import BIDIRECTIONAL, NO_TAP, AttentionMask, AttentionSpec, Tap


def attention(
    q: Float, k: Float, v: Float, spec: AttentionSpec, offsets: I64, tap: Tap = NO_TAP, *, bias: Float | None = None,
    sinks: Float | None = None,
) -> Float:  # fmt: skip
    """Let every token look at those tokens of its own sequence that the mask leaves.

    q         (T, H D)   T tokens of all sequences, end to end
    k         (T, K D)
    v         (T, K E)   E is D but in latent attention (DeepSeek-V2)
    offsets   (S+1)      sequence s is rows offsets[s]:offsets[s+1]
    bias      (H, L, L)  added to the scores, from the first L' rows and columns for a text of L' tokens (T5)
    sinks     (H)        scores that take shares and have no values (gpt-oss)
    tap                  is given v_cont, kq, kq_soft_max and kqv of each sequence
    returns   (T, H E)

    Two tokens, one head of one channel. Query 0 scores the keys 0 and ln 3, so its weights are 1/4 and 3/4, and 4 and 8
    average to 7; query 1 scores both 0 and takes the mean. With a causal mask query 0 sees itself alone:

    >>> q, k, v = np.array([[1.0], [0.0]]), np.array([[0.0], [np.log(3)]]), np.array([[4.0], [8.0]])
    >>> attention(q, k, v, AttentionSpec(1, 1, scale=1.0), np.array([0, 2])).round(6)
    array([[7.],
           [6.]])
    >>> attention(q, k, v, AttentionSpec(1, 1, scale=1.0, mask=AttentionMask(causal=True)), np.array([0, 2])).round(6)
    array([[4.],
           [6.]])
    """
    out = np.empty((len(q), spec.group * v.shape[1]), q.dtype)
    for begin, end in itertools.pairwise(offsets):
        qh, kh, vh = split_heads(q[begin:end], k[begin:end], v[begin:end], spec, tap)
        by_head(out[begin:end], spec.n_head)[:] = attend(qh, kh, vh, spec, tap, bias, sinks)
    return out


def attend(
    q: Float, k: Float, v: Float, spec: AttentionSpec, tap: Tap, bias: Float | None, sinks: Float | None
) -> Float:
    """Attention of one sequence: q, k (H, T, D), v (H, T, E), bias (H, L, L), sinks (H) or None -> (H, T, E)."""
    H, T, _ = q.shape
    scores = tap("kq", q @ k.transpose(0, 2, 1)) * spec.scale  # (H, T, T): row i has the scores of query i
    if spec.soft_cap:  # c tanh(scores / c), a step at a time as llama.cpp shows it
        scores = tap("kq_scaled_1", scores / spec.soft_cap)
        scores = tap("kq_tanh", np.tanh(scores))
        scores = tap("kq_scaled_2", scores * spec.soft_cap)
    if bias is not None:
        scores = tap("kq_plus_kq_b", scores + bias[:, :T, :T])
    if spec.mask != BIDIRECTIONAL:
        scores = scores + mask_scores(H, T, spec.mask)
    p = tap("kq_soft_max", softmax(scores, sinks))  # (H, T, T): row i adds up to 1, with a sink to less
    return tap("kqv", p @ v)


def softmax(x: Float, sinks: Float | None = None) -> Float:
    """exp(x) / sum(exp(x)) over the last axis; the largest x is taken off first, so exp cannot overflow.

    sinks  (H) for x (H, n, m): one more term of head h's sums, exp(sinks[h]), whose share is not returned

    >>> softmax(np.log([[1.0, 2.0, 3.0]])).round(6)  # 1/6, 2/6, 3/6
    array([[0.166667, 0.333333, 0.5     ]])
    >>> softmax(np.log([[[1.0, 2.0, 3.0]]]), np.log([4.0])).round(6)  # 1/10, 2/10, 3/10
    array([[[0.1, 0.2, 0.3]]])
    """
    sink = np.full(1, -np.inf, x.dtype) if sinks is None else sinks[:, None, None]
    high = np.maximum(x.max(axis=-1, keepdims=True), sink)
    e = np.exp(x - high)
    return e / (e.sum(axis=-1, keepdims=True) + np.exp(sink - high))


def by_head(x: Float, n_head: int) -> Float:
    """The heads of x, which stand side by side: (T, H D) -> (H, T, D), a view."""
    return x.reshape(len(x), n_head, -1).transpose(1, 0, 2)


def split_heads(q: Float, k: Float, v: Float, spec: AttentionSpec, tap: Tap) -> tuple[Float, Float, Float]:
    """Heads of one sequence: q (T, H D), k (T, K D), v (T, K E) -> (H, T, D) twice, (H, T, E); keys and values as often
    as they are shared.

    tap  is given v_cont (K, E, T): llama.cpp stores v transposed for the second product, and shows it unless a cache
         holds it
    """
    qh = np.ascontiguousarray(by_head(q, spec.n_head))
    kh = by_head(k, spec.n_head_kv)
    vt = by_head(v, spec.n_head_kv).transpose(0, 2, 1)  # (K, E, T)
    vt = vt if spec.cached else tap("v_cont", vt)
    return qh, repeat(kh, spec.group), repeat(vt, spec.group).transpose(0, 2, 1)


def repeat(x: Float, group: int) -> Float:
    """Each head of keys or values as often as query heads use it: (K, ...) -> (H, ...)."""
    return x if group == 1 else np.repeat(x, group, axis=0)


def mask_scores(n_head: int, n: int, mask: AttentionMask, queries: slice = slice(None)) -> F64:
    """What a mask adds to the scores of some queries of a text of n tokens, (H, queries, n), or (1, ...): -inf hides.

    Distance costs by ALiBi, where the mask has it.

    >>> mask_scores(1, 3, AttentionMask(causal=True, max_bias=1.0))  # one head, whose slope is 2^-1
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
    for first, last in mask.spans:
        end = np.where((first <= i) & (i < last), np.maximum(end, last), end)
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
