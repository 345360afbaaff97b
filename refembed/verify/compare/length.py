"""Lengths of vectors: normalized, raw, or scaled, and by what. Similarity ignores it, so it stands apart."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from refembed.arrays import F64
from refembed.pooling.normalize import normalize
from refembed.verify.reference import Vectors

Kind = Literal["raw", "normalized", "scaled"]


@dataclass(frozen=True)
class Length:
    """How long an engine's vectors are, compared with the reference's."""

    kind: Kind
    id: str  # "raw", "unit", "scaled-...": what a verdict names
    says: str  # what the engine does, to be read after "the engine"
    factor: float  # median |y| / |x|


PNORMS = range(3, 11)  # that are looked for
NORM_OF = {"raw": -1, "scaled-max": 0, "scaled-taxicab": 1, "unit": 2} | {f"scaled-{p}-norm": p for p in PNORMS}

CONSTANTS: tuple[tuple[str, str, Callable[[F64], Any]], ...] = (
    ("unit", "normalizes to length 1", lambda x: normalize(x, 2)),
    ("scaled-max", "scales the largest magnitude to 32760 (embd_normalize 0)", lambda x: normalize(x, 0)),
    ("scaled-max-1", "scales the largest magnitude to 1", lambda x: x / np.abs(x).max(axis=-1, keepdims=True)),
    ("scaled-taxicab", "scales the sum of magnitudes to 1 (embd_normalize 1)", lambda x: normalize(x, 1)),
    *((f"scaled-{p}-norm", f"scales to a {p}-norm of 1 (embd_normalize {p})", lambda x, p=p: normalize(x, p))
      for p in PNORMS),
    ("scaled-softmax", "scales the sum to 1", lambda x: x / x.sum(axis=-1, keepdims=True)),
    ("scaled-sqrt-D", "scales to length sqrt(D)", lambda x: normalize(x, 2) * np.sqrt(x.shape[-1])),
    ("scaled-int8", "scales the largest magnitude to 127", lambda x: 127 * x / np.abs(x).max(axis=-1, keepdims=True)),
)  # fmt: skip


def length_of(vectors: Vectors, ours: Vectors, tokens: Sequence[int], bound: float) -> Length:
    """What the engine does to lengths.

    vectors  the engine's, (D) or (T, D) each
    ours     the reference's after the changes that explain their directions, not normalized
    tokens   of each text
    bound    relative difference of lengths that is rounding
    """
    width = min(min(y.shape[-1] for y in vectors), min(x.shape[-1] for x in ours))
    ys, xs = ([v[..., :width] for v in side] for side in (vectors, ours))
    ratio = np.array([ratio_of(y, x) for y, x in zip(ys, xs, strict=True)])
    factor = float(np.median(ratio))
    if agree(ratio, np.ones(len(ratio)), bound):
        return Length("raw", "raw", "gives vectors as they are", factor)
    for id, says, f in CONSTANTS:
        full = [f(x)[..., :width] for x in ours]  # of a vector that is cut: scaled before the cut
        for cut, spelled in ((xs, ""), (None, " before it cuts it")):
            want = np.array([ratio_of(f(x), x) for x in xs] if cut is not None else
                            [ratio_of(a, x) for a, x in zip(full, xs, strict=True)])  # fmt: skip
            if agree(ratio, want, bound):
                return Length("normalized" if id == "unit" and not spelled else "scaled", id + "-first" * bool(spelled),
                              says + spelled, factor)  # fmt: skip
    T = np.array(tokens, np.float64)
    for id, says, want in (
        ("scaled-sum", "sums the tokens' vectors and does not divide (length grows with T)", T),
        ("scaled-sqrt-T", "divides the sum by sqrt(T), not by T", np.sqrt(T)),
        ("scaled-n-1", "divides the sum by T - 1, not by T", T / np.maximum(T - 1, 1)),
        ("scaled-n+1", "divides the sum by T + 1, not by T", T / (T + 1)),
        ("scaled-n-2", "divides the sum by T - 2, not by T", T / np.maximum(T - 2, 1)),
        (
            "scaled-padded",
            "divides the sum by one number for all texts, as of a padded batch",
            T * np.median(ratio / T),
        ),
    ):
        if len(set(tokens)) > 1 and agree(ratio, want, bound):
            return Length("scaled", id, says, factor)
    if agree(ratio, np.full(len(ratio), factor), bound):
        return Length("scaled", "scaled", f"gives vectors {factor:.6g} times as long", factor)
    unit = np.array([np.linalg.norm(y) / np.sqrt(len(y) if y.ndim == 2 else 1) for y in ys])
    if agree(unit, np.full(len(unit), float(np.median(unit))), bound):
        says = f"normalizes to length {np.median(unit):.6g}"
        return Length("scaled", "scaled-unit", says, factor)
    return Length(
        "scaled", "scaled-unevenly", "gives vectors of other lengths, a factor of its own for each text", factor
    )


def ratio_of(y: F64, x: F64) -> float:
    """|y| / |x| of whole arrays."""
    length = float(np.linalg.norm(x))
    return float(np.linalg.norm(y)) / length if length else 1.0


def agree(found: F64, wanted: F64, bound: float) -> bool:
    """Whether all are the same but for rounding."""
    return bool((np.abs(found - wanted) <= bound * np.abs(wanted)).all())
