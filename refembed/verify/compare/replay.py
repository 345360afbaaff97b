"""The local error of each operation: ours, on the other engine's own inputs.

Running two engines side by side shows how far they have drifted apart, not where. So our forward pass is run with the
other engine's tensors: at each tap it shows what it computed, and goes on with what the other engine had there. Every
difference is then that of the operations since the tap before, whatever went wrong further up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from refembed.arrays import Float
from refembed.errors import RequestError
from refembed.kernels.ops import Tap
from refembed.model.trace import Recorder, Trace, TracedTensor
from refembed.verify.compare.align import Alignment, Pair, align, without_empty_cells
from refembed.verify.compare.arrays import Array, Difference, compare


@dataclass(frozen=True)
class LocalDifference:
    """One tap: ours, computed from their inputs, is the reference; theirs is measured against it."""

    name: str  # in ours
    k: int  # the occurrence index of the of that name, from 0
    theirs: str  # their name: the same, or node_K
    op: str  # their operation
    difference: Difference


def replay(run: Callable[[Tap], object], theirs: Trace) -> list[LocalDifference]:
    """Run ours twice, once to see its taps and once on their tensors.

    run     runs our forward pass on the very token ids of `theirs`, showing its tensors to the tap it is given:
            `lambda tap: embedder.forward([ids], tap)`
    theirs  the other engine's trace
    """
    record = Recorder()
    run(record)
    tap = ReplayTap(record.trace, theirs, align(record.trace, theirs))
    run(tap)
    return tap.differences


class HandBack:
    """A tap that returns the other engine's tensor where one is paired, and shows each pair to `take`."""

    active = True

    def __init__(self, theirs: Trace, pairs: Iterable[Pair]) -> None:
        self.theirs = without_empty_cells(theirs)
        self.pairs, self.place = {p.ours: p for p in pairs}, 0

    def __call__(self, name: str, x: Float) -> Float:
        """Theirs in x's shape and dtype; an unpaired x as it is."""
        pair = self.pairs.get(self.place)
        self.place += 1
        if pair is None:
            return x
        tap = self.theirs.tensors[pair.theirs]
        y = tap.array.reshape(x.shape)
        self.take(pair, name, x, tap, y)
        return np.array(y, x.dtype)

    def take(self, pair: Pair, name: str, x: Float, tap: TracedTensor, y: Array) -> None:
        """Note x, which is ours, and y, the other engine's `tap` in the shape of x."""
        raise NotImplementedError


class ReplayTap(HandBack):
    """Compares what it is shown with the other engine's tensor."""

    def __init__(self, ours: Trace, theirs: Trace, alignment: Alignment) -> None:
        super().__init__(theirs, alignment.pairs)
        self.names = [t.name for t in ours.tensors]  # what the run is going to show, in order
        self.differences: list[LocalDifference] = []

    def __call__(self, name: str, x: Float) -> Float:
        """As HandBack does. RequestError where the run shows another tensor than its first run did."""
        expected = self.names[self.place] if self.place < len(self.names) else None
        if name != expected:
            raise RequestError(f"the forward pass shows {name!r} where its first run showed {expected!r}")
        return super().__call__(name, x)

    def take(self, pair: Pair, name: str, x: Float, tap: TracedTensor, y: Array) -> None:
        """Keep the difference."""
        self.differences.append(LocalDifference(name, pair.k, tap.name, tap.op, compare(np.asarray(x), y)))
