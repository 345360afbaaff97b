"""What depends on texts next to or before a text: batches, state, caches. Interprets what `batch_effects.ask` got."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from refembed.arrays import F64
from refembed.verify import early
from refembed.verify.compare.floor import LEAST, distance
from refembed.verify.diagnose import diagnose
from refembed.verify.findings import Findings
from refembed.verify.hypotheses import batch_effects as together
from refembed.verify.hypotheses.batch_effects import BatchEffects
from refembed.verify.reference import Vectors
from refembed.verify.trials import Case, part
from refembed.verify.verdict import Cause


def case_of(found: Findings, progress: Callable[[str], object]) -> Case:
    """What `diagnose` needs."""
    return Case(found.reference, found.items, found.vectors, found.floor, found.distances, progress, found.budget)


def batch_effects_cause(found: Findings) -> list[Cause]:
    """What depends on the texts next to or before a text. Empty where nothing does."""
    c = found.batch_effects
    if c is None:
        return []
    bound = found.floor.bound[list(c.places)]
    if c.changed() > bound[0] and found_in(c.again, c.alone) is not None:
        return [Cause("stale", "answers with the vector of an earlier text (state is kept between requests)", 0.0)]
    if c.changed() > max(bound[0], together.SAME):
        says = "gives another vector when it is asked for the same text again (state is kept, or numbers are random)"
        return [Cause("state", says, c.changed())]
    if not (c.apart() > np.maximum(bound, together.SAME)).any():
        return equal_lengths_cause(found, c)
    alone = distances_of(found, c.alone, c.places)
    batch = distances_of(found, c.together, c.places)
    if (alone <= bound).all():
        chosen = [found.items[i] for i in c.places]
        if early.only_last_pieces(found.reference, chosen, c.together, bound):
            says = "pools only the last piece of a text where several share a batch; alone every text is right"
            return [Cause("pieces-pooled", says, 0.0)]
        leaks = together.leak_of(found.reference, c, found.items, found.floor)
        causes = [Cause(h.id, f"{h.says}; alone every text is right", 0.0) for h in leaks]
        says = "gives other vectors to texts in a batch than alone, where they are right"
        return causes or [Cause("batch-dependent", says)]
    if (batch <= bound).all():
        causes = diagnosed(found, c.alone, c.places, "alone-wrong", "asked for one text alone")
        return causes or [Cause("alone-wrong", "is right when asked for several texts, wrong when asked for one")]
    return []


def equal_lengths_cause(found: Findings, c: BatchEffects) -> list[Cause]:
    """What goes wrong in a batch whose texts have one length, and nowhere else."""
    if not c.equal_places:
        return []
    places = list(c.equal_places)
    bound = found.floor.bound[places]
    elsewhere = [found.vectors[i] for i in places]
    right = (found.distances[places] <= bound).all() and len(c.equal) == len(places)
    apart = [distance(a, b) for a, b in zip(c.equal, elsewhere, strict=False)]
    if not right or not (np.array(apart) > np.maximum(bound, together.SAME)).any():
        return []
    causes = diagnosed(found, c.equal, places, "equal-lengths", "asked for several texts of equal length")
    says = "gives other vectors to several texts of equal length, asked for together, than in other batches"
    return causes or [Cause("equal-lengths", says)]


def diagnosed(found: Findings, vectors: Vectors, places: Sequence[int], id: str, when: str) -> list[Cause]:
    """Why these answers differ, where others to the same texts are right."""
    case = replace(part(case_of(found, lambda message: None), list(places)), vectors=vectors)
    case.distances = case.floor.distances(vectors)[0]
    if not any(case.differs):
        return []
    trials = diagnose(case).explained
    return [Cause(f"{id} + {t.id}", f"{t.says}, when it is {when}; else it is right", t.left) for t in trials]


def found_in(vector: F64, others: Vectors) -> int | None:
    """Which other text's answer this is: any but the first."""
    near = [i for i, other in enumerate(others) if i and distance(vector, other) <= LEAST]
    return near[0] if near else None


def distances_of(found: Findings, vectors: Vectors, places: Sequence[int]) -> F64:
    """1 - cos to the nearest arithmetic, for some of the texts."""
    return part(case_of(found, print), list(places)).floor.distances(vectors)[0]
