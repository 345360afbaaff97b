"""Two traces side by side: each tensor of one with its partner of the other, and the first that is too far off.

lines = side_by_side(a, b)
first = next((x for x in lines if not x.within(ulp=0, rel=0)), None)

Either may be a printed run (llama.cpp's eval-callback): the two are then compared where numbers were printed, and agree
when printing to four decimals explains what is between them. Sums are left to `refembed verify`, which knows how far
rounding moves them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from refembed.model.trace import Trace
from refembed.verify.compare.align import align, without_empty_cells
from refembed.verify.compare.arrays import Array, Difference, compare
from refembed.verify.engines.dump import is_dump, read_dump


@dataclass(frozen=True)
class Line:
    """One tensor: of both, or of one alone."""

    name: str  # in a, or in b where a has none
    k: int  # the occurrence index of the of that name, from 0
    other: str | None  # its name in b: the same, or node_K; None where b has none
    shape: tuple[int, ...]
    difference: Difference | None  # None for a tensor of one trace alone
    only: str = ""  # "a" or "b"
    resolution: float = 0.0  # what printing alone may put between two elements; 0 where nothing was printed

    def within(self, ulp: int, rel: float) -> bool:
        """Whether the two agree: identical, or finite in the same places and as near as either bound asks.

        ulp  float32 steps between any two elements
        rel  largest difference over the largest magnitude of a
        """
        d = self.difference
        if d is None or not d.nonfinite_agree:
            return False
        return d.identical or d.max_ulps <= ulp or d.rel_peak <= rel or d.max_abs <= self.resolution * (1 + 1e-9)

    @property
    def title(self) -> str:
        """Its name, and which of several of that name."""
        return self.name if not self.k else f"{self.name} (no. {self.k + 1})"


def side_by_side(a: Trace, b: Trace) -> list[Line]:
    """Every tensor in the order of a, those of b alone at the end; a is the reference.

    Tensors pair as `verify.align` says: by name and order, nodes without a name by their place.
    """
    alignment = align(a, b)
    resolution = resolution_of(a) + resolution_of(b)
    x, y = without_empty_cells(a), without_empty_cells(b)
    found: dict[int, Line] = {}
    for p in alignment.pairs:
        ours, theirs = x.tensors[p.ours], y.tensors[p.theirs]
        pair = ours.array, theirs.array.reshape(ours.array.shape)
        difference = compare(*(in_both(*pair, a, b) if resolution else pair))
        found[p.ours] = Line(p.name, p.k, theirs.name, ours.array.shape, difference, resolution=resolution)
    for i in alignment.ours_only:
        found[i] = alone(x, i, "a")
    return [*(found[i] for i in sorted(found)), *(alone(y, i, "b") for i in alignment.theirs_only)]


def resolution_of(trace: Trace) -> float:
    """Half the last printed digit of a printed run, 0 of any other."""
    return float(trace.meta["resolution"]) if trace.meta.get("partial") else 0.0


def in_both(x: Array, y: Array, a: Trace, b: Trace) -> tuple[Array, Array]:
    """The elements that are there on both sides, flat; where a printed run has NaN, nothing was printed."""
    there = np.ones(x.shape, bool)
    for array, trace in ((x, a), (y, b)):
        if trace.meta.get("partial"):
            there &= ~np.isnan(array)
    return np.asarray(x[there], np.float64), np.asarray(y[there], np.float64)


def load_run(path: str | Path) -> Trace:
    """A trace from a file: what `Trace.save` wrote, or a printed run. RequestError, EngineError where it is neither."""
    path = Path(path)
    if path.is_file() and path.suffix.lower() != ".npz":
        text = path.read_bytes().decode("utf-8", "replace")
        if is_dump(text):
            return read_dump(text, str(path))
    return Trace.load(path)


def alone(trace: Trace, i: int, which: str) -> Line:
    """A tensor without a partner."""
    tap = trace.tensors[i]
    k = sum(t.name == tap.name for t in trace.tensors[:i])
    return Line(tap.name, k, None, tap.array.shape, None, which)
