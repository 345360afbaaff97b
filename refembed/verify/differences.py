"""Two traces side by side: each tensor of one with its partner of the other, and the first that is too far off.

lines = side_by_side(a, b)
first = next((x for x in lines if not x.within(ulp=0, rel=0)), None)
"""

from __future__ import annotations

from dataclasses import dataclass

from refembed.model.trace import Trace
from refembed.verify.align import align, without_empty_cells
from refembed.verify.compare import Difference, compare


@dataclass(frozen=True)
class Line:
    """One tensor: of both, or of one alone."""

    name: str  # in a, or in b where a has none
    k: int  # the how-manyth of that name, from 0
    other: str | None  # its name in b: the same, or node_K; None where b has none
    shape: tuple[int, ...]
    difference: Difference | None  # None for a tensor of one trace alone
    only: str = ""  # "a" or "b"

    def within(self, ulp: int, rel: float) -> bool:
        """Whether the two agree: identical, or finite in the same places and as near as either bound asks.

        ulp  float32 steps between any two elements
        rel  largest difference over the largest magnitude of a
        """
        d = self.difference
        if d is None or not d.nonfinite_agree:
            return False
        return d.identical or d.max_ulps <= ulp or d.rel_peak <= rel

    @property
    def title(self) -> str:
        """Its name, and which of several of that name."""
        return self.name if not self.k else f"{self.name} (no. {self.k + 1})"


def side_by_side(a: Trace, b: Trace) -> list[Line]:
    """Every tensor in the order of a, those of b alone at the end; a is the reference.

    Tensors pair as `verify.align` says: by name and order, nodes without a name by their place.
    """
    alignment = align(a, b)
    x, y = without_empty_cells(a), without_empty_cells(b)
    found: dict[int, Line] = {}
    for p in alignment.pairs:
        ours, theirs = x.taps[p.ours], y.taps[p.theirs]
        difference = compare(ours.array, theirs.array.reshape(ours.array.shape))
        found[p.ours] = Line(p.name, p.k, theirs.name, ours.array.shape, difference)
    for i in alignment.ours_only:
        found[i] = alone(x, i, "a")
    return [*(found[i] for i in sorted(found)), *(alone(y, i, "b") for i in alignment.theirs_only)]


def alone(trace: Trace, i: int, which: str) -> Line:
    """A tensor without a partner."""
    tap = trace.taps[i]
    k = sum(t.name == tap.name for t in trace.taps[:i])
    return Line(tap.name, k, None, tap.array.shape, None, which)
