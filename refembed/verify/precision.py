"""Whether a difference is the rounding of fewer bits, as GPUs compute, and nothing else.

An engine that multiplies in TF32 or runs in bfloat16 is right, and beyond the noise floor of float32. Its vectors
cannot be computed again: where it rounds is known in part only, and its roundings turn over with the order of its sums
(`hypotheses.precision`). But each precision has a noise floor of its own, and leaves three marks:

    size       the engine is as far from float32 as that precision is
    direction  and to the same side: weights are rounded in one way, whatever the order of sums, and so is what the
               first products read. A fault of the same size lies anywhere. Where the file's weights have so few bits
               already, little is left of this, and the report says that the size alone decides
    nothing    what is left has no projection on another cause: of a fault f in noise n, the sum over all numbers of
     else      f (f + n) is that of f f, give or take little, also where f is a tenth of n
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from refembed.arrays import F64
from refembed.verify.compare.floor import FEW as FEW_NUMBERS
from refembed.verify.compare.floor import LEAST, SCREEN, Floor, distance, relative_length
from refembed.verify.hypotheses import cheap_hypotheses
from refembed.verify.hypotheses.families import unit
from refembed.verify.hypotheses.precision import Precision, precisions, samples_of
from refembed.verify.hypothesis import FAILURES, Hypothesis
from refembed.verify.reference import Vectors
from refembed.verify.trials import FEW, Case, part, spread_out

MOST = 0.05  # 1 - cos of the median text: no precision moves vectors so far
SIZES = (0.5, 2.0)  # of the engine's distance over the precision's, mean of all texts
ROOM = (
    1.5  # of a text's own floor: of 15 texts in small models with random weights one was 2.9 times the precision away
)
DIRECTION = 0.4  # cosine of what the engine and the precision are off
LITTLE = 0.1  # where weights are not rounded
TABLE = re.compile("embd|token_types")  # tensors that are looked up in
GAP = 30.0  # times: what parts texts that a fault moves from those that it leaves alone
FEWEST = 4  # texts that it leaves alone
SIGNIFICANT = 7.0  # standard deviations of a projection; of sound engines at most 5.3 (small Qwen 3, cut to TF32)
SHARE = (0.5, 2.0)  # of a cause, that a projection is
LIKELY = 3  # causes that are tried with each precision


@dataclass(frozen=True)
class Fit:
    """A precision held against an engine's vectors."""

    precision: Precision
    case: Case  # distances are to the precision, and so is the floor
    size: float
    direction: float
    rest: F64  # all numbers of all texts, of vectors of length 1: what neither sample has of what the engine is off

    @property
    def samples(self) -> tuple[Hypothesis, Hypothesis]:
        """As hypotheses."""
        return samples_of(self.case.reference, self.precision)

    @property
    def good(self) -> bool:
        """Whether it has the precision's marks."""
        within = (self.case.distances <= self.case.floor.bound).all()
        return bool(within) and SIZES[0] <= self.size <= SIZES[1] and self.direction >= self.least

    @property
    def least(self) -> float:
        """What the direction has to be at least."""
        return LITTLE if self.by_size else DIRECTION

    @property
    def by_size(self) -> bool:
        """Whether no matrix of the file has more bits than the precision."""
        matrices = (t for n, t in self.case.reference.file.tensors.items() if len(t.shape) > 1 and not TABLE.search(n))
        return all(t.type.name in self.precision.holds for t in matrices)


def flat(vectors: Vectors) -> F64:
    """All numbers of all texts, vectors of length 1."""
    return np.concatenate([unit(v).ravel() for v in vectors])


def fit(case: Case, p: Precision) -> Fit | None:
    """How far the engine is as a precision is; None where that has no meaning for this model."""
    try:
        first, second = (h.change(case.reference).vectors(case.items, SCREEN) for h in samples_of(case.reference, p))
    except FAILURES:
        return None
    ours = case.floor.by_numerics[SCREEN]
    size = np.array([(distance(a, x) + distance(b, x)) / 2 for a, b, x in zip(first, second, ours, strict=True)])
    apart = np.array([distance(a, b) for a, b in zip(first, second, strict=True)])
    length = max(relative_length(a, x) for a, x in zip(first, ours, strict=True))
    names = {p.name: first, f"{p.name}, other sums": second}
    spread = ROOM * np.maximum(apart, np.maximum(size, size.mean()))
    floor = Floor(names, spread, case.floor.builds, length)
    theirs = flat(case.vectors) - flat(ours)
    samples = np.stack([flat(first) - flat(ours), flat(second) - flat(ours)], axis=1)
    own = samples.mean(axis=1)
    direction = float(theirs @ own / max(np.sqrt((theirs @ theirs) * (own @ own)), 1e-300))
    rest = theirs - samples @ np.linalg.lstsq(samples, theirs, rcond=None)[0]
    held = replace(case, floor=floor, distances=floor.distances(case.vectors)[0])
    return Fit(p, held, float((case.distances / np.maximum(size, 1e-300)).mean()), direction, rest)


def fits(case: Case) -> Iterator[Fit]:
    """Those whose size and direction are the engine's on a few short texts, the likeliest first, on all texts."""
    few = part(case, spread_out(case, FEW, 150))
    near = []
    for p in precisions():  # each rounds more than the one before
        f = fit(few, p)
        if f is not None and f.size < SIZES[0] / 2:
            break
        if f is not None and f.size <= 2 * SIZES[1] and f.direction >= f.least / 2:
            near.append(f)
    for f in sorted(near, key=lambda f: abs(np.log(f.size)) / 2 - f.direction):
        whole = fit(case, f.precision)
        if whole is not None and whole.good:
            yield whole


def precision_of(case: Case) -> Fit | None:
    """The precision that an engine has; None where it has none of these, or where there is no telling."""
    return next(fits(case), None) if comparable(case) else None


def comparable(case: Case) -> bool:
    """Whether these are vectors of many numbers, and about as far off as a precision could move them."""
    same = all(v.shape == x.shape for v, x in zip(case.vectors, case.floor.by_numerics[SCREEN], strict=True))
    many = case.vectors[0].shape[-1] > FEW_NUMBERS
    return same and many and LEAST < float(np.median(case.distances)) < MOST


def other_cause(case: Case, f: Fit) -> list[Hypothesis]:
    """What the engine does otherwise, below the rounding of its precision; empty where nothing else shows.

    case  as it is in float32
    """
    listed = [h for h in cheap_hypotheses(case.reference, case.items) if h.stage != "batch"]
    chosen = spread_out(case, FEW, 150)
    few = part(case, chosen)
    again = fit(few, f.precision)
    if again is None:
        return []
    near = [x.hypothesis for x in projections(few, again.rest, listed) if x.deviations >= SIGNIFICANT / 2]
    found = [
        x for x in projections(case, f.rest, near) if x.deviations >= SIGNIFICANT and SHARE[0] <= x.share <= SHARE[1]
    ]
    found.sort(key=lambda x: -x.deviations)
    return [x.hypothesis for x in found[:1]]


def with_its_rounding(case: Case) -> Case:
    """The case with the floor of the engine's precision, where some texts are far off and the others show that it has
    one: a cut moves long texts alone, and is looked for between those that differ and those that do not.
    """
    order = np.sort(case.distances)
    steps = order[1:] / np.maximum(order[:-1], 1e-300)
    n = int(np.argmax(steps)) + 1 if len(steps) else 0
    if n < FEWEST or steps[n - 1] < GAP:
        return case
    near = precision_of(part(case, np.flatnonzero(case.distances <= order[n - 1]).tolist()))
    whole = None if near is None else fit(case, near.precision)
    if whole is None:
        return case
    return replace(case, floor=replace(case.floor, spread=np.maximum(case.floor.spread, whole.case.floor.spread)))


@dataclass(frozen=True)
class Projection:
    """Of what is left of a difference, on what a hypothesis changes: an ordinary least squares fit of one number."""

    hypothesis: Hypothesis
    share: float  # of the cause: 1 is all of it
    deviations: float  # how many standard deviations that is from nothing


def likely(case: Case, hypotheses: Sequence[Hypothesis]) -> list[Hypothesis]:
    """Those on which the difference of a few short texts has the most significant projections.

    One text says little of a cause that is as small as the rounding.
    """
    if not comparable(case):
        return []
    few = part(case, spread_out(case, FEW, 150))
    rest = flat(few.vectors) - flat(few.floor.by_numerics[SCREEN])
    found = [
        x
        for x in projections(few, rest, hypotheses)
        if x.deviations >= SIGNIFICANT / 2 and SHARE[0] <= x.share <= SHARE[1]
    ]
    return [x.hypothesis for x in sorted(found, key=lambda x: -x.deviations)[:LIKELY]]


def projections(case: Case, rest: F64, hypotheses: Sequence[Hypothesis]) -> Iterator[Projection]:
    """Of each hypothesis. rest: what is left of all numbers of all texts."""
    ours = flat(case.floor.by_numerics[SCREEN])
    for h in hypotheses:
        if case.budget.spent(h.stage):
            continue
        try:
            moved = flat(h.change(case.reference).vectors(case.items, SCREEN))
        except FAILURES:
            continue
        if moved.shape != ours.shape or not np.isfinite(moved).all():
            continue
        f = moved - ours
        square, noise = float(f @ f), float(np.sqrt((rest * f) @ (rest * f)))
        if square > 0 and noise > 0:
            yield Projection(h, float(rest @ f) / square, float(rest @ f) / noise)
