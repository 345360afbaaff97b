"""How far vectors of the same texts lie from each other, and what the files they were read from leave open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refembed.arrays import F64
from refembed.verify.compare.arrays import cosine_distance
from refembed.verify.engines.base import pool
from refembed.verify.reference import Vectors
from refembed.verify.upgrade.neighbors import UNIT, unit_rows

HALF_STEPS = {"float16": 2.0**-11}  # of types that vectors are stored in, relative; float32 where there is no row
POOLINGS = ("mean", "cls", "last")


@dataclass(frozen=True)
class Movement:
    """N texts' vectors, old and new, divided by their lengths."""

    moved: F64  # (N) Euclidean distance, sqrt(2 (1 - cos))
    cosine: F64  # (N) 1 - cos
    component: float  # the largest difference of two components
    same_bits: bool  # of the vectors as they were given
    old_length: tuple[float, float]  # shortest and longest vector, as given
    new_length: tuple[float, float]

    @property
    def most(self) -> float:
        """The largest movement."""
        return float(self.moved.max(initial=0.0))


def movement_of(old: Vectors, new: Vectors) -> Movement:
    """Vectors (D) of the same texts, in the same order.

    >>> m = movement_of([np.array([3.0, 4.0])], [np.array([0.0, 2.0])])
    >>> m.cosine.round(12).tolist()  # 1 - (3 * 0 + 4 * 2) / (5 * 2)
    [0.2]
    >>> m.moved.round(12).tolist(), m.old_length  # sqrt(2 * 0.2)
    ([0.632455532034], (5.0, 5.0))
    """
    a, b = np.stack(old), np.stack(new)
    x, y = unit_rows(a), unit_rows(b)
    lengths = [np.linalg.norm(v, axis=1) for v in (a, b)]
    return Movement(
        moved=np.linalg.norm(x - y, axis=1),
        cosine=np.array([cosine_distance(p, q) for p, q in zip(x, y, strict=True)]),
        component=float(np.abs(x - y).max(initial=0.0)),
        same_bits=bool(np.array_equal(a, b)),
        old_length=(float(lengths[0].min()), float(lengths[0].max())),
        new_length=(float(lengths[1].min()), float(lengths[1].max())),
    )


def storage_error(info: dict[str, Any], vectors: Vectors) -> float:
    """How far a unit vector may be from the one that was computed, by the way in which it was written down.

    info  of an engine: `dtype` of an array's numbers, `resolution` of decimals: half of the last digit
    """
    relative = HALF_STEPS.get(str(info.get("dtype")), UNIT)
    if "resolution" not in info:
        return relative
    shortest = min(float(np.linalg.norm(v)) for v in vectors)
    return relative + float(info["resolution"]) * np.sqrt(vectors[0].shape[-1]) / max(shortest, 1e-30)


def pooling_between(pooled: Vectors, rows: Vectors) -> tuple[str, float]:
    """Which pooling of one side's rows (T, D) comes nearest to the other side's vectors (D), and how near: 1 - cos."""
    found = {
        how: max(cosine_distance(v, np.asarray(pool(r.astype(np.float32), how), np.float64))
                 for v, r in zip(pooled, rows, strict=True))
        for how in POOLINGS
    }  # fmt: skip
    best = min(found, key=lambda how: found[how])
    return best, found[best]


def spans(lengths: tuple[float, float]) -> str:
    """`1`, or `3.2 to 7.9`."""
    low, high = lengths
    return f"{high:.4g}" if high - low <= 1e-4 * high else f"{low:.4g} to {high:.4g}"


def all_of_length_1(lengths: tuple[float, float], error: float) -> bool:
    """Whether all vectors are normalized, as far as they were written down."""
    slack = max(error, 1e-4)  # what servers leave of it: sums of squares in float32, decimals in JSON
    return 1 - slack <= lengths[0] <= lengths[1] <= 1 + slack


def common_width(vectors: Sequence[Any]) -> int:
    """Numbers of a vector."""
    return int(np.shape(vectors[0])[-1])
