"""Scaled dot-product attention over packed sequences: the definition.

    kq          = q kᵀ                        (H, T_s, T_s)   one sequence at a time: no padding, no mask over the batch
    kq_soft_max = softmax(scale kq)           (H, T_s, T_s)
    kqv         = kq_soft_max v               (H, T_s, D)     Vaswani et al. 2017, section 3.2

Queries of sequence s see the keys of sequence s and no others, so a text's attention cannot depend on its neighbours.
"""

from __future__ import annotations

import itertools

import numpy as np

from refembed.arrays import I64, Float
from refembed.kernels.ops import NOBODY, See


def softmax(x: Float) -> Float:
    """exp(x) / sum(exp(x)) over the last axis; the largest x is taken off first, so exp cannot overflow."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def heads(x: Float, n_head: int) -> Float:
    """(T, H D) -> (H, T, D)."""
    return x.reshape(len(x), n_head, -1).transpose(1, 0, 2)


def attention(q: Float, k: Float, v: Float, n_head: int, offsets: I64, scale: float, see: See = NOBODY) -> Float:
    """Let every token look at all tokens of its own sequence.

    q, k, v  (T, H D)   T tokens of all sequences, end to end
    offsets  (S+1)      sequence s is rows offsets[s]:offsets[s+1]
    scale               1/sqrt(D) for BERT
    see                 shown kq, kq_soft_max, v_cont and kqv of each sequence
    returns  (T, H D)
    """
    out = np.empty_like(q)
    for begin, end in itertools.pairwise(offsets):
        qh, kh, vh = (heads(x[begin:end], n_head) for x in (q, k, v))  # (H, T_s, D)
        vt = see("v_cont", vh.transpose(0, 2, 1))  # (H, D, T_s): llama.cpp stores v transposed for the second product
        kq = see("kq", qh @ kh.transpose(0, 2, 1))  # (H, T_s, T_s)
        p = see("kq_soft_max", softmax(kq * scale))  # (H, T_s, T_s)
        kqv = see("kqv", p @ vt.transpose(0, 2, 1))  # (H, T_s, D)
        out[begin:end] = kqv.transpose(1, 0, 2).reshape(end - begin, -1)  # (T_s, H D)
    return out
