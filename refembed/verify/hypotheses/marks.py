"""What vectors show by themselves, whatever the model: that their numbers are signs, multiples of a step, or zeros.

A change of the vector that leaves such a mark hides the faults before it: a number cannot be solved for from signs as
it can from numbers. So the mark is read first, and what comes before is looked for under it.

    signs of a vector          every magnitude is the same
    steps of 1/79              every number is a whole multiple of one step; the whole numbers' length is near 79
    8-bit whole numbers        likewise, and the largest is 127 in every vector
    zeros behind number 20     the same numbers are 0 in every vector
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from refembed.arrays import F64, I64
from refembed.verify.hypotheses.families import Family
from refembed.verify.hypothesis import Hypothesis
from refembed.verify.reference import Vectors

NEAR_WHOLE = 0.02  # from a whole number; of 36 arbitrary numbers all are so near in one of 10^49 vectors
DIVISORS = 100  # the smallest magnitude is a step or some: of 36 numbers with 4 decimals it is 50 or so
MOST = 40_000  # steps of a magnitude: float32 has no more than 24 bits
FEWEST = 8  # numbers of a vector: fewer may be multiples of a step by chance
OWN_NAMES = {1000: "vector-3-decimals", 100: "vector-2-decimals", 10_000: "vector-4-decimals",
             100_000: "vector-5-decimals"}  # fmt: skip


def marks(vectors: Vectors, listed: Sequence[Hypothesis], families: Iterable[Family]) -> list[Hypothesis]:
    """The changes of the vector that these vectors bear the mark of, at most one of steps and one of zeros.

    listed    hypotheses without a number
    families  those with one, `vector-steps` among them
    """
    if any(v.shape != vectors[0].shape or not np.isfinite(v).all() or not v.any() for v in vectors):
        return []
    if vectors[0].ndim != 1 or len(vectors[0]) < FEWEST:
        return []
    known, numbered = {h.id: h for h in listed}, {f.id: f for f in families}
    found: list[Hypothesis] = []
    for name in [*stepped(vectors), *zeroed(np.stack(vectors))]:
        family, _, number = name.rpartition("-")
        if name in known:
            found.append(known[name])
        elif family in numbered:
            found.append(numbered[family].at(float(number)))
    return found


def stepped(vectors: Vectors) -> list[str]:
    """The name of the whole numbers that these vectors are, up to their length; nothing where they are none."""
    found = [whole_numbers(v) for v in vectors]
    whole = [n for n in found if n is not None]
    if len(whole) < len(found):
        return []
    largest = {int(np.abs(n).max()) for n in whole}
    if largest == {1} and all(n.all() for n in whole):
        return ["vector-binary"]
    if largest == {1} and all((n >= 0).all() for n in whole):
        return ["vector-bits"]
    if len(largest) == 1 and len(vectors) > 2:
        (most,) = largest
        return ["vector-int8"] if most == 127 else [f"vector-levels-{most}"]
    steps = [np.sqrt(max(float(n @ n) - len(n) / 12, 1.0)) for n in whole]  # rounding adds 1/12 to each square
    near = round(float(np.median(steps)))
    own = OWN_NAMES.get(round(near, -len(str(near)) + 2), "vector-int8-unit" if near == 127 else "")
    return [own or f"vector-steps-{near:g}"]


def whole_numbers(v: F64) -> I64 | None:
    """The whole numbers without a common divisor that a vector is a multiple of; None where there are none."""
    size = np.abs(v)
    least = float(size[size > 1e-6 * size.max()].min())
    for divisor in range(1, DIVISORS + 1):
        ratio = v / least * divisor
        if np.abs(ratio).max() <= MOST and np.abs(ratio - np.round(ratio)).max() < NEAR_WHOLE:
            return np.round(ratio).astype(np.int64)
    return None


def zeroed(table: F64) -> list[str]:
    """The name of the zeros that all vectors (N, D) have in the same places."""
    empty = np.asarray((table == 0).all(axis=0))
    D, n = len(empty), int(empty.sum())
    if not n or n == D:
        return []
    if empty[-n:].all():
        return ["vector-zeroed-half" if D - n == D // 2 else f"vector-zeroed-from-{D - n:g}"]
    if empty[:n].all():
        return [f"vector-zeroed-until-{n:g}"]
    return [f"vector-number-lost-{int(np.flatnonzero(empty)[0]):g}"] if n == 1 else []
