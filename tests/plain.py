"""Pooling, normalizing and measuring as an outside author might bring them: plain, and in float32 throughout."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from refembed.testing import NormalizeContract, PoolingContract, SimilarityContract


def sum_up(x: Any) -> Any:
    """Rows added in float32, one by one."""
    total = np.zeros(x.shape[1], x.dtype)
    for row in x:
        total = total + row
    return total


def ramp(n: int) -> Any:
    """Weights 1 to n, as a column."""
    return np.arange(1, n + 1, dtype=np.float32)[:, None]


PLAIN: dict[str, Callable[[Any], Any]] = {
    "none": lambda x: x,
    "mean": lambda x: sum_up(x) / np.float32(len(x)),
    "cls": lambda x: x[0],
    "last": lambda x: x[-1],
    "max": lambda x: x.max(axis=0),
    "mean_sqrt_len": lambda x: sum_up(x) / np.sqrt(np.float32(len(x))),
    "weightedmean": lambda x: sum_up(x * ramp(len(x))) / ramp(len(x)).sum(),
}


def plain_pool(hidden: Any, offsets: Any, how: str) -> Any:
    return [PLAIN[how](hidden[i:j]) for i, j in itertools.pairwise(offsets)]


def plain_normalize(x: Any, p: int) -> Any:
    """Row by row in float32."""
    if p == -1:
        return x
    if p == 0:
        length = np.abs(x).max(axis=1) / np.float32(32760)
    else:
        length = (np.abs(x) ** np.float32(p)).sum(axis=1) ** np.float32(1 / p)
    return x / np.where(length > 0, length, 1)[:, None]


def plain_cosine(a: Any, b: Any) -> float:
    lengths = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    return float(a @ b) / lengths if lengths else float(a.any() == b.any())


class PlainPooling(PoolingContract):
    def pool(self, hidden: Any, offsets: Any, how: str) -> Any:
        return plain_pool(hidden, offsets, how)


class PlainNormalize(NormalizeContract):
    rounding = 3e-6  # powers in float32
    exceptions: ClassVar = {
        "size_does_not_matter": "powers in float32 round differently at another size",
        "rows_stand_alone": "NumPy adds a lone row in another order",
    }

    def normalize(self, x: Any, p: int) -> Any:
        return plain_normalize(x, p)


class PlainSimilarity(SimilarityContract):
    def cosine(self, a: Any, b: Any) -> float:
        return plain_cosine(a, b)

    def dot(self, a: Any, b: Any) -> float:
        return float(a @ b)

    def euclidean(self, a: Any, b: Any) -> float:
        return float(np.linalg.norm(a - b))

    def manhattan(self, a: Any, b: Any) -> float:
        return float(np.abs(a - b).sum())
