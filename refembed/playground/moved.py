"""What a change does: how far it moves the vector, and the first tensor of the run that differs."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from refembed.explain.walkthrough import Array
from refembed.model.trace import Trace
from refembed.playground.run import Run
from refembed.verify.compare.arrays import same_bits
from refembed.verify.compare.floor import distance
from refembed.verify.verdict import plain

LAYER = re.compile(r"-(\d+)(?:\[\d+\])?$")


@dataclass(frozen=True)
class TensorMoved:
    """One tensor of the unchanged run, and what has become of it."""

    name: str  # as `refembed verify` writes it: "Qcur-0[1]" is the second of that name
    layer: int | None
    relative: float | None  # |changed - unchanged| / |unchanged|; None where the changed run has no such tensor

    @property
    def differs(self) -> bool:
        """Whether it is not the same to the bit."""
        return self.relative is None or self.relative > 0


@dataclass(frozen=True)
class Moved:
    """Two runs of one text, side by side."""

    distance: float  # 1 - cos of the vectors
    length: float  # |changed| / |unchanged|, not normalized
    token: int | None  # the first place where the ids differ; None where they are the same
    tensors: tuple[TensorMoved, ...]  # in the order of the run; none where the numbers of tokens differ
    layers: tuple[float, ...]  # of the states into the first layer and out of each: as `TensorMoved.relative`

    @property
    def first(self) -> TensorMoved | None:
        """The first tensor that differs; None where all are the same."""
        return next((t for t in self.tensors if t.differs), None)


def moved(before: Run, after: Run) -> Moved:
    """Compare a changed run with the unchanged one."""
    same_length = len(before.ids) == len(after.ids)
    length = float(np.linalg.norm(before.pooled))
    return Moved(
        distance=distance(after.pooled, before.pooled),
        length=float(np.linalg.norm(after.pooled)) / length if length else 1.0,
        token=first_apart(before.ids, after.ids),
        tensors=tuple(tensors(before.trace, after.trace)) if same_length else (),
        layers=tuple(map(relative, before.hidden, after.hidden)) if same_length else (),
    )


def tensors(before: Trace, after: Trace) -> Iterator[TensorMoved]:
    """Each tensor with its partner: the k-th of a name belongs to the k-th."""
    seen: Counter[str] = Counter()
    theirs: dict[tuple[str, int], Array] = {}
    for t in after.tensors:
        theirs[t.name, seen[t.name]] = t.array
        seen[t.name] += 1
    seen.clear()
    for t in before.tensors:
        k = seen[t.name]
        seen[t.name] += 1
        name = f"{t.name}[{k}]" if k else t.name
        found, layer = theirs.get((t.name, k)), LAYER.search(name)
        there = found is not None and found.shape == t.array.shape
        off = relative(t.array, found) if there and found is not None else None
        yield TensorMoved(name, int(layer[1]) if layer else None, off)


def relative(a: Array, b: Array) -> float:
    """|b - a| / |a| of whole arrays; 0 for the same bits alone, infinite where a number is not finite on one side."""
    if a.shape != b.shape:
        return np.inf
    if same_bits(a, b):
        return 0.0
    x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
    with np.errstate(all="ignore"):
        size = np.abs(x).max(initial=0.0) or 1.0
        off, whole = np.linalg.norm((y - x) / size), np.linalg.norm(x / size)
        found = float(off / whole) if whole else np.inf
    return max(found, np.finfo(np.float64).tiny) if np.isfinite(found) else np.inf


def first_apart(a: list[int], b: list[int]) -> int | None:
    """The first place where two lists differ."""
    if a == b:
        return None
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def as_object(m: Moved, bound: float) -> dict[str, object]:
    """As JSON has it: numbers that are not finite as text."""
    first = m.first
    found: dict[str, object] = plain({
        "distance": m.distance, "length": m.length, "bound": bound, "token": m.token,
        "first": None if first is None else vars(first), "layers": list(m.layers),
        "tensors": [[t.name, t.relative] for t in m.tensors],
    })  # fmt: skip
    return found
