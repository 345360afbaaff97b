"""Hypotheses that differ in one number: the number is solved for from the engine's vectors, not listed.

A `Family` is a change that takes a number: a base of RoPE, a factor of the attention scores, a width of a window. On
one or two short texts that differ, the number is searched for: a real one on a coarse grid and then by Gauss-Newton
steps on the normalized vectors, a whole one by trying each. What is found is written with as few digits as explain the
vectors as well, and becomes one `Hypothesis`, which is then held against all texts as any other.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from refembed.arrays import F64
from refembed.verify.compare.floor import SCREEN
from refembed.verify.hypothesis import FAILURES, Change, Hypothesis, Stage
from refembed.verify.reference import Item, Reference, Vectors

Gap: TypeAlias = "Callable[[float], F64]"
STEP = 1e-3  # of the logarithm: the width of a finite difference
STEPS = 6  # of Gauss and Newton, at most
AS_GOOD = 4.0  # times the smallest distance: a rounder number may leave that much
WIDER = 3.0  # times: how far beyond the values it begins with a number may be
NEARBY = (0.7, 0.1, 0.015)  # of the logarithm: how far around a number others are tried where there is no slope
AROUND = 12  # to each side
LEAST = 1e-13  # 1 - cos: float32 itself


@dataclass(frozen=True)
class Family:
    """One change with a number in it."""

    id: str  # "rope-base": the hypothesis is called "rope-base-12345"
    stage: Stage
    says: str  # after "the engine", with {} where the number goes
    change: Callable[[float], Change]
    values: tuple[float, ...]  # real: where the search begins, all positive; whole: every value there is
    group: str = ""  # `Hypothesis.family`
    whole: bool = False

    def at(self, value: float) -> Hypothesis:
        """The hypothesis of that number."""
        spelled = f"{value:g}"
        return Hypothesis(f"{self.id}-{spelled}", self.stage, self.says.format(spelled), self.change(value), self.group)


def logarithmic(low: float, high: float, n: int) -> tuple[float, ...]:
    """n numbers from low to high, each the same factor from the next."""
    return tuple(float(x) for x in np.geomspace(low, high, n))


def solve(
    reference: Reference,
    items: Sequence[Item],
    vectors: Vectors,
    families: Iterable[Family],
    smooth: Reference | None = None,
) -> Iterator[tuple[Hypothesis, float]]:
    """For each family the numbers that fit these texts best, and the 1 - cos that they leave, worst text.

    reference  with the changes that are already known
    items      a few short texts
    vectors    the engine's
    smooth     the reference without a change that leaves steps (`marks`), where there is one: numbers are solved for
               there, since steps have no slope, and are then looked for nearby with the steps
    """
    wanted = [unit(v) for v in vectors]
    for family in families:
        gap = gap_of(reference, items, wanted, family)
        slope = gap if smooth is None else gap_of(smooth, items, wanted, family)
        try:
            yield from whole(family, gap) if family.whole else real(family, gap, slope)
        except FAILURES:
            continue


def gap_of(reference: Reference, items: Sequence[Item], wanted: Vectors, family: Family) -> Gap:
    """How the normalized vectors differ for a number: (N, D)."""

    def gap(value: float) -> F64:
        with np.errstate(all="ignore"):
            found = family.change(value)(reference).vectors(items, SCREEN)
            rows = [unit(x[..., : y.shape[-1]]) - y[..., : x.shape[-1]] for x, y in zip(found, wanted, strict=True)]
        return np.stack([np.nan_to_num(row, nan=2.0, posinf=2.0, neginf=2.0).ravel() for row in rows])

    return gap


def unit(v: F64) -> F64:
    """v over its length; rows each by themselves."""
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-30)


def worst(gap: F64) -> float:
    """1 - cos of the worst text."""
    return float((gap**2).sum(axis=-1).max()) / 2


def whole(family: Family, gap: Gap) -> Iterator[tuple[Hypothesis, float]]:
    """The best of all values, and its equals."""
    left = {v: worst(gap(v)) for v in family.values}
    best = min(left.values(), default=1.0)
    equals = [v for v in left if left[v] <= AS_GOOD * best + LEAST][:2]
    for v in equals:
        yield family.at(v), left[v]


def real(family: Family, gap: Gap, slope: Gap) -> Iterator[tuple[Hypothesis, float]]:
    """The best number near the two best of the grid. slope: the gap where it is smooth; else the same."""
    grid = {v: worst(slope(v)) for v in family.values}
    starts = sorted(grid, key=lambda v: grid[v])[:2]
    found = [newton(v, slope) for v in starts]
    value, left = min(found, key=lambda f: f[1])
    if slope is not gap:
        value, left = nearby(value, gap)
    if len(grid) > 1 and not min(grid) / WIDER <= value <= max(grid) * WIDER:
        return  # toward 0 or infinity it becomes another change, which is listed by itself
    value = roundest(value, left, gap)
    yield family.at(value), worst(gap(value))


def newton(value: float, gap: Gap) -> tuple[float, float]:
    """Gauss-Newton on the logarithm of a number: the number, and what it leaves."""
    at, now = math.log(value), gap(value)
    left = worst(now)
    for _ in range(STEPS):
        slope = (gap(math.exp(at + STEP)) - gap(math.exp(at - STEP))) / (2 * STEP)
        square = float((slope**2).sum())
        if square < 1e-14 or left < LEAST:
            break
        move = float(np.clip(-(slope * now).sum() / square, -1.5, 1.5))
        for _ in range(4):  # a step that makes it worse is halved
            further = gap(math.exp(at + move))
            if worst(further) < left:
                break
            move /= 4
        else:
            break
        gained = left / max(worst(further), 1e-300)
        at, now, left = at + move, further, worst(further)
        if gained < 1.05:
            break
    return math.exp(at), left


def nearby(value: float, gap: Gap) -> tuple[float, float]:
    """The best of numbers around one, first within half of it and double, then closer: the number, what it leaves."""
    left = worst(gap(value))
    for width in NEARBY:
        if left < LEAST:
            break
        tried = {v: worst(gap(v)) for v in value * np.exp(np.linspace(-width, width, 2 * AROUND + 1))}
        best = min(tried, key=lambda v: tried[v])
        if tried[best] < left:
            value, left = float(best), tried[best]
    return value, left


def roundest(value: float, left: float, gap: Gap) -> float:
    """The number with the fewest digits that leaves as little."""
    for digits in range(1, 7):
        rounder = float(f"{value:.{digits - 1}e}")
        if worst(gap(rounder)) <= AS_GOOD * left + LEAST:
            return rounder
    return value
