"""Scaled dot-product attention over packed sequences: the definition.

    kq          = q kᵀ                        (H, T_s, T_s)   one sequence at a time: no padding, no mask over the batch
    kq_soft_max = softmax(scale kq + bias)    (H, T_s, T_s)   bias is -inf where the mask hides a key
    kqv         = kq_soft_max v               (H, T_s, D)     Vaswani et al. 2017, section 3.2

Queries of sequence s see the keys of sequence s and no others, so a text's attention cannot depend on its neighbours.
With fewer heads of keys than of queries (Ainslie et al. 2023), query head h uses key head h K // H.
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from refembed.arrays import F64, I64, Float
from refembed.kernels.ops import EVERYONE, NOBODY, Mask, See


def softmax(x: Float) -> Float:
    """exp(x) / sum(exp(x)) over the last axis; the largest x is taken off first, so exp cannot overflow."""
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
    see: See = NOBODY,
    *,
    n_head_kv: int | None = None,
    mask: Mask = EVERYONE,
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
    see                  shown kq, kq_soft_max, v_cont and kqv of each sequence
    returns   (T, H D)
    """
    out = np.empty_like(q)
    group = n_head // (n_head_kv or n_head)  # query heads that share a head of keys
    for begin, end in itertools.pairwise(offsets):
        qh, kh, vh = (heads(x[begin:end], h) for x, h in ((q, n_head), (k, n_head // group), (v, n_head // group)))
        vt = vh.transpose(0, 2, 1)  # (K, D, T_s)
        vt = vt if cached else see("v_cont", vt)  # llama.cpp stores v transposed for the second product
        kq = see("kq", qh @ shared(kh, group).transpose(0, 2, 1))  # (H, T_s, T_s)
        scores, n = capped(kq * scale, soft_cap, see), end - begin
        if bias is not None:
            scores = see("kq_plus_kq_b", scores + bias[:, :n, :n])
        if mask != EVERYONE:
            scores = scores + cost(n_head, int(n), mask)
        p = see("kq_soft_max", softmax(scores))  # (H, T_s, T_s)
        kqv = see("kqv", p @ shared(vt, group).transpose(0, 2, 1))  # (H, T_s, D)
        out[begin:end] = kqv.transpose(1, 0, 2).reshape(end - begin, -1)  # (T_s, H D)
    return out


def shared(x: Float, group: int) -> Float:
    """Each head of keys or values as often as query heads use it: (K, ...) -> (H, ...)."""
    return x if group == 1 else np.repeat(x, group, axis=0)


def capped(scores: Float, soft_cap: float, see: See) -> Float:
    """c tanh(scores / c), a step at a time as llama.cpp shows it."""
    if not soft_cap:
        return scores
    turned = see("kq_tanh", np.tanh(see("kq_scaled_1", scores / soft_cap)))
    return see("kq_scaled_2", turned * soft_cap)


def cost(n_head: int, n: int, mask: Mask) -> F64:
    """What a mask adds to the scores of a text of n tokens, (H, n, n) or (1, n, n): -inf hides a key."""
    begin, end = reach(n, mask)  # (n)
    j = np.arange(n)
    hidden = np.where((begin[:, None] <= j) & (j < end[:, None]), 0.0, -np.inf)[None]  # (1, n, n)
    if not mask.max_bias:
        return hidden
    return hidden - slopes(n_head, mask.max_bias)[:, None, None] * np.abs(j[:, None] - j)


def reach(n: int, mask: Mask) -> tuple[I64, I64]:
    """The keys begin[i]:end[i] that query i of a text of n tokens sees: every mask leaves one piece, never empty.

    llama_hparams::is_masked_swa. A window looks back only, so without `causal` a query sees all that follows it.
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
    """
    n = 1 << int(math.log2(n_head))
    h = np.arange(n_head)
    exponents = np.where(h < n, (h + 1) / n, (2 * (h - n) + 1) / (2 * n))
    return 2.0 ** (-max_bias * exponents)
