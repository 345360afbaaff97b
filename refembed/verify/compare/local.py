"""The first wrong tensor of an engine that shows its tensors: each operation of ours on the engine's own inputs.

Every operation runs in several arithmetics on what the engine had before it. How far these are from each other is the
operation's own noise floor, on these very inputs; an operation of the engine that is further than BOUND times that from
all of them computes something else. The first such, in the order of our forward pass, is the culprit.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import combinations
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from refembed.arrays import Float
from refembed.errors import RefembedError
from refembed.kernels.ops import Tap
from refembed.model.trace import Recorder, Trace, TracedTensor
from refembed.verify.compare.align import Alignment, Pair, align, without_empty_cells
from refembed.verify.compare.arrays import Array, Difference, Share, compare, worst_heads, worst_rows
from refembed.verify.compare.floor import SCREEN
from refembed.verify.compare.replay import HandBack
from refembed.verify.hypothesis import Hypothesis
from refembed.verify.reference import Reference

Show: TypeAlias = Callable[[str, Tap], object]  # a run of ours in some numerics, with a tap
NUMERICS = ("exact", "ggml, plain", "ggml")  # the first shows all tensors
BOUND = 3.0  # times the floor, in the root of NMSE: an engine may round in another place than all of ours
LEAST = 1e-5  # root of NMSE: float32 sums in any order stay below 3e-6
HEADS = re.compile(r"(kq|Qcur|kqv)\b|kq_|Qcur_")  # tensors with an axis of heads, where they have three axes
ELEMENTWISE = re.compile(
    r"ffn_(gelu|geglu|swiglu|silu|relu|act)"
)  # no sums: an arithmetic's own result, or another function


@dataclass
class Row:
    """One tensor: how far the engine's is from ours, in roots of NMSE."""

    name: str  # ours
    k: int  # the occurrence index of the of that name, from 0
    theirs: str  # the engine's name for it
    op: str  # the engine's operation, where it is known
    shape: tuple[int, ...]
    nonfinite: int  # how many of the engine's numbers are NaN or infinite where ours are not
    local: float  # on the engine's own inputs, in the nearest arithmetic
    bound: float
    propagated: float  # of the two runs as they are
    tight: float  # the bound for an engine that is in one of our arithmetics everywhere else
    difference: Difference | None = None  # local, in full: for those that are wrong
    worst_tokens: tuple[Share, ...] = ()  # likewise: where most of it lies
    worst_heads: tuple[Share, ...] = ()
    spread: float = 0.0  # how far our arithmetics are apart, on these inputs

    @property
    def wrong(self) -> bool:
        """Whether the operation computes something else."""
        return self.nonfinite > 0 or not self.local <= self.bound

    def __str__(self) -> str:
        return self.name + (f"[{self.k}]" if self.k else "")


@dataclass
class Comparison:
    """Two traces of one text."""

    rows: list[Row]
    ours_only: list[str] = field(default_factory=list)  # computed by the reference, not shown by the engine
    theirs_only: list[str] = field(default_factory=list)

    @property
    def first_wrong(self) -> Row | None:
        """The culprit, if an operation is beyond what any sound arithmetic does."""
        return next((row for row in self.rows if row.wrong), None)

    @property
    def first_odd(self) -> Row | None:
        """The culprit where something is known to be wrong: activations that are no arithmetic's of ours count too.

        The table of float16 that llama.cpp has for GELU is further from the formula than another formula is. So where
        most tensors are an arithmetic's of ours to the last digits, an activation that is none's is another function.
        """
        median = float(np.median([row.local for row in self.rows])) if self.rows else 1.0
        return next((row for row in self.rows if row.wrong or (median < LEAST and row.local > row.tight)), None)


class Replay(HandBack):
    """A tap that keeps what it is shown and returns the engine's tensor."""

    def __init__(self, theirs: Trace, pairs: Sequence[Pair]) -> None:
        super().__init__(theirs, pairs)
        self.kept: dict[int, tuple[Pair, Float]] = {}  # place in theirs -> (pair, ours)

    def take(self, pair: Pair, name: str, x: Float, tap: TracedTensor, y: Array) -> None:
        self.kept[pair.theirs] = pair, np.array(x)


@dataclass
class NumericsRun:
    """One arithmetic, compared with the engine."""

    ours: Trace
    alignment: Alignment
    kept: dict[int, tuple[Pair, Float]]


def run_numerics(show: Show, theirs: Trace, numerics: str) -> NumericsRun:
    """Our run as it is, and once more on the engine's tensors."""
    recorder = Recorder()
    show(numerics, recorder)
    alignment = last_with_last(align(recorder.trace, theirs), recorder.trace, theirs)
    tap = Replay(theirs, alignment.pairs)
    with np.errstate(all="ignore"):
        show(numerics, tap)
    return NumericsRun(recorder.trace, alignment, tap.kept)


def last_with_last(alignment: Alignment, ours: Trace, theirs: Trace) -> Alignment:
    """Where the engine shows a name less often, what it shows is the last: a product and its bias may be one step."""
    pairs = list(alignment.pairs)
    places: dict[str, list[int]] = {}
    for i, tap in enumerate(ours.tensors):
        places.setdefault(tap.name, []).append(i)
    by_name: dict[str, list[int]] = {}
    for n, pair in enumerate(pairs):
        if pair.by == "name":
            by_name.setdefault(pair.name, []).append(n)
    for name, found in by_name.items():
        fewer = len(places[name]) - len(found)
        shown = [ours.tensors[i].array.shape for i in places[name]]
        if fewer > 0 and len(set(shown)) == 1:
            for n in found:
                k = pairs[n].k + fewer
                pairs[n] = replace(pairs[n], k=k, ours=places[name][k])
    taken = {p.ours for p in pairs}
    left = tuple(i for i in alignment.ours_only if i not in taken)
    return Alignment(tuple(sorted(pairs, key=lambda p: p.ours)), left, alignment.theirs_only)


def compare_traces(
    reference: Reference,
    ids: list[int],
    theirs: Trace,
    several_numerics: Sequence[str] = NUMERICS,
    others: Sequence[Show] = (),
) -> Comparison:
    """Every tensor that both have, in the order of our forward pass.

    reference  the model
    ids        of the text; the engine's trace is of the same
    others     runs in arithmetics of fewer bits, which are sound too; in SCREEN
    """
    return compare_runs(partial(reference.show, ids), reference.model.hparams.n_head, theirs, several_numerics, others)


def compare_runs(
    show: Show, n_head: int, theirs: Trace, several_numerics: Sequence[str] = NUMERICS, others: Sequence[Show] = ()
) -> Comparison:
    """The same of any run of ours: `show` does it in some numerics, with a tap."""
    found = [run_numerics(show, theirs, w) for w in several_numerics]
    found += [run_numerics(other, theirs, SCREEN) for other in others]
    first = found[0]
    cut = without_empty_cells(theirs)
    rows = []
    for j, (pair, _) in first.kept.items():
        arrays = [w.kept[j][1] for w in found if j in w.kept and w.kept[j][1].shape == first.kept[j][1].shape]
        mine = [w.ours.tensors[w.kept[j][0].ours].array for w in found if j in w.kept]
        rows.append(row_of(pair, theirs.tensors[j], cut.tensors[j], arrays, mine, n_head))
    names = [t.name for t in first.ours.tensors]
    return Comparison(
        rows,
        [names[i] for i in first.alignment.ours_only],
        [theirs.tensors[i].name for i in first.alignment.theirs_only],
    )


def row_of(
    pair: Pair, tap: TracedTensor, cut: TracedTensor, arrays: list[Float], mine: list[npt.NDArray[Any]], n_head: int
) -> Row:
    """One tensor in every arithmetic, compared with the engine's."""
    x = arrays[0]
    y = (tap if tap.array.size == x.size else cut).array.reshape(x.shape)
    bad = int((~np.isfinite(y) & np.isfinite(x)).sum())
    floor = max((error(a, b) for a, b in combinations(arrays, 2)), default=0.0)
    bound = max(BOUND * floor, LEAST)
    local = min(error(a, y) for a in arrays)
    propagated = min(error(m.reshape(x.shape), y) for m in mine)
    tight = 10 * LEAST if ELEMENTWISE.match(pair.name) else bound
    row = Row(
        pair.name, pair.k, tap.name, tap.op, x.shape, bad, local, bound, propagated, min(tight, bound), spread=floor
    )
    if row.wrong:
        wide = np.asarray(x, np.float64)
        row.difference = compare(wide, y)
        row.worst_tokens = worst_rows(wide, y) if x.ndim == 2 else ()
        row.worst_heads = worst_heads(wide, y, n_head) if HEADS.match(row.name) and n_head in x.shape else ()
    return row


def error(x: npt.NDArray[Any], y: npt.NDArray[Any]) -> float:
    """sqrt(sum (x - y)^2 / sum x^2) over what is finite on both sides: the root of NMSE."""
    a, b = np.asarray(x, np.float64).ravel(), np.asarray(y, np.float64).ravel()
    with np.errstate(invalid="ignore"):
        gap = a - b
    if not np.isfinite(gap @ gap):
        fine = np.isfinite(a) & np.isfinite(b)
        a, gap = a[fine], gap[fine]
    size, off = float(a @ a), float(gap @ gap)
    return 0.0 if off == 0 else float(np.sqrt(off / size)) if size else np.inf


def explained_by(
    reference: Reference, ids: list[int], theirs: Trace, rows: Sequence[Row], hypotheses: Sequence[Hypothesis]
) -> list[Hypothesis]:
    """Hypotheses under which no operation is wrong any more, in float64 and on the engine's own inputs."""
    bounds = {(r.name, r.k): r.bound for r in rows}
    found = []
    for h in hypotheses:
        try:
            changed = h.change(reference)
            numerics = run_numerics(partial(changed.show, changed.ids_of(ids)), theirs, "exact")
        except (RefembedError, ValueError, IndexError, TypeError, AttributeError):
            continue
        errors = {
            (pair.name, pair.k): error(x, theirs.tensors[j].array.reshape(x.shape))
            for j, (pair, x) in numerics.kept.items()
            if theirs.tensors[j].array.size == x.size
        }
        if len(errors) >= len(rows) and all(e <= bounds.get(key, LEAST) for key, e in errors.items()):
            found.append(h)
    return found
