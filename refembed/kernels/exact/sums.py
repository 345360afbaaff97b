"""Sums in double, one term after the other.

Rounding makes a sum depend on its order. NumPy adds pairs of pairs along the axis that lies together in memory, and in
plain order along any other, so the order, and with it the last bits, can change with the shape of its neighbors.
Pooling, norms and distances promise the same bits alone and in a batch, and llama.cpp's norms add in plain order.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

from refembed.arrays import F64, I64, Float


def ordered_sum(x: npt.NDArray[Any]) -> F64:
    """((x[0] + x[1]) + x[2]) + ... in double: x (n, ...) -> (...), zeros for n = 0.

    >>> ordered_sum(np.array([[1.0, 2.0], [3.0, 4.0]]))
    array([4., 6.])
    >>> ordered_sum(np.array([[1e16], [1.0], [-1e16]]))  # (1e16 + 1) - 1e16, and 1e16 + 1 is 1e16 in double
    array([0.])
    """
    x = np.ascontiguousarray(x)
    if len(x) and math.prod(x.shape[1:]) == 1:  # then the terms lie together, and `reduce` would add in pairs
        return np.add.accumulate(x, axis=0, dtype=np.float64)[-1]
    return np.add.reduce(x, axis=0, dtype=np.float64)


def means(x: Float, offsets: I64) -> Float:
    """The mean of each text's rows, added in double and in order: x (T, C), offsets (S+1) -> (S, C) in x's dtype.

    >>> means(np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), np.array([0, 2, 3]))  # of tokens 0 and 1; of token 2
    array([[2., 3.],
           [5., 6.]])
    """
    out = np.empty((len(offsets) - 1, x.shape[1]), x.dtype)
    for s, (begin, end) in enumerate(itertools.pairwise(offsets)):
        out[s] = ordered_sum(x[begin:end]) / (end - begin)
    return out


def mix_streams(x: Float, w: Float) -> Float:
    """Streams x (S, T, C) of hidden states mixed token by token: y[a, t] = sum over j of w[t, a, j] x[j, t].

    w  (T, S, S); the terms are added one after the other

    >>> mix_streams(np.array([[[1.0]], [[2.0]]]), np.array([[[1.0, 1.0], [0.0, 10.0]]])).ravel()  # 1 + 2, 0 + 10 * 2
    array([ 3., 20.])
    """
    y = w[:, :, 0].T[:, :, None] * x[0]  # (S, T, C)
    for j in range(1, len(x)):
        y = y + w[:, :, j].T[:, :, None] * x[j]
    return y
