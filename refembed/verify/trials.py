"""Hypotheses held against an engine's vectors: on a short text first, then on more, then in every arithmetic."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from refembed.arrays import F64
from refembed.verify.budget import Budget
from refembed.verify.compare.floor import EVERYWHERE, LEAST, SCREEN, Floor, distance, floor_of
from refembed.verify.hypothesis import FAILURES, Hypothesis, both
from refembed.verify.reference import Item, Reference, Vectors

SHORTLIST = 6  # hypotheses that are tried on all texts after each round
TIE = 2.0  # what leaves less than this times the smallest difference left is as good
CLEAR = 1e-3  # of the difference: what leaves less is no coincidence
HELPS = 0.97  # of the difference: what leaves more does not help
FEW, MORE = 8, 24  # texts that a candidate is held against, first and last
PLAIN = (SCREEN, "ggml")  # the arithmetics that most engines are near to
CLEARLY = 0.01  # a difference within rounding is explained all the same by what leaves less than this of it
EARNED = 30.0  # times: what a change brings the rest down by, for it to be a second cause. Drawn pairs: 1.3e7 or more;
# a soft cap with a bias, where biases of queries and keys are exchanged and no hypothesis is about that: below 30


@dataclass(frozen=True)
class Trial:
    """A hypothesis, or two, and what they leave of the difference."""

    hypotheses: tuple[Hypothesis, ...]
    left: float  # largest 1 - cos over the texts
    mean: float  # mean 1 - cos
    over: float  # largest 1 - cos over its bound; at most 1: within rounding

    @property
    def id(self) -> str:
        """Names joined by +."""
        return " + ".join(h.id for h in self.hypotheses)

    @property
    def says(self) -> str:
        """What the engine does, after "the engine"."""
        return ", and ".join(h.says for h in self.hypotheses)


@dataclass
class Case:
    """The texts and what the engine made of them."""

    reference: Reference
    items: Sequence[Item]
    vectors: Vectors  # the engine's
    floor: Floor
    distances: F64  # (N) to the nearest arithmetic
    progress: Callable[[str], object] = field(default=lambda message: None)
    budget: Budget = field(default_factory=Budget)  # shared by parts of the case
    smooth: Reference | None = None  # the reference without a change that leaves steps, where that is taken for known

    @property
    def differs(self) -> list[bool]:
        """Which texts are beyond their bound."""
        return [bool(d) for d in self.distances > self.floor.bound]


def part(case: Case, which: Sequence[int]) -> Case:
    """Some of the texts."""
    floor = case.floor
    several_numerics = {w: [v[i] for i in which] for w, v in floor.by_numerics.items()}
    small = replace(floor, by_numerics=several_numerics, spread=floor.spread[list(which)])
    items, vectors = [case.items[i] for i in which], [case.vectors[i] for i in which]
    distances = case.distances[list(which)]
    return replace(case, items=items, vectors=vectors, floor=small, distances=distances)


def telling(case: Case, n: int) -> list[int]:
    """Up to n texts that differ, plain and short ones first: what lies in the model shows in every text.

    Of a text with capitals, accents or white space one cannot say whether the tokenizer is wrong or the model.
    """
    lengths = [len(case.reference.ids_of(item)) for item in case.items]
    bad = [i for i in range(len(case.items)) if case.differs[i]] or list(range(len(case.items)))
    return sorted(bad, key=lambda i: (lengths[i] > 60, lengths[i] < 6, oddness(case.items[i]), lengths[i]))[:n]


def oddness(item: Item) -> int:
    """Characters that are no small ASCII letters and no single spaces, up to 8."""
    odd = len(re.findall(r"[^a-z ]|  |^ | $", item)) if isinstance(item, str) else 0
    return min(odd, 8)


def screen(case: Case, hypotheses: Iterable[Hypothesis]) -> dict[Hypothesis, float]:
    """What each leaves of the difference of a short text, over what was there; 1 where it moves a text that agreed.

    The right one leaves nothing of any text; so one text that differs and two that agree rule out nearly all.
    """
    lengths = [len(case.reference.ids_of(item)) for item in case.items]
    order = sorted(range(len(case.items)), key=lambda i: lengths[i])
    good = [i for i in order if not case.differs[i] and lengths[i] > 2][:2]
    bad = telling(case, 1)
    scores: dict[Hypothesis, float] = {}
    for h in hypotheses:
        if case.budget.spent("pair" if " + " in h.id else h.stage):
            continue
        try:
            changed = h.change(case.reference)
            score = float((left(case, changed, bad) / case.distances[bad]).max(initial=0.0))
            if score < HELPS and (left(case, changed, good) > 3 * case.floor.bound[good]).any():
                score = 1.0
            scores[h] = score
        except FAILURES:
            continue  # a change that this model, or these texts, cannot take
    return scores


def left(case: Case, changed: Reference, which: Sequence[int], numerics: str = SCREEN) -> F64:
    """Distance of some texts under a change, in one arithmetic."""
    if not which:
        return np.zeros(0)
    found = changed.vectors([case.items[i] for i in which], numerics)
    return np.array([distance(case.vectors[i], x) for i, x in zip(which, found, strict=True)])


def shortlist(scores: dict[Hypothesis, float], n: int) -> list[tuple[Hypothesis, ...]]:
    """The n that left least; what leaves next to nothing always comes along."""
    order = sorted(scores, key=lambda h: scores[h])
    if order and scores[order[0]] < CLEAR:  # one that leaves nothing: only its like come along
        order = [h for h in order if scores[h] <= max(100 * scores[order[0]], CLEAR)]
    return [(h,) for k, h in enumerate(order) if scores[h] < 0.9 and (k < n or scores[h] < 1e-4) and k < 4 * n]


def confirm(case: Case, candidates: Sequence[tuple[Hypothesis, ...]]) -> list[Trial]:
    """Candidates on some texts, then on more; the floor is measured anew under each.

    Two arithmetics first; the others for those that come near. What does not explain is kept with what it leaves.
    """
    few, more = (part(case, which) for which in (spread_out(case, FEW, 150), spread_out(case, MORE, 400)))
    several_numerics: dict[str, Sequence[str]] = {}
    first = []
    for c in candidates:
        if case.budget.spent("trial"):
            continue
        t, several_numerics[t_id(c)] = trial(few, c, PLAIN), PLAIN
        if 1 < t.over < 100:
            t, several_numerics[t_id(c)] = trial(few, c, EVERYWHERE), EVERYWHERE
        first.append(t)
    best = min((t.mean for t in first if t.over <= 1), default=0.0)
    near = {t.id for t in first if t.over <= 1 and t.mean <= 4 * TIE * best + LEAST}
    return [trial(more, t.hypotheses, several_numerics[t.id]) if t.id in near else t for t in first]


def t_id(hypotheses: tuple[Hypothesis, ...]) -> str:
    """As `Trial.id`."""
    return " + ".join(h.id for h in hypotheses)


def spread_out(case: Case, n: int, tokens: int) -> list[int]:
    """Up to n texts and so many tokens, short ones first, a third of them such as agree, if there are such."""
    lengths = [len(case.reference.ids_of(item)) for item in case.items]
    order = sorted(range(len(case.items)), key=lambda i: lengths[i])
    chosen: list[int] = []
    for differs, share in ((True, 2 / 3), (False, 1 / 3)):
        spent = 0
        for k, i in enumerate([i for i in order if case.differs[i] is differs][: max(2, round(n * share))]):
            spent += lengths[i]
            if k < 2 or spent <= tokens * share:
                chosen.append(i)
    return sorted(chosen) or order[:n]


def trial(case: Case, hypotheses: tuple[Hypothesis, ...], several_numerics: Sequence[str]) -> Trial:
    """Measure one candidate."""
    reference = case.reference
    for h in hypotheses:
        reference = h.change(reference)
    try:
        floor = floor_of(reference, case.items, several_numerics)
        distances, _ = floor.distances(case.vectors)
    except FAILURES:
        return Trial(hypotheses, np.inf, np.inf, np.inf)
    bound = np.minimum(floor.bound, np.maximum(case.floor.bound, 1e-3))  # no change may loosen it beyond sense
    case.progress(f"{' + '.join(h.id for h in hypotheses)}: {distances.max(initial=0):.2g} left")
    return Trial(
        hypotheses, float(distances.max(initial=0)), float(distances.mean()), float((distances / bound).max(initial=0))
    )


def explains(found: Sequence[Trial]) -> bool:
    """Whether any brings the difference down to rounding."""
    return any(t.over <= 1 for t in found)


def ties(found: Sequence[Trial]) -> list[Trial]:
    """Those that explain, best first, as far as they cannot be told apart. One change goes before two.

    Where lower-casing does, lower-casing that strips accents as well is no cause of its own.
    """
    good = [t for t in found if t.over <= 1]
    good = [t for t in good if len(t.hypotheses) == min(len(g.hypotheses) for g in good)]
    good = [t for t in good if t.mean <= TIE * min(g.mean for g in good) + LEAST / 100]
    ids = {t.id for t in good}
    return [t for t in good if not any(simpler in ids for h in t.hypotheses for simpler in h.includes)]


def each_once(found: Sequence[Trial]) -> list[Trial]:
    """Best first; of those that say the same, which two searches may have come to, the best alone."""
    once: dict[str, Trial] = {}
    for t in sorted(found, key=lambda t: (t.over > 1, t.left)):
        once.setdefault(t.id, t)
    return list(once.values())


def under(case: Case, hypotheses: Sequence[Hypothesis]) -> Case:
    """The case as it stands with these changes made: what differs now is left."""
    reference, smooth = case.reference, case.smooth
    for h in hypotheses:
        reference = h.change(reference)
        smooth = None if smooth is None else h.change(smooth)
    floor = floor_of(reference, case.items, (SCREEN,))
    floor = replace(floor, spread=np.maximum(floor.spread, case.floor.spread))
    distances = floor.distances(case.vectors)[0]
    return replace(case, reference=reference, floor=floor, distances=distances, smooth=smooth)


def earned(case: Case, t: Trial) -> bool:
    """Whether each of several changes is needed: without it, EARNED times as much is left of the worst text.

    A number that is free to be solved for brings any small rest down a little; that is no evidence for it.
    """
    halves = [half for h in t.hypotheses for half in (h.halves or (h,))]
    return len(halves) < 2 or any(gain(case, halves, several) >= EARNED for several in (PLAIN[:1], PLAIN))


def gain(case: Case, halves: Sequence[Hypothesis], several_numerics: Sequence[str] = PLAIN[:1]) -> float:
    """How many times as much is left of the worst text without that of several changes that is needed least.

    several_numerics  the arithmetics that the engine may be near to
    """
    left = []
    for some in (halves, *([other for other in halves if other is not h] for h in halves)):
        reference = case.reference
        for h in some:
            reference = h.change(reference)
        left.append(float(floor_of(reference, case.items, several_numerics).distances(case.vectors)[0].max()))
    return min(left[1:]) / max(left[0], 1e-300)


STAGES = ("text", "tokens", "batch", "model", "weights", "pooling", "vector")


def joined(first: Hypothesis, second: Hypothesis) -> Hypothesis:
    """Both, in the order in which a text meets them."""
    a, b = sorted((first, second), key=lambda h: STAGES.index(h.stage))
    return Hypothesis(
        f"{a.id} + {b.id}", b.stage, f"{a.says}, and {b.says}", both(a.change, b.change), advice=a.advice or b.advice,
        halves=(a, b),
    )  # fmt: skip
