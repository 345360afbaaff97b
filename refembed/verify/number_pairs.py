"""Pairs of a listed change and a number in the model, where neither helps without the other.

Each number is tried on a coarse grid with each change, on one short text; the combinations that come nearest are
solved for. What a number computes before pooling is the same for every pooling, and is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from refembed.verify.hypotheses import Hypothesis
from refembed.verify.hypotheses.families import Family, solve
from refembed.verify.hypothesis import FAILURES
from refembed.verify.reference import Reference
from refembed.verify.trials import CLEAR, FEW, HELPS, Case, joined, left, screen, telling

SOLVED = 16  # combinations that a number is solved for in
GRID = 12  # numbers of a family that are tried
Combination = tuple[float, Hypothesis, Family]


def with_numbers(
    case: Case, others: Sequence[Hypothesis], families: Sequence[Family], late: Callable[[], bool]
) -> list[Hypothesis]:
    """Pairs that fit a short text best, best first. late: whether the time is up."""
    model = [f for f in families if f.stage == "model"]
    found: list[Hypothesis] = []
    for score, other, family in nearest(case, others, model, late)[:SOLVED]:
        if score >= HELPS or late():
            break
        found += solved_under(case, other, family)
        if found and min(screen(case, found[-1:]).values(), default=1.0) <= CLEAR:
            return found[-1:]
    return found


def nearest(
    case: Case, others: Sequence[Hypothesis], families: Sequence[Family], late: Callable[[], bool]
) -> list[Combination]:
    """Each change with each family, by what the best number of a grid leaves of a short text."""
    places = telling(case, 1)
    best: dict[tuple[Hypothesis, str], tuple[float, Family]] = {}
    for family in families:
        for value in family.values[:: max(1, len(family.values) // GRID)]:
            if late():
                break
            number = family.at(value)
            with forgetting(case.reference):
                for h in others:
                    share = share_left(case, joined(number, h), places)
                    if share < best.get((h, family.id), (1.0, family))[0]:
                        best[h, family.id] = share, family
    return sorted(((share, h, f) for (h, _), (share, f) in best.items()), key=lambda c: c[0])


def share_left(case: Case, h: Hypothesis, places: Sequence[int]) -> float:
    """What a change leaves of these texts' difference; 1 where it cannot be made."""
    try:
        return float((left(case, h.change(case.reference), places) / case.distances[list(places)]).max(initial=0.0))
    except FAILURES:
        return 1.0


def solved_under(case: Case, other: Hypothesis, family: Family) -> list[Hypothesis]:
    """The change with the number that fits best under it."""
    places = telling(case, 2 if case.smooth is None else FEW)
    items, vectors = [case.items[i] for i in places], [case.vectors[i] for i in places]
    smooth = None if case.smooth is None else other.change(case.smooth)
    found = solve(other.change(case.reference), items, vectors, [family], smooth)
    return [joined(other, h) for h, _ in found]


@contextmanager
def forgetting(reference: Reference) -> Iterator[None]:
    """What is computed within is dropped afterwards: a number of the grid is not asked for again."""
    kept = reference.by_numerics.hidden
    before = set(kept)
    try:
        yield
    finally:
        for key in set(kept) - before:
            del kept[key]
