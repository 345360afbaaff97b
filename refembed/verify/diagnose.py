"""Why do these vectors differ? Hypotheses are tried, not guessed: the fewest that bring the difference down to noise.

    1. every hypothesis, on one short text that agrees (it must stay there) and one that differs, in float32
    2. what is left, and what helped most, on all texts and in every arithmetic: who falls to the floor explains it
    3. if none does: weights of another type; then pairs, made of those that helped most; then sums by size

Two hypotheses that leave the same difference are a tie, and reported as one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np

from refembed.arrays import F64
from refembed.errors import RefembedError
from refembed.verify.budget import Budget
from refembed.verify.floor import EVERYWHERE, LEAST, SCREEN, Floor, distance, floor_of
from refembed.verify.hypotheses import Hypothesis, cheap_hypotheses, truncations, weight_hypotheses
from refembed.verify.hypotheses_front import cut_of, number
from refembed.verify.hypothesis import both
from refembed.verify.reference import Item, Reference, Vectors

SHORTLIST = 6  # hypotheses that are tried on all texts after each round
PAIRED = 4  # that pairs are built upon
TIE = 2.0  # what leaves less than this times the smallest difference left is as good
CLEAR = 1e-3  # of the difference: what leaves less is no coincidence
HELPS = 0.97  # of the difference: what leaves more does not help
FAR = 100.0  # times its bound: what lies beyond is no rounding, whatever the arithmetic
FEW, MORE = 8, 24  # texts that a candidate is held against, first and last
PLAIN = (SCREEN, "ggml")  # the arithmetics that most engines are near to
CLEARLY = 0.01  # a difference within rounding is explained all the same by what leaves less than this of it
BY_SIZE = 4.0  # half precision is told by size: within this factor


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


@dataclass(frozen=True)
class Diagnosis:
    """What explains a difference: the best of `explained`, its equals beside it; nothing where it is empty."""

    explained: tuple[Trial, ...]  # best first; more than one is a tie
    tried: int  # hypotheses and pairs
    best: tuple[Trial, ...]  # what helped most, whether or not it explains
    by_size: bool = False  # told by the size of the difference alone


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

    @property
    def differs(self) -> list[bool]:
        """Which texts are beyond their bound."""
        return [bool(d) for d in self.distances > self.floor.bound]


def diagnose(case: Case) -> Diagnosis:
    """Find what explains the vectors that differ."""
    hypotheses = cheap_hypotheses(case.reference, case.items)
    scores = screen(case, [*hypotheses, *truncations(case.reference, case.items, case.differs)])
    cuts = refined_cuts(case, scores)
    scores |= screen(case, cuts)
    tried = len(scores)
    found = confirm(case, shortlist(scores, SHORTLIST))
    if not explains(found):
        second = beside_the_first(case, scores, found)
        tried += len(second)
        found += confirm(case, second)
    if not explains(found):
        heavy = weight_hypotheses(case.reference)
        scores |= screen(case, heavy)
        found += confirm(case, shortlist({h: s for h, s in scores.items() if h in heavy}, SHORTLIST))
        tried += len(heavy)
    if not explains(found):
        pairs = pairs_of(case, scores, found)
        tried += len(pairs)
        found += confirm(case, shortlist(screen(case, pairs), SHORTLIST))
    found = with_the_long_ones(case, scores, found)
    found.sort(key=lambda t: (t.over > 1, t.left))
    sized = [] if explains(found) else by_size(case, hypotheses)
    return Diagnosis(tuple(ties(found) or sized), tried, tuple(found[:8]), bool(sized) and not explains(found))


def probe(case: Case) -> Diagnosis:
    """What explains a difference that is within rounding far better than rounding does, if anything."""
    few = sorted(range(len(case.items)), key=lambda i: len(case.reference.ids_of(case.items[i])))
    few = [i for i in few if case.distances[i] > LEAST][:3]
    if not few:
        return Diagnosis((), 0, ())
    small = part(case, few)
    hypotheses = [h for h in cheap_hypotheses(case.reference, small.items) if h.stage not in ("text", "tokens")]
    scores = screen(small, hypotheses)
    limit = CLEARLY * float(small.distances.min())
    good = [t for t in confirm(small, shortlist(scores, 4)) if t.left <= max(limit, LEAST)]
    whole = [t for t in confirm(case, [t.hypotheses for t in good]) if t.left <= CLEARLY * float(case.distances.max())]
    return Diagnosis(tuple(ties(whole)), len(scores), tuple(whole))


def part(case: Case, which: Sequence[int]) -> Case:
    """Some of the texts."""
    floor = case.floor
    worlds = {w: [v[i] for i in which] for w, v in floor.worlds.items()}
    small = replace(floor, worlds=worlds, spread=floor.spread[list(which)])
    items, vectors = [case.items[i] for i in which], [case.vectors[i] for i in which]
    distances = case.distances[list(which)]
    return replace(case, items=items, vectors=vectors, floor=small, distances=distances)


def screen(case: Case, hypotheses: Iterable[Hypothesis]) -> dict[Hypothesis, float]:
    """What each leaves of the difference of a short text, over what was there; 1 where it moves a text that agreed.

    The right one leaves nothing of any text; so one text that differs and one that agrees rule out nearly all.
    """
    lengths = [len(case.reference.ids_of(item)) for item in case.items]
    order = sorted(range(len(case.items)), key=lambda i: lengths[i])
    good = [i for i in order if not case.differs[i] and lengths[i] > 2][:1]
    bad = [i for i in order if case.differs[i]] or order
    bad = sorted(bad[: max(1, len(bad) // 2)], key=lambda i: (lengths[i] < 6, lengths[i]))[:1]
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
        except (RefembedError, IndexError, ValueError, AttributeError, TypeError):
            continue  # a change that this model, or these texts, cannot take
    return scores


def left(case: Case, changed: Reference, which: Sequence[int], world: str = SCREEN) -> F64:
    """Distance of some texts under a change, in one arithmetic."""
    if not which:
        return np.zeros(0)
    found = changed.vectors([case.items[i] for i in which], world)
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
    worlds: dict[str, Sequence[str]] = {}
    first = []
    for c in candidates:
        if case.budget.spent("trial"):
            continue
        t, worlds[t_id(c)] = trial(few, c, PLAIN), PLAIN
        if 1 < t.over < 100:
            t, worlds[t_id(c)] = trial(few, c, EVERYWHERE), EVERYWHERE
        first.append(t)
    best = min((t.mean for t in first if t.over <= 1), default=0.0)
    near = {t.id for t in first if t.over <= 1 and t.mean <= 4 * TIE * best + LEAST}
    return [trial(more, t.hypotheses, worlds[t.id]) if t.id in near else t for t in first]


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


def trial(case: Case, hypotheses: tuple[Hypothesis, ...], worlds: Sequence[str]) -> Trial:
    """Measure one candidate."""
    reference = case.reference
    for h in hypotheses:
        reference = h.change(reference)
    try:
        floor = floor_of(reference, case.items, worlds)
        distances, _ = floor.distances(case.vectors)
    except (RefembedError, IndexError, ValueError, AttributeError, TypeError):
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
    """Those that explain, best first, as far as they cannot be told apart. One change goes before two."""
    good = [t for t in found if t.over <= 1]
    good = [t for t in good if len(t.hypotheses) == min(len(g.hypotheses) for g in good)]
    return [t for t in good if t.mean <= TIE * min(g.mean for g in good) + LEAST / 100]


def beside_the_first(
    case: Case, scores: dict[Hypothesis, float], found: Sequence[Trial]
) -> list[tuple[Hypothesis, ...]]:
    """Pairs with what explains most of the texts, but not all: the rest need a second cause, and show which.

    A tokenizer that differs on one text beside another activation is found so at once, without all the pairs.
    """
    best = min(found, key=lambda t: t.mean, default=None)
    if best is None or len(best.hypotheses) != 1:
        return []
    first, some = best.hypotheses[0], part(case, spread_out(case, MORE, 400))
    rest = under(some, best.hypotheses)
    if 2 * sum(rest.differs) > sum(some.differs) or not any(rest.differs):
        return []
    others = [h for h in scores if h.family != first.family or not h.family]
    found_now = screen(rest, [h for h in others if h.stage != "model"])  # a model's change moves every text
    if min(found_now.values(), default=1.0) > CLEAR:
        found_now |= screen(rest, [h for h in others if h.stage == "model"])
    return [(joined(first, h),) for (h,) in shortlist(found_now, SHORTLIST)]


def under(case: Case, hypotheses: Sequence[Hypothesis]) -> Case:
    """The case as it stands with these changes made: what differs now is left."""
    reference = case.reference
    for h in hypotheses:
        reference = h.change(reference)
    floor = floor_of(reference, case.items, (SCREEN,))
    floor = replace(floor, spread=np.maximum(floor.spread, case.floor.spread))
    return replace(case, reference=reference, floor=floor, distances=floor.distances(case.vectors)[0])


def with_the_long_ones(case: Case, scores: dict[Hypothesis, float], found: list[Trial]) -> list[Trial]:
    """Trials leave long texts out; where one is far off under what explains the others, a further cause is looked for.

    A text that is cut shows in long texts alone. If nothing explains them, the trial says what it leaves of them.
    """
    best = ties(found)
    if not best or any(h.stage == "weights" for h in best[0].hypotheses):  # their floor is not this one
        return found
    rest = under(case, best[0].hypotheses)
    far = rest.distances > FAR * np.maximum(rest.floor.bound, 1e-7)
    if not far.any():
        return found
    now = part(rest, np.flatnonzero(far | (rest.distances <= rest.floor.bound)).tolist())
    shorter = truncations(now.reference, now.items, now.differs)
    found_now: dict[Hypothesis, float] = {}
    for _, at_one in groupby(shorter, key=lambda h: number(h.id)):  # usual lengths first; these texts are long
        found_now |= screen(now, at_one)
        if min(found_now.values(), default=1.0) < CLEAR:
            break
    else:
        found_now |= screen(now, refined_cuts(now, found_now))
        found_now |= screen(now, [h for h in scores if h.stage in ("text", "tokens")])
    few = part(case, sorted({*np.flatnonzero(far).tolist(), *spread_out(case, 4, 60)}))
    more = [trial(few, (*t.hypotheses, h), PLAIN) for t in best for (h,) in shortlist(found_now, 2)]
    good = [t for t in more if t.over <= 1]
    if good:
        return good + [t for t in found if t not in best]
    return [replace(t, left=float(rest.distances.max())) if t in best else t for t in found]


def pairs_of(case: Case, scores: dict[Hypothesis, float], found: Sequence[Trial]) -> list[Hypothesis]:
    """Two at a time: those that helped most, each with every other that is not of its family."""
    ranked = sorted((h for h in scores if scores[h] < HELPS), key=lambda h: scores[h])
    seeds: list[Hypothesis] = []
    for h in ranked:  # of each family the best
        if len(seeds) < PAIRED and all(s.family != h.family or not h.family for s in seeds):
            seeds.append(h)
    pairs = []
    for i, first in enumerate(seeds):
        for second in scores:
            apart = second not in seeds[: i + 1] and (first.family != second.family or not first.family)
            if apart and second.stage != "weights":
                pairs.append(joined(first, second))
    return pairs


STAGES = ("text", "tokens", "batch", "model", "weights", "pooling", "vector")


def joined(first: Hypothesis, second: Hypothesis) -> Hypothesis:
    """Both, in the order in which a text meets them."""
    a, b = sorted((first, second), key=lambda h: STAGES.index(h.stage))
    return Hypothesis(
        f"{a.id} + {b.id}", b.stage, f"{a.says}, and {b.says}", both(a.change, b.change), advice=a.advice or b.advice
    )


def refined_cuts(case: Case, scores: dict[Hypothesis, float]) -> list[Hypothesis]:
    """Cuts beside the best that was tried, a token at a time."""
    best = min((h for h in scores if h.family == "cut"), key=lambda h: scores[h], default=None)
    return [] if best is None or scores[best] < 1e-6 else cut_of(case.reference, best, scores)


def by_size(case: Case, hypotheses: Sequence[Hypothesis]) -> list[Trial]:
    """Half precision: where an engine rounds cannot be known, so its vectors are as far off as ours, not the same."""
    found = []
    for h in hypotheses:
        if h.family != "half":
            continue
        size = np.array([distance(a, b) for a, b in zip(
            h.change(case.reference).vectors(case.items, SCREEN), case.floor.worlds[SCREEN], strict=True)])  # fmt: skip
        ratio = float(np.median(case.distances / np.maximum(size, 1e-15)))
        if 1 / BY_SIZE < ratio < BY_SIZE and float(case.distances.max()) < BY_SIZE * float(size.max()):
            found.append(
                (abs(np.log(ratio)), Trial((h,), float(case.distances.max()), float(case.distances.mean()), 1.0))
            )
    return [t for _, t in sorted(found, key=lambda f: f[0])][:2]
