"""How far apart two arrays are: numbers, no verdict.

    ulps        float32 numbers that lie between a and b; 1 is the next float32
    max_abs     max |a - b|
    rel_peak    max |a - b| / max |a|
    rel_each    max (|a - b| / |a|)                             0/0 is 0, x/0 is infinite
    nmse        sum (a - b)^2 / sum a^2                         likewise
    cosine      1 - a.b / (|a| |b|)  =  | a/|a| - b/|b| |^2 / 2  of the whole arrays; the right side does not cancel

NaN and infinity come first: they are counted and located on each side, and every other number is about the elements
that are finite on both. a is the reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from refembed.arrays import F64, I64
from refembed.errors import RequestError

Array: TypeAlias = npt.NDArray[Any]
Index: TypeAlias = "tuple[int, ...]"

MAX_POSITIONS = 8  # positions of non-finite elements that are kept


@dataclass(frozen=True)
class Difference:
    """What `compare` found; the formulas are at the head of this file."""

    shape: Index
    identical: bool  # the same bits, once both are in the wider of the two types; NaN equals NaN
    nonfinite_a: int  # how many elements of a are NaN or infinite
    nonfinite_b: int
    nonfinite_a_at: tuple[Index, ...]  # the first of them
    nonfinite_b_at: tuple[Index, ...]
    nonfinite_agree: bool  # both sides have the same NaNs and infinities in the same places
    max_ulps: int
    max_abs: float
    rel_peak: float
    rel_each: float
    nmse: float
    cosine: float
    worst: Index | None  # where |a - b| is largest; None where the arrays are equal or empty
    worst_row: Index | None  # the row (all but the last axis) with the largest sum of (a - b)^2

    def __str__(self) -> str:
        if self.identical:
            return "identical"
        bad = ""
        if self.nonfinite_a or self.nonfinite_b:
            where = (self.nonfinite_a_at or self.nonfinite_b_at)[0]
            bad = f"not finite: {self.nonfinite_a} | {self.nonfinite_b}, first at {where}; "
        return (
            f"{bad}{self.max_ulps} ulp, largest difference {self.max_abs:.3g} at {self.worst}, "
            f"nmse {self.nmse:.3g}, 1-cos {self.cosine:.3g}"
        )


def compare(a: Array, b: Array) -> Difference:
    """Measure b against the reference a. RequestError when their shapes differ.

    >>> d = compare(np.array([3.0, 4.0], np.float32), np.array([3.0, 4.5], np.float32))
    >>> d.max_abs, d.rel_peak, d.nmse, d.worst  # 0.5; 0.5/4; 0.25/(9 + 16)
    (0.5, 0.125, 0.01, (1,))
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        raise RequestError(f"cannot compare shapes {a.shape} and {b.shape}")
    fine_a, fine_b = np.isfinite(a), np.isfinite(b)
    fine = fine_a & fine_b
    x, y = np.where(fine, a, 0).astype(np.float64), np.where(fine, b, 0).astype(np.float64)
    with np.errstate(over="ignore"):  # of float64 numbers near the largest; float32 cannot
        gap = np.abs(x - y)
    # squares must neither overflow nor vanish: measure in units of the largest, a power of two so that nothing rounds
    exponent = int(np.frexp(max(np.abs(x).max(initial=0), np.abs(y).max(initial=0)))[1])
    unit = 2.0 ** min(max(exponent, -1000), 1000)
    u, v = x / unit, y / unit
    square = (u - v) ** 2
    return Difference(
        shape=a.shape,
        identical=same_bits(a, b),
        nonfinite_a=int((~fine_a).sum()),
        nonfinite_b=int((~fine_b).sum()),
        nonfinite_a_at=first_places(~fine_a),
        nonfinite_b_at=first_places(~fine_b),
        nonfinite_agree=same_values(a[~fine], b[~fine]),
        max_ulps=int(ulps(np.where(fine, a, 0), np.where(fine, b, 0)).max(initial=0)),
        max_abs=float(gap.max(initial=0)),
        rel_peak=ratio(gap.max(initial=0), np.abs(x).max(initial=0)),
        rel_each=float(ratios(gap, np.abs(x)).max(initial=0)),
        nmse=ratio(square.sum(), (u**2).sum()),
        cosine=cosine_distance(u, v),
        worst=place_of_largest(gap),
        worst_row=place_of_largest(square.sum(axis=-1) if square.ndim else square),
    )


@dataclass(frozen=True)
class Share:
    """Where a difference lies: one row or head, and how much of sum (a - b)^2 is there."""

    index: int
    share: float  # of the whole sum, 0 to 1
    nmse: float  # within it


def worst_rows(a: Array, b: Array, n: int = 3) -> tuple[Share, ...]:
    """The n rows (axis -2: tokens) with the largest sums of (a - b)^2, worst first; none where nothing differs.

    a, b  (..., T, C), of one shape; a is the reference. RequestError otherwise.
    """
    return shares(a, b, -2, n)


def worst_heads(a: Array, b: Array, n_head: int, n: int = 3) -> tuple[Share, ...]:
    """The n heads with the largest sums of (a - b)^2, worst first.

    a, b    (T, H D), heads side by side, or (H, ...), a head on the first axis, or (T, H, D)
    n_head  H. RequestError where neither shape fits.
    """
    x, y = np.asarray(a), np.asarray(b)
    if x.ndim == 3 and x.shape[0] == n_head:
        return shares(x, y, 0, n)
    if x.ndim == 3 and x.shape[1] == n_head:
        return shares(x, y, 1, n)
    if x.ndim != 2 or x.shape[-1] % n_head:
        raise RequestError(f"an array of shape {x.shape} has no {n_head} heads")
    apart = (len(x), n_head, -1)
    return shares(x.reshape(apart), y.reshape(apart), 1, n) if y.shape == x.shape else shares(x, y, 1, n)


def shares(a: Array, b: Array, axis: int, n: int) -> tuple[Share, ...]:
    """The n places of one axis that hold most of sum (a - b)^2; what is not finite on both sides is left out."""
    x, y = np.asarray(a), np.asarray(b)
    if x.shape != y.shape or x.ndim < 2:
        raise RequestError(f"cannot compare the rows of shapes {x.shape} and {y.shape}")
    fine = np.isfinite(x) & np.isfinite(y)
    p, q = (np.moveaxis(np.where(fine, v, 0).astype(np.float64), axis, 0).reshape(x.shape[axis], -1) for v in (x, y))
    unit = max(np.abs(p).max(initial=0), np.abs(q).max(initial=0)) or 1.0
    off, size = (((p - q) / unit) ** 2).sum(axis=1), ((p / unit) ** 2).sum(axis=1)
    total = off.sum()
    order = [int(i) for i in np.argsort(-off, kind="stable")[:n] if off[i] > 0]
    return tuple(Share(i, float(off[i] / total), ratio(off[i], size[i])) for i in order)


def ulps(a: Array, b: Array) -> I64:
    """How many steps of float32 lie between a and b, elementwise; +0 and -0 are one number. Wider types are rounded."""
    return np.abs(steps(a) - steps(b))


def steps(x: Array) -> I64:
    """The number of each float32 when all are counted in order, 0 for zero."""
    with np.errstate(over="ignore"):  # a float64 beyond float32 counts as infinity, one step after the largest
        bits = np.ascontiguousarray(x, np.float32).view(np.int32).astype(np.int64)
    return np.where(bits < 0, -(bits & 0x7FFFFFFF), bits)


def cosine_distance(x: F64, y: F64) -> float:
    """1 - cos of two arrays as whole vectors. Both zero: 0. One zero: 1.

    >>> round(cosine_distance(np.array([3.0, 4.0]), np.array([4.0, 3.0])), 6)  # 1 - 24/25
    0.04
    """
    length_x, length_y = np.sqrt((x**2).sum()), np.sqrt((y**2).sum())
    if length_x == 0 or length_y == 0:
        return 0.0 if length_x == length_y else 1.0
    return float(0.5 * ((x / length_x - y / length_y) ** 2).sum())


def ratio(part: Any, whole: Any) -> float:
    """part / whole of two numbers that are not negative; 0/0 is 0, x/0 is infinite."""
    return float(ratios(np.asarray(part, np.float64), np.asarray(whole, np.float64)))


def ratios(part: F64, whole: F64) -> F64:
    """part / whole, elementwise."""
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        return np.where(part == 0, 0.0, part / whole)


def same_bits(a: Array, b: Array) -> bool:
    """Equal in every element, -0 unlike +0; any NaN equals any NaN."""
    wide = np.result_type(a, b)
    x, y = a.astype(wide), b.astype(wide)
    return same_values(x, y) and bool((np.signbit(x) == np.signbit(y))[~np.isnan(x)].all())


def same_values(a: Array, b: Array) -> bool:
    """Equal in every element; NaN equals NaN."""
    return bool(((a == b) | (np.isnan(a) & np.isnan(b))).all())


def first_places(mask: npt.NDArray[np.bool_]) -> tuple[Index, ...]:
    """Where the first few are."""
    flat = np.flatnonzero(mask)[:MAX_POSITIONS]
    return tuple(tuple(int(i) for i in np.unravel_index(k, mask.shape)) for k in flat)


def place_of_largest(x: F64) -> Index | None:
    """Where x is largest; None where it is zero throughout."""
    if not x.size or not x.any():
        return None
    return tuple(int(i) for i in np.unravel_index(int(x.argmax()), x.shape))
