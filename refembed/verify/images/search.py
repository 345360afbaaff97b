"""Which hypothesis explains what an engine does with images: each is tried on little, the best on everything.

An observation is what the engine showed once: rows of an image, or the vector of a text with images. A hypothesis
explains them where it brings every one within its bound.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from refembed.arrays import F64
from refembed.verify.compare.floor import LEAST, Floor, distance
from refembed.verify.images.hypothesis import FAILURES, ImageHypothesis, joined
from refembed.verify.images.pictures import ImageItem
from refembed.verify.images.pixels import pixel_hypotheses
from refembed.verify.images.reference import ImageReference
from refembed.verify.images.texts import text_hypotheses
from refembed.verify.images.towers import tower_hypotheses

FEW = 2  # observations that a hypothesis is first tried on
CONFIRMED = 6  # of those that do best there
FRONT = 4  # of which pairs are made
TIE = 30.0  # times what the best leaves: no worse


@dataclass(frozen=True)
class Observation:
    """What the engine showed of one input."""

    what: Literal["rows", "vector"]
    item: ImageItem
    theirs: F64  # (n, E), or (D)

    def ours(self, r: ImageReference, numerics: str) -> F64:
        """The reference's."""
        if self.what == "rows":
            return np.asarray(r.image_rows(self.item.image, numerics), np.float64)
        return np.asarray(r.vector(self.item.given, numerics), np.float64)


@dataclass(frozen=True)
class Tried:
    """A hypothesis, and what it leaves of the difference."""

    hypothesis: ImageHypothesis
    left: float  # 1 - cos, of the worst observation
    over: float  # the same over its bound: at most 1 where it explains


@dataclass(frozen=True)
class Search:
    """What came of it."""

    found: tuple[Tried, ...]  # that explain, the best first
    tried: int
    best: tuple[Tried, ...]  # that helped most
    untried: int = 0  # left out for lack of time


@dataclass
class Case:
    """What is to be explained."""

    reference: ImageReference
    observations: Sequence[Observation]
    floor: Floor
    distances: F64
    until: float | None  # time.monotonic() at which the search ends
    cheap: Sequence[int]  # observations in order of their cost

    def late(self) -> bool:
        """Whether time is up."""
        return self.until is not None and time.monotonic() > self.until

    def leaves(self, h: ImageHypothesis, places: Sequence[int], several: Sequence[str]) -> tuple[float, float]:
        """What a hypothesis leaves of these observations, and the same over their bounds; 1 where it cannot be run."""
        left, over = 0.0, 0.0
        try:
            changed = h.change(self.reference)
            for i in places:
                o = self.observations[i]
                if o.what == "rows" and changed.tower.n_tokens(changed.seen(o.item.image)) != len(o.theirs):
                    return 1.0, np.inf  # of another number: the tower need not run
                with np.errstate(all="ignore"):
                    d = min(distance(o.theirs, o.ours(changed, numerics)) for numerics in several)
                left, over = max(left, d), max(over, d / float(self.floor.bound[i]))
        except FAILURES:
            return 1.0, np.inf
        return left, over


def hypotheses_for(r: ImageReference, vectors: bool) -> Iterator[ImageHypothesis]:
    """All of them, the likeliest first. vectors: those about the text model too."""
    yield from pixel_hypotheses(r)
    yield from tower_hypotheses(r)
    if vectors:
        yield from text_hypotheses(r)


def search(case: Case) -> Search:
    """The causes. Where rows agree already, what comes before the text model is right."""
    wrong = [i for i in case.cheap if case.distances[i] > case.floor.bound[i]]
    rows = any(case.observations[i].what == "rows" for i in wrong)
    seen = any(o.what == "rows" for o in case.observations)
    listed = list(hypotheses_for(case.reference, any(o.what == "vector" for o in case.observations)))
    if seen:
        listed = [h for h in listed if (h.stage == "text") != rows]
    few = wrong[:FEW]
    scores, untried = screen(case, listed, few)
    found = confirmed(case, scores)
    tried = len(scores)
    if not found and scores:
        front = sorted(scores, key=lambda t: t.left)[:FRONT]
        pairs = [
            joined(t.hypothesis, h)
            for t, h in itertools.product(front, listed)
            if h is not t.hypothesis and t.left < 0.9 * float(max(case.distances[i] for i in few))
        ]
        more, late = screen(case, pairs, few)
        found, tried, untried = confirmed(case, more), tried + len(more), untried + late
        scores += more
    best = tuple(sorted(scores, key=lambda t: t.left)[:5])
    return Search(found, tried, best, untried)


def screen(case: Case, listed: Sequence[ImageHypothesis], places: Sequence[int]) -> tuple[list[Tried], int]:
    """Each on a few observations in float32, until time is up; and how many were left out."""
    scores: list[Tried] = []
    for n, h in enumerate(listed):
        if case.late():
            return scores, len(listed) - n
        scores.append(Tried(h, *case.leaves(h, places[:1], ["fast"])))
        if scores[-1].over < 10 and len(places) > 1:
            scores[-1] = Tried(h, *case.leaves(h, places, ["fast"]))
    return scores, 0


def confirmed(case: Case, scores: Sequence[Tried]) -> tuple[Tried, ...]:
    """The best, on all observations and in every arithmetic: those that explain, without those that do much worse."""
    every = range(len(case.observations))
    several = list(case.floor.by_numerics)
    short = [t for t in sorted(scores, key=lambda t: t.left)[:CONFIRMED] if t.over < 10]
    done = [Tried(t.hypothesis, *case.leaves(t.hypothesis, every, several)) for t in short]
    good = sorted((t for t in done if t.over <= 1), key=lambda t: t.left)
    ties = [t for t in good if t.left <= max(TIE * good[0].left, LEAST / 100)]
    plain = [t for t in ties if not t.hypothesis.id.startswith("published")]
    return tuple(plain or ties)  # the published model is several things at once: named where no one of them does


def probe(case: Case) -> Tried | None:
    """What explains a difference that is within rounding a hundred times better than rounding does, if anything."""
    worst = sorted(case.cheap, key=lambda i: -case.distances[i])[:1]
    if not worst or case.distances[worst[0]] < LEAST:
        return None
    limit = float(case.distances[worst[0]]) / 100
    vectors = all(o.what == "vector" for o in case.observations)
    scores, _ = screen(case, list(hypotheses_for(case.reference, vectors)), worst)
    good = [t for t in sorted(scores, key=lambda t: t.left)[:3] if t.left <= limit]
    every = range(len(case.observations))
    most = float(case.distances.max()) / 100
    whole = [Tried(t.hypothesis, *case.leaves(t.hypothesis, every, list(case.floor.by_numerics))) for t in good]
    return next((t for t in whole if t.left <= most), None)
