"""How much of a text's vector each token supplies.

Pooling is a sum over tokens, p = q_0 + ... + q_(T-1) with q_t = w_t h_t, so the vector's squared length is one too:

    |p|^2 = sum_t q_t . p        share_t = q_t . p / |p|^2        the shares add up to 1

A negative share is a token that pulls the other way. Of `max`, channel c belongs to the token that has the largest.
"""

from __future__ import annotations

import numpy as np

from refembed.arrays import F64, Float
from refembed.errors import RequestError


def pooled_parts(hidden: Float, pooling: str) -> F64:
    """What each token adds to the pooled vector: hidden (T, C) -> (T, C), whose sum over tokens is that vector.

    pooling  mean, cls, last, max, mean_sqrt_len, weightedmean; RequestError for any other, which adds nothing up
    """
    h = np.asarray(hidden, np.float64)
    T = len(h)
    if pooling == "max":
        mine = np.arange(T)[:, None] == h.argmax(axis=0)  # (T, C)
        parts: F64 = np.where(mine, h, 0.0)
        return parts
    if pooling not in ("mean", "cls", "last", "mean_sqrt_len", "weightedmean"):
        raise RequestError(f"pooling {pooling!r} gives no one vector that tokens could share in")
    return weights(T, pooling)[:, None] * h


def weights(T: int, pooling: str) -> F64:
    """w (T): mean 1/T; cls, last: 1 for one token; mean_sqrt_len 1/sqrt(T); weightedmean t over their sum, t from 1."""
    t = np.arange(T, dtype=np.float64)
    if pooling in ("cls", "last"):
        return (t == (0 if pooling == "cls" else T - 1)).astype(np.float64)
    if pooling == "weightedmean":
        return (t + 1) / (T * (T + 1) / 2)
    return np.full(T, 1 / (np.sqrt(T) if pooling == "mean_sqrt_len" else T))


def contributions(hidden: Float, pooling: str) -> F64:
    """Shares (T) of the tokens in the pooled vector, which add up to 1; all 0 where that vector is 0."""
    parts = pooled_parts(hidden, pooling)
    p = parts.sum(axis=0)
    length = float(p @ p)
    return parts @ p / length if length else np.zeros(len(parts))
